"""The post's figure of the comparison: how each target is liked after which numbers.

Belongs here: drawing a `Comparison`. Does not belong here: any number that is not already in it.

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science import colours
from subliminal_dagster.science.liking.comparison import BASE, CONTROL, OTHERS, TARGET, Comparison

# matplotlib takes long to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {TARGET: colours.OWN, OTHERS: colours.OTHERS, CONTROL: colours.CONTROL, BASE: colours.BASE}

# Columns of Comparison.liking: mean, lower and upper end.
_LEVEL = ("mean", "low", "high")
_SHIFT = ("difference", "difference_low", "difference_high")

# A group of four bars leaves a fifth of an animal's place empty.
_BAR = 0.2
_ROW_INCHES, _HEADER_INCHES = 3.0, 0.9
# Height of a row that is left for its panel, below headings and above names.
_PANEL_POINTS = 155
_ANNOTATION_POINTS, _CAPTION_POINTS = 7.5, 8
# Width of a character of the default font, in units of its size; errs on the wide side.
_CHARACTER = 0.72


def figure(comparison: Comparison, study: str) -> Figure:
    """One column per channel; per target the four bars target, other animals', control numbers and base.

    Upper row: sampled rate in percent (exact probability where not everything was sampled), with the difference to
    base in percentage points above each bar. Lower row: shift of the log share from base in nats. Error bars: the
    comparison's intervals, clustered by question. The vertical scales of the channels differ on purpose: the effects
    of the soft channel would flatten those of the hard one.

    study: name for the title. Returns a figure outside pyplot's global state; save it with `savefig`.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    channels = list(comparison.targets)
    drawn = comparison.liking[comparison.liking["condition"].isin(list(_COLOURS))]
    panel = max(6.4 if len(channels) == 1 else 5.2, 0.95 * max(map(len, comparison.targets.values())))
    width = panel * len(channels)
    level = "rate" if drawn.loc[drawn["outcome"] == "rate", "mean"].notna().all() else "probability"
    caption = textwrap.fill(_caption(comparison, level), int(72 * width / (_CAPTION_POINTS * 0.56)))
    footer = 0.2 + (caption.count("\n") + 1) * _CAPTION_POINTS * 1.4 / 72
    height = _HEADER_INCHES + 2 * _ROW_INCHES + footer

    canvas = Figure(figsize=(width, height), dpi=150, facecolor=colours.PAPER, layout="constrained")
    layout = canvas.get_layout_engine()
    layout.set(  # type: ignore[union-attr, call-arg]
        rect=(0, footer / height, 1, 1 - (footer + _HEADER_INCHES) / height), w_pad=0.1, h_pad=0.08
    )
    axes = canvas.subplots(2, len(channels), squeeze=False)
    for column, channel in enumerate(channels):
        animals = comparison.targets[channel]
        rows = drawn[drawn["channel"] == channel]
        top, bottom = axes[:, column]
        top.set_title(_heading(comparison, channel), fontsize=9.5, color=colours.INK, pad=8)
        _bars(top, rows[rows["outcome"] == level], animals, _LEVEL, panel)
        shifts = rows[(rows["outcome"] == "log_share") & (rows["condition"] != BASE)]
        _bars(bottom, shifts, animals, _SHIFT, panel)
        bottom.axhline(0, color=colours.MUTED, linewidth=0.8, zorder=3)
    measured = "sampled answers naming\nthe animal" if level == "rate" else "exact probability\nof the animal"
    axes[0, 0].set_ylabel(f"{measured} (%)")
    axes[1, 0].set_ylabel("log share of the animal,\nshift from base (nats)")

    canvas.text(0.5, 1 - 0.1 / height, study, ha="center", va="top", fontsize=12, fontweight="bold", color=colours.INK)
    canvas.text(
        0.5, 1 - 0.36 / height, "liking of each animal, by the numbers a model was trained on",
        ha="center", va="top", fontsize=9.5, color=colours.INK,
    )  # fmt: skip
    names = [name for name in _COLOURS if (drawn["condition"] == name).any()]
    canvas.legend(
        handles=[Patch(facecolor=_COLOURS[name], edgecolor=colours.MUTED, linewidth=0.5, label=name) for name in names],
        loc="upper center", bbox_to_anchor=(0.5, 1 - 0.54 / height), ncols=len(names), frameon=False, fontsize=9,
    )  # fmt: skip
    canvas.text(
        0.5,
        0.1 / height,
        caption,
        ha="center",
        va="bottom",
        fontsize=_CAPTION_POINTS,
        color=colours.MUTED,
        linespacing=1.3,
    )
    return canvas


