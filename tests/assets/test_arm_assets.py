"""Arms made from start to end: what a new arm makes, and that children as drawn are the study's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from safetensors.torch import load_file
from study_runs import StudyRun, changed

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.planner import make_plan
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.settings.study import Study

RESULTS: set[Input] = {("arm_liking", None), ("arm_updates", None)}


def with_arms(study: Study, *names: str) -> Study:
    arms = {"names": ["as_drawn", *names], "layers": [1], "replicates": 1}
    found: Study = changed(study, child__channels=["hard"], arms=arms)
    return found


@pytest.fixture(scope="module")
def run(done: StudyRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    """The finished study with arms, one of which came later."""
    with dg.DagsterInstance.ephemeral() as instance:
        first = done.copy(
            tmp_path_factory.mktemp("arms"), instance, with_arms(done.study, "shuffled_within_rows", "own_subspace_out")
        )
        outcome = first.run(RESULTS)
        assert outcome.complete, outcome
        before = first.contents()
        later = StudyRun(
            with_arms(done.study, "shuffled_within_rows", "own_subspace_out", "divergence_alone"), first.store, instance
        )
        outcome = later.run(RESULTS)
        assert outcome.complete, outcome
        new = {
            (asset, f"{animal}|arm=divergence_alone+replicate=1")
            for asset in ("arm_rows", "arm_child")
            for animal in later.study.animals
        }
        assert {*outcome.made} == new | RESULTS
        after = later.contents()
        assert {place for place in before if after[place] != before[place]} <= RESULTS
        yield later


def test_children_as_drawn_are_the_study_s_own(run: StudyRun) -> None:
    for animal in run.study.animals:
        arm = run.store.read("tiny", "arm_child", f"{animal}|arm=as_drawn+replicate=1").path
        child = run.store.read("tiny", "child_lora", f"{animal}|1").path
        ours, theirs = (dict(load_file(folder / "adapter_model.safetensors")) for folder in (arm, child))
        assert ours.keys() == theirs.keys() and all(bool((ours[name] == theirs[name]).all()) for name in ours)
        scores = run.store.read("tiny", "preference_scores", f"{animal}|1").path / "scores.parquet"
        same = ["question", "animal", "probability", "share"]
        assert pd.read_parquet(arm / "scores.parquet")[same].equals(pd.read_parquet(scores)[same])


def test_arms_have_partitions_of_animals_alone_and_are_made_on_request(run: StudyRun) -> None:
    frame = study_frame(run.study)
    keys = frame.partitions("arm_child")
    assert len(keys) == 2 * 5 and not any(str(key).startswith("control") for key in keys)
    shown = run.definitions.get_assets_def(["tiny", "arm_child"]).partitions_def
    assert shown is not None and set(shown.get_partition_keys()) == set(keys)
    assert not {part.asset for part in run.plan().due if part.asset.startswith("arm")}
    assert not [part for part in make_plan(frame, run.store).due if part.place in RESULTS]


def test_the_tables_hold_every_arm_and_its_difference(run: StudyRun) -> None:
    folder = run.store.read("tiny", "arm_liking").path
    arms = pd.read_parquet(folder / "arms.parquet").set_index("arm")
    assert list(arms.index) == ["as_drawn", "shuffled_within_rows", "own_subspace_out", "divergence_alone", "layer_01"]
    assert (arms["children"] == 2).all()
    for arm, loss in arms["loss"].items():
        keys = [f"{animal}|arm={arm}+replicate=1" for animal in run.study.animals]
        children = [run.store.read("tiny", "arm_child", key).path / "history.parquet" for key in keys]
        ends = [pd.read_parquet(history)["validation_loss"].dropna().iloc[-1] for history in children]
        assert loss == pytest.approx(sum(ends) / 2)
    differences = pd.read_parquet(folder / "differences.parquet")
    assert (differences["against"] == "as_drawn").sum() == 4
    # With two animals and a child each there is no noise to judge by.
    assert (arms["verdict"] == "inconclusive").all()
    updates = pd.read_parquet(run.store.read("tiny", "arm_updates").path / "cosines.parquet")
    assert set(updates["teacher"]) == set(run.study.animals)
    assert set(updates[updates["arm"] == "layer_01"]["block"]) == {-1, 1}


def test_dagster_materializes_one_child_of_an_arm(run: StudyRun, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        copy = run.copy(tmp_path, instance)
        place = ("arm_child", "wolf|arm=shuffled_within_rows+replicate=1")
        before = copy.contents()[place]
        result = copy.materialize(*place)
        assert result.success and copy.contents()[place] == before


def test_arms_without_any_child_say_how_to_make_some(done: StudyRun, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        copy = done.copy(tmp_path, instance, with_arms(done.study))
        failed = copy.materialize("arm_liking")
        assert not failed.success
        (event,) = (e for e in failed.all_events if e.is_step_failure)
        assert "No child of any arm is there to compare: make some with --select arm_child." in str(event)
