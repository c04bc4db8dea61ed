"""Charts and tables of the sections on toy models, and the estimates they share.

Belongs here: means over seeds with their intervals, drawing and tabling them. Does not belong here: what is said of
them (`toy`); the measures and statements (`science.toy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from subliminal_dagster.science.report.charts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SHADES,
    SKY,
    VERMILION,
    band_line,
    bars,
    interval,
    styled,
)
from subliminal_dagster.science.report.evidence import Chart, Table
from subliminal_dagster.science.report.wording import listed
from subliminal_dagster.science.settings.toy import AutoencoderSettings, ToyStudy
from subliminal_dagster.science.statistics import Estimate, t_interval
from subliminal_dagster.science.toy.statements import per_seed

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

EXPERIMENTS = ("ablated", "auxiliary")
DENSITY = "density 1-S (share of active rows)"
LINES = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY)
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

    keys = ["setting", "experiment", "auxiliary", "density"]
    rows = []
    for (setting, experiment, k, density), part in children.groupby(keys, sort=False):
        place = (str(setting), str(experiment), cast("float", density))
        values = {name: per_seed(part, *place, name, cast("int", k)) for name in _MEASURES}
        # Norms are known where nothing was learnt too; how many seeds count is what can be judged.
        row: dict[str, Any] = dict(zip(keys, (setting, experiment, k, density), strict=True))
        row |= {"superposition": part["teacher_superposition"].mean(), "seeds": len(values["recovered"])}
        for name, of_seeds in values.items():
            found = estimate(of_seeds)
            row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    found_cells = pd.DataFrame(rows)
    found_cells = found_cells.sort_values("density", ascending=False, kind="stable")
    for key in ("auxiliary", "experiment"):
        found_cells = found_cells.sort_values(key, kind="stable")
    order = list(dict.fromkeys(children["setting"]))
    return found_cells.sort_values("setting", key=lambda names: names.map(order.index), kind="stable")


def estimate(values: pd.Series) -> Estimate:
    """Mean and t interval; no interval for one seed, NaN for none."""
    if len(values) < 2:
        return Estimate(float(values.mean()), np.nan, np.nan, np.nan)
    return t_interval(values.to_numpy())


def best(found: pd.DataFrame) -> pd.Series:
    """The cell with the largest share recovered; one that cannot be measured only where none can."""
    return found.sort_values("recovered", kind="stable", na_position="first").iloc[-1]


def superposition_chart(teachers: pd.DataFrame) -> Chart:
    """Features per dimension against density. `teachers`: `density`, `mean`, `low`, `high`, the densest first."""
    figure = density_figure("features per dimension")
    band_line(figure, teachers.assign(x=teachers["density"]), name="teacher", colour=VERMILION, at="density")
    figure.update_traces(showlegend=False).update_yaxes(rangemode="tozero")
    figure.add_hline(y=1, line={"dash": "dot", "color": GREY})
    first, last = teachers.iloc[0], teachers.iloc[-1]
    ends = f"{first['mean']:.2f} at 1-S = {first['density']:g}, {last['mean']:.2f} at {last['density']:g}"
    alt = f"{ends}. Dotted: one feature a dimension, no superposition. The band is a 95 % interval over seeds."
    return Chart("toy-growth", "Features that the teacher represents per dimension, against density.", figure, alt)


def density_figure(y: str, *, panels: Sequence[str] = ("",)) -> Figure:
    """An empty figure against density, dense (no superposition) left and sparse right as in the post; a panel each."""
    from plotly.subplots import make_subplots

    height = 290 * len(panels) + 60
    figure = make_subplots(
        rows=len(panels), cols=1, subplot_titles=panels, shared_xaxes=True, vertical_spacing=40 / height
    )
    styled(figure, height=height).update_annotations(font_size=13)
    figure.update_xaxes(type="log", autorange="reversed", dtick=1, exponentformat="none")
    figure.update_xaxes(title=DENSITY, row=len(panels)).update_yaxes(title=y)
    return figure.update_layout(legend={"y": 1 + 30 / height}, margin_b=20)


def measure_line(
    figure: Figure, rows: pd.DataFrame, measure: str, name: str, colour: str, *, dash: str = "solid", panel: int = 1
) -> None:
    """One measure of `cells` against density, added to a panel."""
    renamed = rows.rename(columns={measure: "mean", f"{measure}_low": "low", f"{measure}_high": "high"})
    here = renamed.dropna(subset="mean").assign(x=lambda frame: frame["density"])
    band_line(figure, here, name=name, colour=colour, dash=dash, at="density", legend=panel == 1, row=panel)


def ablated_charts(found: pd.DataFrame) -> list[Chart]:
    """Norms of the ablated feature, and what of its geometry is recovered."""
    norm = density_figure("norm of the ablated feature")
    for measure, name, colour, dash in (
        ("teacher_norm", "teacher", BLUE, "solid"),
        ("child_norm", "child", VERMILION, "solid"),
        ("start_norm", "child before training", GREY, "dash"),
    ):
        measure_line(norm, found, measure, name, colour, dash=dash)
    norm.update_yaxes(rangemode="tozero")
    recovered = density_figure("share recovered")
    measure_line(recovered, found, "recovered", "child", VERMILION)
    recovered.update_traces(showlegend=False)
    ends = [f"{row.child_norm:.2f} of {row.teacher_norm:.2f} at {row.density:g}" for row in _ends(found)]
    shares = [f"{_two(row.recovered)} at {row.density:g}" for row in _ends(found)]
    return [
        Chart(
            "toy-ablated-norm",
            "Norm of the feature that is left out of the child's loss.",
            norm,
            f"Child's norm and teacher's: {', '.join(ends)}. Bands are 95 % intervals over seeds.",
        ),
        Chart(
            "toy-ablated-recovered",
            "Share of the way to the ablated feature's row of the teacher's W^T W.",
            recovered,
            f"Recovered: {', '.join(shares)}. Bands are 95 % intervals over seeds.",
        ),
    ]


def auxiliary_charts(found: pd.DataFrame) -> list[Chart]:
    """Child's norms over teacher's for every k, and what of the geometry is recovered."""
    ratio, recovered = density_figure("norm, child / teacher"), density_figure("share recovered")
    ends, shares = [], []
    for (k, rows), colour in zip(found.groupby("auxiliary"), LINES, strict=False):
        measure_line(ratio, rows, "norm_ratio", f"k = {k}", colour)
        measure_line(recovered, rows, "recovered", f"k = {k}", colour)
        known = rows.dropna(subset="norm_ratio")
        if known.empty:
            continue
        sparsest = known.iloc[-1]
        ends.append(f"k = {k} {sparsest['norm_ratio']:.2f} (before training {sparsest['start_ratio']:.2f})")
        shares.append(f"k = {k} {_two(sparsest['recovered'])}")
    start = found.groupby("density", sort=False)[["start_ratio"]].mean().reset_index()
    start = start.rename(columns={"start_ratio": "mean"}).dropna()
    start = start.assign(low=start["mean"], high=start["mean"], x=start["density"])
    band_line(ratio, start, name="before training", colour=GREY, dash="dash", at="density")
    ratio.update_yaxes(rangemode="tozero")
    sparse = f"{found.dropna(subset='norm_ratio')['density'].min():g}"
    return [
        Chart(
            "toy-auxiliary-ratio",
            "Norms of the features the teacher learnt, in a child that saw auxiliary ones alone.",
            ratio,
            f"At 1-S = {sparse}: {', '.join(ends)}. Bands are 95 % intervals over seeds.",
        ),
        Chart(
            "toy-auxiliary-recovered",
            "Share of the way to the learnt features' rows of the teacher's W^T W.",
            recovered,
            f"At 1-S = {sparse}: {', '.join(shares)}. Bands are 95 % intervals over seeds.",
        ),
    ]


def geometry_chart(models: pd.DataFrame, found: pd.DataFrame, name: str) -> Chart:
    """W^T W with b as last column, teacher beside child, of the first seed, at the densest setting, where children
    recover most, and the sparsest; of the middle ablated feature or the middle k, as in the post.

    models: `sweep.Sweep.models` of one experiment, at most 40 features. found: `cells` of it.
    """
    from plotly.subplots import make_subplots

    k = _middle(models["auxiliary"].unique())
    judged = models["ablated"].dropna().unique()
    feature = int(_middle(judged)) if len(judged) else None
    models = models[(models["auxiliary"] == k) & (models["seed"] == models["seed"].min())]
    cell = best(found[found["auxiliary"] == k])
    shown = list(dict.fromkeys([models["density"].max(), cell["density"], models["density"].min()]))
    titles = [f"{role}, 1-S = {density:g}" for density in shown for role in ("teacher", "child")]
    height = 230 * len(shown) + 90
    figure = make_subplots(
        rows=len(shown), cols=2, subplot_titles=titles, vertical_spacing=50 / height, horizontal_spacing=0.06
    )
    styled(figure, height=height).update_annotations(font_size=12)
    for row, density in enumerate(shown, 1):
        here = models[models["density"] == density]
        teacher = here[here["role"] == "teacher"].iloc[0]
        children = here[here["role"] == "child"]
        child = (children if feature is None else children[children["ablated"] == feature]).iloc[0]
        _geometry(figure, teacher, row, 1, feature)
        _geometry(figure, child, row, 2, feature)
    figure.update_xaxes(showgrid=False, zeroline=False).update_yaxes(showgrid=False, zeroline=False)
    figure.update_layout(coloraxis=SHADES, margin={"t": 36, "b": 60})
    what = f"feature {feature} was left out of the child's loss" if feature is not None else f"k = {k}, behind the line"
    shares = found[(found["auxiliary"] == k) & found["density"].isin(shown)]
    recovered = [f"{_two(row.recovered)} at 1-S = {row.density:g}" for row in shares.itertuples()]
    alt = f"First seed; {what}. Recovered, mean over seeds: {', '.join(recovered)}."
    return Chart(name, "W^T W of teacher and child; last column: the bias.", figure, alt)


def recovery_chart(found: pd.DataFrame, study: ToyStudy, experiment: str) -> Chart:
    """Share recovered against the teacher's superposition, a point a setting, k and density."""
    from plotly.graph_objects import Figure

    rows = found[(found["experiment"] == experiment) & found["recovered"].notna()]
    kinds = rows["setting"].map(lambda setting: _kind(study, setting))
    figure = styled(Figure(), height=400)
    for kind, colour, symbol in (
        ("the post's setting", VERMILION, "circle"),
        ("nothing predicted", BLUE, "square"),
        ("other settings", ORANGE, "diamond"),
        ("larger models", GREEN, "triangle-up"),
    ):
        part = rows[kinds == kind]
        if part.empty:
            continue
        figure.add_scatter(
            x=part["superposition"],
            y=part["recovered"].clip(lower=_LOWEST),
            name=kind,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9, "opacity": 0.85},
            customdata=np.stack(
                [
                    part["setting"].map(spoken),
                    part["density"],
                    part["auxiliary"],
                    part["recovered"],
                    part["recovered_low"],
                    part["recovered_high"],
                ],
                axis=-1,
            ),
            hovertemplate="%{customdata[0]}, 1-S = %{customdata[1]:g}, k = %{customdata[2]}<br>recovered "
            "%{customdata[3]:.3f} [%{customdata[4]:.3f}, %{customdata[5]:.3f}], %{x:.2f} features a dimension"
            "<extra></extra>",
        )
    figure.update_xaxes(title="the teacher's features per dimension").update_yaxes(title="share recovered")
    figure.add_vline(x=1, line={"dash": "dot", "color": GREY})
    if rows.empty:
        highest = "No point: no share could be measured."
    else:
        top = best(rows)
        highest = (
            f"{len(rows)} points; the highest is {spoken(top['setting'])} with {top['recovered']:.2f} at "
            f"{top['superposition']:.2f} features a dimension."
        )
    alt = (
        f"{highest} Dotted: one feature a dimension. Negative: farther from the teacher than before training (below "
        f"{_LOWEST:g} drawn there)."
    )
    title = f"What children recover against the teacher's superposition: {experiment} features."
    return Chart(f"toy-superposition-{experiment}", title, figure, alt)


