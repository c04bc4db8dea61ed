"""How a child's liking goes with the epochs of its training.

Belongs here: the table over the epochs of one child, and its figure. Does not belong here: measuring (`preferences`), a
tuned child's epochs (`tuning.scores`), comparing groups (`comparison`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.figures import BLUE, GREY, ORANGE
from subliminal_dagster.science.statistics import t_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PROBABILITY, SHIFT, SAMPLED = "exact probability", "shift of the log share (nats)", "share of sampled answers"


def liking_by_epoch(base: pd.DataFrame, by_epoch: Mapping[int, pd.DataFrame], animals: Sequence[str]) -> pd.DataFrame:
    """What every checkpoint of a child likes, means over questions with 95 % t intervals over them, which speak of
    exactly this child.

    base, by_epoch: preference scores of the base and of the child after each epoch (see
    `preferences.measure_preferences`), of the same questions. The shift is that of the natural logarithm of an
    animal's share among the candidates, against the base.
    Returns a row per animal, measure and epoch, 0 being the base: epoch, animal, measure, mean, low, high.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for epoch, scores in {0: base, **by_epoch}.items():
        for animal in animals:
            mine, before = (
                each[each["animal"] == animal].sort_values("question").reset_index(drop=True) for each in (scores, base)
            )
            measures = {PROBABILITY: mine["probability"], SHIFT: np.log(mine["share"]) - np.log(before["share"])}
            if (mine["samples"] > 0).all():
                measures[SAMPLED] = mine["count"] / mine["samples"]
            for measure, values in measures.items():
                found = t_interval(values)
                facts = {"mean": found.mean, "low": found.low, "high": found.high}
                rows.append({"epoch": epoch, "animal": animal, "measure": measure, **facts})
    return pd.DataFrame(rows)


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
            axes.plot(rows["epoch"], rows["mean"], color=GREY, linewidth=0.8, label=others if first else None)
        own = here[here["animal"] == target]
        if len(own):
            axes.fill_between(own["epoch"], own["low"], own["high"], color=ORANGE, alpha=0.2, linewidth=0)
            axes.plot(own["epoch"], own["mean"], "o-", color=ORANGE, label=f"its own: {target}")
        axes.axhline(float(own["mean"].iloc[0]) if len(own) else 0.0, color=BLUE, linestyle=":", linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch (0: base)", ylabel=measure)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    return figure
