"""Carrying out a plan: level by level, with a new plan after each.

Belongs here: launching the plan's runs, and their report. Does not belong here: what is due (`planner`), how it is
printed (`cli`), processes (`workers`).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby

import dagster as dg
from dagster._utils.error import SerializableErrorInfo

from subliminal_dagster.execution.live_runs import PROCESS_TAG, being_made, bury_dead_runs, process_name
from subliminal_dagster.execution.work import MADE_MEANWHILE
from subliminal_dagster.execution.workers import Carried, Workers
from subliminal_dagster.planning.frame import PLANNED_TAG, Frame, shown
from subliminal_dagster.planning.planner import DueRun, Plan, make_plan
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.storage.records import Manifest
from subliminal_dagster.science.storage.store import ArtifactStore

Say = Callable[[str], None]

_SHOWN_NEEDS = 3
LOOKS = 30
"""How often a part is looked for that a run elsewhere should make and that nobody has claimed."""

_LOOK_AGAIN_SECONDS = 1.0
# Progress of long steps and errors; every event is in the instance's log besides.
CONSOLE = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}


@dataclass
class Outcome:
    """What became of a plan.

    `made` parts in the order they were made, the number of `fresh` ones in the end, `failed` parts with their error's
    sentence, `blocked` ones with the gate's, and `waiting` ones that could not be made for want of another.
    """

    made: list[Input] = field(default_factory=list)
    fresh: int = 0
    failed: dict[Input, str] = field(default_factory=dict)
    blocked: dict[Input, str] = field(default_factory=dict)
    waiting: dict[Input, str] = field(default_factory=dict)
    runs: int = 0
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        return not (self.failed or self.blocked or self.waiting)


def run_study(
    frame: Frame,
    definitions: dg.Definitions,
    store: ArtifactStore,
    instance: dg.DagsterInstance,
    say: Say,
    wanted: Collection[Input] | None = None,
    workers: Workers | None = None,
) -> Outcome:
    """Make what is due of a study, or what is due for the `wanted` parts.

    With `workers` runs go on side by side, in processes of their own where there are several or a GPU (see
    `Workers.needed_for`). Those have their definitions and instance from the environment; `definitions` and `instance`
    are then those of the same environment. Without, everything is made in this process.

    A level is every run that can start at once. After it the plan is made anew, so a part whose inputs came out the
    same as before is left alone. What fails is not tried again, and everything that does not need it goes on.
    """
    started = time.perf_counter()
    outcome = Outcome()
    _bury_dead_runs(instance, say)
    plan = _plan(frame, store, wanted)
    show_recorded(plan, store, instance, frame)
    level, looks, told = 0, 0, False
    found_made: set[Input] = set()
    with workers or nullcontext() as apart:
        while True:
            claimed = store.claims(frame.study.name)
            elsewhere = {place: f"{holder.shown} is making it" for place, holder in claimed.items()}
            elsewhere |= being_made(instance, frame.study.name, frame.nodes)
            # A part made once is not made again: were it still due, something else is wrong, and it would never end.
            runs = plan.next_runs({*outcome.made, *found_made, *elsewhere}, outcome.failed)
            if not runs:
                held = [part for part in plan.due if part.place in elsewhere]
                # Between two parts of a run elsewhere there is a while in which it claims none.
                looks = 0 if any(part.place in claimed for part in held) else looks + 1
                if not held or looks > LOOKS:
                    break
                if not told:
                    say(f"waiting for {held[0].name}: {elsewhere[held[0].place]}")
                told = True
                time.sleep(_LOOK_AGAIN_SECONDS)
                _bury_dead_runs(instance, say)
                plan = _plan(frame, store, wanted)
                continue
            looks, told = 0, False
            level += 1
            say(f"level {level}: {_summary(runs)}")
            labels = {run.partition: f"level {level}, run {n}/{len(runs)}" for n, run in enumerate(runs, start=1)}
            if apart is not None and apart.needed_for(runs):
                for run in runs:
                    _announce(run, labels[run.partition], say)
                for run, carried in apart.carry_out(runs):
                    _record(run, labels[run.partition], carried, say, outcome)
                    found_made |= {(name, run.partition) for name in carried.found}
                # One whose worker was killed.
                _bury_dead_runs(instance, say)
            else:
                for run in runs:
                    _announce(run, labels[run.partition], say)
                    carried = execute(run, definitions, instance)
                    _record(run, labels[run.partition], carried, say, outcome)
                    found_made |= {(name, run.partition) for name in carried.found}
            plan = _plan(frame, store, wanted)
    outcome.fresh = len(plan.of("fresh"))
    outcome.blocked = {part.place: part.reasons[0] for part in plan.of("blocked")}
    due = {part.place for part in plan.due}
    outcome.failed = {place: why for place, why in outcome.failed.items() if place in due}
    for part in plan.due:
        if part.place in elsewhere:
            outcome.waiting[part.place] = elsewhere[part.place]
        elif part.place not in outcome.failed:
            needs = ", ".join(shown(*place) for place in part.waits_for[:_SHOWN_NEEDS])
            needs += f" and {len(part.waits_for) - _SHOWN_NEEDS} more" if len(part.waits_for) > _SHOWN_NEEDS else ""
            outcome.waiting[part.place] = f"it needs {needs}" if needs else part.reasons[0]
    outcome.seconds = time.perf_counter() - started
    return outcome


def _bury_dead_runs(instance: dg.DagsterInstance, say: Say) -> None:
    for run_id in bury_dead_runs(instance):
        say(f"run {run_id[:8]} was killed before its end; it now counts as failed")


def _plan(frame: Frame, store: ArtifactStore, wanted: Collection[Input] | None) -> Plan:
    plan = make_plan(frame, store)
    return plan if wanted is None else plan.limited_to(wanted, frame)


def show_recorded(plan: Plan, store: ArtifactStore, instance: dg.DagsterInstance, frame: Frame) -> int:
    """Tell Dagster of fresh artifacts it has no record of, so that the UI shows what there is.

    A kill between writing an artifact and recording it, a shared store or a new DAGSTER_HOME leave such. Returns how
    many there were.
    """
    told = 0
    fresh = plan.of("fresh")
    for name in dict.fromkeys(part.asset for part in fresh):
        known: set[str | None] = {*instance.get_materialized_partitions(frame.key(name))}
        if instance.get_latest_materialization_event(frame.key(name)):
            known.add(None)
        unknown = [part for part in fresh if part.asset == name and part.partition not in known]
        pointers = {dep: _latest_event(instance, frame.key(dep)) for dep in frame.nodes[name].deps} if unknown else {}
        for part in unknown:
            manifest = store.manifest(plan.study, name, part.partition)
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    frame.key(name),
                    partition=part.partition,
                    description="Found in the artifact store.",
                    metadata={
                        "content_hash": manifest.content_hash,
                        "wall_seconds": manifest.info["wall_seconds"],
                        "made": manifest.created.isoformat(timespec="seconds"),
                    },
                    tags=_version_tags(frame, name, manifest, pointers),
                )
            )
        told += len(unknown)
    return told


def _latest_event(instance: dg.DagsterInstance, key: dg.AssetKey) -> str:
    records = instance.fetch_materializations(key, limit=1).records
    return str(records[0].storage_id) if records else "NULL"


def _version_tags(frame: Frame, name: str, manifest: Manifest, pointers: dict[str, str]) -> dict[str, str]:
    """An artifact's versions and those of its inputs in the tags that Dagster itself writes, and tells staleness by.

    The input version of a partitioned asset is its partitions' versions, in the order of their names, hashed together.
    """
    tags = {
        "dagster/data_version": manifest.content_hash,
        "dagster/data_version_is_user_provided": "true",
        "dagster/code_version": frame.nodes[name].recipe.version,
    }
    upstream: dict[str, str] = manifest.info["upstream"]
    for dep, pointer in pointers.items():
        found = [upstream[text] for text in sorted(upstream) if text.partition("/")[0] == dep]
        # What takes what there is may have been made without this one.
        if not found:
            continue
        combined = hashlib.sha256("".join(found).encode()).hexdigest() if frame.nodes[dep].by else found[0]
        key = frame.key(dep).to_user_string()
        tags |= {f"dagster/input_data_version/{key}": combined, f"dagster/input_event_pointer/{key}": pointer}
    return tags


def _summary(runs: list[DueRun]) -> str:
    parts = [part for run in runs for part in run.parts]
    known = [part.seconds for part in parts if part.seconds is not None]
    about = f", about {duration(sum(known))} by earlier runs" if len(known) == len(parts) else ""
    runs_word = "run" if len(runs) == 1 else "runs"
    return f"{len(parts)} to make in {len(runs)} {runs_word}{about}"


def duration(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _announce(run: DueRun, label: str, say: Say) -> None:
    say(f"{label} [{run.partition or '-'}]:")
    for reasons, parts in groupby(run.parts, key=lambda part: part.reasons):
        say(f"    {', '.join(part.asset for part in parts)}: {'; '.join(reasons)}")


def execute(run: DueRun, definitions: dg.Definitions, instance: dg.DagsterInstance) -> Carried:
    """Carry out a run in this process."""
    started = time.perf_counter()
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={dg.AssetKey([run.study, part.asset]) for part in run.parts}
    )
    result = job.execute_in_process(
        instance=instance,
        partition_key=run.partition,
        raise_on_error=False,
        run_config=CONSOLE,
        tags={PROCESS_TAG: process_name(os.getpid()), PLANNED_TAG: "yes"},
    )
    errors = {step.rpartition("__")[2]: sentence for step, sentence in failures(result)}
    events = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    # What a gate refused is there to be looked at, and counts as refused.
    made = [event.asset_key.path[-1] for event in events if event.asset_key.path[-1] not in errors]
    found = [event.asset_key.path[-1] for event in events if MADE_MEANWHILE in event.metadata]
    return Carried([name for name in made if name not in found], errors, time.perf_counter() - started, found)


def failures(result: dg.ExecuteInProcessResult) -> list[tuple[str, str]]:
    """The steps that failed, each with what went wrong: a sentence of this project's own where there is one, else the
    root cause and the run whose log has the whole of it."""
    found = []
    refused = {check.asset_key: check.description for check in result.get_asset_check_evaluations() if not check.passed}
    for event in result.get_step_failure_events():
        step, data = str(event.step_key), event.step_failure_data
        own = data.user_failure_data.description if data.user_failure_data else None
        own = own or next((text for key, text in refused.items() if key.to_python_identifier() == step), None)
        whole = f"the whole of it is in the log of run {result.run_id}"
        found.append((step, own.strip() if own else f"{_root_cause(data.error)} ({whole})"))
    return found


def _root_cause(error: SerializableErrorInfo | None) -> str:
    """The first line of what lies at the bottom of an error, with its kind: at its top Dagster may say no more than
    that there are no retries left."""
    if error is None:
        return "it failed without an error"
    while error.cause is not None:
        error = error.cause
    lines = [line.strip() for line in error.message.splitlines() if line.strip()]
    return lines[0].removeprefix("builtins.") if lines else str(error.cls_name)


def _record(run: DueRun, label: str, carried: Carried, say: Say, outcome: Outcome) -> None:
    outcome.runs += 1
    outcome.made += [(asset, run.partition) for asset in carried.made]
    for part in run.parts:
        if part.asset in carried.errors:
            outcome.failed[part.place] = carried.errors[part.asset]
            say(f"{label}: FAILED {part.name}: {carried.errors[part.asset]}")
    say(f"{label} [{run.partition or '-'}]: {len(carried.made)} made in {duration(carried.seconds)}")
