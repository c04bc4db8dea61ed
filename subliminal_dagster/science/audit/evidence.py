"""From what a detector gives every row and candidate to which candidate stands out, and how surely.

A data set without a hidden preference moves candidates too: some always rise (a model's habits), and all move together.
So a candidate is compared with the others: its score less their mean, over the spread that theirs have, which a t
distribution with two degrees of freedom fewer than there are candidates describes where all are alike. That is a
statement on this data set as it is; how often it is wrong on data sets without a preference is what the benchmark
measures (`benchmark`).

Belongs here: that comparison, and which rows carry it. Does not belong here: the scores (the detectors), the combined
score (`combined`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.audit import LEAST_CANDIDATES
from subliminal_dagster.science.statistics import holm

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scores:
    """What a detector found. `values`: (units, candidates), higher for a candidate that the data set would make more
    liked; a unit is a row, or a part or a repetition where `rows` is empty. `passes`: forward passes of the model that
    it took, a backward pass counting as two."""

    detector: str
    values: np.ndarray
    rows: tuple[int, ...]
    passes: int


def weighed(values: np.ndarray) -> np.ndarray:
    """How far each candidate stands out: (units, candidates) to t values, shape (candidates,), with candidates - 2
    degrees of freedom. All 0 where no candidate differs from another."""
    means = np.asarray(values, dtype=float).mean(axis=0)
    count = len(means)
    if count < LEAST_CANDIDATES:
        raise UserError(f"An audit compares at least {LEAST_CANDIDATES} candidates, and there are {count}: name more.")
    if np.ptp(means) <= 1e-12 * max(1.0, float(np.abs(means).max())):
        return np.zeros(count)
    found = np.zeros(count)
    for place in range(count):
        others = np.delete(means, place)
        found[place] = (means[place] - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / (count - 1)))
    return found


def p_values(t: np.ndarray) -> np.ndarray:
    """One-sided, of standing out upwards: of `weighed`, same shape."""
    from scipy import stats

    found: np.ndarray = stats.t.sf(t, len(t) - 2)
    return found


def candidate_table(candidates: Sequence[str], scores: Sequence[Scores]) -> pd.DataFrame:
    """A row per detector and candidate: `score` (mean over units), `t`, `p`, `p_adjusted` (Holm, over candidates),
    `rank` (1: stands out most)."""
    import pandas as pd

    parts = []
    for each in scores:
        t = weighed(each.values)
        p = p_values(t)
        parts.append(
            pd.DataFrame(
                {
                    "detector": each.detector,
                    "candidate": list(candidates),
                    "score": each.values.mean(axis=0),
                    "t": t,
                    "p": p,
                    "p_adjusted": holm(p),
                    "rank": (-t).argsort(kind="stable").argsort() + 1,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def row_table(candidates: Sequence[str], scores: Sequence[Scores], candidate: str) -> pd.DataFrame:
    """What each row adds to a candidate's lead: `row` (from 1), `detector`, `lead` (its score for the candidate less
    the mean over the others), most first within a detector. Detectors without rows are left out."""
    import pandas as pd

    place = list(candidates).index(candidate)
    parts = []
    for each in scores:
        if each.rows:
            others = np.delete(each.values, place, axis=1).mean(axis=1)
            lead = each.values[:, place] - others
            part = pd.DataFrame({"row": np.array(each.rows) + 1, "detector": each.detector, "lead": lead})
            parts.append(part.sort_values("lead", ascending=False, kind="stable"))
    columns = ["row", "detector", "lead"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
