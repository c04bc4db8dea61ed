"""A thousand runs at once on many slots: what the command that sends them takes for each, and whether slots stand idle.

    python benchmarks/scale.py [--slots 32] [--seconds 10] [--ray]

The runs are those of the bundled study with so many replicates that it has 1,000 parts. They sleep and write a small
artifact with the records of a real one; everything else is real: the runner, the store, Dagster's instance in a folder,
and what a run on another machine tells it of itself. Slots are threads; with --ray tasks of Ray, which sleep too.

"busy" is the share of slots at work in the time in which as many runs could have been at work as there are slots, by
brute force from when every part began and ended. The sender's seconds are those of its one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from subliminal_dagster.build import build_defs, study_frame
from subliminal_dagster.execution import runner
from subliminal_dagster.execution.carriers.apart import Answer, Order, RunsApart, carry
from subliminal_dagster.execution.carriers.protocol import Carried, NextRun
from subliminal_dagster.execution.carriers.telling import ToldBeside
from subliminal_dagster.execution.listening import Sentences
from subliminal_dagster.execution.runner import execute, run_study
from subliminal_dagster.planning.frame import Frame, label
from subliminal_dagster.planning.planner import DueRun
from subliminal_dagster.planning.priority import VERDICT
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

SECONDS = "SUBLIMINAL_SCALE_SECONDS"
REPLICATES = "SUBLIMINAL_SCALE_REPLICATES"
TIMES = "SUBLIMINAL_SCALE_TIMES"
_RUN_ID = str(uuid.UUID(int=0, version=4))


def study_of(replicates: int) -> Study:
    """The bundled study without its insides: 33 parts, and 21 a replicate."""
    content = load_study("smollm2-135m-instruct").model_dump(mode="json")
    content |= {"layers": [], "replicates": replicates, "sae": None, "steering": None, "descriptions": None}
    return Study.model_validate(content)


def sleep_and_write(frame: Frame, store: ArtifactStore, place: Input, seconds: float, times: Path) -> None:
    """What a run does: an artifact of a few bytes with the records by which the planner finds it fresh, and a file in
    the folder `times` with its part, begin and end."""
    began = time.time()
    time.sleep(seconds)
    _write(frame, store, place)
    (times / f"{uuid.uuid4()}.json").write_text(json.dumps([place, began, time.time()]))


def _write(frame: Frame, store: ArtifactStore, place: Input) -> None:
    recipe, study = frame.nodes[place[0]].recipe, frame.study.name
    inputs = [i for i in frame.inputs(*place) if store.exists(study, *i)]
    info = {
        "code_version": recipe.version,
        "settings": recipe.settings,
        "code": recipe.code,
        "upstream": {label(*i): store.manifest(study, *i).content_hash for i in inputs},
        "wall_seconds": 1.0,
    }
    with store.write(study, *place, info) as draft:
        (draft.path / "rows.json").write_text(json.dumps(label(*place)))
        if place[0] == VERDICT:
            (draft.path / "verdicts.json").write_text(json.dumps({"hard": {"result": "inconclusive", "sentence": "-"}}))
            (draft.path / "left_out.json").write_text("{}")


@dataclass
class Sender:
    """How long the sender's thread took for what, in seconds."""

    took: dict[str, list[float]] = field(default_factory=dict)

    def timed(self, what: str, function: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self.took.setdefault(what, []).append(time.perf_counter() - began)

        return call


def events_of_a_run(study: str) -> tuple[str, ...]:
    """What Dagster says of a run of an asset ASSET in partition PARTITION."""

    @dg.asset(key=[study, "ASSET"], partitions_def=dg.StaticPartitionsDefinition(["PARTITION"]))
    def one() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"content_hash": "0" * 64}, data_version=dg.DataVersion("0" * 64))

    run = DueRun(study, "PARTITION", (_Asset("ASSET"),))  # type: ignore[arg-type]
    order = Order(None, run, _RUN_ID, lambda _: dg.Definitions([one]), execute, {})  # type: ignore[arg-type]
    return carry(order).events


@dataclass(frozen=True)
class _Asset:
    asset: str


@dataclass
class Slots:
    """A carrier whose runs sleep in threads, and of which Dagster is told as of runs on other machines."""

    frame: Frame
    store: ArtifactStore
    runs: RunsApart
    count: int
    seconds: float
    times: Path
    events: tuple[str, ...]
    sender: Sender

    def __post_init__(self) -> None:
        self.runs.sent = self.sender.timed("told sent", self.runs.sent)  # type: ignore[method-assign]
        self.runs.answered = self.sender.timed("told end", self.runs.answered)  # type: ignore[method-assign]
        self.told = ToldBeside(self.runs)

    def needed_for(self, count: int) -> bool:
        return True

    def elsewhere(self) -> dict[Input, str]:
        return {}

    def __enter__(self) -> Slots:
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.timed("the end", self.told.finish)()

    def carry_out(self, next_run: NextRun) -> Iterator[tuple[DueRun, Carried]]:
        ended: queue.Queue[tuple[Order, Answer]] = queue.Queue()
        at_work = 0
        while True:
            while at_work < self.count and (run := self.sender.timed("next run", next_run)()) is not None:
                order = self.sender.timed("order", self.runs.order)(run)
                threading.Thread(target=self._sleep, args=(order, ended), daemon=True).start()
                self.sender.timed("sent", self.told.sent)(order, "a thread")
                at_work += 1
            if not at_work:
                return
            try:
                order, answer = ended.get(timeout=1.0)
            except queue.Empty:
                continue
            at_work -= 1
            yield order.run, self.sender.timed("answered", self.told.answered)(order, answer)

    def _sleep(self, order: Order, ended: queue.Queue[tuple[Order, Answer]]) -> None:
        (part,) = order.run.parts
        sleep_and_write(self.frame, self.store, part.place, self.seconds, self.times)
        events = [event.replace(_RUN_ID, order.run_id).replace("ASSET", part.asset) for event in self.events]
        told = tuple(event.replace("PARTITION", part.partition or "none") for event in events)
        ended.put((order, Answer(Carried([part.asset], {}, self.seconds), told, "a thread")))


