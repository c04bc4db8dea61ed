"""What is missing, stale, fresh or blocked, why, and that only that is made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.utils import make_new_run_id
from study_runs import StudyRun, changed, gate_between, refusal

from subliminal_dagster.build import study_frame
from subliminal_dagster.execution import runner
from subliminal_dagster.execution.live_runs import (
    CARRIER_TAG,
    HERE,
    PROCESS_TAG,
    being_made,
    bury_dead_runs,
    process_name,
)
from subliminal_dagster.execution.runner import show_recorded
from subliminal_dagster.planning import code_slice
from subliminal_dagster.planning.planner import Part, Plan
from subliminal_dagster.planning.selection import wanted_parts
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.processes import this_boot
from subliminal_dagster.science.settings import base_model as base_model_settings
from subliminal_dagster.science.settings.study import Study

CHILD = ["child_lora", "preference_scores", "soft_child_lora", "soft_preference_scores"]
GROUP = ["teacher_lora", "teacher_preferences", "number_set", "filtered_dataset", *CHILD, "teacher_signal"]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as kept:
        yield kept


@pytest.fixture
def mine(done: StudyRun, tmp_path: Path, instance: dg.DagsterInstance) -> StudyRun:
    """The finished tiny study in a store of the test's own."""
    return done.copy(tmp_path / "store", instance)


def with_settings(run: StudyRun, **fields: Any) -> StudyRun:
    return StudyRun(changed(run.study, **fields), run.store, run.instance)


def part(plan: Plan, asset: str, partition: str | None = None) -> Part:
    (found,) = [p for p in plan.parts if p.place == (asset, partition)]
    return found


def due(plan: Plan, group: str | None) -> list[str]:
    return [p.asset for p in plan.due if (p.partition.split("|")[0] if p.partition else None) == group]


def edit_code(monkeypatch: pytest.MonkeyPatch, module: str, old: str, new: str) -> None:
    """Let the package's source read as if one line of it were another."""
    real = code_slice.read_source

    def edited(name: str) -> str | None:
        source = real(name)
        if name == module:
            assert source is not None and old in source
            return source.replace(old, new)
        return source

    monkeypatch.setattr(code_slice, "read_source", edited)
    code_slice.forget()


@pytest.fixture(autouse=True)
def forget_edits() -> Iterator[None]:
    yield
    code_slice.forget()


def test_a_second_run_launches_nothing(done: StudyRun) -> None:
    outcome = done.run()
    assert (outcome.made, outcome.runs, outcome.fresh) == ([], 0, 33)
    assert outcome.complete


def test_a_setting_makes_stale_what_reads_it_and_what_may_follow(done: StudyRun) -> None:
    plan = with_settings(done, child__training__epochs=5).plan()
    assert due(plan, "owl") == CHILD
    assert due(plan, None) == ["animal_liking", "null_causes", "report"]
    child, scores = part(plan, "child_lora", "owl|1"), part(plan, "preference_scores", "owl|1")
    assert child.status == "stale" and child.sure
    assert child.reasons == ("setting child.training.epochs changed from 2 to 5",)
    assert not scores.sure and scores.waits_for == (("child_lora", "owl|1"),)
    assert scores.reasons == ("child_lora [owl|1] is to be made: setting child.training.epochs changed from 2 to 5",)
    assert child.seconds is not None and child.seconds > 0 and "cpu" in str(child.device)


def test_seeds_count_and_descriptions_do_not(done: StudyRun) -> None:
    assert due(with_settings(done, seed=99).plan(), "owl") == GROUP
    assert [p.asset for p in with_settings(done, description="Another word.").plan().due] == ["report"]


def test_a_change_of_revision_makes_everything_stale(done: StudyRun) -> None:
    source = {"kind": "hub", "repo": "someone/model", "revision": "0" * 40, "dtype": "float32"}
    plan = with_settings(done, base_model=source).plan()
    assert len(plan.due) == 33
    assert "setting base_model.kind changed from local to hub" in part(plan, "base_model").reasons


def test_one_more_animal_leaves_the_others_alone(done: StudyRun) -> None:
    plan = with_settings(done, animals=["owl", "wolf", "cat"]).plan()
    assert due(plan, "owl") == due(plan, "control") == []
    assert due(plan, "cat") == GROUP
    assert part(plan, "teacher_lora", "cat").status == "missing"
    # Another animal's teacher took this long.
    assert part(plan, "teacher_lora", "cat").seconds is not None


