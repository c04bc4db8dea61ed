"""The section on a sweep: gamma over the grid, and what of it is luck.

Belongs here: what the asset `sweep_liking` shows. Does not belong here: its tables (`table`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.colours import KINDS
from subliminal_dagster.science.report.charts import interval, panels
from subliminal_dagster.science.report.evidence import Chart, NotThere, Results, Section, Table
from subliminal_dagster.science.report.tables import columns, records
from subliminal_dagster.science.report.wording import counted, with_interval
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.sweep import short_names
from subliminal_dagster.science.sweep.panels import Panel, panels_of

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "sweep", "Sweep"
READS: tuple[str, ...] = ("sweep_liking",)

_PANEL_HEIGHT, _BETWEEN = 240, 80


def section(study: Study, results: Results) -> Section:
    """How does gamma go with the settings that are swept?"""
    import pandas as pd

    if study.sweep is None:
        raise NotThere("this study has no sweep.")
    folder = results.folder("sweep_liking")
    cells, effects = (pd.read_parquet(folder / f"{name}.parquet") for name in ("cells", "effects"))
    names = short_names([*study.sweep.values])
    level = 1 - study.comparison.confidence
    return Section(
        name=NAME,
        title=TITLE,
        shows="\n".join(sweep_sentence(rows, level) for _, rows in cells.groupby("channel", sort=False)),
        method=_method(study, cells),
        made_from=READS,
        charts=(_chart(cells, names),),
        tables=(_cells(cells, names), _effects(effects, names)),
    )


def sweep_sentence(cells: pd.DataFrame, level: float) -> str:
    """What the cells of one channel show, and what of that is to be expected of so many looks."""
    channel = cells["channel"].iloc[0]
    tested = cells[cells["mean"].notna()]
    if tested.empty:
        return f"{channel.capitalize()} channel: none of {counted(len(cells), 'cell')} could be compared."
    best = records(tested.sort_values("mean", ascending=False))[0]
    alone, among = (int((tested[name] == "detected").sum()) for name in ("verdict", "verdict_of_all"))
    judged = int(tested["p"].notna().sum())
    left_out = len(cells) - len(tested)
    largest = f"{best['mean']:+.3f} nats, with too few children for an interval"
    if not math.isnan(best["low"]):
        largest = with_interval(best["mean"], best["low"], best["high"], "nats", signed=True)
    parts = [
        f"{channel.capitalize()} channel: gamma of {counted(len(tested), 'cell')} lies between "
        f"{tested['mean'].min():+.3f} and {tested['mean'].max():+.3f} nats"
        + (f" ({left_out} could not be compared)." if left_out else "."),
        f"The largest is that of {best['cell']}, {largest}.",
    ]
    if judged:
        parts.append(
            f"It is detected in {alone} by the cell's own interval and in {among} once adjusted for "
            f"{counted(judged, 'look')}. The best of many is partly luck: were there no effect in any, about "
            f"{judged * level:.1f} would have p below {level:.2g} unadjusted."
        )
    return " ".join(parts)


def _method(study: Study, cells: pd.DataFrame) -> str:
    grid = study.grid
    assert grid is not None
    incomplete = int((cells["missing"] != "").sum())
    return (
        f"Each cell is a study of its own, with {counted(grid.replicates, 'child', 'children')} per group and channel "
        f"and the interval of every comparison ({100 * study.comparison.confidence:g} %, with the noise between "
        "training runs). Cells that differ in nothing upstream share teachers, numbers and rows, so their noise is "
        "partly the same. p values are adjusted over the cells of a channel (Holm), those of the equivalence test "
        "likewise; the adjusted verdict rests on them."
        + (f" {incomplete} rows lack children, for the reason in the table." if incomplete else "")
    )


def _chart(cells: pd.DataFrame, names: dict[str, str]) -> Chart:
    shown: list[Panel] = panels_of(cells, names)
    first = next(iter(names))
    height = _PANEL_HEIGHT * len(shown) + _BETWEEN
    figure = panels([panel.title for panel in shown], height=height, between=_BETWEEN, shared=False)
    for row, panel in enumerate(shown, start=1):
        for number, (name, points) in enumerate(panel.lines.items()):
            figure.add_scatter(
                x=points[first].astype(str),
                y=points["mean"],
                name=name or "gamma",
                mode="lines+markers",
                marker_color=KINDS[number % len(KINDS)],
                error_y=interval(points, "mean", "low", "high"),
                customdata=points[["cell", "low", "high"]],
                hovertemplate="%{customdata[0]}<br>%{y:.4g} [%{customdata[1]:.4g}, %{customdata[2]:.4g}] nats"
                "<extra></extra>",
                showlegend=False,
                row=row,
                col=1,
            )
    figure.update_xaxes(type="category", title=names[first])
    figure.update_yaxes(title="gamma (nats)")
    tested = cells[cells["mean"].notna()]
    alt = f"gamma of {len(tested)} cells against {names[first]}" + (
        f", from {tested['mean'].min():.3f} to {tested['mean'].max():.3f} nats." if len(tested) else "; none is there."
    )
    return Chart(f"{NAME}-gamma", "gamma of every cell, with its interval", figure, alt)


def _cells(cells: pd.DataFrame, names: dict[str, str]) -> Table:
    shown: dict[str, Any] = {name: field for field, name in names.items()} | {
        "channel": "channel",
        "gamma": "mean",
        "low": "low",
        "high": "high",
        "p": "p",
        "p adjusted": "p_holm",
        "verdict": "verdict",
        "among all cells": "verdict_of_all",
        "children": lambda rows: [f"{row['children']} of {row['children_wanted']}" for row in records(rows)],
        "missing": "missing",
    }
    note = "gamma, low, high: nats; low and high of the cell alone. Among all cells: the verdict once adjusted."
    return Table(f"{NAME}-cells", "All cells", columns(cells, shown), note)


def _effects(effects: pd.DataFrame, names: dict[str, str]) -> Table:
    shown: dict[str, Any] = {
        "setting": lambda rows: rows["setting"].map(names),
        "value": "value",
        "channel": "channel",
        "cells": "cells",
        "mean gamma": "mean",
        "low": "low",
        "high": "high",
    }
    note = (
        "Mean over all cells with the value, nats. The interval holds however much noise the cells share, so what two "
        "values differ by is known better than their intervals say."
    )
    return Table(f"{NAME}-effects", "Each value over all others", columns(effects, shown), note)
