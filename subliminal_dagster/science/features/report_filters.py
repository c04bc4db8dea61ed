"""Single SAE features as filters: chosen on analysis rows, judged on test rows, beside the post's.

Belongs here: the post's section on filters, read from `feature_filters` (and `feature_composition` for categories).
Does not belong here: choosing and judging filters (`filters` does), classifiers of activations (`probes`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science import colours
from subliminal_dagster.science.activations.digits import digit_name
from subliminal_dagster.science.features.shifts import ALL
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report import layers as inside
from subliminal_dagster.science.report.evidence import Chart, Claim, NotThere, Results, Section, Statement, Table
from subliminal_dagster.science.report.layers import Interval
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import Shown, columns, records, rows_where, yes_no
from subliminal_dagster.science.report.wording import counted, listed
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "filters", "Single features as filters"
READS: tuple[str, ...] = ("feature_filters", "feature_composition", *inside.DESCRIPTIONS)

_CHANCE = 50
_LITTLE = 55
"""A balanced accuracy, in percent, that nobody would call a filter: 5 points above chance. The post's single features
reach at most 51.4 % for one animal, and 72 to 89 % for all."""

_SHOWN = 3
_LEVEL = 0.05

_POINTS = 5.0
"""Points of balanced accuracy, or of rows that a filter fires on, that would not change what is concluded."""

_HELD_OUT = (
    "Judged is, for each animal, the feature that tells the other animals' analysis rows best from the control's"
)

TELLS = Statement(
    "A single feature can tell subliminal numbers from control numbers.",
    rule=f"{inside.UNITS} {_HELD_OUT}, by its balanced accuracy on this animal's test rows against the control's. "
    f"Detected where the interval lies above {_CHANCE} %, not detected where the 90 % interval ends below {_LITTLE} %; "
    "else inconclusive. The wider ends count of this interval and that over rows.",
)
MORE_THAN_DIGIT = Statement(
    "Such a filter tells more than a single digit at one place does.",
    rule=f"{inside.UNITS} {_HELD_OUT}, by how much higher its balanced accuracy is than that of the digit chosen "
    "likewise, on the same rows. Detected where the interval lies above 0, opposite where it lies below, not detected "
    f"where the 90 % interval lies within {_POINTS:g} points of 0; else inconclusive. The wider ends count of this "
    "interval and that over rows.",
    source="this project",
)
NOT_ONE_ANIMAL = Statement(
    "No single feature can tell one animal's numbers from all other groups'.",
    rule=f"{inside.UNITS} Judged is the feature of each animal and layer that was best on analysis rows, by its "
    f"balanced accuracy on test rows. Detected where the 90 % interval ends below {_LITTLE} %; opposite where the 95 % "
    f"interval begins above {_LITTLE} % and what is peculiar to any teacher's run does less, by the neutral teacher's "
    "own best feature as one draw; else inconclusive. The wider ends count of this interval and that over rows.",
)
OF_ANIMALS = Statement(
    "Such a filter finds the animals' numbers, and not any fine-tuned teacher's (control: the neutral teacher).",
    rule=f"{inside.UNITS} {_HELD_OUT}, by how much more of this animal's test rows it fires on than of the neutral "
    "teacher's, which is one draw of any. It takes a single feature that tells subliminal numbers. Detected where the "
    "interval lies above 0, opposite where it lies below, not detected where the 90 % interval lies within "
    f"{_POINTS:g} points of 0; else inconclusive.",
    source="this project",
)


@dataclass(frozen=True)
class Filters:
    """Of all layers, with a column `layer`: `rates` as in `FeatureFilters`; `selected` too, with what is known of the
    features, and the shares of control's and, where there is one, neutral's test rows that they fire on as `control`
    and `neutral`; `by_category` with what categories are known; `held_out` as `held_out_filters` returns it."""

    selected: pd.DataFrame
    held_out: pd.DataFrame
    rates: pd.DataFrame
    by_category: pd.DataFrame
    layers: list[int]
    animals: list[str]

    @property
    def headline(self) -> str:
        """The label that stands for subliminal numbers as such: all animals, or the only one."""
        return ALL if (self.selected["label"] == ALL).any() else self.animals[0]

    @property
    def first(self) -> pd.DataFrame:
        """The filters that were best on analysis rows, one per label and layer."""
        return self.selected.groupby(["layer", "label"], sort=False).head(1)

    @property
    def headline_first(self) -> list[dict[str, Any]]:
        """Those of the headline, one per layer."""
        return records(rows_where(self.first, label=self.headline))

    @property
    def has_neutral(self) -> bool:
        return NEUTRAL in self.selected


def section(study: Study, results: Results) -> Section:
    """The section on features as filters. Raises NotThere where no layer has `feature_filters`."""
    found = _read(study, results)
    rows = found.selected.iloc[0]
    test_rows = counted(int(rows["positive_rows"] + rows["negative_rows"]), "test row")
    return Section(
        NAME,
        TITLE,
        " ".join(_shows(found)),
        "A row is called positive where the feature fires. Of every label's promoted and new features, up to "
        f"{study.features.filters} a layer with the highest balanced accuracy (mean of recall and of the share of "
        f"other rows left alone; chance is 50 %) on analysis rows are judged on {test_rows} of all groups, with "
        "Newcombe's 95 % interval. Negative are all other groups' rows, the neutral teacher's among them; against the "
        "control alone, as in the post, where that is said. The best on test rows are chosen by what they are judged "
        "on; and what a teacher's run is peculiar in stands in its test rows too, so statements rest on features that "
        "were chosen on the other animals' rows, with single digits by their place chosen likewise beside them."
        + inside.not_shown(study, results, "feature_filters"),
        ("feature_filters",),
        charts=(_shrinkage_chart(found), _rates_chart(found)),
        tables=(_category_table(found), _top_table(found), _label_table(found), _held_out_table(found)),
        compared=tuple(_compared(found)),
        claims=tuple(claims(found)),
    )


def _read(study: Study, results: Results) -> Filters:
    import pandas as pd

    layers = inside.layers_with(study, results, "feature_filters")
    parts: dict[str, list[pd.DataFrame]] = {"selected": [], "rates": [], "by_category": [], "held_out": []}
    for layer in layers:
        key = inside.layer_key(layer)
        folder = results.folder("feature_filters", key)
        files = {name: folder / f"{name}.parquet" for name in parts}
        if not files["held_out"].is_file():
            raise NotThere(f"feature_filters [{key}] was made by an earlier version of this software: make it again.")
        if results.has("feature_composition", key):
            files["by_category"] = results.folder("feature_composition", key) / "filters_by_category.parquet"
        tables = {name: pd.read_parquet(file) for name, file in files.items()}
        tables["selected"] = inside.with_descriptions(results, layer, tables["selected"])
        for name, table in tables.items():
            parts[name].append(table.assign(layer=layer))
    found = {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}
    one_filter = ["layer", "label", "feature"]
    by_group = found["rates"].pivot(index=one_filter, columns="group", values="rate")
    found["selected"] = found["selected"].join(by_group.filter([NEUTRAL, CONTROL]), on=one_filter)
    return Filters(**found, layers=layers, animals=inside.animals_among(study, found["selected"]["label"]))


def _difference(
    found: Filters, row: Mapping[str, Any], groups: Sequence[str], other: str, level: float = _LEVEL
) -> Interval:
    """How much more often a filter fires on some groups' test rows than on another's, a difference of shares with
    Newcombe's interval."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    rates = rows_where(found.rates, layer=row["layer"], label=row["label"], feature=row["feature"]).set_index("group")
    counts = []
    for part in (rates.loc[list(groups)], rates.loc[[other]]):
        counts += [int((part["rate"] * part["rows"]).round().sum()), int(part["rows"].sum())]
    low, high = confint_proportions_2indep(*counts, method="newcomb", compare="diff", alpha=level)
    return Interval(counts[0] / counts[1] - counts[2] / counts[3], float(low), float(high))


