"""Training as a loop that anybody would write: the reference that trainers are held against.

Belongs here: that loop. Does not belong here: tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from subliminal_dagster.science.training.task import Row


def take_steps(model: Any, optimizer: Any, rows: Sequence[Row], steps: int) -> None:
    """Train what of the model wants gradients: at every step all `rows`, one by one, with the cross-entropy in nats per
    token of the answers, gradients clipped to a norm of 1."""
    import torch

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for _ in range(steps):
        optimizer.zero_grad()
        for row in rows:
            logits = model(input_ids=torch.tensor([row.prompt + row.answer])).logits[0, len(row.prompt) - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(row.answer), reduction="sum")
            (loss / sum(len(row.answer) for row in rows)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
