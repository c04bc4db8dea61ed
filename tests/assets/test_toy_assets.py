"""A toy study through Dagster: all its assets in one run without partitions, and what a change makes stale."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import dagster as dg
import pandas as pd
import pytest
import yaml
from study_runs import StudyRun, changed
from tiny_studies import TOY_SETTINGS

from subliminal_dagster.build import build_defs
from subliminal_dagster.cli import main
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore
from subliminal_dagster.science.verdict import Verdict

ASSETS = ["ablated_small", "auxiliary_small", "ablated_other", "auxiliary_large", "digits", "summary"]


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("studies") / "tiny-toy.yaml"
    path.write_text(yaml.safe_dump(TOY_SETTINGS))
    return path


@pytest.fixture(scope="module")
def toys(study_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    with dg.DagsterInstance.ephemeral() as instance:
        run = StudyRun(load_study(study_file), ArtifactStore(tmp_path_factory.mktemp("toys")), instance)
        outcome = run.run()
        assert outcome.complete, outcome
        assert [asset for asset, _ in outcome.made][-1] == "report"
        assert {asset for asset, _ in outcome.made} == {*ASSETS, "report"}
        assert outcome.runs == len(ASSETS) + 1
        yield run


def test_everything_is_there_and_shown(toys: StudyRun) -> None:
    for asset in ASSETS:
        folder = toys.store.read("tiny-toy", asset).path
        (record,) = toys.instance.fetch_materializations(dg.AssetKey(["tiny-toy", asset]), limit=1).records
        shown = record.asset_materialization.metadata
        assert "data:image/png;base64" in str(shown["figure"].value)
        if asset.startswith(("ablated", "auxiliary")):
            assert {"models.parquet", "history.parquet", "children.parquet", "geometry.png"} <= set(os.listdir(folder))
            assert shown["dagster/row_count"].value == len(pd.read_parquet(folder / "children.parquet"))
    summary = toys.store.read("tiny-toy", "summary").path
    said = pd.read_parquet(summary / "statements.parquet")
    assert set(said["verdict"]) <= set(get_args(Verdict))
    assert set(said["source"]) >= {"post", "control", "Hinton et al. 2015", "Cloud et al. 2025"}
    report = (summary / "report.md").read_text()
    assert all(statement in report for statement in said["statement"])


@pytest.mark.parametrize(
    ("fields", "stale"),
    [
        ({"settings__other__child_init": "same"}, {"ablated_other", "summary"}),
        ({"settings__small__ablated": [0]}, {"ablated_small", "summary"}),
        ({"settings__small__auxiliary": [2]}, {"auxiliary_small", "summary"}),
        ({"settings__other__predicts": "recovery"}, {"summary"}),
        ({"settings__other__batch_loss": "mean"}, {"ablated_other", "summary"}),
        ({"settings__other__child_inputs": "trained"}, {"ablated_other", "summary"}),
        ({"digits__seeds": 3}, {"digits", "summary"}),
        ({"seed": 2}, set(ASSETS)),
    ],
)
def test_a_change_makes_stale_what_reads_it(toys: StudyRun, fields: dict[str, Any], stale: set[str]) -> None:
    run = StudyRun(changed(toys.study, **fields), toys.store, toys.instance)
    assert {part.asset for part in run.plan().due} == {*stale, "report"}


def test_an_interrupted_sweep_goes_on_in_the_next_run(
    toys: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from subliminal_dagster.science.toy import sweep

    train_unit, trained = sweep.train_unit, []

    def ends_soon(*arguments: Any) -> Any:
        trained.append(arguments)
        if len(trained) > 3:
            raise UserError("the lights went out")
        return train_unit(*arguments)

    with dg.DagsterInstance.ephemeral() as instance:
        run = StudyRun(toys.study, ArtifactStore(tmp_path), instance)
        monkeypatch.setattr(sweep, "train_unit", ends_soon)
        outcome = run.run({("ablated_small", None)})
        assert outcome.failed == {("ablated_small", None): "the lights went out"}
        monkeypatch.setattr(sweep, "train_unit", lambda *a: trained.append(a) or train_unit(*a))
        trained.clear()
        assert run.run({("ablated_small", None)}).complete
        assert 0 < len(trained) < 6
        made = run.store.read("tiny-toy", "ablated_small")
        assert made.content_hash == toys.store.read("tiny-toy", "ablated_small").content_hash


def test_the_group_in_one_command_gives_the_same_and_nothing_is_left_to_do(
    toys: StudyRun, study_file: Path, tmp_path: Path
) -> None:
    """As a user does it: no partition, no other argument than the group."""
    command = ["dagster", "asset", "materialize", "-m", "one_process", "--select", "group:tiny_toy_toy"]
    environment = os.environ | {
        "DAGSTER_HOME": str(tmp_path),
        "SUBLIMINAL_STUDIES": str(study_file),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    again = StudyRun(toys.study, ArtifactStore(tmp_path / "artifacts"), toys.instance)
    assert {asset for asset, _ in again.contents()} == {*ASSETS}
    assert again.contents() == toys.contents()
    # The group holds all but the report, which is every study's.
    assert toys.plan().due == []
    assert [part.asset for part in again.plan().due] == ["report"]


def test_the_command_line_shows_the_report(
    toys: StudyRun, study_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", toys.store.root)
    assert main(["show", "--study", str(study_file)]) == 0
    said = capsys.readouterr().out
    assert "Features per dimension grow with sparsity." in said
    assert "summary.png" in said
    assert main(["show", "--study", str(study_file), "--set", "name=never-run"]) == 2
    assert main(["plan", "--study", str(study_file), "--set", "settings.small.ablated=[9]"]) == 2
    assert "ablated features [9] do not exist: the indices are 0 to 7" in capsys.readouterr().err


def test_jobs_and_schedules_of_a_study_without_partitions(toys: StudyRun) -> None:
    definitions = build_defs(studies=[toys.study])
    names = {job.name for job in definitions.resolve_all_job_defs()}
    assert "tiny_toy_all" in names
    assert {schedule.name for schedule in definitions.schedules or []} == {"tiny_toy_nightly"}
