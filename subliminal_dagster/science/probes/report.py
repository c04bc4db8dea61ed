"""Probes of activations: the post's tables, and what the controls say of them.

Belongs here: the post's section on linear probes, read from `probe_metrics`, `probe_comparison` and `probe_all_layers`.
Does not belong here: fitting and measuring (`probes` of the library).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Table, Verdict
from subliminal_dagster.science.report.layers import AVERAGE, Interval
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import records
from subliminal_dagster.science.report.wording import counted, listed
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.probes import KINDS
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "probes", "Probes of activations"

ALL_LAYERS = "all"
HALVES = "control's halves"
_EVERY = "every class"
_LINEAR = "linear"
_METRICS = {"accuracy": "accuracy", "roc_auc": "ROC AUC", "precision": "precision", "recall": "recall", "f1": "F1"}
_PUBLISHED = {"f1": "f1_score"}
_CHANCE = 50.0
_HARDLY = 60.0
"""A ROC AUC in percent below which two groups are hardly told apart: the post's lowest for animals among each other."""

_SMALL = 5.0
"""Points of ROC AUC that would not change what is concluded."""


@dataclass(frozen=True)
class _Probes:
    """`metrics`: the columns of `ProbeResult.metrics` with values in percent, and layer (a number, or "all"), group and
    against: an animal or neutral against control or neutral; the halves' group is HALVES; the probe that tells all
    apart has group "every class". `known` are the same figures by (layer, group, against, variant, probe, class,
    metric), where there is a number. `roc` by layer and group."""

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
        group: str,
        metric: str = "roc_auc",
        *,
        variant: str = ACTIVATIONS,
        probe: str = _LINEAR,
        against: str = CONTROL,
        of: str = MACRO,
    ) -> Interval | None:
        return self.known.get((layer, group, against, variant, probe, of, metric))

    def mean(self, layer: str, metric: str = "roc_auc", **chosen: str) -> Interval | None:
        """Over the animals, of one layer; None where there is no number."""
        return _average([self.of(layer, animal, metric, **chosen) for animal in self.animals])


def probes_section(study: Study, results: Results) -> Section:
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
    all_layers = ("probe_all_layers",) if ALL_LAYERS in found.layers else ()
    return Section(
        NAME,
        TITLE,
        " ".join(_shows(found)),
        method + inside.not_shown(study, results, "probe_comparison"),
        ("probe_metrics", "probe_comparison", *all_layers),
        charts=(_variants_chart(found), _roc_chart(found)),
        tables=tuple(
            table
            for table in (
                _binary_table(found),
                _classes_table(found),
                _controls_table(found),
                _kinds_table(found),
            )
            if len(table.frame)
        ),
        compared=tuple(_compared(found)),
        claims=tuple(_claims(found)),
    )


def _read(study: Study, results: Results) -> _Probes:
    import pandas as pd

    parts, roc = [], {}
    layers = inside.layers_with(study, results, "probe_comparison")
    for layer in layers:
        key = inside.layer_key(layer)
        folder = results.folder("probe_comparison", key)
        binary = pd.read_parquet(folder / "binary.parquet")
        binary["against"] = CONTROL
        binary["group"] = binary["group"].replace({CONTROL: HALVES})
        several = _compared_groups(pd.read_parquet(folder / "metrics.parquet"))
        parts += [binary.assign(layer=str(layer)), several.assign(layer=str(layer))]
        for group in inside.in_order(study, pd.read_parquet(folder / "binary.parquet")["group"].unique()):
            if results.has("probe_metrics", f"{group}|{key}"):
                roc[str(layer), group] = ProbeResult.load(results.folder("probe_metrics", f"{group}|{key}"))
    named = [str(layer) for layer in layers]
    if results.has("probe_all_layers"):
        metrics = pd.read_parquet(results.folder("probe_all_layers") / "metrics.parquet")
        parts.append(_compared_groups(metrics).assign(layer=ALL_LAYERS))
        named.append(ALL_LAYERS)
    joined = pd.concat(parts, ignore_index=True)
    percent = joined["metric"] != "p_value"
    joined.loc[percent, ["value", "low", "high"]] *= 100
    keys = ["layer", "group", "against", "variant", "probe", "class", "metric"]
    known = {
        tuple(row[key] for key in keys): Interval(row["value"], row["low"], row["high"])
        for row in records(joined.dropna(subset="value"))
    }
    return _Probes(joined, known, roc, named, inside.animals_among(study, joined["group"]))


