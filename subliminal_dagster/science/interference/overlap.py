"""Do the features that numbers activate overlap with an animal's directions more than others do?

If subliminal learning is a by-product of superposition, features that numbers activate share directions with the
animal: their decoder columns overlap with the direct steering vector and with the word's direction, and writing numbers
pushes along these. An *overlap* is the squared cosine of a column with a direction, the share of the feature's length
that goes there; a group's overlap is the mean over the features that its numbers activate, weighed by how far each
pushes on them.

Every column overlaps with every direction: two random ones of d dimensions by 1/d, and more where the model uses few of
its dimensions. So each feature of numbers is set beside others that are as long and as frequent on text (*matched*),
one drawn for each, the same for all groups and animals, since all groups' numbers activate much the same features.

The *animal's subspace* is what its word activates: the word's direction, as it is and less the other words', and the
columns of the features that fire on it. With that projected out of columns and direct vector, an overlap cannot come
from features of numbers that resemble features of the animal.

Belongs here: overlaps of arrays, their matched chance, their tests. Does not belong here: autoencoders, steering
vectors, sentences (`report`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

FIRES_ON = 0.1
"""The share of a group's rows on which a feature of its numbers fires at least."""

NEIGHBOURS = 10
"""Features among which a matched one is drawn."""

FEWEST_FIRINGS = 3
"""Tokens of text on which a feature fires at least, or its rate and its length are unknown."""


@dataclass(frozen=True)
class FeatureUse:
    """How features are used on text, shape (features,) each: `rate`, the share of tokens on which one fires, and
    `length`, by how much it moves the residual stream when it does (its mean activation there times its column's norm;
    0 where it never fires)."""

    rate: Array
    length: Array
    tokens: int

    @classmethod
    def of(cls, features: csr_array, decoder: Array) -> FeatureUse:
        """features: activations on tokens, shape (tokens, features); decoder: shape (features, hidden size)."""
        fires = np.bincount(features.indices, minlength=features.shape[1])
        total = np.bincount(features.indices, weights=features.data, minlength=features.shape[1])
        length = total / np.maximum(fires, 1) * np.linalg.norm(decoder, axis=1)
        return cls(fires / features.shape[0], length, features.shape[0])

    @property
    def known(self) -> NDArray[np.bool_]:
        return self.rate * self.tokens >= FEWEST_FIRINGS


def number_features(features: csr_array) -> tuple[Integers, Array]:
    """The features that a group's numbers activate, those that fire on at least `FIRES_ON` of its rows, and their mean
    activation over all rows. features: shape (rows, features), analysis rows alone."""
    rate = np.bincount(features.indices, minlength=features.shape[1]) / features.shape[0]
    mean = np.bincount(features.indices, weights=features.data, minlength=features.shape[1]) / features.shape[0]
    found = np.flatnonzero(rate >= FIRES_ON)
    return found, mean[found]


def matched_features(own: Integers, use: FeatureUse, draws: int, seed: int) -> tuple[Integers, Integers]:
    """For every feature of numbers that text knows, other features that are as long and as frequent on text.

    own: all groups' features of numbers; none of them is drawn.

    Returns:
        Those of `own` that text knows, shape (known,), none where there is nothing else to draw, and what is drawn in
        the place of each, shape (draws, known): one of the `NEIGHBOURS` nearest by logarithms of rate and length, each
        in its standard deviations.
    """
    from scipy.spatial import cKDTree

    known = own[use.known[own]]
    others = np.setdiff1d(np.flatnonzero(use.known), own)
    if not len(known) or not len(others):
        return known[:0], np.empty((draws, 0), dtype=np.int64)
    place = np.full((len(use.rate), 2), np.nan)
    there = use.known
    place[there] = np.log(np.stack([use.rate[there], use.length[there]], axis=1))
    place = (place - np.nanmean(place, axis=0)) / np.maximum(np.nanstd(place, axis=0), 1e-12)
    count = min(NEIGHBOURS, len(others))
    _, nearest = cKDTree(place[others]).query(place[known], k=count)
    nearest = np.asarray(nearest).reshape(len(known), count)
    picked = np.random.default_rng(seed).integers(0, count, size=(draws, len(known)))
    return known, others[nearest[np.arange(len(known)), picked]]


