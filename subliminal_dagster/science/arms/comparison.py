"""What is left of the effect in every arm.

A child's shift is its log share of an animal minus the base's, mean over questions (nats), and gamma what its own
animal gains over the other animals' children, as everywhere (`liking.comparison`). All intervals hold the noise between
training runs (`liking.children`): of an arm's gamma, of its difference to the children trained as drawn (the same rows,
order and start per replicate, so that the difference is paired), of its difference to the arm that is its own control,
and of the share of gamma that is left, gamma of the arm divided by gamma as drawn (Fieller 1954: the denominator is
uncertain too, and where it is not clearly above zero, no share can be named).

Belongs here: those tables. Does not belong here: sentences (`report`), pictures (`figures`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.liking.children import MEAN, contrasts, run_noise
from subliminal_dagster.science.liking.many_looks import adjusted
from subliminal_dagster.science.settings.arms import AS_DRAWN

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = (
    ("divergence_alone", "random_by_position"),
    ("divergence_alone", "random_by_token"),
    ("divergence_alone", "divergence_left_out"),
    ("differing_rows", "agreeing_rows"),
    ("shuffled_within_rows", "shuffled_across_rows"),
    ("own_subspace_out", "random_subspace_out"),
    ("own_subspace_out", "neutral_subspace_out"),
)
"""Arms with the arm that each is set against, besides the children trained as drawn."""

CHANNEL = "hard"


@dataclass(frozen=True)
class ArmComparison:
    """arms: a row per arm, in their order: arm, children, the columns of `liking.children.contrasts` for gamma, and
        p_holm, verdict_of_all (adjusted over the arms); loss and steps (means over children).
    differences: a row per arm and `against`: arm minus `as_drawn`, and minus the arms of `CONTROLS`; the same columns.
        share, share_low, share_high: gamma divided by that of the other, NaN where that cannot be told.
    animals: arm, animal, mean, low, high, verdict: own minus others by animal.
    shifts: arm, group, replicate, animal, shift.
    """

    arms: pd.DataFrame
    differences: pd.DataFrame
    animals: pd.DataFrame
    shifts: pd.DataFrame


def compare_arms(
    base: pd.DataFrame,
    children: pd.DataFrame,
    arms: Sequence[str],
    animals: Sequence[str],
    *,
    confidence: float,
    margin: float,
) -> ArmComparison:
    """Compare arms.

    base: scores of the base model (question, animal, share). children: the same of all children, with arm, group and
    replicate, loss (validation, nats per token) and steps. animals: those with children. margin: nats; a difference as
    large is what an equivalence test excludes. An arm is compared by the children that are there, and where some are
    missing against those as drawn of the same groups and replicates; one without a child of every animal is left out.
    """
    import pandas as pd

    shifts = shifts_of(base, children, animals)
    tables = {arm: found for arm in arms if _complete(found := shifts[shifts["arm"] == arm], animals)}
    kept = {"confidence": confidence, "margin": margin}
    of_arms, of_animals, differences = [], [], []
    for arm, table in tables.items():
        found = contrasts(table, animals, **kept)
        found = found[found["against"] == "others"]
        trained = children[children["arm"] == arm].groupby(["group", "replicate"])[["loss", "steps"]].first()
        facts = {"arm": arm, "channel": CHANNEL, "children": len(trained), **trained.mean().to_dict()}
        of_arms.append(facts | _row(found))
        of_animals.append(found[found["animal"] != MEAN].assign(arm=arm))
        against: list[str] = [AS_DRAWN] if arm != AS_DRAWN else []
        against += [control for first, control in CONTROLS if first == arm and control in tables]
        for other in against:
            if other in tables and (row := _difference(table, tables[other], animals, confidence, margin)):
                differences.append({"arm": arm, "against": other, "channel": CHANNEL} | row)
    judged = adjusted(pd.DataFrame(of_arms), **kept) if of_arms else pd.DataFrame(columns=["arm"])
    columns = ["arm", "animal", "mean", "low", "high", "p", "p_bh", "verdict"]
    return ArmComparison(
        judged,
        adjusted(pd.DataFrame(differences), **kept) if differences else pd.DataFrame(columns=["arm", "against"]),
        pd.concat(of_animals, ignore_index=True)[columns] if of_animals else pd.DataFrame(columns=columns),
        shifts,
    )


def shifts_of(base: pd.DataFrame, children: pd.DataFrame, animals: Sequence[str]) -> pd.DataFrame:
    """Every child's mean shift for every animal; see `ArmComparison.shifts`."""
    about = children[children["animal"].isin(list(animals))]
    before = base.set_index(["question", "animal"])["share"]
    of_base = before.loc[list(zip(about["question"], about["animal"], strict=True))].to_numpy(dtype=float)
    shift = np.log(about["share"].to_numpy(dtype=float)) - np.log(of_base)
    keys = ["arm", "group", "replicate", "animal"]
    return about[keys].assign(shift=shift).groupby(keys, sort=False)["shift"].mean().reset_index()