def _average(values: Sequence[Interval | None]) -> Interval | None:
    import pandas as pd

    there = [value for value in values if value is not None]
    return inside.average(pd.DataFrame(there)) if there else None


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


def _shows(found: _Probes) -> list[str]:
    """What the probe reaches and what it is beside; what activations add to format; the neutral teacher."""
    means = [(layer, mean) for layer in found.single if (mean := found.mean(layer))]
    reached = listed([f"{mean.percent} at {_layer(layer)}" for layer, mean in means])
    sentences = [
        f"A linear probe of an animal's numbers against the control's reaches a ROC AUC of {reached} (average of "
        f"{inside.animals_listed(found.animals)}): {_above_chance([mean for _, mean in means])}."
    ]
    added = _added(found)
    surface = found.mean(found.single[0], variant=SURFACE)
    if added and surface:
        above = sum(each.low > 0 for each in added)
        sentences.append(
            f"Surface features alone reach {surface.percent}; beside them, activations add "
            f"{sum(each.value for each in added) / len(added):.2g} points on average (logistic probe), "
            + (
                f"significantly in {above} of {counted(len(added), 'comparison')}."
                if above
                else f"which may be none: no interval of {counted(len(added), 'comparison')} lies above 0."
            )
        )
    if sentence := _neutral_sentence(found):
        sentences.append(sentence)
    wrong = [layer for layer in found.single if (h := found.of(layer, HALVES)) and not h.low <= _CHANCE <= h.high]
    if wrong:
        sentences.append(
            f"At {listed([_layer(layer) for layer in wrong])} the probe also tells the control's two halves "
            "apart, where there is nothing to find; one in twenty such intervals misses chance."
        )
    return sentences


def _above_chance(intervals: Sequence[Interval]) -> str:
    """ "above chance (50 %) at 2 of 3 layers", or what can be ruled out."""
    above = sum(each.low > _CHANCE for each in intervals)
    if above:
        return f"above chance (50 %) at {above} of {counted(len(intervals), 'layer')}"
    return f"no difference could be seen; more than {max(each.high for each in intervals):.3g} % can be ruled out"


def _neutral_sentence(found: _Probes) -> str | None:
    against_control = [value for layer in found.single if (value := found.of(layer, NEUTRAL))]
    if not against_control:
        return None
    sentence = (
        "The neutral teacher's numbers against the control's: "
        f"{listed([value.percent for value in against_control])}, {_above_chance(against_control)}"
    )
    between = [value for layer in found.single if (value := found.mean(layer, against=NEUTRAL))]
    if between:
        sentence += (
            "; an animal's against the neutral teacher's, on average: "
            f"{listed([value.percent for value in between])}, {_above_chance(between)}"
        )
    return f"{sentence}."


