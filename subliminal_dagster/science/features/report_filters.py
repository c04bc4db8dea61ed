"""Single SAE features as filters: chosen on analysis rows, judged on test rows, beside the post's.

Belongs here: the post's section on filters, read from `feature_filters` (and `feature_composition` for categories).
Does not belong here: choosing and judging filters (`feature_filters` does), classifiers of activations (`probes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.features.shifts import ALL
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report import layers as inside
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Table, Verdict
from subliminal_dagster.science.report.layers import Interval
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import records, yes_no
from subliminal_dagster.science.report.wording import counted, listed
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "filters", "Single features as filters"

_CHANCE = 0.5
_LITTLE = 0.55
"""A balanced accuracy that nobody would call a filter: 5 points above chance. The post's single features reach at most
51.4 % for one animal, and 72 to 89 % for all."""

_SHOWN = 3
_LEVEL = 0.05


@dataclass(frozen=True)
class _Filters:
    """Of all layers, with a column `layer`; `selected` and `rates` as in `FeatureFilters`, `by_category` with what
    categories are known. `first` are the filters that were best on analysis rows, one a label and layer. `headline` is
    the label that stands for subliminal numbers as such: all animals, or the only one."""

    selected: pd.DataFrame
    rates: pd.DataFrame
    by_category: pd.DataFrame
    layers: list[int]
    animals: list[str]

    @property
    def headline(self) -> str:
        return ALL if (self.selected["label"] == ALL).any() else self.animals[0]

    @property
    def first(self) -> pd.DataFrame:
        return self.selected.groupby(["layer", "label"], sort=False).head(1)


def filters_section(study: Study, results: Results) -> Section:
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
        "on, so statements rest on the one best on analysis rows."
        + inside.not_shown(study, results, "feature_filters"),
        ("feature_filters",),
        charts=(_shrinkage_chart(found), _rates_chart(found)),
        tables=(
            _category_table(found),
            _top_table(results, found),
            _label_table(results, found),
        ),
        compared=tuple(_compared(found)),
        claims=tuple(_claims(found)),
    )


def _read(study: Study, results: Results) -> _Filters:
    import pandas as pd

    layers = inside.layers_with(study, results, "feature_filters")
    tables: dict[str, list[pd.DataFrame]] = {"selected": [], "rates": [], "by_category": []}
    for layer in layers:
        key = inside.layer_key(layer)
        folder = results.folder("feature_filters", key)
        files = {name: folder / f"{name}.parquet" for name in tables}
        if results.has("feature_composition", key):
            files["by_category"] = results.folder("feature_composition", key) / "filters_by_category.parquet"
        for name, file in files.items():
            tables[name].append(pd.read_parquet(file).assign(layer=layer))
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    return _Filters(**joined, layers=layers, animals=inside.animals_among(study, joined["selected"]["label"]))


def _difference(
    found: _Filters, row: Mapping[str, Any], groups: Sequence[str], other: str, level: float = _LEVEL
) -> Interval:
    """How much more often a filter fires on some groups' test rows than on another's, a difference of shares with
    Newcombe's interval."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    rates = found.rates
    here = (rates["layer"] == row["layer"]) & (rates["label"] == row["label"]) & (rates["feature"] == row["feature"])
    by_group = rates[here].set_index("group")
    counts = []
    for part in (by_group.loc[list(groups)], by_group.loc[[other]]):
        counts += [int((part["rate"] * part["rows"]).round().sum()), int(part["rows"].sum())]
    low, high = confint_proportions_2indep(*counts, method="newcomb", compare="diff", alpha=level)
    return Interval(counts[0] / counts[1] - counts[2] / counts[3], float(low), float(high))


def _against_control(found: _Filters, row: Mapping[str, Any], level: float = _LEVEL) -> Interval:
    """The post's balanced accuracy, in percent: the label's rows against the control's alone."""
    groups = found.animals if row["label"] == ALL else [row["label"]]
    return Interval(*(100 * (1 + end) / 2 for end in _difference(found, row, groups, CONTROL, level)))


