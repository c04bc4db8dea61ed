"""Subliminal learning as a Dagster project.

The orchestration lives here (definitions, assets, resources, partitions); the science lives in
`subliminal_dagster.science` and never imports Dagster, so that a notebook can use it by itself.
"""

import os

# Here too, since DAGSTER_HOME/dagster.yaml, which says so, counts only where it is.
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")
