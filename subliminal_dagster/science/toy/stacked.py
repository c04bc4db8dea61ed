"""Training large toy models, on a CPU or a GPU: a stack of models as batched matrix products of PyTorch.

At hundreds of features a step is bound by matrix products, which no loop of our own does better. On a CPU rows without
an active feature, most of them at high sparsity, are taken together as one row with their number as its weight, which
changes nothing but rounding; a GPU would have to wait to learn how many there are.

Belongs here: this one engine. Does not belong here: small models (`fused`), the data (`autoencoder`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subliminal_dagster.science.toy.autoencoder import Floats, History, Lesson, Weights, norms, recorded_steps


def train(lesson: Lesson, start: Weights, device: str = "cpu", dtype: torch.dtype = torch.float32) -> _Trained:
    """Train a stack of models on `device`; `start` is left as it is. The result is float32 whatever `dtype` is."""
    w = torch.tensor(start.w, device=device, dtype=dtype, requires_grad=True)
    b = torch.tensor(start.b, device=device, dtype=dtype, requires_grad=True)
    loss_weights = torch.tensor(lesson.loss_weights, device=device, dtype=dtype)
    inputs = None if lesson.inputs is None else torch.tensor(lesson.inputs, device=device, dtype=dtype)
    target = None
    if lesson.target is not None:
        target = (
            torch.tensor(lesson.target.w, device=device, dtype=dtype),
            torch.tensor(lesson.target.b, device=device, dtype=dtype),
        )
    settings = lesson.training
    # One optimizer for the stack: AdamW treats every number by itself.
    optimizer = torch.optim.AdamW([w, b], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    recorded = set(recorded_steps(settings.steps))
    steps, losses, columns = [], [], []
    done = 0
    for chunk in lesson.draws.chunks(settings.steps):
        for draws in chunk:
            chosen, counts = _without_empty_rows(draws, lesson.draws.last_active) if device == "cpu" else (draws, None)
            rows = torch.from_numpy(np.ascontiguousarray(lesson.draws.values(chosen).T)).to(device, dtype)
            with torch.no_grad():
                goal = rows if target is None else _outputs(*target, rows, lesson.relu)[0]
            seen = rows if inputs is None else inputs[:, None] * rows
            misses = (_outputs(w, b, seen, lesson.relu) - goal).square()
            if counts is not None:
                misses = misses * torch.from_numpy(counts)[:, None]
            loss = (misses.sum(dim=1) * loss_weights).sum(dim=1) * lesson.rows / draws.size
            if lesson.penalty:
                loss = loss + lesson.rows * lesson.penalty * _overlaps(w)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            done += 1
        if done in recorded:
            steps.append(done)
            losses.append(loss.detach().float().cpu().numpy())
            columns.append(norms(w.detach().float().cpu().numpy()))
    trained = Weights(w.detach().float().cpu().numpy(), b.detach().float().cpu().numpy())
    return trained, History(np.array(steps), np.array(losses), np.array(columns))


_Trained = tuple[Weights, History]
Draws32 = NDArray[np.uint32]


def _outputs(w: Tensor, b: Tensor, rows: Tensor, relu: bool) -> Tensor:
    """x' of every model for `rows`, (rows, n) or (models, rows, n): (models, rows, n)."""
    outputs = torch.baddbmm(b[:, None], rows @ w.mT, w)
    return outputs.relu() if relu else outputs


def _without_empty_rows(draws: Draws32, last_active: np.uint32) -> tuple[Draws32, Floats | None]:
    """The rows with an active feature and one empty row for all others, and how many each stands for (None: one).

    draws: (n, rows).
    """
    active = draws.min(axis=0) <= last_active
    empty = len(active) - int(active.sum())
    if empty < 2:
        return draws, None
    kept = np.append(np.flatnonzero(active), np.flatnonzero(~active)[0])
    counts = np.ones(len(kept), np.float32)
    counts[-1] = empty
    return draws[:, kept], counts


def _overlaps(w: Tensor) -> Tensor:
    """The sum over i != j of (W_i . W_j)^2 of every model: (models,)."""
    gram = w.mT @ w
    own = gram.diagonal(dim1=-2, dim2=-1)
    return gram.square().sum(dim=(-2, -1)) - own.square().sum(dim=-1)
