"""Charts and tables of the sections on toy models, and the estimates they share.

Belongs here: means over seeds with their intervals, drawing and tabling them. Does not belong here: what is said of
them (`toy`); the measures and statements (`science.toy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report.charts import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from subliminal_dagster.science.report.evidence import Chart, Table
from subliminal_dagster.science.report.tables import columns, records, rows_where
from subliminal_dagster.science.report.wording import listed
from subliminal_dagster.science.settings.toy import AutoencoderSettings, ToyStudy
from subliminal_dagster.science.statistics import Estimate, t_interval
from subliminal_dagster.science.toy.statements import per_seed

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

EXPERIMENTS = ("ablated", "auxiliary")
_LINES = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY)
_BANDS = "Bands are 95 % intervals over seeds."
_CELL = ["setting", "experiment", "auxiliary", "density"]
_MEASURES = ("recovered", "norm_ratio", "start_ratio", "teacher_norm", "child_norm", "start_norm")
_LARGEST_SHOWN = 40
_LOWEST = -0.5
_NAMES = {
    "accuracy_others": "other digits",
    "accuracy_missing": "missing digit",
    "accuracy_missing_corrected": "missing digit, bias corrected",
    "accuracy": "accuracy",
}
_MODELS = {
    "teacher": "teacher",
    "same_init": "child, same start",
    "other_init": "child, other start",
    "hard_labels": "child, hard labels",
    "untrained": "untrained",
}


def cells(children: pd.DataFrame) -> pd.DataFrame:
    """A row a `setting`, `experiment`, `auxiliary` (k) and `density` in which a teacher learnt what is judged.

    `superposition` is the teachers' mean; every measure of `sweep.Sweep.children` is a mean over `seeds`, after
    averaging over ablated features, with the ends `<measure>_low` and `<measure>_high` of its 95 % t interval (NaN for
    one seed).
    """
    import pandas as pd

    rows = []
    for (setting, experiment, k, density), part in children.groupby(_CELL, sort=False):
        place = (str(setting), str(experiment), cast("float", density))
        values = {name: per_seed(part, *place, name, cast("int", k)) for name in _MEASURES}
        # Norms are known where nothing was learnt too; how many seeds count is what can be judged.
        row: dict[str, Any] = dict(zip(_CELL, (setting, experiment, k, density), strict=True))
        row |= {"superposition": part["teacher_superposition"].mean(), "seeds": len(values["recovered"])}
        for name, of_seeds in values.items():
            found = estimate(of_seeds)
            row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    order = {setting: place for place, setting in enumerate(children["setting"].unique())}
    return pd.DataFrame(rows).sort_values(
        _CELL, key=lambda keys: keys.map(order) if keys.name == "setting" else keys, ascending=[True, True, True, False]
    )


def estimate(values: pd.Series) -> Estimate:
    """Mean and t interval; no interval for one seed, NaN for none."""
    if len(values) < 2:
        return Estimate(float(values.mean()), np.nan, np.nan, np.nan)
    return t_interval(values.to_numpy())


def best(found: pd.DataFrame) -> pd.Series:
    """The cell with the largest share recovered; one that cannot be measured only where none can."""
    return found.sort_values("recovered", kind="stable", na_position="first").iloc[-1]


def most_recovered(found: pd.DataFrame) -> pd.DataFrame:
    """The cell of each setting and experiment in which most is recovered, settings in their order; one without an
    interval only where none has one."""
    known = found.dropna(subset="recovered")
    order = known.assign(sure=known["recovered_low"].notna()).sort_values(["sure", "recovered"], kind="stable")
    most = order.groupby(["experiment", "setting"], sort=False).tail(1)
    return known[known.index.isin(most.index)]


def spoken(setting: str) -> str:
    return setting.replace("_", " ")


# Charts


def superposition_chart(teachers: pd.DataFrame) -> Chart:
    """Features per dimension against density. `teachers`: `density`, `mean`, `low`, `high`, the densest first."""
    figure = _density_figure("features per dimension")
    _line(figure, teachers, "teacher", VERMILION)
    figure.update_traces(showlegend=False).update_yaxes(rangemode="tozero")
    figure.add_hline(y=1, line={"dash": "dot", "color": GREY})
    first, last = teachers.iloc[0], teachers.iloc[-1]
    ends = f"{first['mean']:.2f} at 1-S = {first['density']:g}, {last['mean']:.2f} at {last['density']:g}"
    alt = f"{ends}. Dotted: one feature a dimension, no superposition. The band is a 95 % interval over seeds."
    return Chart("toy-growth", "Features that the teacher represents per dimension, against density.", figure, alt)


def _density_figure(y: str) -> Figure:
    """An empty figure against density, dense (no superposition) left and sparse right as in the post."""
    figure = charts.legend_above_titles(charts.panels([""], height=350, between=0)).update_layout(margin_b=20)
    figure.update_xaxes(type="log", autorange="reversed", dtick=1, exponentformat="none")
    return figure.update_xaxes(title="density 1-S (share of active rows)").update_yaxes(title=y)


def _line(figure: Figure, rows: pd.DataFrame, name: str, colour: str, dash: str = "solid") -> None:
    """`mean`, `low` and `high` against density."""
    charts.band_line(figure, rows.assign(x=rows["density"]), name=name, colour=colour, dash=dash, at="density")


def _measure_line(
    figure: Figure, rows: pd.DataFrame, measure: str, name: str, colour: str, dash: str = "solid"
) -> None:
    """One measure of `cells` against density."""
    renamed = rows.rename(columns={measure: "mean", f"{measure}_low": "low", f"{measure}_high": "high"})
    _line(figure, renamed.dropna(subset="mean"), name, colour, dash)


def ablated_charts(found: pd.DataFrame, without: pd.DataFrame | None) -> list[Chart]:
    """Norms of the ablated feature, and what of its geometry is recovered.

    found: `cells` of the children. without: of those whose input lacks the feature, where there are any.
    """
    norm = _density_figure("norm of the ablated feature").update_yaxes(rangemode="tozero")
    _measure_line(norm, found, "teacher_norm", "teacher", BLUE)
    _measure_line(norm, found, "child_norm", "child", VERMILION)
    _measure_line(norm, found, "start_norm", "child before training", GREY, "dash")
    recovered = _density_figure("share recovered")
    _measure_line(recovered, found, "recovered", "child", VERMILION)
    if without is not None:
        _measure_line(
            recovered, rows_where(without, experiment="ablated"), "recovered", "input without it", BLUE, "dot"
        )
    recovered.update_traces(showlegend=without is not None)
    known = found.dropna(subset="recovered")
    at = (known["density"].max(), best(known)["density"], known["density"].min())
    shown = records(known[known["density"].isin(at)])
    norms = [f"{row['child_norm']:.2f} of {row['teacher_norm']:.2f} at {row['density']:g}" for row in shown]
    shares = [f"{_two(row['recovered'])} at {row['density']:g}" for row in shown]
    if without is not None:
        most = best(rows_where(without, experiment="ablated"))
        shares.append(f"with the feature zero in the child's input at most {_two(most['recovered'])}")
    return [
        Chart(
            "toy-ablated-norm",
            "Norm of the feature that is left out of the child's loss.",
            norm,
            f"Child's norm and teacher's: {', '.join(norms)}. {_BANDS}",
        ),
        Chart(
            "toy-ablated-recovered",
            "Share of the way to the ablated feature's row of the teacher's W^T W.",
            recovered,
            f"Recovered: {', '.join(shares)}. {_BANDS}",
        ),
    ]


def auxiliary_charts(found: pd.DataFrame) -> list[Chart]:
    """Child's norms over teacher's for every k, and what of the geometry is recovered."""
    ratio, recovered = _density_figure("norm, child / teacher"), _density_figure("share recovered")
    ratios, shares = [], []
    for (k, rows), colour in zip(found.groupby("auxiliary"), _LINES, strict=False):
        _measure_line(ratio, rows, "norm_ratio", f"k = {k}", colour)
        _measure_line(recovered, rows, "recovered", f"k = {k}", colour)
        for sparsest in records(rows.dropna(subset="norm_ratio").tail(1)):
            ratios.append(f"k = {k} {sparsest['norm_ratio']:.2f} (before training {sparsest['start_ratio']:.2f})")
            shares.append(f"k = {k} {_two(sparsest['recovered'])}")
    start = found.groupby("density", sort=False)["start_ratio"].mean().dropna().reset_index(name="mean")
    _line(ratio, start.assign(low=start["mean"], high=start["mean"]), "before training", GREY, "dash")
    ratio.update_yaxes(rangemode="tozero")
    sparse = f"{found.dropna(subset='norm_ratio')['density'].min():g}"
    return [
        Chart(
            "toy-auxiliary-ratio",
            "Norms of the features the teacher learnt, in a child trained on auxiliary ones alone.",
            ratio,
            f"At 1-S = {sparse}: {', '.join(ratios)}. {_BANDS}",
        ),
        Chart(
            "toy-auxiliary-recovered",
            "Share of the way to the learnt features' rows of the teacher's W^T W.",
            recovered,
            f"At 1-S = {sparse}: {', '.join(shares)}. {_BANDS}",
        ),
    ]


def geometry_chart(models: pd.DataFrame, found: pd.DataFrame, name: str) -> Chart:
    """W^T W with b as last column, teacher beside child, of the first seed, at the densest setting, where children
    recover most, and the sparsest; of the middle ablated feature or the middle k, as in the post.

    models: `sweep.Sweep.models` of one experiment, at most 40 features. found: `cells` of it.
    """
    k = _middle(models["auxiliary"].unique())
    judged = models["ablated"].dropna().unique()
    feature = int(_middle(judged)) if len(judged) else None
    models = rows_where(models, auxiliary=k, seed=models["seed"].min())
    found = rows_where(found, auxiliary=k)
    shown = list(dict.fromkeys([models["density"].max(), best(found)["density"], models["density"].min()]))
    titles = [f"{role}, 1-S = {density:g}" for density in shown for role in ("teacher", "child")]
    height = 230 * len(shown) + 90
    figure = charts.panels(titles, height=height, between=50, columns=2, shared=False, size=12, horizontal_spacing=0.06)
    for row, density in enumerate(shown, 1):
        here = rows_where(models, density=density)
        children = rows_where(here, role="child")
        child = children if feature is None else children[children["ablated"] == feature]
        _geometry(figure, rows_where(here, role="teacher").iloc[0], row, 1, feature)
        _geometry(figure, child.iloc[0], row, 2, feature)
    figure.update_xaxes(showgrid=False, zeroline=False).update_yaxes(showgrid=False, zeroline=False)
    figure.update_layout(coloraxis=charts.SHADES, margin={"t": 36, "b": 60})
    what = f"feature {feature} was left out of the child's loss" if feature is not None else f"k = {k}, behind the line"
    shares = records(found[found["density"].isin(shown)])
    recovered = [f"{_two(row['recovered'])} at 1-S = {row['density']:g}" for row in shares]
    alt = f"First seed; {what}. Recovered, mean over seeds: {', '.join(recovered)}."
    return Chart(name, "W^T W of teacher and child; last column: the bias.", figure, alt)


def _middle(values: Any) -> Any:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _geometry(figure: Figure, model: pd.Series, row: int, col: int, feature: int | None) -> None:
    w = np.asarray(model["w"], dtype=float).reshape(model["hidden"], -1)
    features = w.shape[1]
    shown = np.arange(features)[:_LARGEST_SHOWN]
    gram = (w.T @ w)[np.ix_(shown, shown)]
    gap = np.full((len(shown), 1), np.nan)
    labels = [*(f"feature {number}" for number in shown), "", "bias"]
    figure.add_heatmap(
        z=np.hstack([gram, gap, np.asarray(model["b"], dtype=float)[shown, None]]),
        customdata=np.tile(labels, (len(shown), 1)),
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate="feature %{y}, %{customdata}<br>%{z:.3f}<extra></extra>",
        row=row,
        col=col,
    )
    ticks = [] if feature is None else [feature]
    figure.update_yaxes(autorange="reversed", tickvals=ticks, constrain="domain", row=row, col=col)
    axis = next(figure.select_yaxes(row=row, col=col)).anchor
    figure.update_yaxes(scaleanchor=axis, row=row, col=col)
    figure.update_xaxes(tickvals=ticks, constrain="domain", row=row, col=col)
    if model["features"] < features:
        edge = model["features"] - 0.5
        for start, end in (((edge, -0.5), (edge, len(shown) - 0.5)), ((-0.5, edge), (len(shown) - 0.5, edge))):
            figure.add_shape(
                type="line", x0=start[0], y0=start[1], x1=end[0], y1=end[1], line={"color": GREEN, "width": 1.5},
                row=row, col=col,
            )  # fmt: skip


def recovery_chart(found: pd.DataFrame, study: ToyStudy, experiment: str) -> Chart:
    """Share recovered against the teacher's superposition, a point per setting, k and density."""
    rows = rows_where(found, experiment=experiment).dropna(subset="recovered")
    kinds = rows["setting"].map(lambda setting: _kind(study, setting))
    rows = rows.assign(setting=rows["setting"].map(spoken))
    figure = charts.new_figure(x="the teacher's features per dimension", y="share recovered", height=400)
    for kind, colour, symbol in (
        ("the post's setting", VERMILION, "circle"),
        ("nothing predicted", BLUE, "square"),
        ("other settings", ORANGE, "diamond"),
        ("larger models", GREEN, "triangle-up"),
    ):
        part = rows[kinds == kind]
        if len(part):
            figure.add_scatter(
                x=part["superposition"], y=part["recovered"].clip(lower=_LOWEST), name=kind, mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9, "opacity": 0.85},
                customdata=part[["setting", "density", "auxiliary", "recovered", "recovered_low", "recovered_high"]],
                hovertemplate="%{customdata[0]}, 1-S = %{customdata[1]:g}, k = %{customdata[2]}<br>recovered "
                "%{customdata[3]:.3f} [%{customdata[4]:.3f}, %{customdata[5]:.3f}], %{x:.2f} features a dimension"
                "<extra></extra>",
            )  # fmt: skip
    figure.add_vline(x=1, line={"dash": "dot", "color": GREY})
    highest = "No point: no share could be measured."
    if len(rows):
        top = best(rows)
        highest = (
            f"{len(rows)} points; the highest is {top['setting']} with {top['recovered']:.2f} at "
            f"{top['superposition']:.2f} features a dimension."
        )
    alt = (
        f"{highest} Dotted: one feature a dimension. Negative: farther from the teacher than a shrunken start (below "
        f"{_LOWEST:g} drawn there)."
    )
    title = f"What children recover against the teacher's superposition: {experiment} features."
    return Chart(f"toy-superposition-{experiment}", title, figure, alt)


