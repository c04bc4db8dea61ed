"""Pictures of capability: each model's accuracy, and its change against the shift in liking.

Belongs here: drawing from `capability.compare_capability`. Does not belong here: any number that is not already in it.

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science import colours
from subliminal_dagster.science.capability.capability import BASE, WAYS, Way
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.figures import panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLOURS = {"teacher": colours.TEACHER, "child": colours.CHILD}


def accuracy_figure(table: pd.DataFrame, title: str, way: Way = "generated") -> Figure:
    """Accuracy of base, and of each group's models beside each other, with 95 % Wilson intervals; dashed: base, dotted:
    guessing. An asterisk: differs from base after Benjamini-Hochberg (exact McNemar test, 5 %)."""
    figure, axes = panel(title)
    rows = _accuracy(table, way)
    base = rows[rows["model"] == BASE].iloc[0]
    others = rows[rows["model"] != BASE]
    models, groups = list(dict.fromkeys(others["model"])), list(dict.fromkeys(others["group"]))
    figure.set_figwidth(max(6.4, 1.6 + 0.4 * len(groups) * (len(models) + 1)))
    width = 0.8 / max(1, len(models))
    axes.axhline(100 * base["value"], color=colours.BASE, linestyle="--", linewidth=0.8)
    axes.axhline(100 * base["chance"], color=colours.CHANCE, linestyle=":", linewidth=0.8, label="guessing")
    drawn = [(base.to_frame().T, [0.0], colours.BASE, BASE, 0.4)]
    for number, model in enumerate(models):
        found = others[others["model"] == model]
        offset = (number - (len(models) - 1) / 2) * width
        places = [1 + groups.index(group) + offset for group in found["group"]]
        drawn.append((found, places, _colour(model, number), model, width))
    for found, places, colour, label, size in drawn:
        value, low, high = (100 * found[column].to_numpy(dtype=float) for column in ("value", "low", "high"))
        ends = np.maximum([value - low, high - value], 0)
        error = {"elinewidth": 0.9, "capsize": 1.8}
        axes.bar(places, value, size * 0.9, color=colour, label=label, yerr=ends, error_kw=error)
        for place, top, p in zip(places, high, found["p_bh"].to_numpy(dtype=float), strict=True):
            if p < 0.05:
                axes.annotate("*", (place, top), ha="center", fontsize=11)
    axes.set_xticks(range(len(groups) + 1), [BASE, *groups])
    axes.tick_params(axis="x", length=0)
    axes.set(ylim=(0, 105), ylabel=f"accuracy (%)\n{WAYS[way]}")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def skill_and_liking_figure(table: pd.DataFrame, title: str, way: Way = "generated") -> Figure:
    """Change of accuracy from base against the shift in liking, a point per model and group; bars: 95 % interval of the
    change. Models without a shift in liking are left out.

    Raises UserError where no model has one.
    """
    figure, axes = panel(title)
    rows = _accuracy(table, way)
    rows = rows[(rows["model"] != BASE) & rows["liking_shift"].notna()]
    if rows.empty:
        raise UserError("No model in the table has a shift in liking to draw: pass `liking` to compare_capability.")
    axes.axhline(0, color=colours.GUIDE, linewidth=0.8)
    axes.axvline(0, color=colours.GUIDE, linewidth=0.8)
    for number, (model, found) in enumerate(rows.groupby("model", sort=False)):
        change, low, high = (
            100 * found[column].to_numpy(dtype=float) for column in ("difference", "difference_low", "difference_high")
        )
        ends = np.maximum([change - low, high - change], 0)
        colour = _colour(str(model), number)
        axes.errorbar(found["liking_shift"], change, yerr=ends, fmt="o", color=colour, elinewidth=0.8, label=str(model))
        for group, shift, height in zip(found["group"], found["liking_shift"], change, strict=True):
            axes.annotate(group, (shift, height), xytext=(4, 3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="shift in liking from base", ylabel=f"accuracy, change from base (points)\n{WAYS[way]}")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _colour(model: str, number: int) -> str:
    """Models that are neither a teacher nor a child are told apart by their number."""
    return _COLOURS.get(model, colours.KINDS[number % len(colours.KINDS)])


def _accuracy(table: pd.DataFrame, way: str) -> pd.DataFrame:
    return table[(table["way"] == way) & (table["outcome"] == "accuracy")]