def _added(found: _Probes) -> list[Interval]:
    """What activations add to surface features, an animal and layer each."""
    every = [
        found.of(layer, animal, "roc_auc_difference", variant=ADDED, probe="logistic")
        for layer in found.single
        for animal in found.animals
    ]
    return [value for value in every if value is not None]


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
    for place, layer in enumerate(found.layers, start=1):
        for variant, (name, colour, symbol) in series.items():
            probe = "logistic" if variant == SHUFFLED else _LINEAR
            values = {group: found.of(layer, group, variant=variant, probe=probe) for group in groups}
            rows = pd.DataFrame([{"group": group, **value._asdict()} for group, value in values.items() if value])
            if not len(rows):
                continue
            figure.add_scatter(
                x=rows["value"], y=rows["group"], mode="markers", orientation="h", name=name, legendgroup=name,
                showlegend=place == 1, offsetgroup=name, marker={"color": colour, "symbol": symbol, "size": 9},
                error_x=charts.interval(rows, "value", "low", "high"), customdata=rows[["low", "high"]],
                hovertemplate=f"%{{y}}, {name}<br>%{{x:.4g}} [%{{customdata[0]:.4g}}, %{{customdata[1]:.4g}}] %"
                "<extra></extra>",
                row=place, col=1,
            )  # fmt: skip
        here = [group for group in groups if found.of(layer, group)]
        figure.update_yaxes(categoryarray=here, range=[len(here) - 0.5, -0.5], row=place)
    shown = found.metrics[(found.metrics["class"] == MACRO) & (found.metrics["metric"] == "roc_auc")]
    shown = shown[shown["variant"].isin(list(series)) & shown["group"].isin(groups)]
    figure.update_xaxes(range=[float(shown["low"].min()) - 2, float(shown["high"].max()) + 2])
    figure.add_vline(x=_CHANCE, line={"dash": "dash", "color": charts.GREY, "width": 1.5})
    figure.update_layout(scattermode="group", scattergap=0.35)
    figure.update_yaxes(categoryorder="array", autorange=False)
    said = []
    for layer in found.layers:
        beside = [("average of animals", found.mean(layer))]
        beside += [(group, found.of(layer, group)) for group in (NEUTRAL, HALVES)]
        said.append(f"{_layer(layer)}: {', '.join(f'{name} {value}' for name, value in beside if value)}")
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
    for place, layer in enumerate(layers, start=1):
        figure.add_scatter(
            x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": charts.GREY, "width": 1}, name="chance",
            hoverinfo="skip", showlegend=False, row=place, col=1,
        )  # fmt: skip
        for group in groups:
            if (layer, group) not in found.roc:
                continue
            rows = found.roc[layer, group].predictions
            rows = rows[(rows["variant"] == ACTIVATIONS) & (rows["probe"] == _LINEAR)]
            # The control's own partition tells one half of its rows from the other.
            positive = "one half" if group == CONTROL else group
            wrong, right, _ = roc_curve(rows["group"] == positive, rows[f"probability_{positive}"])
            name = HALVES if group == CONTROL else group
            figure.add_scatter(
                x=wrong, y=right, mode="lines", name=name, legendgroup=name, showlegend=place == 1,
                line={"color": colours[group], "width": 2, "dash": "dash" if group in (CONTROL, NEUTRAL) else "solid"},
                hovertemplate=f"{name}: %{{y:.3f}} right at %{{x:.3f}} wrong<extra></extra>", row=place, col=1,
            )  # fmt: skip
    for place in range(1, len(layers) + 1):
        figure.update_yaxes(scaleanchor=f"x{place}", constrain="domain", row=place)
    figure.update_yaxes(type="linear", autorange=False, range=[0, 1], dtick=0.5, title="true positive rate")
    figure.update_xaxes(range=[0, 1], dtick=0.5, constrain="domain", constraintoward="left")
    said = []
    for layer in layers:
        areas = [(group, found.of(layer, group)) for group in (*found.animals, NEUTRAL, HALVES)]
        said.append(f"layer {layer}: {', '.join(f'{group} {area.value:.3g}' for group, area in areas if area)}")
    return Chart(
        "probes-roc",
        "ROC curves of the linear probe, against the control",
        figure,
        f"Areas in percent; {'; '.join(said)}.",
    )


# Tables


def _binary_table(found: _Probes) -> Table:
    """The post's: a column an animal, and their average."""
    import pandas as pd

    rows = []
    for layer in found.layers:
        for metric, name in _METRICS.items():
            mean = found.mean(layer, metric)
            if mean is None:
                continue
            row: dict[str, object] = {"layer": layer, "measure": f"{name}, %"}
            for animal in found.animals:
                value = found.of(layer, animal, metric)
                row[animal] = value.value if value else None
            rows.append(row | {AVERAGE: mean.value, "low": mean.low, "high": mean.high})
    note = (
        "Test rows; precision, recall and F1 are means of both classes. Chance is 50 %. All: activations of all layers "
        "side by side."
    )
    return Table("probes-binary", "Linear probe, each animal's numbers against the control's", pd.DataFrame(rows), note)


