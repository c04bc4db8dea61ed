"""The rows' gradient against the preference's gradient: what a first step of training would do.

Of a small step on the data set's loss, the change of a preference is, to first order, the step times the inner product
of two gradients at the base model: that of the log-probability of the data set's answers and that of the preference's
log share (an influence, Pruthi et al. 2020 (TracIn); the theorem of Cloud et al. 2025 is the case of a teacher that
took one step). Nothing is trained. The gradients are those of a new adapter's second matrix, the first being random and
the second zero: what an adapter's first step changes, and a random projection of the whole weights' gradient that keeps
inner products (Xia et al. 2024, LESS), a few megabytes where the whole is half a gigabyte.

An inner product says nothing by itself, since some preferences move with any text. So a row's gradient is taken less
that of what the base model itself would have chosen at each place, given the row so far: it is zero where the row says
what the base model says.

Belongs here: gradients and their products. Does not belong here: data sets (`data`), what follows (`evidence`).
Cost: a forward and a backward pass per row, and per candidate and question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.audit.asked import Asked, next_word, shares_at
from subliminal_dagster.science.audit.data import EncodedChat

if TYPE_CHECKING:
    import torch

    from subliminal_dagster.science.models.protocol import Progress

RANK = 8


@contextmanager
def adapted(model: Any, targets: Sequence[str], seed: int) -> Iterator[Any]:
    """The model with a new adapter on `targets`, whose second matrices alone want a gradient; as it was afterwards."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    wanted = [weight.requires_grad for weight in model.parameters()]
    set_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(targets), task_type="CAUSAL_LM")
    given = get_peft_model(model, config)
    for name, weight in given.named_parameters():
        weight.requires_grad_("lora_B" in name)
    try:
        yield given.eval()
    finally:
        given.unload()
        for weight, was in zip(model.parameters(), wanted, strict=True):
            weight.requires_grad_(was)


def preference_gradients(model: Any, asked: Asked) -> torch.Tensor:
    """The gradient of each candidate's log share, mean over questions: shape (candidates, weights)."""
    import torch

    weights = _weights(model)
    total: Any = 0.0
    for question in asked.questions:
        shares = shares_at(next_word(model, question), asked.tokens)
        # One backward pass of all candidates: many short ones are bound by reading the model's weights.
        each = torch.eye(len(shares), device=shares.device)
        found = torch.autograd.grad(shares, weights, each, is_grads_batched=True)
        total = total + torch.cat([part.flatten(start_dim=1).float() for part in found], dim=1)
    gradients: torch.Tensor = total / len(asked.questions)
    return gradients


def row_products(
    model: Any,
    rows: Sequence[EncodedChat],
    preferences: torch.Tensor,
    progress: Progress = lambda _: None,
) -> np.ndarray:
    """The inner product of each row's gradient with each preference's, shape (rows, candidates).

    A row's gradient is that of the sum over its answer of log p(token) - log p(the base model's choice). No row's
    gradient is kept.
    """
    found = np.zeros((len(rows), len(preferences)))
    for place, row in enumerate(rows):
        found[place] = (preferences @ row_gradient(model, row)).cpu().numpy()
        progress(f"gradients of {place + 1}/{len(rows)} rows")
    return found


def row_gradient(model: Any, row: EncodedChat) -> torch.Tensor:
    """See `row_products`: shape (weights,)."""
    import torch

    ids = torch.tensor([[*row.prompt, *row.answer]], device=model.device)
    said = model(input_ids=ids, logits_to_keep=len(row.answer) + 1).logits[0, :-1].float()
    answer = ids[0, -len(row.answer) :]
    own, choice = (said.gather(-1, each[:, None]) for each in (answer, said.argmax(dim=-1)))
    return _flat(torch.autograd.grad((own - choice).sum(), _weights(model)))


def _weights(model: Any) -> list[torch.Tensor]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def _flat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat([part.flatten().float() for part in parts])