def test_the_machine_is_part_of_no_version(done: StudyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("SUBLIMINAL_BATCH", "3"),
        ("SUBLIMINAL_ENGINE", "vllm"),
        ("SUBLIMINAL_GPU_SHARE", "2"),
        ("SUBLIMINAL_GRADIENT_CHECKPOINTING", "yes"),
        ("SUBLIMINAL_MICRO_BATCH", "3"),
        ("CUDA_VISIBLE_DEVICES", "3"),
    ):
        monkeypatch.setenv(name, value)
    assert done.plan().due == []


def test_a_step_sees_one_gpu(mine: StudyRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names of GPUs are enough for that; the model computes on the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaa,GPU-bbb")
    monkeypatch.setenv("SUBLIMINAL_GPU_LOCKS", str(tmp_path / "locks"))
    assert mine.materialize("child_lora", "owl|1").success
    assert mine.store.manifest("tiny", "child_lora", "owl|1").info["host"]["gpu"] == "GPU-aaa"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aaa,GPU-bbb"
    assert mine.materialize("filtered_dataset", "owl|1").success
    assert "gpu" not in mine.store.manifest("tiny", "filtered_dataset", "owl|1").info["host"]


def test_code_counts_and_comments_do_not(done: StudyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "    training = study.child.training\n"
    edit_code(monkeypatch, "subliminal_dagster.science.training.children", line, f"    # A word.\n{line}\n")
    assert done.plan().due == []
    monkeypatch.undo()
    edit_code(monkeypatch, "subliminal_dagster.science.training.children", line, f"{line}    training = training\n")
    plan = done.plan()
    assert due(plan, "owl") == CHILD and due(plan, None) == ["animal_liking", "null_causes", "report"]
    assert part(plan, "child_lora", "owl|1").reasons == ("code of make_child changed",)


def test_a_rerun_that_makes_the_same_stops_there(mine: StudyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "    training = study.child.training\n"
    edit_code(monkeypatch, "subliminal_dagster.science.training.children", line, f"{line}    training = training\n")
    before = mine.contents()
    outcome = mine.run()
    assert {asset for asset, _ in outcome.made} == {"child_lora", "soft_child_lora"}
    assert len(outcome.made) == 6 and outcome.complete
    assert mine.contents() == before


def test_only_what_is_gone_or_damaged_is_made_again(mine: StudyRun) -> None:
    before = mine.contents()
    shutil.rmtree(Path(mine.store.root) / "tiny" / "number_set" / "owl")
    adapter = mine.store.read("tiny", "child_lora", "wolf|1").path / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1])
    plan = mine.plan()
    assert part(plan, "number_set", "owl").status == "missing"
    damaged = part(plan, "child_lora", "wolf|1")
    assert damaged.status == "stale" and "adapter_model.safetensors" in damaged.reasons[0]
    outcome = mine.run()
    assert set(outcome.made) == {("number_set", "owl"), ("child_lora", "wolf|1")}
    assert mine.contents() == before


def test_a_selection_brings_what_it_needs_and_no_more(mine: StudyRun) -> None:
    changed_run = with_settings(mine, child__training__epochs=1)
    frame = study_frame(changed_run.study)
    outcome = changed_run.run(wanted_parts(frame, "preference_scores", ["owl"]))
    assert outcome.made == [("child_lora", "owl|1"), ("preference_scores", "owl|1")] and outcome.complete
    assert part(changed_run.plan(), "child_lora", "wolf|1").status == "stale"


def test_selections(done: StudyRun) -> None:
    frame = study_frame(done.study)
    usual = {(name, p) for name in frame.nodes for p in frame.partitions(name) if name != "checkpoint_scores"}
    assert wanted_parts(frame, None, None) == usual
    assert wanted_parts(frame, "number_set", ["owl", "control"]) == {("number_set", "owl"), ("number_set", "control")}
    assert wanted_parts(frame, "tiny/base_model", None) == {("base_model", None)}
    assert wanted_parts(frame, "base_model,replay_set", None) == {("base_model", None), ("replay_set", None)}
    assert wanted_parts(frame, "group:results", ["owl"]) == {("animal_liking", None), ("null_causes", None)}
    assert {asset for asset, _ in wanted_parts(frame, "number_set+1", ["owl"]) or ()} == {
        "number_set",
        "filtered_dataset",
        "report",
    }
    assert {asset for asset, _ in wanted_parts(frame, None, ["owl"]) or ()} == set(GROUP)
    with pytest.raises(UserError, match="no partition 'gnu': choose among owl, wolf, control"):
        wanted_parts(frame, None, ["gnu"])
    with pytest.raises(UserError, match="teacher_larva"):
        wanted_parts(frame, "teacher_larva", None)


@pytest.fixture(scope="module")
def gated(done: StudyRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StudyRun, str, str]]:
    """The tiny study with a gate that one teacher passes and one does not: the run, and the names of the two."""
    good, bad, gate = gate_between(done)
    with dg.DagsterInstance.ephemeral() as instance:
        study = changed(done.study, teacher__gate__preference=gate, child__channels=["hard"])
        yield done.copy(tmp_path_factory.mktemp("gated"), instance, study), good, bad