def animal_subspace(word: Sequence[NDArray[Any]], columns: Array) -> Array:
    """An orthonormal basis, shape (hidden size, rank), of an animal's subspace. word: its word's directions; columns:
    those of the features that fire on it, shape (features, hidden size)."""
    directions = np.concatenate([np.stack(list(word)), columns]).astype(np.float64)
    directions = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    basis, values, _ = np.linalg.svd(directions.T, full_matrices=False)
    found: Array = basis[:, values > 1e-6 * values[0]]
    return found


def overlaps(decoder: Array, direction: NDArray[Any], without: Array | None = None) -> Array:
    """Squared cosines of decoder columns, shape (features, hidden size), with a direction; after a subspace (an
    orthonormal basis, shape (hidden size, rank)) is projected out of both. 0 where nothing of a column is left."""
    columns, along = decoder.astype(np.float64), direction.astype(np.float64)
    if without is not None:
        columns, along = columns - columns @ without @ without.T, along - without @ (without.T @ along)
    lengths = (columns**2).sum(axis=1) * (along @ along)
    # What rounding leaves of a column that lay inside has no direction.
    there = (columns**2).sum(axis=1) > 1e-9 * (decoder.astype(np.float64) ** 2).sum(axis=1)
    squared: Array = np.where(there, (columns @ along) ** 2 / np.where(lengths > 0, lengths, 1), 0.0)
    return squared


@dataclass(frozen=True)
class Pushed:
    """What a group's numbers push at a layer: its `features`, as places among the known features of numbers, and their
    `weights`, which sum to 1."""

    features: Integers
    weights: Array

    @classmethod
    def of(cls, own: Integers, mean: Array, known: Integers, decoder: Array) -> Pushed:
        """own, mean: as `number_features` gives them; known: as `matched_features` does."""
        there = np.isin(own, known)
        weights = mean[there] * np.linalg.norm(decoder[own[there]], axis=1)
        return cls(np.searchsorted(known, own[there]), weights / weights.sum() if len(weights) else weights)

    def mean(self, overlap: Array) -> Any:
        """The weighed mean over the group's features of an overlap, shape (..., known features)."""
        return overlap[..., self.features] @ self.weights


def overlap_rows(
    pushed: Mapping[str, Pushed],
    known: Integers,
    matched: Integers,
    overlap: Array,
    inside: Integers | None = None,
) -> list[dict[str, Any]]:
    """What each group's numbers overlap with one direction, beside matched features.

    overlap: of every feature, shape (features,). inside: features that are left out, since they span the subspace that
    was projected out; what was drawn in their place, or would have been one of them, counts as the mean of the others.

    Returns:
        A row a group: `group`, `overlap`, `matched` (mean over draws), `log_ratio` (of the first to the second, nats)
        and `drawn` (list of float: the log ratio of every draw to the mean of all).
    """
    own, drawn = overlap[known].copy(), overlap[matched]
    if inside is not None:
        own[np.isin(known, inside)] = np.nan
        drawn = np.where(np.isin(matched, inside), np.nan, drawn)
    rows = []
    for group, each in pushed.items():
        if not len(each.features):
            continue
        own_mean, drawn_means = _weighed(own, each), _weighed(drawn, each)
        chance = float(np.mean(drawn_means))
        rows.append(
            {
                "group": group,
                "overlap": float(own_mean),
                "matched": chance,
                "log_ratio": float(np.log(own_mean / chance)),
                "drawn": np.log(drawn_means / chance).tolist(),
            }
        )
    return rows


def _weighed(overlap: Array, pushed: Pushed) -> Array:
    """The weighed mean over a group's features of those that are not left out (NaN)."""
    of_group = overlap[..., pushed.features]
    there = np.isfinite(of_group)
    weights = np.where(there, pushed.weights, 0)
    found: Array = (np.where(there, of_group, 0) * weights).sum(axis=-1) / weights.sum(axis=-1)
    return found
