"""Dagster runs of this project that are in progress, and the end of those whose process is gone.

A run started by `subliminal-dagster run` has no daemon that watches over it: after a SIGKILL it would count as running
for good and keep its place in the GPU pool. Such a run carries the host and process it runs in.

Belongs here: what other runs are making at the moment. Does not belong here: what should be made (`planner`).
"""

from __future__ import annotations

import os
import socket

import dagster as dg
import psutil

from subliminal_dagster.assets.shared import Frame
from subliminal_dagster.jobs import study_job_names
from subliminal_dagster.recipe import Input

PROCESS_TAG = "subliminal/process"
IN_PROGRESS = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def this_process() -> str:
    """The host, number and start of this process: a number alone is given again after a while."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process on this host is gone as failed, and free their places in the GPU pool.

    Returns their ids.
    """
    buried = []
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS)):
        process = run.tags.get(PROCESS_TAG)
        if process is not None and _is_gone(process):
            instance.report_run_failed(run, f"Its process ({process}) was killed.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            buried.append(run.run_id)
    return buried


def being_made(instance: dg.DagsterInstance, frame: Frame) -> dict[Input, str]:
    """The parts of a study that runs in progress are to make, each with its run's id."""
    found: dict[Input, str] = {}
    study = frame.study.name
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS)):
        partition = run.tags.get("dagster/partition")
        names = {key.path[-1] for key in run.asset_selection or () if key.path[0] == study}
        if run.asset_selection is None and run.job_name in study_job_names(study):
            names = {name for name, node in frame.nodes.items() if node.partitioned == (partition is not None)}
        found |= {(name, partition): run.run_id for name in names}
    return found


def _is_gone(process: str) -> bool:
    host, number, started = process.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(number)).create_time():.0f}" != started
    except psutil.NoSuchProcess:
        return True
