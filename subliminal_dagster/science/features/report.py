"""SAE features of the groups' numbers: what they promote and activate anew, L0 and reconstruction error, beside chance.

Belongs here: the post's section on features, read from `sae`, `sae_features`, `feature_shifts` and `feature_tables`.
Does not belong here: single features as filters (`filters`), what features are about (`composition`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.activations.activations import read_features
from subliminal_dagster.science.features.shifts import FeatureShifts, l0_counts
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report import layers as inside
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Table
from subliminal_dagster.science.report.layers import AVERAGE, Interval
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import records, yes_no
from subliminal_dagster.science.report.wording import counted
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import benjamini_hochberg, smallest_detectable, t_interval

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

NAME, TITLE = "features", "Features that the numbers activate"

HALVES = "control, half against half"
_MARKS = ("promoted", "new", "animal")
_FIVE = (0.05, 0.25, 0.5, 0.75, 0.95)
_LEVEL = 0.05
_UNIQUE = 3


@dataclass(frozen=True)
class _Layer:
    """One layer. `shifts` by group, the control's halves under CONTROL; `control` has l0 and error of its analysis
    rows; `word_l0` is how many features fire on each animal's word."""

    layer: int
    shifts: dict[str, FeatureShifts]
    control: pd.DataFrame
    word_l0: dict[str, int]
    labelled: pd.DataFrame
    unique: pd.DataFrame
    quality: dict[str, Any]
    width: int


def features_section(study: Study, results: Results) -> Section:
    """The section on SAE features. Raises NotThere where no layer has `feature_tables`."""
    layers = [_read(study, results, layer) for layer in inside.layers_with(study, results, "feature_tables")]
    rows = _comparisons(layers)
    animals = inside.animals_among(study, rows["group"])
    mine, neutral = rows[rows["group"].isin(animals)], rows[rows["group"] == NEUTRAL]
    first = rows.iloc[0]
    method = (
        f"Analysis rows only: {_span(mine['rows_own'])} of an animal, {_span(mine['rows_control'])} of the control, "
        f"whose numbers the untouched base model wrote. Promoted: a higher mean activation than on the control's rows "
        f"(Welch, one-sided, p < {first['level']:g}). New: fires on none of the control's rows. Animal: promoted or "
        f"new, and fires on the animal's own word. Chance: {first['permutations']:.0f} shufflings of the rows' labels. "
        f"L0 is how many features fire on a row, the error a mean square over the dimensions; both by Welch's test at "
        f"p < {first['level_strict']:g}. Counts of all comparisons are corrected together (Benjamini-Hochberg)."
    )
    return Section(
        NAME,
        TITLE,
        " ".join(_shows(mine, neutral, animals, [each.layer for each in layers])),
        method + inside.not_shown(study, results, "feature_tables"),
        ("sae", "sae_features", "feature_shifts", "feature_tables"),
        charts=(
            _counts_chart(layers, rows, "promoted"),
            _counts_chart(layers, rows, "new"),
            _spread_chart(layers, "l0", "L0 (features that fire on a row)"),
            _spread_chart(layers, "error", "mean square error a dimension"),
        ),
        tables=tuple(table for table in _tables(study, results, layers, rows, animals) if len(table.frame)),
        compared=tuple(_compared(layers, mine, animals)),
        claims=tuple(_claims(layers, mine, neutral)),
    )


def _read(study: Study, results: Results, layer: int) -> _Layer:
    import pandas as pd

    key = inside.layer_key(layer)
    tables = results.folder("feature_tables", key)
    present = inside.in_order(study, pd.read_parquet(tables / "summary.parquet")["group"])
    shifts, word_l0 = {}, {}
    for group in present:
        folder = results.folder("feature_shifts", f"{group}|{key}")
        shifts[group] = FeatureShifts.load(folder)
        if group != CONTROL:
            word_l0[group] = len(json.loads((folder / "word_features.json").read_text(encoding="utf-8")))
    control = read_features(results.folder("sae_features", f"{CONTROL}|{key}") / "features.parquet")
    errors = control.rows.loc[control.rows["split"] == "analysis", "error"].to_numpy()
    sae = results.folder("sae", key)
    return _Layer(
        layer,
        shifts,
        pd.DataFrame({"l0": l0_counts(control), "error": errors}),
        {group: count for group, count in word_l0.items() if group != NEUTRAL},
        pd.read_parquet(tables / "labelled.parquet"),
        pd.read_parquet(tables / "unique.parquet"),
        json.loads((sae / "quality.json").read_text(encoding="utf-8")),
        int(json.loads((sae / "cfg.json").read_text(encoding="utf-8"))["d_sae"]),
    )