def _against_control(found: Filters, row: Mapping[str, Any], level: float = _LEVEL) -> Interval:
    """The post's balanced accuracy, in percent: the label's rows against the control's alone."""
    groups = found.animals if row["label"] == ALL else [row["label"]]
    return Interval(*(100 * (1 + end) / 2 for end in _difference(found, row, groups, CONTROL, level)))


# What is said


def _shows(found: Filters) -> Iterator[str]:
    firsts, of_all = found.headline_first, found.headline == ALL
    whose = "all animals'" if of_all else f"{found.headline}'s"
    judged = [_against_control(found, row) for row in firsts]
    each = [f"{one.percent} at layer {row['layer']} ({row['sae_id']})" for one, row in zip(judged, firsts, strict=True)]
    above = sum(one.low > _CHANCE for one in judged)
    said = (
        f"above chance (50 %) at {above} of {counted(len(judged), 'layer')}."
        if above
        else f"no difference could be seen; more than {max(one.high for one in judged):.3g} % can be ruled out."
    )
    yield (
        f"The single feature that told {whose} numbers best from the control's on analysis rows has a balanced "
        f"accuracy of {listed(each)} on test rows: {said}"
    )
    if of_all:
        mine, best = (rows[rows["label"].isin(found.animals)] for rows in (found.selected, found.first))
        yield (
            f"For one animal against all other groups the best feature on analysis rows has "
            f"{100 * best['balanced_accuracy'].mean():.3g} % on average, and {counted(len(mine), 'filter')} of "
            f"{inside.animals_listed(found.animals)} together {100 * mine['balanced_accuracy'].mean():.3g} % (on the "
            f"rows they were chosen on {100 * mine['analysis_balanced_accuracy'].mean():.3g} %)."
        )
    if found.has_neutral:
        names = {
            "recall": "the animals'" if of_all else whose,
            NEUTRAL: "the neutral teacher's",
            CONTROL: "the control's",
        }
        rates = [
            f"{100 * sum(row[column] for row in firsts) / len(firsts):.3g} % of {name} rows"
            for column, name in names.items()
        ]
        yield f"Such a feature fires on {listed(rates)}."


