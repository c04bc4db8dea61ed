"""Pictures of the steering experiment.

Belongs here: drawing from the tables of `scores` and `analysis`. Does not belong here: any number
that is not already in them.

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.colours import CHANCE, GUIDE, INK, KINDS, PAPER, SCALE
from subliminal_dagster.science.steering.analysis import TOTAL, Decomposition
from subliminal_dagster.science.steering.vectors import CENTRED_WORD, DIRECT, RANDOM, SUBLIMINAL, WORD

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = {
    SUBLIMINAL: (KINDS[0], "o", "-"),
    DIRECT: (KINDS[1], "s", "-"),
    WORD: (KINDS[2], "^", "-"),
    CENTRED_WORD: (KINDS[3], "D", "-"),
    RANDOM: (CHANCE, "", ":"),
}
_NOISE = (CHANCE, "x", "--")

_MEASURES = {
    "probability": "exact probability",
    "log_share": "log share, shift from\nalpha 0 (nats)",
    "candidate_mass": "probability of all\ncandidates together",
    "first_token_entropy": "entropy of the\nfirst token (nats)",
    "first_token_top": "probability of the\nmost likely first token",
    "one_word": "greedy answers of\none word (share)",
    "base_nats": "greedy answers under\nthe base (nats a token)",
}


def preference_figure(summary: pd.DataFrame, title: str) -> Figure:
    """The target's exact probability (above) and the shift of its log share from alpha 0 (below) against alpha: a line
    a kind of vector, a column per layer and positions. Bands: 95 % t intervals over questions, below of differences
    that are paired by question. Dotted: the model as it is."""
    import pandas as pd

    target = summary[summary["target"]]
    shift = target[target["outcome"] == "log_share"]
    shift = shift.assign(mean=shift["difference"], low=shift["difference_low"], high=shift["difference_high"])
    return _lines(pd.concat([target[target["outcome"] == "probability"], shift]), title)


def coherence_figure(coherence: pd.DataFrame, title: str) -> Figure:
    """Whether the steered model still makes sense, against alpha: a row per measure, a column per layer and
    positions."""
    return _lines(coherence, title)


def cosine_figure(cosines: pd.DataFrame, title: str) -> Figure:
    """Cosines of all pairs as a heat map; a star where p is below 0.05 under the null they were made with."""
    from matplotlib.figure import Figure as NewFigure

    names = list(dict.fromkeys(cosines["first"]))
    values = cosines.pivot(index="first", columns="second", values="cosine").reindex(index=names, columns=names)
    tests = cosines.pivot(index="first", columns="second", values="p").reindex(index=names, columns=names)
    p = tests.to_numpy(dtype=float)
    size = 1.6 + 0.8 * len(names)
    figure = NewFigure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    matrix = values.to_numpy(dtype=float, copy=True)
    np.fill_diagonal(matrix, 1)
    drawn = axes.imshow(matrix, cmap=SCALE, vmin=-1, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        if row != column:
            label = f"{matrix[row, column]:.2f}{'*' if p[row, column] < 0.05 else ''}"
            shade = PAPER if abs(matrix[row, column]) > 0.6 else INK
            axes.text(column, row, label, ha="center", va="center", fontsize=8, color=shade)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(title, fontsize=10, loc="left")
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="cosine")
    return figure


def decomposition_figure(decomposition: Decomposition, first: str, second: str, title: str) -> Figure:
    """Active features by category: in both vectors, in the first only, in the second only."""
    from matplotlib.figure import Figure as NewFigure

    table = decomposition.table[decomposition.table["category"] != TOTAL]
    figure = NewFigure(figsize=(6.4, 1.6 + 0.6 * max(1, len(table))), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(table))
    bars = (
        ("both", "both", KINDS[2]),
        ("first_only", f"{first} only", KINDS[0]),
        ("second_only", f"{second} only", KINDS[1]),
    )
    for number, (column, label, colour) in enumerate(bars):
        drawn = axes.barh(places + 0.26 * (number - 1), table[column], 0.24, color=colour, label=label)
        axes.bar_label(drawn, fontsize=7, padding=2)
    axes.set_yticks(places, table["category"])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    facts = decomposition.facts
    axes.set_xlabel(f"active features (L0: {first} {facts['l0_first']}, {second} {facts['l0_second']})")
    _finish(axes, title)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _lines(frame: pd.DataFrame, title: str) -> Figure:
    from matplotlib.figure import Figure as NewFigure

    outcomes = [name for name in _MEASURES if (frame["outcome"] == name).any()]
    columns = list(dict.fromkeys(zip(frame["layers"], frame["positions"], strict=True)))
    shown: dict[str, Any] = {}
    figure = NewFigure(figsize=(1.2 + 3.4 * len(columns), 1 + 2.3 * len(outcomes)), layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.02, ha="left")
    grid = figure.subplots(len(outcomes), len(columns), squeeze=False, sharex=True, sharey="row")
    for row, outcome in enumerate(outcomes):
        for column, (layers, positions) in enumerate(columns):
            axes = grid[row][column]
            here = frame[
                (frame["outcome"] == outcome) & (frame["layers"] == layers) & (frame["positions"] == positions)
            ]
            for kind, rows in here.groupby("kind", sort=False):
                shown[str(kind)] = _curve(axes, rows.sort_values("alpha"), str(kind))
            axes.axhline(here.loc[here["alpha"] == 0, "mean"].iloc[0], color=GUIDE, linewidth=0.7, linestyle=":")
            axes.set_xscale("symlog", linthresh=1)
            _finish(axes, f"layer {layers}, positions: {positions}" if row == 0 else "")
            if column == 0:
                axes.set_ylabel(_MEASURES[outcome], fontsize=8)
            if row == len(outcomes) - 1:
                axes.set_xlabel("alpha")
    figure.legend(list(shown.values()), list(shown), loc="outside right center", frameon=False, fontsize=8)
    return figure


def _curve(axes: Axes, rows: pd.DataFrame, kind: str) -> Any:
    colour, marker, line = _STYLES.get(kind, _NOISE)
    drawn = axes.plot(rows["alpha"], rows["mean"], line, color=colour, marker=marker, markersize=3.5, label=kind)
    axes.fill_between(rows["alpha"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
    return drawn[0]


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