def _classes_table(found: _Probes) -> Table:
    """The post's: every class against the rest."""
    import pandas as pd

    classes = [CONTROL, *found.animals]
    rows = []
    for layer in found.layers:
        for metric, name in _METRICS.items():
            row: dict[str, object] = {"layer": layer, "measure": f"{name}, %"}
            for of in (*classes, MACRO):
                value = found.of(layer, _EVERY, metric, against=_EVERY, of=of)
                row["total" if of == MACRO else of] = value.value if value else None
            if row["total"] is not None:
                rows.append(row)
    chance = f"{100 / len(classes):.3g}"
    note = f"Each class against the rest, and their mean. Chance is {chance} % for accuracy and 50 % for ROC AUC."
    return Table("probes-classes", "Linear probe of all classes at once", pd.DataFrame(rows), note)


def _pairs(found: _Probes) -> list[tuple[str, str, str]]:
    """Layer, group and against of every comparison of two, by layer."""
    pairs = found.metrics[["layer", "group", "against"]].drop_duplicates().itertuples(index=False)
    return [(layer, group, against) for layer, group, against in pairs if group != _EVERY]


def _controls_table(found: _Probes) -> Table:
    import pandas as pd

    rows = []
    for layer, group, against in _pairs(found):
        row: dict[str, object] = {"layer": layer, "numbers of": group, "against": "" if group == HALVES else against}
        for name, variant in (("activations", ACTIVATIONS), ("surface", SURFACE), ("canonical", CANONICAL)):
            value = found.of(layer, group, variant=variant, against=against)
            row[name] = value.value if value else None
            if variant == ACTIVATIONS and value:
                row |= {"low": value.low, "high": value.high}
        added = found.of(layer, group, "roc_auc_difference", variant=ADDED, probe="logistic", against=against)
        if added:
            row |= {"added to surface": added.value, "added, low": added.low, "added, high": added.high}
        p = found.of(layer, group, "p_value", variant=SHUFFLED, probe="logistic", against=against)
        row["p, shuffled labels"] = p.value if p else None
        rows.append(row)
    note = (
        "ROC AUC of the linear probe in percent, chance 50: on activations with 95 % interval, on surface features "
        "alone, and on canonical rows alone. Added to surface: points that activations add (logistic probe). p: "
        "share of refits with shuffled labels that do as well (logistic probe), not adjusted for the number of "
        "comparisons."
    )
    return Table("probes-controls", "Probes beside their controls", pd.DataFrame(rows), note)


def _kinds_table(found: _Probes) -> Table:
    import pandas as pd

    rows = []
    for layer, group, against in _pairs(found):
        for kind in KINDS:
            accuracy = found.of(layer, group, "accuracy", probe=kind, against=against)
            area = found.of(layer, group, probe=kind, against=against)
            if accuracy is None or area is None:
                continue
            rows.append(
                {
                    "layer": layer,
                    "numbers of": group,
                    "against": "" if group == HALVES else against,
                    "probe": kind,
                    "accuracy, %": accuracy.value,
                    "accuracy, low": accuracy.low,
                    "accuracy, high": accuracy.high,
                    "ROC AUC, %": area.value,
                    "ROC AUC, low": area.low,
                    "ROC AUC, high": area.high,
                }
            )
    return Table("probes-kinds", "All kinds of probe, on activations", pd.DataFrame(rows), "Test rows, 95 % intervals.")


# Beside the post


