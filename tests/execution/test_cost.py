"""What a plan costs: measured times where they are of the same kind of device, else the budget's arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from subliminal_dagster.build import study_frame
from subliminal_dagster.cli import main
from subliminal_dagster.execution.cost import cost_of, named_card
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.planner import Part, Plan, make_plan
from subliminal_dagster.science.budget.card import CARDS
from subliminal_dagster.science.budget.needs import needs
from subliminal_dagster.science.budget.shape import shape_of
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore


@pytest.fixture(scope="module")
def gemma() -> Frame[Study]:
    study = load_study("gemma-2-9b-it")
    assert isinstance(study, Study)
    return study_frame(study)


@pytest.fixture(scope="module")
def plan(gemma: Frame[Study], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(gemma, ArtifactStore(tmp_path_factory.mktemp("none"))).limited_to(gemma.usual_parts(), gemma)


def test_nothing_measured_is_the_budget_times_the_parts(gemma: Frame[Study], plan: Plan) -> None:
    card = CARDS["A6000"]
    cost = cost_of(gemma, plan, card, 1)
    by_budget = {need.stage: need.seconds for need in needs(gemma.study, shape_of(gemma.study), card)}
    on_gpu = [part for part in plan.due if gemma.nodes[part.asset].gpu]
    expected = sum(by_budget.get(part.asset, 0.0) for part in on_gpu) / 3600
    assert sum(stage.gpu_hours for stage in cost.stages) == pytest.approx(expected) and expected > 1
    assert sum(stage.unknown for stage in cost.stages) == sum(
        part.asset not in by_budget or not gemma.nodes[part.asset].gpu for part in plan.due
    )
    assert sum(stage.parts for stage in cost.stages) == len(plan.due)
    assert cost.hours_at_least == pytest.approx(expected)
    many = cost_of(gemma, plan, card, 10_000)
    chain = ("teacher_lora", "teacher_preferences", "number_set", "child_lora", "preference_scores")
    assert sum(by_budget[asset] for asset in chain) / 3600 <= many.hours_at_least < expected / 2


def test_what_was_measured_counts_on_the_same_kind_of_device_alone(gemma: Frame[Study], plan: Plan) -> None:
    def measured(part: Part) -> Part:
        if part.asset == "child_lora":
            return replace(part, seconds=7200.0, device="NVIDIA RTX A6000")
        if part.asset == "filtered_dataset":
            return replace(part, seconds=360.0, device="cpu (16 cores)")
        return part

    earlier = Plan(plan.study, tuple(map(measured, plan.parts)))
    groups = len(gemma.study.groups)

    def child(card: str | None) -> tuple[float, float]:
        found = cost_of(gemma, earlier, CARDS[card] if card else None, 1)
        stages = {stage.stage: stage for stage in found.stages}
        assert stages["numbers"].cpu_hours == pytest.approx(0.1 * groups)
        return stages["child"].gpu_hours, stages["child"].measured_gpu_hours

    scores = {card: cost_of(gemma, plan, CARDS[card], 1).stages for card in ("A6000", "H100")}
    arithmetic = {card: next(s.gpu_hours for s in stages if s.stage == "child") for card, stages in scores.items()}
    assert child("A6000")[1] == pytest.approx(2 * groups) and child("A6000")[0] > 2 * groups
    assert child("H100") == (pytest.approx(arithmetic["H100"]), 0.0)
    assert child(None) == (0.0, 0.0)


def test_the_command_prints_it_and_names_what_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    ask = ["plan", "--study", "gemma-2-9b-it"]
    assert main([*ask, "--card", "a6000", "--slots", "4"]) == 0
    said = capsys.readouterr().out
    assert "GPU-hours on A6000" in said and "with 4 at once" in said
    assert f"missing  child_lora: {len(load_study(ask[2]).groups)} parts (" in said
    assert main([*ask, "--card", "L40S", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cost"]["card"] == "L40S"
    assert main([*ask, "--card", "B200"]) == 2 and "name one of A6000" in capsys.readouterr().err
    assert main([*ask, "--slots", "0"]) == 2 and "--slots is 0" in capsys.readouterr().err
    with pytest.raises(UserError, match="no card 'T4'"):
        named_card("T4")
