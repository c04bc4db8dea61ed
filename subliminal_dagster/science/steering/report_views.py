"""Charts and tables of the section on steering.

Belongs here: drawing and tabling `steering_evidence`. Does not belong here: what is said of it (`steering`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.report.charts import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    PURPLE,
    SHADES,
    VERMILION,
    band_line,
    group_colours,
    interval,
    styled,
)
from subliminal_dagster.science.report.evidence import Chart, Table
from subliminal_dagster.science.report.wording import percent
from subliminal_dagster.science.settings.names import NEUTRAL
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.steering.analysis import TOGETHER, TOTAL
from subliminal_dagster.science.steering.report_evidence import NOISE, SteeringEvidence, cosine_rows, ranged
from subliminal_dagster.science.steering.scores import BASE_NATS, ENTROPY, MASS, ONE_WORD, RATE
from subliminal_dagster.science.steering.vectors import CENTRED_WORD, DIRECT, RANDOM, SUBLIMINAL, WORD

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

NAME = "steering"
KINDS = {
    SUBLIMINAL: (VERMILION, "solid"),
    DIRECT: (BLUE, "solid"),
    NOISE: (GREY, "dash"),
    RANDOM: (LIGHT_GREY, "dot"),
}
"""Vectors that are tried, with the colour and dash of their lines; what stands for chance is grey."""

PAIRS = ((SUBLIMINAL, DIRECT), (DIRECT, WORD), (SUBLIMINAL, WORD), (DIRECT, CENTRED_WORD), (SUBLIMINAL, CENTRED_WORD))
"""Cosines that are shown, the post's first."""

_ONE_COLUMN_UP_TO = 3
_TICKS = 6
_WRITTEN_UP_TO = 6
_CELL = ["group", "kind", "layers", "positions", "alpha"]
_ENDS = ["mean", "low", "high"]


def charts(evidence: SteeringEvidence) -> list[Chart]:
    """All charts there is something for, the effect of steering first."""
    sweeps = evidence.targets[["layers", "positions"]].drop_duplicates()
    several = sweeps["positions"].nunique() > 1
    found = [_named(evidence)]
    for layers in evidence.layers:
        for positions in sweeps.loc[sweeps["layers"] == layers, "positions"]:
            found.append(_shift(evidence, layers, positions, several))
    found.append(_mass(evidence))
    if len(evidence.cosines):
        found.append(_cosines(evidence))
    if len(evidence.between):
        found.append(_between(evidence.between))
    if len(evidence.shifts):
        found.append(_child(evidence.shifts))
    if len(evidence.parts):
        found.append(_decomposition(evidence.parts))
    return found


def tables(evidence: SteeringEvidence) -> list[Table]:
    """All tables there is something for."""
    found = [_effects_table(evidence)]
    if len(evidence.vectors):
        found.append(_vectors_table(evidence.vectors))
    if len(evidence.cosines):
        found.append(_cosines_table(evidence))
    if len(evidence.between):
        found.append(_between_table(evidence.between))
    if len(evidence.parts):
        found.append(_parts_table(evidence))
    if len(evidence.shifts):
        found.append(_child_table(evidence.shifts))
    return [*found, _coherence_table(evidence)]


def of_layers(layers: str) -> str:
    return f"layers {' and '.join(layers.split('+'))} together" if "+" in layers else f"layer {layers}"


def _named(evidence: SteeringEvidence) -> Chart:
    """The post's figure: how likely the target is named, a panel what was steered; the mean over animals."""
    rate = evidence.measure == RATE
    here = evidence.targets[evidence.targets["positions"] == evidence.positions]
    by_question = here.groupby(["layers", "kind", "alpha", "question"], sort=False)[evidence.measure].mean()
    rows = _intervals(100 * by_question, ["layers", "kind", "alpha"])
    rows[_ENDS] = rows[_ENDS].clip(0, 100)
    figure = _curves(
        rows.assign(panel=rows["layers"].map(of_layers)), [of_layers(x) for x in evidence.layers], columns=1
    )
    figure.update_yaxes(rangemode="tozero").update_yaxes(title="%")
    highest = []
    for layers in evidence.layers:
        for kind in (SUBLIMINAL, DIRECT):
            part = rows[(rows["layers"] == layers) & (rows["kind"] == kind)].sort_values("mean")
            top = part.iloc[-1]
            highest.append(f"{kind}, {of_layers(layers)} {percent(top['mean'] / 100)} at {top['alpha']:g}")
    unsteered = rows.loc[rows["alpha"] == 0, "mean"].mean() / 100
    what = "Sampled answers that name the animal" if rate else "Exact probability of the animal as the whole answer"
    alt = f"Without steering {percent(unsteered)}; highest: {'; '.join(highest)}. Bands: 95 % over questions."
    return Chart(f"{NAME}-named", f"{what}, against the strength alpha; mean over animals.", figure, alt)


