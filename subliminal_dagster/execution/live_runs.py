"""Dagster runs of this project that are in progress, and the end of those whose process is gone.

After a SIGKILL or a power cut nobody tells Dagster that a run is over: it would count as running for good, and keep its
place in the GPU pool. So a run carries the host and process it runs in.

Belongs here: what other runs are making at the moment. Does not belong here: what should be made (`planner`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import dagster as dg

from subliminal_dagster.partitions import study_job_names
from subliminal_dagster.planning.recipe import Input, Node
from subliminal_dagster.science.processes import start_of, this_boot

PROCESS_TAG = ".dagster/subliminal_process"
"""The tag of a run that says which process it is in (see `signature`); the UI shows no tag of such a name."""

CARRIER_TAG = "subliminal/carrier"
"""The tag that says what carries a run out: `HERE`, "dagster", or a job elsewhere, such as "slurm 4711"."""

HERE = "local"
IN_PROGRESS = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def process_name(number: int) -> str:
    """A process by machine, number and start."""
    return f"{this_boot()} {number} {start_of(number)}"


def signature(run_id: str, number: int | None = None) -> str:
    """What a run carries that is in the process `number`, this one unless given. It names the run as well: one that a
    person launches again has all tags of the first."""
    return f"{run_id} {process_name(os.getpid() if number is None else number)}"


def process_of(run: dg.DagsterRun) -> str | None:
    """The process that a run says it is in; None where it says none."""
    run_id, _, process = run.tags.get(PROCESS_TAG, "").partition(" ")
    return process if run_id == run.run_id else None


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process on this host is gone as failed, and free their places in the GPU pool.

    Returns their ids.
    """
    buried = []
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS)):
        if is_left(run):
            # In this order: a kill between the two, the other way round, would leave the places taken for good.
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            instance.report_run_failed(run, f"Its process ({process_of(run)}) was killed.")
            buried.append(run.run_id)
    return buried


def is_left(run: dg.DagsterRun) -> bool:
    """Whether a run's process was one of this host and is gone."""
    process = process_of(run)
    if process is None:
        return False
    *machine, number, start = process.rsplit(" ", 2)
    return machine == [this_boot()] and start_of(int(number)) != start


def being_made(instance: dg.DagsterInstance, study: str, assets: Mapping[str, Node]) -> dict[Input, str]:
    """The parts of a study that runs in progress are to make, each with a phrase that names the run; without those of
    this process, which knows better than Dagster what it has at work, and without those whose step is all of the run:
    that claims its part in the store, and a claim ends with its process wherever that was."""
    found: dict[Input, str] = {}
    this_process = process_name(os.getpid())
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS)):
        process = process_of(run)
        if process == this_process or (process is not None and run.tags.get(CARRIER_TAG) == HERE):
            continue
        partition = run.tags.get("dagster/partition")
        names = {key.path[-1] for key in run.asset_selection or () if key.path[0] == study}
        if run.asset_selection is None and run.job_name in study_job_names(study):
            names = {name for name, node in assets.items() if partition in node.partitions}
        found |= {(name, partition): f"run {run.run_id[:8]} is making it" for name in names}
    return found


def last_words(instance: dg.DagsterInstance, study: str, assets: Iterable[str]) -> dict[Input, str]:
    """What the parts of a study that are being made have last logged themselves, as far as this instance hears of it:
    a run on another machine may keep its log to itself until its end."""
    steps = {dg.AssetKey([study, name]).to_python_identifier(): name for name in assets}
    found: dict[Input, str] = {}
    # A run that has started has its log's database; to look for one that is still being made would disturb that.
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        for record in instance.get_records_for_run(run.run_id, limit=1, ascending=False).records:
            entry = record.event_log_entry
            # Whatever is not an event of Dagster's own was logged by the step.
            if entry.dagster_event is None and entry.step_key in steps:
                found[steps[entry.step_key], run.tags.get("dagster/partition")] = entry.user_message
    return found
