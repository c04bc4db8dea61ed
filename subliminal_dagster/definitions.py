"""The code location Dagster loads; everything is decided in `build`."""

from subliminal_dagster.build import build_defs

defs = build_defs()
