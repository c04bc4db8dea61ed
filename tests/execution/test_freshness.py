"""The plan's verdict on each asset's page: a check that says which parts are stale, and why."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from study_runs import StudyRun, changed
from tiny_studies import TOY_SETTINGS

from subliminal_dagster.build import study_frame
from subliminal_dagster.execution.freshness import show_fresh
from subliminal_dagster.partitions import job_name
from subliminal_dagster.planning.frame import FRESH_CHECK
from subliminal_dagster.planning.planner import Part, Plan
from subliminal_dagster.science.settings.toy import ToyStudy
from subliminal_dagster.science.storage.store import ArtifactStore

SMALL, OTHER = "ablated_small", "ablated_other"
QUICK = {f"settings__{name}__training__steps": 2 for name in ("small", "other")}


def check_of(asset: str) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(dg.AssetKey(["tiny-toy", asset]), FRESH_CHECK)


def shown(instance: dg.DagsterInstance, asset: str) -> AssetCheckEvaluation:
    (record,) = instance.event_log_storage.get_asset_check_execution_history(check_of(asset), limit=1)
    assert record.evaluation is not None
    return record.evaluation


@pytest.fixture(scope="module")
def half_made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    """A toy study of which two assets were made."""
    with dg.DagsterInstance.ephemeral() as instance:
        store = ArtifactStore(tmp_path_factory.mktemp("toy"))
        run = StudyRun(changed(ToyStudy.model_validate(TOY_SETTINGS), **QUICK), store, instance)
        assert sorted(run.run([(SMALL, None), (OTHER, None)]).made) == [(OTHER, None), (SMALL, None)]
        yield run


def test_a_run_of_the_command_reports_it_and_spends_no_step_on_it(half_made: StudyRun) -> None:
    instance = half_made.instance
    for asset in (SMALL, OTHER):
        made = shown(instance, asset)
        assert made.passed and (made.metadata["value"].value, made.metadata["fresh"].value) == (0, 1)
    assert not instance.event_log_storage.get_asset_check_execution_history(check_of("report"), limit=1), "never made"
    logs = [entry for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]
    steps = {entry.dagster_event.step_key for entry in logs if entry.dagster_event}
    assert len(steps) > 2 and not any("fresh" in str(step) for step in steps)


def test_what_is_stale_is_named_with_its_reason(half_made: StudyRun) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        study = changed(half_made.study, settings__small__training__steps=3)
        run = StudyRun(study, half_made.store, instance, checked=True)
        result = run.definitions.resolve_job_def(job_name("tiny-toy", "check")).execute_in_process(instance=instance)
        assert result.success, "it says, and holds nothing back"
        assert not result.get_asset_materialization_events()
        small, other = shown(instance, SMALL), shown(instance, OTHER)
    assert other.passed
    assert not small.passed and small.severity is dg.AssetCheckSeverity.WARN
    assert (small.metadata["value"].value, small.metadata["threshold"].value) == (1, 0)
    (reason,) = small.metadata["stale"].value.values()  # type: ignore[union-attr]
    assert reason.startswith("setting settings.small.training.steps changed from 2 to 3")


def test_one_asset_can_be_checked_alone(half_made: StudyRun) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = StudyRun(half_made.study, half_made.store, instance, checked=True)
        job = run.definitions.resolve_implicit_global_asset_job_def()
        alone = job.get_subset(asset_selection=set(), asset_check_selection={check_of(SMALL)})
        (check,) = alone.execute_in_process(instance=instance).get_asset_check_evaluations()
    assert check.passed and check.asset_check_key == check_of(SMALL)


def test_partitions_are_told_apart(half_made: StudyRun) -> None:
    frame = study_frame(half_made.study)
    parts = (
        Part("tiny-toy", SMALL, "owl|1", "stale", ("the content of its numbers changed", "setting seed changed")),
        Part("tiny-toy", SMALL, "cat|1", "fresh"),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        show_fresh(Plan("tiny-toy", parts), instance, frame, {SMALL})
        said = shown(instance, SMALL)
        show_fresh(Plan("tiny-toy", parts[1:]), instance, frame, ())
        assert shown(instance, SMALL).passed, "another verdict than the last is told"
    assert said.description == "1 of 2 parts are out of date."
    assert said.metadata["stale"].value == {
        f"{SMALL} [owl|1]": "the content of its numbers changed; setting seed changed"
    }
