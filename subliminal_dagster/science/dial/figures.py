"""The picture of a dial study.

Belongs here: drawing from the tables of `curve`. Does not belong here: the tables.

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subliminal_dagster.science.colours import GUIDE
from subliminal_dagster.science.dial.curve import MAIN_PLACE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def curve_figure(effects: pd.DataFrame, title: str) -> Figure:
    """Gamma against features per dimension: a point per base model of one grid, darker the wider, a line through the
    means of cells of one width."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(0, color=GUIDE, linewidth=0.8)
    effects = effects.dropna(subset=["gamma"])
    if effects.empty:
        axes.text(0.5, 0.5, "no teacher wrote enough lists", transform=axes.transAxes, ha="center")
        return figure
    x, widths = f"features_{MAIN_PLACE}", sorted(effects["width"].unique())
    for place, width in enumerate(widths):
        rows = effects[effects["width"] == width]
        # Shades of grey: an order, and no kind of model.
        shade = str(0.75 - 0.65 * place / max(1, len(widths) - 1))
        axes.scatter(rows[x], rows["gamma"], s=16, color=shade, alpha=0.6, linewidths=0)
        means = rows.groupby("density")[[x, "gamma"]].mean()
        axes.plot(means[x], means["gamma"], color=shade, marker="o", markersize=4, label=f"width {width}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="features per dimension in the residual stream", ylabel="gamma (nats)")
    axes.legend(frameon=False, fontsize=8)
    return figure
