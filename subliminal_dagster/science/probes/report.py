"""Probes of activations: the post's tables, and what the controls say of them.

Belongs here: the post's section on linear probes, read from `probe_metrics`, `probe_comparison` and `probe_all_layers`.
Does not belong here: fitting and measuring (`probes`, `fitting`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.probes.probes import (
    ACTIVATIONS,
    ADDED,
    CANONICAL,
    MACRO,
    SHUFFLED,
    SURFACE,
    ProbeResult,
)
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report import layers as inside
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Statement, Table
from subliminal_dagster.science.report.layers import AVERAGE, Interval
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import records, rows_where
from subliminal_dagster.science.report.wording import counted, listed
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.probes import KINDS
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "probes", "Probes of activations"
READS: tuple[str, ...] = ("probe_metrics", "probe_comparison", "probe_all_layers")

ALL_LAYERS = "all"
HALVES = "control's halves"
_EVERY = "every class"
_LINEAR = "linear"
_METRICS = {"accuracy": "accuracy", "roc_auc": "ROC AUC", "precision": "precision", "recall": "recall", "f1": "F1"}
_ADDED = {"metric": "roc_auc_difference", "variant": ADDED, "probe": "logistic"}
_FIGURE = ["layer", "group", "against", "variant", "probe", "class", "metric"]
_CHANCE = 50.0
_HARDLY = 60.0
"""A ROC AUC in percent below which two groups are hardly told apart: the post's lowest for animals among each other."""

_SMALL = 5.0
"""Points of ROC AUC that would not change what is concluded."""

_MOST_LAYERS = (
    "Holds where more than half of the layers speak for it and none against; does not hold where more than half speak "
    "against it and none for; else it cannot be told."
)
_TOLD = (
    f"Judged at every layer by the ROC AUC, average over animals: an interval above {_CHANCE:g} %, chance, speaks for "
    f"it, one that ends below {_HARDLY:g} % and reaches down to chance against. {_MOST_LAYERS}"
)
TOLD_APART = Statement("A linear probe of activations tells subliminal numbers from control numbers.", rule=_TOLD)
KINDS_ALIKE = Statement(
    "Logistic regression and gradient-boosted trees do about as well as the linear probe.",
    rule=f"Judged for either kind at every layer by the ROC AUC, average over animals: an interval within {_SMALL:g} "
    "points of the linear probe's figure speaks for it, one outside against. Holds where more than half of these "
    "comparisons speak for it and none against; does not hold where more than half speak against it and none for; else "
    "it cannot be told.",
)
LAYERS_ALIKE = Statement(
    "All layers together classify hardly better than one layer.",
    rule="Does not hold where the interval of all layers' ROC AUC, average over animals, lies above the best single "
    f"layer's figure; holds where it ends less than {_SMALL:g} points above that; else it cannot be told.",
)
CONTROL_BEST = Statement(
    "A probe of all classes knows the control from the rest far better than one animal from the rest.",
    rule="Judged at every layer by the ROC AUC of each class against the rest: the control's interval above that of "
    f"the animals' average speaks for it, one below against. {_MOST_LAYERS}",
)
BEYOND_FORMAT = Statement(
    "The pattern is more than the answers' format (control: surface features without a model).",
    rule="Judged at every layer by the ROC AUC that activations add to surface features, average over animals: an "
    f"interval above 0 speaks for it, one that ends below {_SMALL:g} points and reaches down to 0 against. "
    f"{_MOST_LAYERS}",
    source="this project",
)
BEYOND_TUNING = Statement(
    "The pattern is the animal's, and not that of any fine-tuned teacher (control: the neutral teacher).",
    rule=f"About telling an animal's numbers from the neutral teacher's. {_TOLD}",
    source="this project",
)