def _kind(study: ToyStudy, setting: str) -> str:
    if setting == study.post:
        return "the post's setting"
    own = study.settings[setting]
    if own.predicts == "nothing":
        return "nothing predicted"
    return "larger models" if own.features > study.settings[study.post].features else "other settings"


def settings_chart(found: pd.DataFrame, post: str) -> Chart:
    """The most that children of each setting recover, a panel an experiment."""
    most = most_recovered(found)
    shown = [experiment for experiment in EXPERIMENTS if (found["experiment"] == experiment).any()]
    room = 40 + 26 * most.groupby("experiment").size().max()
    height = len(shown) * (room + 36) + 70
    figure = charts.panels([f"{experiment} features" for experiment in shown], height=height, between=40)
    said = []
    for row, experiment in enumerate(shown, 1):
        part = rows_where(most, experiment=experiment)
        names = part["setting"].map(spoken)
        figure.add_bar(
            x=part["recovered"], y=names, orientation="h", showlegend=False, row=row, col=1,
            marker_color=np.where(part["setting"] == post, VERMILION, BLUE),
            error_x=charts.interval(part, "recovered", "recovered_low", "recovered_high"),
            customdata=part[["recovered_low", "recovered_high", "density", "auxiliary", "superposition"]],
            hovertemplate="%{y}<br>%{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<br>1-S = %{customdata[2]:g}, "
            "k = %{customdata[3]}, %{customdata[4]:.2f} features a dimension<extra></extra>",
        )  # fmt: skip
        each = [f"{name} {_two(value)}" for name, value in zip(names, part["recovered"], strict=True)]
        said.append(f"{experiment}: {', '.join(each)}")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title="largest share recovered", row=len(shown))
    figure.update_layout(margin_t=36, margin_b=20)
    title = "The most that children recover, by setting."
    alt = f"Share recovered, {'; '.join(said)}. Red: the post's setting. Thin bars are 95 % intervals over seeds."
    return Chart("toy-controls", title, figure, alt)


