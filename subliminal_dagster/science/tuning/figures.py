"""Pictures of a tuning study, and of the child that was trained with what it found.

Belongs here: drawing the tables of `tuning`. Does not belong here: any number that is not already in them.

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science import colours
from subliminal_dagster.science.colours import KINDS, MEASURED
from subliminal_dagster.science.tuning.result import COMPLETE, DIVERGED, PRUNED
from subliminal_dagster.science.tuning.scores import BASE, ORIGINAL, TUNED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_LABELS = {
    "learning_rate": "learning rate",
    "dropout": "LoRA dropout",
    "rank": "LoRA rank",
    "alpha_ratio": "alpha / rank",
}
_LOSS = "validation loss (nats a token)"


def importance_figure(importance: pd.DataFrame, title: str) -> Figure:
    """Bars of `tuning.parameter_importance`."""
    figure, axes = _panels(1, title)
    rows = importance.iloc[::-1]
    bars = axes[0].barh([_LABELS[name] for name in rows["parameter"]], rows["importance"], color=MEASURED, height=0.6)
    axes[0].bar_label(bars, fmt="%.2f", fontsize=8, padding=3)
    axes[0].margins(x=0.1)
    axes[0].set_xlabel("share of the validation loss's variance it explains alone")
    return figure


def trials_figure(trials: pd.DataFrame, title: str) -> Figure:
    """Validation loss of every trial in order, and the lowest so far; what diverged stands at the upper edge."""
    figure, axes = _panels(1, title)
    complete = trials[trials["state"] == COMPLETE]
    pruned = trials[trials["state"] == PRUNED]
    diverged = trials.loc[trials["state"] == DIVERGED, "trial"]
    axes[0].plot(complete["trial"], complete["validation_loss"], "o", color=KINDS[0], label="trial")
    if len(pruned):
        axes[0].plot(pruned["trial"], pruned["validation_loss"], "x", color=KINDS[1], label="pruned, when it was")
    if len(diverged):
        edge = axes[0].get_xaxis_transform()
        axes[0].plot(
            diverged, np.ones(len(diverged)), "^", color=KINDS[3], transform=edge, label="diverged", clip_on=False
        )
    lowest = complete["validation_loss"].cummin()
    axes[0].step(complete["trial"], lowest, where="post", color=KINDS[2], label="lowest so far")
    axes[0].set(xlabel="trial", ylabel=_LOSS)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def curves_figure(curves: pd.DataFrame, best: int, title: str) -> Figure:
    """Validation loss after every epoch, a line per trial, the best one's in front."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _panels(1, title)
    validated = curves.dropna(subset=["validation_loss"])
    for trial, rows in validated.groupby("trial"):
        style: dict[str, Any] = {"color": KINDS[0], "alpha": 0.5, "linewidth": 0.8, "markersize": 3}
        if trial == best:
            style = {"color": KINDS[2], "zorder": 3, "label": f"trial {best}, the best"}
        axes[0].plot(rows["epoch"], rows["validation_loss"], "o-", **style)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set(xlabel="epoch", ylabel=_LOSS)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def epochs_figure(scores: pd.DataFrame, title: str) -> Figure:
    """Liking and capability of the tuned child over epochs, against the base and the child of the study's own settings.

    scores: a row per model, measure and epoch: `model` (`BASE`, `ORIGINAL` or `TUNED`), `measure` (the label of an
    axis), `epoch` (any value for models other than `TUNED`), `mean`, and the interval's ends `low`, `high` (NaN for
    none).
    """
    measures = list(dict.fromkeys(scores["measure"]))
    figure, panels = _panels(len(measures), title)
    for axes, measure in zip(panels, measures, strict=True):
        here = scores[scores["measure"] == measure]
        for model, colour, line in ((BASE, colours.BASE, ":"), (ORIGINAL, colours.CHILD, "--")):
            for row in here[here["model"] == model].itertuples():
                axes.axhline(row.mean, color=colour, linestyle=line, linewidth=1.2, label=model)
                axes.axhspan(row.low, row.high, color=colour, alpha=0.08, linewidth=0)
        tuned = here[here["model"] == TUNED].sort_values("epoch")
        ends = [tuned["mean"] - tuned["low"], tuned["high"] - tuned["mean"]]
        axes.errorbar(tuned["epoch"], tuned["mean"], yerr=ends, fmt="o-", color=KINDS[2], capsize=3, label=TUNED)
        axes.set_xticks(tuned["epoch"])
        axes.set(xlabel="epoch", ylabel=measure)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _panels(count: int, title: str) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(1.4 + 5.0 * count, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.02, ha="left")
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels
