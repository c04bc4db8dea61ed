"""The effect against superposition over all studies: the dial's cells and the layers of language models.

Superposition is not one figure. In the dial it is features over the sum of their dimensionalities, of features that are
known; in a language model it is the features of an autoencoder that fire on text over the dimensions that its
activations use (`interference.superposition`), and depends on the autoencoder. So each kind is drawn by itself, and no
line is laid through both.

Belongs here: one table and its picture. Does not belong here: reading artifacts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.colours import GUIDE
from subliminal_dagster.science.dial.curve import MAIN_PLACE
from subliminal_dagster.science.dial.grid import KEYS
from subliminal_dagster.science.statistics import t_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MEASURED_AS = {"dial": "known features per dimension", "language model": "used features per effective dimension"}
COLUMNS = ["study", "kind", "where", "measured_as", "superposition", "gamma", "low", "high"]


def dial_rows(study: str, effects: pd.DataFrame) -> pd.DataFrame:
    """A row per cell of a dial study (`COLUMNS`) from its `effects`: means over seeds, with t intervals of gamma."""
    import pandas as pd

    rows = []
    for (grid, width, density), part in effects.dropna(subset=["gamma"]).groupby(KEYS, sort=False):
        mean, low, high = float(part["gamma"].mean()), np.nan, np.nan
        if len(part) > 1:
            found = t_interval(part["gamma"])
            low, high = found.low, found.high
        where = f"{grid}, width {width}, density {density:g}"
        held = float(part[f"features_{MAIN_PLACE}"].mean())
        rows.append((study, "dial", where, MEASURED_AS["dial"], held, mean, low, high))
    return pd.DataFrame(rows, columns=COLUMNS)


def model_rows(study: str, by_layer: Mapping[str, float], gamma: pd.DataFrame) -> pd.DataFrame:
    """A row per layer and channel of a study of a language model: `by_layer` has used features per effective dimension;
    `gamma`: `channel`, `mean`, `low`, `high`, a row per channel. All layers have the study's one gamma."""
    import pandas as pd

    rows = [
        (
            study,
            "language model",
            f"layer {int(layer)}, {found.channel}",
            MEASURED_AS["language model"],
            held,
            found.mean,
            found.low,
            found.high,
        )
        for layer, held in by_layer.items()
        for found in gamma.itertuples(index=False)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def dose_figure(rows: pd.DataFrame) -> Figure:
    """Gamma against superposition, a panel for each way of measuring it."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (kind, measure) in zip(panels, MEASURED_AS.items(), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.axhline(0, color=GUIDE, linewidth=0.8)
        axes.set_title(kind, fontsize=10, loc="left")
        axes.set(xlabel=measure)
        part = rows[rows["kind"] == kind]
        for place, (study, of_study) in enumerate(part.groupby("study", sort=False)):
            errors = np.abs([of_study["gamma"] - of_study["low"], of_study["high"] - of_study["gamma"]])
            shade = str(min(0.7, 0.15 + 0.2 * place))
            axes.errorbar(
                of_study["superposition"],
                of_study["gamma"],
                yerr=np.nan_to_num(errors.astype(float)),
                fmt="o",
                markersize=4,
                linewidth=0.8,
                color=shade,
                label=str(study),
            )
        if len(part):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.legend(frameon=False, fontsize=8)
        else:
            axes.text(0.5, 0.5, "none measured yet", transform=axes.transAxes, ha="center")
    panels[0].set(ylabel="gamma (nats)")
    return figure