def test_a_gate_stops_its_group_and_no_other(gated: tuple[StudyRun, str, str]) -> None:
    run, good, bad = gated
    outcome = run.run()
    assert not outcome.complete and outcome.failed == {} and outcome.waiting == {}
    assert outcome.blocked.keys() == {
        *((asset, bad) for asset in ("teacher_preferences", "number_set", "teacher_signal")),
        *((asset, f"{bad}|1") for asset in ("filtered_dataset", "child_lora", "preference_scores")),
    }
    assert all("the gate asks for" in sentence for sentence in outcome.blocked.values())
    assert ("teacher_preferences", good) in outcome.made
    again = run.run()
    assert again.made == [] and again.blocked == outcome.blocked, "a refused teacher is not judged again"


def test_the_comparison_names_the_group_it_leaves_out(gated: tuple[StudyRun, str, str]) -> None:
    import json

    run, good, bad = gated
    run.run()
    artifact = run.store.read("tiny", "animal_liking")
    left_out = json.loads((artifact.path / "left_out.json").read_text())
    assert list(left_out) == [bad] and "was refused" in left_out[bad]
    assert f"preference_scores/{good}|1" in artifact.info["upstream"]
    assert not any(f"/{bad}" in name for name in artifact.info["upstream"])


def test_a_gate_holds_for_whoever_launches_what(gated: tuple[StudyRun, str, str]) -> None:
    run, _, bad = gated
    run.run()
    for asset, partition in (("number_set", bad), ("filtered_dataset", f"{bad}|1"), ("child_lora", f"{bad}|1")):
        # What was made before from a teacher that passed is still there, and must not be built on.
        result = run.materialize(asset, partition)
        assert not result.success
        assert "teacher_preferences" in refusal(result) and "was refused" in refusal(result)
    job = run.definitions.resolve_job_def("tiny_groups")
    result = job.execute_in_process(instance=run.instance, partition_key=bad, raise_on_error=False)
    assert not result.success
    made = {event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key}
    assert made == {"teacher_lora", "teacher_preferences"}
    assert part(run.plan(), "number_set", bad).status == "blocked"


def test_a_gate_opens_again_with_its_setting(gated: tuple[StudyRun, str, str], tmp_path: Path) -> None:
    run, _, bad = gated
    run.run()
    with dg.DagsterInstance.ephemeral() as instance:
        opened = run.copy(tmp_path, instance, changed(run.study, teacher__gate__preference=0.0))
        judged = part(opened.plan(), "teacher_preferences", bad)
        assert judged.status == "stale" and judged.reasons[0].startswith("setting teacher.gate.preference changed from")
        outcome = opened.run()
        assert outcome.complete
        assert ("number_set", bad) not in outcome.made, "the teacher is the same, and so are its numbers"


def test_too_few_valid_rows_is_a_gate(mine: StudyRun) -> None:
    short = with_settings(
        mine, filter__train_rows=20, filter__validation_rows=4, filter__unique=True, numbers__answer_count=2
    )
    result = short.materialize("filtered_dataset", "owl|1")
    assert not result.success and "too_many" in refusal(result)
    (check,) = result.get_asset_check_evaluations()
    assert check.metadata["usable_answers_asked_for"].value == 24 > check.metadata["usable_answers"].value
    shown = pd.read_parquet(short.store.read("tiny", "filtered_dataset", "owl|1").path / "rows.parquet")
    assert not shown["valid"].all(), "what was rejected can be looked at"
    for asset in ("child_lora", "soft_child_lora", "preference_scores"):
        refused = short.materialize(asset, "owl|1")
        assert not refused.success and "filtered_dataset [owl|1] was refused" in refusal(refused)


