"""The code location Dagster loads; everything is decided in `build`."""

from subliminal_dagster.build import build_defs
from subliminal_dagster.execution.quiet import quiet_libraries

quiet_libraries()
defs = build_defs()
