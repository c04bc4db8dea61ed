"""What is left of entanglement beyond frequency, whether teachers write such numbers, and whether it says which animals
a child comes to like.

Frequent numbers and frequent animals are raised by nearly everything, so that a measure of a number and an animal is
mostly about the one and about the other; most of what was published on entangled tokens has been called that. Here two
things are taken off a measure M (numbers, animals). From every animal the mean of the numbers that are as long and as
probable (bins of some twenty neighbours). From every number what goes with how probable animals are: its mean over
them, and its slope along their log-probability. What is left says what this number has to do with this animal, beyond
numbers matched to it by frequency and animals matched by frequency. All that follows uses this part alone.

- *Lift*: what the numbers nearest to an animal by one measure do to it by another, against the numbers nearest to other
  animals.
- *Data*: the measure's mean over the numbers that an animal's teacher writes, against those of other animals' teachers.
- *Prediction*: the measure's mean over the numbers that a child is trained on, animal by animal, against how its liking
  of them moved.

Belongs here: arrays and tables, with their tests. Does not belong here: how a measure is taken (`measures`), sentences
(`report`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.statistics import assignment_p, chance_p, t_interval, wider_interval
from subliminal_dagster.science.verdict import Verdict, verdict, verdict_or_none_as_large

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

RATIO = "ratio"
"""The measure that data give: how much more often a number stands among an animal's than among other groups'."""

BIN = 20
"""Numbers that count as equally probable."""

LEVEL = 0.05
FEWEST = 4
"""Animals, and children, that a rank or a spread is taken over."""

_HALF_A_COUNT = 0.5
_UNKNOWN = (math.nan,) * 6


def matched_bins(digits: Integers, log_p: Array) -> Integers:
    """Which numbers count as equally frequent: of the same length, and about `BIN` neighbours by log-probability. Shape
    (numbers,), a bin's number each."""
    found = np.empty(len(digits), dtype=np.int64)
    first = 0
    for length in np.unique(digits):
        own = np.flatnonzero(digits == length)
        parts = max(1, len(own) // BIN)
        ordered = own[np.argsort(log_p[own], kind="stable")]
        for number, part in enumerate(np.array_split(ordered, parts)):
            found[part] = first + number
        first += parts
    return found


def beyond_frequency(values: Array, bins: Integers, animal_log_p: Array) -> Array:
    """What is left of a measure, shape (numbers, animals), beyond frequency (see the module). Animals without a value
    or a log-probability are NaN throughout."""
    there = np.isfinite(values).all(axis=0) & np.isfinite(animal_log_p)
    left = np.full(values.shape, np.nan)
    if there.sum() <= 2:
        return left
    kept = values[:, there] - _bin_means(values[:, there], bins)
    left[:, there] = kept - kept @ _along(animal_log_p[there])
    return left


def variance_shares(values: Array, bins: Integers, animal_log_p: Array) -> dict[str, float]:
    """Of a measure's variance over numbers and animals, the shares of what is the `number`'s (the same for all
    animals), the `animal`'s (the same for all numbers), of both their `frequency` together, and `left` beyond it. They
    sum to 1."""
    there = np.isfinite(values).all(axis=0) & np.isfinite(animal_log_p)
    kept = values[:, there]
    centred = kept - kept.mean()
    rows, columns = centred.mean(axis=1, keepdims=True), centred.mean(axis=0, keepdims=True)
    left = beyond_frequency(values, bins, animal_log_p)[:, there]
    total = float((centred**2).sum())
    shares = {
        "number": float((rows**2).sum()) * kept.shape[1] / total,
        "animal": float((columns**2).sum()) * kept.shape[0] / total,
        "left": float((left**2).sum()) / total,
    }
    both = 1 - sum(shares.values())
    return {"number": shares["number"], "animal": shares["animal"], "frequency": both, "left": shares["left"]}


def _bin_means(values: Array, bins: Integers) -> Array:
    counts = np.bincount(bins)[:, None]
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, bins, values)
    return (sums / np.maximum(counts, 1))[bins]


