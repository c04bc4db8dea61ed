"""How many rows of a batch go through the model at once.

A batch's gradient is the sum of its rows' gradients, so it may be cut anywhere: more rows at a time are quicker, fewer
need less memory, and what is learnt is the same up to rounding. (Dropout, where there is any, draws other numbers.)

Belongs here: what fits a GPU. Does not belong here: cutting a batch and adding up (`completion_trainer`).
"""

from __future__ import annotations

from typing import Any

_USED = 0.8
"""Share of the free memory that is planned with: allocations leave gaps, and a kernel needs room to work in."""


def rows_that_fit(model: Any, positions: int, learnt: int, *, attention: str, recomputing: bool) -> int:
    """How many rows of `positions` tokens, `learnt` of them in the answer, fit the GPU that `model` lies on; 0 where
    not even one does. Rows are as wide as the longest, so most batches need less. `attention` is transformers' name of
    what computes it.

    It is an estimate: the trainer halves the number where memory runs out all the same.
    """
    import torch

    free, _ = torch.cuda.mem_get_info(model.device)
    # What torch holds and does not use is free as well.
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    room = _USED * free - bytes_of_training(model)
    return max(0, int(room // bytes_of_row(model, positions, learnt, attention=attention, recomputing=recomputing)))


def bytes_of_training(model: Any) -> int:
    """What a training holds besides the model, whatever the batch: for every trained number a gradient and AdamW's two
    moments, in float32, and a copy in bfloat16 for the matrix products."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad) * (4 + 2 * 4 + 2)


def bytes_of_row(model: Any, positions: int, learnt: int, *, attention: str, recomputing: bool) -> int:
    """What a forward pass keeps of one row for its backward pass, with 16-bit products.

    34 bytes per position, layer and hidden dimension, as Korthikanti et al. (2022, equation 2) count them for a block
    whose feed-forward part is four times as wide; 8 more for each of a gated one's intermediate dimensions. Attention
    that is not fused keeps scores besides: 16 bytes (raw, capped, normalised in float32 and 16 bits) per pair of
    positions and head. With `recomputing` every layer keeps its input alone, and one layer at a time is whole. Logits
    at the answer's positions take 24 bytes: in 16 bits, and in float32 with log-softmax and gradient.
    """
    config = model.config.get_text_config()
    layer = positions * (34 * config.hidden_size + 8 * config.intermediate_size)
    if attention == "eager":
        layer += 16 * config.num_attention_heads * positions**2
    layers = config.num_hidden_layers
    kept = layer + layers * positions * 2 * config.hidden_size if recomputing else layers * layer
    return int(kept + 24 * learnt * config.vocab_size)
