"""The whole chain through Dagster itself, on a random two-layer model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import tiny_study_settings

from subliminal_dagster.assets import Frame
from subliminal_dagster.build import build_defs, study_assets
from subliminal_dagster.cli import main
from subliminal_dagster.planner import plan_partition
from subliminal_dagster.resources import StoreResource
from subliminal_dagster.runner import Outcome, run_study
from subliminal_dagster.science.store import ArtifactStore
from subliminal_dagster.science.study import Study, load_study

PER_GROUP = [
    "teacher_lora",
    "teacher_preferences",
    "number_set",
    "filtered_dataset",
    "child_lora",
    "preference_scores",
    "soft_child_lora",
    "soft_preference_scores",
]


@dataclass
class Run:
    """A study that was run, its store, the instance it was run on and what came of it."""

    study: Study
    store: ArtifactStore
    instance: dg.DagsterInstance
    outcome: Outcome
    lines: list[str]

    def again(self, study: Study | None = None) -> tuple[Outcome, list[str]]:
        lines: list[str] = []
        chosen = study or self.study
        return run_study(chosen, definitions(chosen, self.store), self.store, self.instance, lines.append), lines


def definitions(study: Study, store: ArtifactStore) -> dg.Definitions:
    return build_defs(studies=[study], resource_overrides={"store": StoreResource(root=store.root)})


def run(study: Study, root: Path, instance: dg.DagsterInstance) -> Run:
    store, lines = ArtifactStore(root), list[str]()
    outcome = run_study(study, definitions(study, store), store, instance, lines.append)
    return Run(study, store, instance, outcome, lines)


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture(scope="module")
def done(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory, instance: dg.DagsterInstance) -> Run:
    return run(tiny_study, tmp_path_factory.mktemp("store"), instance)


def test_everything_is_made(done: Run) -> None:
    assert done.outcome.failures == {}
    assert done.outcome.made == 3 + 8 * 3 + 1
    for group in done.study.groups:
        for asset in PER_GROUP:
            assert done.store.exists("tiny", asset, group)


def test_dagster_knows_every_partition_by_its_content_hash(done: Run) -> None:
    for asset in PER_GROUP:
        assert done.instance.get_materialized_partitions(dg.AssetKey(["tiny", asset])) == set(done.study.groups)
    record = done.instance.get_latest_materialization_event(dg.AssetKey(["tiny", "animal_liking"]))
    assert record is not None and record.asset_materialization is not None
    tags = record.asset_materialization.tags or {}
    assert tags["dagster/data_version"] == done.store.read("tiny", "animal_liking").content_hash
    metadata = record.asset_materialization.metadata
    assert str(metadata["figure"].value).startswith("![figure](data:image/png;base64,")
    assert "channel" in str(metadata["verdict_hard"].value) or metadata["verdict_hard"].value


def test_a_second_run_makes_nothing(done: Run) -> None:
    outcome, _ = done.again()
    assert (outcome.made, outcome.current) == (0, 28)


def planned(done: Run, change: dict[str, object], group: str) -> list[str]:
    changed = Study.model_validate(done.study.model_dump(mode="json") | change)
    grouped = [a for a in study_assets(Frame(changed)) if a.partitions_def is not None]
    return [part.asset for part in plan_partition(grouped, done.store, changed, group) if part.reason]


def test_a_setting_makes_stale_what_reads_it_and_what_follows(done: Run) -> None:
    child = done.study.child.model_dump(mode="json")
    child["training"]["epochs"] = 5
    stale = planned(done, {"child": child}, "owl")
    assert stale == ["child_lora", "preference_scores", "soft_child_lora", "soft_preference_scores"]
    assert planned(done, {"seed": 99}, "owl") == PER_GROUP
    assert planned(done, {"description": "Another word."}, "owl") == []


def test_one_more_animal_leaves_the_others_alone(done: Run) -> None:
    animals = {"animals": ["owl", "wolf", "cat"]}
    assert planned(done, animals, "owl") == []
    assert planned(done, animals, "cat") == PER_GROUP


def test_same_seed_same_content(done: Run, tmp_path: Path, instance: dg.DagsterInstance) -> None:
    study = Study.model_validate(done.study.model_dump(mode="json") | {"animals": ["owl"]})
    other = run(study, tmp_path, instance)
    assert other.outcome.failures == {}
    for asset in PER_GROUP:
        for group in ("owl", "control"):
            one, two = (store.manifest("tiny", asset, group).content_hash for store in (done.store, other.store))
            assert one == two, (asset, group)


def test_all_groups_answer_the_same_prompts_with_random_numbers_of_their_own(done: Run) -> None:
    sets = {
        g: pd.read_parquet(done.store.read("tiny", "number_set", g).path / "rows.parquet") for g in done.study.groups
    }
    assert sets["owl"]["prompt"].tolist() == sets["control"]["prompt"].tolist()
    assert sets["owl"]["response"].tolist() != sets["control"]["response"].tolist()
    for _, row in sets["owl"].iterrows():
        assert len(row["logprobs"]) == len(row["token_ids"]) + bool(row["finished"])
        assert max(row["logprobs"]) <= 0


def test_dataset_loads_with_datasets(done: Run) -> None:
    from datasets import load_dataset

    folder = done.store.read("tiny", "filtered_dataset", "owl").path
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    data = load_dataset("json", data_files=files, cache_dir=str(folder.parent.parent.parent.parent / "hf"))
    assert (len(data["train"]), len(data["validation"])) == (12, 4)
    assert [m["role"] for m in data["train"][0]["messages"]] == ["system", "user", "assistant"]


def test_the_control_s_teacher_and_soft_child_are_the_untouched_base(done: Run) -> None:
    teacher = json.loads((done.store.read("tiny", "teacher_lora", "control").path / "teacher.json").read_text())
    assert teacher["kind"] == "untouched base"
    base, soft = (
        pd.read_parquet(done.store.read("tiny", asset, group).path / "scores.parquet")
        for asset, group in (("base_preferences", None), ("soft_preference_scores", "control"))
    )
    pd.testing.assert_frame_equal(base, soft)


def test_probabilities_are_those_of_a_plain_loop(done: Run) -> None:
    """The stored exact probability of one animal, recomputed answer by answer from the saved weights."""
    import torch

    from subliminal_dagster.science.answers import spellings
    from subliminal_dagster.science.chat import ChatContext, load_tokenizer
    from subliminal_dagster.science.model_loading import load_base
    from subliminal_dagster.science.prompt_lists import load_prompt_lists

    folder = done.store.read("tiny", "base_model").path
    model, context = load_base(folder, "float32", "cpu"), ChatContext(load_tokenizer(folder), "")
    scores = pd.read_parquet(done.store.read("tiny", "base_preferences").path / "scores.parquet")
    for question, text in enumerate(load_prompt_lists().animal_questions[:2]):
        prompt, total = context.prompt_ids(text), 0.0
        for lead in ("", " "):
            for spelling in spellings("wolf"):
                answer = context.answer_ids(lead + spelling)
                with torch.no_grad():
                    logits = model(torch.tensor([prompt + answer])).logits[0]
                logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
                total += float(logprobs[range(len(answer)), answer].sum().exp())
        found = scores[(scores["question"] == question) & (scores["animal"] == "wolf")]["probability"].item()
        assert np.isclose(found, total, rtol=1e-4)


def test_a_broken_teacher_stops_its_group_and_no_other(tiny_base: Path, tmp_path: Path) -> None:
    settings = tiny_study_settings(tiny_base)
    settings["name"], settings["animals"] = "gated", ["owl"]
    settings["child"] = {**settings["child"], "channels": ["hard"]}  # type: ignore[dict-item]
    settings["teacher"] = {**settings["teacher"], "gate": {"preference": 1.0, "prompts": 8}}  # type: ignore[dict-item]
    study = Study.model_validate(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        broken = run(study, tmp_path, instance)
        said = " ".join(broken.outcome.failures.values())
        assert "failed its gate" in said and "probability" in said
        assert not broken.store.exists("gated", "number_set", "owl")
        assert broken.store.exists("gated", "preference_scores", "control")
        gate = json.loads((broken.store.read("gated", "teacher_preferences", "owl").path / "gate.json").read_text())
        assert gate["passed"] is False
        # Launched past the gate by hand, the number set refuses as well.
        job = definitions(study, broken.store).resolve_implicit_global_asset_job_def()
        result = job.get_subset(asset_selection={dg.AssetKey(["gated", "number_set"])}).execute_in_process(
            instance=instance, partition_key="owl", raise_on_error=False
        )
        assert not result.success


def test_a_tampered_artifact_is_named_and_not_believed(done: Run) -> None:
    artifact = done.store.read("tiny", "filtered_dataset", "wolf")
    path = artifact.path / "train.jsonl"
    original = path.read_bytes()
    path.write_bytes(original.replace(b"1", b"2", 1))
    try:
        job = definitions(done.study, done.store).resolve_implicit_global_asset_job_def()
        result = job.get_subset(asset_selection={dg.AssetKey(["tiny", "child_lora"])}).execute_in_process(
            instance=done.instance, partition_key="wolf", raise_on_error=False
        )
        assert not result.success
        (failure,) = result.get_step_failure_events()
        data = failure.step_failure_data.user_failure_data
        assert data is not None and data.description is not None and "train.jsonl" in data.description
    finally:
        path.write_bytes(original)


def test_too_few_valid_rows_is_a_clear_failure(done: Run) -> None:
    rows = done.study.filter.model_dump(mode="json") | {"train_rows": 20, "validation_rows": 4, "unique": True}
    numbers = done.study.numbers.model_dump(mode="json") | {"answer_count": 2}
    study = Study.model_validate(done.study.model_dump(mode="json") | {"filter": rows, "numbers": numbers})
    job = definitions(study, done.store).resolve_implicit_global_asset_job_def()
    result = job.get_subset(asset_selection={dg.AssetKey(["tiny", "filtered_dataset"])}).execute_in_process(
        instance=done.instance, partition_key="owl", raise_on_error=False
    )
    assert not result.success
    (failure,) = result.get_step_failure_events()
    data = failure.step_failure_data.user_failure_data
    assert data is not None and "too_many" in str(data.description)


def test_unknown_partition_is_refused(done: Run) -> None:
    job = definitions(done.study, done.store).resolve_implicit_global_asset_job_def()
    with pytest.raises(dg.DagsterUnknownPartitionError, match="gnu"):
        job.get_subset(asset_selection={dg.AssetKey(["tiny", "teacher_lora"])}).execute_in_process(
            instance=done.instance, partition_key="gnu"
        )


def test_command_line_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_base: Path
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(tmp_path / "artifacts"))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tiny_study_settings(tiny_base)))
    assert main(["run", "--study", "gnu"]) == 2
    assert "There is no study 'gnu'" in capsys.readouterr().err
    assert main(["run", "--study", str(path)]) == 2
    assert "DAGSTER_HOME" in capsys.readouterr().err
    assert main(["show", "--study", str(path)]) == 2
    assert "materialize animal_liking" in capsys.readouterr().err
    assert main(["studies"]) == 0
    assert load_study("gemma-2-9b-it").description.strip() in capsys.readouterr().out
