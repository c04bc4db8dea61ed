"""Subspaces taken out of a model's residual stream.

Belongs here: the projection, while a block lasts. Does not belong here: which subspaces, and what for
(`arms.subspaces`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from subliminal_dagster.science.errors import UserError

BASIS = "basis"


@contextmanager
def projected_out(model: Any, file: Path | None) -> Iterator[None]:
    """Take a subspace out of the residual stream after every block while the `with` block lasts: x - B'Bx.

    `file` is a safetensors file with the tensor `basis`, shape (blocks, dimensions, hidden size), whose rows are
    orthonormal in every block; None takes nothing out. Gradients are those of the projected stream.

    Raises UserError where the file holds no such tensor, or one of another model's shape.
    """
    if file is None:
        yield
        return
    import torch
    from safetensors.torch import load_file

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    blocks = inner.get_decoder().layers
    tensors = load_file(file)
    hidden = model.config.get_text_config().hidden_size
    basis = tensors.get(BASIS)
    if basis is None or basis.ndim != 3 or basis.shape[0] != len(blocks) or basis.shape[2] != hidden:
        found = "no tensor named 'basis'" if basis is None else f"a basis of shape {tuple(basis.shape)}"
        raise UserError(
            f"The file {file} holds {found}, and this model needs one of shape ({len(blocks)}, dimensions, {hidden}): "
            "make it with this base model."
        )

    def taking_out(of_block: Any) -> Any:
        def take_out(_block: Any, _inputs: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            # In float32 whatever the products' type: what is left of a direction is a difference of large numbers.
            with torch.autocast(states.device.type, enabled=False):
                wide = states.float()
                rest = (wide - (wide @ of_block.T) @ of_block).to(states.dtype)
            return (rest, *output[1:]) if isinstance(output, tuple) else rest

        return take_out

    with ExitStack() as hooks:
        for block, rows in zip(blocks, basis.float().to(model.device), strict=True):
            hooks.callback(block.register_forward_hook(taking_out(rows)).remove)
        yield
