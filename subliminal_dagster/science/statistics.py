"""Statistics every analysis here shares: intervals, tests, permutation p values, multiple testing, power.

Belongs here: functions of plain arrays that know nothing of animals, children or files. Does not belong here: what
is compared with what (see `comparison` and the other analyses), and anything scipy or statsmodels already does in
one call with the right defaults.

The preference questions are few (50) and answers to one question resemble each other, so the question and not the
answer is the unit: callers first average within a question and hand over one number per question. That makes every
interval and test here clustered by question. An interval is the t interval over those means rather than a cluster
bootstrap: with equal numbers of answers per question the two agree, the t interval needs no random numbers, and the
percentile bootstrap is too narrow for a few dozen clusters.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from subliminal_dagster.science.errors import UserError

# Differences of probabilities and log shares that ought to be zero come out as a few units of rounding; a t test
# would call such noise significant. Real effects are many orders of magnitude larger.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean over independent units with its standard error and t interval, all in the unit of the values."""

    mean: float
    se: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest(Estimate):
    """A mean difference, tested against zero (two-sided).

    p: paired t test. p_sign_flip: sign-flip permutation test. smallest_detectable: see that function.
    """

    p: float
    p_sign_flip: float
    smallest_detectable: float


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean and t interval of independent units (one value per question, or per seed).

    values: shape (units,), at least two. A rate near 0 can get a lower end below 0: the interval is symmetric.
    Raises UserError for fewer than two units, which have no spread to estimate.
    """
    from scipy import stats

    units = np.asarray(values, dtype=float)
    if len(units) < 2:
        raise UserError(f"An interval needs at least two independent units, and there is {len(units)}.")
    mean, se = float(units.mean()), float(units.std(ddof=1)) / math.sqrt(len(units))
    half_width = float(stats.t.ppf((1 + confidence) / 2, len(units) - 1)) * se
    return Estimate(mean, se, mean - half_width, mean + half_width)


def paired_test(
    differences: ArrayLike, *, permutations: int, rng: np.random.Generator, confidence: float = 0.95
) -> PairedTest:
    """Is the mean of paired differences zero?

    differences: shape (units,), at least two. Differences that are all zero (up to rounding) are not evidence: p = 1.
    The smallest detectable effect is for a test at level 1 - confidence and 80 % power.
    Raises UserError for fewer than two units.
    """
    from scipy import stats

    units = np.asarray(differences, dtype=float)
    if np.all(np.abs(units) <= ROUNDING):
        units = np.zeros_like(units)
    estimate = t_interval(units, confidence)
    return PairedTest(
        **vars(estimate),
        p=float(stats.ttest_1samp(units, 0.0).pvalue) if units.any() else 1.0,
        p_sign_flip=sign_flip_p(units, permutations=permutations, rng=rng),
        smallest_detectable=smallest_detectable(estimate.se, len(units), level=1 - confidence),
    )


def sign_flip_p(differences: ArrayLike, *, permutations: int, rng: np.random.Generator) -> float:
    """Two-sided p value of the mean of paired differences, by flipping the sign of each at random.

    Assumes only that a difference is as likely to be +d as -d where there is no effect; no normal distribution.
    differences: shape (units,). All 2^units flips are used where they number at most `permutations`; else that many
    are drawn and the observed one is counted among them, so p is never 0.
    """
    from scipy import stats

    return float(
        stats.permutation_test(
            (np.asarray(differences, dtype=float),),
            lambda flipped, axis: flipped.mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=permutations,
            batch=1000,
            rng=rng,
        ).pvalue
    )


def assignment_p(effect: NDArray[np.float64], *, permutations: int, rng: np.random.Generator) -> tuple[float, float]:
    """How often would another matching of rows to columns give as large a mean effect as the true one?

    effect: shape (K, K), K >= 2, effect[i, j] = the effect on column j if row i is the one that belongs to j; the
    true matching is the diagonal. Returns (p, the smallest p possible). One-sided (larger), since with two rows the
    only other matching has exactly the opposite effect, which a two-sided test could never tell apart. All K!
    matchings are used where they number at most `permutations`, which makes the smallest possible p 1/K!; else that
    many are drawn and the observed one is counted among them.
    """
    from scipy import stats

    rows = len(effect)
    columns = np.arange(rows)
    p = stats.permutation_test(
        (columns,),
        lambda matched, axis: effect[matched.astype(int), columns].mean(axis=-1),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=permutations,
        batch=1000,
        alternative="greater",
        rng=rng,
    ).pvalue
    matchings = math.factorial(rows)
    return float(p), 1 / matchings if matchings <= permutations else 1 / (permutations + 1)


def chance_p(observed: float, drawn: ArrayLike) -> float:
    """Two-sided p of a value among those that chance gave, shape (draws,): how often chance is as far out on the side
    where that is rarer, twice. The value counts as one of the draws, so that p is never 0."""
    values = np.asarray(drawn, dtype=float)
    more, less = 1 + int((values >= observed).sum()), 1 + int((values <= observed).sum())
    return min(1.0, 2 * min(more, less) / (1 + len(values)))


def wider_interval(values: ArrayLike, drawn: ArrayLike, confidence: float) -> tuple[float, float]:
    """An interval of a mean over units with two kinds of noise in it, each end the wider of two: the t interval over
    the units, shape (units,), and the mean less what chance gives it, shape (draws,). The first is too narrow where
    units resemble each other, the second where they differ."""
    over_units = t_interval(values, confidence)
    low, high = over_units.mean - np.quantile(
        np.asarray(drawn, dtype=float), [(1 + confidence) / 2, (1 - confidence) / 2]
    )
    return min(over_units.low, float(low)), max(over_units.high, float(high))


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p values, same shape (tests,): calling those <= q significant keeps the false discovery rate at q."""
    from statsmodels.stats.multitest import fdrcorrection

    adjusted: NDArray[np.float64] = fdrcorrection(np.asarray(p_values, dtype=float))[1]
    return adjusted


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p values, same shape (tests,): calling those <= level significant keeps the chance of any false one at
    the level (Holm 1979).

    statsmodels has it in `multipletests` alone, which collects all garbage at every call and takes a hundred times as
    long for it.
    """
    given = np.asarray(p_values, dtype=float)
    order = np.argsort(given)
    raw = given[order] * np.arange(len(given), 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(raw), 1.0)
    return adjusted


def smallest_detectable(se: float, units: int, *, level: float = 0.05, power: float = 0.8) -> float:
    """The true mean difference that a two-sided paired t test at `level` would have found with chance `power`.

    In the unit of `se`, the standard error of the mean difference over `units` units, about 2.9 x se for 50
    questions. NaN where se is 0: data without any spread say nothing about what could have been seen.
    """
    return detectable_with(se, units - 1, level=level, power=power)


def detectable_with(se: float, freedom: int, *, level: float = 0.05, power: float = 0.8) -> float:
    """The true effect that a two-sided t test at `level` with `freedom` degrees of freedom would have found with chance
    `power`, in the unit of `se`, the estimate's standard error. NaN where se is 0."""
    return _detectable_in_errors(freedom, level, power) * se if se > 0 else math.nan


@functools.cache
def _detectable_in_errors(freedom: int, level: float, power: float) -> float:
    from statsmodels.stats.power import TTestPower

    units = freedom + 1
    in_standard_deviations = TTestPower().solve_power(effect_size=None, nobs=units, alpha=level, power=power)
    return float(in_standard_deviations) * math.sqrt(units)
