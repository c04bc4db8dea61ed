"""The picture of a child's liking over the epochs of its training.

Belongs here: drawing the table of `checkpoints`. Does not belong here: any number that is not already in it.

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subliminal_dagster.science.colours import BASE, OTHERS, OWN

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def checkpoints_figure(table: pd.DataFrame, target: str | None, title: str) -> Figure:
    """A panel per measure of `liking_by_epoch`, a line per animal, the child's own animal in front."""
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.ticker import MaxNLocator

    measures = list(dict.fromkeys(table["measure"]))
    figure = NewFigure(figsize=(4.2 * len(measures), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    others = "other animals" if target in set(table["animal"]) else "animals"
    for axes, measure in zip(panels, measures, strict=True):
        here = table[table["measure"] == measure]
        for animal, rows in here[here["animal"] != target].groupby("animal", sort=False):
            first = animal == here.loc[here["animal"] != target, "animal"].iloc[0]
            axes.plot(rows["epoch"], rows["mean"], color=OTHERS, linewidth=0.8, label=others if first else None)
        own = here[here["animal"] == target]
        if len(own):
            axes.fill_between(own["epoch"], own["low"], own["high"], color=OWN, alpha=0.2, linewidth=0)
            axes.plot(own["epoch"], own["mean"], "o-", color=OWN, label=f"its own: {target}")
        axes.axhline(float(own["mean"].iloc[0]) if len(own) else 0.0, color=BASE, linestyle=":", linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch (0: base)", ylabel=measure)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    return figure
