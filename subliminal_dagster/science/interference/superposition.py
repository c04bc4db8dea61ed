"""How crowded a layer of the base model is, as its autoencoder sees it.

A layer holds more features than dimensions where features share directions (superposition; Elhage et al. 2022). Three
figures of it. *Effective dimensions*: the participation ratio of the activations' covariance, (sum of its
eigenvalues)^2 / sum of their squares, which is the number of dimensions where all are used alike. *Used features*:
those that fire on text at all; how many there are a dimension is the superposition of the toy models. *Interference*:
the mean squared cosine of two used features' columns, beside that of random columns of the same shape, drawn from all
directions alike (1/d) and drawn with the activations' own covariance (columns lie where activations do).

L0 and reconstruction error go with the length of an activation, so both are taken *at one norm*.

Belongs here: those figures of arrays. Does not belong here: overlaps with an animal's directions (`overlap`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

Encode = Callable[[NDArray[np.float32]], tuple[Any, NDArray[np.float32]]]
"""From vectors to their features, a scipy CSR array (rows, features), and the mean squared error of each."""

RANDOM_DRAWS = 20


def effective_dimensions(vectors: NDArray[np.float32]) -> float:
    """The participation ratio of the covariance of activations, shape (tokens, hidden size)."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    covariance = centred.T @ centred
    return float(np.trace(covariance) ** 2 / (covariance**2).sum())


def mean_squared_cosine(columns: Array) -> float:
    """Of two different columns, shape (columns, hidden size), mean over all pairs: from the columns' Gram matrix of
    dimensions, so that pairs are never held."""
    lengths = np.linalg.norm(columns, axis=1, keepdims=True)
    units = columns.astype(np.float64) / np.where(lengths > 0, lengths, 1)
    count = len(units)
    # The sum over all pairs of squared products is the squared norm of either Gram matrix.
    return float((((units.T @ units) ** 2).sum() - count) / (count * (count - 1)))


def layer_superposition(
    decoder: Array, used: NDArray[np.bool_], vectors: NDArray[np.float32], l0: float, seed: int
) -> dict[str, float]:
    """All figures of a layer.

    decoder: shape (features, hidden size); used: of each feature, whether it fires on text; vectors: activations on
    text, shape (tokens, hidden size); l0: mean features that fire on a token.

    Returns `dimensions`, `effective_dimensions`, `features`, `used`, `l0`, `used_per_dimension`,
    `used_per_effective_dimension`, `dimensions_per_used` (effective), `interference`, and what random columns have:
    `isotropic` and `covariant`, each with `_low` and `_high` of 95 % of the draws (`RANDOM_DRAWS`; for so few, their
    extremes).
    """
    rng = np.random.default_rng(seed)
    columns = decoder[used].astype(np.float64)
    hidden, count = decoder.shape[1], len(columns)
    effective = effective_dimensions(vectors)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    drawn: dict[str, list[float]] = {"isotropic": [], "covariant": []}
    for _ in range(RANDOM_DRAWS):
        drawn["isotropic"].append(mean_squared_cosine(rng.standard_normal((count, hidden))))
        # A normal draw with their covariance: sums of the activations themselves with normal weights.
        rows = centred[rng.choice(len(centred), size=min(len(centred), 4 * hidden), replace=False)]
        drawn["covariant"].append(mean_squared_cosine(rng.standard_normal((count, len(rows))) @ rows))
    found = {
        "dimensions": float(hidden),
        "effective_dimensions": effective,
        "features": float(len(decoder)),
        "used": float(count),
        "l0": l0,
        "used_per_dimension": count / hidden,
        "used_per_effective_dimension": count / effective,
        "dimensions_per_used": effective / count,
        "interference": mean_squared_cosine(columns),
    }
    for name, values in drawn.items():
        low, high = np.quantile(values, [0.025, 0.975])
        found |= {name: float(np.mean(values)), f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def at_one_norm(vectors: NDArray[np.float32], norm: float, encode: Encode) -> tuple[Array, Array]:
    """L0 and relative reconstruction error (squared, as a share of the squared length) of every activation, shape
    (rows,) each, all of them given one length before."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled = (vectors * (norm / np.maximum(lengths, 1e-12))).astype(np.float32)
    features, error = encode(scaled)
    l0 = np.diff(features.indptr).astype(np.float64)
    return l0, error.astype(np.float64) * vectors.shape[1] / norm**2
