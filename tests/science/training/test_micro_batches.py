"""A step's rows go through the model in parts: what is learnt does not depend on how they are cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from plain_training import take_steps
from safetensors.torch import load_file
from tiny_models import save_tiny_adapter, save_tiny_model, tiny_model

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.loading import load_base
from subliminal_dagster.science.models.products import usual_attention
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings
from subliminal_dagster.science.training import adapter, completion_trainer
from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.completion_trainer import CompletionTrainer
from subliminal_dagster.science.training.micro_batches import bytes_of_row, bytes_of_training, rows_that_fit
from subliminal_dagster.science.training.task import Row, SoftTargets, TrainingReport, TrainingTask

RANDOM = np.random.default_rng(0)
# 11 rows: a step of 8 and one of 3. Answers differ much in length, so a mean of means would be far off.
ROWS = [
    Row(RANDOM.integers(5, 60, 4 + i % 3).tolist(), RANDOM.integers(20, 40, 1 + 5 * (i % 3)).tolist())
    for i in range(11)
]
LORA = LoraSettings(rank=4, alpha=4)

Weights = Mapping[str, torch.Tensor]


def learnt(
    base: Path, folder: Path, micro_batch: int | None = None, soft: SoftTargets | None = None, **changes: Any
) -> tuple[Weights, TrainingReport]:
    """The adapter after a training in `folder`. SGD without clipping: a wrong scale of the gradient shows, and rounding
    is not blown up as by AdamW, whose steps are of one size."""
    settings = {"learning_rate": 0.03, "batch_size": 8, "epochs": 2, "schedule": "constant"} | changes
    settings = {"optimizer": "sgd", "max_grad_norm": 1e6} | settings
    task = TrainingTask(ModelVariant(base), ROWS, LORA, TrainingSettings(**settings), 5, validation=ROWS[:3], soft=soft)
    (folder / "work").mkdir(parents=True)
    report = TrlTrainer(micro_batch=micro_batch).train(task, folder / "out", folder / "work")
    return load_file(folder / "out" / "adapter_model.safetensors"), report


def assert_same(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=2e-6, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("channel", ["hard", "soft"])
def test_what_is_learnt_does_not_depend_on_the_cut(tiny_base: Path, tmp_path: Path, channel: str) -> None:
    soft = None
    if channel == "soft":
        teacher = ModelVariant(tiny_base, adapter=save_tiny_adapter(tmp_path / "teacher", tiny_base))
        soft = SoftTargets(teacher, tuple(range(20, 40)))
    whole, first = learnt(tiny_base, tmp_path / "whole", soft=soft)
    cuts = [(8, 1, 1), (8, 1, 3), (4, 2, None), (2, 4, None), (2, 4, 8)]
    for batch_size, accumulation, micro_batch in cuts:
        name = f"{batch_size} x {accumulation}, {micro_batch}"
        changes = {"batch_size": batch_size, "accumulation": accumulation}
        found, report = learnt(tiny_base, tmp_path / name, micro_batch, soft, **changes)
        assert report.steps == first.steps == 4
        assert_same(found, whole)
        losses = ["loss", "validation_loss"]
        np.testing.assert_allclose(report.history[losses], first.history[losses], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["llama", "gemma3 with images"])
def test_a_step_in_parts_is_that_of_a_plain_loop(tmp_path: Path, kind: str) -> None:
    base = save_tiny_model(tmp_path / "base", kind)
    # 3 x 4 rows: all 11 in one step, in four parts of which the last is smaller.
    changes = {"batch_size": 3, "accumulation": 4, "learning_rate": 0.003, "optimizer": "adamw", "max_grad_norm": 1.0}
    found, _ = learnt(base, tmp_path / "ours", **changes)

    settings = TrainingSettings(epochs=2, **changes)
    model = adapter._with_adapter(
        load_base(base, "float32", "cpu"), TrainingTask(ModelVariant(base), ROWS, LORA, settings, 5), LORA
    ).train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.003, weight_decay=0)
    take_steps(model, optimizer, ROWS, 2)
    expected = {name.replace(".default", ""): weight.detach() for name, weight in model.named_parameters()}
    assert_same(found, {name: expected[name] for name in found})


@pytest.mark.parametrize("channel", ["hard", "soft"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3", "gemma3 with images"])
def test_rows_as_one_sequence_teach_what_padded_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, channel: str
) -> None:
    """With the model's usual attention, which knows rows from each other by their positions as FlashAttention does."""
    base = save_tiny_model(tmp_path / "base", kind)
    soft = None
    if channel == "soft":
        soft = SoftTargets(ModelVariant(base, adapter=save_tiny_adapter(tmp_path / "teacher", base)), (20, 21, 22))
    padded, first = learnt(base, tmp_path / "padded", 4, soft)
    monkeypatch.setattr(completion_trainer, "packed_attention", usual_attention)
    packed, report = learnt(base, tmp_path / "packed", 4, soft)
    assert_same(packed, padded)
    losses = ["loss", "validation_loss"]
    np.testing.assert_allclose(report.history[losses], first.history[losses], atol=1e-5)
    assert (report.padding_share, report.trained_tokens) == (0, first.trained_tokens)
    assert first.padding_share > 0


