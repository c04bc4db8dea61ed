"""Where a trained student moved, for who has one: its shift from the base along every candidate's direction.

A candidate's direction is how the residual stream differs, where the model is asked for its favourite, between being
told that it loves the candidate and that it loves another (as persona vectors, Chen et al. 2025). The student's shift
is taken at the same places, without being told anything.

Belongs here: directions and shifts. Does not belong here: training a student (`rehearsal`), what follows (`evidence`).
Cost: a forward pass per candidate and question, and two per question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.models.residual_stream import batched_residuals

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = 1024


def last_states(model: Any, prompts: Sequence[list[int]], layer: int) -> torch.Tensor:
    """The residual stream after `layer` at each prompt's last token: shape (prompts, hidden size), float32."""
    import torch

    found = torch.zeros(len(prompts), model.config.get_text_config().hidden_size)
    for batch in batched_residuals(model, prompts, [layer], batch_tokens=BATCH_TOKENS):
        for place, row in enumerate(batch.rows):
            found[row] = batch.states[layer][place, len(prompts[row]) - 1].float().cpu()
    return found


def directions(told: Sequence[torch.Tensor]) -> torch.Tensor:
    """Unit vectors, (candidates, hidden size), from the states under each candidate's telling, each (questions, hidden
    size): the mean over questions less that of all candidates."""
    import torch

    means = torch.stack([states.mean(dim=0) for states in told])
    return torch.nn.functional.normalize(means - means.mean(dim=0), dim=-1)


def projected(base: torch.Tensor, student: torch.Tensor, along: torch.Tensor) -> np.ndarray:
    """The student's shift along every candidate's direction, per question: states (questions, hidden size) and
    directions (candidates, hidden size) to (questions, candidates)."""
    found: np.ndarray = ((student - base) @ along.T).double().numpy()
    return found
