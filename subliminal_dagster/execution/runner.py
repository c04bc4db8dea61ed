"""Carrying out a plan: a part starts as soon as all that it needs is made, and after each the plan is made anew.

Belongs here: launching runs, and their report. Does not belong here: what is due (`planner`), what goes first
(`priority`), how it is shown (`listening`, `cli`), processes (`carriers`).
"""

from __future__ import annotations

import hashlib
import signal
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.execution.api import execute_run
from dagster._utils.error import SerializableErrorInfo

from subliminal_dagster.execution.carriers.protocol import Carried, Carrier
from subliminal_dagster.execution.freshness import show_fresh
from subliminal_dagster.execution.listening import Listener, duration
from subliminal_dagster.execution.live_runs import HERE, being_made, bury_dead_runs
from subliminal_dagster.execution.results import verdict_lines
from subliminal_dagster.execution.shown_runs import job_of, open_run
from subliminal_dagster.execution.work import MADE_MEANWHILE, Interrupted
from subliminal_dagster.planning.frame import GATE_CHECK, Frame, label, shown
from subliminal_dagster.planning.planner import DueRun, Part, Plan, make_plan
from subliminal_dagster.planning.priority import VERDICT, ranks
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.storage.records import Manifest
from subliminal_dagster.science.storage.store import ArtifactStore

_SHOWN_NEEDS = 3
LOOKS = 30
"""How often a part is looked for that a run elsewhere should make and that nobody has claimed."""

_LOOK_AGAIN_SECONDS = 1.0
_QUICK_LOOK_SECONDS = 0.5
_LOOKING_SHARE = 0.1
"""Looks that are not quick take no more of the time than this, quick ones half of it, while they are not needed to know
what can start: with a thousand parts one takes seconds, in which nothing is started."""
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

    def as_json(self) -> dict[str, Any]:
        """A JSON-able record of it, parts by their names such as child_lora/owl|1."""
        why = {"failed": self.failed, "blocked": self.blocked, "waiting": self.waiting}
        return {
            "complete": self.complete,
            "made": [label(*place) for place in self.made],
            "fresh": self.fresh,
            **{word: {label(*place): sentence for place, sentence in each.items()} for word, each in why.items()},
            "runs": self.runs,
            "seconds": self.seconds,
        }


def run_study(
    frame: Frame,
    definitions: dg.Definitions,
    store: ArtifactStore,
    instance: dg.DagsterInstance,
    listener: Listener,
    wanted: Collection[Input] | None = None,
    carrier: Carrier | None = None,
) -> Outcome:
    """Make what is due of a study, or what is due for the `wanted` parts.

    With a `carrier` runs go on side by side, where it says that they are for it (`Carrier.needed_for`): in processes
    of their own, or on other machines. Those have their definitions from the environment; `definitions` and `instance`
    are then those of the same environment. Without, everything is made in this process.

    A part starts as soon as all that it needs is made and a process is free (`priority` says which first). After each
    the plan is made anew, so a part whose inputs came out the same as before is left alone. What fails is not tried
    again, and everything that does not need it goes on. The `listener` is told of all that, and of what the study found
    as soon as it is known.
    """
    started = time.perf_counter()
    with carrier or nullcontext() as carrying:
        queue = _Queue(frame, store, instance, listener, wanted, carrying)
        show_recorded(queue.plan, store, instance, frame)
        if queue.plan.due:
            listener.say(f"{frame.study.name}: {_summary(queue.plan.due)}")
        if carrying is not None and carrying.needed_for(at_once(queue.plan.due)):
            ended = carrying.carry_out(queue.next_run)
        else:
            ended = ((run, execute(run, definitions, instance)) for run in iter(queue.next_run, None))
        for run, carried in ended:
            queue.take_back(run, carried)
        outcome = queue.outcome_in_the_end()
        # What another command's runs made, which has ended since.
        show_recorded(queue.plan, store, instance, frame)
        show_fresh(queue.whole_plan, instance, frame, {asset for asset, _ in outcome.made})
    outcome.seconds = time.perf_counter() - started
    return outcome


