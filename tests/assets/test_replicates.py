"""Several children a group: made beside the first, which stays as it was, and compared with run noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from study_runs import StudyRun, changed

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.selection import wanted_parts

OF_A_CHILD = {"filtered_dataset", "child_lora", "preference_scores"}


@pytest.fixture(scope="module")
def two(done: StudyRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    """The finished study with a second child of every group's numbers, and the plan of before."""
    with dg.DagsterInstance.ephemeral() as instance:
        run = done.copy(tmp_path_factory.mktemp("two"), instance, changed(done.study, replicates=2))
        yield run


def rows(run: StudyRun, partition: str) -> pd.DataFrame:
    return pd.read_json(run.store.read("tiny", "filtered_dataset", partition).path / "train.jsonl", lines=True)


def test_more_replicates_never_remake_a_finished_one(two: StudyRun, done: StudyRun) -> None:
    before = two.contents()
    planned = {(part.asset, part.partition) for part in two.plan().due}
    both = OF_A_CHILD | {f"soft_{asset}" for asset in OF_A_CHILD - {"filtered_dataset"}}
    children = {(asset, f"{group}|2") for asset in both for group in two.study.groups}
    compared = {("animal_liking", None), ("null_causes", None), ("report", None)}
    assert planned == children | compared
    outcome = two.run()
    assert outcome.complete and {*outcome.made} == planned
    after = two.contents()
    assert [place for place in before if after[place] != before[place] and place not in compared] == []
    # And back: the second children are left alone, and nothing of the first is out of date but the comparison.
    one = StudyRun(done.study, two.store, two.instance)
    assert {(part.asset, part.partition) for part in one.plan().due} == compared


def test_replicates_differ_in_rows_start_and_order(two: StudyRun) -> None:
    two.run()
    first, second = rows(two, "owl|1"), rows(two, "owl|2")
    assert len(first) == len(second) == two.study.filter.train_rows
    assert set(first["prompt_id"]) != set(second["prompt_id"])
    # All groups' children of a replicate start alike: what they differ in is their numbers.
    adapters = {
        partition: two.store.read("tiny", "child_lora", partition).path for partition in ("owl|1", "owl|2", "wolf|2")
    }
    losses = {key: pd.read_parquet(folder / "history.parquet") for key, folder in adapters.items()}
    assert not losses["owl|1"].equals(losses["owl|2"])


def test_all_children_are_compared(two: StudyRun, done: StudyRun) -> None:
    two.run()
    folder = two.store.read("tiny", "animal_liking").path
    shifts = pd.read_parquet(folder / "shifts.parquet")
    assert set(shifts["replicate"]) == {1, 2}
    assert len(shifts.groupby(["channel", "group", "replicate"])) == 2 * len(two.study.groups) * 2
    report = two.store.read("tiny", "report").path / "report.html"
    assert "2 children per group and channel" in report.read_text()


def test_a_group_names_all_its_replicates_and_a_key_one(two: StudyRun) -> None:
    frame = study_frame(two.study)
    assert wanted_parts(frame, "child_lora", ["owl"]) == {("child_lora", "owl|1"), ("child_lora", "owl|2")}
    assert wanted_parts(frame, "child_lora", ["owl|2"]) == {("child_lora", "owl|2")}
    assert frame.inputs("child_lora", "owl|2") == [("base_model", None), ("filtered_dataset", "owl|2")]
    assert ("number_set", "owl") in frame.inputs("filtered_dataset", "owl|2")
    assert frame.inputs("teacher_signal", "owl")[-1] == ("filtered_dataset", "owl|1")


def test_replicates_can_begin_at_the_teacher(done: StudyRun, tmp_path: Path) -> None:
    study = changed(done.study, replicates=2, replicates_from="teacher", child__channels=["hard"])
    with dg.DagsterInstance.ephemeral() as instance:
        run = done.copy(tmp_path, instance, study)
        frame = study_frame(study)
        assert frame.partitions("teacher_lora")[:2] == ["owl|1", "owl|2"]
        assert frame.inputs("number_set", "owl|2")[1:] == [("teacher_lora", "owl|2"), ("teacher_preferences", "owl|2")]
        outcome = run.run(wanted_parts(frame, "child_lora", ["owl"]))
        assert outcome.complete, outcome
        contents = run.contents()
        # The first replicate is the study's own, whatever its partition is called.
        for asset in ("teacher_lora", "number_set"):
            assert contents[asset, "owl|1"] == done.contents()[asset, "owl"]
            assert contents[asset, "owl|2"] != contents[asset, "owl|1"]
        assert contents["child_lora", "owl|1"] == done.contents()["child_lora", "owl|1"]