def test_a_teacher_trained_again_must_be_judged_again(mine: StudyRun) -> None:
    other = with_settings(mine, teacher__training__learning_rate=0.01)
    assert other.materialize("teacher_lora", "owl").success
    result = other.materialize("number_set", "owl")
    assert not result.success and "has not passed its gate since" in refusal(result)


def test_dagster_shows_what_a_gate_found(mine: StudyRun) -> None:
    """A refusal is a materialization with a failed check that says value, threshold and partition; it is not tried
    again, stops what is downstream in its run, and takes the place of an earlier pass."""
    key = dg.AssetCheckKey(dg.AssetKey(["tiny", "teacher_preferences"]), "gate")

    def latest() -> AssetCheckEvaluation:
        (record,) = mine.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert record.event is not None and record.event.dagster_event is not None
        return record.event.dagster_event.asset_check_evaluation_data

    assert mine.materialize("teacher_preferences", "owl").success
    assert latest().passed and latest().metadata["partition"].value == "owl"
    strict = with_settings(mine, teacher__gate__preference=1.0)
    job = strict.definitions.resolve_implicit_global_asset_job_def()
    keys = {dg.AssetKey(["tiny", name]) for name in ("teacher_preferences", "number_set")}
    result = job.get_subset(asset_selection=keys).execute_in_process(
        instance=mine.instance, partition_key="owl", raise_on_error=False
    )
    assert not result.success
    assert [event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key] == [
        "teacher_preferences"
    ]
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    check = latest()
    assert not check.passed and check.blocking and "the gate asks for 1.0" in str(check.description)
    assert check.metadata["partition"].value == "owl"
    assert check.metadata["preference_asked_for"].value == 1.0 > check.metadata["preference"].value
    assert strict.plan().of("blocked")[0].name == "teacher_preferences [owl]"


def test_dagster_and_the_plan_agree_on_partitions(mine: StudyRun) -> None:
    """Dagster's own resolver (private, and one hop deep) as an independent judge of each partition."""
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    def verdicts(run: StudyRun) -> dict[tuple[str, str | None], bool]:
        definitions = run.definitions
        graph = definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(run.instance, graph, LoadingContextForTest(run.instance))
        return {
            p.place: resolver.get_status(dg.AssetKey(["tiny", p.asset]), p.partition) == StaleStatus.FRESH
            for p in run.plan().parts
        }

    def ours(run: StudyRun) -> dict[tuple[str, str | None], bool]:
        return {p.place: p.status == "fresh" or not p.sure for p in run.plan().parts}

    assert show_recorded(mine.plan(), mine.store, mine.instance, study_frame(mine.study)) == 33
    assert show_recorded(mine.plan(), mine.store, mine.instance, study_frame(mine.study)) == 0
    assert all(verdicts(mine).values())
    for change in ({"child__training__epochs": 1}, {"seed": 8}, {"comparison__permutations": 300}):
        other = with_settings(mine, **change)
        assert verdicts(other) == ours(other), change
    # After the child alone was made anew, what reads it is stale for both.
    other = with_settings(mine, child__training__epochs=1)
    assert other.materialize("child_lora", "owl|1").success
    assert verdicts(other) == ours(other)


