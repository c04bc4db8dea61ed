"""Lines with their intervals as bands, where error bars of several would cover each other; and the shades of heat maps.

Belongs here: what the sections on steering and on toy models draw alike. Does not belong here: the style of all charts
(`charts`), data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from plotly.graph_objects import Figure

SHADES: dict[str, Any] = {
    "colorscale": [[0, "rgba(0,114,178,0.9)"], [0.5, "rgba(128,128,128,0.06)"], [1, "rgba(213,94,0,0.9)"]],
    "cmin": -1,
    "cmax": 1,
    "colorbar": {"orientation": "h", "thickness": 10, "yref": "container", "y": 0, "yanchor": "bottom"},
}
"""A colour axis from blue (-1) by nearly nothing, so that the page shows through in light and dark, to vermilion (1).
Its bar lies below the figure, where it takes 50 pixels of the margin."""


def band_line(
    figure: Figure,
    rows: pd.DataFrame,
    *,
    name: str,
    colour: str,
    at: str,
    dash: str = "solid",
    symbols: str | np.ndarray = "circle",
    legend: bool = True,
    row: int = 1,
    col: int = 1,
) -> Figure:
    """One line with its interval as a band, added to a panel of a figure with panels: a point a row of `rows`, which
    has the columns `x`, `mean`, `low`, `high`, and whatever else is shown on hover beside the exact values.

    colour: "#RRGGBB". at: the column that says where a point is, as hovering shows it. symbols: markers, one or one a
    point.
    """
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    figure.add_scatter(
        x=[*rows["x"], *rows["x"][::-1]],
        y=[*rows["high"], *rows["low"][::-1]],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.14)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
        mode="lines",
        row=row,
        col=col,
    )
    return figure.add_scatter(
        x=rows["x"],
        y=rows["mean"],
        name=name,
        legendgroup=name,
        showlegend=legend,
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2},
        marker={"size": 7, "symbol": symbols},
        customdata=rows[[at, "low", "high"]],
        hovertemplate=f"{name}, {at} %{{customdata[0]:g}}<br>%{{y:.4g}} "
        "[%{customdata[1]:.4g}, %{customdata[2]:.4g}]<extra></extra>",
        row=row,
        col=col,
    )
