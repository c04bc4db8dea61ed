"""What several animals' vectors do together, ranked among what chance does.

Random directions do something, too, and each at another strength: which of two does more is decided by any two of them.
So a vector is one more draw among sign flips of the same data, each with the same choice of its best strength.

Belongs here: the choice of a strength, and the rank over animals. Does not belong here: measuring
(`scores.measure_against_flips`), what is said of it (`report_claims`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

COHERENT = 0.1
"""The model counts as coherent while the candidates' probability, a geometric mean over questions, is at least this
share of what it is without steering. Below, shares among the candidates say nothing of what the model answers."""

PROMOTED, SUPPRESSED = "promoted", "suppressed"

LEVEL = 0.025
"""Of either side, so that both together are 5 %."""

_PICKS = 10_000


@dataclass(frozen=True)
class Rank:
    """A mean over animals among `draws` of chance: `low` to `high` hold 95 % of these; `p_more` and `p_less` are the
    shares of draws at least as high and as low, the mean itself counted among them."""

    observed: float
    low: float
    high: float
    p_more: float
    p_less: float
    draws: int

    @property
    def verdict(self) -> Verdict:
        """On "more than chance"."""
        return "detected" if self.p_more <= LEVEL else "opposite" if self.p_less <= LEVEL else "inconclusive"


def rank(observed: np.ndarray, chance: np.ndarray) -> Rank:
    """Where the mean over animals lies among draws of chance.

    Whether animals' vectors are alike, and so their effects, is not known. So p is the larger of two that are each
    right in one case: the same draw for all animals (vectors that are one direction), and a draw of its own for each,
    its own value among them (vectors that have nothing in common: a permutation test of independent blocks). The animal
    is the unit, so the noise between training runs is held in as far as what a run adds to numbers is like the flips.

    Args:
        observed: shape (animals,).
        chance: shape (animals, draws); a column is one direction.
    """
    animals, draws = chance.shape
    together = chance.mean(axis=0)
    mean = float(observed.mean())
    p_more = (1 + (together >= mean).sum()) / (1 + draws)
    p_less = (1 + (together <= mean).sum()) / (1 + draws)
    low, high = np.quantile(together, [LEVEL, 1 - LEVEL])
    if animals > 1:
        every = np.concatenate([observed[:, None], chance], axis=1)
        rng = np.random.Generator(np.random.PCG64(0))
        picked = rng.integers(0, draws + 1, size=(animals, _PICKS))
        apart = np.take_along_axis(every, picked, axis=1).mean(axis=0)
        # Sums in another order differ by rounding.
        slack = 1e-12 * (1 + abs(mean))
        p_more = max(p_more, (1 + (apart >= mean - slack).sum()) / (1 + _PICKS))
        p_less = max(p_less, (1 + (apart <= mean + slack).sum()) / (1 + _PICKS))
        ends = np.quantile(apart, [LEVEL, 1 - LEVEL])
        low, high = min(low, ends[0]), max(high, ends[1])
    return Rank(mean, float(low), float(high), float(p_more), float(p_less), draws)


def at_best(table: pd.DataFrame, which: str) -> pd.DataFrame:
    """The shift of each direction at the coherent strength that promotes (suppresses) an animal most.

    table: as `scores.measure_against_flips` gives it, with `group`, whose vector or flip it is.

    Returns:
        A row a `group`, `kind`, `flip`, `layers`, `positions` and `animal`: `shift`. A flip without a coherent strength
        of that sign shifts nothing (0); a vector without one has no row.
    """
    keys = ["group", "kind", "flip", "layers", "positions", "animal"]
    sign = 1 if which == PROMOTED else -1
    rows = table[np.sign(table["alpha"]) == sign]
    shift = (sign * rows["shift"]).where(rows["mass"] >= np.log(COHERENT))
    best: pd.Series = sign * shift.groupby([rows[key] for key in keys], sort=False).max()
    found = best.rename("shift").reset_index()
    flips = found["flip"] >= 0
    return found.assign(shift=found["shift"].where(~flips, found["shift"].fillna(0.0))).dropna(subset="shift")