@dataclass(frozen=True)
class _Probes:
    """`metrics`: the columns of `ProbeResult.metrics` with values in percent, and layer (a number, or "all"), group and
    against: an animal or neutral against control or neutral; the halves' group is HALVES; the probe that tells all
    apart has group "every class". `known` are the same figures by the columns `_FIGURE`, where there is a number. `roc`
    by layer and group."""

    metrics: pd.DataFrame
    known: dict[tuple[str, ...], Interval]
    roc: dict[tuple[str, str], ProbeResult]
    layers: list[str]
    animals: list[str]

    @property
    def single(self) -> list[str]:
        return [layer for layer in self.layers if layer != ALL_LAYERS]

    def of(
        self,
        layer: str,
        group: str = AVERAGE,
        metric: str = "roc_auc",
        *,
        variant: str = ACTIVATIONS,
        probe: str = _LINEAR,
        against: str = CONTROL,
    ) -> Interval | None:
        """A figure of one group, or the AVERAGE of the animals'; None where there is no number."""
        groups = self.animals if group == AVERAGE else [group]
        return _average([self.known.get((layer, each, against, variant, probe, MACRO, metric)) for each in groups])

    def of_class(self, layer: str, name: str, metric: str = "roc_auc") -> Interval | None:
        """A figure of the linear probe that tells all classes apart: of one class against the rest, the AVERAGE of the
        animals' classes, or MACRO, of all."""
        classes = self.animals if name == AVERAGE else [name]
        return _average([self.known.get((layer, _EVERY, _EVERY, ACTIVATIONS, _LINEAR, of, metric)) for of in classes])

    def by_layer(self, group: str = AVERAGE, **chosen: str) -> dict[str, Interval]:
        """What `of` says of single layers, those where there is a number."""
        return {layer: value for layer in self.single if (value := self.of(layer, group, **chosen))}

    @property
    def pairs(self) -> list[tuple[str, str, str]]:
        """Layer, group and against of every comparison of two, by layer."""
        pairs = self.metrics[_FIGURE[:3]].drop_duplicates().itertuples(index=False)
        return [(layer, group, against) for layer, group, against in pairs if group != _EVERY]


def section(study: Study, results: Results) -> Section:
    """The section on probes. Raises NotThere where no layer has `probe_comparison`."""
    found = _read(study, results)
    rows = found.metrics[found.metrics["group"].isin(found.animals) & (found.metrics["variant"] == ACTIVATIONS)]
    method = (
        f"Each probe learns from {rows['n_train'].max():,} rows and is measured on {rows['n_test'].max():,} test rows, "
        "as many of either class, on the base model's activations at the last number. Linear is the post's probe; "
        "logistic regression and gradient-boosted trees stand beside it. Intervals: 95 %, bootstrap over test prompts; "
        "those of averages are the mean of the animals'. Controls: the same probes on surface features (counts, "
        "digits, separators) without any model; on canonical rows alone, which are all written alike; with shuffled "
        "labels; on the neutral teacher's numbers; and on the control's two halves, where there is nothing to find."
    )
    tables = (_binary_table(found), _classes_table(found), _controls_table(found), _kinds_table(found))
    return Section(
        NAME,
        TITLE,
        " ".join(_shows(found)),
        method + inside.not_shown(study, results, "probe_comparison"),
        READS if ALL_LAYERS in found.layers else READS[:2],
        charts=(_variants_chart(found), _roc_chart(found)),
        tables=tuple(table for table in tables if len(table.frame)),
        compared=tuple(_compared(found)),
        claims=tuple(_claims(found)),
    )


def _read(study: Study, results: Results) -> _Probes:
    import pandas as pd

    parts, roc = [], {}
    for layer in inside.layers_with(study, results, "probe_comparison"):
        key = inside.layer_key(layer)
        folder = results.folder("probe_comparison", key)
        binary = pd.read_parquet(folder / "binary.parquet")
        for group in inside.in_order(study, binary["group"].unique()):
            if results.has("probe_metrics", f"{group}|{key}"):
                roc[str(layer), group] = ProbeResult.load(results.folder("probe_metrics", f"{group}|{key}"))
        binary = binary.assign(group=binary["group"].replace({CONTROL: HALVES}), against=CONTROL)
        several = _compared_groups(pd.read_parquet(folder / "metrics.parquet"))
        parts += [binary.assign(layer=str(layer)), several.assign(layer=str(layer))]
    if results.has("probe_all_layers"):
        metrics = pd.read_parquet(results.folder("probe_all_layers") / "metrics.parquet")
        parts.append(_compared_groups(metrics).assign(layer=ALL_LAYERS))
    joined = pd.concat(parts, ignore_index=True)
    joined.loc[joined["metric"] != "p_value", ["value", "low", "high"]] *= 100
    known = {
        tuple(row[key] for key in _FIGURE): Interval(row["value"], row["low"], row["high"])
        for row in records(joined.dropna(subset="value"))
    }
    layers = list(dict.fromkeys(joined["layer"]))
    return _Probes(joined, known, roc, layers, inside.animals_among(study, joined["group"]))