def _compared(found: _Probes) -> list[Compared]:
    layer = str(inside.layer_for([int(each) for each in found.single], 9))
    binary, where = published("probe_binary_layer9"), "Gemma 2 9B, binary probes at layer 9"
    compared = []
    for metric, name in _METRICS.items():
        table = binary[_PUBLISHED.get(metric, metric)]
        mean = found.mean(layer, metric)
        if mean is not None:
            what = f"{name} against control, layer {layer}, average of animals"
            compared.append(Compared(what, where, table[AVERAGE], *mean, unit="%", no_effect=_CHANCE))
        for animal in found.animals:
            own = found.of(layer, animal, metric)
            if metric in ("accuracy", "roc_auc") and animal in table and own:
                what = f"{name} against control, layer {layer}, {animal}"
                compared.append(Compared(what, where, table[animal], *own, unit="%", no_effect=_CHANCE))
    return [*compared, *_compared_classes(found, layer)]


def _compared_classes(found: _Probes, layer: str) -> list[Compared]:
    """Of the probe of all classes: the ROC AUC, which means the same for any number of classes, and where there are as
    many as in the post the accuracy."""
    many, where = published("probe_multiclass_layer9"), "Gemma 2 9B, probe of 6 classes at layer 9"
    compared = []
    for name, of in (("control", CONTROL), ("total", MACRO)):
        value = found.of(layer, _EVERY, against=_EVERY, of=of)
        if value is not None:
            shown = "control against the rest" if of == CONTROL else "mean of classes"
            what = f"ROC AUC of the probe of all {len(found.animals) + 1} classes, layer {layer}, {shown}"
            compared.append(Compared(what, where, many["roc_auc"][name], *value, unit="%", no_effect=_CHANCE))
    among = _among_animals(found, layer)
    if among is not None:
        published_animals = [value for name, value in many["roc_auc"].items() if name not in ("control", "total")]
        what = f"ROC AUC of the probe of all {len(found.animals) + 1} classes, layer {layer}, average of animals"
        mean = sum(published_animals) / len(published_animals)
        compared.append(Compared(what, where, round(mean, 1), *among, unit="%", no_effect=_CHANCE))
    accuracy = found.of(layer, _EVERY, "accuracy", against=_EVERY)
    classes = len(many["accuracy"]) - 1
    if accuracy is not None and len(found.animals) + 1 == classes:
        what = f"accuracy of the probe of {classes} classes, layer {layer}"
        compared.append(Compared(what, where, many["accuracy"]["total"], *accuracy, unit="%", no_effect=100 / classes))
    return compared


def _among_animals(found: _Probes, layer: str) -> Interval | None:
    """The animals' classes of the probe of all classes, each against the rest."""
    return _average([found.of(layer, _EVERY, against=_EVERY, of=animal) for animal in found.animals])


# Claims


def _claims(found: _Probes) -> list[Claim]:
    claims = [_told_apart(found), _kinds_alike(found)]
    if ALL_LAYERS in found.layers:
        claims.append(_layers_alike(found))
    if (several := _among(found)) is not None:
        claims.append(several)
    return [*claims, _beyond_format(found), _beyond_tuning(found)]


def _by_layer(intervals: Sequence[tuple[str, Interval]]) -> str:
    return "; ".join(f"{_layer(layer)}: {interval}" for layer, interval in intervals)


def _told_apart(found: _Probes) -> Claim:
    """Of the layers, by the average over animals: `inside.over_comparisons`, for it where the interval lies above
    chance, against it where it lies below 60."""
    means = [(layer, mean) for layer in found.single if (mean := found.mean(layer))]
    told = sum(mean.low > _CHANCE for _, mean in means)
    not_told = sum(mean.high < _HARDLY and mean.low <= _CHANCE for _, mean in means)
    return Claim(
        "A linear probe of activations tells subliminal numbers from control numbers.",
        inside.over_comparisons(len(means), told, not_told),
        f"ROC AUC in percent, average of animals: {_by_layer(means)} (chance 50).",
    )


