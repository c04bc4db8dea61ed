"""Pictures of the arms: what is left of gamma, and where updates point.

Belongs here: drawing tables. Does not belong here: any number that is not already in them.

Part of no version: pictures are views of tables, and no content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subliminal_dagster.science.arms.updates import ALL_BLOCKS
from subliminal_dagster.science.colours import GUIDE, KINDS, MEASURED, OWN
from subliminal_dagster.science.settings.arms import AS_DRAWN

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from subliminal_dagster.science.arms.comparison import ArmComparison

_DRAWN_ARMS = (AS_DRAWN, "other_initialisation", "shuffled_within_rows")


def arms_figure(result: ArmComparison, title: str) -> Figure:
    """gamma of every arm with its interval, nats; the line is gamma as drawn."""
    from matplotlib.figure import Figure as NewFigure

    arms = result.arms
    figure = NewFigure(figsize=(6.4, 1.0 + 0.28 * len(arms)), layout="constrained")
    axes = figure.subplots()
    places = list(range(len(arms)))[::-1]
    colours = [OWN if arm == AS_DRAWN else MEASURED for arm in arms["arm"]]
    axes.axvline(0.0, color=GUIDE, linestyle=":", linewidth=1)
    drawn = arms.loc[arms["arm"] == AS_DRAWN, "mean"]
    if len(drawn):
        axes.axvline(float(drawn.iloc[0]), color=OWN, linestyle="--", linewidth=1)
    for place, colour, row in zip(places, colours, arms.to_dict("records"), strict=True):
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.5)
        axes.plot(row["mean"], place, "o", color=colour, markersize=4)
    axes.set_yticks(places, [arm.replace("_", " ") for arm in arms["arm"]])
    axes.set(xlabel="gamma (nats)", title=f"{title}: children of every arm")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def updates_figure(found: pd.DataFrame, title: str) -> Figure:
    """Cosine of a child's update with its own teacher's, and what it is above other teachers', by block."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(8.4, 3.2), layout="constrained")
    both = figure.subplots(1, 2)
    arms = [arm for arm in _DRAWN_ARMS if arm in set(found["arm"])]
    for axes, measure in zip(both, ("own", "own minus others"), strict=True):
        for arm, colour in zip(arms, (OWN, *KINDS), strict=False):
            rows = found[(found["arm"] == arm) & (found["measure"] == measure) & (found["block"] != ALL_BLOCKS)]
            axes.plot(rows["block"], rows["mean"], color=colour, label=arm.replace("_", " "))
            axes.fill_between(rows["block"], rows["low"], rows["high"], color=colour, alpha=0.2, linewidth=0)
        axes.axhline(0.0, color=GUIDE, linestyle=":", linewidth=1)
        axes.set(xlabel="block", ylabel="cosine", title=f"{measure.replace('own', 'own teacher', 1)}")
        axes.spines[["top", "right"]].set_visible(False)
    both[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{title}: updates of children and teachers", fontsize=10, x=0.01, ha="left")
    return figure