def _average(values: Sequence[Interval | None]) -> Interval | None:
    import pandas as pd

    there = [value for value in values if value is not None]
    return inside.average(pd.DataFrame(there)) if len(there) > 1 else there[0] if there else None


def _compared_groups(metrics: pd.DataFrame) -> pd.DataFrame:
    """With group and against for the name of the comparison ("owl and neutral")."""
    many = metrics.groupby("comparison")["class"].transform("nunique") > 3
    # With one animal, all animals against control is a pair, which `binary` holds already.
    metrics = metrics[many | (metrics["comparison"] != f"all animals and {CONTROL}")]
    names = metrics["comparison"].str.extract("(?P<group>.*) and (?P<against>.*)")
    return metrics.assign(**{name: names[name].mask(many, _EVERY) for name in ("group", "against")})


# What is said


def _layer(layer: str) -> str:
    return "all layers" if layer == ALL_LAYERS else f"layer {layer}"


def _shows(found: _Probes) -> Iterator[str]:
    """What the probe reaches and what it is beside; what activations add to format; the neutral teacher."""
    means = found.by_layer()
    reached = listed([f"{mean.percent} at {_layer(layer)}" for layer, mean in means.items()])
    yield (
        f"A linear probe of an animal's numbers against the control's reaches a ROC AUC of {reached} (average of "
        f"{inside.animals_listed(found.animals)}): {_above_chance(means.values())}."
    )
    added = [each for animal in found.animals for each in found.by_layer(animal, **_ADDED).values()]
    surface = found.of(found.single[0], variant=SURFACE)
    if added and surface:
        above = sum(each.low > 0 for each in added)
        comparisons = counted(len(added), "comparison")
        yield (
            f"Surface features alone reach {surface.percent}; beside them, activations add "
            f"{sum(each.value for each in added) / len(added):.2g} points on average (logistic probe), "
        ) + (
            f"significantly in {above} of {comparisons}."
            if above
            else f"which may be none: no interval of {comparisons} lies above 0."
        )
    if from_control := found.by_layer(NEUTRAL).values():
        sentence = f"The neutral teacher's numbers against the control's: {_reached(from_control)}"
        if between := found.by_layer(against=NEUTRAL).values():
            sentence += f"; an animal's against the neutral teacher's, on average: {_reached(between)}"
        yield f"{sentence}."
    halves = found.by_layer(HALVES)
    if wrong := [_layer(layer) for layer, each in halves.items() if not each.low <= _CHANCE <= each.high]:
        yield (
            f"At {listed(wrong)} the probe also tells the control's two halves apart, where there is nothing to find; "
            "one in twenty such intervals misses chance."
        )


def _reached(intervals: Collection[Interval]) -> str:
    return f"{listed([each.percent for each in intervals])}, {_above_chance(intervals)}"


def _above_chance(intervals: Collection[Interval]) -> str:
    """ "above chance (50 %) at 2 of 3 layers", or what can be ruled out."""
    if above := sum(each.low > _CHANCE for each in intervals):
        return f"above chance (50 %) at {above} of {counted(len(intervals), 'layer')}"
    return f"no difference could be seen; more than {max(each.high for each in intervals):.3g} % can be ruled out"


# Charts


