"""Which part goes first, on plans made by hand."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.planner import Part, Plan, make_plan
from subliminal_dagster.planning.priority import ranks
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore


@pytest.fixture(scope="module")
def frame() -> Frame:
    return study_frame(load_study("smollm2-135m-instruct"))


def plan_of(*parts: tuple[str, float | None, list[str]]) -> Plan:
    """Parts without partitions: asset, seconds, what it waits for."""
    return Plan(
        "s",
        tuple(Part("s", a, None, "missing", waits_for=tuple((w, None) for w in ws), seconds=s) for a, s, ws in parts),
    )


def order(plan: Plan, frame: Frame) -> list[str]:
    rank = ranks(plan, frame)
    return [asset for asset, _ in sorted(rank, key=rank.__getitem__)]


def test_the_longest_way_still_to_go_comes_first(frame: Frame) -> None:
    plan = plan_of(
        ("exam", 5.0, []), ("sae_texts", 1.0, []), ("base_model", 2.0, []), ("sae", 30.0, ["sae_texts"]),
        ("capability", 9.0, ["exam"]),
    )  # fmt: skip
    assert order(plan, frame) == ["sae_texts", "sae", "exam", "capability", "base_model"]


def test_what_the_verdict_needs_goes_before_a_longer_way(frame: Frame) -> None:
    plan = plan_of(
        ("exam", 900.0, []), ("base_model", 1.0, []), ("base_preferences", 1.0, ["base_model"]),
        ("sae", 900.0, ["base_model"]), ("animal_liking", 1.0, ["base_preferences"]),
        ("report", 1.0, ["animal_liking"]),
    )  # fmt: skip
    first = order(plan, frame)
    assert first[:3] == ["base_model", "base_preferences", "animal_liking"]
    assert first[3:] == ["exam", "sae", "report"], "900 s each, so the order of the graph; then the report"


def test_work_on_a_model_counts_as_long_where_nothing_is_known(frame: Frame) -> None:
    assert frame.nodes["sae"].gpu and not frame.nodes["exam"].gpu
    assert order(plan_of(("exam", None, []), ("sae", None, [])), frame) == ["sae", "exam"]


def test_every_due_part_has_a_rank_of_its_own_and_what_it_needs_a_lower_one(frame: Frame) -> None:
    draw = random.Random(1)
    names = [*frame.nodes]
    for _ in range(20):
        parts = [
            (name, draw.choice([None, draw.uniform(0, 9)]), draw.sample(names[:n], min(n, 2)))
            for n, name in enumerate(names)
        ]
        plan = plan_of(*parts)
        rank = ranks(plan, frame)
        assert len({*rank.values()}) == len(names)
        for part in plan.parts:
            assert all(rank[needed] < rank[part.place] for needed in part.waits_for)
        made = Plan("s", (replace(plan.parts[0], status="fresh"), *plan.parts[1:]))
        assert plan.parts[0].place not in ranks(made, frame)


def test_on_one_gpu_an_assets_groups_follow_each_other(tmp_path: Path) -> None:
    """So that one start of vLLM serves them all (see `execution.carriers.local`)."""
    frame = study_frame(load_study("gemma-2-9b-it"))
    plan = make_plan(frame, ArtifactStore(tmp_path)).limited_to(frame.usual_parts(), frame)
    rank, waiting, order = ranks(plan, frame), {part.place: part for part in plan.due}, []
    while waiting:
        ready = [place for place, part in waiting.items() if waiting.keys().isdisjoint(part.waits_for)]
        first = min(ready, key=rank.__getitem__)
        order.append(waiting.pop(first).asset)
    rows = [(asset, len([*same])) for asset, same in groupby(order)]
    for asset in ("teacher_preferences", "number_set", "preference_scores"):
        assert [count for name, count in rows if name == asset] == [11]
