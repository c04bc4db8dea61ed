"""How the report's charts look: one style, exact values on hover. Colours: `figures`.

Belongs here: what at least two sections draw alike. Does not belong here: data, any one section's chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.colours import CLEAR, GRID, GUIDE

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from plotly.graph_objects import Figure

# For `toy` and `arms`, whose lines are settings of an experiment; all else takes its colours from `figures`.
VERMILION, BLUE, GREEN, ORANGE, SKY, PURPLE = "#D55E00", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
GREY, LIGHT_GREY = "#8C8C8C", "#BDBDBD"


def new_figure(*, x: str, y: str, height: int = 380) -> Figure:
    """An empty figure in the report's style; `x` and `y` are the axes' titles, with units."""
    from plotly.graph_objects import Figure

    figure = Figure()
    return styled(figure, height=height).update_xaxes(title=x).update_yaxes(title=y)


def styled(figure: Figure, *, height: float = 380) -> Figure:
    """The report's style laid on a figure: no fill, so that the page's colours show through in light and dark; a legend
    above, which wraps on a phone."""
    grid = {"gridcolor": GRID, "zerolinecolor": "rgba(128,128,128,0.6)", "automargin": True}
    # Titles of axes no larger than their ticks, or they are cut off on a phone.
    axis = {"title": {"font": {"size": 13}, "standoff": 8}}
    return (
        figure.update_layout(
            template={"layout": {"xaxis": axis, "yaxis": axis}},
            height=height,
            paper_bgcolor=CLEAR,
            plot_bgcolor=CLEAR,
            font={"size": 13, "color": GUIDE},
            margin={"l": 12, "r": 12, "t": 12, "b": 12},
            legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0},
            hovermode="closest",
            bargap=0.25,
        )
        .update_xaxes(**grid)
        .update_yaxes(**grid)
    )


def panels(
    titles: Sequence[str],
    *,
    height: float,
    between: float,
    columns: int = 1,
    shared: bool | str = True,
    size: int = 13,
    **more: Any,
) -> Figure:
    """An empty figure in the report's style with panels in rows of `columns`, one a title.

    height: of the whole figure, and `between`: from one row of panels to the next, both in pixels. shared: whether
    panels of a column share their x axis, as plotly's `shared_xaxes`. size: of the titles' letters. more: goes to
    `plotly.subplots.make_subplots`.
    """
    from plotly.subplots import make_subplots

    rows = -(-len(titles) // columns)
    spacing = between / height if rows > 1 else 0
    figure = make_subplots(rows, columns, subplot_titles=titles, shared_xaxes=shared, vertical_spacing=spacing, **more)
    return styled(figure, height=height).update_annotations(font_size=size)


def legend_above_titles(figure: Figure) -> Figure:
    """Moves the legend of a figure with panels above the titles of the first ones, which it would lie on."""
    return figure.update_layout(legend_y=1 + 30 / figure.layout.height)


def in_panel(row: int, name: str, group: str | None = None) -> dict[str, Any]:
    """What a trace needs in panels below each other: its row, counted from 1, and its name, which the legend has once,
    for the first panel. The legend shows and hides traces of one `group` together: of one name, unless it is given."""
    return {"name": name, "legendgroup": group or name, "showlegend": row == 1, "row": row, "col": 1}


def interval(rows: pd.DataFrame, value: str, low: str, high: str) -> dict[str, Any]:
    """Error bars from the columns of an interval, as plotly wants them: distances from the value."""
    return {
        "type": "data",
        "symmetric": False,
        "array": (rows[high] - rows[value]).clip(lower=0),
        "arrayminus": (rows[value] - rows[low]).clip(lower=0),
        "thickness": 1.3,
        "width": 3,
    }


def bars(
    figure: Figure, rows: pd.DataFrame, *, x: str, value: str, low: str, high: str, name: str, colour: str
) -> Figure:
    """One series of bars with intervals, added to a figure: a bar per row, its exact values on hover."""
    return figure.add_bar(
        x=rows[x],
        y=rows[value],
        name=name,
        marker_color=colour,
        error_y=interval(rows, value, low, high),
        customdata=rows[[low, high]],
        hovertemplate=f"{name}, %{{x}}<br>%{{y:.4g}} [%{{customdata[0]:.4g}}, %{{customdata[1]:.4g}}]<extra></extra>",
    )


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
    """One line with its interval as a band, added to a panel of a figure with panels: a point per row of `rows`, which
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
