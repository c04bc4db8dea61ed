"""The residual stream: the right blocks' outputs, whatever the padding, and no work behind the deepest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_models import KINDS, save_tiny_adapter, save_tiny_model, tiny_llama, tiny_model

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.loading import load_base, loaded, steered
from subliminal_dagster.science.models.protocol import ModelVariant, Steering
from subliminal_dagster.science.models.residual_stream import batched_residuals, residuals

BLOCKS = 4
GENERATOR = torch.Generator().manual_seed(0)
SEQUENCES = [torch.randint(5, 260, (size,), generator=GENERATOR).tolist() for size in (9, 30, 1, 17, 29, 9, 4)]


def model_of(kind: str, **changes: Any) -> Any:
    """Four blocks, and windows shorter than the longest sequences where a kind has windows."""
    if kind == "gemma3":
        changes |= {"layer_types": ["sliding_attention", "full_attention"] * 2}
    if kind in ("gemma2", "gemma3"):
        changes |= {"sliding_window": 6}
    return tiny_model(kind, num_hidden_layers=BLOCKS, **changes)


def single(model: Any, sequence: list[int], layers: list[int]) -> dict[int, torch.Tensor]:
    """The residual stream of one sequence, without padding: (positions, hidden size) by layer."""
    ids = torch.tensor([sequence])
    return {layer: state[0] for layer, state in residuals(model, ids, torch.ones_like(ids), layers).items()}


def hidden_states(model: Any, sequence: list[int]) -> list[torch.Tensor]:
    with torch.no_grad():
        output = model(torch.tensor([sequence]), output_hidden_states=True)
    return [state[0] for state in output.hidden_states]


def padded(sequence: list[int], width: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    pad = width - len(sequence)
    ids = torch.full((1, width), 77)
    mask = torch.zeros_like(ids)
    tokens = slice(0, len(sequence)) if side == "right" else slice(pad, width)
    ids[0, tokens] = torch.tensor(sequence)
    mask[0, tokens] = 1
    return ids, mask


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_the_output_of_its_block(kind: str) -> None:
    model = model_of(kind)
    expected = hidden_states(model, SEQUENCES[1])
    outputs: list[torch.Tensor] = []
    handle = (
        model.get_decoder().layers[-1].register_forward_hook(lambda _block, _inputs, output: outputs.append(output))
    )
    found = single(model, SEQUENCES[1], list(range(BLOCKS)))
    handle.remove()
    for layer in range(BLOCKS - 1):
        torch.testing.assert_close(found[layer], expected[layer + 1])
        # The trap: hidden_states[L] is what goes into block L.
        assert (found[layer] - expected[layer]).abs().max() > 0.1
    last = BLOCKS - 1
    torch.testing.assert_close(found[last], outputs[0][0], rtol=0, atol=0)
    # The other trap: the last entry stands behind the final norm.
    torch.testing.assert_close(model.get_decoder().norm(found[last]), expected[-1])
    assert (found[last] - expected[-1]).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_equals_transformer_lens(kind: str, tmp_path: Path) -> None:
    bridges = pytest.importorskip("transformer_lens.model_bridge")
    folder = save_tiny_model(tmp_path, kind)
    bridge = bridges.TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(torch.tensor([SEQUENCES[1]]))
    for layer, state in single(load_base(folder, "float32", "cpu"), SEQUENCES[1], [0, 1]).items():
        torch.testing.assert_close(state, cache[f"blocks.{layer}.hook_resid_post"][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_equal_one_by_one(kind: str) -> None:
    model = model_of(kind)
    seen = []
    for batch in batched_residuals(model, SEQUENCES, [0, 2], batch_tokens=64):
        assert batch.states.keys() == {0, 2}
        for place, row in enumerate(batch.rows):
            seen.append(row)
            for layer, expected in single(model, SEQUENCES[row], [0, 2]).items():
                found = batch.states[layer][place, : len(SEQUENCES[row])]
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert sorted(seen) == list(range(len(SEQUENCES)))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str, side: str) -> None:
    model = model_of(kind)
    expected = single(model, SEQUENCES[3], [BLOCKS - 1])[BLOCKS - 1]
    ids, mask = padded(SEQUENCES[3], 29, side)
    found = residuals(model, ids, mask, [BLOCKS - 1])[BLOCKS - 1][0]
    torch.testing.assert_close(found[mask[0] == 1], expected, rtol=1e-4, atol=1e-4)


def test_nothing_runs_behind_the_deepest_layer() -> None:
    model = model_of("llama")
    calls: list[str] = []
    parts = {f"block {number}": block for number, block in enumerate(model.model.layers)}
    parts |= {"norm": model.model.norm, "head": model.lm_head}
    for name, part in parts.items():
        part.register_forward_pre_hook(lambda _part, _inputs, name=name: calls.append(name))
    single(model, SEQUENCES[0], [1, 0])
    assert calls == ["block 0", "block 1"]
    calls.clear()
    single(model, SEQUENCES[0], [3])
    assert calls == ["block 0", "block 1", "block 2", "block 3"]


def test_hooks_are_gone_afterwards_and_after_an_error() -> None:
    model = model_of("llama")
    blocks = model.model.layers

    def fail(_block: Any, _inputs: Any) -> None:
        raise RuntimeError("broken block")

    broken = blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken block"):
        single(model, SEQUENCES[0], [0, 2])
    broken.remove()
    assert not any(block._forward_hooks for block in blocks)
    single(model, SEQUENCES[0], [0, 2])
    assert not any(block._forward_hooks for block in blocks)
    with torch.no_grad():
        assert model(torch.tensor([SEQUENCES[0]])).logits.shape == (1, 9, model.config.vocab_size)


@pytest.mark.parametrize("layer", [-1, BLOCKS])
def test_a_layer_that_does_not_exist_is_named(layer: int) -> None:
    model = model_of("llama")
    with pytest.raises(UserError, match=rf"Layer {layer} does not exist.*choose 0 to 3"):
        single(model, SEQUENCES[0], [0, layer])
    with pytest.raises(UserError, match="choose 0 to 3"):
        list(batched_residuals(model, SEQUENCES, [layer], batch_tokens=64))


def test_under_an_adapter(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base")
    adapter = save_tiny_adapter(tmp_path / "adapter", base)
    plain = single(load_base(base, "float32", "cpu"), SEQUENCES[1], [0])[0]
    with loaded(ModelVariant(base, adapter=adapter), "cpu", merge=False) as model:
        found = single(model, SEQUENCES[1], [0])[0]
        torch.testing.assert_close(found, hidden_states(model, SEQUENCES[1])[1])
    assert (found - plain).abs().max() > 0.1
    with loaded(ModelVariant(base, adapter=adapter), "cpu", merge=True) as model:
        torch.testing.assert_close(single(model, SEQUENCES[1], [0])[0], found, rtol=1e-3, atol=1e-3)


def test_under_steering_the_vector_is_in_it(tmp_path: Path) -> None:
    model = model_of("llama")
    before = single(model, SEQUENCES[1], [0])[0]
    save_file({"vector": torch.eye(64)[5] * 7}, tmp_path / "vector.safetensors")
    with steered(model, Steering(tmp_path / "vector.safetensors", 0, 3.0)):
        moved = single(model, SEQUENCES[1], [0])[0] - before
    torch.testing.assert_close(moved, torch.eye(64)[5].expand_as(moved) * 3, rtol=0, atol=1e-5)


def test_a_block_may_give_a_tuple() -> None:
    model = model_of("llama")
    expected = single(model, SEQUENCES[0], [1])[1]
    model.model.layers[1].register_forward_hook(lambda _block, _inputs, output: (output, None))
    torch.testing.assert_close(single(model, SEQUENCES[0], [1])[1], expected)


def test_a_multimodal_gemma_is_read_as_its_text_model() -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = model_of("gemma3")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text.config.to_dict(),
        vision_config=sizes | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=3,
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    model.model.language_model.load_state_dict(text.model.state_dict())
    for layer, state in single(model, SEQUENCES[1], [0, 3]).items():
        torch.testing.assert_close(state, single(text, SEQUENCES[1], [layer])[layer])
    torch.testing.assert_close(single(model, SEQUENCES[1], [0])[0], hidden_states(model, SEQUENCES[1])[1])


def test_no_gradients_and_the_models_own_number_type() -> None:
    model = model_of("llama").to(torch.bfloat16)
    state = single(model, SEQUENCES[0], [1])[1]
    assert state.dtype == torch.bfloat16
    assert not state.requires_grad
    # Tensors of inference mode could not go into a training step.
    assert not state.is_inference()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=20), st.integers(1, 120))
def test_batches_hold_every_sequence_once_in_few_positions(lengths: list[int], batch_tokens: int) -> None:
    sequences = [[7] * length for length in lengths]
    shapes, rows = [], []
    for batch in batched_residuals(SMALL, sequences, [0], batch_tokens=batch_tokens):
        count, positions, _ = batch.states[0].shape
        assert count == len(batch.rows)
        assert count * positions <= batch_tokens or count == 1
        shapes.append(count * positions)
        rows += batch.rows
    assert sorted(rows) == list(range(len(lengths)))
    assert sum(lengths) >= 0.9 * sum(shapes) - 1e-9


SMALL = tiny_llama(hidden_size=16, intermediate_size=16, head_dim=8)
