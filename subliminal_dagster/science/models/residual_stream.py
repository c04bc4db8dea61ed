"""The residual stream of a model after its blocks, from a forward pass that goes no deeper than it must.

`resid_post` of layer L (from 0) is what decoder block L hands to the next one. That is `hidden_states[L + 1]` of
transformers, whose first entry is the embedding, except after the last block: the last entry of `hidden_states` is
taken behind the final norm, which sparse autoencoders and steering vectors know nothing of. Blocks are therefore read
by hooks. The pass ends behind the deepest layer asked for, and logits are never computed: in a model of 30 blocks,
layer 9 costs a third of the blocks, and neither the final norm nor the vocabulary.

Belongs here: reading the residual stream of token sequences, one by one or in batches. Does not belong here: which
texts and positions are read and where they are kept (`activations`), adding to the stream (`loading.steered`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.batching import batches_of_like_length

if TYPE_CHECKING:
    import torch


class _PassComplete(Exception):  # noqa: N818
    """Ends a forward pass behind the deepest layer that is wanted."""


@dataclass(frozen=True)
class ResidualBatch:
    """The residual stream of some sequences, all padded on the right to the longest of them.

    rows: the numbers of the sequences, in the order of the batch.
    states: by layer, shape (len(rows), positions, hidden size), in the model's number type and on its device. What
        stands behind a sequence's own length is of no meaning.
    """

    rows: list[int]
    states: dict[int, torch.Tensor]


def residuals(model: Any, ids: torch.Tensor, mask: torch.Tensor, layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """The residual stream after each of `layers` (from 0), by layer, from one forward pass without gradients.

    A block's output is taken after hooks that were there before, such as steering.

    Args:
        model: a transformers language model, PEFT-wrapped or not, multimodal or not, in eval mode.
        ids: token ids, shape (batch, positions).
        mask: 1 at tokens and 0 at padding, on either side, same shape. Positions are counted over tokens only.
        layers: at least one.

    Returns:
        Tensors of shape (batch, positions, hidden size) in the model's number type, on its device. They are the whole
        of what is kept: layers * batch * positions * hidden size * bytes a number, besides one block's own work.

    Raises UserError for a layer that the model does not have.
    """
    import torch

    decoder = model.get_decoder()
    check_layers(model, layers)
    found: dict[int, torch.Tensor] = {}
    deepest = max(layers)

    def keeper(layer: int) -> Any:
        def keep(_block: Any, _inputs: Any, output: Any) -> None:
            found[layer] = output[0] if isinstance(output, tuple) else output
            if layer == deepest:
                raise _PassComplete

        return keep

    mask = mask.to(model.device)
    with torch.no_grad(), ExitStack() as hooks:
        for layer in set(layers):
            hooks.callback(decoder.layers[layer].register_forward_hook(keeper(layer)).remove)
        with suppress(_PassComplete):
            decoder(
                input_ids=ids.to(model.device),
                attention_mask=mask,
                position_ids=(mask.long().cumsum(dim=-1) - 1).clamp(min=0),
                use_cache=False,
            )
    return found


def batched_residuals(
    model: Any, sequences: Sequence[list[int]], layers: Sequence[int], *, batch_tokens: int
) -> Iterator[ResidualBatch]:
    """The residual stream of many token sequences, in batches of like length, the longest sequences first.

    All batches together hold every sequence once, and no more than a tenth of their positions is padding. A batch has
    at most `batch_tokens` positions, padding included; a longer sequence is a batch by itself. Held at a time is one
    batch: layers * batch_tokens * hidden size * bytes a number (two layers of 2,304 float32 numbers at 8,192
    positions: 151 MB), besides one block's own work. What of it is to stay has to be copied out before the next.

    Raises UserError for a layer that the model does not have.
    """
    import torch

    check_layers(model, layers)
    lengths = [len(sequence) for sequence in sequences]
    for alike in batches_of_like_length(lengths, len(sequences)):
        most = max(1, batch_tokens // max(1, lengths[alike[0]]))
        for start in range(0, len(alike), most):
            rows = alike[start : start + most]
            ids = torch.zeros(len(rows), lengths[rows[0]], dtype=torch.long)
            mask = torch.zeros_like(ids)
            for place, row in enumerate(rows):
                ids[place, : lengths[row]] = torch.tensor(sequences[row], dtype=torch.long)
                mask[place, : lengths[row]] = 1
            yield ResidualBatch(rows, residuals(model, ids, mask, layers))


def check_layers(model: Any, layers: Sequence[int]) -> None:
    """Raise UserError, naming those there are, where a layer is not one of the model's."""
    blocks = len(model.get_decoder().layers)
    for layer in layers:
        if not 0 <= layer < blocks:
            name = model.config.name_or_path or "this model"
            raise UserError(f"Layer {layer} does not exist in {name}: choose 0 to {blocks - 1}.")
