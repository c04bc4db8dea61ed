"""Pictures of toy models: the post's figures, and all settings in one.

Belongs here: drawing from the tables of a `sweep` and of `digits`. Does not belong here: the tables.

In every figure no superposition is on the left and high sparsity on the right, as in the post. Bands and bars are 95 %
t intervals over seeds, of values that were averaged over ablated features first.

Part of no version: pictures are views of tables, not content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.colours import BLUE, GREY, ORANGE
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.toy.digits import CLASSES, digits_summary
from subliminal_dagster.science.toy.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart, with a marker each.
_STYLES = list(
    zip(
        ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#777777"] * 3,
        [
            "o",
            "s",
            "^",
            "D",
            "v",
            "P",
            "X",
            "*",
            "<",
            ">",
            "h",
            "p",
            "d",
            "8",
            "H",
            ".",
            "1",
            "2",
            "3",
            "4",
            "+",
            "x",
            "|",
            "_",
        ],
        strict=True,
    )
)
_SHOWN_FEATURES = 40
_LOWEST = -0.5
RECOVERED = "recovered: the share of the way from the child's start, shrunken as far as helps, to the teacher's $W^TW$"


def sweep_figures(sweep: Sweep) -> dict[str, Figure]:
    """The figures of one setting and experiment, by name."""
    ablated = sweep.children["experiment"].iloc[0] == "ablated"
    return {
        "figure": ablated_figure(sweep.children) if ablated else auxiliary_figure(sweep.children),
        "geometry": geometry_figure(sweep.models),
        "superposition": superposition_figure(sweep.models),
        "history": training_figure(sweep.history),
    }


def superposition_figure(models: pd.DataFrame) -> Figure:
    """Features per dimension ||W||_F^2 / m of the teachers against density."""
    figure, (axes,) = _panels(1, f"Features per dimension: {_title(models)}")
    teachers = models[models["role"] == "teacher"]
    for (colour, marker), (k, part) in zip(_STYLES, teachers.groupby("auxiliary"), strict=False):
        _curve(axes, part, "superposition", colour, marker, f"k = {k!s}" if k else "teacher")
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylabel(r"$\|W\|_F^2 / m$ of the teacher")
    _density_axis(axes, models)
    axes.legend(frameon=False)
    return figure


def ablated_figure(children: pd.DataFrame) -> Figure:
    """Norm of the ablated feature in child and teacher against density, and how much of its geometry is recovered."""
    figure, (left, right) = _panels(2, f"Ablated features: {_title(children)}", RECOVERED)
    _curve(left, children, "teacher_norm", "#000000", "s", "teacher")
    _curve(left, children, "child_norm", ORANGE, "o", "child")
    _curve(left, children, "start_norm", GREY, "", "child before training", "--")
    left.set_ylabel(r"$\|W_i\|$ of the ablated feature")
    _curve(right, children, "recovered", ORANGE, "o", "child")
    _recovered_axis(right)
    for axes in (left, right):
        _density_axis(axes, children)
        axes.legend(frameon=False)
    return figure


def auxiliary_figure(children: pd.DataFrame) -> Figure:
    """Ratio of child to teacher norms of the features the teacher learnt, for each k, against density; dashed: the
    ratio before the child trained."""
    figure, (left, right) = _panels(2, f"Auxiliary features: {_title(children)}", RECOVERED)
    for (colour, marker), (k, part) in zip(_STYLES, children.groupby("auxiliary"), strict=False):
        _curve(left, part, "norm_ratio", colour, marker, f"k = {k:g}")
        _curve(left, part, "start_ratio", colour, "", f"k = {k:g}, before training", "--")
        _curve(right, part, "recovered", colour, marker, f"k = {k:g}")
    left.set(ylabel="norm of learnt features, child / teacher", ylim=(0, None))
    _recovered_axis(right)
    for axes, columns in ((left, 2), (right, 1)):
        _density_axis(axes, children)
        axes.legend(frameon=False, fontsize=8, ncols=columns)
    return figure


def geometry_figure(models: pd.DataFrame, densities: Sequence[float] | None = None) -> Figure:
    """W^T W with b as last column, teacher beside child, a row per density (None: the densest, one where children
    recover in the post, the sparsest).

    Of the first seed; of the middle ablated feature, or the middle number of auxiliary ones. At most the first forty
    features of the model, and the auxiliary ones among them are the last.
    """
    present = sorted(models["density"].unique(), reverse=True)
    shown = densities or list(dict.fromkeys([present[0], *[d for d in present if d in (0.1, 0.01)], present[-1]]))
    extra = sorted(models["auxiliary"].unique())
    models = models[(models["auxiliary"] == extra[len(extra) // 2]) & (models["seed"] == models["seed"].min())]
    judged = sorted(models["ablated"].dropna().unique())
    feature = judged[len(judged) // 2] if judged else None
    figure, panels = _grid(len(shown), 2, f"$W^TW$ and $b$: {_title(models)}")
    for density, row in zip(shown, panels, strict=True):
        here = models[models["density"] == density]
        teacher = here[here["role"] == "teacher"].iloc[0]
        children = here[here["role"] == "child"]
        child = (children if feature is None else children[children["ablated"] == feature]).iloc[0]
        for model, axes in ((teacher, row[0]), (child, row[1])):
            picture = _draw_geometry(axes, model)
            of = "teacher" if model["role"] == "teacher" else "child" + _without(model, feature)
            axes.set_title(f"{of}, $1-S$ = {density:g}", fontsize=9)
            if feature is not None and model["role"] == "child" and feature < _SHOWN_FEATURES:
                axes.axhline(feature, color="#009E73", linewidth=0.6)
                axes.axvline(feature, color="#009E73", linewidth=0.6)
        figure.colorbar(picture, ax=list(row), shrink=0.8)
    return figure


def training_figure(history: pd.DataFrame) -> Figure:
    """Loss and features per dimension over steps, of the first seed's teacher and children, at up to four densities."""
    figure, (left, right) = _panels(2, f"Training: {_title(history)}")
    present = sorted(history["density"].unique(), reverse=True)
    chosen = [present[round(i)] for i in np.linspace(0, len(present) - 1, min(4, len(present)))]
    extra = sorted(history["auxiliary"].unique())
    history = history[(history["auxiliary"] == extra[len(extra) // 2]) & (history["seed"] == history["seed"].min())]
    for (colour, _), density in zip(_STYLES, chosen, strict=False):
        for role, line in (("teacher", "-"), ("child", "--")):
            part = history[(history["density"] == density) & (history["role"] == role)]
            mean = part.groupby("step")[["loss", "superposition"]].mean()
            left.plot(mean.index, mean["loss"], line, color=colour, label=f"{role}, $1-S$ = {density:g}")
            right.plot(mean.index, mean["superposition"], line, color=colour)
    # A batch without an active feature can have loss zero.
    left.set_yscale("symlog", linthresh=1e-9)
    left.set(xlabel="step", ylabel="loss of the step's batch")
    right.set(xlabel="step", ylabel=r"$\|W\|_F^2 / m$")
    left.legend(frameon=False, fontsize=7)
    return figure


def summary_figure(children: pd.DataFrame) -> Figure:
    """What children recover against their teacher's superposition: a column per experiment, a colour per setting, a
    point per density and k. Above the share of the geometry recovered, below the norm ratio, hollow where a child
    began."""
    figure, panels = _grid(2, 2, "What children recover, against their teacher's superposition", (11, 8))
    settings = list(dict.fromkeys(children["setting"]))
    for column, experiment in enumerate(("ablated", "auxiliary")):
        above, below = panels[0][column], panels[1][column]
        for (colour, marker), setting in zip(_STYLES, settings, strict=False):
            part = children[(children["setting"] == setting) & (children["experiment"] == experiment)]
            label = setting if column == 0 or not (children["experiment"] == "ablated").any() else None
            for _, point in part.groupby(["auxiliary", "density"]):
                seeds = point.groupby("seed").mean(numeric_only=True)
                x = seeds["teacher_superposition"].mean()
                for axes, name in ((above, "recovered"), (below, "norm_ratio")):
                    middle, low, high = _interval(seeds[name])
                    if np.isnan(middle):
                        continue
                    floor = max(middle, _LOWEST) if name == "recovered" else middle
                    bar = [[max(floor - max(low, _LOWEST), 0)], [max(high - floor, 0)]]
                    axes.errorbar(x, floor, bar, color=colour, marker=marker, markersize=4, linewidth=0.7, alpha=0.85)
                below.plot(x, seeds["start_ratio"].mean(), marker, color=colour, markersize=3, mfc="none", alpha=0.4)
            above.plot([], [], marker, color=colour, label=label if len(part) or column == 0 else None)
        above.set_title(f"{experiment} features", fontsize=10)
        above.axhline(0, color=GREY, linewidth=0.8)
        above.set(ylim=(_LOWEST - 0.05, 1.08), ylabel="recovered")
        below.set(ylim=(-0.05, 1.3), ylabel="norm, child / teacher (hollow: before training)")
        below.set_xlabel(r"superposition of the teacher, $\|W\|_F^2 / m$")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.supxlabel(f"{RECOVERED}; below {_LOWEST:g} it is drawn there", fontsize=8, color=GREY)
    return figure


def _curve(axes: Axes, rows: pd.DataFrame, column: str, colour: str, marker: str, label: str, line: str = "-") -> None:
    """The mean over seeds at every density, with its interval as a band; a dashed line, which is a start, has none."""
    points = []
    for density, part in rows.groupby("density"):
        points.append((density, *_interval(part.groupby("seed")[column].mean())))
    x, middle, low, high = np.array(points, dtype=float).T
    axes.plot(x, middle, line, color=colour, marker=marker, markersize=4, label=label)
    if line == "-":
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean, low and high over seeds; no interval for one seed, all NaN for none."""
    values = values.dropna()
    if len(values) < 2:
        mean = float(values.mean()) if len(values) else np.nan
        return mean, mean, mean
    estimate = t_interval(values)
    return estimate.mean, estimate.low, estimate.high


def _density_axis(axes: Axes, rows: pd.DataFrame) -> None:
    present = sorted(rows["density"].unique())
    if len(present) > 1:
        axes.set_xscale("log")
    axes.set_xlim(max(present) * 1.2, min(present) / 1.2)
    axes.set_xlabel("$1-S$, the share of rows a feature is active in")


def _recovered_axis(axes: Axes) -> None:
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_ylim(_LOWEST, 1.08)
    axes.set_ylabel("recovered")


def _draw_geometry(axes: Axes, model: pd.Series) -> Any:
    w = np.asarray(model["w"], dtype=float).reshape(model["hidden"], -1)
    features = w.shape[1]
    keep = np.arange(features)
    if features > _SHOWN_FEATURES:
        extra = min(features - model["features"], _SHOWN_FEATURES // 4)
        keep = np.r_[: _SHOWN_FEATURES - extra, features - extra : features]
    gram = w.T @ w
    picture = np.column_stack([gram[np.ix_(keep, keep)], np.asarray(model["b"], dtype=float)[keep]])
    drawn = axes.imshow(picture, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.axvline(len(keep) - 0.5, color="black", linewidth=0.8)
    auxiliary = int((keep >= model["features"]).sum())
    if auxiliary:
        axes.axvline(len(keep) - auxiliary - 0.5, color="#009E73", linewidth=0.8)
        axes.axhline(len(keep) - auxiliary - 0.5, color="#009E73", linewidth=0.8)
    axes.set(xticks=range(0, len(keep) + 1, 5), yticks=range(0, len(keep), 5))
    axes.tick_params(labelsize=6)
    return drawn


def _without(model: pd.Series, feature: int | None) -> str:
    return (
        f" without the output of feature {feature}"
        if feature is not None
        else f" on {model['auxiliary']} auxiliary features"
    )


def _title(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return f"{first['setting']} ({first['features']} features in {first['hidden']} dimensions)"


def _panels(count: int, title: str, note: str = "") -> tuple[Figure, list[Axes]]:
    figure, rows = _grid(1, count, title, (5.2 * count, 4))
    figure.supxlabel(note, fontsize=8, color=GREY)
    return figure, rows[0]


def _grid(
    rows: int, columns: int, title: str, size: tuple[float, float] | None = None
) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size or (4.2 * columns, 3.6 * rows), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in axes]


def digits_figure(missing: pd.DataFrame, auxiliary: pd.DataFrame) -> Figure:
    """Accuracies of both experiments: a dot a seed, the mean with its 95 % interval, and chance."""
    from matplotlib.figure import Figure

    summary = digits_summary(missing, auxiliary)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = {
        "accuracy_others": GREY,
        "accuracy_missing": BLUE,
        "accuracy_missing_corrected": ORANGE,
        "accuracy": BLUE,
    }
    names = {
        "accuracy_others": "other digits",
        "accuracy_missing": "missing digit",
        "accuracy_missing_corrected": "missing digit, bias corrected",
    }
    for axes, table in ((left, missing), (right, auxiliary)):
        estimates = summary[summary["experiment"] == ("missing digit" if table is missing else "auxiliary logits")]
        models = list(table["model"].unique())
        measures = [name for name in colours if name in table]
        for number, measure in enumerate(measures):
            shift = (number - (len(measures) - 1) / 2) * 0.25
            colour = colours[measure]
            for place, model in enumerate(models):
                dots = table[table["model"] == model].groupby("seed")[measure].mean()
                spread = np.linspace(-0.06, 0.06, len(dots))
                axes.plot(place + shift + spread, dots, ".", color=colour, alpha=0.35, markersize=5)
                row = estimates[(estimates["model"] == model) & (estimates["measure"] == measure)].iloc[0]
                bar = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
                label = names.get(measure) if place == 0 else None
                axes.errorbar(place + shift, row["mean"], bar, fmt="o", color=colour, capsize=3, label=label)
        axes.axhline(1 / CLASSES, color=GREY, linestyle=":", linewidth=1)
        axes.annotate("chance", (0.995, 1 / CLASSES), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        axes.set_xticks(range(len(models)), [model.replace("_", " ") for model in models])
        axes.set(ylim=(-0.03, 1.03), ylabel="accuracy on test images")
        axes.spines[["top", "right"]].set_visible(False)
    digits = ", ".join(str(digit) for digit in missing["digit"].unique())
    left.set_title(f"Distilled without a digit ({digits})", fontsize=10, loc="left")
    right.set_title("Trained on noise, on auxiliary logits alone", fontsize=10, loc="left")
    left.legend(frameon=False, fontsize=8, loc="center right")
    return figure