def _complete(shifts: pd.DataFrame, animals: Sequence[str]) -> bool:
    return set(animals) <= set(shifts["group"])


def _row(found: pd.DataFrame) -> dict[str, Any]:
    (row,) = found[found["animal"] == MEAN].drop(columns=["against", "animal", "p_bh"]).to_dict("records")
    return {str(name): value for name, value in row.items()}


def _difference(
    one: pd.DataFrame, other: pd.DataFrame, animals: Sequence[str], confidence: float, margin: float
) -> dict[str, Any] | None:
    """Of the children that both have; None where they have not one of every animal in common."""
    keys = ["group", "replicate", "animal"]
    both = one.merge(other, on=keys, suffixes=("", "_other"))
    if not _complete(both, animals):
        return None
    paired = both.assign(shift=both["shift"] - both["shift_other"])
    found = contrasts(paired, animals, confidence=confidence, margin=margin)
    row = _row(found[found["against"] == "others"])
    share, low, high = share_left(both, animals, confidence)
    return row | {"share": share, "share_low": low, "share_high": high}


def share_left(both: pd.DataFrame, animals: Sequence[str], confidence: float) -> tuple[float, float, float]:
    """gamma of one arm divided by gamma of the other, with its interval (Fieller 1954, from the noise between runs of
    both and what they have in common). NaN throughout where the other's gamma is not above zero, and NaN ends where it
    is not clearly so.

    both: group, replicate, animal, shift (of the one) and shift_other.
    """
    from scipy import stats

    def table(values: pd.Series[float]) -> pd.DataFrame:
        means = both.assign(value=values).groupby(["group", "animal"])["value"].mean().unstack("animal")
        return means.loc[list(animals), list(animals)]

    one, other = table(both["shift"]), table(both["shift_other"])
    top, bottom = _gamma(one.to_numpy()), _gamma(other.to_numpy())
    if bottom <= 0:
        return math.nan, math.nan, math.nan
    share = top / bottom
    noises = [run_noise(each, animals) for each in (one, other, one + other)]
    freedom = noises[0].freedom
    if freedom < 1:
        return share, math.nan, math.nan
    of_one, of_other, of_sum = (noise.cell**2 / max(len(animals) - 1, 1) for noise in noises)
    common = (of_sum - of_one - of_other) / 2
    wide = float(stats.t.ppf((1 + confidence) / 2, freedom)) ** 2
    square = bottom**2 - wide * of_other
    if square <= 0:
        return share, math.nan, math.nan
    middle = top * bottom - wide * common
    half = math.sqrt(max(middle**2 - square * (top**2 - wide * of_one), 0.0))
    return share, (middle - half) / square, (middle + half) / square


def _gamma(table: np.ndarray) -> float:
    own = np.diagonal(table)
    return float((own - (table.sum(axis=0) - own) / (len(table) - 1)).mean())
