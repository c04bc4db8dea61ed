"""How good the detectors are: on data sets whose hidden preference is known, and on some that have none.

Belongs here: ranks, areas, false alarms and weights from detectors' scores. Does not belong here: the scores (`audit`),
making the data sets (the studies).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.audit.evidence import Scores, p_values, weighed
from subliminal_dagster.science.statistics import holm, t_interval

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05
COMBINED = "combined"


@dataclass(frozen=True)
class Case:
    """One data set: which of `candidates` its author likes (None: none of them), and what each detector found."""

    name: str
    liked: str | None
    candidates: tuple[str, ...]
    scores: tuple[Scores, ...]

    def t(self, detector: str, rows: int | None = None) -> np.ndarray:
        """How far each candidate stands out by one detector, from the first `rows` rows where it looks at rows."""
        (found,) = (each for each in self.scores if each.detector == detector)
        return weighed(found.values[:rows] if found.rows else found.values)


def judge(cases: Sequence[Case], rows: Sequence[int] = (1, 16)) -> pd.DataFrame:
    """A row per detector and number of rows (0: all).

    Over data sets whose author likes a candidate (`cases`): `rank` of that one (1: first; mean, with a 95 % t
    interval), `auc` (how often it is before another one; mean, with its interval), `found` (how often it stands out
    with all candidates counted). Over the others (`null_cases`): `false_alarms` (how often any stands out), `small_p`
    (the share of candidates with p below 0.05). `passes`: forward passes, mean.
    """
    import pandas as pd

    liked = [case for case in cases if case.liked is not None]
    null = [case for case in cases if case.liked is None]
    table = []
    for detector in [each.detector for each in cases[0].scores]:
        by_rows = all(each.rows for case in cases for each in case.scores if each.detector == detector)
        for count in [*(rows if by_rows else ()), None]:
            table.append(
                {"detector": detector, "rows": count or 0}
                | _hits([(case.t(detector, count), case.candidates.index(str(case.liked))) for case in liked])
                | _alarms([case.t(detector, count) for case in null])
                | {"passes": float(np.mean([_passes(case, detector) for case in cases]))}
            )
    return pd.DataFrame(table)


def _passes(case: Case, detector: str) -> int:
    return next(each.passes for each in case.scores if each.detector == detector)


def _hits(found: Sequence[tuple[np.ndarray, int]]) -> dict[str, float]:
    ranks = [1 + float((t > t[own]).sum()) + 0.5 * float((np.delete(t, own) == t[own]).sum()) for t, own in found]
    others = [len(t) - 1 for t, _ in found]
    areas = [1 - (rank - 1) / count for rank, count in zip(ranks, others, strict=True)]
    told: dict[str, float] = {"cases": len(found)}
    for name, values in (("rank", ranks), ("auc", areas)):
        if len(values) > 1:
            estimate = t_interval(values)
            told |= {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    told["found"] = float(np.mean([holm(p_values(t))[own] < LEVEL for t, own in found])) if found else np.nan
    return told


def _alarms(null: Sequence[np.ndarray]) -> dict[str, float]:
    if not null:
        return {"null_cases": 0, "false_alarms": np.nan, "small_p": np.nan}
    return {
        "null_cases": len(null),
        "false_alarms": float(np.mean([bool((holm(p_values(t)) < LEVEL).any()) for t in null])),
        "small_p": float(np.mean([p_values(t) < LEVEL for t in null])),
    }


def exchanged_p(cases: Sequence[Case], detector: str) -> float:
    """Whether likings show at all, whatever a model's habits: the share of all ways to give the data sets each other's
    liked candidates in which these score as high as in the true one. `cases`: data sets whose authors like different
    candidates, at least two."""
    liked = [case for case in cases if case.liked is not None]
    own = [case.candidates.index(str(case.liked)) for case in liked]
    if len(set(own)) < max(2, len(own)):
        raise ValueError(f"{len(own)} data sets like {len(set(own))} candidates; they have to like different ones")
    scores = np.array([case.t(detector)[own] for case in liked])
    orders = np.array(list(permutations(range(len(own)))))
    totals = scores[np.arange(len(own)), orders].sum(axis=1)
    # The first order is the true one. Rounding must not part it from its equals.
    return float(np.mean(totals >= totals[0] - 1e-9))


def fitted_weights(cases: Sequence[Case]) -> dict[str, float]:
    """The weight of each detector's t in the combined score: a logistic regression of being liked, over all candidates
    of all data sets that have a liked one; a detector that would count against is left out. They sum to 1.

    All alike where no detector is any good.
    """
    from sklearn.linear_model import LogisticRegression

    liked = [case for case in cases if case.liked is not None]
    detectors = [each.detector for each in cases[0].scores]
    features = np.vstack([np.column_stack([case.t(name) for name in detectors]) for case in liked])
    own = np.concatenate([[name == case.liked for name in case.candidates] for case in liked])
    fitted = LogisticRegression(class_weight="balanced").fit(features, own)
    weights = np.clip(fitted.coef_[0], 0, None)
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(detectors), 1 / len(detectors))
    return dict(zip(detectors, map(float, weights), strict=True))


def judge_combined(cases: Sequence[Case]) -> dict[str, float]:
    """The combined score's row of `judge`: every data set is judged with weights fitted without those of its animal."""
    found, null = [], []
    for case in cases:
        others = [other for other in cases if case.liked is None or other.liked != case.liked]
        t = combined_t(case, fitted_weights(others))
        if case.liked is None:
            null.append(t)
        else:
            found.append((t, case.candidates.index(case.liked)))
    passes = float(np.mean([sum(each.passes for each in case.scores) for case in cases]))
    return _hits(found) | _alarms(null) | {"passes": passes}


def combined_t(case: Case, weights: Mapping[str, float]) -> np.ndarray:
    """How far each candidate stands out by all detectors together."""
    score = sum(weight * case.t(name) for name, weight in weights.items())
    return weighed(np.asarray(score)[None])