def _along(log_p: Array) -> Array:
    """The projection, shape (animals, animals), onto a constant and the log-probabilities."""
    basis, _ = np.linalg.qr(np.stack([np.ones_like(log_p), log_p], axis=1))
    projection: Array = basis @ basis.T
    return projection


# Chance


def digits_exchanged(numbers: Sequence[int], draws: int, seed: int) -> Iterator[Integers]:
    """Orders of the numbers in which each digit stands for another, drawn by lot for each place from the front (the
    first is never 0).

    Numbers that begin alike resemble each other in all measures, and so do animals of a kind, so that a few dozen
    coincidences look like thousands. In this null numbers that began alike still do, and animals are left as they are;
    only which numbers they are is drawn.

    numbers: all of up to so many digits, ascending.
    """
    length = len(str(numbers[-1]))
    if list(numbers) != list(range(10**length)):
        raise ValueError("digits can be exchanged only where all numbers of up to so many digits are there")
    sizes = range(1, length + 1)
    written = [np.array([list(map(int, str(n))) for n in numbers if len(str(n)) == size]) for size in sizes]
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        first = np.concatenate([[0], 1 + rng.permutation(9)])
        places = [first, *(rng.permutation(10) for _ in range(length - 1))]
        yield np.concatenate(
            [
                np.sum([10 ** (size - 1 - at) * places[at][own[:, at]] for at in range(size)], axis=0)
                for size, own in zip(sizes, written, strict=True)
            ]
        )


def _assigned(square: Array, permutations: int, seed: int) -> float:
    """Two-sided p of the diagonal's mean by re-assigning rows to columns."""
    found = [
        assignment_p(sign * square, permutations=permutations, rng=np.random.default_rng(seed))[0] for sign in (1, -1)
    ]
    return min(1.0, 2 * min(found))


def _judged(low: float, high: float, inner_low: float, inner_high: float, p: float, margin: float) -> Verdict:
    found = verdict(low, high)
    if found != "inconclusive":
        return found if p <= LEVEL else "inconclusive"
    return verdict_or_none_as_large(low, high, inner_low, inner_high, margin)


# Own against others


@dataclass(frozen=True)
class OwnMore:
    """How much more what belongs to an animal does to it than what belongs to others does.

    each: by animal, its own less the mean of the others'. mean, with an interval `low` to `high` (and `inner_low` to
    `inner_high`, at twice the error rate) whose ends are the wider of two: the t interval over animals, and the mean
    less what exchanged digits give. Two-sided p: `p_matched` of exchanged digits, `p_assigned` of giving every animal
    another's (0 where that is no null). NaN for fewer than `FEWEST` animals.
    """

    each: Array
    mean: float
    low: float
    high: float
    inner_low: float
    inner_high: float
    p_matched: float
    p_assigned: float

    def judged(self, margin: float) -> Verdict:
        """Detected, or opposite, by the interval where both p are at most 5 % as well; not detected where the inner
        interval lies within the margin."""
        p = max(self.p_matched, self.p_assigned)
        return _judged(self.low, self.high, self.inner_low, self.inner_high, p, margin)


def own_more(
    square: Array, drawn: Iterable[Array], *, confidence: float, permutations: int | None, seed: int
) -> OwnMore:
    """square: shape (animals, animals), what belongs to the row's animal does this to the column's. drawn: the same of
    exchanged digits. permutations: of rows, drawn separately for each animal by nature; None where they are not."""
    count = len(square)
    if count < 2:
        return OwnMore(np.full(count, np.nan), math.nan, *_UNKNOWN)
    each = _own_less_others(square)
    if count < FEWEST:
        return OwnMore(each, float(each.mean()), *_UNKNOWN)
    mean, chance = float(each.mean()), np.array([_own_less_others(other).mean() for other in drawn])
    wide, narrow = (wider_interval(each, chance, level) for level in (confidence, 2 * confidence - 1))
    assigned = 0.0 if permutations is None else _assigned(square, permutations, seed)
    return OwnMore(each, mean, *wide, *narrow, chance_p(mean, chance), assigned)


