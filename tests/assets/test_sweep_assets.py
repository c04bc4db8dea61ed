"""A sweep made from start to end: what cells share, what is made for a new one, and what the table says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from study_runs import StudyRun, changed, gate_between

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.planner import make_plan
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.planning.selection import wanted_parts
from subliminal_dagster.science.liking.comparison import compare
from subliminal_dagster.science.settings.study import Study

LIKING = ("sweep_liking", None)


def swept(study: Study, **values: Any) -> Study:
    """The study on the hard channel with a sweep of these settings."""
    sweep = {name.replace("__", "."): value for name, value in values.items()}
    found: Study = changed(study, child__channels=["hard"], sweep=sweep)
    return found


def due(run: StudyRun) -> set[Input]:
    """What is to be made for the sweep's table."""
    frame = study_frame(run.study)
    return {part.place for part in make_plan(frame, run.store).limited_to({LIKING}, frame).due}


def cells(run: StudyRun) -> pd.DataFrame:
    return pd.read_parquet(run.store.read("tiny", "sweep_liking").path / "cells.parquet")


@pytest.fixture(scope="module")
def ranks(done: StudyRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    """The finished study with a sweep of one rank, its own, and then of two: the first is left alone."""
    with dg.DagsterInstance.ephemeral() as instance:
        one = done.copy(tmp_path_factory.mktemp("sweep"), instance, swept(done.study, child__lora__rank=[2]))
        assert one.run({LIKING}).complete
        before = one.contents()
        run = StudyRun(swept(done.study, child__lora__rank=[4, 2]), one.store, instance)
        new = {
            (asset, f"{group}|rank=4+replicate=1")
            for asset in ("variant_child_lora", "variant_preference_scores")
            for group in run.study.groups
        }
        assert due(run) == new | {LIKING}
        outcome = run.run({LIKING})
        assert outcome.complete and {*outcome.made} == new | {LIKING}
        after = run.contents()
        assert [place for place in before if after[place] != before[place] and place != LIKING] == []
        yield run


def test_a_cell_with_the_study_s_own_settings_is_the_study_itself(ranks: StudyRun) -> None:
    contents = ranks.contents()
    for group in ranks.study.groups:
        for asset in ("child_lora", "preference_scores"):
            assert contents[f"variant_{asset}", f"{group}|rank=2+replicate=1"] == contents[asset, f"{group}|1"]
        assert (
            contents["variant_filtered_dataset", f"{group}|replicate=1"] == contents["filtered_dataset", f"{group}|1"]
        )
        other = contents["variant_child_lora", f"{group}|rank=4+replicate=1"]
        assert other != contents["child_lora", f"{group}|1"]


def test_the_table_says_what_the_comparison_says_of_each_cell(ranks: StudyRun) -> None:
    study, store = ranks.study, ranks.store
    table = cells(ranks).set_index("child.lora.rank")
    assert list(table.index) == [4, 2]
    for rank in (2, 4):
        found = [pd.read_parquet(store.read("tiny", "base_preferences").path / "scores.parquet").assign(model="base")]
        for group in study.groups:
            folder = store.read("tiny", "variant_preference_scores", f"{group}|rank={rank}+replicate=1").path
            rows = pd.read_parquet(folder / "scores.parquet")
            found.append(rows.assign(model="child", channel="hard", group=group))
        expected = compare(pd.concat(found), study.animals, permutations=200, seed=9)
        (gamma,) = expected.gamma[expected.gamma["outcome"] == "log_share"].to_dict("records")
        row = table.loc[rank]
        # Two animals and no neutral group are too few for an interval: `tests/science/sweep` has more.
        for name in ("mean", "se", "low", "high", "p"):
            assert row[name] == pytest.approx(gamma[name], rel=1e-9, nan_ok=True), name
        assert (row["verdict"], row["contrast"]) == (gamma["verdict"], gamma["contrast"])
        assert (row["cell"], row["children"], row["children_wanted"], row["missing"]) == (f"rank={rank}", 3, 3, "")
    own = pd.read_parquet(ranks.store.read("tiny", "animal_liking").path / "gamma.parquet")
    own = own[(own["channel"] == "hard") & (own["outcome"] == "log_share")]
    assert table.loc[2, "mean"] == pytest.approx(own["mean"].item(), rel=1e-9)


def test_the_report_has_a_section_once_the_sweep_is_there(ranks: StudyRun, done: StudyRun) -> None:
    assert ranks.run().complete
    page = (ranks.store.read("tiny", "report").path / "report.html").read_text()
    assert 'id="sweep"' in page and "rank=4" in page and "gamma of 2 cells" in page
    assert (ranks.store.read("tiny", "report").path / "tables" / "sweep-cells.csv").is_file()
    assert 'id="sweep"' not in (done.store.read("tiny", "report").path / "report.html").read_text()


def test_a_setting_that_is_not_swept_counts_in_every_cell(ranks: StudyRun) -> None:
    longer = StudyRun(changed(ranks.study, child__training__epochs=3), ranks.store, ranks.instance)
    trained = Counter(asset for asset, _ in due(longer))
    assert trained == {"variant_child_lora": 6, "variant_preference_scores": 6, "sweep_liking": 1}
    # And one that is swept counts in none: the cells have values of their own.
    wider = StudyRun(changed(ranks.study, child__lora__rank=8), ranks.store, ranks.instance)
    assert due(wider) == set()
    # A replicate more is made beside those there are.
    more = swept(ranks.study, child__lora__rank=[4, 2], replicates=2)
    planned = due(StudyRun(more, ranks.store, ranks.instance)) - {LIKING}
    assert planned and all(str(partition).endswith("replicate=2") for _, partition in planned)


def test_a_variant_is_named_with_or_without_its_group(ranks: StudyRun) -> None:
    frame = study_frame(ranks.study)
    key = "rank=4+replicate=1"
    every = {("variant_child_lora", f"{group}|{key}") for group in ranks.study.groups}
    assert wanted_parts(frame, "variant_child_lora", [key]) == every
    assert wanted_parts(frame, "variant_child_lora", [f"owl|{key}"]) == {("variant_child_lora", f"owl|{key}")}
    assert not {name for name, _ in frame.usual_parts() if "variant" in name or "sweep" in name}


def test_a_gate_refuses_the_cell_that_asks_for_too_much(done: StudyRun, tmp_path: Path) -> None:
    good, bad, between = gate_between(done)
    study = swept(done.study, teacher__gate__preference=[between, 1])
    with dg.DagsterInstance.ephemeral() as instance:
        run = done.copy(tmp_path / "store", instance, study)
        outcome = run.run({LIKING})
        assert LIKING in outcome.made and outcome.blocked
        table = cells(run).set_index("teacher.gate.preference")
        half, none = table.iloc[0], table.iloc[1]
        assert half["animals"] == good and half["contrast"] == "control" and half["mean"] == half["mean"]
        assert f"[{bad}|preference=" in half["missing"] and "was refused" in half["missing"]
        assert none["verdict"] == none["verdict_of_all"] == "not tested" and none["mean"] != none["mean"]
        assert none["animals"] == "" and "was refused" in none["missing"]
        # Numbers that a teacher was not drawn from anew for are the study's own.
        assert not [name for name, _ in outcome.made if name in ("number_set", "variant_number_set", "teacher_lora")]
        # A refused cell is no reason to make anything again.
        assert due(run) == set()
