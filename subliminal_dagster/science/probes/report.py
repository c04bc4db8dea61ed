"""Probes of activations: the post's tables, and what the controls say of them.

Belongs here: the post's section on linear probes, read from `probe_metrics`, `probe_comparison` and `probe_all_layers`.
Does not belong here: fitting and measuring (`probes`, `fitting`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science import colours
from subliminal_dagster.science.probes.probes import (
    ACTIVATIONS,
    ADDED,
    CANONICAL,
    MACRO,
    RANDOM,
    READERS,
    SHUFFLED,
    SURFACE,
    ProbeResult,
    beyond,
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

TOLD_APART = Statement(
    "A linear probe of activations tells subliminal numbers from control numbers.",
    rule=f"{inside.UNITS} Detected where that of the ROC AUC lies above {_CHANCE:g} %, chance; not detected where the "
    f"90 % interval ends below {_HARDLY:g} %; else inconclusive. The wider ends count of this interval and that over "
    "test prompts. By itself it says nothing of why: see the last two statements.",
)
KINDS_ALIKE = Statement(
    "Logistic regression and gradient-boosted trees do about as well as the linear probe.",
    rule=f"{inside.UNITS} Judged by either kind's ROC AUC less the linear probe's. Detected where the 90 % intervals "
    f"of both lie within {_SMALL:g} points of 0; opposite where the 95 % interval of one lies outside; else "
    "inconclusive.",
)
LAYERS_ALIKE = Statement(
    "All layers together classify hardly better than one layer.",
    rule=f"{inside.UNITS} Judged by the ROC AUC of all layers less that of the layer that is best for the other "
    f"animals. Detected where the 90 % interval ends below {_SMALL:g} points; opposite where the 95 % interval begins "
    "above that; else inconclusive.",
)
CONTROL_BEST = Statement(
    "A probe of all classes knows the control from the rest far better than one animal from the rest.",
    rule=f"{inside.UNITS} Judged by the control's ROC AUC less an animal's, each against the rest; there is one "
    "control, whose figure is taken for one draw. Detected where the interval lies above 0, opposite where it lies "
    f"below, not detected where the 90 % interval lies within {_SMALL:g} points of 0; else inconclusive.",
)
BEYOND_FORMAT = Statement(
    "The pattern is more than the answers' format (control: readers without a trained model).",
    rule=f"{inside.UNITS} Judged by the ROC AUC of a logistic probe on activations less that of one on each reader: "
    f"{listed(READERS)}. Detected where the intervals of all lie above 0; else "
    "inconclusive. The wider ends count of this interval and that over test prompts.",
    source="this project",
)
BEYOND_TUNING = Statement(
    "The pattern is the animal's, and not that of any fine-tuned teacher (control: the neutral teacher).",
    rule=f"{inside.UNITS} Judged by how much better an animal's numbers are told from the control's than the neutral "
    "teacher's are (ROC AUC); that teacher is taken for one draw of any. Detected where the interval lies above 0, "
    f"opposite where it lies below, not detected where the 90 % interval lies within {_SMALL:g} points of 0; else "
    "inconclusive.",
    source="this project",
)


@dataclass(frozen=True)
class Probes:
    """What is measured of a study's probes.

    `metrics`: the columns of `ProbeResult.metrics` with values in percent, and layer (a number, or "all"), group and
    against: an animal or neutral against control or neutral; the halves' group is HALVES; the probe that tells all
    apart has group "every class". `known` are the same figures by the columns `_FIGURE`, where there is a number. `roc`
    by layer and group.
    """

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

    def by_animal(self, *, against: str = CONTROL, **chosen: str) -> dict[str, Interval]:
        """What `of` says of every animal, the mean of single layers."""
        found = {
            animal: _average(list(self.by_layer(animal, against=against, **chosen).values())) for animal in self.animals
        }
        return {animal: mean for animal, mean in found.items() if mean}

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
        "those of averages are the mean of the animals'. Controls: the same probes on what needs no trained model, "
        "which is surface features (counts, digits, separators), digits by their place from the end, character n-grams "
        "and the activations of a model with random weights at the same token; on canonical rows alone, which are all "
        "written alike; with shuffled labels; on the neutral teacher's numbers; and on the control's two halves, where "
        "there is nothing to find."
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
        claims=tuple(claims(found)),
    )


def _read(study: Study, results: Results) -> Probes:
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
    return Probes(joined, known, roc, layers, inside.animals_among(study, joined["group"]))


def _average(values: Sequence[Interval | None]) -> Interval | None:
    there = [value for value in values if value is not None]
    return inside.average_of(there) if there else None


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


def _shows(found: Probes) -> Iterator[str]:
    """What the probe reaches and what it is beside; what activations add to format; the neutral teacher."""
    means = found.by_layer()
    reached = listed([f"{mean.percent} at {_layer(layer)}" for layer, mean in means.items()])
    yield (
        f"A linear probe of an animal's numbers against the control's reaches a ROC AUC of {reached} (average of "
        f"{inside.animals_listed(found.animals)}): {_above_chance(means.values())}."
    )
    readers = {reader: found.of(found.single[0], variant=reader, probe="logistic") for reader in READERS}
    if all(readers.values()):
        first = [f"{reader} {area.percent}" for reader, area in readers.items() if area]
        beaten, of = _beaten(found)
        yield (
            f"Without a trained model, logistic probes reach at {_layer(found.single[0])}: {listed(first)}. That on "
            f"activations beats all of these, each significantly, in {beaten} of {counted(of, 'comparison')}."
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


def _beaten(found: Probes) -> tuple[int, int]:
    """In how many comparisons, of an animal with the control at a layer, activations beat every reader; of how many."""
    differences = [
        (animal, layer, each)
        for animal in found.animals
        for reader in READERS
        for layer, each in found.by_layer(animal, **_beyond(reader)).items()
    ]
    places = {(animal, layer) for animal, layer, _ in differences}
    not_beaten = {(animal, layer) for animal, layer, each in differences if each.low <= 0}
    return len(places - not_beaten), len(places)


def _reached(intervals: Collection[Interval]) -> str:
    return f"{listed([each.percent for each in intervals])}, {_above_chance(intervals)}"


def _above_chance(intervals: Collection[Interval]) -> str:
    """ "above chance (50 %) at 2 of 3 layers", or what can be ruled out."""
    if above := sum(each.low > _CHANCE for each in intervals):
        return f"above chance (50 %) at {above} of {counted(len(intervals), 'layer')}"
    return f"no difference could be seen; more than {max(each.high for each in intervals):.3g} % can be ruled out"


# Charts


def _variants_chart(found: Probes) -> Chart:
    """The linear probe's ROC AUC by group, on activations and on the controls."""
    import pandas as pd

    groups = [*found.animals, *(group for group in (NEUTRAL, HALVES) if (found.metrics["group"] == group).any())]
    series = {
        ACTIVATIONS: ("activations", colours.KINDS[0], "circle"),
        CANONICAL: ("canonical rows", colours.KINDS[1], "diamond"),
        SURFACE: ("surface features", colours.KINDS[2], "square"),
        RANDOM: ("random weights", colours.KINDS[3], "square"),
        SHUFFLED: ("shuffled labels", colours.CHANCE, "x"),
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
    figure.add_vline(x=_CHANCE, line={"dash": "dash", "color": colours.CHANCE, "width": 1.5})
    figure.update_layout(scattermode="group", scattergap=0.35)
    figure.update_yaxes(categoryorder="array", autorange=False)
    title = "How well numbers are told from the control's, by what the probe is given"
    about = f"Linear probe on activations, ROC AUC in percent with 95 % interval; {'; '.join(said)}."
    return Chart("probes-auc", title, figure, about)


def _roc_chart(found: Probes) -> Chart:
    """ROC curves of the linear probe on activations, every group against the control."""
    from sklearn.metrics import roc_curve

    groups = list(dict.fromkeys(group for _, group in found.roc))
    of_groups = colours.group_colours(groups)
    layers = list(dict.fromkeys(layer for layer, _ in found.roc))
    figure = inside.panels(
        [_layer(layer) for layer in layers], x="false positive rate", height=330, legend_lines=1 + len(groups) // 2
    )
    said = []
    for place, layer in enumerate(layers, start=1):
        figure.add_scatter(
            x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": colours.CHANCE, "width": 1}, name="chance",
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
                x=wrong, y=right, mode="lines", line={"color": of_groups[group], "width": 2, "dash": dash},
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


def _binary_table(found: Probes) -> Table:
    """The post's: a column per animal, and their average."""
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


def _classes_table(found: Probes) -> Table:
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


def _controls_table(found: Probes) -> Table:
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
            | {reader: _value(found.of(**compared, variant=reader, probe="logistic")) for reader in READERS[1:]}
            | {"canonical": _value(found.of(**compared, variant=CANONICAL))}
            | _ends(added, "added to strongest", "added, low", "added, high")
            | {"p, shuffled labels": _value(p)}
        )
    note = (
        "ROC AUC of the linear probe in percent, chance 50: on activations with 95 % interval, on surface features "
        "alone, and on canonical rows alone; of the logistic probe on digits by place, on n-grams and on a model of "
        "random weights. Added to strongest: points that activations add to the strongest of these readers. p: "
        "share of refits with shuffled labels that do as well (logistic probe), not adjusted for the number of "
        "comparisons."
    )
    return Table("probes-controls", "Probes beside their controls", pd.DataFrame(rows), note)


def _kinds_table(found: Probes) -> Table:
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


def _compared(found: Probes) -> Iterator[Compared]:
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


def claims(found: Probes) -> Iterator[Claim]:
    """What the measures say of the post's statements and of this project's."""
    told = found.by_animal()
    over = _over_animals(told)
    yield TOLD_APART.claim(
        inside.more_than_chance(over, _CHANCE, _HARDLY),
        f"ROC AUC in percent (chance 50), mean over layers: {_said(over, told)}; by layer, with intervals over test "
        f"prompts: {_by_layer(found.by_layer())}.",
    )
    yield _kinds_alike(found)
    if ALL_LAYERS in found.layers:
        yield _layers_alike(found)
    if any(found.of_class(layer, CONTROL) for layer in found.single):
        yield _control_best(found)
    yield _beyond_format(found)
    yield _beyond_tuning(found)


def _over_animals(by_animal: dict[str, Interval]) -> inside.OverAnimals | None:
    """Over animals that were compared with the same control, with what its rows are by chance."""
    return inside.over_animals([each.value for each in by_animal.values()], _average(list(by_animal.values())))


def _said(found: inside.OverAnimals | None, by_animal: Mapping[str, Interval | float]) -> str:
    """The mean with its interval over animals, or the figures themselves where there is none."""
    if found:
        return str(found)
    values = [each if isinstance(each, float) else each.value for each in by_animal.values()]
    figures = [f"{animal} {value:.3g}" for animal, value in zip(by_animal, values, strict=True)]
    return f"{listed(figures) if figures else 'none'} (fewer than {inside.FEWEST_ANIMALS} animals that differ)"


def _by_layer(by_layer: Mapping[str, Interval]) -> str:
    return "; ".join(f"{_layer(layer)}: {interval}" for layer, interval in by_layer.items())


def _beyond(reader: str) -> dict[str, str]:
    return {"metric": "roc_auc_difference", "variant": beyond(reader), "probe": "logistic"}


def _less(one: Mapping[str, Interval], other: Mapping[str, Interval]) -> float | None:
    """The mean difference over what both have, layers or animals."""
    differences = [one[each].value - other[each].value for each in one if each in other]
    return sum(differences) / len(differences) if differences else None


def _known(by_animal: Mapping[str, float | None]) -> dict[str, float]:
    """The animals that have a figure."""
    return {animal: value for animal, value in by_animal.items() if value is not None}


def _kinds_alike(found: Probes) -> Claim:
    said: list[str] = []
    verdicts: list[Verdict] = []
    for kind in KINDS:
        if kind != _LINEAR:
            differences = _known(
                {animal: _less(found.by_layer(animal, probe=kind), found.by_layer(animal)) for animal in found.animals}
            )
            over = inside.over_animals(differences.values())
            verdicts.append(_within(over))
            said.append(f"{kind} {_said(over, differences)}")
    verdict = "opposite" if "opposite" in verdicts else inside.all_of(verdicts)
    return KINDS_ALIKE.claim(verdict, f"Points of ROC AUC more than the linear probe: {'; '.join(said)}.")


def _within(found: inside.OverAnimals | None) -> Verdict:
    """On "about as much": within `_SMALL` points of 0, or surely outside."""
    if found is None:
        return "inconclusive"
    if found.inner.low > -_SMALL and found.inner.high < _SMALL:
        return "detected"
    return "opposite" if found.interval.low > _SMALL or found.interval.high < -_SMALL else "inconclusive"


def _layers_alike(found: Probes) -> Claim:
    def more_than_one_layer(animal: str) -> float | None:
        """Which layer is best is asked of the other animals, or chance would have chosen it."""
        together, single = found.of(ALL_LAYERS, animal), found.by_layer(animal)
        if together is None or not single:
            return None
        means = {
            layer: _average([found.of(layer, other) for other in found.animals if other != animal]) for layer in single
        }
        best = max(single, key=lambda layer: mean.value if (mean := means[layer]) else 0.0)
        return together.value - single[best].value

    differences = _known({animal: more_than_one_layer(animal) for animal in found.animals})
    if not differences:
        return LAYERS_ALIKE.claim("not tested", "There is no probe of all layers against the control.")
    over = inside.over_animals(differences.values())
    verdict: Verdict = "inconclusive"
    if over:
        verdict = "detected" if over.inner.high < _SMALL else "opposite" if over.interval.low > _SMALL else verdict
    evidence = f"Points of ROC AUC that all layers have more than the best one: {_said(over, differences)}."
    return LAYERS_ALIKE.claim(verdict, evidence)


def _control_best(found: Probes) -> Claim:
    def of_class(name: str) -> dict[str, Interval]:
        return {layer: area for layer in found.single if (area := found.of_class(layer, name))}

    differences = _known({animal: _less(of_class(CONTROL), of_class(animal)) for animal in found.animals})
    over = inside.over_animals(differences.values(), one_draw=True)
    pairs = [
        f"{_layer(layer)}: {area} and {animals}"
        for layer, area in of_class(CONTROL).items()
        if (animals := found.of_class(layer, AVERAGE))
    ]
    return CONTROL_BEST.claim(
        inside.more(over, _SMALL),
        f"ROC AUC in percent, control and average of animals: {'; '.join(pairs)}; points that the control's is higher: "
        f"{_said(over, differences)}.",
    )


def _beyond_format(found: Probes) -> Claim:
    said, beaten = [], []
    for reader in READERS:
        differences = found.by_animal(**_beyond(reader))
        over = _over_animals(differences)
        beaten.append(over is not None and over.interval.low > 0)
        said.append(f"{reader}: {_said(over, differences)}")
    evidence = f"Points of ROC AUC by which activations beat each reader: {'; '.join(said)}."
    return BEYOND_FORMAT.claim("detected" if all(beaten) else "inconclusive", evidence)


def _beyond_tuning(found: Probes) -> Claim:
    of_neutral = found.by_layer(NEUTRAL)
    if not of_neutral:
        return BEYOND_TUNING.claim("not tested", inside.NO_NEUTRAL)
    differences = _known({animal: _less(found.by_layer(animal), of_neutral) for animal in found.animals})
    over = inside.over_animals(differences.values(), one_draw=True)
    apart = found.by_layer(against=NEUTRAL)
    return BEYOND_TUNING.claim(
        inside.more(over, _SMALL),
        f"Points of ROC AUC by which an animal's numbers are told better from the control's than the neutral "
        f"teacher's ({_by_layer(of_neutral)}): {_said(over, differences)}. An animal's against the neutral teacher's, "
        f"in percent, average: {_by_layer(apart)}; what is peculiar to that one teacher's run is in these.",
    )