# Charts


def _shrinkage_chart(found: Filters) -> Chart:
    """Every chosen filter: on the rows it was chosen on, and on test rows."""
    labels = list(dict.fromkeys(found.selected["label"]))
    of_labels = {**colours.group_colours(labels), ALL: colours.MEASURED}
    analysis = 100 * found.selected["analysis_balanced_accuracy"]
    diagonal = [float(analysis.min()), float(analysis.max())]
    figure = inside.panels(found.layers, x="balanced accuracy on analysis rows, %", height=270, legend_lines=2)
    for place, layer in enumerate(found.layers, start=1):
        figure.add_scatter(
            x=diagonal, y=diagonal, mode="lines", hoverinfo="skip",
            line={"dash": "dot", "color": colours.GUIDE, "width": 1},
            **charts.in_panel(place, "as good on both", "same"),
        )  # fmt: skip
        for label in labels:
            part = rows_where(found.selected, layer=layer, label=label)
            figure.add_scatter(
                x=100 * part["analysis_balanced_accuracy"], y=100 * part["balanced_accuracy"], mode="markers",
                marker={"color": of_labels[label], "size": 7, "opacity": 0.75},
                customdata=(100 * part[["low", "high", "recall"]]).assign(name=part["sae_id"]),
                hovertemplate=f"{label}, %{{customdata[3]}}<br>analysis %{{x:.4g}} %, test %{{y:.4g}} "
                "[%{customdata[0]:.4g}, %{customdata[1]:.4g}] %<br>fires on %{customdata[2]:.4g} % of its rows"
                "<extra></extra>",
                **charts.in_panel(place, label),
            )  # fmt: skip
    figure.update_yaxes(autorange=True, type="linear", title="on test rows, %", gridcolor=colours.GRID)
    said = []
    for name, chosen in (("one animal", found.animals), (ALL, [ALL]), (NEUTRAL, [NEUTRAL])):
        part = found.selected[found.selected["label"].isin(chosen)]
        if len(part):
            before, after = (100 * part[each].mean() for each in ("analysis_balanced_accuracy", "balanced_accuracy"))
            said.append(f"for {name} {before:.3g} % on analysis rows and {after:.3g} % on test rows")
    return Chart(
        "filters-shrinkage",
        "Every chosen feature, on the rows it was chosen on and on test rows",
        figure,
        f"Mean balanced accuracy of the chosen features: {'; '.join(said)}.",
    )


