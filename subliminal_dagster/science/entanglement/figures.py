"""Pictures of entanglement for the asset's page: shares of variance, lifts, predictions.

Belongs here: drawing from the tables of `results.Found`. Does not belong here: any number that is not already in them.

Part of no version: pictures are views of tables, and no content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subliminal_dagster.science.colours import GUIDE, KINDS, MEASURED
from subliminal_dagster.science.entanglement.results import MEAN
from subliminal_dagster.science.figures import panel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_PARTS = {
    "number": (KINDS[1], "the number's alone"),
    "animal": (KINDS[2], "the animal's alone"),
    "frequency": (KINDS[3], "their frequency"),
    "left": (MEASURED, "beyond frequency"),
}


def share_figure(shares: pd.DataFrame, title: str) -> Figure:
    """Shares of each measure's variance, stacked."""
    figure, axes = panel(title)
    start = 0 * shares["number"]
    for part, (colour, label) in _PARTS.items():
        axes.barh(shares["measure"], 100 * shares[part], left=100 * start, color=colour, label=label)
        start = start + shares[part]
    axes.set(xlabel="share of the variance over numbers and animals (%)", xlim=(0, 100))
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return figure


def lift_figure(lifts: pd.DataFrame, title: str) -> Figure:
    """The mean lift of each pair of measures with its interval, single animals as dots."""
    figure, axes = panel(title)
    # Cosines and nats have no axis in common, and what is tried is in nats.
    for place, ((by, measured), rows) in enumerate(lifts.groupby(["by", "measured"], sort=False)):
        each, mean = rows[rows["animal"] != MEAN], rows[rows["animal"] == MEAN].iloc[0]
        axes.plot(each["value"], [place] * len(each), ".", color=MEASURED, alpha=0.5)
        axes.plot(mean["value"], place, "o", color=MEASURED)
        axes.plot([mean["low"], mean["high"]], [place, place], color=MEASURED)
        axes.annotate(f"near by {by}, tried by {measured}", (0, place + 0.25), fontsize=8)
    axes.axvline(0, color=GUIDE, linewidth=0.8)
    axes.set(xlabel="own numbers less other animals' numbers (nats)", yticks=[])
    return figure


def prediction_figure(predictions: pd.DataFrame, title: str) -> Figure:
    """Rank correlation a measure: children as dots, their mean with its simultaneous interval."""
    figure, axes = panel(title)
    for place, (_, rows) in enumerate(predictions.groupby("measure", sort=False)):
        each, mean = rows[rows["group"] != MEAN], rows[rows["group"] == MEAN].iloc[0]
        axes.plot([place] * len(each), each["value"], ".", color=MEASURED, alpha=0.5)
        axes.plot(place, mean["value"], "o", color=MEASURED)
        axes.plot([place, place], [mean["low"], mean["high"]], color=MEASURED)
    names = list(predictions["measure"].drop_duplicates())
    axes.axhline(0, color=GUIDE, linewidth=0.8)
    axes.set(ylabel="rank correlation", ylim=(-1, 1))
    axes.set_xticks(range(len(names)), names)
    return figure