def at_once(due: Sequence[Part]) -> int:
    """How many of the due parts, upstream first, may go on side by side at least: one only where each waits for the one
    before it."""
    depth: dict[Input, int] = {}
    for part in due:
        depth[part.place] = 1 + max((depth.get(place, 0) for place in part.waits_for), default=0)
    return max(Counter(depth.values()).values(), default=0)


class _Queue:
    """What can start now, by a plan that is made anew as runs end, and what became of the runs so far.

    What has to be made whatever its inputs become can start as soon as the last of them is made, and no plan is needed
    to know it. Another part needs one: what may stay as it is, what goes on without something that failed, what another
    process is making. Where a plan takes long it is made at intervals as long as there is something to start.

    `ready` is a heap of the parts that can start, each behind its turn; `at_work` are those in the making; `elsewhere`
    those that another process makes, with a phrase that says which.
    """

    def __init__(
        self,
        frame: Frame,
        store: ArtifactStore,
        instance: dg.DagsterInstance,
        listener: Listener,
        wanted: Collection[Input] | None,
        carrier: Carrier | None,
    ) -> None:
        self.frame, self.store, self.instance, self.listener, self.wanted = frame, store, instance, listener, wanted
        self.carrier = carrier
        self.outcome = Outcome()
        self.at_work: set[Input] = set()
        # A part made once is not rebuilt: were it still due, something else is wrong, and it would never end.
        self._made: set[Input] = set()
        self._interrupted: set[Input] = set()
        # Whether something ended since the plan, and whether only a plan can tell what can start by that.
        self._outdated = self._undecided = False
        self._look()

    def next_run(self) -> DueRun | None:
        """The part to start now, as a run of its own; None where nothing can start before something ends.

        Where nothing is at work and all that is due is made elsewhere, it waits for that.
        """
        looks, told = 0, False
        while True:
            if self._outdated and self._should_look():
                self._look()
            part = self._first()
            if part is not None:
                return self._begin(part)
            held = self._held
            self._outdated = self._outdated or bool(held)
            # Between two parts of a run elsewhere there is a while in which it claims none.
            known = self._claimed.keys() | self._queued.keys()
            looks = 0 if any(part.place in known for part in held) else looks + 1
            if self.at_work or not held or looks > LOOKS:
                return None
            if not told:
                self.listener.say(f"waiting for {held[0].name}: {self.elsewhere[held[0].place]}")
            told = True
            time.sleep(_LOOK_AGAIN_SECONDS)

    def take_back(self, run: DueRun, carried: Carried) -> None:
        """Note what became of a run that has ended."""
        self._outdated = True
        self.at_work -= {part.place for part in run.parts}
        if carried.begin_again:
            self._interrupted |= {part.place for part in run.parts}
            self._undecided = True
            for part in run.parts:
                self.listener.lost(part)
            return
        self.outcome.runs += 1
        self.outcome.made += [(asset, run.partition) for asset in carried.made]
        for asset in (*carried.made, *carried.found):
            self._settle((asset, run.partition))
        for part in run.parts:
            if part.asset in carried.errors:
                self.outcome.failed[part.place] = carried.errors[part.asset]
                self._undecided = True
                self.listener.failed(part, carried.errors[part.asset])
            else:
                self.listener.ended(part, carried.seconds, part.asset in carried.found)
        if VERDICT in carried.made:
            for line in verdict_lines(self.store, self.frame.study):
                self.listener.say(line)

    def outcome_in_the_end(self) -> Outcome:
        """What became of everything, once nothing more can start."""
        self._look()
        outcome, plan = self.outcome, self.plan
        outcome.fresh = len(plan.of("fresh"))
        outcome.blocked = {part.place: part.reasons[0] for part in plan.of("blocked")}
        due = {part.place for part in plan.due}
        outcome.failed = {place: why for place, why in outcome.failed.items() if place in due}
        for part in plan.due:
            if part.place in self.elsewhere:
                outcome.waiting[part.place] = self.elsewhere[part.place]
            elif part.place not in outcome.failed:
                needs = ", ".join(shown(*place) for place in part.waits_for[:_SHOWN_NEEDS])
                more = len(part.waits_for) - _SHOWN_NEEDS
                needs += f" and {more} more" if more > 0 else ""
                outcome.waiting[part.place] = f"it needs {needs}" if needs else part.reasons[0]
        return outcome

    def _look(self) -> None:
        """Make the plan anew, and see what other processes are at."""
        began = time.monotonic()
        for run_id in bury_dead_runs(self.instance):
            self.listener.say(f"run {run_id[:8]} was killed before its end; it now counts as failed")
        study = self.frame.study.name
        # What others are at before what is made: the other way round, a part they end in between would look due.
        self._claimed = self.store.claims(study)
        elsewhere = {place: f"{holder.shown} is making it" for place, holder in self._claimed.items()}
        elsewhere |= being_made(self.instance, study, self.frame.nodes)
        self._queued = self.carrier.elsewhere() if self.carrier else {}
        elsewhere |= self._queued
        self.elsewhere = {place: who for place, who in elsewhere.items() if place not in self.at_work}
        self.whole_plan = plan = make_plan(self.frame, self.store, self._claimed)
        self.plan = plan if self.wanted is None else plan.limited_to(self.wanted, self.frame)
        self._sort()
        self.listener.planned(self.plan.due)
        self._outdated = self._undecided = False
        self._looked = time.monotonic()
        self._looking = self._looked - began

    def _should_look(self) -> bool:
        since, quick = time.monotonic() - self._looked, self._looking < _QUICK_LOOK_SECONDS
        if since >= (self._looking if quick else self._looking / _LOOKING_SHARE) or not (self.at_work or self.ready):
            return True
        return (self._undecided and (quick or not self.ready)) or (bool(self._held) and quick)

    def _sort(self) -> None:
        """Note what can start now, by the plan, and what waits for what."""
        busy = {*self.elsewhere, *self.at_work}
        self._held = [part for part in self.plan.due if part.place in self.elsewhere]
        self._ranks = ranks(self.plan, self.frame)
        self.ready = [(self._turn(part), part) for part in self.plan.ready(busy, self.outcome.failed, self._made)]
        heapify(self.ready)
        self._awaited = {part.place: {*part.waits_for} for part in self.plan.due}
        self._followers: dict[Input, list[Part]] = defaultdict(list)
        for part in self.plan.due:
            for place in self._awaited[part.place]:
                self._followers[place].append(part)

    def _turn(self, part: Part) -> tuple[bool, bool, float, int]:
        """The lowest starts first; one whose process was killed comes after those that wait beside it."""
        for_later, way, place = self._ranks[part.place]
        return for_later, part.place in self._interrupted, way, place

    def _settle(self, place: Input) -> None:
        """Note that a part was made since the plan, which lets others start."""
        self._made.add(place)
        for part in self._followers.pop(place, []):
            awaited = self._awaited[part.place]
            awaited.discard(place)
            if awaited:
                # What failed is still among them, and it goes on without.
                self._undecided |= part.takes_what_there_is and bool(self.outcome.failed)
            elif not part.sure:
                self._undecided = True
            elif part.place not in self.elsewhere and part.place not in self._made:
                heappush(self.ready, (self._turn(part), part))

    def _first(self) -> Part | None:
        """The part that should start before all others that can."""
        return heappop(self.ready)[1] if self.ready else None

    def _begin(self, part: Part) -> DueRun:
        self.at_work.add(part.place)
        self.listener.begun(part)
        return DueRun(part.study, part.partition, (part,))


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
                        "dagster/uri": store.uri(plan.study, name, part.partition, manifest),
                        "wall_seconds": manifest.info["wall_seconds"],
                        "made": manifest.created.isoformat(timespec="seconds"),
                    },
                    tags=_version_tags(frame, name, manifest, pointers),
                )
            )
            if frame.nodes[name].gated:
                # It is fresh, so its gate let it pass.
                instance.report_runless_asset_event(
                    dg.AssetCheckEvaluation(
                        check_name=GATE_CHECK,
                        asset_key=frame.key(name),
                        passed=True,
                        metadata={"made": manifest.created.isoformat(timespec="seconds")},
                        description="Found in the artifact store.",
                        partition=part.partition,
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


def _summary(parts: list[Part]) -> str:
    known = [part.seconds for part in parts if part.seconds is not None]
    about = f"; about {duration(sum(known))} of work, judging by earlier runs" if len(known) == len(parts) else ""
    sure = sum(part.sure for part in parts)
    more = f", {len(parts) - sure} more if that comes out different" if sure < len(parts) else ""
    return f"{sure} to make{more}{about}"


def execute(
    run: DueRun, definitions: dg.Definitions, instance: dg.DagsterInstance, run_id: str | None = None
) -> Carried:
    """Carry out a run in this process; `run_id` None gives it a new one."""
    started = time.perf_counter()
    keys = [dg.AssetKey([run.study, part.asset]) for part in run.parts]
    events, run_id = execute_here(definitions, instance, keys, run.partition, run_id)
    return what_became_of(events, run_id, time.perf_counter() - started)


def execute_here(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    keys: Sequence[dg.AssetKey],
    partition: str | None = None,
    run_id: str | None = None,
) -> tuple[Sequence[DagsterEvent], str]:
    """The events and the id of a run that makes these assets in this process.

    It is what Dagster's `execute_in_process` does, which cannot say what code location a run belongs to. Raises
    KeyboardInterrupt where a signal ended a step.
    """
    job = job_of(definitions, keys).as_ephemeral_job(resource_defs={}, input_values={})
    run_id = run_id or str(uuid.uuid4())
    opened = open_run(instance, job, keys, run_id, partition, carried_by=HERE, run_config=CONSOLE)
    with _signals_as_they_were():
        events = execute_run(InMemoryJob(job), opened, instance).all_events
    failures = [event.step_failure_data for event in events if event.event_type is DagsterEventType.STEP_FAILURE]
    if any(failure.error is not None and failure.error.cls_name == Interrupted.__name__ for failure in failures):
        raise KeyboardInterrupt
    return events, run_id


@contextmanager
def _signals_as_they_were() -> Iterator[None]:
    """Within the block Dagster answers Ctrl-C and SIGTERM. After it Dagster would leave SIGTERM to do what Ctrl-C does:
    in a script's background job that is nothing, and only SIGKILL could end it."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None: what was not set from Python cannot be set from there.
        if here and before is not None:
            signal.signal(signal.SIGTERM, before)


def what_became_of(events: Sequence[DagsterEvent], run_id: str, seconds: float) -> Carried:
    """What the events of a run that has ended say was made, found and failed."""
    errors = {step.rpartition("__")[2]: sentence for step, sentence in failed_steps(events, run_id)}
    told = [event for event in events if event.event_type is DagsterEventType.ASSET_MATERIALIZATION]
    materialized = [event.step_materialization_data.materialization for event in told]
    # What a gate refused is there to be looked at, and counts as refused.
    made = [event.asset_key.path[-1] for event in materialized if event.asset_key.path[-1] not in errors]
    found = [event.asset_key.path[-1] for event in materialized if MADE_MEANWHILE in event.metadata]
    return Carried([name for name in made if name not in found], errors, seconds, found)


def failed_steps(events: Sequence[DagsterEvent], run_id: str) -> list[tuple[str, str]]:
    """The steps that failed, each with what went wrong: a sentence of this project's own where there is one, else the
    root cause and the run whose log has the whole of it."""
    found = []
    evaluated = [event for event in events if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION]
    checks = [event.asset_check_evaluation_data for event in evaluated]
    refused = {check.asset_key: check.description for check in checks if not check.passed}
    for event in events:
        if event.event_type is not DagsterEventType.STEP_FAILURE:
            continue
        step, data = str(event.step_key), event.step_failure_data
        own = data.user_failure_data.description if data.user_failure_data else None
        own = own or next((text for key, text in refused.items() if key.to_python_identifier() == step), None)
        whole = f"the whole of it is in the log of run {run_id}"
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