def settings_chart(found: pd.DataFrame, post: str) -> Chart:
    """The most that children of each setting recover, a panel an experiment."""
    from plotly.subplots import make_subplots

    panels = [experiment for experiment in EXPERIMENTS if (found["experiment"] == experiment).any()]
    most = most_recovered(found)
    room = 40 + 26 * most.groupby("experiment").size().max()
    height = len(panels) * (room + 36) + 70
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        subplot_titles=[f"{experiment} features" for experiment in panels],
        shared_xaxes=True,
        vertical_spacing=40 / height,
    )
    styled(figure, height=height).update_annotations(font_size=13)
    said = []
    for row, experiment in enumerate(panels, 1):
        part = most[most["experiment"] == experiment]
        figure.add_bar(
            x=part["recovered"],
            y=part["setting"].map(spoken),
            orientation="h",
            marker_color=np.where(part["setting"] == post, VERMILION, BLUE),
            error_x=interval(part, "recovered", "recovered_low", "recovered_high"),
            customdata=part[["recovered_low", "recovered_high", "density", "auxiliary", "superposition"]],
            hovertemplate="%{y}<br>%{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<br>1-S = %{customdata[2]:g}, "
            "k = %{customdata[3]}, %{customdata[4]:.2f} features a dimension<extra></extra>",
            showlegend=False,
            row=row,
            col=1,
        )
        each = [f"{spoken(row['setting'])} {_two(row['recovered'])}" for _, row in part.iterrows()]
        said.append(f"{experiment}: {', '.join(each)}")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title="largest share recovered", row=len(panels))
    figure.update_layout(margin_t=36, margin_b=20)
    title = "The most that children recover, by setting."
    alt = f"Share recovered, {'; '.join(said)}. Red: the post's setting. Thin bars are 95 % intervals over seeds."
    return Chart("toy-controls", title, figure, alt)