def test_where_memory_runs_out_parts_are_halved(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, first = learnt(tiny_base, tmp_path / "whole", 8)
    sizes: list[int] = []
    chunk_loss = CompletionTrainer._chunk_loss

    def short_of_memory(self: Any, model: Any, inputs: Any, rows: list[int], width: int) -> Any:
        sizes.append(len(rows))
        loss = chunk_loss(self, model, inputs, rows, width)
        if model.training and len(rows) > 2:
            raise torch.cuda.OutOfMemoryError("no room")
        return loss

    monkeypatch.setattr(CompletionTrainer, "_chunk_loss", short_of_memory)
    found, report = learnt(tiny_base, tmp_path / "short", 8)
    assert_same(found, whole)
    assert max(sizes[-4:]) <= 2 < max(sizes)
    assert report.trained_tokens == first.trained_tokens

    def none_at_all(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr(CompletionTrainer, "_chunk_loss", none_at_all)
    with pytest.raises(UserError, match="The GPU has no room for training on one row"):
        learnt(tiny_base, tmp_path / "none", 8)


def gpu_with(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """As torch would speak of a GPU with that much free memory."""
    for name, value in (("mem_get_info", (free, free)), ("memory_reserved", 0), ("memory_allocated", 0)):
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)


def test_as_many_rows_as_fit_and_recomputing_where_none_does(monkeypatch: pytest.MonkeyPatch, tiny_base: Path) -> None:
    settings = TrainingSettings(learning_rate=1, batch_size=8, epochs=1)
    task = TrainingTask(ModelVariant(tiny_base), ROWS, LORA, settings, 0)
    model = adapter._to_train(task)
    positions, answer = max(len(row.prompt) + len(row.answer) for row in ROWS), max(len(row.answer) for row in ROWS)
    whole = bytes_of_row(model, positions, answer, attention="sdpa", recomputing=False)
    on_gpu: Any = SimpleNamespace(device=SimpleNamespace(type="cuda"), parameters=model.parameters, config=model.config)
    gpu_with(monkeypatch, int((bytes_of_training(model) + 5.5 * whole) / 0.8))
    assert TrlTrainer()._micro_batch(on_gpu, task) == (5, False)
    assert rows_that_fit(on_gpu, positions, answer, attention="sdpa", recomputing=True) > 5
    assert TrlTrainer(micro_batch=3)._micro_batch(on_gpu, task) == (3, False)
    gpu_with(monkeypatch, int((bytes_of_training(model) + 0.9 * whole) / 0.8))
    assert TrlTrainer()._micro_batch(on_gpu, task) == (1, True)
    # The trainer halves what does not fit, and says so where one row does not.
    gpu_with(monkeypatch, 0)
    assert TrlTrainer()._micro_batch(on_gpu, task) == (1, True)
    assert TrlTrainer()._micro_batch(model, task) == (None, False)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_the_estimate_is_no_less_than_what_a_pass_keeps(kind: str) -> None:
    """Counted with float32 products, twice the bytes of those the estimate is for."""
    model = tiny_model(kind, intermediate_size=256, num_hidden_layers=4)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    ids = torch.arange(60)[None]
    held = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(input_ids=ids, logits_to_keep=torch.arange(40, 60), use_cache=False).logits.float()
        held.append(torch.nn.functional.cross_entropy(logits[0], ids[0, 40:], reduction="sum"))
    measured = sum(size for pointer, size in kept.items() if pointer not in own)
    attention = usual_attention(model)
    estimate = 2 * bytes_of_row(model, 60, 20, attention=attention, recomputing=False)
    assert 0.5 * estimate < measured < estimate