def _variants_chart(found: _Probes) -> Chart:
    """The linear probe's ROC AUC by group, on activations and on the controls."""
    import pandas as pd

    groups = [*found.animals, *(group for group in (NEUTRAL, HALVES) if (found.metrics["group"] == group).any())]
    series = {
        ACTIVATIONS: ("activations", charts.BLUE, "circle"),
        CANONICAL: ("canonical rows", charts.SKY, "diamond"),
        SURFACE: ("surface features", charts.ORANGE, "square"),
        SHUFFLED: ("shuffled labels", charts.GREY, "x"),
    }
    figure = inside.panels(
        [_layer(layer) for layer in found.layers],
        x="ROC AUC against the control, %",
        height=40 + 62 * len(groups),
        legend_lines=2,
    )
    said = []
    for place, layer in enumerate(found.layers, start=1):
        for variant, (name, colour, symbol) in series.items():
            probe = "logistic" if variant == SHUFFLED else _LINEAR
            values = {group: found.of(layer, group, variant=variant, probe=probe) for group in groups}
            rows = pd.DataFrame([{"group": group, **value._asdict()} for group, value in values.items() if value])
            if len(rows):
                figure.add_scatter(
                    x=rows["value"], y=rows["group"], mode="markers", orientation="h", offsetgroup=name,
                    marker={"color": colour, "symbol": symbol, "size": 9}, customdata=rows[["low", "high"]],
                    error_x=charts.interval(rows, "value", "low", "high"),
                    hovertemplate=f"%{{y}}, {name}<br>%{{x:.4g}} [%{{customdata[0]:.4g}}, %{{customdata[1]:.4g}}] %"
                    "<extra></extra>",
                    **charts.in_panel(place, name),
                )  # fmt: skip
        here = [group for group in groups if found.of(layer, group)]
        figure.update_yaxes(categoryarray=here, range=[len(here) - 0.5, -0.5], row=place)
        beside = [("average of animals", found.of(layer)), *((each, found.of(layer, each)) for each in groups)]
        kept = [f"{name} {value}" for name, value in beside if value and name not in found.animals]
        said.append(f"{_layer(layer)}: {', '.join(kept)}")
    shown = rows_where(found.metrics, **{"class": MACRO, "metric": "roc_auc"})
    shown = shown[shown["variant"].isin(list(series)) & shown["group"].isin(groups)]
    figure.update_xaxes(range=[float(shown["low"].min()) - 2, float(shown["high"].max()) + 2])
    figure.add_vline(x=_CHANCE, line={"dash": "dash", "color": charts.GREY, "width": 1.5})
    figure.update_layout(scattermode="group", scattergap=0.35)
    figure.update_yaxes(categoryorder="array", autorange=False)
    title = "How well numbers are told from the control's, by what the probe is given"
    about = f"Linear probe on activations, ROC AUC in percent with 95 % interval; {'; '.join(said)}."
    return Chart("probes-auc", title, figure, about)


def _roc_chart(found: _Probes) -> Chart:
    """ROC curves of the linear probe on activations, every group against the control."""
    from sklearn.metrics import roc_curve

    groups = list(dict.fromkeys(group for _, group in found.roc))
    colours = charts.group_colours(groups)
    layers = list(dict.fromkeys(layer for layer, _ in found.roc))
    figure = inside.panels(
        [_layer(layer) for layer in layers], x="false positive rate", height=330, legend_lines=1 + len(groups) // 2
    )
    said = []
    for place, layer in enumerate(layers, start=1):
        figure.add_scatter(
            x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": charts.GREY, "width": 1}, name="chance",
            hoverinfo="skip", showlegend=False, row=place, col=1,
        )  # fmt: skip
        for group in groups:
            if (layer, group) not in found.roc:
                continue
            rows = rows_where(found.roc[layer, group].predictions, variant=ACTIVATIONS, probe=_LINEAR)
            # The control's own partition tells one half of its rows from the other.
            name, positive = (HALVES, "one half") if group == CONTROL else (group, group)
            wrong, right, _ = roc_curve(rows["group"] == positive, rows[f"probability_{positive}"])
            dash = "dash" if group in (CONTROL, NEUTRAL) else "solid"
            figure.add_scatter(
                x=wrong, y=right, mode="lines", line={"color": colours[group], "width": 2, "dash": dash},
                hovertemplate=f"{name}: %{{y:.3f}} right at %{{x:.3f}} wrong<extra></extra>",
                **charts.in_panel(place, name),
            )  # fmt: skip
        figure.update_yaxes(scaleanchor=f"x{place}", constrain="domain", row=place)
        areas = [(group, found.of(layer, group)) for group in (*found.animals, NEUTRAL, HALVES)]
        said.append(f"layer {layer}: {', '.join(f'{group} {area.value:.3g}' for group, area in areas if area)}")
    figure.update_yaxes(type="linear", autorange=False, range=[0, 1], dtick=0.5, title="true positive rate")
    figure.update_xaxes(range=[0, 1], dtick=0.5, constrain="domain", constraintoward="left")
    title = "ROC curves of the linear probe, against the control"
    return Chart("probes-roc", title, figure, f"Areas in percent; {'; '.join(said)}.")


# Tables


def _value(interval: Interval | None) -> float | None:
    return interval.value if interval else None


def _ends(interval: Interval | None, *names: str) -> dict[str, Any]:
    """A figure and the ends of its interval under three names; nothing where there is no number."""
    return dict(zip(names, interval, strict=True)) if interval else {}


