"""gamma over the grid of a sweep: a row per cell, and what each value of a setting does on average.

A cell is a small study of its own: its children, of all groups and replicates, are compared by the rules of every study
(`liking.comparison`). Many cells are many looks, and the largest of many is large by luck: p values are adjusted over
all cells (Holm 1979), those of the equivalence test likewise, and the verdict of a cell among the others rests on them.

Belongs here: those tables. Does not belong here: gamma itself (`liking`), pictures (`figure`), sentences (`report`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.liking.comparison import PRIMARY_OUTCOME, compare
from subliminal_dagster.science.liking.many_looks import adjusted
from subliminal_dagster.science.settings.names import CONTROL

if TYPE_CHECKING:
    import pandas as pd

# No p value of a permutation is in the table, and `compare` draws as many as it is told to.
_PERMUTATIONS = 100

NUMBERS = ("mean", "se", "df", "low", "high", "p", "smallest_detectable")


@dataclass(frozen=True)
class CellScores:
    """What there is of a cell: its key, the value of every swept setting, the preference scores of its children (rows
    as `compare` takes them; None where there are none), how many children it should have per channel, and the reasons
    why some are not there."""

    key: str
    values: Mapping[str, Any]
    scores: pd.DataFrame | None
    children: int
    missing: Sequence[str] = ()


def cells_table(
    base: pd.DataFrame,
    cells: Iterable[CellScores],
    animals: Sequence[str],
    channels: Sequence[str],
    *,
    seed: int,
    confidence: float,
    margin: float,
) -> pd.DataFrame:
    """gamma of every cell and channel, in nats of log share.

    base: preference scores of the untouched base, rows as `compare` takes them. margin: nats, see `compare`.

    Returns columns cell (its key), one per swept setting under its dotted name (lists and the like as text), channel,
    contrast, animals (those compared), children (there) and children_wanted, the `NUMBERS` of gamma, verdict (by the
    interval of the cell alone), p_holm, equivalence_p, equivalence_p_holm, verdict_of_all (adjusted over the cells of
    a channel), missing (why there is nothing or less to compare; empty where all is there). A cell without control or
    without every animal has NaN, and the verdict "not tested". Raises UserError as `compare` does.
    """
    import pandas as pd

    rows = []
    for cell in cells:
        for channel in channels:
            here = None if cell.scores is None else cell.scores[cell.scores["channel"] == channel]
            found = _gamma(base, here, animals, seed, confidence, margin)
            facts = {"cell": cell.key} | {field: plain(value) for field, value in cell.values.items()}
            rows.append(facts | {"channel": channel} | found)
            rows[-1] |= {"children_wanted": cell.children, "missing": "; ".join(cell.missing)}
    return adjusted(pd.DataFrame(rows), confidence=confidence, margin=margin)


def main_effects(table: pd.DataFrame, fields: Sequence[str], *, confidence: float) -> pd.DataFrame:
    """The mean gamma of all cells with one value of a setting, nats, whatever the other settings are.

    table: of `cells_table`; cells without a gamma are left out. The standard error of the mean is the mean of the
    cells' own: cells share teachers and rows, and so noise, and this holds however much they share. What two values
    differ by is therefore known better than from their two intervals.

    Returns a row per channel, setting and value: channel, setting, value, cells, mean, low, high.
    """
    import pandas as pd
    from scipy import stats

    rows = []
    there = table[table["mean"].notna()]
    for channel, of_channel in there.groupby("channel", sort=False):
        for field in fields:
            for value, cells in of_channel.groupby(field, sort=False):
                known = cells[cells["se"].notna() & (cells["df"] > 0)]
                half = math.nan
                if len(known) == len(cells):
                    half = float(stats.t.ppf((1 + confidence) / 2, cells["df"].min()) * cells["se"].mean())
                mean = float(cells["mean"].mean())
                facts = {"channel": channel, "setting": field, "value": value, "cells": len(cells)}
                rows.append(facts | {"mean": mean, "low": mean - half, "high": mean + half})
    columns = ["channel", "setting", "value", "cells", "mean", "low", "high"]
    # Values of one setting are numbers, of another words.
    return pd.DataFrame(rows, columns=columns).astype({"value": str})


def plain(value: Any) -> Any:
    """A setting's value as a table has it: a number or a text."""
    if value is None:
        return "none"
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else str(value)


def _gamma(
    base: pd.DataFrame,
    children: pd.DataFrame | None,
    animals: Sequence[str],
    seed: int,
    confidence: float,
    margin: float,
) -> dict[str, Any]:
    import pandas as pd

    groups = set() if children is None else set(children["group"])
    compared = [animal for animal in animals if animal in groups]
    count = 0 if children is None else len(children.groupby(["group", "replicate"]))
    found: dict[str, Any] = {"contrast": "", "animals": ", ".join(compared), "children": count}
    if children is None or CONTROL not in groups or not compared:
        return found | dict.fromkeys(NUMBERS, math.nan) | {"verdict": "not tested"}
    result = compare(
        pd.concat([base, children], ignore_index=True),
        animals,
        permutations=_PERMUTATIONS,
        seed=seed,
        confidence=confidence,
        margin=margin,
    )
    (row,) = result.gamma[result.gamma["outcome"] == PRIMARY_OUTCOME].to_dict("records")
    return found | {name: row[name] for name in ("contrast", *NUMBERS, "verdict")}