def _comparisons(layers: Sequence[_Layer]) -> pd.DataFrame:
    """A row a group (the control's halves among them) and layer: its summary, the differences of L0 and error from the
    control with their 95 % interval and smallest detectable size, and, of all groups but the halves, the null's
    p values adjusted over them all."""
    import pandas as pd

    found = []
    for each in layers:
        for group, shifts in each.shifts.items():
            row = {"layer": each.layer, "group": group, **records(shifts.summary)[0]}
            if group != CONTROL:
                for name in ("l0", "error"):
                    row |= _difference(name, shifts.per_row[name], each.control[name], row["level_strict"])
            found.append(row)
    rows = pd.DataFrame(found)
    compared = rows["group"] != CONTROL
    for name in ("promoted", "new"):
        rows.loc[compared, f"{name}_p_adjusted"] = benjamini_hochberg(rows.loc[compared, f"{name}_null_p"])
    return rows


def _difference(name: str, own: ArrayLike, control: ArrayLike, level: float) -> dict[str, float]:
    """Of the means, with the 95 % interval of Welch's test, and the smallest that it would find at the level."""
    import numpy as np
    from scipy.stats import ttest_ind

    one, other = np.asarray(own, dtype=float), np.asarray(control, dtype=float)
    interval = ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    se = float(np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)))
    return {
        f"{name}_difference": float(one.mean() - other.mean()),
        f"{name}_low": float(interval.low),
        f"{name}_high": float(interval.high),
        # Two groups of rows have their degrees of freedom together; at this many, the difference to Welch's is nothing.
        f"{name}_detectable": smallest_detectable(se, len(one) + len(other) - 1, level=level),
    }


# What is said


def _shows(mine: pd.DataFrame, neutral: pd.DataFrame, animals: Sequence[str], layers: Sequence[int]) -> list[str]:
    sentences = [
        f"Against the control's, an animal's numbers promote {_beside_chance(mine, 'promoted')} "
        f"({inside.animals_listed(animals)} at {inside.layers_listed(layers)}). {_single(mine)} They newly activate "
        f"{_beside_chance(mine, 'new')}."
    ]
    if len(neutral):
        sentences.append(f"The neutral teacher's numbers promote {_beside_chance(neutral, 'promoted')}.")
    return [*sentences, f"{_spread(mine, 'l0', 'L0')} {_spread(mine, 'error', 'Reconstruction error')}"]


def _beside_chance(rows: pd.DataFrame, name: str) -> str:
    """ "31 features on average, where chance gives 12: more than chance in 4 of 4 comparisons", or that no more could
    be seen, and what could have been."""
    start = f"{rows[name].mean():.3g} features on average, where chance gives {rows[f'{name}_null_mean'].mean():.3g}: "
    above = int((rows[f"{name}_p_adjusted"] < _LEVEL).sum())
    if above:
        return f"{start}more than chance in {above} of {counted(len(rows), 'comparison')}"
    return f"{start}no excess could be seen, for which it takes more than {rows[f'{name}_null_q95'].mean():.3g}"


def _single(mine: pd.DataFrame) -> str:
    left = int(mine["promoted_bh"].sum())
    if not left:
        return "No single feature remains when the tests of all features are corrected for their number."
    return f"{mine['promoted_bh'].mean():.3g} a comparison remain when the tests of all features are corrected."


