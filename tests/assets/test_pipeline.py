"""The whole chain through Dagster itself, on a random two-layer model."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from study_runs import StudyRun, changed, refusal

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.selection import wanted_parts
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.storage.store import ArtifactStore

PER_GROUP = ["teacher_lora", "teacher_preferences", "number_set", "teacher_signal"]
PER_CHILD = ["filtered_dataset", "child_lora", "preference_scores", "soft_child_lora", "soft_preference_scores"]


def made(study: Study) -> list[tuple[str, str]]:
    """Every asset of a group or a child, with its partition."""
    return [
        *((asset, group) for group in study.groups for asset in PER_GROUP),
        *((asset, f"{group}|1") for group in study.groups for asset in PER_CHILD),
    ]


def test_everything_is_made(done: StudyRun) -> None:
    assert len(done.contents()) == 3 + 9 * 3 + 2
    for asset, partition in made(done.study):
        assert done.store.exists("tiny", asset, partition)


def test_dagster_knows_every_partition_by_its_content_hash(done: StudyRun) -> None:
    for asset in [*PER_GROUP, *PER_CHILD]:
        known = done.instance.get_materialized_partitions(dg.AssetKey(["tiny", asset]))
        assert known == {partition for name, partition in made(done.study) if name == asset}
    record = done.instance.get_latest_materialization_event(dg.AssetKey(["tiny", "animal_liking"]))
    assert record is not None and record.asset_materialization is not None
    tags = record.asset_materialization.tags or {}
    assert tags["dagster/data_version"] == done.store.read("tiny", "animal_liking").content_hash
    metadata = record.asset_materialization.metadata
    assert str(metadata["figure"].value).startswith("![figure](data:image/png;base64,")
    assert "channel" in str(metadata["verdict_hard"].value) or metadata["verdict_hard"].value


def test_same_seed_same_content(done: StudyRun, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        other = StudyRun(changed(done.study, animals=["owl"]), ArtifactStore(tmp_path), instance)
        assert other.run(wanted_parts(study_frame(other.study), None, ["owl"])).complete
    before, again = done.contents(), other.contents()
    assert {name for name, _ in again} == {"base_model", "base_preferences", "replay_set", *PER_GROUP, *PER_CHILD}
    for place, content in again.items():
        assert before[place] == content, place


def test_all_groups_answer_the_same_prompts_with_random_numbers_of_their_own(done: StudyRun) -> None:
    sets = {
        g: pd.read_parquet(done.store.read("tiny", "number_set", g).path / "rows.parquet") for g in done.study.groups
    }
    assert sets["owl"]["prompt"].tolist() == sets["control"]["prompt"].tolist()
    assert sets["owl"]["response"].tolist() != sets["control"]["response"].tolist()
    for _, row in sets["owl"].iterrows():
        assert len(row["logprobs"]) == len(row["token_ids"]) + bool(row["finished"])
        assert max(row["logprobs"]) <= 0


def test_dataset_loads_with_datasets(done: StudyRun) -> None:
    from datasets import load_dataset

    folder = done.store.read("tiny", "filtered_dataset", "owl|1").path
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    data = load_dataset("json", data_files=files, cache_dir=str(folder.parent.parent.parent.parent / "hf"))
    assert (len(data["train"]), len(data["validation"])) == (12, 4)
    assert [m["role"] for m in data["train"][0]["messages"]] == ["system", "user", "assistant"]


def test_the_control_s_teacher_and_soft_child_are_the_untouched_base(done: StudyRun) -> None:
    teacher = json.loads((done.store.read("tiny", "teacher_lora", "control").path / "teacher.json").read_text())
    assert teacher["kind"] == "untouched base"
    base, soft = (
        pd.read_parquet(done.store.read("tiny", asset, group).path / "scores.parquet")
        for asset, group in (("base_preferences", None), ("soft_preference_scores", "control|1"))
    )
    pd.testing.assert_frame_equal(base, soft)


def test_probabilities_are_those_of_a_plain_loop(done: StudyRun) -> None:
    """The stored exact probability of one animal, recomputed answer by answer from the saved weights."""
    import torch

    from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
    from subliminal_dagster.science.models.loading import load_base
    from subliminal_dagster.science.preferences.answers import spellings
    from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists

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


def test_a_measure_that_sees_too_little_is_warned_of(
    done: StudyRun, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = done.copy(tmp_path, instance, changed(done.study, preferences__begun=["I like the"]))
        result = run.materialize("base_preferences")
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert set(metadata["candidates_hold"].value) == {"exact", "begun", "sampled"}
    assert set(metadata["begun_leaves_out"].value) == {"wolf", "cat"}
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed and check.severity == dg.AssetCheckSeverity.WARN and not check.blocking
    blind = "The begun measure leaves out wolf and cat: no token stands for that name alone."
    assert blind in str(check.description)
    logged = capfd.readouterr().err
    assert blind in logged
    assert any("WARNING" in line for line in logged.splitlines() if blind in line)


def test_a_tampered_artifact_is_named_and_not_believed(done: StudyRun) -> None:
    artifact = done.store.read("tiny", "filtered_dataset", "wolf|1")
    path = artifact.path / "train.jsonl"
    original = path.read_bytes()
    path.write_bytes(original.replace(b"1", b"2", 1))
    try:
        result = done.materialize("child_lora", "wolf|1")
        assert not result.success
        assert "train.jsonl" in refusal(result)
    finally:
        path.write_bytes(original)


def test_unknown_partition_is_refused(done: StudyRun) -> None:
    with pytest.raises(dg.DagsterUnknownPartitionError, match="gnu"):
        done.materialize("teacher_lora", "gnu")