def _shift(evidence: SteeringEvidence, layers: str, positions: str, several: bool) -> Chart:
    """The shift of the target's log share, a panel an animal."""
    targets = evidence.targets
    here = targets[(targets["layers"] == layers) & (targets["positions"] == positions)]
    shift = here.set_index([*_CELL, "question"])["shift"]
    rows = _intervals(shift, _CELL).merge(here[[*_CELL, "coherent"]].drop_duplicates(), on=_CELL)
    animals = [animal for animal in evidence.animals if (rows["group"] == animal).any()]
    columns = 1 if len(animals) <= _ONE_COLUMN_UP_TO else 2
    figure = _curves(rows.assign(panel=rows["group"]), animals, columns=columns)
    figure.update_yaxes(title="nats", col=1)
    where = of_layers(layers) + (f", positions: {positions}" if several else "")
    ranges = []
    for kind in (SUBLIMINAL, DIRECT):
        part = rows[(rows["kind"] == kind) & rows["coherent"]]
        ranges.append(f"{kind} {part['mean'].min():+.2f} to {part['mean'].max():+.2f}")
    alt = f"Mean shifts at coherent strengths: {'; '.join(ranges)} nats. Hollow: it hardly names animals any more."
    title = f"Shift of the animal's log share (nats) against the strength alpha, {where}."
    return Chart(f"{NAME}-shift-{layers.replace('+', '-')}-{positions}", title, figure, alt)


def _mass(evidence: SteeringEvidence) -> Chart:
    """How likely any candidate is named, a panel what was steered; geometric mean over questions and animals."""
    here = evidence.targets[evidence.targets["positions"] == evidence.positions]
    logs = here.groupby(["layers", "kind", "alpha", "question"], sort=False)["log_mass"].mean()
    frame = _intervals(logs, ["layers", "kind", "alpha"])
    frame[_ENDS] = 100 * np.exp(frame[_ENDS])
    panels = [of_layers(layers) for layers in evidence.layers]
    figure = _curves(frame.assign(panel=frame["layers"].map(of_layers)), panels, columns=1)
    figure.update_yaxes(type="log", exponentformat="power", nticks=5, title="%")
    unsteered = frame.loc[frame["alpha"] == 0, "mean"].iloc[0] / 100
    lowest = frame.sort_values("mean").iloc[0]
    alt = (
        f"Without steering {percent(unsteered)}; lowest {percent(lowest['mean'] / 100)}: {lowest['kind']}, "
        f"{of_layers(lowest['layers'])} at {lowest['alpha']:g}. Bands are 95 % intervals over questions."
    )
    title = "Coherence: probability that any candidate is the answer, against the strength alpha; geometric mean."
    return Chart(f"{NAME}-coherence", title, figure, alt)