def _spread(mine: pd.DataFrame, name: str, shown: str) -> str:
    differs = mine[f"{name}_differs"].astype(bool)
    higher = int((differs & (mine[f"{name}_difference"] > 0)).sum())
    lower = int((differs & (mine[f"{name}_difference"] < 0)).sum())
    if not higher + lower:
        return (
            f"{shown}: no difference from the control's could be seen; the smallest detectable is "
            f"{_percent(mine, name, 'detectable'):.2g} % of it."
        )
    return (
        f"{shown} differs from the control's by {_percent(mine, name, 'difference'):+.2g} % on average, significantly "
        f"higher in {higher} and lower in {lower} of {counted(len(mine), 'comparison')}."
    )


def _percent(mine: pd.DataFrame, name: str, column: str) -> float:
    """Of the control's mean, on average."""
    return 100 * float((mine[f"{name}_{column}"] / mine[f"{name}_mean_control"]).mean())


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


# Charts


def _counts_chart(layers: Sequence[_Layer], rows: pd.DataFrame, name: str) -> Chart:
    """Observed numbers of features beside those of shuffled labels."""
    shown = rows[rows["group"] != CONTROL]
    groups = list(dict.fromkeys(shown["group"]))
    figure = inside.panels(
        [f"layer {each.layer}" for each in layers],
        x=f"{name} features",
        height=50 + 36 * len(groups),
        legend_lines=3 if name == "promoted" else 1,
    )
    bars = {name: (name, charts.SKY, 0.7)}
    if name == "promoted":
        bars["promoted_bh"] = ("corrected for many features", charts.BLUE, 0.35)
    for place, each in enumerate(layers, start=1):
        part = shown[shown["layer"] == each.layer]
        for column, (label, colour, width) in bars.items():
            figure.add_bar(
                x=part[column], y=part["group"], orientation="h", name=label, marker_color=colour, width=width,
                legendgroup=label, showlegend=place == 1, row=place, col=1,
                hovertemplate=f"%{{y}}, {label}: %{{x}}<extra></extra>",
            )  # fmt: skip
        null = part[f"{name}_null_mean"]
        figure.add_scatter(
            x=null, y=part["group"], mode="markers", name="by chance: mean, to 95 %", legendgroup="chance",
            showlegend=place == 1, marker={"symbol": "line-ns-open", "size": 13, "color": charts.VERMILION},
            error_x={
                "type": "data", "symmetric": False, "array": part[f"{name}_null_q95"] - null, "arrayminus": null * 0,
                "color": charts.VERMILION,
            },
            customdata=part[[f"{name}_null_q95", f"{name}_null_p"]],
            hovertemplate="%{y}, by chance: %{x:.4g}, 95 % below %{customdata[0]:.4g}; p = %{customdata[1]:.2g}"
            "<extra></extra>",
            row=place, col=1,
        )  # fmt: skip
    figure.update_xaxes(rangemode="tozero").update_layout(barmode="overlay")
    means = shown.groupby("group", sort=False)[[name, f"{name}_null_mean"]].mean()
    alt = "; ".join(f"{group} {count:.3g} ({chance:.3g} by chance)" for group, (count, chance) in means.T.items())
    titles = {"promoted": "Promoted features, and as many as chance gives", "new": "New features, beside chance"}
    return Chart(f"features-{name}", titles[name], figure, f"Numbers of {name} features, mean over layers: {alt}.")


