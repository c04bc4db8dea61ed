"""The project's code location with all steps of a run in the run's own process, for tests that are not about processes:
a process a step imports torch and transformers anew each time, which takes longer than a tiny model's step.

Belongs here: that one difference. Does not belong here: anything else than what users load.
"""

import dagster as dg

from subliminal_dagster.build import build_defs

defs = build_defs(executor=dg.in_process_executor)
