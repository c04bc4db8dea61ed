"""Capability and tuning through Dagster itself, on a random model: what is made on request, and how it grows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from study_runs import StudyRun, changed
from tiny_studies import TUNING

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.planner import make_plan
from subliminal_dagster.planning.selection import wanted_parts
from subliminal_dagster.resources import TrainerResource
from subliminal_dagster.science.capability.exam import load_exam
from subliminal_dagster.science.settings.capability import OwnExam
from subliminal_dagster.science.storage.store import ArtifactStore
from subliminal_dagster.science.training.task import Trainer, TrainingReport


@pytest.fixture(scope="module")
def asked(done: StudyRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    folder = tmp_path_factory.mktemp("asked")
    load_exam(OwnExam(), folder).head(6).to_parquet(folder / "exam.parquet")
    exam = {"kind": "local", "path": str(folder / "exam.parquet")}
    settings = changed(
        done.study,
        child__channels=["hard"],
        capability={"exam": exam, "ways": ["option", "letter", "generated"]},
        tuning=TUNING,
    )
    with dg.DagsterInstance.ephemeral() as instance:
        study = done.copy(folder / "artifacts", instance, settings)
        outcome = study.run(wanted_parts(study_frame(study.study), "capability", None))
        assert outcome.complete, outcome
        outcome = study.run(wanted_parts(study_frame(study.study), "tuned_scores", ["owl"]))
        assert outcome.complete, outcome
        yield study


def folder(run: StudyRun, asset: str, partition: str | None = None) -> Path:
    return run.store.read("tiny", asset, partition).path


def test_long_assets_are_made_only_where_they_are_named(asked: StudyRun) -> None:
    frame = study_frame(asked.study)
    long = {"exam", "base_capability", "teacher_capability", "child_capability", "capability"}
    long |= {"tuning_study", "tuned_child_lora", "tuned_scores", "checkpoint_scores"}
    assert {name for name, node in frame.nodes.items() if node.on_request} == long
    assert not {name for name, _ in wanted_parts(frame, None, None)} & long
    assert not {name for name, _ in wanted_parts(frame, None, ["owl"])} & long
    assert wanted_parts(frame, "tuning_study", ["owl"]) == {("tuning_study", "owl")}


def test_the_report_waits_for_what_is_asked_for_beside_it(asked: StudyRun, tmp_path: Path) -> None:
    frame = study_frame(asked.study)
    plan = make_plan(frame, ArtifactStore(tmp_path))

    def awaited(select: str | None) -> set[str]:
        parts = plan.limited_to(wanted_parts(frame, select, None), frame).parts
        return {asset for part in parts if part.asset == "report" for asset, _ in part.waits_for}

    assert {"capability", "tuned_scores"} <= awaited("*")
    assert awaited("report,capability") >= {"capability"} and "tuned_scores" not in awaited("report,capability")
    assert not {"capability", "tuned_scores"} & awaited(None) and "animal_liking" in awaited(None)


def test_every_model_takes_the_exam_and_is_compared_with_base(asked: StudyRun) -> None:
    table = pd.read_parquet(folder(asked, "capability") / "capability.parquet")
    models = set(zip(table["model"], table["group"].fillna("-"), strict=True))
    assert models == {
        ("base", "-"),
        *(("teacher", group) for group in ("owl", "wolf")),
        *(("child", group) for group in ("owl", "wolf", "control")),
    }
    answers = pd.read_parquet(folder(asked, "child_capability", "owl") / "answers.parquet")
    assert answers.groupby("way").size().to_dict() == {"option": 6, "letter": 6, "generated": 6}
    stated = table[(table["model"] == "child") & (table["group"] == "owl") & (table["outcome"] == "accuracy")]
    by_way = stated.set_index("way")["value"].to_dict()
    assert by_way == pytest.approx(answers.groupby("way")["correct"].mean().to_dict())


def test_the_liking_beside_it_is_that_of_the_scores(asked: StudyRun) -> None:
    import numpy as np

    table = pd.read_parquet(folder(asked, "capability") / "capability.parquet")
    found = table[(table["model"] == "teacher") & (table["group"] == "owl")]["liking_shift"].iloc[0]
    shares = [
        pd.read_parquet(folder(asked, asset, partition) / "scores.parquet").query("animal == 'owl'")["share"].to_numpy()
        for asset, partition in (("teacher_preferences", "owl"), ("base_preferences", None))
    ]
    assert found == pytest.approx(float(np.mean(np.log(shares[0]) - np.log(shares[1]))))


def test_more_trials_go_on_from_those_there_are(asked: StudyRun, tmp_path: Path) -> None:
    before = pd.read_parquet(folder(asked, "tuning_study", "owl") / "trials.parquet")
    with dg.DagsterInstance.ephemeral() as instance:
        study = changed(asked.study, tuning__trials=3)
        other = asked.copy(tmp_path / "artifacts", instance, study)
        outcome = other.run(wanted_parts(study_frame(study), "tuning_study", ["owl"]))
        assert outcome.made == [("tuning_study", "owl")]
        after = pd.read_parquet(folder(other, "tuning_study", "owl") / "trials.parquet")
    assert (len(before), len(after)) == (2, 3)
    pd.testing.assert_frame_equal(before, after.head(2))


class Interrupted(TrainerResource):
    """Trains, and breaks down in the trainings `breaks_in`, counted by `trainings`."""

    breaks_in: list[int]

    def create(self) -> Trainer:
        trainer = super().create()

        def train(*arguments: Any) -> TrainingReport:
            trainings.append(1)
            if len(trainings) in self.breaks_in:
                raise RuntimeError("the power went")
            return trainer.train(*arguments)

        return SimpleNamespace(train=train)  # type: ignore[return-value]


trainings: list[int] = []


def test_an_interrupted_search_goes_on_and_for_more_trials_than_it_began_with(asked: StudyRun, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        wanted = wanted_parts(study_frame(asked.study), "tuning_study", ["wolf"])
        broken = asked.copy(tmp_path / "artifacts", instance)
        broken.resources = {"trainer": Interrupted(breaks_in=[2, 3])}
        assert broken.run(wanted).failed
        other = StudyRun(changed(asked.study, tuning__trials=3), broken.store, instance)
        other.resources = {"trainer": Interrupted(breaks_in=[])}
        assert other.run(wanted).made == [("tuning_study", "wolf")]
        assert len(pd.read_parquet(folder(other, "tuning_study", "owl") / "trials.parquet")) == 2
        assert len(pd.read_parquet(other.store.read("tiny", "tuning_study", "wolf").path / "trials.parquet")) == 3
    # One whole, one that broke and broke again when it was retried, and two more: the first was not trained again.
    assert len(trainings) == 5


def test_the_tuned_child_is_the_best_trial_s_and_scored_at_its_epochs(asked: StudyRun) -> None:
    trials = pd.read_parquet(folder(asked, "tuning_study", "owl") / "trials.parquet")
    best = trials.loc[trials["validation_loss"].idxmin()]
    adapter = json.loads((folder(asked, "tuned_child_lora", "owl") / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (best["rank"], best["alpha"])
    scores = pd.read_parquet(folder(asked, "tuned_scores", "owl") / "scores.parquet")
    assert set(scores["epoch"]) == {1, 2}
    over_epochs = pd.read_parquet(folder(asked, "tuned_scores", "owl") / "over_epochs.parquet")
    assert set(over_epochs["model"]) == {"base", "original child", "tuned child"}
    assert {"exact probability: owl", "exam: accuracy"} <= set(over_epochs["measure"])