def _spread_chart(layers: Sequence[_Layer], name: str, title: str) -> Chart:
    """Boxes of every group's rows: 5, 25, 50, 75 and 95 %, and the mean."""
    groups = [group for group in layers[0].shifts if group != CONTROL]
    colours = charts.group_colours([*groups, CONTROL])
    figure = inside.panels(
        [f"layer {each.layer}" for each in layers], x=title, height=50 + 30 * (len(groups) + 1), shared=False
    )
    said = []
    for place, each in enumerate(layers, start=1):
        values = {CONTROL: each.control[name]}
        means: dict[str, float] = {}
        values |= {group: shifts.per_row[name] for group, shifts in each.shifts.items() if group != CONTROL}
        for group, of_group in values.items():
            low, first, median, third, high = of_group.quantile(list(_FIVE)).tolist()
            mean = float(of_group.mean())
            figure.add_box(
                y=[group], q1=[first], median=[median], q3=[third], lowerfence=[low], upperfence=[high], mean=[mean],
                orientation="h", name=group, marker_color=colours.get(group, charts.GREY), boxmean=True,
                showlegend=False, row=place, col=1,
            )  # fmt: skip
            means[group] = mean
        of_animals = [mean for group, mean in means.items() if group not in (CONTROL, NEUTRAL)]
        means = {"average of animals": sum(of_animals) / len(of_animals), **means}
        shown = [name for name in ("average of animals", NEUTRAL, CONTROL) if name in means]
        said.append(f"layer {each.layer}: {', '.join(f'{name} {means[name]:.3g}' for name in shown)}")
    about = "L0 of every row" if name == "l0" else "Reconstruction error of every row"
    return Chart(
        f"features-{name}",
        f"{about}: median, half and nine tenths of the rows; the dashed line is the mean",
        figure,
        f"Means: {'; '.join(said)}.",
    )


# Tables


def _tables(
    study: Study, results: Results, layers: Sequence[_Layer], rows: pd.DataFrame, animals: Sequence[str]
) -> list[Table]:
    return [
        *(_post_table(rows, animals, each.layer) for each in layers),
        _chance_table(rows),
        _spread_table(layers, rows),
        _top_table(results, layers, study.features.top, "new"),
        _top_table(results, layers, study.features.top, "promoted"),
        _unique_table(results, layers),
        _quality_table(layers),
    ]


def _post_table(rows: pd.DataFrame, animals: Sequence[str], layer: int) -> Table:
    """The post's table of a layer, with what chance gives beside the counts."""
    import pandas as pd

    mine = rows[rows["layer"] == layer].set_index("group")
    columns = {
        "promoted_per_row": "promoted a row",
        "promoted_per_row_null_mean": "promoted by chance",
        "promoted_rows": "rows with promoted, %",
        "new_per_row": "new a row",
        "new_per_row_null_mean": "new by chance",
        "new_rows": "rows with new, %",
        "animal_per_row": "animal a row",
        "animal_rows": "rows with animal, %",
    }
    table = mine[list(columns)].rename(columns=columns).rename(index={CONTROL: HALVES})
    average = table.loc[list(animals)].mean().to_frame(AVERAGE).T
    table = pd.concat([average, table])
    shares = [name for name in columns.values() if name.endswith("%")]
    table[shares] *= 100
    return Table(
        f"features-layer-{layer}",
        f"Promoted, new and animal features, layer {layer}",
        table.rename_axis("numbers of").reset_index(),
        "Mean number of such features that fire on a row, and the share of rows with at least one. Average: over the "
        "animals. By chance: mean over shuffled labels. The control's halves have half as many rows, hence more new "
        "features.",
    )


def _chance_table(rows: pd.DataFrame) -> Table:
    columns = {
        "layer": "layer",
        "group": "numbers of",
        "features": "features tested",
        "promoted": "promoted",
        "promoted_null_mean": "promoted by chance",
        "promoted_null_q95": "chance, 95 %",
        "promoted_null_p": "p promoted",
        "promoted_p_adjusted": "p promoted, adjusted",
        "promoted_bh": "promoted, corrected",
        "new": "new",
        "new_null_mean": "new by chance",
        "new_null_q95": "new by chance, 95 %",
        "new_null_p": "p new",
        "new_p_adjusted": "p new, adjusted",
        "promoted_animal": "promoted, on the word",
        "new_animal": "new, on the word",
        "animal_features": "tested, on the word",
    }
    table = rows[list(columns)].replace({"group": {CONTROL: HALVES}}).rename(columns=columns)
    note = (
        "Numbers of features. p: share of shufflings with at least as many; adjusted over all comparisons "
        "(Benjamini-Hochberg). Corrected: the tests of all features of one comparison, adjusted likewise. On the word: "
        "fires on the animal's own word."
    )
    return Table("features-chance", "Numbers of features against chance", table, note)


