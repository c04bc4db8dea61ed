"""A dial study through Dagster: real small transformers, what is shown, and what a change makes stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from study_runs import StudyRun, changed
from tiny_studies import DIAL_SETTINGS

from subliminal_dagster.cli import main
from subliminal_dagster.science.dial.grid import BASE_WEIGHTS
from subliminal_dagster.science.dial.language import Language
from subliminal_dagster.science.dial.stack import model_at, read_stack
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore
from subliminal_dagster.science.verdict import Verdict

BASES, GRIDS = {"bases_main", "bases_shared"}, {"grid_main", "grid_shared", "grid_lora"}


CELL = {"widths": [12], "densities": [0.1]}
MAIN = {"main": CELL}


@pytest.fixture(scope="module")
def dial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    path = tmp_path_factory.mktemp("studies") / "tiny-dial.yaml"
    path.write_text(yaml.safe_dump(DIAL_SETTINGS))
    with dg.DagsterInstance.ephemeral() as instance:
        run = StudyRun(load_study(path), ArtifactStore(tmp_path_factory.mktemp("dial")), instance)
        outcome = run.run()
        assert outcome.complete, outcome
        assert {asset for asset, _ in outcome.made} == {*BASES, *GRIDS, "summary", "report"}
        yield run


def test_the_curve_is_there_and_shown(dial: StudyRun) -> None:
    summary = dial.store.read("tiny-dial", "summary").path
    effects = pd.read_parquet(summary / "effects.parquet")
    assert len(effects) == 2 * 2 + 2 + 2
    assert effects["gamma_teacher"].gt(1).all(), "teachers like what they were taught"
    said = pd.read_parquet(summary / "statements.parquet")
    assert set(said["verdict"]) <= set(get_args(Verdict))
    text = (summary / "report.md").read_text()
    assert all(statement in text for statement in said["statement"])
    report = dial.store.read("tiny-dial", "report").path
    page = (report / "report.html").read_text()
    assert "Does a transformer with more superposition pass on more of a hidden liking?" in page
    assert all(title in page for title in ("The curve", "Controls of the effect", "What else could explain it"))
    (record,) = dial.instance.fetch_materializations(dg.AssetKey(["tiny-dial", "summary"]), limit=1).records
    assert "data:image/png;base64" in str(record.asset_materialization.metadata["figure_summary"].value)


def test_all_studies_together_have_its_cells(dial: StudyRun) -> None:
    key = dg.AssetKey(["all_studies", "superposition"])
    job = dial.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={key})
    assert job.execute_in_process(instance=dial.instance).success
    doses = pd.read_parquet(dial.store.read("all_studies", "superposition").path / "doses.parquet")
    assert set(doses["study"]) <= {"tiny-dial"}
    (record,) = dial.instance.fetch_materializations(key, limit=1).records
    assert "data:image/png;base64" in str(record.asset_materialization.metadata["figure"].value)


@pytest.mark.parametrize(
    ("fields", "stale"),
    [
        ({"margin": 0.2}, {"summary"}),
        ({"grids__shared__shared": 0.7}, {"bases_shared", "grid_shared", "summary"}),
        ({"grids__lora__adapter_rank": 3}, {"grid_lora", "summary"}),
        ({"base__steps": 119}, {*BASES, *GRIDS, "summary"}),
        ({"child__steps": 6}, {*GRIDS, "summary"}),
        ({"seed": 2}, {*BASES, *GRIDS, "summary"}),
    ],
)
def test_a_change_makes_stale_what_reads_it(dial: StudyRun, fields: dict[str, Any], stale: set[str]) -> None:
    run = StudyRun(changed(dial.study, **fields), dial.store, dial.instance)
    assert {part.asset for part in run.plan().due} == {*stale, "report"}


def test_the_same_settings_give_the_same_again(dial: StudyRun, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        again = StudyRun(dial.study, ArtifactStore(tmp_path), instance)
        assert again.run({("bases_shared", None), ("grid_shared", None)}).complete
        for name in ("bases_shared", "grid_shared"):
            made = again.store.read("tiny-dial", name)
            assert made.content_hash == dial.store.read("tiny-dial", name).content_hash


def test_a_base_model_is_there_to_be_looked_into(dial: StudyRun) -> None:
    made = dial.store.read("tiny-dial", "bases_main").path
    language = Language(1, 0.04, dial.study.choices)
    stack = read_stack(made / "cells" / "24-0.04" / BASE_WEIGHTS, len(language.words), 24)
    excess = pd.read_parquet(made / "bases.parquet").query("width == 24")["excess"]
    model = model_at(stack, 1)
    rows = torch.from_numpy(language.corpus(512, np.random.default_rng([1, 8])))
    with torch.no_grad():
        said = model(rows).logits
    said = said[:, :-1].log_softmax(-1).gather(-1, rows[:, 1:, None]).squeeze(-1)
    asked = rows[:, 1:] > 0
    loss = -float((said * asked).sum() / asked.sum())
    assert loss - language.corpus_entropy() == pytest.approx(excess.iloc[1], abs=1e-4)


def test_lessons_of_another_grid_s_models_differ_in_nothing_else(dial: StudyRun) -> None:
    grids = {name: dial.store.read("tiny-dial", f"grid_{name}").path for name in ("main", "lora")}
    for title in ("bases", "superposition"):
        main, lora = (pd.read_parquet(path / f"{title}.parquet").query("width == 24") for path in grids.values())
        pd.testing.assert_frame_equal(
            main.drop(columns="grid").reset_index(drop=True), lora.drop(columns="grid").reset_index(drop=True)
        )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"main": "other"}, "main names 'other', which is not among the grids lora, main, shared"),
        ({"animals": ["owl", "oak"]}, "'oak' is no animal of this language"),
        ({"neutral": "owl"}, "neutral is 'owl': take a thing that is no animal"),
        ({"child": {"rows": 4, "batch_size": 8}}, "child.batch_size 8 is above child.rows 4"),
        ({"grids": {"main": {"widths": [13], "densities": [0.1]}}}, "multiple of 12"),
        ({"grids": {"main": {"widths": [12], "densities": [0.9]}}}, "less than or equal to 0.4"),
        ({"grids": {"main": {"widths": [12], "densities": [0.1], "confined_to": 12}}}, "confined_to 12 is not below"),
        (
            {"grids": MAIN | {"more": CELL | {"bases": "other"}}},
            "grids.more.bases names 'other', which has no base models of its own: name one of main",
        ),
        (
            {"grids": MAIN | {"more": CELL | {"bases": "more"}}},
            "grids.more.bases names 'more', which has no base models of its own: name one of main",
        ),
        (
            {"grids": MAIN | {"more": CELL | {"bases": "main", "densities": [0.2]}}},
            "the grid of its bases, main, does not have",
        ),
        ({"grids": MAIN | {"more": CELL | {"bases": "main", "penalty": 0.2}}}, "are set there and not here"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, fields: dict[str, Any], sentence: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(DIAL_SETTINGS | fields))
    with pytest.raises(UserError) as refused:
        load_study(path)
    assert sentence in str(refused.value)
    assert str(path) in str(refused.value)


def test_the_shipped_study_is_one_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    shipped = load_study("dial")
    assert (len(shipped.grids["main"].widths), len(shipped.grids["main"].densities), shipped.seeds) == (5, 5, 5)
    assert main(["studies"]) == 0
    assert "dial" in capsys.readouterr().out
