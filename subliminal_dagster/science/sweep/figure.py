"""The picture of gamma over a grid.

Belongs here: drawing the table of cells. Does not belong here: any number that is not already in it.

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from subliminal_dagster.science.colours import GUIDE
from subliminal_dagster.science.sweep.panels import panels_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_MOST_NAMED = 10
_COLUMNS = 4


def sweep_figure(table: pd.DataFrame, names: Mapping[str, str], title: str) -> Figure:
    """gamma of every cell with its interval, nats, against the values of the first setting; see `panels_of`."""
    import matplotlib
    from matplotlib.figure import Figure as NewFigure

    first = next(iter(names))
    values = [str(value) for value in dict.fromkeys(table[first])]
    panels = panels_of(table, names)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = NewFigure(figsize=(max(4.2, 3.6 * columns), 3.2 * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid, panels, strict=False):
        count = len(panel.lines)
        colours = matplotlib.colormaps["viridis"]
        axes.axhline(0.0, color=GUIDE, linestyle=":", linewidth=1)
        for place, (name, points) in enumerate(panel.lines.items()):
            aside = 0.0 if count == 1 else 0.3 * (place / (count - 1) - 0.5)
            x = [values.index(str(value)) + aside for value in points[first]]
            error = (points["high"] - points["low"]).to_numpy() / 2
            colour = colours(0.1 + 0.8 * place / max(count - 1, 1))
            axes.errorbar(x, points["mean"], error, fmt="o-", color=colour, markersize=4, linewidth=1, label=name)
        axes.set_xticks(range(len(values)), values, rotation=45 if len(values) > 6 else 0)
        axes.set(xlabel=names[first], title=panel.title)
        axes.spines[["top", "right"]].set_visible(False)
    if 1 < len(panels[0].lines) <= _MOST_NAMED:
        grid[0].legend(frameon=False, fontsize=7)
    grid[0].set_ylabel("gamma (nats)")
    return figure
