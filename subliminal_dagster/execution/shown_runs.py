"""How Dagster's UI shows the runs that this project carries out by itself, without a launcher.

Such a run belongs to the code location, so that the UI lists it on the page of its job, in the overview and on its
assets' pages, and a person can launch it again. That takes the location's name and no server of it.

Belongs here: which job a run belongs to, and opening it under that. Does not belong here: carrying it out (`runner`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

from subliminal_dagster.execution.live_runs import CARRIER_TAG, PROCESS_TAG, signature
from subliminal_dagster.partitions import study_job_names
from subliminal_dagster.planning.frame import PLANNED_TAG

LOCATION = "subliminal_dagster"
"""The code location's name, as workspace.yaml has it."""

ASSET_TAG = "asset"
_ORIGIN = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), SINGLETON_REPOSITORY_NAME)


def job_of(definitions: dg.Definitions, keys: Collection[dg.AssetKey]) -> dg.JobDefinition:
    """The job of a study that holds all of these assets: that of their partition family; for what is made on request
    alone the one of all assets."""
    repository = definitions.get_repository_def()
    for name in study_job_names(next(iter(keys)).path[0]):
        if repository.has_job(name):
            job = repository.get_job(name)
            if {*keys} <= job.asset_layer.selected_asset_keys:
                return job
    return definitions.resolve_implicit_global_asset_job_def()


def open_run(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    keys: Collection[dg.AssetKey],
    run_id: str,
    partition: str | None = None,
    *,
    carried_by: str,
    run_config: Mapping[str, Any] | None = None,
) -> dg.DagsterRun:
    """Note a run of a job's assets `keys` for which this process answers; `carried_by`: see `CARRIER_TAG`."""
    selected = frozenset(keys)
    tags = {
        PROCESS_TAG: signature(run_id),
        PLANNED_TAG: "yes",
        CARRIER_TAG: carried_by,
        ASSET_TAG: ", ".join(key.path[-1] for key in keys),
    }
    if partition is not None:
        tags |= job.get_tags_for_partition_key(partition, selected_asset_keys=selected)
    return instance.create_run_for_job(
        job,
        run_id=run_id,
        run_config=run_config,
        tags=tags,
        asset_selection=selected,
        remote_job_origin=_ORIGIN.get_job_origin(job.name),
    )