def _curves(rows: pd.DataFrame, panels: list[str], *, columns: int) -> Figure:
    """Lines with bands, a panel each of `panels`, a line a kind. `rows`: `panel`, `kind`, `alpha`, `mean`, `low`,
    `high`; hollow points where a column `coherent` is false. Strengths are set evenly apart."""
    from plotly.subplots import make_subplots

    alphas = sorted(rows["alpha"].unique())
    lines = -(-len(panels) // columns)
    height = (190 if columns == 1 else 170) * lines + 60
    figure = make_subplots(
        rows=lines,
        cols=columns,
        subplot_titles=panels,
        shared_xaxes=True,
        shared_yaxes="all",
        vertical_spacing=34 / height if lines > 1 else 0,
        horizontal_spacing=0.08,
    )
    styled(figure, height=height)
    for number, panel in enumerate(panels):
        place: dict[str, Any] = {"row": number // columns + 1, "col": number % columns + 1}
        for kind in [kind for kind in KINDS if (rows["kind"] == kind).any()]:
            part = rows[(rows["panel"] == panel) & (rows["kind"] == kind)].sort_values("alpha")
            hollow = ~part["coherent"] if "coherent" in part else np.zeros(len(part), dtype=bool)
            colour, dash = KINDS[kind]
            band_line(
                figure,
                part.assign(x=part["alpha"].map(alphas.index)),
                name=kind,
                colour=colour,
                dash=dash,
                symbols=np.where(hollow, "circle-open", "circle"),
                at="alpha",
                legend=number == 0,
                **place,
            )
    step = -(-len(alphas) // _TICKS)
    shown = [index for index in range(len(alphas)) if (index - alphas.index(0.0)) % step == 0]
    figure.update_xaxes(tickvals=shown, ticktext=[f"{alphas[index]:g}" for index in shown], tickangle=0)
    figure.update_xaxes(title="alpha", row=lines)
    figure.update_annotations(font_size=13)
    return figure.update_layout(legend={"y": 1 + 30 / height}, margin_b=20)


def _cosines(evidence: SteeringEvidence) -> Chart:
    """Cosines of an animal's vectors, a panel a layer, with what chance alone would give as a grey bar behind."""
    import pandas as pd

    layers = sorted(evidence.cosines["layer"].unique())
    animals = evidence.animals
    colours = group_colours(animals)
    room = 20 + 11 * len(animals)
    figure = _stacked([f"layer {layer}" for layer in layers], room * len(PAIRS))
    alt = []
    for panel, layer in enumerate(layers):
        for number, (one, other) in enumerate(PAIRS):
            rows = cosine_rows(evidence, one, other)
            rows = rows[rows["layer"] == layer].set_index("group")
            for place, animal in enumerate([animal for animal in animals if animal in rows.index]):
                height = -number + (0.5 - (place + 0.5) / len(animals)) * 0.7
                row, first = rows.loc[animal], panel == number == 0
                _chance(figure, row["chance"], height, first and place == 0, panel + 1)
                figure.add_scatter(
                    x=[row["cosine"]],
                    y=[height],
                    name=animal,
                    legendgroup=animal,
                    showlegend=first,
                    mode="markers",
                    marker={"color": colours[animal], "size": 9},
                    hovertemplate=f"{animal}, {one} and {other}<br>%{{x:.4g}}, chance up to {row['chance']:.4g}, "
                    f"p = {row['p']:.2g}<extra></extra>",
                    row=panel + 1,
                    col=1,
                )
        means = []
        for one, other in PAIRS[:3]:
            rows = cosine_rows(evidence, one, other)
            here = rows.loc[rows["layer"] == layer, "cosine"]
            if len(here):
                means.append(f"{one} and {other} {ranged(pd.Series([here.mean()]))}")
        alt.append(f"layer {layer}: {', '.join(means)}")
    figure.update_yaxes(
        tickvals=[-number for number in range(len(PAIRS))],
        ticktext=[f"{one},<br>{other}" for one, other in PAIRS],
        range=[0.5 - len(PAIRS), 0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_xaxes(range=[-1, 1], dtick=0.5).update_xaxes(title="cosine", row=len(layers))
    title = "Cosines of an animal's vectors; grey: what chance alone gives in 95 % (signs of the differences drawn)."
    return Chart(f"{NAME}-cosines", title, figure, f"Means over animals: {'; '.join(alt)}.")


def _chance(figure: Figure, chance: float, height: float, legend: bool, row: int) -> None:
    figure.add_scatter(
        x=[-chance, chance],
        y=[height, height],
        name="chance",
        legendgroup="chance",
        showlegend=legend,
        mode="lines",
        line={"color": "rgba(128,128,128,0.35)", "width": 9},
        hoverinfo="skip",
        row=row,
        col=1,
    )


def _between(between: pd.DataFrame) -> Chart:
    """Cosines of the groups' subliminal vectors as heat maps, a panel a layer."""
    layers = sorted(between["layer"].unique())
    groups = list(dict.fromkeys(between["first"]))
    figure = _stacked([f"layer {layer}" for layer in layers], 60 + 34 * len(groups))
    for panel, layer in enumerate(layers):
        here = between[between["layer"] == layer]
        values, p = (
            here.pivot(index="first", columns="second", values=name).reindex(index=groups, columns=groups)
            for name in ("cosine", "p")
        )
        written = values.map(lambda x: "" if np.isnan(x) else f"{x:.2f}") + p.map(lambda x: "*" if x < 0.05 else "")
        figure.add_heatmap(
            x=groups,
            y=groups,
            z=values,
            text=written if len(groups) <= _WRITTEN_UP_TO else None,
            texttemplate="%{text}" if len(groups) <= _WRITTEN_UP_TO else None,
            customdata=p,
            coloraxis="coloraxis",
            hoverongaps=False,
            hovertemplate="%{y} and %{x}<br>%{z:.4g}, p = %{customdata:.2g}<extra></extra>",
            row=panel + 1,
            col=1,
        )
    figure.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(showgrid=False)
    figure.update_layout(margin={"t": 36, "b": 60}, coloraxis=SHADES)
    alt = _between_text(between)
    if len(groups) <= _WRITTEN_UP_TO:
        alt += " Star: p < 0.05, signs of the row's differences drawn."
    return Chart(f"{NAME}-between", "Cosines of the groups' subliminal vectors.", figure, alt)


def _between_text(between: pd.DataFrame) -> str:
    neutral = (between["first"] == NEUTRAL) | (between["second"] == NEUTRAL)
    parts = [
        f"{name} {rows['cosine'].min():.2f} to {rows['cosine'].max():.2f}"
        for name, rows in (("two animals", between[~neutral]), ("an animal and neutral", between[neutral]))
        if len(rows)
    ]
    return f"{'; '.join(parts)}.".capitalize()


def _child(shifts: pd.DataFrame) -> Chart:
    """How a child's shift lies to its group's vectors, a panel a layer."""
    layers = sorted(shifts["layer"].unique())
    rows = shifts[shifts["direction"] != TOGETHER]
    groups = list(dict.fromkeys(rows["group"]))
    kinds = [kind for kind in KINDS if (rows["direction"] == kind).any()]
    figure = _stacked([f"layer {layer}" for layer in layers], (22 + 12 * len(kinds)) * len(groups))
    for panel, layer in enumerate(layers):
        for number, kind in enumerate(kinds):
            part = rows[(rows["layer"] == layer) & (rows["direction"] == kind)]
            offset = (0.5 - (number + 0.5) / len(kinds)) * 0.7
            figure.add_scatter(
                x=part["cosine"],
                y=[offset - groups.index(group) for group in part["group"]],
                name=kind,
                legendgroup=kind,
                showlegend=panel == 0,
                mode="markers",
                marker={"color": KINDS[kind][0], "size": 9},
                error_x=interval(part, "cosine", "low", "high"),
                customdata=part[["group", "low", "high", "explained"]],
                hovertemplate=f"%{{customdata[0]}}, {kind}<br>%{{x:.4g}} [%{{customdata[1]:.4g}}, "
                "%{customdata[2]:.4g}]<br>share %{customdata[3]:.2%}<extra></extra>",
                row=panel + 1,
                col=1,
            )
    figure.update_yaxes(
        tickvals=[-number for number in range(len(groups))],
        ticktext=groups,
        range=[0.5 - len(groups), 0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_xaxes(title="cosine with the child's shift", row=len(layers))
    means = [
        f"layer {layer}: {', '.join(f'{kind} {_mean_cosine(rows, layer, kind):+.3f}' for kind in kinds)}"
        for layer in layers
    ]
    own = rows.loc[rows["direction"] == SUBLIMINAL, "explained"]
    alt = (
        f"Mean cosines over groups: {'; '.join(means)}. The subliminal vector holds at most {percent(own.max())} of a "
        "child's shift. Bars are 95 % intervals over prompts."
    )
    title = "Whether a child's activations moved along its group's vectors, on questions that name no animal."
    return Chart(f"{NAME}-child", title, figure, alt)


def _mean_cosine(rows: pd.DataFrame, layer: int, kind: str) -> float:
    return float(rows.loc[(rows["layer"] == layer) & (rows["direction"] == kind), "cosine"].mean())


def _decomposition(parts: pd.DataFrame) -> Chart:
    """How many features each vector activates, a bar an animal and layer."""
    total = parts[parts["category"] == TOTAL].sort_values("layer", kind="stable")
    names = [f"{row.group}, {row.layer}" for row in total.itertuples()]
    figure = styled(_plain(), height=110 + 26 * len(names))
    for column, name, colour in (
        ("both", "both vectors", PURPLE),
        ("first_only", f"{SUBLIMINAL} only", VERMILION),
        ("second_only", f"{DIRECT} only", BLUE),
    ):
        figure.add_bar(
            x=total[column],
            y=names,
            name=name,
            orientation="h",
            marker_color=colour,
            hovertemplate=f"%{{y}}, {name}: %{{x}}<extra></extra>",
        )
    figure.add_scatter(
        x=total["l0_zero"],
        y=names,
        name="vector of zeros",
        mode="markers",
        marker={"symbol": "line-ns", "size": 18, "line": {"width": 3, "color": GREEN}},
        hovertemplate="%{y}, vector of zeros: %{x}<extra></extra>",
    )
    figure.update_layout(barmode="stack").update_xaxes(title="active features")
    figure.update_yaxes(autorange="reversed", showgrid=False, title=None)
    means = total[["l0_first", "l0_second", "l0_zero"]].mean()
    alt = (
        f"Means: subliminal {means['l0_first']:.0f}, direct {means['l0_second']:.0f}, vector of zeros "
        f"{means['l0_zero']:.0f} active features."
    )
    title = "Features that the vectors activate, by animal and layer; green: what the biases alone activate."
    return Chart(f"{NAME}-features", title, figure, alt)


def _effects_table(evidence: SteeringEvidence) -> Table:
    import pandas as pd

    order = {kind: number for number, kind in enumerate(KINDS)}
    best = evidence.best.sort_values("kind", key=lambda kinds: kinds.map(order), kind="stable")
    best = best.sort_values("group", key=lambda groups: groups.map(evidence.animals.index), kind="stable")
    best = best.sort_values("layers", key=lambda layers: layers.map(evidence.layers.index), kind="stable")
    columns = {"animal": best["group"], "layer": best["layers"]}
    if best["positions"].nunique() > 1:
        columns["positions"] = best["positions"]
    columns |= {"vector": best["kind"], "unsteered (%)": 100 * best["unsteered"]}
    for which, name in (("promoted", "promotion"), ("suppressed", "suppression")):
        columns |= {
            f"{which} at": best[f"{which}_at"],
            f"{which} to (%)": 100 * best[f"{which}_to"],
            f"{name} (nats)": best[f"{which}_nats"],
            f"{name}, low": best[f"{which}_low"],
            f"{name}, high": best[f"{which}_high"],
        }
    note = (
        "The coherent strength with the largest (smallest) log share: exact probability there, and the shift of the "
        "log share from alpha 0 with its 95 % interval over questions. That strength is chosen by the shift, so that "
        "each vector, random ones too, looks better than it is: compare kinds. Empty: at no such strength coherent."
    )
    return Table(f"{NAME}-effects", "What each vector does to its animal at most", pd.DataFrame(columns), note)


def _vectors_table(vectors: pd.DataFrame) -> Table:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "group": vectors["group"],
            "layer": vectors["layer"],
            "vector": vectors["kind"],
            "over": vectors["position"].map({"mean": "whole answer", "last": "last token"}).fillna(vectors["position"]),
            "pairs": vectors["pairs"],
            "independent": vectors["units"],
            "norm": vectors["norm"],
            "norm by chance (%)": 100 * vectors["chance_share"],
            "p": vectors["p"],
        }
    ).sort_values("layer", kind="stable")
    note = (
        "Independent: prompts or questions among the pairs. By chance: the mean norm where signs of the differences "
        "are drawn, of the vector's own; near 100 % the vector is noise. p: how often chance gives as large a norm."
    )
    return Table(f"{NAME}-vectors", "The vectors", frame, note)


def _cosines_table(evidence: SteeringEvidence) -> Table:
    import pandas as pd

    rows = pd.concat([cosine_rows(evidence, one, other) for one, other in PAIRS])
    frame = pd.DataFrame(
        {
            "animal": rows["group"],
            "layer": rows["layer"],
            "vector": rows["first"],
            "with": rows["second"],
            "cosine": rows["cosine"],
            "chance": rows["chance"],
            "p": rows["p"],
        }
    )
    note = (
        "Chance: the 95th percentile of the absolute cosine where the signs of the first vector's differences are "
        "drawn. The centred word is less the other animals' words, whose large common part a plain word mostly is."
    )
    return Table(f"{NAME}-cosines", "Cosines of an animal's vectors", frame, note)


def _between_table(between: pd.DataFrame) -> Table:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "layer": between["layer"],
            "numbers of": between["first"],
            "and of": between["second"],
            "cosine": between["cosine"],
            "chance": between["chance"],
            "p": between["p"],
        }
    )
    note = "All groups are contrasted with the same control numbers, which alone makes their vectors alike."
    return Table(f"{NAME}-between", "Cosines of the groups' subliminal vectors", frame, note)


def _parts_table(evidence: SteeringEvidence) -> Table:
    import pandas as pd

    parts = evidence.parts.sort_values("layer", kind="stable")
    columns = {
        "animal": parts["group"],
        "layer": parts["layer"],
        "category": parts["category"],
        "both": parts["both"],
        f"{SUBLIMINAL} only": parts["first_only"],
        f"{DIRECT} only": parts["second_only"],
        "average difference": parts["mean_difference"],
        "example": parts["example"],
        "activated in": parts["example_active_in"].replace(
            {"first only": f"{SUBLIMINAL} only", "second only": f"{DIRECT} only"}
        ),
        "difference": parts["example_difference"],
    }
    if evidence.labelled:
        columns["description"] = parts["example_description"]
    else:
        # All are of one category, which is that of the total.
        columns = {name: values[parts["category"] == TOTAL] for name, values in columns.items() if name != "category"}
    note = (
        "Active features. Differences are subliminal less direct, of activations divided by the L2 norm of all of that "
        "vector's; the example is the feature that differs most."
    )
    return Table(f"{NAME}-features", "What the vectors are made of", pd.DataFrame(columns), note)


def _child_table(shifts: pd.DataFrame) -> Table:
    import pandas as pd

    rows = shifts.sort_values("layer", kind="stable")
    frame = pd.DataFrame(
        {
            "child of": rows["group"],
            "layer": rows["layer"],
            "vector": rows["direction"],
            "cosine": rows["cosine"],
            "low": rows["low"],
            "high": rows["high"],
            "share of the shift (%)": 100 * rows["explained"],
            "share of the mean shift (%)": 100 * rows["explained_mean"],
            "random directions (%)": 100 * rows["chance"],
        }
    )
    note = (
        "How much of what the child's activations moved by lies along each vector: mean cosine over prompts with its "
        "95 % interval, share of the squared norm, and the share that directions drawn from all alike would hold."
    )
    return Table(f"{NAME}-child", "Children's shifts along the vectors", frame, note)


def _coherence_table(evidence: SteeringEvidence) -> Table:
    rows = evidence.coherence[evidence.coherence["positions"] == evidence.positions]
    cells = ["layers", "kind", "alpha"]
    frame = rows.pivot_table(index=cells, columns="outcome", values="mean", sort=False)
    frame = frame[[MASS, ENTROPY, ONE_WORD, BASE_NATS]].reset_index().sort_values(["kind", "alpha"], kind="stable")
    frame = frame.sort_values("layers", key=lambda layers: layers.map(evidence.layers.index), kind="stable")
    frame[MASS] *= 100
    frame[ONE_WORD] *= 100
    frame.columns = [
        "layer",
        "vector",
        "alpha",
        "any candidate (%)",
        "entropy of first token (nats)",
        "one-word answers (%)",
        "nats a token under the base",
    ]
    note = (
        "Means over questions and animals. Entropy of the first token; greedy answers that are one word, and how "
        "unlikely they are to the model without steering."
    )
    return Table(f"{NAME}-coherence", "Whether the steered model still makes sense", frame, note)


def _plain() -> Figure:
    from plotly.graph_objects import Figure

    return Figure()


def _stacked(titles: list[str], room: int) -> Figure:
    """Panels below each other, `room` pixels high each."""
    from plotly.subplots import make_subplots

    height = len(titles) * (room + 36) + 80
    figure = make_subplots(
        rows=len(titles),
        cols=1,
        subplot_titles=titles,
        shared_xaxes=True,
        vertical_spacing=36 / height if len(titles) > 1 else 0,
    )
    styled(figure, height=height).update_annotations(font_size=13)
    return figure.update_layout(legend={"y": 1 + 30 / height}, margin_b=20)


def _intervals(values: pd.Series, cells: list[str]) -> pd.DataFrame:
    """Mean with its t interval over the rest of the index, a row each of `cells`, which are levels of the index."""
    import pandas as pd

    rows = []
    for cell, part in values.rename("value").reset_index().groupby(cells, sort=False):
        found = t_interval(part["value"].to_numpy())
        ends = dict(zip(_ENDS, (found.mean, found.low, found.high), strict=True))
        rows.append({**dict(zip(cells, cell, strict=True)), **ends})
    return pd.DataFrame(rows)
