"""Pictures of interference for the asset's page.

Belongs here: drawing from the tables of `results.LayerFound`. Does not belong here: any number that is not in them.

Part of no version: pictures are views of tables, and no content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.colours import CHANCE, GUIDE, KINDS
from subliminal_dagster.science.figures import panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def overlap_figure(overlap: pd.DataFrame, title: str) -> Figure:
    """Of every target, how many times the overlap of matched features its own group's numbers have, a mark a direction
    and subspace, with 95 % of the draws as a bar."""
    figure, axes = panel(title)
    own = overlap[overlap["group"] == overlap["target"]]
    names = list(own["target"].drop_duplicates())
    kinds = list(own.groupby(["direction", "subspace"], sort=False))
    for number, ((direction, subspace), rows) in enumerate(kinds):
        places = [names.index(name) + 0.2 * (number - 1) for name in rows["target"]]
        for place, drawn in zip(places, rows["drawn"], strict=True):
            axes.plot([place, place], np.exp(np.quantile(drawn, [0.025, 0.975])), color=CHANCE, linewidth=4, alpha=0.4)
        colour = KINDS[number % len(KINDS)]
        axes.plot(places, np.exp(rows["log_ratio"]), "o", color=colour, label=f"{direction}, {subspace}")
    axes.axhline(1, color=GUIDE, linewidth=0.8)
    axes.set(ylabel="overlap, times that of matched features", yscale="log")
    axes.set_xticks(range(len(names)), names)
    axes.legend(frameon=False, fontsize=8)
    return figure
