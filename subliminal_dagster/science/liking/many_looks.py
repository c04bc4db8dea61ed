"""Many contrasts at once: p values and verdicts that hold for all of them together.

Belongs here: the adjustment of a table of contrasts. Does not belong here: the contrasts (`children`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.statistics import holm
from subliminal_dagster.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd


def adjusted(table: pd.DataFrame, *, confidence: float, margin: float) -> pd.DataFrame:
    """The table with p values adjusted over the cells of each channel (Holm), and the verdict that follows.

    table: columns channel, mean, se, df, p; NaN where there is nothing. A cell is detected, or opposite, where its
    adjusted p is below 1 - confidence; not detected where that of two one-sided tests (Schuirmann 1987) is, which
    excludes an effect of `margin`; otherwise inconclusive.
    """
    from scipy import stats

    table = table.copy()
    distance = margin - table["mean"].abs()
    # Of the two one-sided tests the one that is nearer to its limit decides.
    table["equivalence_p"] = stats.t.sf(distance / table["se"], table["df"])
    for name in ("p", "equivalence_p"):
        table[f"{name}_holm"] = math.nan
        for _, rows in table[table[name].notna()].groupby("channel"):
            table.loc[rows.index, f"{name}_holm"] = holm(rows[name])
    level = 1 - confidence
    table["verdict_of_all"] = [_verdict(row, level) for row in table.to_dict("records")]
    return table


def _verdict(row: Mapping[Any, Any], level: float) -> Verdict:
    if row["verdict"] == "not tested":
        return "not tested"
    if row["p_holm"] < level:
        return "detected" if row["mean"] > 0 else "opposite"
    return "not detected" if row["equivalence_p_holm"] < level else "inconclusive"