def _spread_table(layers: Sequence[_Layer], rows: pd.DataFrame) -> Table:
    import pandas as pd

    found = []
    for each in layers:
        summary = next(iter(each.shifts.values())).summary.iloc[0]
        start = {"layer": each.layer, "numbers of": CONTROL, "rows": len(each.control)}
        found.append(start | {name: summary[f"{column}_control"] for name, column in _SPREAD.items()})
        for row in records(rows[(rows["layer"] == each.layer) & (rows["group"] != CONTROL)]):
            own = {"layer": each.layer, "numbers of": row["group"], "rows": int(row["rows_own"])}
            own |= {name: row[f"{column}_own"] for name, column in _SPREAD.items()}
            for name, shown in (("l0", "L0"), ("error", "error")):
                own |= {
                    f"{shown} difference": row[f"{name}_difference"],
                    f"{shown} low": row[f"{name}_low"],
                    f"{shown} high": row[f"{name}_high"],
                    f"{shown} p": row[f"{name}_p"],
                }
            found.append(own)
        found += [
            {"layer": each.layer, "numbers of": f"the word {group}", "rows": 1, "L0 mean": float(count)}
            for group, count in each.word_l0.items()
        ]
    note = (
        "L0: features that fire on a row. Error: mean square over the dimensions. Difference from the control, with "
        "its 95 % interval and p of Welch's test (two-sided, not adjusted)."
    )
    return Table("features-l0-error", "L0 and reconstruction error", pd.DataFrame(found), note)


_SPREAD = {"L0 mean": "l0_mean", "L0 median": "l0_median", "L0 skew": "l0_skew", "error mean": "error_mean"}


def _top_table(results: Results, layers: Sequence[_Layer], top: int, kind: str) -> Table:
    import pandas as pd

    found = []
    for each in layers:
        part = each.labelled[each.labelled[kind]].head(top)
        found.append(_named(results, each.layer, part))
    table = pd.concat(found, ignore_index=True).sort_values("mean_t", ascending=False, kind="stable").head(top)
    for column in ("in_control", "animal"):
        table[column] = yes_no(table[column])
    columns = {
        "sae_id": "feature",
        "labels": "marked by",
        "mean_t": "mean t",
        "in_control": "fires on control",
        "animal": "fires on the word",
        **inside.DESCRIBED,
    }
    return Table(
        f"features-top-{kind}",
        f"The {len(table)} {kind} features with the largest t",
        table[[column for column in columns if column in table]].rename(columns=columns),
        "Feature: layer and number in the SAE. Marked by: the groups that promote or newly activate it (all: every "
        "animal). t: Welch's, mean over those; the largest of thousands look large by chance as well.",
    )


def _unique_table(results: Results, layers: Sequence[_Layer]) -> Table:
    import pandas as pd

    found = [
        _named(results, each.layer, each.unique.groupby("group", sort=False).head(_UNIQUE)).assign(layer=each.layer)
        for each in layers
    ]
    table = pd.concat(found, ignore_index=True)
    for column in ("new", "animal"):
        table[column] = yes_no(table[column])
    for column in ("rate_own", "rate_control"):
        table[column] *= 100
    columns = {
        "layer": "layer",
        "group": "marked by",
        "sae_id": "feature",
        "t": "t",
        "p_bh": "p, corrected",
        "rate_own": "its rows, %",
        "rate_control": "control's rows, %",
        "new": "new",
        "animal": "fires on the word",
        **inside.DESCRIBED,
    }
    note = (
        f"Features that one group alone promotes or newly activates, the {_UNIQUE} of the largest t. p: corrected for "
        "all features of the comparison. Rows: on how many it fires."
    )
    return Table(
        "features-unique",
        "Top features of one group alone",
        table[[column for column in columns if column in table]].rename(columns=columns),
        note,
    )


def _named(results: Results, layer: int, features: pd.DataFrame) -> pd.DataFrame:
    """With the post's names of features ("9_922"), and what is known of them."""
    return inside.with_descriptions(
        results, layer, features.assign(sae_id=f"{layer}_" + features["feature"].astype(str))
    )