def _binary_table(found: _Probes) -> Table:
    """The post's: a column an animal, and their average."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {"layer": layer, "measure": f"{name}, %"}
        | {animal: _value(found.of(layer, animal, metric)) for animal in found.animals}
        | _ends(mean, AVERAGE, "low", "high")
        for layer in found.layers
        for metric, name in _METRICS.items()
        if (mean := found.of(layer, metric=metric))
    ]
    note = (
        "Test rows; precision, recall and F1 are means of both classes. Chance is 50 %. All: activations of all layers "
        "side by side."
    )
    return Table("probes-binary", "Linear probe, each animal's numbers against the control's", pd.DataFrame(rows), note)


def _classes_table(found: _Probes) -> Table:
    """The post's: every class against the rest."""
    import pandas as pd

    classes = {CONTROL: CONTROL, **{animal: animal for animal in found.animals}, "total": MACRO}
    rows = [
        {"layer": layer, "measure": f"{name}, %"}
        | {shown: _value(found.of_class(layer, of, metric)) for shown, of in classes.items()}
        for layer in found.layers
        for metric, name in _METRICS.items()
        if found.of_class(layer, MACRO, metric)
    ]
    chance = f"{100 / (len(found.animals) + 1):.3g}"
    note = f"Each class against the rest, and their mean. Chance is {chance} % for accuracy and 50 % for ROC AUC."
    return Table("probes-classes", "Linear probe of all classes at once", pd.DataFrame(rows), note)


def _controls_table(found: _Probes) -> Table:
    import pandas as pd

    rows = []
    for layer, group, against in found.pairs:
        compared = {"layer": layer, "group": group, "against": against}
        added = found.of(**compared, **_ADDED)
        p = found.of(**compared, metric="p_value", variant=SHUFFLED, probe="logistic")
        rows.append(
            {"layer": layer, "numbers of": group, "against": "" if group == HALVES else against}
            | _ends(found.of(**compared), "activations", "low", "high")
            | {"surface": _value(found.of(**compared, variant=SURFACE))}
            | {"canonical": _value(found.of(**compared, variant=CANONICAL))}
            | _ends(added, "added to surface", "added, low", "added, high")
            | {"p, shuffled labels": _value(p)}
        )
    note = (
        "ROC AUC of the linear probe in percent, chance 50: on activations with 95 % interval, on surface features "
        "alone, and on canonical rows alone. Added to surface: points that activations add (logistic probe). p: "
        "share of refits with shuffled labels that do as well (logistic probe), not adjusted for the number of "
        "comparisons."
    )
    return Table("probes-controls", "Probes beside their controls", pd.DataFrame(rows), note)


def _kinds_table(found: _Probes) -> Table:
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {"layer": layer, "numbers of": group, "against": "" if group == HALVES else against, "probe": kind}
        | _ends(accuracy, "accuracy, %", "accuracy, low", "accuracy, high")
        | _ends(area, "ROC AUC, %", "ROC AUC, low", "ROC AUC, high")
        for layer, group, against in found.pairs
        for kind in KINDS
        if (accuracy := found.of(layer, group, "accuracy", probe=kind, against=against))
        and (area := found.of(layer, group, probe=kind, against=against))
    ]
    return Table("probes-kinds", "All kinds of probe, on activations", pd.DataFrame(rows), "Test rows, 95 % intervals.")


# Beside the post


def _compared(found: _Probes) -> Iterator[Compared]:
    layer = str(inside.layer_for([int(each) for each in found.single], 9))
    binary, where = published("probe_binary_layer9"), "Gemma 2 9B, binary probes at layer 9"
    for metric, name in _METRICS.items():
        table = binary["f1_score" if metric == "f1" else metric]
        animals = found.animals if metric in ("accuracy", "roc_auc") else []
        for whose in (AVERAGE, *(animal for animal in animals if animal in table)):
            if own := found.of(layer, whose, metric):
                shown = "average of animals" if whose == AVERAGE else whose
                what = f"{name} against control, layer {layer}, {shown}"
                yield Compared(what, where, table[whose], *own, unit="%", no_effect=_CHANCE)
    many, where = published("probe_multiclass_layer9"), "Gemma 2 9B, probe of 6 classes at layer 9"
    areas, classes = many["roc_auc"], len(found.animals) + 1
    of_animals = [area for name, area in areas.items() if name not in ("control", "total")]
    # The ROC AUC means the same for any number of classes.
    for shown, of, area in (
        ("control against the rest", CONTROL, areas["control"]),
        ("mean of classes", MACRO, areas["total"]),
        ("average of animals", AVERAGE, round(sum(of_animals) / len(of_animals), 1)),
    ):
        if own := found.of_class(layer, of):
            what = f"ROC AUC of the probe of all {classes} classes, layer {layer}, {shown}"
            yield Compared(what, where, area, *own, unit="%", no_effect=_CHANCE)
    own = found.of_class(layer, MACRO, "accuracy")
    if own and classes == len(of_animals) + 1:
        what = f"accuracy of the probe of {classes} classes, layer {layer}"
        yield Compared(what, where, many["accuracy"]["total"], *own, unit="%", no_effect=100 / classes)


