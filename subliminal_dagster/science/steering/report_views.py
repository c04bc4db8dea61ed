"""Charts and tables of the section on steering.

Belongs here: drawing and tabling `report_evidence`. Does not belong here: what is said of it (`steering`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science import colours
from subliminal_dagster.science.report import charts as style
from subliminal_dagster.science.report.charts import in_panel
from subliminal_dagster.science.report.evidence import Chart, Table
from subliminal_dagster.science.report.tables import Shown, columns, rows_where
from subliminal_dagster.science.report.wording import percent
from subliminal_dagster.science.settings.names import NEUTRAL
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.steering.analysis import ALL_CHILDREN, TOTAL
from subliminal_dagster.science.steering.ranks import PROMOTED, SUPPRESSED, at_best
from subliminal_dagster.science.steering.report_evidence import NOISE, SteeringEvidence, cosine_rows, ranged
from subliminal_dagster.science.steering.scores import BASE_NATS, ENTROPY, MASS, ONE_WORD, RATE
from subliminal_dagster.science.steering.vectors import CENTRED_WORD, DIRECT, RANDOM, SUBLIMINAL, WORD

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

KINDS = {
    SUBLIMINAL: (colours.KINDS[0], "solid"),
    DIRECT: (colours.KINDS[1], "solid"),
    NOISE: (colours.CHANCE, "dash"),
    RANDOM: (colours.CHANCE, "dot"),
}
"""Vectors that are tried, with the colour and dash of their lines."""

_POSTS_PAIRS = ((SUBLIMINAL, DIRECT), (DIRECT, WORD), (SUBLIMINAL, WORD))
PAIRS = (*_POSTS_PAIRS, (DIRECT, CENTRED_WORD), (SUBLIMINAL, CENTRED_WORD))
"""Cosines that are shown, the post's first."""

_ONE_COLUMN_UP_TO = 3
_TICKS = 6
_WRITTEN_UP_TO = 6
_STRENGTH = ["layers", "kind", "alpha"]
_CELL = ["group", "kind", "layers", "positions", "alpha"]
_ENDS = ["mean", "low", "high"]


def charts(evidence: SteeringEvidence) -> Iterator[Chart]:
    """All charts there is something for, the effect of steering first."""
    yield _named(evidence)
    sweeps = evidence.targets[["layers", "positions"]].drop_duplicates()
    for layers in evidence.layers:
        for positions in rows_where(sweeps, layers=layers)["positions"]:
            yield _shift(evidence, layers, positions)
    yield _mass(evidence)
    if len(evidence.cosines):
        yield _cosines(evidence)
    if len(evidence.between):
        yield _between(evidence.between)
    if len(evidence.children):
        yield _child(evidence)
    if len(evidence.parts):
        yield _decomposition(evidence.parts)


def tables(evidence: SteeringEvidence) -> Iterator[Table]:
    """All tables there is something for."""
    yield _effects_table(evidence)
    yield _ranks_table(evidence)
    if len(evidence.vectors):
        yield _vectors_table(evidence.vectors)
    if len(evidence.cosines):
        yield _cosines_table(evidence)
    if len(evidence.between):
        yield _between_table(evidence.between)
    if len(evidence.parts):
        yield _parts_table(evidence)
    if len(evidence.children):
        yield _child_table(evidence.children)
    yield _coherence_table(evidence)


# Charts


def _of_layers(layers: str) -> str:
    return f"layers {' and '.join(layers.split('+'))} together" if "+" in layers else f"layer {layers}"


def _intervals(values: pd.Series, cells: list[str]) -> pd.DataFrame:
    """Mean, low and high of a t interval over the rest of the index, a row each of `cells`, which are levels of it."""
    import pandas as pd

    rows = []
    for cell, part in values.rename("value").reset_index().groupby(cells, sort=False):
        found = t_interval(part["value"].to_numpy())
        ends = {"mean": found.mean, "low": found.low, "high": found.high}
        rows.append({**dict(zip(cells, cell, strict=True)), **ends})
    return pd.DataFrame(rows)


def _over_animals(evidence: SteeringEvidence, column: str, scale: float = 1) -> pd.DataFrame:
    """`column` of the targets, `scale` times its mean over animals, with intervals over questions, by `_STRENGTH`."""
    here = rows_where(evidence.targets, positions=evidence.positions)
    by_question = here.groupby([*_STRENGTH, "question"], sort=False)[column].mean()
    return _intervals(scale * by_question, _STRENGTH).assign(coherent=True)


