"""The toy autoencoder x' = ReLU(W^T W x + b): its data, its loss weights, what is measured of it.

Belongs here: everything the engines (`fused`, `stacked`) and the sweep agree on. Does not belong here: a training step
(the engines), which models are trained on what (`sweep`).

The model and the measure of superposition are those of Elhage et al. (2022), "Toy Models of Superposition".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.settings.toy import BatchLoss, ToyTraining

Floats = NDArray[np.float32]

_DRAWN_AT_ONCE = 2**20
_RECORDS = 50
LEARNT = 0.5
"""A feature counts as learnt where the norm of its column of W is at least this: norms gather near 0 and 1."""


@dataclass(frozen=True)
class Weights:
    """A stack of models: W of shape (models, m, n), b of shape (models, n), float32."""

    w: Floats
    b: Floats

    @property
    def models(self) -> int:
        return self.w.shape[0]

    def stacked(self, times: int) -> Weights:
        """`times` copies of a stack of one model."""
        return Weights(np.repeat(self.w, times, axis=0), np.repeat(self.b, times, axis=0))


@dataclass(frozen=True)
class Draws:
    """Fresh rows: every feature is active with probability `density`, and then uniform on [0, 1].

    One uniform number decides both: below the density it is active, and its place below it is its value. `key` tells
    the streams of a study apart; the same key, density and shape always give the same rows.
    """

    key: tuple[int, ...]
    density: float
    features: int
    batch_size: int

    @property
    def last_active(self) -> np.uint32:
        """The largest 32-bit draw that makes a feature active."""
        return np.uint32(max(round(self.density * 2**32), 1) - 1)

    @property
    def scale(self) -> np.float32:
        """What an active draw is multiplied with."""
        return np.float32(1 / (int(self.last_active) + 1))

    def chunks(self, steps: int) -> Iterator[NDArray[np.uint32]]:
        """The draws of `steps` batches in chunks of shape (some steps, features, batch_size), cut where the training is
        recorded or the chunk grows large."""
        density = int(np.float64(self.density).view(np.uint64))
        stream = np.random.SFC64(np.random.SeedSequence([*self.key, density]))
        size = self.features * self.batch_size
        longest = max(_DRAWN_AT_ONCE // size, 1)
        done = 0
        for end in recorded_steps(steps):
            while done < end:
                count = min(longest, end - done)
                raw = stream.random_raw((count * size + 1) // 2)
                yield raw.view(np.uint32)[: count * size].reshape(count, self.features, self.batch_size)
                done += count

    def values(self, draws: NDArray[np.uint32]) -> Floats:
        """The rows' values, float32, of the shape of `draws`."""
        active = draws <= self.last_active
        return np.where(active, draws.astype(np.float32) * self.scale, np.float32(0))


@dataclass(frozen=True)
class Lesson:
    """What a stack of models is trained on.

    `target` None: the models reproduce their input; else the outputs of that one model for the whole input. A row's
    loss is the mean over outputs of the squared error, weighed with `loss_weights` (models, n), plus `penalty` times
    the sum over i != j of (W_i . W_j)^2. The loss of a batch is their sum, as published, or their mean (`batch_loss`).
    `inputs` (models, n) multiply what each model sees of a row, 1 or 0; None: it sees all.
    """

    draws: Draws
    target: Weights | None
    loss_weights: Floats
    relu: bool
    penalty: float
    training: ToyTraining
    inputs: Floats | None = None
    batch_loss: BatchLoss = "sum"

    @property
    def rows(self) -> int:
        """The number of rows the loss counts: the batch where it is summed, 1 where it is averaged."""
        return self.draws.batch_size if self.batch_loss == "sum" else 1


@dataclass(frozen=True)
class History:
    """A training as it went: at each of `steps` (records,) the losses (records, models) of that step's batch, and the
    norms (records, models, n) of the columns of W after it."""

    steps: NDArray[np.int64]
    losses: Floats
    norms: Floats


def recorded_steps(steps: int) -> list[int]:
    """The steps after which a training is recorded: about fifty, the last among them."""
    every = math.ceil(steps / _RECORDS)
    return [*range(every, steps, every), steps]


def importances(features: int, base: float, of: int) -> Floats:
    """Loss weights base ** (20 i / of) of `features` features, shape (features,): the post's 0.7^i where `of` is 20."""
    return (base ** (20 * np.arange(features) / of)).astype(np.float32)


def initial(key: tuple[int, ...], features: int, hidden: int, norm: float | Literal["xavier"]) -> Weights:
    """One untrained model: W normal, its columns of root mean square norm `norm`; b zero.

    "xavier": the norm of Glorot & Bengio (2010), whose numbers have the variance 2 / (hidden + features).
    """
    if norm == "xavier":
        norm = math.sqrt(2 * hidden / (hidden + features))
    w = np.random.default_rng([*key]).normal(scale=norm / math.sqrt(hidden), size=(1, hidden, features))
    return Weights(w.astype(np.float32), np.zeros((1, features), np.float32))


def norms(w: Floats) -> Floats:
    """||W_i|| of every feature: (..., m, n) to (..., n)."""
    return np.linalg.norm(w, axis=-2)


def superposition(w: Floats) -> NDArray[np.float64]:
    """Features represented per hidden dimension, ||W||_F^2 / m (Elhage et al. 2022): (..., m, n) to (...)."""
    return np.square(w, dtype=np.float64).sum(axis=(-2, -1)) / w.shape[-2]


def interference(w: Floats) -> NDArray[np.float64]:
    """How much the represented features overlap: (..., m, n) to (...).

    The sum over j != i of (W_i . W_j)^2 / ||W_i||^2, which is 0 for orthogonal features, averaged over features
    weighted by ||W_i||^2, so that a feature that is not represented does not count.
    """
    gram = np.swapaxes(w, -1, -2).astype(np.float64) @ w
    squares = np.square(gram)
    own = np.diagonal(gram, axis1=-2, axis2=-1)
    others = squares.sum(axis=(-2, -1)) - np.square(own).sum(axis=-1)
    return others / np.maximum(own.sum(axis=-1), np.finfo(np.float64).tiny)


def recovered(teacher: Floats, start: Floats, child: Floats, judged: NDArray[np.bool_]) -> float:
    """The share of the way from a shrunken `start` to `teacher` that the child has gone, in W^T W restricted to
    `judged` rows.

    1 - ||G_child - G_teacher||^2 / min ||a G_start - G_teacher||^2 over a from 0 to 1, in the rows of the judged
    features: 1 is the teacher's geometry, 0 no nearer to it than the child's own start, shrunken as far as helps,
    negative is farther. A start that only shrinks, as by weight decay, comes nearer to any teacher and has learnt
    nothing of it. W^T W is blind to a rotation of the hidden space, which W itself is not, so a child from another
    initialisation is judged fairly. W has shape (m, n).
    """

    def rows(w: Floats) -> NDArray[np.float64]:
        return w.astype(np.float64)[:, judged].T @ w

    goal, began = rows(teacher), rows(start)
    scale = (goal * began).sum() / max(np.square(began).sum(), np.finfo(np.float64).tiny)
    nearest = np.clip(scale, 0, 1) * began
    return float(1 - np.square(rows(child) - goal).sum() / np.square(nearest - goal).sum())