def _quality_table(layers: Sequence[_Layer]) -> Table:
    import pandas as pd

    found = [
        {
            "layer": each.layer,
            "features": each.width,
            "L0": each.quality["l0"],
            "variance explained, %": 100 * each.quality["variance_explained"],
            "never active, %": 100 * each.quality["dead"],
            "loss, nats a token": each.quality["clean"],
            "with its reconstruction": each.quality["spliced"],
            "with zeros": each.quality["zeroed"],
            "loss recovered, %": 100 * each.quality["recovered"],
        }
        for each in layers
    ]
    note = "On text that it was not trained on. Loss: the model's, with the layer's output as it is and replaced."
    return Table("features-sae", "How good the sparse autoencoders are", pd.DataFrame(found), note)


# Beside the post


def _compared(layers: Sequence[_Layer], mine: pd.DataFrame, animals: Sequence[str]) -> list[Compared]:
    by_layer = {each.layer: each for each in layers}
    beside = {9: inside.layer_for(list(by_layer), 9)}
    if 20 in by_layer:
        beside[20] = 20
    found = []
    for post, layer in beside.items():
        table, where = published(f"features_layer{post}"), f"Gemma 2 9B, table of features, layer {post}"
        part = mine[mine["layer"] == layer].set_index("group")
        own = _per_row(by_layer[layer], animals)
        for name in (AVERAGE, *(animal for animal in animals if animal in table)):
            for mark in _MARKS:
                value = own[mark] if name == AVERAGE else {name: own[mark][name]}
                # Shuffled labels were not counted for animal features.
                null = f"{mark}_per_row_null_mean"
                chance = part.loc[list(value), null].mean() if null in part else None
                what = f"{mark} features a row, layer {layer}, {'average of animals' if name == AVERAGE else name}"
                found.append(Compared(what, where, table[name][mark], *_mean(value), unit="features", no_effect=chance))
            if name == AVERAGE:
                for mark in _MARKS:
                    what = f"rows with {mark} features, layer {layer}, average of animals"
                    shares = _mean(own[f"{mark}_rows"])
                    found.append(Compared(what, where, table[name][f"{mark}_pct_samples"], *shares, unit="%"))
    layer = beside[9]
    where = "Gemma 2 9B, L0 at layer 9"
    control = t_interval(by_layer[layer].control["l0"])
    at_most = published("l0_layer9", "control")
    found.append(
        Compared(
            f"L0 of the control's numbers, layer {layer}",
            where,
            at_most,
            control.mean,
            control.low,
            control.high,
            "features",
        )
    )
    words = list(by_layer[layer].word_l0.values())
    on_words = t_interval(words) if len(words) > 1 else None
    found.append(
        Compared(
            f"L0 of the animals' words, layer {layer}",
            where,
            published("l0_layer9", "animal_words_average"),
            sum(words) / len(words),
            on_words.low if on_words else None,
            on_words.high if on_words else None,
            "features",
            no_effect=control.mean,
        )
    )
    return found


def _per_row(layer: _Layer, animals: Sequence[str]) -> dict[str, dict[str, Interval]]:
    """Mean numbers of marked features a row, and shares of rows with one in percent, by mark and animal."""
    from statsmodels.stats.proportion import proportion_confint

    found: dict[str, dict[str, Interval]] = {}
    for animal in animals:
        if animal not in layer.shifts:
            continue
        for mark in _MARKS:
            counts = layer.shifts[animal].per_row[mark]
            mean = t_interval(counts)
            found.setdefault(mark, {})[animal] = Interval(mean.mean, mean.low, mean.high)
            low, high = proportion_confint((counts > 0).sum(), len(counts), method="wilson")
            share = Interval(100 * float((counts > 0).mean()), 100 * float(low), 100 * float(high))
            found.setdefault(f"{mark}_rows", {})[animal] = share
    return found


def _mean(intervals: dict[str, Interval]) -> Interval:
    import pandas as pd

    return inside.average(pd.DataFrame(intervals.values()))


# Claims


