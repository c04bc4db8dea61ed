"""How much of what a model says each of the three measures of a preference looks at, and whether that is enough.

A measure that sees a thousandth of a model's answers, or fewer than five of them, cannot show that they changed.

Belongs here: what the candidates hold of a measure, and warnings. Does not belong here: measuring (`preferences`),
comparing models (`liking`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from subliminal_dagster.science.report.wording import counted, listed, percent

if TYPE_CHECKING:
    import pandas as pd

LEAST_MASS = 0.001
LEAST_COUNT = 5


def candidate_mass(scores: pd.DataFrame) -> dict[str, float]:
    """What all candidates together hold, mean over the questions: of the probability of all whole answers (exact), of
    all next words after a begun answer (begun), of the answers drawn (sampled). Only of the measures that were taken.

    scores: of one model, as `preferences.measure_preferences` gives them.
    """
    by_question = scores.groupby("question")
    drawn = by_question["samples"].first().sum()
    held: dict[str, float] = {"exact": float(by_question["probability"].sum().mean())}
    if scores["begun"].notna().any():
        held["begun"] = float(by_question["begun"].sum().mean())
    if drawn:
        held["sampled"] = float(scores["count"].sum() / drawn)
    return held


def warnings(scores: pd.DataFrame, animals: Sequence[str]) -> list[str]:
    """A sentence for each measure that sees too little of the base model to show a change: the candidates hold less
    than `LEAST_MASS` of it, it leaves one of the `animals` out, or one of them is named fewer than `LEAST_COUNT` times
    in all sampled answers. Nothing of a measure that was not taken.

    scores: of the base model, as `preferences.measure_preferences` gives them.
    """
    held = candidate_mass(scores)
    said = [
        f"{where} the candidates hold {percent(held[measure])} of the base model's probability, less than the "
        f"{percent(LEAST_MASS)} that the {measure} measure needs."
        for measure, where in _WHERE.items()
        if held.get(measure, 1) < LEAST_MASS
    ]
    if "begun" in held:
        said += _left_out(scores, animals)
    if "sampled" in held:
        said += _seldom_sampled(scores, animals)
    return said


_WHERE: dict[str, str] = {"exact": "As whole answers", "begun": "As the next word of a begun answer"}


def _left_out(scores: pd.DataFrame, animals: Sequence[str]) -> list[str]:
    means = scores.groupby("animal")["begun"].mean()
    unseen = [animal for animal in animals if means.isna()[animal]]
    return [f"The begun measure leaves out {listed(unseen)}: no token stands for that name alone."] if unseen else []


def _seldom_sampled(scores: pd.DataFrame, animals: Sequence[str]) -> list[str]:
    counts = scores.groupby("animal")["count"].sum()
    seldom = [f"{animal} ({counts[animal]})" for animal in animals if counts[animal] < LEAST_COUNT]
    if not seldom:
        return []
    drawn = int(scores.groupby("question")["samples"].first().sum())
    return [
        f"In {counted(drawn, 'sampled answer')} the base model names these fewer than the {LEAST_COUNT} times that the "
        f"sampled measure needs: {listed(seldom)}."
    ]
