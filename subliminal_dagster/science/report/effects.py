"""How sections test an effect on what children like, and write what was found.

Belongs here: the study's paired test, the words for a test's outcome. Does not belong here: what is compared with what
(the sections), the tests themselves (`science.statistics`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from subliminal_dagster.science.report.wording import with_interval
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import Estimate, PairedTest, paired_test


def study_test(study: Study, differences: ArrayLike, *, confidence: float | None = None) -> PairedTest:
    """Is the mean of paired differences, shape (units,), zero? By the study's permutations, its seed, and its
    confidence unless another is given."""
    return paired_test(
        differences,
        permutations=study.comparison.permutations,
        rng=np.random.default_rng(study.seed),
        confidence=study.comparison.confidence if confidence is None else confidence,
    )


def nats(difference: Estimate) -> str:
    """A difference of log shares with its interval.

    >>> nats(Estimate(0.1388, 0.0574, 0.0239, 0.2537))
    '+0.14 nats [+0.02, +0.25]'
    """
    return with_interval(difference.mean, difference.low, difference.high, "nats", signed=True)


def detectable(smallest: float, unit: str, *, unknown: str) -> str:
    """What a null could have missed, as a clause; `unknown` where data without any spread cannot tell (NaN).

    >>> detectable(0.0123, "nats", unknown="no question differs")
    'the smallest detectable difference is 0.012 nats'
    """
    return unknown if math.isnan(smallest) else f"the smallest detectable difference is {smallest:.2g} {unit}"
