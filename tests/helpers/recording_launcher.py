"""Dagster's own run launcher, which also writes down what it is asked for.

Belongs here: that one class, named in an instance's settings. Does not belong here: tests.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from dagster._core.launcher import DefaultRunLauncher
from dagster._core.launcher.base import LaunchRunContext


class RecordingLauncher(DefaultRunLauncher):
    """Writes `launched.jsonl` in the instance's folder: the id, the tags and the time of every run."""

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        line = json.dumps({"run": run.run_id, "tags": dict(run.tags), "time": time.time()})
        with Path(self._instance.root_directory, "launched.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        super().launch_run(context)