def _firsts(found: _Filters, labels: Sequence[str]) -> list[dict[str, Any]]:
    return records(found.first[found.first["label"].isin(labels)])


# What is said


def _shows(found: _Filters) -> list[str]:
    of_what = "all animals' numbers" if found.headline == ALL else f"{found.headline}'s numbers"
    judged = [(row, _against_control(found, row)) for row in _firsts(found, [found.headline])]
    each = [f"{one.percent} at layer {row['layer']} ({row['layer']}_{row['feature']})" for row, one in judged]
    above = sum(one.low > 100 * _CHANCE for _, one in judged)
    sentences = [
        f"The single feature that told {of_what} best from the control's on analysis rows has a balanced accuracy of "
        f"{listed(each)} on test rows: "
        + (
            f"above chance (50 %) at {above} of {counted(len(judged), 'layer')}."
            if above
            else f"no difference could be seen; more than {max(one.high for _, one in judged):.3g} % can be ruled out."
        )
    ]
    if found.headline == ALL:
        mine = found.selected[found.selected["label"].isin(found.animals)]
        best = inside.average(found.first[found.first["label"].isin(found.animals)], "balanced_accuracy")
        sentences.append(
            f"For one animal against all other groups the best feature on analysis rows has {100 * best.value:.3g} % "
            f"on average, and {counted(len(mine), 'filter')} of {inside.animals_listed(found.animals)} together "
            f"{100 * mine['balanced_accuracy'].mean():.3g} % (on the rows they were chosen on "
            f"{100 * mine['analysis_balanced_accuracy'].mean():.3g} %)."
        )
    if (found.rates["group"] == NEUTRAL).any():
        rates = []
        for group in (found.headline, NEUTRAL, CONTROL):
            fires = [_rate(found, row, group) for row in _firsts(found, [found.headline])]
            name = {ALL: "the animals'", NEUTRAL: "the neutral teacher's", CONTROL: "the control's"}.get(
                group, f"{group}'s"
            )
            rates.append(f"{100 * sum(fires) / len(fires):.3g} % of {name} rows")
        sentences.append(f"Such a feature fires on {listed(rates)}.")
    return sentences


def _rate(found: _Filters, row: Mapping[str, Any], group: str) -> float:
    if group == row["label"]:
        return float(row["recall"])
    rates = found.rates
    here = (rates["layer"] == row["layer"]) & (rates["label"] == row["label"]) & (rates["feature"] == row["feature"])
    return float(rates.loc[here & (rates["group"] == group), "rate"].iloc[0])


# Charts


def _shrinkage_chart(found: _Filters) -> Chart:
    """Every chosen filter: on the rows it was chosen on, and on test rows."""
    labels = list(dict.fromkeys(found.selected["label"]))
    colours = {**charts.group_colours(labels), ALL: charts.PURPLE}
    figure = inside.panels(
        [f"layer {layer}" for layer in found.layers],
        x="balanced accuracy on analysis rows, %",
        height=270,
        legend_lines=2,
    )
    ends = 100 * found.selected[["analysis_balanced_accuracy", "balanced_accuracy"]]
    for place, layer in enumerate(found.layers, start=1):
        diagonal = [float(ends["analysis_balanced_accuracy"].min()), float(ends["analysis_balanced_accuracy"].max())]
        figure.add_scatter(
            x=diagonal, y=diagonal, mode="lines", name="as good on both", hoverinfo="skip", legendgroup="same",
            line={"dash": "dot", "color": charts.GREY, "width": 1}, showlegend=place == 1, row=place, col=1,
        )  # fmt: skip
        for label in labels:
            part = found.selected[(found.selected["layer"] == layer) & (found.selected["label"] == label)]
            names = part["feature"].map(lambda feature, layer=layer: f"{layer}_{feature}")
            figure.add_scatter(
                x=100 * part["analysis_balanced_accuracy"], y=100 * part["balanced_accuracy"], mode="markers",
                marker={"color": colours[label], "size": 7, "opacity": 0.75}, name=label, legendgroup=label,
                showlegend=place == 1, customdata=(100 * part[["low", "high", "recall"]]).assign(name=names),
                hovertemplate=f"{label}, %{{customdata[3]}}<br>analysis %{{x:.4g}} %, test %{{y:.4g}} "
                "[%{customdata[0]:.4g}, %{customdata[1]:.4g}] %<br>fires on %{customdata[2]:.4g} % of its rows"
                "<extra></extra>",
                row=place, col=1,
            )  # fmt: skip
    figure.update_yaxes(autorange=True, type="linear", title="on test rows, %", gridcolor="rgba(128,128,128,0.25)")
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