def sizes_chart(found: pd.DataFrame, experiment: str) -> Chart:
    """Share recovered against density, a line per setting."""
    rows = rows_where(found, experiment=experiment).dropna(subset="recovered")
    figure = _density_figure("share recovered")
    said = []
    for (setting, part), colour in zip(rows.groupby("setting", sort=False), _LINES, strict=False):
        _measure_line(figure, part, "recovered", spoken(str(setting)), colour)
        said.append(f"{spoken(str(setting))} {part['recovered'].max():.2f}")
    title = f"Share recovered in larger models, against density: {experiment} features."
    return Chart(f"toy-sizes-{experiment}", title, figure, f"The most recovered: {', '.join(said)}. {_BANDS}")


def digits_charts(summary: pd.DataFrame, missing: Sequence[int]) -> list[Chart]:
    """Accuracies of both experiments on digits. `summary`: `digits.digits_summary`."""
    from plotly.graph_objects import Figure

    found = []
    for experiment, title in (
        ("missing digit", f"Accuracy on test images after distillation without {listed([str(d) for d in missing])}."),
        ("auxiliary logits", "Accuracy on test images after training on noise, on auxiliary logits alone."),
    ):
        rows = rows_where(summary, experiment=experiment)
        rows = rows.assign(what=rows["model"].map(_MODELS).str.replace(", ", ",<br>"))
        figure = charts.styled(Figure(), height=360).update_yaxes(title="accuracy", range=[0, 1.05])
        measures = [measure for measure in _NAMES if (rows["measure"] == measure).any()]
        for measure, colour in zip(measures, (GREY, BLUE, VERMILION) if len(measures) > 1 else (BLUE,), strict=True):
            part, name = rows_where(rows, measure=measure), _NAMES[measure]
            charts.bars(figure, part, x="what", value="mean", low="low", high="high", name=name, colour=colour)
        figure.add_hline(y=0.1, line={"dash": "dot", "color": GREY})
        figure.update_traces(showlegend=len(measures) > 1).update_xaxes(tickangle=0)
        last = records(rows_where(rows, measure=measures[-1]))
        said = "; ".join(f"{_MODELS[row['model']]} {row['mean']:.2f}" for row in last)
        alt = f"{_NAMES[measures[-1]].capitalize()}: {said}. Dotted: chance."
        found.append(Chart(f"toy-digits-{experiment.split()[0]}", title, figure, alt))
    return found


