"""Several layers from one pass are, bit for bit, what each is by itself, and nothing damaged is taken over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from subliminal_dagster.science.activations.activations import collect
from subliminal_dagster.science.activations.one_pass import collect_with_others, left_by_another
from subliminal_dagster.science.errors import UserError

TEXTS = ["1, 22, 333", "owl", "987, 12, 4, 4, 17, 250, 3\n", "7", "55, 1, 902, 8"]


def folders(root: Path, layers: list[int]) -> dict[int, Path]:
    found = {layer: root / str(layer) for layer in layers}
    for folder in found.values():
        folder.mkdir()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_is_the_same_alone_and_with_others(tmp_path: Path, kind: str, dtype: torch.dtype, layer: int) -> None:
    model, tokenizer = tiny_model(kind, num_hidden_layers=3).to(dtype), tiny_tokenizer()
    others = folders(tmp_path, [other for other in (0, 1, 2) if other != layer])
    found = collect_with_others(model, tokenizer, TEXTS, layer, others, kind="x")
    for number, each in {layer: found, **{n: left_by_another(f, "x") for n, f in others.items()}}.items():
        assert each is not None
        for together, alone in zip(each, collect(model, tokenizer, TEXTS, number), strict=True):
            assert together.dtype == alone.dtype
            np.testing.assert_array_equal(together, alone)


def test_what_is_damaged_or_of_another_number_type_is_not_taken(tmp_path: Path) -> None:
    assert left_by_another(tmp_path, "float32") is None
    collect_with_others(tiny_model("llama"), tiny_tokenizer(), TEXTS, 0, {1: tmp_path}, kind="float32")
    assert left_by_another(tmp_path, "bfloat16") is None
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for place in (len(whole) // 2, len(whole) // 4):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert left_by_another(tmp_path, "float32") is None
    for left in (whole[:-1], whole[: len(whole) // 2], b""):
        file.write_bytes(left)
        assert left_by_another(tmp_path, "float32") is None
    file.write_bytes(whole)
    assert left_by_another(tmp_path, "float32") is not None


def test_a_layer_that_is_not_finite_stops_its_own_making_alone(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.model.layers[1].mlp.down_proj.weight.data *= 1e5
    model = model.half()
    collect_with_others(model, tokenizer, TEXTS, 0, {1: tmp_path}, kind="float16")
    assert left_by_another(tmp_path, "float16") is None
    with pytest.raises(UserError, match="layer 1 is not finite in float16"):
        collect_with_others(model, tokenizer, TEXTS, 1, {0: tmp_path}, kind="float16")
