"""The preference's shift while the data's mean activation is injected (Data2Behavior's manipulation of data features).

The mean residual stream at the answers' last tokens, less that at the base model's own answers to the same prompts, is
what the data set says beside what the model would have said. It is added to the residual stream of the layer while the
model is asked for its favourite. Nothing is trained.

Belongs here: that vector and that shift. Does not belong here: data sets (`data`), what follows (`evidence`).
Cost: a forward pass per row and per own answer, and one per question for each part of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.audit.asked import Asked, log_shares
from subliminal_dagster.science.models.residual_stream import batched_residuals

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = 1024


def mean_answer_states(
    model: Any, prompts: Sequence[list[int]], answers: Sequence[list[int]], layer: int
) -> torch.Tensor:
    """The residual stream after `layer`, mean over each answer's tokens: shape (rows, hidden size), float32."""
    import torch

    sequences = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    found = torch.zeros(len(sequences), model.config.get_text_config().hidden_size)
    for batch in batched_residuals(model, sequences, [layer], batch_tokens=BATCH_TOKENS):
        for place, row in enumerate(batch.rows):
            states = batch.states[layer][place, len(prompts[row]) : len(sequences[row])]
            found[row] = states.float().mean(dim=0).cpu()
    return found


def shifts(model: Any, vectors: torch.Tensor, layer: int, asked: Asked) -> np.ndarray:
    """How far each vector, added to the residual stream after `layer` at every position, moves the log share of every
    candidate (nats, mean over questions): (vectors, hidden size) to (vectors, candidates)."""
    before = log_shares(model, asked)
    found = []
    for vector in vectors:
        with _added(model, layer, vector):
            found.append(log_shares(model, asked) - before)
    return np.stack(found)


@contextmanager
def _added(model: Any, layer: int, vector: torch.Tensor) -> Iterator[None]:
    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + vector.to(output[0]), *output[1:])
        return output + vector.to(output)

    handle = model.get_decoder().layers[layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