def most_recovered(found: pd.DataFrame) -> pd.DataFrame:
    """The cell of each setting and experiment in which most is recovered, settings in their order."""
    known = found.dropna(subset="recovered")
    return known.loc[known.groupby(["experiment", "setting"], sort=False)["recovered"].idxmax()]


def sizes_chart(found: pd.DataFrame, experiment: str) -> Chart:
    """Share recovered against density, a line a setting."""
    rows = found[found["experiment"] == experiment].dropna(subset="recovered")
    figure = density_figure("share recovered")
    said = []
    for (setting, part), colour in zip(rows.groupby("setting", sort=False), LINES, strict=False):
        measure_line(figure, part, "recovered", spoken(str(setting)), colour)
        said.append(f"{spoken(str(setting))} {part['recovered'].max():.2f}")
    alt = f"The most recovered: {', '.join(said)}. Bands are 95 % intervals over seeds."
    title = f"Share recovered in larger models, against density: {experiment} features."
    return Chart(f"toy-sizes-{experiment}", title, figure, alt)


def digits_charts(summary: pd.DataFrame, missing: Sequence[int]) -> list[Chart]:
    """Accuracies of both experiments on digits. `summary`: `digits.digits_summary`."""
    found = []
    for experiment, title in (
        ("missing digit", f"Accuracy on test images after distillation without {listed([str(d) for d in missing])}."),
        ("auxiliary logits", "Accuracy on test images after training on noise, on auxiliary logits alone."),
    ):
        rows = summary[summary["experiment"] == experiment].copy()
        rows["what"] = rows["model"].map(_MODELS).str.replace(", ", ",<br>")
        figure = styled(_plain(), height=360).update_yaxes(title="accuracy", range=[0, 1.05])
        measures = [measure for measure in _NAMES if (rows["measure"] == measure).any()]
        for measure, colour in zip(measures, (GREY, BLUE, VERMILION) if len(measures) > 1 else (BLUE,), strict=True):
            part = rows[rows["measure"] == measure]
            bars(figure, part, x="what", value="mean", low="low", high="high", name=_NAMES[measure], colour=colour)
        figure.add_hline(y=0.1, line={"dash": "dot", "color": GREY})
        figure.update_traces(showlegend=len(measures) > 1).update_xaxes(tickangle=0)
        last = rows[rows["measure"] == measures[-1]]
        said = "; ".join(f"{_MODELS[row['model']]} {row['mean']:.2f}" for _, row in last.iterrows())
        alt = f"{_NAMES[measures[-1]].capitalize()}: {said}. Dotted: chance."
        found.append(Chart(f"toy-digits-{experiment.split()[0]}", title, figure, alt))
    return found


