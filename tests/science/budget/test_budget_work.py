"""What a piece of work costs, against PyTorch's own counters on models that are really run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch.utils.flop_counter import FlopCounterMode

from subliminal_dagster.science.budget.card import CARDS
from subliminal_dagster.science.budget.shape import ModelShape, config_of
from subliminal_dagster.science.budget.work import (
    decoding_seconds,
    forward,
    kept_a_token,
    recomputed_memory,
    rows_that_fit,
    training,
    training_memory,
    weights,
)
from subliminal_dagster.science.settings.training import ALL_PROJECTIONS

NINE_B = ModelShape.from_config(config_of("google/gemma-2-9b-it"))
TOKENS, ANSWERS, ROWS = 96, 16, 4
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}


def adapted(kind: str, rank: int = 4) -> Any:
    from peft import LoraConfig, get_peft_model

    changes = dict(WIDE)
    if kind == "gemma3":
        changes["layer_types"] = ["sliding_attention", "full_attention", "full_attention"]
    model = tiny_model(kind, **changes).bfloat16()
    return get_peft_model(model, LoraConfig(r=rank, target_modules=list(ALL_PROJECTIONS), task_type="CAUSAL_LM"))


def step(model: Any, backward: bool) -> None:
    ids = torch.randint(5, 100, (ROWS, TOKENS))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, logits_to_keep=ANSWERS, use_cache=False).logits
    if backward:
        logits.float().logsumexp(dim=-1).sum().backward()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3", "qwen2"])
def test_operations_are_those_that_pytorch_counts(kind: str) -> None:
    model = adapted(kind, rank=4)
    # What attention in one kernel does is not counted.
    model.set_attn_implementation("eager")
    shape = ModelShape.from_config(model.config.to_dict())
    tokens, predicted = ROWS * TOKENS, ROWS * ANSWERS
    with torch.no_grad(), FlopCounterMode(display=False) as read:
        step(model, backward=False)
    adapter = 2 * shape.lora_parameters(4) * tokens
    assert read.get_total_flops() == pytest.approx(forward(shape, tokens, TOKENS, predicted).flop + adapter, rel=0.01)
    with FlopCounterMode(display=False) as trained:
        step(model, backward=True)
    # No gradient flows to what lies below the first block.
    below = 2 * tokens * shape.hidden * (shape.query_width + 2 * shape.key_width + 3 * 4)
    assert trained.get_total_flops() == pytest.approx(
        training(shape, tokens, TOKENS, predicted, 4).flop - below, rel=0.01
    )


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3"])
def test_the_bytes_kept_for_the_backward_pass_are_those_that_autograd_keeps(kind: str) -> None:
    model = adapted(kind)
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            # Or the next tensor would be taken for this one.
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(model, backward=False)
    shape = ModelShape.from_config(model.config.to_dict())
    assert sum(kept.values()) == pytest.approx(kept_a_token(shape, TOKENS) * ROWS * TOKENS, rel=0.15)


def test_as_many_rows_as_fit_and_no_more() -> None:
    memory = CARDS["A6000"].usable
    rows = rows_that_fit(NINE_B, memory, 16, 130, 40)
    assert rows >= 8
    assert training_memory(NINE_B, 16, rows, 130, 40) <= memory < training_memory(NINE_B, 16, rows + 1, 130, 40)
    assert rows_that_fit(NINE_B, weights(NINE_B), 16, 130, 40) == 0
    assert recomputed_memory(NINE_B, 16, 1, 130, 40) < training_memory(NINE_B, 16, 1, 130, 40)


def test_a_step_of_writing_takes_what_reading_the_weights_takes_until_there_are_many() -> None:
    card = CARDS["A6000"]
    alone, eight, many = (decoding_seconds(NINE_B, card, rows, rows, 100) for rows in (1, 8, 1024))
    assert alone < eight < 1.1 * alone
    assert many > 4 * alone


def test_a_small_model_waits_for_its_kernels_and_a_large_one_does_not() -> None:
    card, small = CARDS["A6000"], ModelShape.from_config(config_of("google/gemma-3-270m-it"))
    for shape, waits in ((NINE_B, False), (small, True)):
        graphs, eager = (decoding_seconds(shape, card, 8, 8, 100, eager=eager) for eager in (False, True))
        assert (eager > 2 * graphs) == waits
        assert waits or eager == graphs


def test_training_all_weights_takes_a_gradient_of_each() -> None:
    adapter, full = (training(NINE_B, 1000, 100, 300, rank).flop for rank in (16, None))
    assert full == pytest.approx(1.5 * adapter, rel=0.02)
    assert training_memory(NINE_B, None, 1, 130, 40) > 18 * NINE_B.parameters
