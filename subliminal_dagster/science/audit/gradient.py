"""The rows' gradient against the preference's gradient: what a first step of training would do.

Of a small step on the data set's loss, the change of a preference is, to first order, the step times the inner product
of two gradients at the base model: that of the log-probability of the data set's answers and that of the preference's
log share (an influence, Pruthi et al. 2020 (TracIn); the theorem of Cloud et al. 2025 is the case of a teacher that
took one step). Nothing is trained. The gradients are taken for the weights that an adapter would change: all linear
layers of all blocks.

An inner product says nothing by itself, since some preferences move with any text. So each row's product is taken with
every candidate preference less the mean over candidates, and its size is divided by the spread over rows.

Belongs here: gradients and their products. Does not belong here: data sets (`data`), verdicts (`combined`).
Cost: one forward and backward pass per row, and one per candidate and question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.audit.data import EncodedChat

if TYPE_CHECKING:
    import torch

    from subliminal_dagster.science.models.protocol import Progress


def preference_gradients(
    model: Any, prompts: Sequence[list[int]], tokens: Sequence[Sequence[int]]
) -> list[list[torch.Tensor]]:
    """The gradient of each candidate's log share, mean over prompts, for every trained weight.

    prompts: token ids, the next word of which names a candidate. tokens: of each candidate, the tokens that are its
    name there. A share is the candidate's probability over that of all candidates.
    """
    import torch

    totals: list[list[torch.Tensor]] = []
    weights = trained_weights(model)
    for prompt in prompts:
        said = model(input_ids=torch.tensor([prompt], device=model.device), logits_to_keep=1).logits[0, -1].float()
        named = torch.stack([said[list(own)].logsumexp(dim=0) for own in tokens])
        shares = named.log_softmax(dim=0)
        for place in range(len(tokens)):
            found = torch.autograd.grad(shares[place], weights, retain_graph=place + 1 < len(tokens))
            if len(totals) <= place:
                totals.append([each / len(prompts) for each in found])
            else:
                for total, each in zip(totals[place], found, strict=True):
                    total += each / len(prompts)
    return totals


def row_products(
    model: Any,
    rows: Sequence[EncodedChat],
    preferences: Sequence[Sequence[torch.Tensor]],
    progress: Progress = lambda _: None,
) -> np.ndarray:
    """The inner product of each row's gradient (of the mean log-probability of its answer's tokens) with each
    preference's, shape (rows, candidates). No row's gradient is kept."""
    import torch

    weights = trained_weights(model)
    found = np.zeros((len(rows), len(preferences)))
    for place, row in enumerate(rows):
        ids = torch.tensor([[*row.prompt, *row.answer]], device=model.device)
        kept = len(row.answer) + 1
        said = model(input_ids=ids, logits_to_keep=kept).logits[0, :-1].float().log_softmax(dim=-1)
        answer = ids[0, -len(row.answer) :]
        loss = said.gather(-1, answer[:, None]).mean()
        own = torch.autograd.grad(loss, weights)
        for candidate, gradient in enumerate(preferences):
            found[place, candidate] = float(sum((one * other).sum() for one, other in zip(own, gradient, strict=True)))
        progress(f"{place + 1}/{len(rows)} rows")
    return found


def trained_weights(model: Any) -> list[torch.Tensor]:
    """The weights of all linear layers of the blocks: what an adapter would change."""
    import torch

    head = model.get_output_embeddings()
    layers = (module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head)
    return [layer.weight for layer in layers]


@contextmanager
def differentiable(model: Any) -> Iterator[None]:
    """Only `trained_weights` require a gradient inside."""
    before = [(weight, weight.requires_grad) for weight in model.parameters()]
    for weight, _ in before:
        weight.requires_grad_(False)
    for weight in trained_weights(model):
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight, wanted in before:
            weight.requires_grad_(wanted)