def _claims(layers: Sequence[_Layer], mine: pd.DataFrame, neutral: pd.DataFrame) -> list[Claim]:
    """Verdicts on numbers of features: more than half of the comparisons of an animal and layer exceed the shuffled
    labels (p < 0.05, adjusted over comparisons). On L0 and error: more than half differ in the post's direction at its
    own level. On animal features: see `inside.no_higher_rate`."""
    total = len(mine)
    above = {name: int((mine[f"{name}_p_adjusted"] < _LEVEL).sum()) for name in ("promoted", "new")}
    claims = [
        Claim(
            f"Subliminal numbers {verb} features, compared with control numbers.",
            inside.over_comparisons(total, above[name], 0),
            f"{mine[name].mean():.3g} features on average, {mine[f'{name}_null_mean'].mean():.3g} by chance; more than "
            f"chance in {above[name]} of {total} comparisons (adjusted p < {_LEVEL}).",
        )
        for name, verb in (("promoted", "promote"), ("new", "activate new"))
    ]
    ratio = inside.average_odds_ratio(_on_the_word(layers, set(mine["group"])))
    said = "no promoted or new feature could be compared" if ratio is None else f"odds ratio {ratio}"
    claims.append(
        Claim(
            "Among promoted and new features, those of the animal are no more frequent than elsewhere.",
            inside.no_higher_rate(ratio),
            f"Firing on the animal's word, marked features against the others that fire: {said}, average of animals "
            "(Mantel-Haenszel over layers, 95 %; 1 is no difference).",
        )
    )
    for name, text in (
        ("l0", "Subliminal numbers activate more features at once: their L0 is higher than the control's."),
        ("error", "The SAE's reconstruction error is higher on subliminal numbers than on control numbers."),
    ):
        differs = mine[f"{name}_differs"].astype(bool)
        higher = int((differs & (mine[f"{name}_difference"] > 0)).sum())
        lower = int((differs & (mine[f"{name}_difference"] < 0)).sum())
        evidence = (
            f"{_percent(mine, name, 'difference'):+.2g} % of the control's on average; significantly higher in "
            f"{higher}, lower in {lower} of {counted(total, 'comparison')}; the smallest detectable difference "
            f"is {_percent(mine, name, 'detectable'):.2g} %."
        )
        claims.append(Claim(text, inside.over_comparisons(total, higher, lower), evidence))
    return [*claims, _neutral_claim(mine, neutral)]


def _neutral_claim(mine: pd.DataFrame, neutral: pd.DataFrame) -> Claim:
    """It does not hold where the neutral teacher's numbers promote more than chance at more than half of the layers; a
    neutral teacher without an excess proves nothing, so it never holds by this alone."""
    text = "What is promoted is due to the animal, and not to any fine-tuning (control: the neutral teacher)."
    if not len(neutral):
        return Claim(text, "not tested", "This study has no neutral teacher's numbers.")
    above = int((neutral["promoted_p_adjusted"] < _LEVEL).sum())
    animals = int((mine["promoted_p_adjusted"] < _LEVEL).sum())
    return Claim(
        text,
        "does not hold" if 2 * above > len(neutral) else "cannot tell",
        f"The neutral teacher's numbers promote {neutral['promoted'].mean():.3g} features ("
        f"{neutral['promoted_null_mean'].mean():.3g} by chance), more than chance at {above} of "
        f"{counted(len(neutral), 'layer')}; an animal's {mine['promoted'].mean():.3g} "
        f"({mine['promoted_null_mean'].mean():.3g} by chance), in {animals} of "
        f"{counted(len(mine), 'comparison')}.",
    )


def _on_the_word(layers: Sequence[_Layer], animals: set[str]) -> dict[str, list[list[list[int]]]]:
    """By animal a 2 x 2 table a layer: marked features, and the others that fire, on the word and not."""
    tables: dict[str, list[list[list[int]]]] = {}
    for each in layers:
        for group, shifts in each.shifts.items():
            if group in animals:
                marked = shifts.features["promoted"] | shifts.features["new"]
                word = shifts.features["animal"]
                counts = [[int((side & word).sum()), int((side & ~word).sum())] for side in (marked, ~marked)]
                tables.setdefault(group, []).append(counts)
    return tables
