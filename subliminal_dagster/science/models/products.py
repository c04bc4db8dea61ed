"""How training and generation compute: matrix products in bfloat16 on float32 weights, where a processor has units for
them (AVX512-BF16, AMX), and attention without padding, where a GPU has a kernel for it.

Training and generation take little more than half the time with such products. Weights, gradients of the adapter,
optimiser state and residual stream stay float32; scores are never computed like this. A GPU has its own rules
(`completion_trainer`).

Belongs here: whether it is done, and how a model runs meanwhile. Does not belong here: what is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from subliminal_dagster.science.models.protocol import ModelVariant

_ATTENTION = "grouped"

_WIDEST_HEAD = 256
"""Dimensions of a head that FlashAttention 2 takes at most."""


def product_type(variant: ModelVariant, device: str) -> str:
    """The type that matrix products of training and generation are computed in: "bfloat16" where the variant allows
    it, its weights are float32 and the processor has units for it, else the weights' own."""
    if variant.autocast and variant.dtype == "float32" and device == "cpu" and _has_units():
        return "bfloat16"
    return variant.dtype


@functools.cache
def _has_units() -> bool:
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def products_in(kind: str, model: Any) -> Iterator[None]:
    """Within the block the model's matrix products are of this `product_type`. Only bfloat16 on float32 weights needs
    anything done: `torch.autocast`, and copies in bfloat16 of the frozen matrices that stay with the model, since
    autocast would copy what has no gradient at every pass."""
    import torch

    if kind != "bfloat16" or model.dtype != torch.float32:
        yield
        return
    matrices: list[Any] = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and not m.weight.requires_grad]
    kept = [matrix.weight for matrix in matrices]
    with quick_attention(model), torch.autocast("cpu", torch.bfloat16):
        try:
            for matrix in matrices:
                if not hasattr(matrix, "in_bfloat16"):
                    matrix.in_bfloat16 = [torch.nn.Parameter(matrix.weight.to(torch.bfloat16), requires_grad=False)]
                matrix.weight = matrix.in_bfloat16[0]
            yield
        finally:
            for matrix, weight in zip(matrices, kept, strict=True):
                matrix.weight = weight


@contextmanager
def quick_attention(model: Any) -> Iterator[None]:
    """Within the block attention is computed by `_grouped`, unless the model needs attention of its own (Gemma 2 caps
    its scores)."""
    _register()
    with attention(model, _ATTENTION if usual_attention(model) == "sdpa" else None):
        yield


@contextmanager
def attention(model: Any, name: str | None) -> Iterator[None]:
    """Within the block attention is computed by what transformers calls `name`; None leaves it as it is."""
    usual = usual_attention(model)
    if name is None or name == usual:
        yield
        return
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.set_attn_implementation(name)
    try:
        yield
    finally:
        inner.set_attn_implementation(usual)


def usual_attention(model: Any) -> str:
    """transformers' name of what computes the model's attention."""
    return str(model.config.get_text_config()._attn_implementation)


def packed_attention(model: Any) -> str | None:
    """transformers' name of an attention that takes many rows as one sequence, without padding; None where there is
    none: FlashAttention 2 of the installed package flash-attn, on a GPU with bfloat16. A model that caps its scores
    (Gemma 2) needs 2.6 of it. Kernels of the hub are not used: they would be fetched when a training begins.

    It takes no mask, so that nothing but training can use it (answers are scored as a tree, see `scoring`).
    """
    import torch
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_greater_or_equal

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config()
    oldest = "2.6.0" if getattr(config, "attn_logit_softcapping", None) else "2.3.3"
    there = (
        model.device.type == "cuda"
        and torch.cuda.is_bf16_supported()
        and is_flash_attn_2_available()
        and is_flash_attn_greater_or_equal(oldest)
    )
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return "flash_attention_2" if there and inner._supports_flash_attn and width <= _WIDEST_HEAD else None


@functools.cache
def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(_ATTENTION, _grouped)
    AttentionMaskInterface.register(_ATTENTION, eager_mask)


def _grouped(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, dropout: float = 0.0, **_: Any
) -> tuple[Any, None]:
    """Attention of queries (batch, heads, positions, width) that share keys and values in groups, as two batched
    products: PyTorch's fused one is slower for a single query in bfloat16, and would have keys copied for each head."""
    import torch

    batch, heads, positions, width = query.shape
    shared, reach = key.shape[1:3]
    groups = (query * scaling).reshape(batch * shared, heads // shared * positions, width)
    scores = torch.bmm(groups, key.reshape(batch * shared, reach, width).transpose(1, 2))
    scores = scores.view(batch, heads, positions, reach)
    if attention_mask is not None:
        scores = scores + attention_mask[..., :reach]
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    weights = torch.nn.functional.dropout(weights, p=dropout, training=module.training)
    weights = weights.reshape(batch * shared, -1, reach)
    mixed = torch.bmm(weights, value.reshape(batch * shared, reach, width)).view(batch, heads, positions, width)
    return mixed.transpose(1, 2).contiguous(), None