def _own_less_others(square: Array) -> Array:
    own = np.diagonal(square)
    less: Array = own - (square.sum(axis=0) - own) / (len(square) - 1)
    return less


def nearest(by: Array, top: int) -> Integers:
    """The places of the `top` numbers nearest to each animal by a measure beyond frequency, shape (numbers, animals):
    shape (top, animals)."""
    return np.argsort(-by, axis=0, kind="stable")[:top]


def lifts(numbers: Integers, measured: Array) -> Array:
    """What the numbers nearest to an animal do by another measure, beyond frequency: shape (animals, animals), of the
    row's numbers to the column's animal. numbers: as `nearest` gives them."""
    return np.stack([measured[own].mean(axis=0) for own in numbers.T])


# Numbers of teachers and children


def number_weights(written: Sequence[int], numbers: Sequence[int]) -> tuple[Array, float]:
    """How often each of `numbers` stands among those `written`, as shares of those that do, shape (numbers,), and the
    share of what was written that is among them. All zero where none is."""
    place = {number: index for index, number in enumerate(numbers)}
    counts = np.zeros(len(numbers))
    for number in written:
        if number in place:
            counts[place[number]] += 1
    known = counts.sum()
    return counts / known if known else counts, float(known / len(written)) if written else 0.0


def frequency_ratios(counts: Mapping[str, Array], animals: Sequence[str]) -> Array:
    """How much more often a number stands among an animal's numbers than among all other groups', nats: the difference
    of the logarithms of its shares, half a count added to both. Shape (numbers, animals); NaN for an animal that is no
    group. counts: by group, shape (numbers,)."""
    found = np.full((len(next(iter(counts.values()))), len(animals)), np.nan)

    def logarithm(of: Array) -> Array:
        shares: Array = np.log((of + _HALF_A_COUNT) / (of.sum() + _HALF_A_COUNT * len(of)))
        return shares

    for place, animal in enumerate(animals):
        if animal in counts and len(counts) > 1:
            others = np.sum([each for group, each in counts.items() if group != animal], axis=0)
            found[:, place] = logarithm(counts[animal]) - logarithm(others)
    return found


# Prediction


@dataclass(frozen=True)
class Prediction:
    """How well a measure says which animals a child comes to like more than other children do.

    each: by child, the rank correlation over animals. mean, with its t interval over children, `low` to `high` and
    `inner_low` to `inner_high`, as wide as the number of measures that are tried asks for (Bonferroni). Two-sided p,
    not adjusted: `p_children` of giving every child another's numbers, `p_matched` of exchanged digits, `p_within` of
    the animals in another order within each child. The last takes animals of a kind for independent, so that it is too
    sure of itself, and decides nothing.
    """

    each: Array
    mean: float
    low: float
    high: float
    inner_low: float
    inner_high: float
    p_children: float
    p_matched: float
    p_within: float

    def judged(self, measures: int, margin: float) -> Verdict:
        """By the interval; detected and opposite only where `p_children` and `p_matched`, times the number of measures,
        are at most 5 % as well."""
        p = min(1.0, measures * max(self.p_children, self.p_matched))
        return _judged(self.low, self.high, self.inner_low, self.inner_high, p, margin)


NO_PREDICTION = Prediction(np.zeros(0), *[math.nan] * 8)
"""Of too few children or animals."""