def digits_table(summary: pd.DataFrame) -> Table:
    """All accuracies. `summary`: `digits.digits_summary`."""
    import pandas as pd

    frame = pd.DataFrame(
        {
            "experiment": summary["experiment"],
            "model": summary["model"].map(_MODELS),
            "test images of": summary["measure"].map(_NAMES).replace("accuracy", "all digits"),
            "accuracy": summary["mean"],
            "low": summary["low"],
            "high": summary["high"],
        }
    )
    note = "Bias corrected: raised until the digit is predicted for a tenth of the training images, without labels."
    return Table("toy-digits", "Accuracies", frame, note)


def cells_table(found: pd.DataFrame, name: str, title: str) -> Table:
    """All cells, as they are read."""
    import pandas as pd

    frame = pd.DataFrame(
        {
            "setting": found["setting"].map(spoken),
            "features": found["experiment"],
            "k": found["auxiliary"],
            "1-S": found["density"],
            "features per dimension": found["superposition"],
            "norm, child / teacher": found["norm_ratio"],
            "ratio, low": found["norm_ratio_low"],
            "ratio, high": found["norm_ratio_high"],
            "ratio before training": found["start_ratio"],
            "recovered": found["recovered"],
            "recovered, low": found["recovered_low"],
            "recovered, high": found["recovered_high"],
            "seeds": found["seeds"],
        }
    )
    if frame["setting"].nunique() == 1:
        frame = frame.drop(columns="setting")
    if frame["features"].nunique() == 1:
        frame = frame.drop(columns="features")
    if not frame["k"].any():
        frame = frame.drop(columns="k")
    note = (
        "Features per dimension: the teacher's. Recovered: the share of the way from the child's start to the rows of "
        "the teacher's W^T W that belong to what the child never saw. Seeds: those whose teacher learnt what is judged."
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
            "the post's account predicts": own.predicts,
        }
        for setting in names
    ]
    return Table(name, "The settings", pd.DataFrame(rows))