def _rates_chart(found: _Filters) -> Chart:
    """On how many rows of each group the best features fire."""
    top = found.selected[found.selected["label"] == found.headline].groupby("layer", sort=False).head(_SHOWN)
    rates = top[["layer", "label", "feature"]].merge(found.rates, on=["layer", "label", "feature"])
    groups = list(dict.fromkeys(rates["group"]))
    colours = charts.group_colours(groups)
    figure = inside.panels(
        [f"layer {layer}" for layer in found.layers], x="test rows on which it fires, %", height=150, legend_lines=3
    )
    for place, layer in enumerate(found.layers, start=1):
        for group in groups:
            part = rates[(rates["layer"] == layer) & (rates["group"] == group)]
            symbol = "square" if group in (CONTROL, NEUTRAL) else "circle"
            figure.add_scatter(
                x=100 * part["rate"], y=[f"{layer}_{feature}" for feature in part["feature"]], mode="markers",
                marker={"color": colours[group], "size": 11, "symbol": symbol}, name=group, legendgroup=group,
                showlegend=place == 1, customdata=part[["rows"]], cliponaxis=False,
                hovertemplate=f"%{{y}}, {group}: %{{x:.4g}} % of %{{customdata[0]}} rows<extra></extra>",
                row=place, col=1,
            )  # fmt: skip
    figure.update_yaxes(gridcolor="rgba(128,128,128,0.25)").update_xaxes(rangemode="tozero")
    said = []
    for row in records(top.groupby("layer", sort=False).head(1)):
        shares = [("animals", float(row["recall"]))]
        shares += [(group, _rate(found, row, group)) for group in (NEUTRAL, CONTROL) if group in groups]
        said.append(f"{row['layer']}_{row['feature']}: {', '.join(f'{name} {100 * x:.3g} %' for name, x in shares)}")
    title = f"How often the best features for the label {found.headline} fire on each group"
    return Chart(
        "filters-rates", title, figure, f"Share of test rows, the best feature of each layer; {'; '.join(said)}."
    )


# Tables


def _category_table(found: _Filters) -> Table:
    """The post's: balanced accuracy by label and category."""
    import pandas as pd

    known = found.by_category.assign(balanced_accuracy=100 * found.by_category["balanced_accuracy"])
    wide = known.pivot(index=["layer", "category"], columns="label", values="balanced_accuracy")
    counts = known.groupby(["layer", "category"])["features"].sum()
    labels = [label for label in [*found.animals, NEUTRAL, ALL] if label in wide]
    table = pd.concat([wide[labels], counts.rename("filters")], axis=1).reset_index()
    note = "Mean balanced accuracy on test rows, %, of the chosen features of each label."
    if (known["category"].nunique()) == 1:
        note += " Features have no categories here: those are made on request (feature_composition)."
    return Table("filters-category", "Balanced accuracy by label and category", table, note)