def _named(evidence: SteeringEvidence) -> Chart:
    """The post's figure: how likely the target is named, a panel what was steered; the mean over animals."""
    rows = _over_animals(evidence, evidence.measure, 100)
    rows[_ENDS] = rows[_ENDS].clip(0, 100)
    figure = _curves(rows, "layers", {layers: _of_layers(layers) for layers in evidence.layers})
    figure.update_yaxes(rangemode="tozero", title="%")
    highest = []
    for layers in evidence.layers:
        for kind in (SUBLIMINAL, DIRECT):
            top = rows_where(rows, layers=layers, kind=kind).sort_values("mean").iloc[-1]
            highest.append(f"{kind}, {_of_layers(layers)} {percent(top['mean'] / 100)} at {top['alpha']:g}")
    unsteered = percent(rows_where(rows, alpha=0)["mean"].mean() / 100)
    alt = f"Without steering {unsteered}; highest: {'; '.join(highest)}. Bands: 95 % over questions."
    rate = evidence.measure == RATE
    what = "Sampled answers that name the animal" if rate else "Exact probability of the animal as the whole answer"
    return Chart("steering-named", f"{what}, against the strength alpha; mean over animals.", figure, alt)


def _shift(evidence: SteeringEvidence, layers: str, positions: str) -> Chart:
    """The shift of the target's log share, a panel per animal."""
    here = rows_where(evidence.targets, layers=layers, positions=positions)
    rows = _intervals(here.set_index([*_CELL, "question"])["shift"], _CELL)
    rows = rows.merge(here[[*_CELL, "coherent"]].drop_duplicates(), on=_CELL)
    animals = [animal for animal in evidence.animals if (rows["group"] == animal).any()]
    across = 1 if len(animals) <= _ONE_COLUMN_UP_TO else 2
    figure = _curves(rows, "group", {animal: animal for animal in animals}, across).update_yaxes(title="nats", col=1)
    ranges = []
    for kind in (SUBLIMINAL, DIRECT):
        means = rows_where(rows, kind=kind, coherent=True)["mean"]
        ranges.append(f"{kind} {means.min():+.2f} to {means.max():+.2f}")
    alt = f"Mean shifts at coherent strengths: {'; '.join(ranges)} nats. Hollow: it hardly names animals any more."
    several = evidence.targets["positions"].nunique() > 1
    where = _of_layers(layers) + (f", positions: {positions}" if several else "")
    title = f"Shift of the animal's log share (nats) against the strength alpha, {where}."
    return Chart(f"steering-shift-{layers.replace('+', '-')}-{positions}", title, figure, alt)


def _mass(evidence: SteeringEvidence) -> Chart:
    """How likely any candidate is named, a panel what was steered; geometric mean over questions and animals."""
    rows = _over_animals(evidence, "log_mass")
    rows[_ENDS] = 100 * np.exp(rows[_ENDS].clip(upper=0))
    figure = _curves(rows, "layers", {layers: _of_layers(layers) for layers in evidence.layers})
    figure.update_yaxes(type="log", exponentformat="power", nticks=5, title="%")
    unsteered = rows_where(rows, alpha=0)["mean"].iloc[0] / 100
    lowest = rows.sort_values("mean").iloc[0]
    alt = (
        f"Without steering {percent(unsteered)}; lowest {percent(lowest['mean'] / 100)}: {lowest['kind']}, "
        f"{_of_layers(lowest['layers'])} at {lowest['alpha']:g}. Bands are 95 % intervals over questions."
    )
    title = "Coherence: probability that any candidate is the answer, against the strength alpha; geometric mean."
    return Chart("steering-coherence", title, figure, alt)


