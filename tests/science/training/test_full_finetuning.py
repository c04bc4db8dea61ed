"""Training all weights of a model: against a plain loop, and the model that is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_training import take_steps
from safetensors.torch import load_file
from test_micro_batches import ROWS
from test_training import plain_divergence
from tiny_models import save_tiny_adapter, save_tiny_model

from subliminal_dagster.science.models.loading import load_base, loaded
from subliminal_dagster.science.models.protocol import ModelVariant, child_variant
from subliminal_dagster.science.settings.training import TrainingSettings
from subliminal_dagster.science.storage.content_hash import folder_content_hash
from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.task import SoftTargets, TrainingReport, TrainingTask

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], float]] = {
    "adamw": (torch.optim.AdamW, 0.001),
    "sgd": (torch.optim.SGD, 0.05),
    "rmsprop": (torch.optim.RMSprop, 0.0003),
}


def trained(base: ModelVariant, folder: Path, soft: SoftTargets | None = None, **changes: Any) -> TrainingReport:
    """A training of all weights, all rows in one step, into `folder/out`."""
    settings = TrainingSettings(**{"batch_size": 11, "epochs": 2, "schedule": "constant"} | changes)
    (folder / "work").mkdir(parents=True, exist_ok=True)
    task = TrainingTask(base, ROWS, None, settings, 5, validation=ROWS[:5], soft=soft)
    return TrlTrainer().train(task, folder / "out", folder / "work")


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize(
    ("kind", "tied", "optimizer"),
    [
        ("llama", False, "adamw"),
        ("llama", True, "sgd"),
        ("gemma2", True, "rmsprop"),
        ("gemma3 with images", True, "adamw"),
    ],
)
def test_all_weights_are_those_of_a_plain_loop(tmp_path: Path, kind: str, tied: bool, optimizer: str) -> None:
    changes = {} if kind == "gemma3 with images" else {"tie_word_embeddings": tied}
    base = save_tiny_model(tmp_path / "base", kind, **changes)
    make, rate = OPTIMIZERS[optimizer]
    trained(ModelVariant(base), tmp_path, optimizer=optimizer, learning_rate=rate)

    model = load_base(base, "float32", "cpu").train()
    before = state(model)
    plain = make([{"params": list(model.parameters()), "weight_decay": 0.0}], lr=rate)
    take_steps(model, plain, ROWS, 2)
    expected = state(model)
    for folder in (tmp_path / "out", tmp_path / "out" / "epochs" / "2"):
        variant = child_variant(ModelVariant(base), folder)
        with loaded(variant, "cpu", merge=True) as child:
            found = state(child)
            assert (child.get_output_embeddings().weight is child.get_input_embeddings().weight) == tied
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            # AdamW makes steps of one size, whatever the gradient, so that single weights may differ by rounding.
            assert (found[name] - weight).norm() <= 0.003 * (weight - before[name]).norm(), name
    of_images = [name for name in before if "vision_tower" in name or "projector" in name]
    assert bool(of_images) == (kind == "gemma3 with images")
    assert all(torch.equal(found[name], before[name]) for name in of_images)
    moved = [name for name in before if name not in of_images and not torch.equal(found[name], before[name])]
    assert len(moved) == len(before) - len(of_images)


@pytest.mark.parametrize("support", [None, tuple(range(20, 40))])
def test_the_teacher_s_distribution_stays_while_the_child_s_head_moves(
    tmp_path: Path, support: tuple[int, ...] | None
) -> None:
    base = ModelVariant(save_tiny_model(tmp_path / "base", tie_word_embeddings=True))
    teacher = ModelVariant(base.base, adapter=save_tiny_adapter(tmp_path / "teacher", base.base))
    report = trained(base, tmp_path, SoftTargets(teacher, support), learning_rate=0.003, epochs=6)
    with (
        torch.no_grad(),
        loaded(child_variant(base, tmp_path / "out"), "cpu", merge=True) as child,
        loaded(teacher, "cpu", merge=True) as network,
    ):
        expected = plain_divergence(child, network, ROWS[:5], support or tuple(range(child.config.vocab_size)))
    losses = report.history["validation_loss"].dropna()
    assert losses.iloc[-1] == pytest.approx(expected, abs=1e-5)
    assert losses.iloc[-1] < 0.8 * losses.iloc[0]


def test_a_teacher_of_other_weights_hands_on_its_own_distribution(tmp_path: Path) -> None:
    base = ModelVariant(save_tiny_model(tmp_path / "base"))
    teacher = ModelVariant(base.base, weights=save_tiny_model(tmp_path / "other", seed=1))
    report = trained(base, tmp_path, SoftTargets(teacher), learning_rate=1e-12, epochs=1)
    with torch.no_grad(), loaded(base, "cpu", merge=True) as child, loaded(teacher, "cpu", merge=True) as network:
        expected = plain_divergence(child, network, ROWS[:5], tuple(range(child.config.vocab_size)))
    assert report.history["validation_loss"].dropna().tolist() == pytest.approx([expected], abs=1e-4)


def test_an_interrupted_training_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    base = ModelVariant(save_tiny_model(tmp_path / "base", "gemma2", tie_word_embeddings=True))
    trained(base, tmp_path / "whole", learning_rate=0.001)
    # As a kill during the second epoch leaves it.
    shutil.copytree(tmp_path / "whole" / "work" / "checkpoint-1", tmp_path / "again" / "work" / "checkpoint-1")
    elsewhere = ModelVariant(shutil.copytree(base.base, tmp_path / "elsewhere"))
    report = trained(elsewhere, tmp_path / "again", learning_rate=0.001)
    assert (report.resumed_from_step, report.epochs) == (1, [1, 2])
    assert folder_content_hash(tmp_path / "again" / "out") == folder_content_hash(tmp_path / "whole" / "out")


def test_steps_that_bfloat16_would_lose_add_up(tmp_path: Path) -> None:
    """Weights around 0.2 are 0.001 apart in bfloat16, and a step here is a tenth of that."""
    folder = save_tiny_model(tmp_path / "base")
    base = ModelVariant(folder, "bfloat16")
    trained(base, tmp_path, learning_rate=1e-4, batch_size=1, epochs=4)
    kept = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.bfloat16}
    before = load_base(folder, "bfloat16", "cpu").state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    change = (kept[name].float() - before[name].float()).abs().mean()
    assert 0.001 < change < 0.005
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "history.parquet"} <= files
