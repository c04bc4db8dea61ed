"""Running a study from start to end in this process: what is current is left alone, a failed group does not stop the
others.

Belongs here: the order of a study's runs and their report. Does not belong here: what is out of date (`planner`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import dagster as dg

from subliminal_dagster.assets import Frame
from subliminal_dagster.build import study_assets
from subliminal_dagster.planner import plan_partition
from subliminal_dagster.science.store import ArtifactStore
from subliminal_dagster.science.study import Study

Say = Callable[[str], None]

# Progress of long steps and errors; every event is in the instance's log besides.
_CONSOLE = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}


@dataclass
class Outcome:
    """What became of a study's runs: parts made, parts left alone, and for every failed step its sentence."""

    made: int = 0
    current: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def run_study(
    study: Study, definitions: dg.Definitions, store: ArtifactStore, instance: dg.DagsterInstance, say: Say
) -> Outcome:
    """Materialize what is missing or out of date of one study, one Dagster run a partition."""
    assets = study_assets(Frame(study))
    stages = {asset.key: asset.group_names_by_key[asset.key] for asset in assets}
    outcome = Outcome()
    steps: list[tuple[str, list[dg.AssetsDefinition], str | None]] = [
        ("base", [a for a in assets if stages[a.key] == "base"], None),
        *(
            (group, [a for a in assets if stages[a.key] not in ("base", "results")], group)
            for group in reversed(study.groups)
        ),
        ("comparison", [a for a in assets if stages[a.key] == "results"], None),
    ]
    for label, chosen, partition in steps:
        _run_step(label, chosen, partition, study, definitions, store, instance, say, outcome)
        if label == "base" and outcome.failures:
            break
    return outcome


def _run_step(
    label: str,
    assets: list[dg.AssetsDefinition],
    partition: str | None,
    study: Study,
    definitions: dg.Definitions,
    store: ArtifactStore,
    instance: dg.DagsterInstance,
    say: Say,
    outcome: Outcome,
) -> None:
    parts = plan_partition(assets, store, study, partition)
    todo = [part for part in parts if part.reason]
    outcome.current += len(parts) - len(todo)
    if not todo:
        say(f"{label}: everything is current")
        return
    say(f"{label}: making " + ", ".join(f"{part.asset} ({part.reason})" for part in todo))
    started = time.perf_counter()
    selection = [dg.AssetKey([study.name, part.asset]) for part in todo]
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(selection))
    result = job.execute_in_process(
        instance=instance, partition_key=partition, raise_on_error=False, run_config=_CONSOLE
    )
    materialized = result.get_asset_materialization_events()
    outcome.made += len(materialized)
    for event in result.get_step_failure_events():
        error = event.step_failure_data.error
        failure = event.step_failure_data.user_failure_data
        sentence = failure.description if failure and failure.description else error.message if error else "failed"
        outcome.failures[f"{event.step_key} [{partition or '-'}]"] = sentence.strip()
        say(f"{label}: FAILED {event.step_key}: {sentence.strip()}")
    say(f"{label}: {len(materialized)} made in {time.perf_counter() - started:.0f} s")