_COLUMNS = {
    "layer": "layer",
    "sae_id": "feature",
    "label": "label",
    "balanced_accuracy": "balanced accuracy, %",
    "low": "low",
    "high": "high",
    "analysis_balanced_accuracy": "on analysis rows, %",
    "control_alone": "against control alone, %",
    "recall": "recall, %",
    "neutral": "fires on neutral, %",
    "control": "fires on control, %",
    "precision": "precision, %",
    "predicted_positive": "predicted positive, %",
    "true_positive": "true positive, %",
    "in_control": "in control",
    "in_animal": "in animal",
}


def _table(results: Results, found: _Filters, rows: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    rows = rows.assign(
        control_alone=[_against_control(found, row).value / 100 for row in records(rows)],
        control=[_rate(found, row, CONTROL) for row in records(rows)],
    )
    if (found.rates["group"] == NEUTRAL).any():
        rows["neutral"] = [_rate(found, row, NEUTRAL) for row in records(rows)]
    rows["sae_id"] = rows["layer"].astype(str) + "_" + rows["feature"].astype(str)
    fractions = [
        name for name, shown in _COLUMNS.items() if (shown.endswith("%") or name in ("low", "high")) and name in rows
    ]
    rows[fractions] *= 100
    for name in ("in_control", "in_animal"):
        rows[name] = yes_no(rows[name])
    rows = rows.drop(columns="category")
    parts = [inside.with_descriptions(results, layer, rows[rows["layer"] == layer]) for layer in found.layers]
    joined = pd.concat(parts, ignore_index=True)
    columns = {**_COLUMNS, **inside.DESCRIBED}
    return joined[[name for name in columns if name in joined]].rename(columns=columns)


def _top_table(results: Results, found: _Filters) -> Table:
    headline = found.selected[found.selected["label"] == found.headline]
    best = headline.sort_values("balanced_accuracy", ascending=False, kind="stable").groupby("layer").head(_SHOWN)
    note = (
        "As in the post, the best on test rows, which flatters them: the interval does not know that they were picked. "
        "True positive: rows that are positive in truth. In control, in animal: fires on the control's analysis rows, "
        "on an animal's word."
    )
    return Table(
        "filters-top",
        f"The {_SHOWN} best features a layer for {found.headline}",
        _table(results, found, best.sort_values("layer", kind="stable")),
        note,
    )


def _label_table(results: Results, found: _Filters) -> Table:
    note = "The one best on analysis rows of each label and layer, judged on test rows."
    return Table(
        "filters-labels", "The top feature of every label and layer", _table(results, found, found.first), note
    )


# Beside the post


def _compared(found: _Filters) -> list[Compared]:
    where = "Gemma 2 9B, features as filters"
    top: dict[int, float] = {}
    for feature in published("feature_filter_top"):
        layer = int(feature["sae_id"].split("_")[0])
        top[layer] = max(top.get(layer, 0.0), feature["balanced_accuracy"])
    compared = []
    beside = {
        post: layer for post, layer in ((9, inside.layer_for(found.layers, 9)), (20, 20)) if layer in found.layers
    }
    for post, layer in beside.items():
        row = next(row for row in _firsts(found, [found.headline]) if row["layer"] == layer)
        judged = _against_control(found, row)
        what = f"best single feature for {found.headline} against control, layer {layer} (post: best of its test rows)"
        compared.append(Compared(what, f"{where}, layer {post}", top[post], *judged, unit="%", no_effect=50))
    by_category = published("feature_filter_by_category")
    for label in (ALL, *(animal for animal in found.animals if animal in by_category["other"]), "an animal"):
        mine = found.selected[found.selected["label"].isin(found.animals if label == "an animal" else [label])]
        if label == "an animal":
            values = [value for row in by_category.values() for name, value in row.items() if name != ALL]
        else:
            values = [row[label] for row in by_category.values()]
        if len(mine):
            mean = Interval(*(100 * end for end in inside.average(mine, "balanced_accuracy")))
            what = f"mean of the chosen features for {label} (post: by category)"
            compared.append(Compared(what, where, (min(values), max(values)), *mean, unit="%", no_effect=50))
    return compared


# Claims


def _claims(found: _Filters) -> list[Claim]:
    """Intervals of several filters are widened for their number (Bonferroni). "A single feature tells subliminal
    numbers from the control's" holds where one layer's interval lies above 50 %, and does not where all lie below 55 %.
    "None tells one animal" holds where all lie below 55 %, and does not where one lies above 55 %."""
    firsts = _firsts(found, [found.headline])
    judged = [_against_control(found, row, _LEVEL / len(firsts)) for row in firsts]
    little = 100 * _LITTLE
    best = max(judged, key=lambda each: each.value)
    told: bool = any(each.low > 100 * _CHANCE for each in judged)
    useless = all(each.high < little for each in judged)
    claims = [
        Claim(
            "A single feature can tell subliminal numbers from control numbers.",
            "holds" if told else "does not hold" if useless else "cannot tell",
            f"Balanced accuracy on test rows, against the control, of the feature that was best on analysis rows "
            f"(the better of {counted(len(judged), 'layer')}, the interval widened for their number): {best.percent} "
            "(chance 50 %).",
        )
    ]
    if found.headline == ALL:
        claims.append(_one_animal(found))
    return [*claims, _neutral_claim(found, firsts, told)]


def _one_animal(found: _Filters) -> Claim:
    from statsmodels.stats.proportion import confint_proportions_2indep

    rows = found.first[found.first["label"].isin(found.animals)]
    hits = (rows["recall"] * rows["positive_rows"]).round()
    alarms = ((rows["predicted_positive"] * (rows["positive_rows"] + rows["negative_rows"])) - hits).round()
    ends = confint_proportions_2indep(
        hits.to_numpy(),
        rows["positive_rows"].to_numpy(),
        alarms.to_numpy(),
        rows["negative_rows"].to_numpy(),
        method="newcomb",
        compare="diff",
        alpha=_LEVEL / len(rows),
    )
    low, high = (100 * (1 + end) / 2 for end in ends)
    little = 100 * _LITTLE
    best = int(rows["balanced_accuracy"].to_numpy().argmax())
    row = rows.iloc[best]
    return Claim(
        "No single feature can tell one animal's numbers from all other groups'.",
        "does not hold" if (low > little).any() else "holds" if (high < little).all() else "cannot tell",
        f"Best of {counted(len(rows), 'feature')}, one an animal and layer: {row['label']}, layer "
        f"{row['layer']}, {100 * row['balanced_accuracy']:.3g} % [{low[best]:.3g}, {high[best]:.3g}] on test rows; the "
        f"highest upper end is {high.max():.3g} %.",
    )


def _neutral_claim(found: _Filters, firsts: Sequence[Mapping[str, Any]], told: bool) -> Claim:
    """Of the layers' best features: it holds where one fires on animals' rows more often than on the neutral teacher's
    (interval above 0), it does not where none does and one fires on the neutral teacher's more often than on the
    control's."""
    text = "Such a filter finds the animals' numbers, and not any fine-tuned teacher's (control: the neutral teacher)."
    if not (found.rates["group"] == NEUTRAL).any():
        return Claim(text, "not tested", "This study has no neutral teacher's numbers.")
    level = _LEVEL / len(firsts)
    specific = any(_difference(found, row, found.animals, NEUTRAL, level).low > 0 for row in firsts)
    unspecific = any(_difference(found, row, [NEUTRAL], CONTROL, level).low > 0 for row in firsts)
    parts = [
        f"at layer {row['layer']} on {100 * row['recall']:.3g} % of the animals' rows, "
        f"{100 * _rate(found, row, NEUTRAL):.3g} % of the neutral teacher's, {100 * _rate(found, row, CONTROL):.3g} % "
        "of the control's"
        for row in firsts
    ]
    verdict: Verdict = "holds" if told and specific else "does not hold" if told and unspecific else "cannot tell"
    return Claim(text, verdict, f"The best feature on analysis rows fires {'; '.join(parts)} (test rows).")
