"""The colours of all figures, and small figures for an asset's page: losses over steps, favourites of a model.

Belongs here: colours by what they mean, drawing from data frames, writing a figure as PNG. Does not belong here: the
comparison of all groups (`liking.figure`).

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One colour, one meaning, in every figure of the project. Bright colours (Okabe and Ito's, which the colour-blind can
# tell apart) are models and animals; greys and brown are what these are compared with.
OWN, OTHERS = "#D55E00", "#0072B2"
"""The child's own animal, or its numbers, and other animals or their numbers."""
CONTROL, NEUTRAL, BASE = "#8C8C8C", "#7F6A52", "#BDBDBD"
TEACHER, CHILD = "#B03A7A", "#17808F"
"""The two models, in figures that set them side by side."""
CHANCE = "#64748B"
"""What happens by chance: guessing, shuffled labels, random vectors."""
GUIDE, GRID, CLEAR = "#808080", "rgba(128,128,128,0.25)", "rgba(0,0,0,0)"
"""Lines that are no data: zero, a gate, equality; the grid; nothing at all. Readable on white and on black."""
INK, MUTED, PAPER = "#1A1A1A", "#4D4D4D", "#FFFFFF"
"""Letters and edges of figures on white."""
KINDS = ("#5B7FA6", "#B5892E", "#6B8E4E", "#9A6FB0", "#A85B4B")
"""Muted: measures, methods or settings, told apart within one figure."""
MEASURED = KINDS[0]
"""Where there is one alone."""
VERDICTS = {
    "detected": "#00694E",
    "not detected": "#00558A",
    "inconclusive": "#8A5A00",
    "opposite": "#A34700",
    "not tested": "#6A6A6A",
}
"""As the verdicts at the head of a report (`report/page.css`)."""
_ANIMALS = ("#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#7A6FD0", "#8A8A00")
_REFERENCES = {"control": CONTROL, "neutral": NEUTRAL, "base": BASE}

SCALE = "RdBu_r"
"""Matplotlib's name of the scale from -1 (blue) to 1 (red), which has a bar beside it."""

# For `toy` alone, whose lines are settings of an experiment.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """A colour for every group: control, neutral and base have theirs, animals take the palette in order."""
    animals = [group for group in groups if group not in _REFERENCES]
    palette = {animal: _ANIMALS[index % len(_ANIMALS)] for index, animal in enumerate(animals)}
    return {group: _REFERENCES.get(group) or palette[group] for group in groups}


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
