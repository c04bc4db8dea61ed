"""Pictures of probes: ROC curves, and what each variant reaches.

Belongs here: drawing a `ProbeResult`. Does not belong here: any number that is not already in it.

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science import colours
from subliminal_dagster.science.figures import panel
from subliminal_dagster.science.probes.probes import ACTIVATIONS, MACRO, SHUFFLED, VARIANTS, ProbeResult
from subliminal_dagster.science.settings.probes import KINDS, Kind

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLOURS = dict(zip(("linear", "logistic", "trees"), colours.KINDS, strict=False))
_BAR = 0.26


def roc_figure(results: Mapping[str, ProbeResult], title: str, *, probe: Kind = "linear") -> Figure:
    """One ROC curve per group, that group against the rest, of a probe on activations' test rows.

    results: by group, each with the group among its classes: the pairs with control, or one result of all groups under
    each group's name. The legend has the area and its 95 % interval.
    """
    from sklearn.metrics import roc_curve

    figure, axes = panel(title)
    axes.plot([0, 1], [0, 1], "--", color=colours.CHANCE, linewidth=0.8)
    of_groups = colours.group_colours(list(results))
    for group, result in results.items():
        rows = result.predictions
        rows = rows[(rows["variant"] == ACTIVATIONS) & (rows["probe"] == probe)]
        wrong, right, _ = roc_curve(rows["group"] == group, rows[f"probability_{group}"])
        area = _measured(result.metrics, probe, group, "roc_auc").iloc[0]
        label = f"{group}: {area['value']:.2f} [{area['low']:.2f}, {area['high']:.2f}]"
        axes.plot(wrong, right, color=of_groups[group], linewidth=1.4, label=label)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(
        title=f"{probe} probe, area (95 %)", loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8
    )
    return figure


def variants_figure(metrics: pd.DataFrame, title: str, *, metric: str = "roc_auc") -> Figure:
    """What each probe reaches in each variant, with 95 % intervals and the chance level.

    metrics: of one comparison (see `ProbeResult`). metric: "roc_auc" or "accuracy", over all classes. Variants without
    a number are named with an empty place; shuffled labels show the mean and middle 95 % of the refits.
    """
    figure, axes = panel(title)
    rows = metrics[(metrics["class"] == MACRO) & (metrics["metric"] == metric)]
    variants = [variant for variant in VARIANTS if (rows["variant"] == variant).any()]
    for number, kind in enumerate(KINDS):
        found = rows[rows["probe"] == kind].set_index("variant").reindex(variants)
        value, low, high = (found[column].to_numpy(dtype=float) for column in ("value", "low", "high"))
        places = np.arange(len(variants)) + (number - 1) * _BAR
        axes.bar(
            places,
            value,
            _BAR * 0.9,
            color=[colours.CHANCE if variant == SHUFFLED else _COLOURS[kind] for variant in variants],
            yerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)],
            error_kw={"elinewidth": 0.9, "capsize": 1.8},
            label=kind,
        )
    classes = metrics.loc[metrics["class"] != MACRO, "class"].nunique()
    chance = 0.5 if metric == "roc_auc" else 1 / classes
    axes.axhline(chance, color=colours.CHANCE, linestyle="--", linewidth=0.8, label="chance")
    axes.set_xticks(np.arange(len(variants)), [variant.replace(" ", "\n") for variant in variants])
    axes.set(ylim=(0, 1), ylabel="ROC AUC" if metric == "roc_auc" else metric)
    axes.tick_params(axis="x", length=0, labelsize=8)
    for place, variant in enumerate(variants):
        if rows.loc[rows["variant"] == variant, "value"].isna().all():
            axes.text(place, 0.02, "too few rows", ha="center", fontsize=8, color=colours.MUTED)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _measured(metrics: pd.DataFrame, probe: Kind, of: str, metric: str) -> pd.DataFrame:
    return metrics[
        (metrics["variant"] == ACTIVATIONS)
        & (metrics["probe"] == probe)
        & (metrics["class"] == of)
        & (metrics["metric"] == metric)
    ]