def _two(value: float) -> str:
    """Two decimals; adding zero makes -0.0, which would be written with its sign, a plain zero."""
    return f"{round(value, 2) + 0.0:.2f}"


# Tables


def digits_table(summary: pd.DataFrame) -> Table:
    """All accuracies. `summary`: `digits.digits_summary`."""
    frame = columns(
        summary,
        {
            "experiment": "experiment",
            "model": lambda rows: rows["model"].map(_MODELS),
            "test images of": lambda rows: rows["measure"].map(_NAMES).replace("accuracy", "all digits"),
            "accuracy": "mean",
            "low": "low",
            "high": "high",
        },
    )
    note = "Bias corrected: raised until the digit is predicted for a tenth of the training images, without labels."
    return Table("toy-digits", "Accuracies", frame, note)


def cells_table(found: pd.DataFrame, name: str, title: str) -> Table:
    """All cells, as they are read, without the columns that say the same of all."""
    shown = {
        "setting": "setting",
        "experiment": "features",
        "auxiliary": "k",
        "density": "1-S",
        "superposition": "features per dimension",
        "norm_ratio": "norm, child / teacher",
        "norm_ratio_low": "ratio, low",
        "norm_ratio_high": "ratio, high",
        "start_ratio": "ratio before training",
        "recovered": "recovered",
        "recovered_low": "recovered, low",
        "recovered_high": "recovered, high",
        "seeds": "seeds",
    }
    frame = found.assign(setting=found["setting"].map(spoken))[list(shown)].rename(columns=shown)
    for column in ("setting", "features"):
        if frame[column].nunique() == 1:
            frame = frame.drop(columns=column)
    if not frame["k"].any():
        frame = frame.drop(columns="k")
    note = (
        "Features per dimension: the teacher's. Recovered: the share of the way from the child's start, shrunken as "
        "far as brings it nearest, to the rows of the teacher's W^T W that belong to features whose outputs the child "
        "was not trained on. Seeds: those whose teacher learnt what is judged."
    )
    return Table(name, title, frame, note)


def settings_table(study: ToyStudy, names: Sequence[str], name: str) -> Table:
    """What each setting differs in from the post's."""
    import pandas as pd

    post = study.settings[study.post]
    rows = [
        {
            "setting": spoken(setting),
            "features": (own := study.settings[setting]).features,
            "dimensions": own.hidden,
            "differs from the post's in": _differences(own, post),
            "predicted": own.predicts,
        }
        for setting in names
    ]
    return Table(name, "The settings", pd.DataFrame(rows))


def _differences(own: AutoencoderSettings, post: AutoencoderSettings) -> str:
    unsaid = {"features", "hidden", "densities", "ablated", "auxiliary", "predicts", "seeds", "training"}
    named = [
        f"{field.replace('_', ' ')}: {value if not isinstance(value, bool) else 'yes' if value else 'no'}"
        for field, value in own.model_dump(exclude=unsaid).items()
        if value != getattr(post, field)
    ]
    sizes = [name for name in ("features", "hidden") if getattr(own, name) != getattr(post, name)]
    shorter = [f"{own.training.steps:,} steps"] if own.training.steps != post.training.steps else []
    return ", ".join([*(f"{name.replace('hidden', 'dimensions')}" for name in sizes), *named, *shorter])