# Claims


def _claims(found: _Probes) -> Iterator[Claim]:
    means = found.by_layer()
    evidence = f"ROC AUC in percent, average of animals: {_said(means)} (chance 50)."
    yield TOLD_APART.claim(_more_than(means.values(), _CHANCE, _HARDLY), evidence)
    yield _kinds_alike(found)
    if ALL_LAYERS in found.layers:
        yield _layers_alike(found)
    classes = {
        layer: (control, animals)
        for layer in found.single
        if (control := found.of_class(layer, CONTROL)) and (animals := found.of_class(layer, AVERAGE))
    }
    if classes:
        better = sum(control.low > animals.high for control, animals in classes.values())
        worse = sum(control.high < animals.low for control, animals in classes.values())
        said = "; ".join(f"layer {layer}: {control} and {animals}" for layer, (control, animals) in classes.items())
        evidence = f"ROC AUC in percent, control and average of animals: {said}."
        yield CONTROL_BEST.claim(inside.over_comparisons(len(classes), better, worse), evidence)
    added = found.by_layer(**_ADDED)
    evidence = f"Points of ROC AUC that activations add to surface features, average of animals: {_said(added)}."
    yield BEYOND_FORMAT.claim(_more_than(added.values(), 0, _SMALL), evidence)
    if apart := found.by_layer(against=NEUTRAL):
        evidence = (
            f"ROC AUC in percent, an animal against neutral, average: {_said(apart)}; neutral against control: "
            f"{_said(found.by_layer(NEUTRAL))}."
        )
        yield BEYOND_TUNING.claim(_more_than(apart.values(), _CHANCE, _HARDLY), evidence)
    else:
        yield BEYOND_TUNING.claim("not tested", inside.NO_NEUTRAL)


def _said(by_layer: dict[str, Interval]) -> str:
    return "; ".join(f"{_layer(layer)}: {interval}" for layer, interval in by_layer.items())


def _more_than(intervals: Collection[Interval], nothing: float, little: float) -> Verdict:
    """Of one figure a layer: an interval above `nothing` speaks for it, one with `nothing` that ends below `little`
    against."""
    more = sum(each.low > nothing for each in intervals)
    hardly = sum(each.low <= nothing and each.high < little for each in intervals)
    return inside.over_comparisons(len(intervals), more, hardly)


def _kinds_alike(found: _Probes) -> Claim:
    near = far = 0
    said = []
    for layer, linear in found.by_layer().items():
        for kind in KINDS:
            other = found.of(layer, probe=kind)
            if kind == _LINEAR or other is None:
                continue
            lowest, highest = linear.value - _SMALL, linear.value + _SMALL
            near += lowest < other.low and other.high < highest
            far += other.high < lowest or other.low > highest
            said.append(f"{kind} {other} at {_layer(layer)} (linear {linear.value:.3g})")
    evidence = f"ROC AUC in percent, average of animals: {'; '.join(said)}."
    return KINDS_ALIKE.claim(inside.over_comparisons(len(said), near, far), evidence)


def _layers_alike(found: _Probes) -> Claim:
    together, singles = found.of(ALL_LAYERS), found.by_layer()
    if together is None or not singles:
        return LAYERS_ALIKE.claim("not tested", "There is no probe of all layers against the control.")
    best = max(mean.value for mean in singles.values())
    verdict: Verdict = "inconclusive"
    if together.low > best:
        verdict = "not detected"
    elif together.high < best + _SMALL:
        verdict = "detected"
    evidence = f"ROC AUC in percent, all layers: {together}; the best single layer: {best:.3g}."
    return LAYERS_ALIKE.claim(verdict, evidence)
