"""Pictures of a layer's features: L0, reconstruction error, and promoted features beside what chance gives.

Belongs here: drawing from `FeatureShifts`. Does not belong here: any test or count that is not already in it.

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from subliminal_dagster.science import colours
from subliminal_dagster.science.features.shifts import FeatureShifts
from subliminal_dagster.science.statistics import t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_BINS = 40


def l0_figure(shifts: Mapping[str, FeatureShifts], control_l0: ArrayLike, title: str) -> Figure:
    """Distribution of L0 of each group (a panel each) over that of the control, with mean and skew; an asterisk where
    Welch's test tells their means apart at the strict level.

    shifts: by group, one layer's, in the order of the panels. control_l0: shape (control rows,), of the analysis rows.
    """
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(shifts))
    lines = math.ceil(len(shifts) / columns)
    figure = Figure(figsize=(max(6.4, 3.4 * columns), 0.8 + 2.4 * lines), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    control = np.asarray(control_l0)
    everyone = np.concatenate([control, *(table.per_row["l0"].to_numpy() for table in shifts.values())])
    # Whole numbers, so that no bin holds more of them than another.
    width = max(1, math.ceil((everyone.max() - everyone.min() + 1) / _BINS))
    edges = np.arange(everyone.min(), everyone.max() + width + 1, width) - 0.5
    for axes, (group, table) in zip(panels.flat, shifts.items(), strict=False):
        numbers = table.summary.iloc[0]
        asterisk = "*" if numbers["l0_differs"] else ""
        axes.hist(
            control, edges, density=True, color=colours.CONTROL, alpha=0.45,
            label=f"control: mean {numbers['l0_mean_control']:.1f}, skew {numbers['l0_skew_control']:.2f}",
        )  # fmt: skip
        axes.hist(
            table.per_row["l0"], edges, density=True, histtype="step", color=colours.MEASURED, linewidth=1.4,
            label=f"{group}: mean {numbers['l0_mean_own']:.1f}{asterisk}, skew {numbers['l0_skew_own']:.2f}",
        )  # fmt: skip
        axes.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
        _plain(axes)
    for axes in panels.flat[len(shifts) :]:
        axes.set_axis_off()
    strict = next(iter(shifts.values())).summary.iloc[0]["level_strict"]
    figure.supxlabel(f"L0: features that fire on a row (* mean differs from control, Welch p < {strict:g})", fontsize=9)
    figure.supylabel("density of rows", fontsize=9)
    return figure


def error_figure(shifts: Mapping[str, FeatureShifts], control_error: ArrayLike, title: str) -> Figure:
    """Mean reconstruction error of each group and of the control, with 95 % t intervals over rows; an asterisk where
    Welch's test tells a group from the control at the strict level.

    shifts: by group, one layer's. control_error: shape (control rows,), of the analysis rows.
    """
    figure, (axes,) = _figure(title, 1, len(shifts) + 1)
    groups = ["control", *shifts]
    means = [t_interval(control_error), *(t_interval(table.per_row["error"]) for table in shifts.values())]
    for place, (group, mean) in enumerate(zip(groups, means, strict=True)):
        colour = colours.CONTROL if group == "control" else colours.MEASURED
        ends = [[mean.mean - mean.low], [mean.high - mean.mean]]
        axes.errorbar([place], [mean.mean], yerr=ends, fmt="o", color=colour, capsize=3)
        if group != "control" and shifts[group].summary.iloc[0]["error_differs"]:
            axes.annotate("*", (place, mean.high), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=13)
    axes.axhline(means[0].mean, color=colours.CONTROL, linewidth=0.8, linestyle=":")
    axes.margins(y=0.15)
    axes.set_xticks(range(len(groups)), groups)
    strict = next(iter(shifts.values())).summary.iloc[0]["level_strict"]
    axes.set_ylabel("reconstruction error\n(mean squared error a dimension)")
    axes.set_xlabel(f"* differs from control, Welch p < {strict:g}; the axis does not start at 0", fontsize=8)
    return figure


def features_figure(shifts: Mapping[str, FeatureShifts], title: str) -> Figure:
    """Numbers of promoted features (all, and after Benjamini-Hochberg) and of new features of each group, each beside
    what shuffled labels give: a line at the null's mean, a triangle at its 95 % quantile.

    shifts: by group, one layer's.
    """
    figure, (left, right) = _figure(title, 2, len(shifts))
    summaries = {group: table.summary.iloc[0] for group, table in shifts.items()}
    bars = {
        left: {
            "promoted": ("promoted", colours.KINDS[0]),
            "promoted_bh": ("after Benjamini-Hochberg", colours.KINDS[1]),
        },
        right: {"new": ("new", colours.KINDS[0])},
    }
    for axes, kinds in bars.items():
        size = 0.8 / len(kinds)
        for number, (kind, (label, colour)) in enumerate(kinds.items()):
            places = np.arange(len(summaries)) + (number - (len(kinds) - 1) / 2) * size
            observed, mean, most = (
                np.array([summary[f"{kind}{suffix}"] for summary in summaries.values()], dtype=float)
                for suffix in ("", "_null_mean", "_null_q95")
            )
            axes.bar(places, observed, size * 0.9, color=colour, label=label)
            for marker, level, name in (("_", mean, "mean"), ("v", most, "95 % quantile")):
                axes.plot(
                    places, level, marker, color=colours.CHANCE, markersize=10 if marker == "_" else 4,
                    linestyle="none", label=f"shuffled labels: {name}" if number == 0 else None,
                )  # fmt: skip
        axes.set_xticks(range(len(summaries)), list(summaries))
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=7, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    left.set_ylabel("promoted features")
    right.set_ylabel("new features")
    return figure


def _figure(title: str, panels: int, groups: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(max(6.4, panels * (1.2 + 0.8 * groups)), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for each in axes:
        _plain(each)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