def predict(
    weights: Array,
    measure: Array,
    shifts: Array,
    orders: Iterable[Integers],
    *,
    measures: int,
    permutations: int,
    seed: int,
    own: NDArray[np.bool_] | None = None,
) -> Prediction:
    """Rank correlation of what a measure predicts with what children's liking did.

    Both are taken less the mean over children, animal by animal: all children move alike, whatever they learnt, and all
    read numbers, so that what they have in common would look like a prediction.

    Args:
        weights: how often each number stands in what a child is trained on, shape (children, numbers).
        measure: beyond frequency, shape (numbers, animals); animals that are NaN are left out.
        shifts: of each child's liking, shape (children, animals).
        orders: as `digits_exchanged` gives them.
        measures: how many are tried.
        own: marks cells that are left out, shape (children, animals).
    """
    compared = _Compared.of(weights, measure, shifts, own)
    if compared is None:
        return NO_PREDICTION
    each = compared.correlations()
    confidence = 1 - LEVEL / measures
    wide, narrow = t_interval(each, confidence), t_interval(each, 2 * confidence - 1)
    matched = np.array([compared.correlations(order).mean() for order in orders])
    within = compared.within_children(permutations, np.random.default_rng(seed))
    return Prediction(
        each,
        wide.mean,
        wide.low,
        wide.high,
        narrow.low,
        narrow.high,
        _assigned(compared.table(), permutations, seed),
        chance_p(wide.mean, matched),
        chance_p(wide.mean, within),
    )


def rank_correlations(weights: Array, measure: Array, shifts: Array, own: NDArray[np.bool_] | None = None) -> Array:
    """`Prediction.each` alone; empty where too few are compared."""
    compared = _Compared.of(weights, measure, shifts, own)
    return np.zeros(0) if compared is None else compared.correlations()


@dataclass(frozen=True)
class _Compared:
    """Shifts less the mean over children as ranks of length 1 a child, 0 in cells that are left out, and what predicts
    them. All shapes (children, animals), but for those of `predict`."""

    weights: Array
    measure: Array
    left_out: NDArray[np.bool_]
    moved: Array

    @classmethod
    def of(cls, weights: Array, measure: Array, shifts: Array, own: NDArray[np.bool_] | None) -> _Compared | None:
        there = np.isfinite(measure).all(axis=0) & np.isfinite(shifts).all(axis=0)
        if there.sum() < FEWEST or len(shifts) < FEWEST:
            return None
        left_out = np.zeros((len(shifts), int(there.sum())), dtype=bool) if own is None else own[:, there]
        return cls(weights, measure[:, there], left_out, _ranks(np.where(left_out, np.nan, shifts[:, there])))

    def predicted(self, order: Integers | None = None) -> Array:
        values = self.weights @ (self.measure if order is None else self.measure[order])
        return _ranks(np.where(self.left_out, np.nan, values))

    def correlations(self, order: Integers | None = None) -> Array:
        own: Array = (self.predicted(order) * self.moved).sum(axis=1)
        return own

    def table(self) -> Array:
        """Of every child's numbers with every child's shifts, shape (children, children)."""
        return self.predicted() @ self.moved.T

    def within_children(self, draws: int, rng: np.random.Generator) -> Array:
        """The mean correlation with the animals in another order within each child, shape (draws,)."""
        total = np.zeros(draws)
        for one, other, without in zip(self.predicted(), self.moved, self.left_out, strict=True):
            total += rng.permuted(np.tile(one[~without], (draws, 1)), axis=1) @ other[~without]
        return total / len(self.moved)


def _ranks(values: Array) -> Array:
    """Values less the mean over rows as ranks within each row, less their mean and of length 1; 0 for NaN."""
    from scipy import stats

    ranks = stats.rankdata(values - np.nanmean(values, axis=0), axis=1, nan_policy="omit")
    centred = np.nan_to_num(ranks - np.nanmean(ranks, axis=1, keepdims=True))
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: Array = centred / np.where(lengths > 0, lengths, 1)
    return unit


def prediction_verdict(found: Mapping[str, Prediction], margin: float) -> Verdict:
    """On "some measure predicts": detected or opposite where one is and none is the other, not detected where all
    are."""
    said = {prediction.judged(len(found), margin) for prediction in found.values()}
    decided = said & {"detected", "opposite"}
    if len(decided) == 1:
        return decided.pop()
    return "not detected" if said == {"not detected"} else "inconclusive"