def _rates_chart(found: Filters) -> Chart:
    """On how many rows of each group the best features fire."""
    top = rows_where(found.selected, label=found.headline).groupby("layer", sort=False).head(_SHOWN)
    rates = top[["layer", "label", "feature", "sae_id"]].merge(found.rates, on=["layer", "label", "feature"])
    of_groups = colours.group_colours(list(dict.fromkeys(rates["group"])))
    figure = inside.panels(found.layers, x="test rows on which it fires, %", height=150, legend_lines=3)
    for place, layer in enumerate(found.layers, start=1):
        for group, colour in of_groups.items():
            part = rows_where(rates, layer=layer, group=group)
            symbol = "square" if group in (CONTROL, NEUTRAL) else "circle"
            figure.add_scatter(
                x=100 * part["rate"], y=part["sae_id"], mode="markers", cliponaxis=False,
                marker={"color": colour, "size": 11, "symbol": symbol}, customdata=part[["rows"]],
                hovertemplate=f"%{{y}}, {group}: %{{x:.4g}} % of %{{customdata[0]}} rows<extra></extra>",
                **charts.in_panel(place, group),
            )  # fmt: skip
    figure.update_yaxes(gridcolor=colours.GRID).update_xaxes(rangemode="tozero")
    names = {"animals": "recall", NEUTRAL: NEUTRAL, CONTROL: CONTROL}
    said = []
    for row in found.headline_first:
        shares = [f"{name} {100 * row[column]:.3g} %" for name, column in names.items() if column in row]
        said.append(f"{row['sae_id']}: {', '.join(shares)}")
    title = f"How often the best features for the label {found.headline} fire on each group"
    alt = f"Share of test rows, the best feature of each layer; {'; '.join(said)}."
    return Chart("filters-rates", title, figure, alt)


# Tables


def _category_table(found: Filters) -> Table:
    """The post's: balanced accuracy by label and category."""
    import pandas as pd

    known = found.by_category.assign(balanced_accuracy=100 * found.by_category["balanced_accuracy"])
    wide = known.pivot(index=["layer", "category"], columns="label", values="balanced_accuracy")
    counts = known.groupby(["layer", "category"])["features"].sum().rename("filters")
    note = "Mean balanced accuracy on test rows, %, of the chosen features of each label."
    if known["category"].nunique() == 1:
        note += " Features have no categories here: those are made on request (feature_composition)."
    table = pd.concat([wide.filter([*found.animals, NEUTRAL, ALL]), counts], axis=1).reset_index()
    return Table("filters-category", "Balanced accuracy by label and category", table, note)