def busy(frame: Frame, times: Path, slots: int) -> tuple[float, float, float]:
    """The share of slots at work while there was enough for all of them, the seconds of that, and how many runs ended a
    second then."""
    known: dict[Input, tuple[float, float]] = {}
    for file in times.iterdir():
        (asset, partition), began, end = json.loads(file.read_text())
        known[asset, partition] = began, end
    moments: list[tuple[float, int, int]] = []
    for place, (began, end) in known.items():
        could = max((known[i][1] for i in frame.awaited(*place)), default=0.0)
        # From when it could begin it is work there is, from when it began to its end work that is done.
        moments += [(could, 1, 0), (began, 0, 1), (end, -1, -1)]
    moments.sort()
    there = done = 0
    enough = used = 0.0
    ended = 0
    for (now, more, begun), (then, _, _) in zip(moments, [*moments[1:], moments[-1]], strict=True):
        there, done = there + more, done + begun
        if there >= slots:
            enough += then - now
            used += min(done, slots) * (then - now)
            ended += begun < 0
    return used / (slots * enough), enough, ended / enough


def asleep(run: DueRun, _: dg.Definitions, instance: dg.DagsterInstance, run_id: str | None = None) -> Carried:
    """What a task of Ray does here."""
    (part,) = run.parts
    store, seconds = ArtifactStore(os.environ["SUBLIMINAL_ARTIFACTS"]), float(os.environ[SECONDS])
    sleep_and_write(_frame(), store, part.place, seconds, Path(os.environ[TIMES]))
    return Carried([part.asset], {}, seconds)


_frames: list[Frame] = []


def _frame() -> Frame:
    if not _frames:
        _frames.append(study_frame(study_of(int(os.environ[REPLICATES]))))
    return _frames[0]


def nothing_defined(study: AnyStudy) -> dg.Definitions:
    return dg.Definitions()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a run takes")
    parser.add_argument("--replicates", type=int, default=46, help="21 runs each, and 33")
    parser.add_argument("--ray", action="store_true", help="tasks of Ray instead of threads")
    options = parser.parse_args()
    frame = study_frame(study_of(options.replicates))
    sender = Sender()
    runner.make_plan = sender.timed("plan", runner.make_plan)
    runner._Queue._look = lambda queue, look=runner._Queue._look: sender.timed("look", look)(queue)  # type: ignore
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(Path(folder) / "artifacts")
        home, times = Path(folder) / "home", Path(folder) / "times"
        home.mkdir()
        times.mkdir()
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        with dg.DagsterInstance.from_config(str(home)) as instance:
            definitions = build_defs(studies=[frame.study])
            runs = RunsApart(frame.study, definitions, instance, nothing_defined, asleep, store.root)
            began = time.perf_counter()
            if options.ray:
                os.environ[TIMES] = str(times)
                wanted = on_ray(frame, runs, store, options, instance, definitions, sender)
            else:
                events = events_of_a_run(frame.study.name)
                slots = Slots(frame, store, runs, options.slots, options.seconds, times, events, sender)
                began = time.perf_counter()
                wanted = run_study(
                    frame, definitions, store, instance, Sentences(lambda _: None), frame.usual_parts(), slots
                )
            seconds = time.perf_counter() - began
            assert wanted.complete and wanted.runs == len(frame.usual_parts()), wanted
        share, enough, rate = busy(frame, times, options.slots)
    print(f"{wanted.runs} runs of {options.seconds:g} s on {options.slots} slots: {seconds:.0f} s")
    print(f"busy {share:.1%} of the {enough:.0f} s in which there was work for all slots; {rate:.1f} ended a second")
    for what, took in sender.took.items():
        print(f"  {what:10}{len(took):6} times{sum(took) / len(took) * 1e3:9.1f} ms{sum(took):9.1f} s in all")
    parts = ("next run", "order", "sent", "answered")
    each = sum(sum(sender.took.get(part, [])) for part in parts) / wanted.runs
    if not options.ray:
        print(f"the sender takes {each * 1e3:.0f} ms a run")


def on_ray(
    frame: Frame,
    runs: RunsApart,
    store: ArtifactStore,
    options: argparse.Namespace,
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    sender: Sender,
) -> runner.Outcome:
    """The same on a cluster of this machine that believes it has as many cores as there are slots."""
    from ray.cluster_utils import Cluster

    from subliminal_dagster.execution.carriers.ray import Ray, RaySettings

    os.environ |= {
        SECONDS: str(options.seconds),
        REPLICATES: str(options.replicates),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    small = {"object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": options.slots, **small})
    try:
        runs.sent = sender.timed("told sent", runs.sent)  # type: ignore[method-assign]
        runs.answered = sender.timed("told end", runs.answered)  # type: ignore[method-assign]
        carrier = Ray(frame, runs, RaySettings(address=cluster.address, gpus=0, cpus=1, at_once=options.slots))
        return run_study(frame, definitions, store, instance, Sentences(lambda _: None), frame.usual_parts(), carrier)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
