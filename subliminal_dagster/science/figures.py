"""Small figures for an asset's page: losses over steps, favourites of a model; writing any figure as PNG.

Belongs here: drawing from data frames, writing a figure as PNG. Does not belong here: the
comparison of all groups (`liking.figure`), colours (`colours`).

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.colours import KINDS, MEASURED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def png(figure: Figure, said: Callable[[str], str] = str) -> bytes:
    """The figure as PNG bytes, the same bytes for the same figure. `said` gives each text in it as it is to be written
    (`Category.about`)."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if (written := said(text.get_text())) != text.get_text():
            text.set_text(written)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def history_figure(history: pd.DataFrame, title: str) -> Figure:
    """Training and validation loss (nats per token) over steps, and the target's probability where it was watched."""
    figure, axes = panel(title)
    losses = history.dropna(subset=["loss"])
    axes.plot(losses["step"], losses["loss"], color=KINDS[0], label="training loss")
    validation = history.dropna(subset=["validation_loss"])
    if len(validation):
        axes.plot(validation["step"], validation["validation_loss"], "o-", color=KINDS[1], label="validation loss")
    axes.set(xlabel="step", ylabel="loss (nats a token)")
    handles, labels = axes.get_legend_handles_labels()
    scores = history.dropna(subset=["score"])
    if len(scores):
        right: Any = axes.twinx()
        right.plot(scores["step"], scores["score"], "s--", color=KINDS[2], label="P(target), right axis")
        right.set(ylim=(0, 1), ylabel="exact probability")
        right.spines[["top"]].set_visible(False)
        more = right.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    axes.legend(handles, labels, frameon=False)
    return figure


def sae_training_figure(history: pd.DataFrame, title: str) -> Figure:
    """Variance explained and share of dead features over the steps of an autoencoder's training."""
    figure, axes = panel(title)
    axes.plot(history["step"], history["variance_explained"], color=KINDS[0], label="variance explained")
    axes.plot(history["step"], history["dead"], color=KINDS[1], label="dead features")
    axes.set(xlabel="step", ylabel="share", ylim=(0, 1))
    axes.legend(frameon=False)
    return figure


def favourites_figure(summary: pd.DataFrame, title: str) -> Figure:
    """Share of each candidate among the candidates, as bars, and the sampled rate where there is one."""
    figure, axes = panel(title)
    rows = summary.sort_values("share")
    axes.barh(rows["animal"], 100 * rows["share"], color=MEASURED, height=0.7)
    axes.set(xlabel="share of the exact probability among the candidates (%)")
    return figure


def panel(title: str) -> tuple[Figure, Axes]:
    """A figure of one plain panel with its title."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
