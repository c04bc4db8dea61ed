"""The picture of gamma over a grid.

Belongs here: drawing the table of cells. Does not belong here: any number that is not already in it.

Part of no version: pictures are views of tables, and no content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_MOST_NAMED = 10
_COLUMNS = 4


@dataclass(frozen=True)
class Panel:
    """A panel of the picture: its title, and by name the lines in it, whose points are rows of the table."""

    title: str
    lines: Mapping[str, pd.DataFrame]


def panels_of(table: pd.DataFrame, names: Mapping[str, str]) -> list[Panel]:
    """A channel's cells as panels with lines: the first setting along the axis, and where there are more a line per
    value of the others; from three settings on a panel per value of the second.

    table: of `table.cells_table`. names: the swept settings in the order of the study, each with its short name.
    """
    _, *others = names
    facet = others[0] if len(others) > 1 else None
    found = []
    for channel, of_channel in table.groupby("channel", sort=False):
        parts = of_channel.groupby(facet, sort=False) if facet else [("", of_channel)]
        for value, rows in parts:
            split = [field for field in others if field != facet]
            lines = {"": rows}
            if split:
                keyed = rows.groupby(split, sort=False)
                lines = {_named(split, of_line, names): points for of_line, points in keyed}
            title = f"{channel} channel" + (f", {names[facet]} {value}" if facet else "")
            found.append(Panel(title, lines))
    return found


def _named(fields: Sequence[str], values: object, names: Mapping[str, str]) -> str:
    each = values if isinstance(values, tuple) else (values,)
    return ", ".join(f"{names[field]} {value}" for field, value in zip(fields, each, strict=True))


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
        axes.axhline(0.0, color="#8C8C8C", linestyle=":", linewidth=1)
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