def test_a_dead_run_is_buried_and_a_live_one_is_waited_for(mine: StudyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    job = mine.definitions.resolve_implicit_global_asset_job_def()
    keys = {dg.AssetKey(["tiny", "child_lora"])}

    def started(process: str, partition: str, signed: str | None = None, carrier: str = "slurm 1") -> dg.DagsterRun:
        run_id = make_new_run_id()
        return mine.instance.create_run_for_job(
            job.get_subset(asset_selection=keys),
            run_id=run_id,
            tags={
                PROCESS_TAG: f"{signed or run_id} {process}",
                CARRIER_TAG: carrier,
                "dagster/partition": partition,
            },
            asset_selection=frozenset(keys),
            status=dg.DagsterRunStatus.STARTED,
        )

    dead = started(f"{this_boot()} {2**22} 1", "owl|1")
    alive = started(process_name(os.getppid()), "wolf|1")
    # What it makes is claimed in the store, for as long as its process lives.
    started(process_name(os.getppid()), "owl|1", carrier=HERE)
    # One that a person launched again has the tags of the first, and is in no process yet.
    again = started(f"{this_boot()} {2**22} 1", "wolf|1", signed=dead.run_id)
    assert bury_dead_runs(mine.instance) == [dead.run_id]
    mine.instance.report_run_canceled(again)
    found = mine.instance.get_run_by_id(dead.run_id)
    assert found is not None and found.status == dg.DagsterRunStatus.FAILURE
    told = f"run {alive.run_id[:8]} is making it"
    assert being_made(mine.instance, "tiny", study_frame(mine.study).nodes) == {("child_lora", "wolf|1"): told}
    monkeypatch.setattr(runner, "LOOKS", 2)
    outcome = with_settings(mine, child__training__epochs=1, child__channels=["hard"]).run()
    assert ("child_lora", "owl|1") in outcome.made and ("child_lora", "wolf|1") not in outcome.made
    assert outcome.waiting[("child_lora", "wolf|1")] == told
    assert not outcome.complete


def test_a_new_history_is_told_of_a_report_that_was_made_without_what_is_on_request(mine: StudyRun) -> None:
    study = changed(mine.study, capability={"exam": {"kind": "local", "path": "/an/exam.parquet"}})
    usual = study_frame(study).usual_parts()
    assert StudyRun(study, mine.store, mine.instance).run(usual).made == [("report", None)]
    with dg.DagsterInstance.ephemeral() as new:
        outcome = StudyRun(study, mine.store, new).run(usual)
        assert outcome.complete and outcome.made == []
        assert new.get_latest_materialization_event(dg.AssetKey(["tiny", "report"])) is not None
        gate = dg.AssetCheckKey(dg.AssetKey(["tiny", "teacher_preferences"]), "gate")
        told = new.event_log_storage.get_asset_check_execution_history(gate, limit=10)
        assert sorted(record.partition or "" for record in told) == sorted(study.groups)


def test_a_failure_is_said_and_the_rest_goes_on(mine: StudyRun, study_with_long_rows: Study) -> None:
    run = StudyRun(study_with_long_rows, mine.store, mine.instance)
    outcome = run.run()
    assert outcome.failed.keys() == {("child_lora", "owl|1"), ("child_lora", "wolf|1"), ("child_lora", "control|1")}
    assert "training.max_length" in outcome.failed[("child_lora", "owl|1")]
    assert ("soft_child_lora", "owl|1") in outcome.made
    assert outcome.waiting[("preference_scores", "owl|1")] == "it needs child_lora [owl|1]"


@pytest.fixture
def study_with_long_rows(done: StudyRun) -> Study:
    """Hard children fail, since no row fits; soft ones have a training of their own, and one epoch."""
    soft = done.study.child.training.model_dump(mode="json") | {"epochs": 1}
    return changed(done.study, child__training__max_length=8, child__soft__training=soft)


def ticks(run: StudyRun) -> dg.SensorResult:
    """What the sensor asks for."""
    definitions = run.definitions
    # Left open, the context would be closed whenever it is collected, and take the next test's instance with it.
    with dg.build_sensor_context(
        instance=run.instance, repository_def=definitions.get_repository_def(), resources=definitions.resources
    ) as context:
        return definitions.resolve_sensor_def("tiny_always").evaluate_tick(context)


def night(run: StudyRun) -> dg.ScheduleExecutionData:
    """What the schedule asks for."""
    definitions = run.definitions
    with dg.build_schedule_context(
        instance=run.instance, repository_def=definitions.get_repository_def(), resources=definitions.resources
    ) as context:
        return definitions.resolve_schedule_def("tiny_nightly").evaluate_tick(context)


def test_a_tick_requests_exactly_what_can_run(mine: StudyRun) -> None:
    quiet = ticks(mine)
    assert quiet.run_requests == [] and "33 fresh" in str(quiet.skip_message)
    run = with_settings(mine, child__training__epochs=1)
    requests = ticks(run).run_requests or []
    assert {(r.partition_key, *(k.path[-1] for k in r.asset_selection or ())) for r in requests} == {
        (f"{group}|1", "child_lora", "soft_child_lora") for group in run.study.groups
    }
    assert len({r.run_key for r in requests}) == 3
    assert [r.run_key for r in ticks(run).run_requests or []] == [r.run_key for r in requests]


def record(run: StudyRun, request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
    """A run as the daemon makes it for a request, in some state."""
    chosen = set(request.asset_selection or ())
    job = run.definitions.resolve_implicit_global_asset_job_def()
    run.instance.create_run_for_job(
        job.get_subset(asset_selection=chosen),
        tags={**request.tags, "dagster/partition": str(request.partition_key)},
        asset_selection=frozenset(chosen),
        status=status,
    )


def test_a_tick_does_not_ask_for_what_is_in_the_making_or_done(mine: StudyRun) -> None:
    run = with_settings(mine, child__training__epochs=1)
    first, second, third = ticks(run).run_requests or []
    record(run, first, dg.DagsterRunStatus.STARTED)
    record(run, second, dg.DagsterRunStatus.SUCCESS)
    record(run, third, dg.DagsterRunStatus.CANCELED)
    after = ticks(run)
    assert after.run_requests == []
    assert "of them in the making" in str(after.skip_message)


def test_a_tick_asks_again_for_what_was_killed_but_not_for_what_failed(mine: StudyRun) -> None:
    run = with_settings(mine, child__training__max_length=8, child__channels=["hard"])
    first, second, third = ticks(run).run_requests or []
    job = run.definitions.resolve_implicit_global_asset_job_def()
    failed = job.get_subset(asset_selection=set(first.asset_selection or ())).execute_in_process(
        instance=run.instance, partition_key=first.partition_key, tags=first.tags, raise_on_error=False
    )
    assert not failed.success
    record(run, second, dg.DagsterRunStatus.FAILURE)
    keys = [r.run_key for r in ticks(run).run_requests or []]
    assert third.run_key in keys and first.run_key not in keys and len(keys) == 2
    for _ in range(2):
        record(run, second, dg.DagsterRunStatus.FAILURE)
    assert [r.run_key for r in ticks(run).run_requests or []] == [third.run_key]


@pytest.fixture
def mine_on_disk(done: StudyRun, tmp_path: Path) -> Iterator[StudyRun]:
    """The same with a history in files, without which Dagster evaluates no schedule."""
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as kept:
        yield done.copy(tmp_path / "store", kept)


def test_a_night_has_one_run_of_the_whole_study_where_something_is_due(mine_on_disk: StudyRun) -> None:
    mine = mine_on_disk
    quiet = night(mine)
    assert quiet.run_requests == [] and "33 fresh" in str(quiet.skip_message)
    run = with_settings(mine, child__training__epochs=1)
    (request,) = night(run).run_requests or []
    definitions = run.definitions
    assert definitions.resolve_schedule_def("tiny_nightly").job_name == "tiny_make"
    job = definitions.resolve_job_def("tiny_make")
    going = run.instance.create_run_for_job(job, tags=request.tags, status=dg.DagsterRunStatus.STARTED)
    assert "tiny_make is at work" in str(night(run).skip_message)
    run.instance.report_run_failed(going, "its process was killed")
    (again,) = night(run).run_requests or []
    assert again.run_key != request.run_key and again.tags == request.tags
    run.instance.create_run_for_job(job, tags=request.tags, status=dg.DagsterRunStatus.SUCCESS)
    assert "tonight's run has ended" in str(night(run).skip_message)


def test_the_nightly_schedule_is_on_only_where_it_is_asked_for(mine: StudyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBLIMINAL_NIGHTLY", raising=False)
    assert mine.definitions.resolve_schedule_def("tiny_nightly").default_status == dg.DefaultScheduleStatus.STOPPED
    assert mine.definitions.resolve_sensor_def("tiny_always").default_status == dg.DefaultSensorStatus.STOPPED
    monkeypatch.setenv("SUBLIMINAL_NIGHTLY", "*/5 2-4 * * *")
    schedule = mine.definitions.resolve_schedule_def("tiny_nightly")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.cron_schedule == "*/5 2-4 * * *"
    monkeypatch.setenv("SUBLIMINAL_NIGHTLY", "at night")
    with pytest.raises(UserError, match="not a cron expression: set it to one such as"):
        _ = mine.definitions


def test_the_type_of_the_base_model_is_part_of_it(mine: StudyRun) -> None:
    """The same weights in another type are another model for all that is built on it."""
    other = with_settings(mine, base_model__dtype="bfloat16")
    assert part(other.plan(), "base_model", None).reasons[0].startswith("setting base_model.dtype changed from float32")
    before = mine.contents()["base_model", None]
    assert other.materialize("base_model").success
    assert mine.contents()["base_model", None] != before
    assert part(other.plan(), "teacher_lora", "owl").status == "stale"


def test_other_weights_in_a_local_folder_are_seen(
    mine: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model_settings, "MODEL_HASHES", tmp_path / "hashes")
    shutil.copytree(mine.study.base_model.path, tmp_path / "model")
    moved = with_settings(mine, base_model__path=str(tmp_path / "model"))
    assert moved.plan().due == [], "where a model lies is no part of it"
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert part(moved.plan(), "base_model", None).status == "stale"