def _curves(rows: pd.DataFrame, by: str, titles: Mapping[str, str], across: int = 1) -> Figure:
    """Lines with bands, a line per kind, a panel per value of the column `by`, with its title, `across` in a row.
    `rows`: of `_intervals`; points are hollow that are not `coherent`."""
    lines = -(-len(titles) // across)
    figure = _panels(
        list(titles.values()),
        height=(190 if across == 1 else 170) * lines + 60,
        between=34,
        columns=across,
        shared_yaxes="all",
        horizontal_spacing=0.08,
    )
    for number, value in enumerate(titles):
        for kind in [kind for kind in KINDS if (rows["kind"] == kind).any()]:
            part = rows_where(rows, **{by: value, "kind": kind}).sort_values("alpha")
            colour, dash = KINDS[kind]
            style.band_line(
                figure,
                part.assign(x=part["alpha"]),
                name=kind,
                colour=colour,
                dash=dash,
                symbols=np.where(part["coherent"], "circle", "circle-open"),
                at="alpha",
                legend=number == 0,
                row=number // across + 1,
                col=number % across + 1,
            )
    return figure.update_xaxes(nticks=_TICKS, tickangle=0).update_xaxes(title="alpha", row=lines)


def _panels(titles: Sequence[str], *, height: float, between: float, **more: Any) -> Figure:
    """`charts.panels` with the legend above and the last axis's title below them."""
    figure = style.panels(titles, height=height, between=between, **more)
    return style.legend_above_titles(figure).update_layout(margin_b=20)


def _of_each_layer(layers: Sequence[int], room: int) -> Figure:
    """A panel per layer, below each other, `room` pixels high each."""
    return _panels([f"layer {layer}" for layer in layers], height=len(layers) * (room + 36) + 80, between=36)


def _height(line: int, mark: int, marks: int) -> float:
    """Where a mark lies of `marks` in a line, the lines one apart from 0 downwards."""
    return -line + (0.5 - (mark + 0.5) / marks) * 0.7


def _name_lines(figure: Figure, names: Sequence[str]) -> None:
    figure.update_yaxes(
        tickvals=[-line for line in range(len(names))],
        ticktext=names,
        range=[0.5 - len(names), 0.5],
        showgrid=False,
        zeroline=False,
    )


def _cosines(evidence: SteeringEvidence) -> Chart:
    """Cosines of an animal's vectors, a panel per layer, with what chance alone would give as a bar behind."""
    layers = sorted(evidence.cosines["layer"].unique())
    animals = evidence.animals
    of_animals = colours.group_colours(animals)
    figure = _of_each_layer(layers, (20 + 11 * len(animals)) * len(PAIRS))
    alt = []
    for panel, layer in enumerate(layers, 1):
        means = []
        for line, (one, other) in enumerate(PAIRS):
            rows = rows_where(cosine_rows(evidence, one, other), layer=layer).set_index("group")
            if (one, other) in _POSTS_PAIRS and len(rows):
                means.append(f"{one} and {other} {ranged(rows['cosine'].agg(['mean']))}")
            for mark, animal in enumerate([animal for animal in animals if animal in rows.index]):
                row, height = rows.loc[animal], _height(line, mark, len(animals))
                first = panel == 1 and line == 0
                figure.add_scatter(
                    x=[-row["chance"], row["chance"]], y=[height, height], mode="lines", hoverinfo="skip", opacity=0.35,
                    line={"color": colours.CHANCE, "width": 9},
                    **in_panel(panel, "chance") | {"showlegend": first and mark == 0},
                )  # fmt: skip
                figure.add_scatter(
                    x=[row["cosine"]], y=[height], mode="markers", marker={"color": of_animals[animal], "size": 9},
                    hovertemplate=f"{animal}, {one} and {other}<br>%{{x:.4g}}, chance up to {row['chance']:.4g}, "
                    f"p = {row['p']:.2g}<extra></extra>",
                    **in_panel(panel, animal) | {"showlegend": first},
                )  # fmt: skip
        alt.append(f"layer {layer}: {', '.join(means)}")
    _name_lines(figure, [f"{one},<br>{other}" for one, other in PAIRS])
    figure.update_xaxes(range=[-1, 1], dtick=0.5).update_xaxes(title="cosine", row=len(layers))
    title = "Cosines of an animal's vectors; bars: what chance alone gives in 95 % (signs of the differences drawn)."
    return Chart("steering-cosines", title, figure, f"Means over animals: {'; '.join(alt)}.")


def _between(between: pd.DataFrame) -> Chart:
    """Cosines of the groups' subliminal vectors as heat maps, a panel per layer."""
    layers = sorted(between["layer"].unique())
    groups = list(dict.fromkeys(between["first"]))
    figure = _of_each_layer(layers, 60 + 34 * len(groups))
    for panel, layer in enumerate(layers, 1):
        here = rows_where(between, layer=layer)
        values, p = (
            here.pivot(index="first", columns="second", values=name).reindex(index=groups, columns=groups)
            for name in ("cosine", "p")
        )
        figure.add_heatmap(
            x=groups, y=groups, z=values, customdata=p, coloraxis="coloraxis", hoverongaps=False, row=panel, col=1,
            hovertemplate="%{y} and %{x}<br>%{z:.4g}, p = %{customdata:.2g}<extra></extra>",
        )  # fmt: skip
        if len(groups) <= _WRITTEN_UP_TO:
            stars = p.map(lambda x: "*" if x < 0.05 else "")
            written = values.map(lambda x: "" if np.isnan(x) else f"{x:.2f}") + stars
            figure.data[-1].update(text=written, texttemplate="%{text}")
    figure.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(showgrid=False)
    figure.update_layout(margin={"t": 36, "b": 60}, coloraxis=style.SHADES)
    neutral = (between["first"] == NEUTRAL) | (between["second"] == NEUTRAL)
    parts = [
        f"{name} {rows['cosine'].min():.2f} to {rows['cosine'].max():.2f}"
        for name, rows in (("two animals", between[~neutral]), ("an animal and neutral", between[neutral]))
        if len(rows)
    ]
    alt = f"{'; '.join(parts)}.".capitalize()
    if len(groups) <= _WRITTEN_UP_TO:
        alt += " Star: p < 0.05, signs of the differences drawn."
    return Chart(
        "steering-between",
        "Cosines of the groups' subliminal vectors, products of different prompts alone.",
        figure,
        alt,
    )


def _child(evidence: SteeringEvidence) -> Chart:
    """The cosine of every child's shift with every group's vector as heat maps, a panel per layer."""
    children = evidence.children
    layers = sorted(children["layer"].unique())
    names, groups = list(dict.fromkeys(children["child"])), list(dict.fromkeys(children["vector"]))
    figure = _of_each_layer(layers, 60 + 34 * len(names))
    alt = []
    for panel, layer in enumerate(layers, 1):
        here = rows_where(children, layer=layer)
        values, low, high = (
            here.pivot(index="child", columns="vector", values=name).reindex(index=names, columns=groups)
            for name in ("cosine", "chance_low", "chance_high")
        )
        figure.add_heatmap(
            x=groups, y=names, z=values, customdata=np.stack([low, high], axis=-1), coloraxis="coloraxis",
            hovertemplate="child of %{y}, vector of %{x}<br>%{z:.4g}, flips %{customdata[0]:.4g} to "
            "%{customdata[1]:.4g}<extra></extra>", row=panel, col=1,
        )  # fmt: skip
        if len(groups) <= _WRITTEN_UP_TO:
            figure.data[-1].update(text=values.map(lambda x: f"{x:.3f}"), texttemplate="%{text}")
        each = here[here["child"] != ALL_CHILDREN]
        own = each["child"] == each["vector"]
        alt.append(
            f"layer {layer}: own {ranged(each.loc[own, 'cosine'], 3)}, others {ranged(each.loc[~own, 'cosine'], 3)}"
        )
    figure.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(showgrid=False)
    figure.update_layout(margin={"t": 36, "b": 60}, coloraxis=style.SHADES)
    flips = f"{children['chance_low'].min():.3f} to {children['chance_high'].max():.3f}"
    said = (
        f"Cosines of a child's shift, {'; '.join(alt)}; flips of the vectors give {flips} in 95 % at the most. "
        f"Children's shifts with each other: {ranged(evidence.shifts['cosine'])}."
    )
    title = "Whether a child (row) moved along a group's vector (column), on questions that name no animal: cosines."
    return Chart("steering-child", title, figure, said)


def _decomposition(parts: pd.DataFrame) -> Chart:
    """How many features each vector activates, a bar per animal and layer."""
    total = rows_where(parts, category=TOTAL).sort_values("layer", kind="stable")
    names = [f"{row.group}, {row.layer}" for row in total.itertuples()]
    figure = style.new_figure(x="active features", y="", height=110 + 26 * len(names))
    for column, name, colour in (
        ("both", "both vectors", colours.KINDS[2]),
        ("first_only", f"{SUBLIMINAL} only", colours.KINDS[0]),
        ("second_only", f"{DIRECT} only", colours.KINDS[1]),
    ):
        figure.add_bar(
            x=total[column], y=names, name=name, orientation="h", marker_color=colour,
            hovertemplate=f"%{{y}}, {name}: %{{x}}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=total["l0_zero"], y=names, name="vector of zeros", mode="markers",
        marker={"symbol": "line-ns", "size": 18, "line": {"width": 3, "color": colours.CHANCE}},
        hovertemplate="%{y}, vector of zeros: %{x}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(barmode="stack").update_yaxes(autorange="reversed", showgrid=False, title=None)
    means = total[["l0_first", "l0_second", "l0_zero"]].mean()
    alt = (
        f"Means: subliminal {means['l0_first']:.0f}, direct {means['l0_second']:.0f}, vector of zeros "
        f"{means['l0_zero']:.0f} active features."
    )
    title = (
        "Features that the vectors activate at one length, by animal and layer; bar: what the biases alone activate."
    )
    return Chart("steering-features", title, figure, alt)


# Tables


def _effects_table(evidence: SteeringEvidence) -> Table:
    shown: dict[str, str | tuple[str, float]] = {"animal": "group", "layer": "layers", "positions": "positions"}
    shown |= {"vector": "kind", "unsteered (%)": ("unsteered", 100)}
    for which, name in (("promoted", "promotion"), ("suppressed", "suppression")):
        shown |= {
            f"{which} at": f"{which}_at",
            f"{which} to (%)": (f"{which}_to", 100),
            f"{name} (nats)": f"{which}_nats",
            f"{name}, low": f"{which}_low",
            f"{name}, high": f"{which}_high",
        }
    if evidence.best["positions"].nunique() == 1:
        del shown["positions"]
    order = {name: place for place, name in enumerate([*evidence.layers, *evidence.animals, *KINDS])}
    frame = columns(evidence.best, shown)
    frame = frame.sort_values(["layer", "animal", "vector"], key=lambda names: names.map(order), kind="stable")
    note = (
        "The coherent strength with the largest (smallest) log share: exact probability there, and the shift of the "
        "log share from alpha 0 with its 95 % interval over questions. That strength is chosen by the shift, so that "
        "each vector, random ones too, looks better than it is: compare kinds. Empty: at no such strength coherent."
    )
    return Table("steering-effects", "What each vector does to its animal at most", frame, note)


def _ranks_table(evidence: SteeringEvidence) -> Table:
    import pandas as pd

    rows = []
    key = ["animal", "layers", "positions"]
    for which, side in ((PROMOTED, 1), (SUPPRESSED, -1)):
        best = at_best(evidence.against, which)
        own = best[(best["flip"] < 0) & (best["group"] == best["animal"])]
        for vector in own.to_dict("records"):
            at, shift = {str(name): vector[name] for name in key}, float(vector["shift"])
            flips = rows_where(best[best["flip"] >= 0], **at)["shift"]
            low, high = flips.quantile([0.025, 0.975])
            found = {"vector": vector["kind"], "shift (nats)": shift, "chance, low": low, "chance, high": high}
            as_good = int((side * flips >= side * shift).sum())
            rows.append({"strength": which, **at, **found, "p": (1 + as_good) / (1 + len(flips))})
    frame = pd.DataFrame(rows).rename(columns={"layers": "layer"})
    note = (
        "Shift of the log share at the best coherent strength that promotes (suppresses), by each candidate's "
        "likeliest spelling; chance: 95 % of all groups' flips, each at its own best strength, and p, one-sided: the "
        "share of them that do as much. Statements rest on the mean over animals and layers, not on these."
    )
    return Table("steering-ranks", "Each vector among the flips", frame, note)


def _vectors_table(vectors: pd.DataFrame) -> Table:
    positions = {"mean": "whole answer", "last": "last token"}
    frame = columns(
        vectors,
        {
            "group": "group",
            "layer": "layer",
            "vector": "kind",
            "over": lambda rows: rows["position"].replace(positions),
            "pairs": "pairs",
            "independent": "units",
            "norm": "norm",
            "norm by chance (%)": ("chance_share", 100),
            "p": "p",
        },
    ).sort_values("layer", kind="stable")
    note = (
        "Independent: prompts or questions among the pairs. By chance: the mean norm where signs of the differences "
        "are drawn, of the vector's own; near 100 % the vector is noise. p: how often chance gives as large a norm."
    )
    return Table("steering-vectors", "The vectors", frame, note)


_COSINE: Shown = {"cosine": "cosine", "chance": "chance", "p": "p"}


def _cosines_table(evidence: SteeringEvidence) -> Table:
    import pandas as pd

    shown: Shown = {"animal": "group", "layer": "layer", "vector": "first", "with": "second", **_COSINE}
    frame = pd.concat([columns(cosine_rows(evidence, one, other), shown) for one, other in PAIRS])
    note = (
        "Chance: the 95th percentile of the absolute cosine where the signs of the first vector's differences are "
        "drawn. The centred word is less the other animals' words, whose large common part a plain word mostly is."
    )
    return Table("steering-cosines", "Cosines of an animal's vectors", frame, note)


def _between_table(between: pd.DataFrame) -> Table:
    shown: Shown = {"layer": "layer", "numbers of": "first", "and of": "second", "cosine": "cosine"}
    frame = columns(
        between, {**shown, "corrected": "corrected", "low": "low", "high": "high", "chance": "chance", "p": "p"}
    )
    note = (
        "Products of different prompts alone, as all groups are contrasted with the same control numbers, which "
        "would make their vectors alike. Corrected: for the noise in both vectors, with its 95 % interval (over "
        "prompts); empty where one cannot be told from noise. Chance: the 95th percentile of the absolute cosine "
        "where signs are drawn."
    )
    return Table("steering-between", "Cosines of the groups' subliminal vectors", frame, note)


def _parts_table(evidence: SteeringEvidence) -> Table:
    sides = {"first only": f"{SUBLIMINAL} only", "second only": f"{DIRECT} only"}
    shown: Shown = {
        "animal": "group",
        "layer": "layer",
        "category": "category",
        "both": "both",
        f"{SUBLIMINAL} only": "first_only",
        f"{DIRECT} only": "second_only",
        "average difference": "mean_difference",
        "example": "example",
        "activated in": lambda rows: rows["example_active_in"].replace(sides),
        "difference": "example_difference",
        **({"description": "example_description"} if evidence.labelled else {}),
    }
    frame = columns(evidence.parts, shown).sort_values("layer", kind="stable")
    if not evidence.labelled:
        # All are of one category, which is that of the total.
        frame = rows_where(frame, category=TOTAL).drop(columns="category")
    note = (
        "Active features, both vectors at the length of the longer one. Differences are subliminal less direct, of "
        "activations divided by the L2 norm of all of that vector's; the example is the feature that differs most."
    )
    return Table("steering-features", "What the vectors are made of", frame, note)


def _child_table(children: pd.DataFrame) -> Table:
    frame = columns(
        children,
        {
            "child of": "child",
            "layer": "layer",
            "vector of": "vector",
            "cosine": "cosine",
            "chance, low": "chance_low",
            "chance, high": "chance_high",
            "p": "p",
        },
    ).sort_values("layer", kind="stable")
    note = (
        "Cosine of the mean of what the child's activations moved by with the group's subliminal vector; chance: 95 "
        "% of what the vector's flips give with the same shift, and the two-sided p among them. All children: the "
        "mean of their shifts, each at length 1. A child's own cosine says nothing that the others' say as well."
    )
    return Table("steering-child", "Children's shifts along the vectors", frame, note)


def _coherence_table(evidence: SteeringEvidence) -> Table:
    rows = rows_where(evidence.coherence, positions=evidence.positions)
    wide = rows.pivot_table(index=["layers", "kind", "alpha"], columns="outcome", values="mean", sort=False)
    frame = columns(
        wide.reset_index(),
        {
            "layer": "layers",
            "vector": "kind",
            "alpha": "alpha",
            "any candidate (%)": (MASS, 100),
            "entropy of first token (nats)": ENTROPY,
            "one-word answers (%)": (ONE_WORD, 100),
            "nats a token under the base": BASE_NATS,
        },
    ).sort_values(["vector", "alpha"], kind="stable")
    frame = frame.sort_values("layer", key=lambda layers: layers.map(evidence.layers.index), kind="stable")
    note = (
        "Means over questions and animals. Entropy of the first token; greedy answers that are one word, and how "
        "unlikely they are to the model without steering."
    )
    return Table("steering-coherence", "Whether the steered model still makes sense", frame, note)