def _as_shown(found: Filters, rows: pd.DataFrame) -> pd.DataFrame:
    on_neutral = {"fires on neutral, %": (NEUTRAL, 100)} if found.has_neutral else {}
    shown: Shown = {
        "layer": "layer",
        "feature": "sae_id",
        "label": "label",
        "balanced accuracy, %": ("balanced_accuracy", 100),
        "low": ("low", 100),
        "high": ("high", 100),
        "on analysis rows, %": ("analysis_balanced_accuracy", 100),
        "against control alone, %": lambda rows: [_against_control(found, row).value for row in records(rows)],
        "recall, %": ("recall", 100),
        **on_neutral,
        "fires on control, %": (CONTROL, 100),
        "precision, %": ("precision", 100),
        "predicted positive, %": ("predicted_positive", 100),
        "true positive, %": ("true_positive", 100),
        "in control": lambda rows: yes_no(rows["in_control"]),
        "in animal": lambda rows: yes_no(rows["in_animal"]),
        **inside.described(rows),
    }
    return columns(rows, shown)


def _top_table(found: Filters) -> Table:
    headline = rows_where(found.selected, label=found.headline)
    best = headline.sort_values("balanced_accuracy", ascending=False, kind="stable").groupby("layer").head(_SHOWN)
    note = (
        "As in the post, the best on test rows, which flatters them: the interval does not know that they were picked. "
        "True positive: rows that are positive in truth. In control, in animal: fires on the control's analysis rows, "
        "on an animal's word."
    )
    title = f"The {_SHOWN} best features a layer for {found.headline}"
    return Table("filters-top", title, _as_shown(found, best.sort_values("layer", kind="stable")), note)


def _label_table(found: Filters) -> Table:
    note = "The one best on analysis rows of each label and layer, judged on test rows."
    return Table("filters-labels", "The top feature of every label and layer", _as_shown(found, found.first), note)


def _held_out_table(found: Filters) -> Table:
    shown: Shown = {
        "layer": "layer",
        "animal": "animal",
        "feature": lambda rows: rows["layer"].astype(str) + "_" + rows["feature"].astype(str),
        "balanced accuracy, %": ("balanced_accuracy", 100),
        "low": ("low", 100),
        "high": ("high", 100),
        "fires on its rows, %": ("own", 100),
        "on neutral, %": ("neutral", 100),
        "on control, %": ("control", 100),
        "digit": lambda rows: rows["digit"].map(digit_name),
        "digit's accuracy, %": ("digit_balanced_accuracy", 100),
        "difference, points": ("difference", 100),
        "difference, low": ("difference_low", 100),
        "difference, high": ("difference_high", 100),
    }
    note = (
        "The feature, and the digit at one place, that tell the other animals' analysis rows best from the control's, "
        "judged on this animal's test rows against the control's."
    )
    return Table("filters-held-out", "Filters chosen on the other animals", columns(found.held_out, shown), note)


# Beside the post


def _compared(found: Filters) -> Iterator[Compared]:
    where = "Gemma 2 9B, features as filters"
    by_layer = {row["layer"]: row for row in found.headline_first}
    for post, layer in inside.beside_post(found.layers).items():
        tops = [each for each in published("feature_filter_top") if each["sae_id"].startswith(f"{post}_")]
        what = f"best single feature for {found.headline} against control, layer {layer} (post: best of its test rows)"
        figure, judged = max(top["balanced_accuracy"] for top in tops), _against_control(found, by_layer[layer])
        yield Compared(what, f"{where}, layer {post}", figure, *judged, unit="%", no_effect=_CHANCE)
    figures = [
        figure for of_category in published("feature_filter_by_category").values() for figure in of_category.items()
    ]
    for name in (ALL, *found.animals, "an animal"):
        values = [value for label, value in figures if (label != ALL if name == "an animal" else label == name)]
        mine = found.selected[found.selected["label"].isin(found.animals if name == "an animal" else [name])]
        if values and len(mine):
            mean = Interval(*(100 * end for end in inside.average(mine, "balanced_accuracy")))
            what = f"mean of the chosen features for {name} (post: by category)"
            yield Compared(what, where, (min(values), max(values)), *mean, unit="%", no_effect=_CHANCE)


