"""A run on another machine: Dagster hears of it as of one on this."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from tiny_models import save_tiny_model
from tiny_studies import tiny_study_settings

from subliminal_dagster.build import build_defs, definitions_apart, study_frame
from subliminal_dagster.execution.carriers.apart import Answer, Order, RunsApart, carry
from subliminal_dagster.execution.live_runs import CARRIER_TAG
from subliminal_dagster.execution.runner import execute
from subliminal_dagster.planning.planner import DueRun, make_plan
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.storage.store import ArtifactStore

ELSEWHERE = """
import pickle, sys
from subliminal_dagster.execution.carriers.apart import carry
order = pickle.loads(sys.stdin.buffer.read())
open(sys.argv[1], "wb").write(pickle.dumps(carry(order)))
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunsApart]:
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(tmp_path / "artifacts"))
    study = Study.model_validate(tiny_study_settings(save_tiny_model(tmp_path / "base")))
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as instance:
        definitions = build_defs(studies=[study])
        root = str(tmp_path / "artifacts")
        yield RunsApart(study, definitions, instance, definitions_apart, execute, root, attempts=2)


def due(runs: RunsApart, asset: str, partition: str | None = None) -> DueRun:
    plan = make_plan(study_frame(runs.study), ArtifactStore(runs.artifacts))
    (part,) = [part for part in plan.due if part.place == (asset, partition)]
    return DueRun(part.study, part.partition, (part,))


def on_another_machine(order: Order, tmp_path: Path) -> Answer:
    """Carried out by a process that knows of none of this one's folders but by the order."""
    answer = tmp_path / "answer"
    left_out = ("SUBLIMINAL_ARTIFACTS", "DAGSTER_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(answer)], input=pickle.dumps(order), env=environment, cwd="/", check=True
    )
    found: Answer = pickle.loads(answer.read_bytes())
    return found


def test_dagster_shows_it_while_it_goes_on_and_all_of_it_afterwards(runs: RunsApart, tmp_path: Path) -> None:
    order = runs.order(due(runs, "base_model"))
    runs.sent(order, "batch 7")
    (shown,) = runs.instance.get_runs()
    assert (shown.run_id, shown.is_finished, shown.tags[CARRIER_TAG]) == (order.run_id, False, "batch 7")
    carried = runs.answered(order, on_another_machine(order, tmp_path), "/logs/7.out")
    assert (carried.made, carried.errors) == (["base_model"], {})
    run = runs.instance.get_run_by_id(order.run_id)
    assert run is not None and run.status is dg.DagsterRunStatus.SUCCESS
    key = dg.AssetKey([runs.study.name, "base_model"])
    (record,) = runs.instance.fetch_materializations(key, limit=1).records
    manifest = ArtifactStore(runs.artifacts).manifest(runs.study.name, "base_model")
    assert record.run_id == order.run_id
    assert record.asset_materialization is not None
    assert record.asset_materialization.metadata["content_hash"].value == manifest.content_hash
    assert any("output in /logs/7.out" in str(entry.message) for entry in runs.instance.all_logs(order.run_id))


def test_a_group_with_its_gate_and_a_failure(runs: RunsApart) -> None:
    def made(asset: str, partition: str | None) -> tuple[Order, Answer]:
        order = runs.order(due(runs, asset, partition))
        runs.sent(order, "batch")
        return order, carry(order)

    first, answer = made("filtered_dataset", "control|1")
    carried = runs.answered(first, answer)
    # Nothing it is made from is there, so this is an error of the system and not of a gate.
    assert list(carried.errors) == ["filtered_dataset"]
    run = runs.instance.get_run_by_id(first.run_id)
    assert run is not None and run.status is dg.DagsterRunStatus.FAILURE
    for asset, partition in (
        ("base_model", None),
        ("base_preferences", None),
        ("replay_set", None),
        ("teacher_lora", "control"),
        ("teacher_preferences", "control"),
    ):
        order, answer = made(asset, partition)
        carried = runs.answered(order, answer)
        assert (carried.made, carried.errors) == ([asset], {})
    key = dg.AssetKey([runs.study.name, "teacher_preferences"])
    assert runs.instance.get_materialized_partitions(key) == {"control"}
    (check,) = runs.instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(key, "gate")]
    ).values()
    assert check.evaluation is not None and check.evaluation.passed
    assert runs.instance.get_runs(dg.RunsFilter(tags={"dagster/partition": "control"}))


def test_a_lost_run_begins_again_and_fails_when_that_happens_too_often(runs: RunsApart) -> None:
    run = due(runs, "base_model")

    def lost(begin_again: bool = True) -> tuple[bool, dict[str, str]]:
        order = runs.order(run)
        runs.sent(order, "batch 8")
        carried = runs.lost(order, "its node went down", begin_again)
        found = runs.instance.get_run_by_id(order.run_id)
        assert found is not None and found.status is dg.DagsterRunStatus.FAILURE
        return carried.begin_again, carried.errors

    assert lost() == (True, {})
    assert lost() == (False, {"base_model": "its node went down, 2 times"})
    assert lost(begin_again=False) == (False, {"base_model": "its node went down"})
