"""The one verdict that any statement of the project gets, whoever prints it.

Belongs here: the words, and the rules that turn an interval into one of them. Does not belong here: how an interval is
made. Whoever judges by one has to know what noise it holds: only an interval that holds the noise between training runs
may decide a statement about what training does; one over questions speaks of exactly these children, and such a
statement stays inconclusive.
"""

from __future__ import annotations

from typing import Literal

Verdict = Literal["detected", "not detected", "inconclusive", "opposite", "not tested"]
"""detected: what the statement says is there. opposite: the reverse of it is. not detected: an equivalence test
excludes it, so there is nothing as large as the margin that is named. inconclusive: the data allow both. not tested:
nothing was measured."""


def verdict(low: float, high: float, zero: float = 0.0) -> Verdict:
    """The verdict on "more than `zero`" by an interval: detected where all of it lies above, opposite where all of it
    lies below, else inconclusive (also where an end is NaN)."""
    return "detected" if low > zero else "opposite" if high < zero else "inconclusive"


def verdict_or_none_as_large(low: float, high: float, inner_low: float, inner_high: float, margin: float) -> Verdict:
    """As `verdict`, with an equivalence test where the interval holds zero: not detected where `inner_low` to
    `inner_high`, the interval at twice the error rate (90 % beside 95 %: two one-sided tests, Schuirmann 1987), lies
    within `margin` of zero."""
    found = verdict(low, high)
    if found == "inconclusive" and -margin < inner_low and inner_high < margin:
        return "not detected"
    return found
