"""In which order a study is made, and that nobody is idle while something could start; nothing here is computed.

The study is the bundled one without its insides at one of its layers. Instead of processes there is a clock: a part
takes as long as it is told to, and writes a few bytes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from study_runs import changed

from subliminal_dagster.build import definitions_apart, study_frame
from subliminal_dagster.execution import runner
from subliminal_dagster.execution.carriers.local import Workers
from subliminal_dagster.execution.carriers.protocol import Carried, NextRun
from subliminal_dagster.execution.listening import Sentences
from subliminal_dagster.execution.runner import Outcome, at_once, execute, run_study
from subliminal_dagster.planning.frame import Frame, label
from subliminal_dagster.planning.planner import DueRun, Part, Plan
from subliminal_dagster.planning.priority import VERDICT
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.claims import Holder
from subliminal_dagster.science.storage.store import ArtifactStore

SENTENCE = "Hard channel, inconclusive: nothing is known."


@dataclass
class Clocked(Workers):
    """Workers on whom time passes without work. `begun` and `ended` say when each part was; `at_end` is called with
    each that ends; those in `failing` fail, of those in `killed` the process is killed once."""

    frame: Frame = None  # type: ignore[assignment]
    store: ArtifactStore = None  # type: ignore[assignment]
    takes: Callable[[Input], float] = lambda place: 1.0
    at_end: Callable[[Input], None] = lambda place: None
    failing: set[Input] = field(default_factory=set)
    killed: set[Input] = field(default_factory=set)
    begun: dict[Input, float] = field(default_factory=dict)
    ended: dict[Input, float] = field(default_factory=dict)
    idle: float = 0.0
    idle_in_vain: list[Input] = field(default_factory=list)

    def needed_for(self, count: int) -> bool:
        return True

    def carry_out(self, next_run: NextRun) -> Iterator[tuple[DueRun, Carried]]:
        now, at_work = 0.0, dict[Input, tuple[float, DueRun]]()
        while True:
            while len(at_work) < self.count and (run := next_run()) is not None:
                (part,) = run.parts
                self.begun.setdefault(part.place, now)
                at_work[part.place] = now + self.takes(part.place), run
            if not at_work:
                return
            if len(at_work) < self.count:
                self.idle_in_vain += [place for place in self.could_start() if place not in at_work]
            place = min(at_work, key=lambda place: at_work[place][0])
            then, run = at_work.pop(place)
            self.idle += (self.count - len(at_work) - 1) * (then - now)
            now = then
            yield run, self.become(place, now)
            self.at_end(place)

    def become(self, place: Input, now: float) -> Carried:
        if place in self.killed:
            self.killed.remove(place)
            return Carried([], {}, 0.0, begin_again=True)
        self.ended[place] = now
        if place in self.failing:
            return Carried([], {place[0]: "it failed"}, 0.0)
        self.write(place)
        return Carried([place[0]], {}, 0.0)

    def write(self, place: Input) -> None:
        recipe, study = self.frame.nodes[place[0]].recipe, self.frame.study.name
        inputs = self.frame.inputs(*place)
        made = {label(*i): self.store.manifest(study, *i).content_hash for i in inputs if self.store.exists(study, *i)}
        info = {
            "code_version": recipe.version,
            "settings": recipe.settings,
            "code": recipe.code,
            "upstream": made,
            "wall_seconds": self.takes(place),
        }
        with self.store.write(study, *place, info) as draft:
            (draft.path / "rows.json").write_text(json.dumps(label(*place)))
            if place[0] == VERDICT:
                verdicts = {"hard": {"result": "inconclusive", "sentence": SENTENCE}}
                (draft.path / "verdicts.json").write_text(json.dumps(verdicts))
                (draft.path / "left_out.json").write_text("{}")

    def could_start(self) -> list[Input]:
        """By brute force: what is not made and lacks nothing; what needs something that failed is not among it."""
        made = self.ended.keys() - self.failing
        return [
            place
            for place in self.frame.usual_parts() - self.ended.keys()
            if set(self.frame.awaited(*place)) <= made and place not in self.killed
        ]


@pytest.fixture(scope="module")
def frame() -> Frame:
    return study_frame(changed(load_study("smollm2-135m-instruct"), layers=[9]))


@dataclass
class Plans:
    """How many plans were made. Each takes as long as it is told to, and nothing else any time, so that how often one
    is made does not depend on how busy this machine is."""

    seconds: float
    count: int = 0


@pytest.fixture(autouse=True)
def plans(monkeypatch: pytest.MonkeyPatch) -> Plans:
    plans, make_plan = Plans(seconds=0.1), runner.make_plan

    def counted(frame: Frame, store: ArtifactStore, claims: Mapping[Input, Holder]) -> Plan:
        plans.count += 1
        return make_plan(frame, store, claims)

    def now() -> float:
        return plans.seconds * plans.count

    monkeypatch.setattr(runner, "make_plan", counted)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=now, perf_counter=now))
    return plans


@dataclass
class Made:
    """A study that was made on a clock, with what was said and, for every line, what had ended by then."""

    outcome: Outcome
    clock: Clocked
    said: dict[str, set[Input]]


def make(frame: Frame, folder: Path, count: int = 2, **clock: object) -> Made:
    store = ArtifactStore(folder)
    workers = Clocked(
        frame.study,
        count,
        definitions_apart,
        execute,
        frame=frame,
        store=store,
        **clock,  # type: ignore[arg-type]
    )
    said: dict[str, set[Input]] = {}

    def say(line: str) -> None:
        said[line] = set(workers.ended)

    with dg.DagsterInstance.ephemeral() as instance:
        outcome = run_study(frame, dg.Definitions(), store, instance, Sentences(say), frame.usual_parts(), workers)
    return Made(outcome, workers, said)


def above(frame: Frame, place: Input) -> set[Input]:
    """A part and all it is made from."""
    return {place}.union(*(above(frame, needed) for needed in frame.awaited(*place)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_nobody_is_idle_while_something_could_start(frame: Frame, tmp_path: Path, count: int) -> None:
    draw = random.Random(count)
    seconds = {place: draw.uniform(0.1, 20) for place in sorted(frame.usual_parts(), key=str)}
    made = make(frame, tmp_path, count, takes=seconds.__getitem__)
    assert made.outcome.complete and {*made.outcome.made} == frame.usual_parts()
    assert len(made.outcome.made) == made.outcome.runs == len(seconds), "every part once, in a run of its own"
    assert made.clock.idle_in_vain == []
    for place, begun in made.clock.begun.items():
        assert all(made.clock.ended[needed] <= begun for needed in frame.awaited(*place))


def check_the_verdict_went_first(frame: Frame, clock: Clocked) -> None:
    """That nothing else began while something that the verdict needs could have."""
    needed = above(frame, (VERDICT, None))
    begun, ended = clock.begun, clock.ended
    for other in begun.keys() - needed:
        waiting = [
            place
            for place in needed
            if begun[place] > begun[other] and all(ended[i] <= begun[other] for i in frame.awaited(*place))
        ]
        assert waiting == [], f"{other} began while these could"


def test_the_verdict_goes_before_everything_else_and_is_said_at_once(frame: Frame, tmp_path: Path) -> None:
    draw = random.Random(5)
    seconds = {place: draw.uniform(0.1, 20) for place in sorted(frame.usual_parts(), key=str)}
    made = make(frame, tmp_path, takes=seconds.__getitem__)
    check_the_verdict_went_first(frame, made.clock)
    ended = made.clock.ended
    (line,) = [line for line in made.said if SENTENCE in line]
    assert made.said[line] <= {place for place in ended if ended[place] <= ended[VERDICT, None]}
    assert len(made.said[line]) < len(ended)


def test_a_slow_plan_is_made_seldom_and_nobody_waits_for_it(frame: Frame, tmp_path: Path, plans: Plans) -> None:
    plans.seconds = 100.0
    draw = random.Random(7)
    seconds = {place: draw.uniform(0.1, 20) for place in sorted(frame.usual_parts(), key=str)}
    made = make(frame, tmp_path, count=3, takes=seconds.__getitem__)
    assert made.outcome.complete and made.outcome.runs == len(seconds)
    assert made.clock.idle_in_vain == []
    check_the_verdict_went_first(frame, made.clock)
    # One at the start and two in the end: nothing can start, and nothing is left.
    assert plans.count == 3


def test_what_fails_holds_back_what_needs_it_and_nothing_else(frame: Frame, tmp_path: Path) -> None:
    failing: set[Input] = {("child_lora", "lion|1"), ("sae_texts", None)}
    made = make(frame, tmp_path, failing=failing)
    assert made.outcome.failed == dict.fromkeys(failing, "it failed")
    patient = {place for place in frame.usual_parts() if frame.nodes[place[0]].takes_what_there_is}
    lost = {
        place
        for place in frame.usual_parts() - patient
        if any(needed in failing for needed in above_without(frame, place, patient))
    }
    assert {*made.outcome.made} == frame.usual_parts() - lost
    assert made.outcome.waiting.keys() - patient == lost - failing
    assert made.outcome.waiting["preference_scores", "lion|1"] == "it needs child_lora [lion|1]"
    assert (VERDICT, None) in lost and not any(SENTENCE in line for line in made.said)


def above_without(frame: Frame, place: Input, patient: set[Input]) -> set[Input]:
    """As `above`, but not through what takes what there is."""
    if place in patient:
        return {place}
    return {place}.union(*(above_without(frame, needed, patient) for needed in frame.awaited(*place)))


def test_a_part_whose_process_was_killed_comes_after_those_beside_it(frame: Frame, tmp_path: Path) -> None:
    doomed: Input = ("teacher_lora", "lion")
    made = make(frame, tmp_path, count=1, killed={doomed})
    assert made.outcome.complete and made.outcome.runs == len(made.outcome.made)
    order = made.outcome.made
    assert order.index(doomed) > max(order.index(("teacher_lora", group)) for group in ("owl", "neutral"))
    assert order.index(doomed) < order.index(("sae_texts", None))


def test_a_part_that_another_process_makes_is_left_to_it_while_others_go_on(frame: Frame, tmp_path: Path) -> None:
    held: Input = ("teacher_lora", "lion")
    with ExitStack() as other:
        other.enter_context(ArtifactStore(tmp_path).claim(frame.study.name, *held))

        def give_up(place: Input) -> None:
            if place == ("child_lora", "owl|1"):
                other.close()

        made = make(frame, tmp_path, count=2, at_end=give_up)
    assert made.outcome.complete
    assert made.clock.begun[held] >= made.clock.ended["child_lora", "owl|1"]
    # It was looked at again as soon as something else ended.
    assert made.clock.begun[held] < made.clock.ended["report", None] / 2


def test_a_chain_is_for_one_process_with_all_cores() -> None:
    def due(**waits: str) -> list[Part]:
        return [
            Part("s", name, None, "missing", waits_for=tuple((each, None) for each in needed.split()))
            for name, needed in waits.items()
        ]

    assert at_once([]) == 0
    assert at_once(due(authors="", audit="authors")) == 1
    assert at_once(due(authors="base", audit="authors base", page="audit authors")) == 1
    assert at_once(due(one="", two="", both="one two")) == 2
    assert at_once(due(first="", chain="first", alone="")) == 2
    assert at_once(due(first="", left="first", right="first", middle="first", last="left right")) == 3
