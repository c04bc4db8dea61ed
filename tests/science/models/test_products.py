"""Matrix products in bfloat16: where they are used, that nothing of them stays, and how little they change; and where
attention needs no padding."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers.utils
from packaging.version import Version
from tiny_models import tiny_model

from subliminal_dagster.science.models import products
from subliminal_dagster.science.models.loading import load_base
from subliminal_dagster.science.models.products import (
    attention,
    packed_attention,
    product_type,
    products_in,
    usual_attention,
)
from subliminal_dagster.science.models.protocol import ModelVariant, Sampling
from subliminal_dagster.science.models.transformers_engine import TransformersEngine
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings
from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.task import Row, TrainingReport, TrainingTask

PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12], [13, 14, 15, 16]]


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with units for bfloat16; one without computes the same, only slower."""
    monkeypatch.setattr(products, "_has_units", lambda: True)


def test_they_are_used_where_asked_for_on_float32_and_by_a_processor_with_units(
    monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    asked = ModelVariant(tiny_base, autocast=True)
    for has_units, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(products, "_has_units", lambda has_units=has_units: has_units)
        assert product_type(asked, "cpu") == expected
        assert product_type(ModelVariant(tiny_base), "cpu") == "float32"
        assert product_type(asked, "cuda") == "float32"
        assert product_type(ModelVariant(tiny_base, "float16", autocast=True), "cpu") == "float16"


def test_logits_change_little_and_nothing_stays(tiny_base: Path) -> None:
    model = load_base(tiny_base, "float32", "cpu")
    ids = torch.tensor([PROMPTS[0]])
    weights, attention = {name: value.clone() for name, value in model.state_dict().items()}, model.config
    implementation = attention._attn_implementation
    with torch.no_grad():
        exact = model(ids).logits
        with products_in("bfloat16", model):
            quick = model(ids).logits.float()
        again = model(ids).logits
    assert 0 < (quick - exact).abs().max() < 0.03 * exact.abs().max()
    assert torch.equal(again, exact) and attention._attn_implementation == implementation
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_attention_in_groups_is_that_of_pytorch(tiny_base: Path) -> None:
    model = load_base(tiny_base, "float32", "cpu")
    ids, mask = torch.tensor([[5, 6, 7, 8], [0, 9, 10, 11]]), torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    with torch.no_grad():
        usual = model(ids, attention_mask=mask).logits
        with products.quick_attention(model):
            assert model.config._attn_implementation != "sdpa"
            ours = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(ours[mask == 1], usual[mask == 1], atol=2e-5, rtol=1e-4)


@pytest.mark.usefixtures("units")
def test_scores_are_those_of_float32(tiny_base: Path) -> None:
    sampling = Sampling(6, (2,), seed=0)
    found = {}
    for autocast in (False, True):
        with TransformersEngine().open(ModelVariant(tiny_base, autocast=autocast)) as session:
            answers = session.generate(PROMPTS, sampling)
            assert session.usage.facts()["generation_products"] == ("bfloat16" if autocast else "float32")
            found[autocast] = answers, session.score(PROMPTS, [[20, 21], [22]])
    assert np.array_equal(found[True][1], found[False][1])
    again = [[round(value, 1) for value in answer.logprobs[:1]] for answer in found[True][0]]
    assert all(len(values) == 1 for values in again)


def _trained(base: Path, folder: Path, autocast: bool) -> tuple[TrainingReport, dict[str, torch.Tensor]]:
    from safetensors.torch import load_file

    rows = [Row([5, 6, 7], [8, 9, 2]), Row([5, 10, 7], [11, 2]), Row([12, 6, 7, 13], [14, 9, 2])]
    settings = TrainingSettings(learning_rate=1e-3, batch_size=3, epochs=3)
    task = TrainingTask(
        ModelVariant(base, autocast=autocast), rows, LoraSettings(rank=2, alpha=2), settings, 0, validation=rows
    )
    out, work = folder / f"out-{autocast}", folder / f"work-{autocast}"
    out.mkdir(parents=True)
    work.mkdir()
    return TrlTrainer().train(task, out, work), load_file(out / "adapter_model.safetensors")


@pytest.mark.usefixtures("units")
def test_training_changes_little_is_recorded_and_repeats_itself(tiny_base: Path, tmp_path: Path) -> None:
    exact, of_exact = _trained(tiny_base, tmp_path, False)
    quick, of_quick = _trained(tiny_base, tmp_path, True)
    _, repeated = _trained(tiny_base, tmp_path / "again", True)
    assert (exact.products, quick.products) == ("float32", "bfloat16")
    assert all(torch.equal(of_quick[name], repeated[name]) for name in of_quick)
    change = torch.cat([(of_quick[name] - of_exact[name]).flatten() for name in of_exact]).norm()
    assert 0 < change < 0.2 * torch.cat([value.flatten() for value in of_exact.values()]).norm()
    losses = [report.history["validation_loss"].dropna().to_numpy() for report in (exact, quick)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


@pytest.mark.parametrize(
    ("kind", "device", "version", "expected"),
    [
        ("llama", "cuda", "2.3.3", "flash_attention_2"),
        ("llama", "cpu", "2.8.0", None),
        ("llama", "cuda", None, None),
        ("gemma2", "cuda", "2.5.9", None),
        ("gemma2", "cuda", "2.6.0", "flash_attention_2"),
        ("wide heads", "cuda", "2.8.0", None),
    ],
)
def test_rows_go_without_padding_where_a_kernel_takes_them_so(
    monkeypatch: pytest.MonkeyPatch, kind: str, device: str, version: str | None, expected: str | None
) -> None:
    model = tiny_model("llama", head_dim=512) if kind == "wide heads" else tiny_model(kind)
    network: Any = SimpleNamespace(
        device=torch.device(device), config=model.config, _supports_flash_attn=model._supports_flash_attn
    )
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: version is not None)
    monkeypatch.setattr(
        transformers.utils, "is_flash_attn_greater_or_equal", lambda oldest: Version(version or "0") >= Version(oldest)
    )
    assert packed_attention(network) == expected


def test_attention_is_another_within_the_block_alone(tiny_base: Path) -> None:
    model = load_base(tiny_base, "float32", "cpu")
    with pytest.raises(RuntimeError, match="in the block"), attention(model, "eager"):
        assert usual_attention(model) == "eager"
        raise RuntimeError("in the block")
    assert usual_attention(model) == "sdpa"