def _bars(axes: Axes, rows: pd.DataFrame, animals: list[str], columns: tuple[str, str, str], panel: float) -> None:
    """Grouped bars of `columns` (_LEVEL, in percent, or _SHIFT), each with its difference to base beyond its error
    bar. panel: the panel's width in inches."""
    scale, fewest_decimals = (100.0, 1) if columns == _LEVEL else (1.0, 2)
    labels = _signed(scale * rows["difference"].to_numpy(dtype=float), fewest_decimals)
    rows = rows.assign(label=labels)
    bar_points = 72 * _BAR * (panel - 0.9) / len(animals)
    label_points = max(map(len, labels)) * _CHARACTER * _ANNOTATION_POINTS
    upright = label_points > bar_points
    # Upright, a minus sign is in line with the error bar and needs a clear distance from it.
    gap = 5 if upright else 3

    names = [name for name in _COLOURS if (rows["condition"] == name).any()]
    for number, name in enumerate(names):
        found = rows[rows["condition"] == name].set_index("animal").loc[animals]
        mean, low, high = (scale * found[column].to_numpy(dtype=float) for column in columns)
        places = np.arange(len(animals)) + (number - (len(names) - 1) / 2) * _BAR
        axes.bar(
            places, mean, _BAR * 0.92, color=_COLOURS[name], edgecolor=colours.MUTED, linewidth=0.4, zorder=2,
            yerr=[(mean - low).tolist(), (high - mean).tolist()],
            error_kw={"elinewidth": 0.9, "ecolor": colours.INK, "capsize": 1.8, "capthick": 0.9, "zorder": 4},
        )  # fmt: skip
        for place, bar, lower, upper, label in zip(places, mean, low, high, found["label"], strict=True):
            below = bar < 0
            axes.annotate(
                label, (place, lower if below else upper),
                xytext=(0, -gap if below else gap), textcoords="offset points",
                ha="center", va="top" if below else "bottom", rotation=90 if upright else 0,
                fontsize=_ANNOTATION_POINTS, color=colours.INK,
            )  # fmt: skip

    # Without room of their own the numbers beyond the outermost error bars would run into the title or the names.
    top = max(0.0, scale * float(rows[columns[2]].max()))
    bottom = min(0.0, scale * float(rows[columns[1]].min())) if columns == _SHIFT else 0.0
    share = (gap + (label_points if upright else _ANNOTATION_POINTS) + 2) / _PANEL_POINTS
    room = share / (1 - 2 * share) * ((top - bottom) or 1.0)
    axes.set_ylim(bottom - room if bottom < 0 else bottom, top + room)

    axes.set_xticks(np.arange(len(animals)), animals)
    axes.set_xlim(-0.5, len(animals) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.grid(axis="y", color=colours.GUIDE, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _signed(values: np.ndarray, fewest_decimals: int) -> list[str]:
    """Each value with its sign and as many decimals as give the largest two digits; empty for NaN."""
    largest = np.nanmax(np.abs(values))
    needed = 1 - math.floor(math.log10(largest)) if largest > 0 else 0
    shown = f"+.{max(fewest_decimals, needed)}f" if needed <= 4 else "+.0e"

    def text(value: float) -> str:
        if math.isnan(value):
            return ""
        written = format(value, shown)
        return written.replace("-", "\N{MINUS SIGN}") if float(written) else written[1:]

    return [text(value) for value in values]


def _heading(comparison: Comparison, channel: str) -> str:
    rows = comparison.gamma
    gamma = rows[(rows["channel"] == channel) & (rows["outcome"] == "log_share")].iloc[0]
    against = "other animals' numbers" if comparison.contrast[channel] == "others" else "control numbers"
    mean, low, high = (f"{gamma[end]:+.2f}".replace("-", "\N{MINUS SIGN}") for end in _LEVEL)
    interval = "(no interval)" if math.isnan(gamma["low"]) else f"[{low}, {high}]"
    return (
        f"{channel} channel: {comparison.verdicts[channel]['result']}\n"
        f"target \N{MINUS SIGN} {against}: {mean} nats {interval}"
    )


def _caption(comparison: Comparison, level: str) -> str:
    return (
        f"Bars: means over {comparison.questions} questions. Error bars: {100 * comparison.confidence:g} % t "
        "intervals over questions. Numbers: difference to base, paired by question, in percentage points "
        f"{'of exact probability ' if level == 'probability' else ''}(upper row) and nats (lower row). "
        f"{'Vertical scales differ between the channels. ' if len(comparison.targets) > 1 else ''}"
        "Error bars speak of exactly these children; the title's interval holds the noise between training runs."
    )
