"""Training adapters on a tiny model: against a plain loop, the same twice, and on after a kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save_tiny_adapter, save_tiny_model

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.models.loading import load_base, loaded
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings
from subliminal_dagster.science.storage.content_hash import folder_content_hash
from subliminal_dagster.science.training import adapter as training
from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.soft_targets import head_logprobs, teacher_states
from subliminal_dagster.science.training.task import EarlyStop, Row, SoftTargets, TrainingReport, TrainingTask

LORA = LoraSettings(rank=4, alpha=8, dropout=0.1)
SUPPORT = tuple(range(20, 40))


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(**{"learning_rate": 0.01, "batch_size": 4, "epochs": 3, "warmup": 0.1} | changes)


def some_rows(n: int = 12) -> list[Row]:
    rng = np.random.default_rng(0)
    return [
        Row(rng.integers(5, 60, 4 + i % 3).tolist(), [*rng.integers(20, 40, 3 + i % 5).tolist(), 2]) for i in range(n)
    ]


def train(base: Path, output: Path, workspace: Path, **changes: Any) -> TrainingReport:
    workspace.mkdir(parents=True, exist_ok=True)
    progress = changes.pop("progress", None)
    task = TrainingTask(ModelVariant(base), some_rows(), LORA, settings(), 5, validation=some_rows(16)[12:])
    return TrlTrainer().train(replace(task, **changes), output, workspace, progress)


def plain_loss(model: Any, rows: list[Row]) -> float:
    """Mean cross-entropy a completion token, one row at a time, from all logits."""
    total, tokens = 0.0, 0
    for row in rows:
        logits = model(torch.tensor([row.prompt + row.answer])).logits[0].float()
        predicted = torch.log_softmax(logits[len(row.prompt) - 1 : -1], dim=-1)
        total -= float(predicted[range(len(row.answer)), row.answer].sum())
        tokens += len(row.answer)
    return total / tokens


def test_losses_are_those_of_a_plain_loop(tiny_base: Path, tmp_path: Path) -> None:
    report = train(tiny_base, tmp_path / "out", tmp_path / "work", lora=LoraSettings(rank=4, alpha=8))
    with torch.no_grad():
        untrained = plain_loss(load_base(tiny_base, "float32", "cpu"), some_rows())
        with loaded(ModelVariant(tiny_base, adapter=tmp_path / "out"), "cpu", merge=True) as model:
            validation = plain_loss(model, some_rows(16)[12:])
    history = report.history
    # Before the first step the adapter does nothing, so one epoch of first batches would be the base's loss: the
    # first step's batch is a third of it, which the mean over the first epoch brackets.
    assert history["loss"].dropna().iloc[0] == pytest.approx(untrained, rel=0.5)
    assert history["validation_loss"].dropna().iloc[-1] == pytest.approx(validation, abs=1e-4)
    assert history["loss"].dropna().iloc[-1] < untrained
    assert report.padding_share < 0.1
    assert report.epochs == [1, 2, 3]


def plain_divergence(model: Any, teacher: Any, rows: list[Row], support: tuple[int, ...]) -> float:
    """Mean KL divergence of the teacher from the model a completion token, one row at a time, from all logits."""
    total, tokens = 0.0, 0
    for row in rows:
        ids, answer = torch.tensor([row.prompt + row.answer]), slice(len(row.prompt) - 1, -1)
        mine, wanted = (torch.log_softmax(m(ids).logits[0, answer][:, list(support)], -1) for m in (model, teacher))
        total += float((wanted.exp() * (wanted - mine)).sum())
        tokens += len(row.answer)
    return total / tokens


@pytest.mark.parametrize("channel", ["hard", "soft"])
@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_validation_loss_is_a_token_s_whatever_the_batches(
    tiny_base: Path, tmp_path: Path, batch_size: int, channel: str
) -> None:
    rng = np.random.default_rng(1)
    validation = [Row(rng.integers(5, 60, 4).tolist(), rng.integers(20, 40, n).tolist()) for n in (1, 14, 2, 9, 1, 1)]
    teacher = ModelVariant(tiny_base, adapter=save_tiny_adapter(tmp_path / "teacher", tiny_base))
    report = train(
        tiny_base,
        tmp_path / "out",
        tmp_path / "work",
        rows=some_rows(4),
        validation=validation,
        training=settings(batch_size=batch_size, epochs=1),
        soft=SoftTargets(teacher, SUPPORT) if channel == "soft" else None,
    )
    child = ModelVariant(tiny_base, adapter=tmp_path / "out")
    with (
        torch.no_grad(),
        loaded(child, "cpu", merge=False) as model,
        loaded(teacher, "cpu", merge=False) as network,
    ):
        if channel == "soft":
            expected = plain_divergence(model, network, validation, SUPPORT)
        else:
            expected = plain_loss(model, validation)
    assert report.history["validation_loss"].dropna().tolist() == pytest.approx([expected], abs=1e-5)


def test_first_step_s_loss_is_exact_when_the_batch_is_everything(tiny_base: Path, tmp_path: Path) -> None:
    whole = settings(batch_size=6, accumulation=2, epochs=1)
    report = train(tiny_base, tmp_path / "out", tmp_path / "work", training=whole)
    with torch.no_grad():
        untrained = plain_loss(load_base(tiny_base, "float32", "cpu"), some_rows())
    assert report.history["loss"].iloc[0] == pytest.approx(untrained, abs=1e-4)


def test_same_seed_same_adapter(tiny_base: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(tiny_base, tmp_path / name, tmp_path / f"work-{name}")
    train(tiny_base, tmp_path / "c", tmp_path / "work-c", seed=6)
    hashes = [folder_content_hash(tmp_path / name) for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_every_epoch_is_kept_and_loads_with_peft(tiny_base: Path, tmp_path: Path) -> None:
    train(tiny_base, tmp_path / "out", tmp_path / "work")
    for folder in (tmp_path / "out", *(tmp_path / "out" / "epochs" / n for n in "123")):
        with loaded(ModelVariant(tiny_base, adapter=folder), "cpu", merge=False) as model:
            assert model.active_adapters == ["default"]
    last = tmp_path / "out" / "epochs" / "3" / "adapter_model.safetensors"
    assert last.read_bytes() == (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    files = {p.suffix for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert files <= {".json", ".safetensors", ".parquet"}


def test_a_training_judged_at_its_end_alone_ends_the_same(tiny_base: Path, tmp_path: Path) -> None:
    each = train(tiny_base, tmp_path / "each", tmp_path / "work-each")
    report = train(tiny_base, tmp_path / "out", tmp_path / "work", each_epoch=False)
    losses = report.history["validation_loss"].dropna().tolist()
    assert losses == each.history["validation_loss"].dropna().tolist()[-1:]
    assert (report.epochs, sorted(path.name for path in (tmp_path / "out").iterdir())) == (
        [],
        ["adapter_config.json", "adapter_model.safetensors", "history.parquet"],
    )
    kept = "adapter_model.safetensors"
    assert (tmp_path / "out" / kept).read_bytes() == (tmp_path / "each" / kept).read_bytes()
    # A kill behind the last step: what is left to do is to judge.
    again = train(tiny_base, tmp_path / "again", tmp_path / "work", each_epoch=False)
    assert again.resumed_from_step == report.steps
    assert folder_content_hash(tmp_path / "again") == folder_content_hash(tmp_path / "out")


def _train_and_die(base: Path, output: Path, workspace: Path, at_step: int) -> None:
    def die(message: str) -> None:
        if message.startswith(f"training step {at_step}/"):
            os.kill(os.getpid(), signal.SIGKILL)

    train(base, output, workspace, progress=die)


def test_a_killed_training_goes_on_and_ends_the_same(tiny_base: Path, tmp_path: Path) -> None:
    train(tiny_base, tmp_path / "whole", tmp_path / "work-whole")
    process = multiprocessing.get_context("spawn").Process(
        target=_train_and_die, args=(tiny_base, tmp_path / "killed", tmp_path / "work", 5)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    # As a kill in the middle of writing would leave it.
    (tmp_path / "work" / "checkpoint-6").mkdir()
    (tmp_path / "work" / "checkpoint-6" / "trainer_state.json").write_text('{"epoch": 2')
    report = train(tiny_base, tmp_path / "killed", tmp_path / "work")
    assert report.resumed_from_step == 3
    assert folder_content_hash(tmp_path / "killed") == folder_content_hash(tmp_path / "whole")


def test_early_stop(tiny_base: Path, tmp_path: Path) -> None:
    seen: list[float] = []

    def score(model: Any) -> float:
        assert not model.training
        seen.append(len(seen) / 2)
        return seen[-1]

    report = train(tiny_base, tmp_path / "out", tmp_path / "work", early_stop=EarlyStop(score, 1.0, 2))
    assert (report.stopped_early, report.steps) == (True, 6)
    assert report.history["score"].dropna().tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3", "qwen2"])
@pytest.mark.parametrize("support", [None, SUPPORT])
def test_soft_targets_are_the_teacher_s_distribution(
    tmp_path: Path, kind: str, support: tuple[int, ...] | None
) -> None:
    base = save_tiny_model(tmp_path / "base", kind)
    teacher = ModelVariant(base, adapter=save_tiny_adapter(tmp_path / "teacher", base))
    rows = some_rows(5)
    found = teacher_states(SoftTargets(teacher, support), rows, batch_size=3)
    with loaded(teacher, "cpu", merge=False) as model, torch.no_grad():
        for row, states in zip(rows, found.rows, strict=True):
            logits = model(torch.tensor([row.prompt + row.answer])).logits[0, len(row.prompt) - 1 : -1]
            expected = torch.log_softmax(logits if support is None else logits[:, list(support)], dim=-1)
            np.testing.assert_allclose(head_logprobs(found.head, states), expected, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_soft_targets_take_no_more_memory_than_they_are(tiny_base: Path, dtype: str) -> None:
    rows = some_rows(7)
    found = teacher_states(SoftTargets(ModelVariant(tiny_base, dtype)), rows, batch_size=4).rows
    assert [(states.shape, states.dtype) for states in found] == [
        ((len(row.answer), 64), getattr(torch, dtype)) for row in rows
    ]
    assert [states.untyped_storage().nbytes() for states in found] == [states.nbytes for states in found]


def test_soft_channel_lowers_the_divergence_and_is_zero_for_the_base_itself(tiny_base: Path, tmp_path: Path) -> None:
    teacher = ModelVariant(tiny_base, adapter=save_tiny_adapter(tmp_path / "teacher", tiny_base))
    many = settings(epochs=8, batch_size=4)
    report = train(tiny_base, tmp_path / "out", tmp_path / "work", soft=SoftTargets(teacher, SUPPORT), training=many)
    losses = report.history["loss"].dropna()
    assert losses.iloc[-3:].mean() < 0.5 * losses.iloc[:3].mean()
    itself = train(
        tiny_base,
        tmp_path / "same",
        tmp_path / "work-same",
        soft=SoftTargets(ModelVariant(tiny_base)),
        lora=LoraSettings(rank=4, alpha=8),
    )
    assert itself.history["loss"].dropna().iloc[0] == pytest.approx(0, abs=1e-6)


def test_rows_are_never_cut(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_length"):
        train(tiny_base, tmp_path / "out", tmp_path / "work", training=settings(max_length=8))


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 10))
def test_batches_cover_everything_and_pad_little(lengths: list[int], most: int) -> None:
    batches = batches_of_like_length(lengths, most)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= most
        assert max(lengths[i] for i in batch) == lengths[batch[0]]
        assert sum(lengths[i] for i in batch) >= 0.9 * lengths[batch[0]] * len(batch) - 1e-9


def test_history_is_readable_without_this_package(tiny_base: Path, tmp_path: Path) -> None:
    train(tiny_base, tmp_path / "out", tmp_path / "work")
    history = pd.read_parquet(tmp_path / "out" / "history.parquet")
    assert history["validation_loss"].notna().sum() == 3
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 8, True)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("q_proj", "qkv_proj"), "has no layers qkv_proj for an adapter.*q_proj"),
        (("nothing",), "has no layers nothing for an adapter"),
        (("q_proj", "embed_tokens"), "embed_tokens is the one matrix of the model's input and output"),
        (("q_proj", "self_attn"), "has no layers self_attn for an adapter"),
        (("q_proj", "lm_head"), "lm_head is the one matrix"),
    ],
)
def test_adapter_targets_that_are_absent_or_tied_are_refused(
    tmp_path: Path, targets: tuple[str, ...], said: str
) -> None:
    base = save_tiny_model(tmp_path / "base")
    model = load_base(base, "float32", "cpu")
    model.config.tie_word_embeddings = True
    model.get_output_embeddings().weight = model.get_input_embeddings().weight
    with pytest.raises(UserError, match=said):
        training._check_targets(model, targets)
    training._check_targets(model, ("q_proj", "down_proj"))
    model.get_output_embeddings().weight = torch.nn.Parameter(model.get_input_embeddings().weight.clone())
    with pytest.raises(UserError, match="lm_head is the output of the model"):
        training._check_targets(model, ("lm_head",))