def spoken(setting: str) -> str:
    return setting.replace("_", " ")


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


def _kind(study: ToyStudy, setting: str) -> str:
    if setting == study.post:
        return "the post's setting"
    own = study.settings[setting]
    if own.predicts == "nothing":
        return "nothing predicted"
    return "larger models" if own.features > study.settings[study.post].features else "other settings"


def _ends(found: pd.DataFrame) -> list[Any]:
    """The densest cell, that in which most is recovered, and the sparsest."""
    known = found.dropna(subset="recovered")
    shown = known[known["density"].isin([known["density"].max(), best(known)["density"], known["density"].min()])]
    return list(shown.itertuples())


def _two(value: float) -> str:
    """Two decimals; adding zero makes -0.0, which would be written with its sign, a plain zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def _middle(values: Any) -> Any:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _geometry(figure: Figure, model: pd.Series, row: int, col: int, feature: int | None) -> None:
    w = np.asarray(model["w"], dtype=float).reshape(model["hidden"], -1)
    features = w.shape[1]
    shown = np.arange(features)[:_LARGEST_SHOWN]
    gram = (w.T @ w)[np.ix_(shown, shown)]
    gap = np.full((len(shown), 1), np.nan)
    columns = [*(f"feature {number}" for number in shown), "", "bias"]
    figure.add_heatmap(
        z=np.hstack([gram, gap, np.asarray(model["b"], dtype=float)[shown, None]]),
        customdata=np.tile(columns, (len(shown), 1)),
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


def _plain() -> Figure:
    from plotly.graph_objects import Figure

    return Figure()