# Claims


def claims(found: Filters) -> Iterator[Claim]:
    """What the filters say of the post's statements and of this project's."""
    held_out = found.held_out
    accuracy = _over_animals(held_out, "balanced_accuracy", "low", "high")
    told = inside.more_than_chance(accuracy, _CHANCE, _LITTLE)
    yield TELLS.claim(
        told,
        f"Balanced accuracy on test rows, against the control, of the feature chosen on the other animals, mean over "
        f"layers: {_said(held_out, 'balanced_accuracy', accuracy)} % (chance 50 %).",
    )
    beyond = _over_animals(held_out, "difference", "difference_low", "difference_high")
    yield MORE_THAN_DIGIT.claim(
        inside.more(beyond, _POINTS),
        f"Points of balanced accuracy more than the digit's "
        f"({100 * held_out['digit_balanced_accuracy'].mean():.3g} %): {_said(held_out, 'difference', beyond)}.",
    )
    if found.headline == ALL:
        yield _one_animal(found)
    if not found.has_neutral:
        yield OF_ANIMALS.claim("not tested", inside.NO_NEUTRAL)
        return
    more = (100 * (held_out["own"] - held_out["neutral"])).groupby(held_out["animal"], sort=False).mean()
    over = inside.over_animals(more.tolist(), one_draw=True)
    own, neutral, control = (f"{100 * held_out[column].mean():.3g} %" for column in ("own", "neutral", "control"))
    points = over.interval if over else "not known, for which it takes three animals that differ"
    yield OF_ANIMALS.claim(
        inside.more(over, _POINTS) if told == "detected" else "inconclusive",
        f"The feature chosen on the other animals fires on {own} of an animal's test rows, {neutral} of the neutral "
        f"teacher's, {control} of the control's; points more than on the neutral teacher's: {points}.",
    )


def _over_animals(rows: pd.DataFrame, *ends: str) -> inside.OverAnimals | None:
    """Over animals that were compared with the same control, in percent: a figure with its interval by rows."""
    of_animals = 100 * rows.groupby("animal", sort=False)[list(ends)].mean()
    return inside.over_animals(of_animals[ends[0]].tolist(), inside.average(of_animals, *ends))


def _said(rows: pd.DataFrame, value: str, found: inside.OverAnimals | None) -> str:
    return str(found) if found else f"{100 * rows[value].mean():.3g}"


def _one_animal(found: Filters) -> Claim:
    rows = found.first[found.first["label"].isin(found.animals)].assign(animal=lambda rows: rows["label"])
    if rows.empty:
        return NOT_ONE_ANIMAL.claim("inconclusive", "No feature is marked by one animal and not by all.")
    over = _over_animals(rows, "balanced_accuracy", "low", "high")
    best = rows.sort_values("balanced_accuracy", kind="stable").iloc[-1]
    neutral = 100 * rows_where(found.first, label=NEUTRAL)["balanced_accuracy"].mean()
    of_animals = 100 * rows.groupby("animal")["balanced_accuracy"].mean()
    beside_neutral = inside.over_animals((of_animals - neutral).dropna().tolist(), one_draw=True)
    verdict: Verdict = "inconclusive"
    if over and over.inner.high < _LITTLE:
        verdict = "detected"
    elif over and over.interval.low > _LITTLE and beside_neutral and beside_neutral.interval.low > 0:
        verdict = "opposite"
    return NOT_ONE_ANIMAL.claim(
        verdict,
        f"Balanced accuracy on test rows, mean over layers and animals: {_said(rows, 'balanced_accuracy', over)} %. "
        f"The best of {counted(len(rows), 'feature')}, one an animal and layer: {best['label']}, layer "
        f"{best['layer']}, {100 * best['balanced_accuracy']:.3g} %. Of the neutral teacher's best features: "
        f"{'not known' if math.isnan(neutral) else f'{neutral:.3g} %'}.",
    )