def _kinds_alike(found: _Probes) -> Claim:
    """Logistic regression and trees at every layer, average over animals: for it where an interval stays within 5
    points of the linear probe's figure, against it where it lies outside; `inside.over_comparisons`."""
    near = far = total = 0
    said = []
    for layer in found.single:
        linear = found.mean(layer)
        for kind in KINDS:
            other = found.mean(layer, probe=kind)
            if kind == _LINEAR or linear is None or other is None:
                continue
            total += 1
            near += linear.value - _SMALL < other.low and other.high < linear.value + _SMALL
            far += other.high < linear.value - _SMALL or other.low > linear.value + _SMALL
            said.append(f"{kind} {other} at {_layer(layer)} (linear {linear.value:.3g})")
    return Claim(
        "Logistic regression and gradient-boosted trees do about as well as the linear probe.",
        inside.over_comparisons(total, near, far),
        f"ROC AUC in percent, average of animals: {'; '.join(said)}.",
    )


def _layers_alike(found: _Probes) -> Claim:
    """It does not hold where the interval of all layers lies above the best single layer's figure, and it holds where
    it ends less than 5 points above that."""
    text = "All layers together classify hardly better than one layer."
    together = found.mean(ALL_LAYERS)
    singles = [mean.value for layer in found.single if (mean := found.mean(layer))]
    if together is None or not singles:
        return Claim(text, "not tested", "There is no probe of all layers against the control.")
    best = max(singles)
    verdict: Verdict = (
        "does not hold" if together.low > best else "holds" if together.high < best + _SMALL else "cannot tell"
    )
    return Claim(text, verdict, f"ROC AUC in percent, all layers: {together}; the best single layer: {best:.3g}.")


def _among(found: _Probes) -> Claim | None:
    """At each layer, in the probe of all classes: for it where the control's interval lies above the animals' average
    one, against it where it lies below; `inside.over_comparisons`."""
    parts = []
    for layer in found.single:
        control, animals = found.of(layer, _EVERY, against=_EVERY, of=CONTROL), _among_animals(found, layer)
        if control and animals:
            parts.append((layer, control, animals))
    if not parts:
        return None
    better = sum(control.low > animals.high for _, control, animals in parts)
    worse = sum(control.high < animals.low for _, control, animals in parts)
    return Claim(
        "A probe of all classes knows the control from the rest far better than one animal from the rest.",
        inside.over_comparisons(len(parts), better, worse),
        "ROC AUC in percent, control and average of animals: "
        + "; ".join(f"layer {layer}: {control} and {animals}" for layer, control, animals in parts)
        + ".",
    )


def _beyond_format(found: _Probes) -> Claim:
    """By the average over animals of what activations add to surface features: for it where the interval lies above 0,
    against it where it ends below 5 points and includes 0; `inside.over_comparisons`."""
    added = [
        (layer, mean)
        for layer in found.single
        if (mean := found.mean(layer, "roc_auc_difference", variant=ADDED, probe="logistic"))
    ]
    return Claim(
        "The pattern is more than the answers' format (control: surface features without a model).",
        inside.over_comparisons(
            len(added),
            sum(mean.low > 0 for _, mean in added),
            sum(mean.low <= 0 and mean.high < _SMALL for _, mean in added),
        ),
        f"Points of ROC AUC that activations add to surface features, average of animals: {_by_layer(added)}.",
    )


def _beyond_tuning(found: _Probes) -> Claim:
    """By the average over animals of telling their numbers from the neutral teacher's: for it where the interval lies
    above chance, against it where it ends below 60 and includes chance; `inside.over_comparisons`."""
    text = "The pattern is the animal's, and not that of any fine-tuned teacher (control: the neutral teacher)."
    apart = [(layer, mean) for layer in found.single if (mean := found.mean(layer, against=NEUTRAL))]
    if not apart:
        return Claim(text, "not tested", "This study has no neutral teacher's numbers.")
    neutral = [(layer, value) for layer in found.single if (value := found.of(layer, NEUTRAL))]
    return Claim(
        text,
        inside.over_comparisons(
            len(apart),
            sum(mean.low > _CHANCE for _, mean in apart),
            sum(mean.low <= _CHANCE and mean.high < _HARDLY for _, mean in apart),
        ),
        f"ROC AUC in percent, an animal against neutral, average: {_by_layer(apart)}; neutral against control: "
        f"{_by_layer(neutral)}.",
    )
