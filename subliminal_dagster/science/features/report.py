"""SAE features of the groups' numbers: what they promote and activate anew, L0 and reconstruction error, beside chance.

Belongs here: the post's section on features, read from `sae`, `sae_features`, `feature_shifts` and `feature_tables`.
Does not belong here: single features as filters (`report_filters`), what features are about (`descriptions`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science import colours
from subliminal_dagster.science.activations.activations import read_features
from subliminal_dagster.science.features.shifts import FeatureShifts, l0_counts
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report import layers as inside
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Statement, Table
from subliminal_dagster.science.report.layers import AVERAGE
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import Shown, columns, records, rows_where, yes_no
from subliminal_dagster.science.report.wording import counted
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import benjamini_hochberg, smallest_detectable, t_interval

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

NAME, TITLE = "features", "Features that the numbers activate"
_MADE_FROM = ("sae", "sae_features", "feature_shifts", "feature_tables")
READS: tuple[str, ...] = (*_MADE_FROM, *inside.DESCRIPTIONS)

HALVES = "control, half against half"
_MARKS = ("promoted", "new", "animal")
_LEVEL = 0.05
_UNIQUE = 3

_SMALL = 5.0
"""Per cent of the control's L0 or error that would not change what is concluded."""

_EXCESS = (
    f"{inside.UNITS} Judged by how many times as many such features there are as shuffled labels give, less the same "
    "of the neutral teacher's numbers, and less the same of one half of the control's numbers against the other; each "
    "of the two is taken for one draw of what any group shows. Detected where both intervals lie above 1, opposite "
    "where both lie below, not detected where both 90 % intervals lie within a factor of "
    f"{inside.TIMES}; else inconclusive."
)
_HIGHER = (
    f"{inside.UNITS} Judged by the difference in per cent of the control's. Detected where the interval lies above 0, "
    f"opposite where it lies below, not detected where the 90 % interval lies within {_SMALL:g} % of 0; else "
    "inconclusive. The wider ends count of this interval and that over rows."
)
PROMOTED = Statement("Subliminal numbers promote features, compared with control numbers.", _EXCESS)
NEW = Statement("Subliminal numbers activate new features, compared with control numbers.", _EXCESS)
ANIMAL = Statement(
    "Among promoted and new features, those of the animal are no more frequent than elsewhere.", inside.NO_HIGHER_RATE
)
L0 = Statement(
    "Subliminal numbers activate more features at once: their L0 is higher than the control's.", rule=_HIGHER
)
ERROR = Statement(
    "The SAE's reconstruction error is higher on subliminal numbers than on control numbers.", rule=_HIGHER
)
DUE_TO_ANIMAL = Statement(
    "What is promoted is due to the animal, and not to any fine-tuning (control: the neutral teacher).",
    rule=f"{inside.UNITS} Judged by how many times as many promoted features there are as shuffled labels give, less "
    "the same of the neutral teacher's numbers, which are one draw of any fine-tuning. Detected where the interval "
    "lies above 1, opposite where it lies below, not detected where the 90 % interval lies within a factor of "
    f"{inside.TIMES}; else inconclusive.",
    source="this project",
)


@dataclass(frozen=True)
class Layer:
    """What is known of one layer.

    `shifts` by group, the control's halves under CONTROL; `control` has l0 and error of its analysis rows; `word_l0` is
    how many features fire on each animal's word; `sae` has the SAE's quality and its `features`.
    """

    shifts: dict[str, FeatureShifts]
    control: pd.DataFrame
    word_l0: dict[str, int]
    labelled: pd.DataFrame
    unique: pd.DataFrame
    sae: dict[str, Any]


@dataclass(frozen=True)
class Features:
    """All layers by number, and `rows` as `_comparisons` makes them; `groups` are those but the control's halves."""

    layers: dict[int, Layer]
    rows: pd.DataFrame
    animals: list[str]

    @property
    def groups(self) -> pd.DataFrame:
        return self.rows[self.rows["group"] != HALVES]

    @property
    def mine(self) -> pd.DataFrame:
        return self.rows[self.rows["group"].isin(self.animals)]

    @property
    def neutral(self) -> pd.DataFrame:
        return rows_where(self.rows, group=NEUTRAL)


def section(study: Study, results: Results) -> Section:
    """The section on SAE features. Raises NotThere where no layer has `feature_tables`."""
    layers = {layer: _read(study, results, layer) for layer in inside.layers_with(study, results, "feature_tables")}
    rows = _comparisons(layers)
    found = Features(layers, rows, inside.animals_among(study, rows["group"]))
    first = rows.iloc[0]
    method = (
        f"Analysis rows only: {_span(found.mine['rows_own'])} of an animal, {_span(found.mine['rows_control'])} of the "
        f"control, whose numbers the untouched base model wrote. Promoted: a higher mean activation than on the "
        f"control's rows (Welch, one-sided, p < {first['level']:g}). New: fires on none of the control's rows. Animal: "
        f"promoted or new, and fires on the animal's own word. Chance: {first['permutations']:.0f} shufflings of the "
        f"rows' labels. L0 is how many features fire on a row, the error a mean square over the dimensions; both by "
        f"Welch's test at p < {first['level_strict']:g}. Counts of all comparisons are corrected together "
        f"(Benjamini-Hochberg)."
    )
    tables = [
        *(_post_table(found, layer) for layer in layers),
        _chance_table(found),
        _spread_table(found),
        _top_table(found, study.features.top, "new"),
        _top_table(found, study.features.top, "promoted"),
        _unique_table(found),
        _quality_table(found),
    ]
    return Section(
        NAME,
        TITLE,
        _shows(found),
        method + inside.not_shown(study, results, "feature_tables"),
        _MADE_FROM,
        charts=(
            _counts_chart(found, "promoted"),
            _counts_chart(found, "new"),
            _spread_chart(found, "l0", "L0 (features that fire on a row)"),
            _spread_chart(found, "error", "mean square error a dimension"),
        ),
        tables=tuple(table for table in tables if len(table.frame)),
        compared=tuple(_compared(found)),
        claims=tuple(claims(found)),
    )


def _read(study: Study, results: Results, layer: int) -> Layer:
    import pandas as pd

    key = inside.layer_key(layer)
    tables = results.folder("feature_tables", key)
    shifts, word_l0 = {}, {}
    for group in inside.in_order(study, pd.read_parquet(tables / "summary.parquet")["group"]):
        folder = results.folder("feature_shifts", f"{group}|{key}")
        shifts[group] = FeatureShifts.load(folder)
        if group not in (CONTROL, NEUTRAL):
            word_l0[group] = len(json.loads((folder / "word_features.json").read_text(encoding="utf-8")))
    control = read_features(results.folder("sae_features", f"{CONTROL}|{key}") / "features.parquet")
    errors = control.rows.loc[control.rows["split"] == "analysis", "error"].to_numpy()
    sae = results.folder("sae", key)
    quality, settings = (json.loads((sae / f"{name}.json").read_text(encoding="utf-8")) for name in ("quality", "cfg"))
    labelled, unique = (pd.read_parquet(tables / f"{name}.parquet") for name in ("labelled", "unique"))
    return Layer(
        shifts,
        pd.DataFrame({"l0": l0_counts(control), "error": errors}),
        word_l0,
        inside.with_descriptions(results, layer, labelled),
        inside.with_descriptions(results, layer, unique),
        {**quality, "features": int(settings["d_sae"])},
    )


def _comparisons(layers: dict[int, Layer]) -> pd.DataFrame:
    """A row per group and layer: its summary, the differences of L0 and error from the control with their 95 % interval
    and smallest detectable size, and the null's p values adjusted over all these rows. HALVES is one group more, which
    has its summary alone."""
    import pandas as pd

    found = []
    for layer, each in layers.items():
        for group, shifts in each.shifts.items():
            row = {"layer": layer, "group": group, **records(shifts.summary)[0]}
            if group == CONTROL:
                row["group"] = HALVES
            else:
                for name in ("l0", "error"):
                    row |= _difference(name, shifts.per_row[name], each.control[name], row["level_strict"])
            found.append(row)
    rows = pd.DataFrame(found)
    compared = rows["group"] != HALVES
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


def _shows(found: Features) -> str:
    mine, neutral = found.mine, found.neutral
    left = mine["promoted_bh"]
    single = (
        f"{left.mean():.3g} per comparison remain after correction for testing all features."
        if left.any()
        else "No single feature remains after correction for testing all features."
    )
    sentences = [
        f"Against the control's, an animal's numbers promote {_beside_chance(mine, 'promoted')} "
        f"({inside.animals_listed(found.animals)} at {inside.layers_listed(list(found.layers))}). "
        f"{single} They newly activate {_beside_chance(mine, 'new')}."
    ]
    if len(neutral):
        sentences.append(f"The neutral teacher's numbers promote {_beside_chance(neutral, 'promoted')}.")
    halves = rows_where(found.rows, group=HALVES)
    if len(halves):
        counts = [f"{halves[name].mean():.3g}" for name in ("promoted", "promoted_null_mean")]
        sentences.append(
            f"One half of the control's numbers promotes {counts[0]} against the other, where chance gives {counts[1]}."
        )
    return " ".join([*sentences, _spread(mine, "l0", "L0"), _spread(mine, "error", "Reconstruction error")])


def _beside_chance(rows: pd.DataFrame, name: str) -> str:
    """ "31 features on average, where chance gives 12: more than chance in 4 of 4 comparisons", or that no more could
    be seen, and what could have been."""
    start = f"{rows[name].mean():.3g} features on average, where chance gives {rows[f'{name}_null_mean'].mean():.3g}: "
    if above := _above_chance(rows, name):
        return f"{start}more than chance in {above} of {counted(len(rows), 'comparison')}"
    return f"{start}no excess could be seen, for which it takes more than {rows[f'{name}_null_q95'].mean():.3g}"


def _spread(mine: pd.DataFrame, name: str, shown: str) -> str:
    higher, lower = _higher_and_lower(mine, name)
    if not higher + lower:
        return (
            f"{shown}: no difference from the control's could be seen; the smallest detectable is "
            f"{_percent(mine, name, 'detectable'):.2g} % of it."
        )
    return (
        f"{shown} differs from the control's by {_percent(mine, name, 'difference'):+.2g} % on average, significantly "
        f"higher in {higher} and lower in {lower} of {counted(len(mine), 'comparison')}."
    )


def _above_chance(rows: pd.DataFrame, name: str) -> int:
    """How many comparisons have more such features than shuffled labels."""
    return int((rows[f"{name}_p_adjusted"] < _LEVEL).sum())


def _higher_and_lower(mine: pd.DataFrame, name: str) -> tuple[int, int]:
    """How many comparisons differ from the control significantly, in either direction."""
    differences = mine.loc[mine[f"{name}_differs"].astype(bool), f"{name}_difference"]
    return int((differences > 0).sum()), int((differences < 0).sum())


def _percent(mine: pd.DataFrame, name: str, column: str) -> float:
    """Of the control's mean, on average."""
    return 100 * float((mine[f"{name}_{column}"] / mine[f"{name}_mean_control"]).mean())


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


# Charts


def _counts_chart(found: Features, name: str) -> Chart:
    """Observed numbers of features beside those of shuffled labels."""
    rows = found.groups
    bars = {name: (name, colours.KINDS[0], 0.7)}
    if name == "promoted":
        bars["promoted_bh"] = ("corrected for many features", colours.KINDS[1], 0.35)
    height, legend_lines = 50 + 36 * rows["group"].nunique(), 3 if name == "promoted" else 1
    figure = inside.panels(found.layers, x=f"{name} features", height=height, legend_lines=legend_lines)
    for place, layer in enumerate(found.layers, start=1):
        part = rows_where(rows, layer=layer)
        for column, (label, colour, width) in bars.items():
            figure.add_bar(
                x=part[column], y=part["group"], orientation="h", marker_color=colour, width=width,
                hovertemplate=f"%{{y}}, {label}: %{{x}}<extra></extra>", **charts.in_panel(place, label),
            )  # fmt: skip
        mean, most = part[f"{name}_null_mean"], part[f"{name}_null_q95"]
        error = {"type": "data", "symmetric": False, "array": most - mean, "arrayminus": mean * 0}
        figure.add_scatter(
            x=mean, y=part["group"], mode="markers", error_x=error | {"color": colours.CHANCE},
            marker={"symbol": "line-ns-open", "size": 13, "color": colours.CHANCE},
            customdata=part[[f"{name}_null_q95", f"{name}_null_p"]],
            hovertemplate="%{y}, by chance: %{x:.4g}, 95 % below %{customdata[0]:.4g}; p = %{customdata[1]:.2g}"
            "<extra></extra>",
            **charts.in_panel(place, "by chance: mean, to 95 %", "chance"),
        )  # fmt: skip
    figure.update_xaxes(rangemode="tozero").update_layout(barmode="overlay")
    means = rows.groupby("group", sort=False)[[name, f"{name}_null_mean"]].mean()
    alt = "; ".join(f"{group} {count:.3g} ({chance:.3g} by chance)" for group, (count, chance) in means.T.items())
    titles = {"promoted": "Promoted features, and as many as chance gives", "new": "New features, beside chance"}
    return Chart(f"features-{name}", titles[name], figure, f"Numbers of {name} features, mean over layers: {alt}.")


def _spread_chart(found: Features, name: str, title: str) -> Chart:
    """Boxes of every group's rows: 5, 25, 50, 75 and 95 %, and the mean."""
    groups = list(next(iter(found.layers.values())).shifts)
    of_groups = colours.group_colours(groups)
    figure = inside.panels(found.layers, x=title, height=50 + 30 * len(groups), shared=False)
    said = []
    for place, (layer, each) in enumerate(found.layers.items(), start=1):
        values = {CONTROL: each.control[name]}
        values |= {group: shifts.per_row[name] for group, shifts in each.shifts.items() if group != CONTROL}
        means = {group: float(of_group.mean()) for group, of_group in values.items()}
        for group, of_group in values.items():
            low, first, median, third, high = of_group.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
            figure.add_box(
                y=[group], q1=[first], median=[median], q3=[third], lowerfence=[low], upperfence=[high],
                mean=[means[group]], orientation="h", name=group, marker_color=of_groups.get(group, colours.CONTROL),
                boxmean=True, showlegend=False, row=place, col=1,
            )  # fmt: skip
        of_animals = [mean for group, mean in means.items() if group not in (CONTROL, NEUTRAL)]
        means["average of animals"] = sum(of_animals) / len(of_animals)
        shown = [group for group in ("average of animals", NEUTRAL, CONTROL) if group in means]
        said.append(f"layer {layer}: {', '.join(f'{group} {means[group]:.3g}' for group in shown)}")
    about = "L0 of every row" if name == "l0" else "Reconstruction error of every row"
    about += ": median, half and nine tenths of the rows; the dashed line is the mean"
    return Chart(f"features-{name}", about, figure, f"Means: {'; '.join(said)}.")


# Tables


def _post_table(found: Features, layer: int) -> Table:
    """The post's table of a layer, with what chance gives beside the counts."""
    import pandas as pd

    rows = rows_where(found.rows, layer=layer)
    average = rows[rows["group"].isin(found.animals)].mean(numeric_only=True).to_frame().T.assign(group=AVERAGE)
    shown: Shown = {
        "numbers of": "group",
        "promoted a row": "promoted_per_row",
        "promoted by chance": "promoted_per_row_null_mean",
        "rows with promoted, %": ("promoted_rows", 100),
        "new a row": "new_per_row",
        "new by chance": "new_per_row_null_mean",
        "rows with new, %": ("new_rows", 100),
        "animal a row": "animal_per_row",
        "rows with animal, %": ("animal_rows", 100),
    }
    note = (
        "Mean number of such features that fire on a row, and the share of rows with at least one. Average: over the "
        "animals. By chance: mean over shuffled labels. The control's halves have half as many rows, hence more new "
        "features."
    )
    return Table(
        f"features-layer-{layer}",
        f"Promoted, new and animal features, layer {layer}",
        columns(pd.concat([average, rows]), shown),
        note,
    )


def _chance_table(found: Features) -> Table:
    shown: Shown = {
        "layer": "layer",
        "numbers of": "group",
        "features tested": "features",
        "promoted": "promoted",
        "promoted by chance": "promoted_null_mean",
        "chance, 95 %": "promoted_null_q95",
        "p promoted": "promoted_null_p",
        "p promoted, adjusted": "promoted_p_adjusted",
        "promoted, corrected": "promoted_bh",
        "new": "new",
        "new by chance": "new_null_mean",
        "new by chance, 95 %": "new_null_q95",
        "p new": "new_null_p",
        "p new, adjusted": "new_p_adjusted",
        "promoted, on the word": "promoted_animal",
        "new, on the word": "new_animal",
        "tested, on the word": "animal_features",
    }
    note = (
        "Numbers of features. p: share of shufflings with at least as many; adjusted over all comparisons "
        "(Benjamini-Hochberg). Corrected: the tests of all features of one comparison, adjusted likewise. On the word: "
        "fires on the animal's own word."
    )
    return Table("features-chance", "Numbers of features against chance", columns(found.rows, shown), note)


def _spread_table(found: Features) -> Table:
    import pandas as pd

    means = {"L0 mean": "l0_mean", "L0 median": "l0_median", "L0 skew": "l0_skew", "error mean": "error_mean"}
    lines: list[dict[str, Any]] = []
    for layer, each in found.layers.items():
        rows = records(rows_where(found.groups, layer=layer))
        control = {"layer": layer, "numbers of": CONTROL, "rows": len(each.control)}
        lines.append(control | {shown: rows[0][f"{column}_control"] for shown, column in means.items()})
        for row in rows:
            line = {"layer": layer, "numbers of": row["group"], "rows": int(row["rows_own"])}
            line |= {shown: row[f"{column}_own"] for shown, column in means.items()}
            for name, shown in (("l0", "L0"), ("error", "error")):
                line |= {f"{shown} {end}": row[f"{name}_{end}"] for end in ("difference", "low", "high", "p")}
            lines.append(line)
        for animal, count in each.word_l0.items():
            lines.append({"layer": layer, "numbers of": f"the word {animal}", "rows": 1, "L0 mean": float(count)})
    note = (
        "L0: features that fire on a row. Error: mean square over the dimensions. Difference from the control, with "
        "its 95 % interval and p of Welch's test (two-sided, not adjusted)."
    )
    return Table("features-l0-error", "L0 and reconstruction error", pd.DataFrame(lines), note)


def _top_table(found: Features, top: int, kind: str) -> Table:
    import pandas as pd

    parts = [each.labelled[each.labelled[kind]].head(top) for each in found.layers.values()]
    rows = pd.concat(parts, ignore_index=True)
    shown: Shown = {
        "feature": "sae_id",
        "marked by": "labels",
        "mean t": "mean_t",
        "fires on control": lambda rows: yes_no(rows["in_control"]),
        "fires on the word": lambda rows: yes_no(rows["animal"]),
        **inside.described(rows),
    }
    table = columns(rows, shown).sort_values("mean t", ascending=False, kind="stable").head(top)
    note = (
        "Feature: layer and number in the SAE. Marked by: the groups that promote or newly activate it (all: every "
        "animal). t: Welch's, mean over those; the largest of thousands look large by chance as well."
    )
    return Table(f"features-top-{kind}", f"The {len(table)} {kind} features with the largest t", table, note)


def _unique_table(found: Features) -> Table:
    import pandas as pd

    top = [each.unique.groupby("group", sort=False).head(_UNIQUE).assign(layer=n) for n, each in found.layers.items()]
    rows = pd.concat(top, ignore_index=True)
    shown: Shown = {
        "layer": "layer",
        "marked by": "group",
        "feature": "sae_id",
        "t": "t",
        "p, corrected": "p_bh",
        "its rows, %": ("rate_own", 100),
        "control's rows, %": ("rate_control", 100),
        "new": lambda rows: yes_no(rows["new"]),
        "fires on the word": lambda rows: yes_no(rows["animal"]),
        **inside.described(rows),
    }
    note = (
        f"Features that one group alone promotes or newly activates, the {_UNIQUE} of the largest t. p: corrected for "
        "all features of the comparison. Rows: on how many it fires."
    )
    return Table("features-unique", "Top features of one group alone", columns(rows, shown), note)


def _quality_table(found: Features) -> Table:
    import pandas as pd

    rows = pd.DataFrame([each.sae | {"layer": layer} for layer, each in found.layers.items()])
    shown: Shown = {
        "layer": "layer",
        "features": "features",
        "L0": "l0",
        "variance explained, %": ("variance_explained", 100),
        "never active, %": ("dead", 100),
        "loss, nats a token": "clean",
        "with its reconstruction": "spliced",
        "with zeros": "zeroed",
        "loss recovered, %": ("recovered", 100),
    }
    note = "On text that it was not trained on. Loss: the model's, with the layer's output as it is and replaced."
    return Table("features-sae", "How good the sparse autoencoders are", columns(rows, shown), note)


# Beside the post


def _compared(found: Features) -> Iterator[Compared]:
    beside = inside.beside_post(list(found.layers))
    for post, layer in beside.items():
        table, where = published(f"features_layer{post}"), f"Gemma 2 9B, table of features, layer {post}"
        rows = _per_row(found, found.layers[layer])
        for name in (AVERAGE, *(animal for animal in found.animals if animal in table)):
            whose = f"layer {layer}, {'average of animals' if name == AVERAGE else name}"
            chosen = rows if name == AVERAGE else rows_where(rows, animal=name)
            for mark in _MARKS:
                part = rows_where(chosen, mark=mark)
                # Shuffled labels were not counted for animal features.
                chance = None if mark == "animal" else part["chance"].mean()
                what = f"{mark} features a row, {whose}"
                mean = inside.average(part)
                yield Compared(what, where, table[name][mark], *mean, unit="features", no_effect=chance)
            if name == AVERAGE:
                for mark in _MARKS:
                    share = inside.average(rows_where(rows, mark=mark), "share", "share_low", "share_high")
                    what = f"rows with {mark} features, {whose}"
                    yield Compared(what, where, table[name][f"{mark}_pct_samples"], *share, unit="%")
    layer, where, l0 = beside[9], "Gemma 2 9B, L0 at layer 9", published("l0_layer9")
    control = t_interval(found.layers[layer].control["l0"])
    what = f"L0 of the control's numbers, layer {layer}"
    yield Compared(what, where, l0["control"], control.mean, control.low, control.high, "features")
    words = list(found.layers[layer].word_l0.values())
    on_words = t_interval(words) if len(words) > 1 else None
    low, high = (on_words.low, on_words.high) if on_words else (None, None)
    what, mean_of_words = f"L0 of the animals' words, layer {layer}", sum(words) / len(words)
    figure = l0["animal_words_average"]
    yield Compared(what, where, figure, mean_of_words, low, high, "features", no_effect=control.mean)


def _per_row(found: Features, layer: Layer) -> pd.DataFrame:
    """Of every animal and mark: the mean number of such features a row (value, low, high), and what shuffled labels
    give (chance; animal features were not counted for them); share of rows with one, in percent, with share_low and
    share_high."""
    import pandas as pd
    from statsmodels.stats.proportion import proportion_confint

    lines = []
    for animal in found.animals:
        if animal not in layer.shifts:
            continue
        summary = layer.shifts[animal].summary.iloc[0]
        for mark in _MARKS:
            counts = layer.shifts[animal].per_row[mark]
            mean = t_interval(counts)
            low, high = proportion_confint((counts > 0).sum(), len(counts), method="wilson")
            line = {"animal": animal, "mark": mark, "value": mean.mean, "low": mean.low, "high": mean.high}
            line |= {"chance": summary.get(f"{mark}_per_row_null_mean"), "share": 100 * (counts > 0).mean()}
            lines.append(line | {"share_low": 100 * low, "share_high": 100 * high})
    return pd.DataFrame(lines)


# Claims


def claims(found: Features) -> Iterator[Claim]:
    """What the counts say of the post's statements and of this project's."""
    margin = math.log(inside.TIMES)
    mine, neutral = found.mine, found.neutral
    excess = {name: {other: _excess(found, name, other) for other in (NEUTRAL, HALVES)} for name in ("promoted", "new")}
    for name, statement in (("promoted", PROMOTED), ("new", NEW)):
        yield statement.claim(
            inside.all_of(inside.more(over, margin) for over in excess[name].values()),
            f"{mine[name].mean():.3g} features on average, {mine[f'{name}_null_mean'].mean():.3g} by chance. Times the "
            f"chance level, beside the neutral teacher's: {inside.times(excess[name][NEUTRAL])}; beside the control's "
            f"halves: {inside.times(excess[name][HALVES])}.",
        )
    odds = inside.average_odds_ratio(_on_the_word(found))
    said = "no promoted or new feature could be compared" if odds is None else f"odds ratio {odds.ratio}"
    yield ANIMAL.claim(
        inside.no_higher_rate(odds),
        f"Firing on the animal's word, marked features against the others that fire: {said}, average of animals "
        "(Mantel-Haenszel over layers, 95 %; 1 is no difference).",
    )
    for name, statement in (("l0", L0), ("error", ERROR)):
        yield _higher(found, name, statement)
    if not len(neutral):
        yield DUE_TO_ANIMAL.claim("not tested", inside.NO_NEUTRAL)
        return
    yield DUE_TO_ANIMAL.claim(
        inside.more(excess["promoted"][NEUTRAL], margin),
        f"An animal's numbers promote {mine['promoted'].mean():.3g} features ({mine['promoted_null_mean'].mean():.3g} "
        f"by chance), the neutral teacher's {neutral['promoted'].mean():.3g} "
        f"({neutral['promoted_null_mean'].mean():.3g} by chance). Times the chance level, beside that one teacher's: "
        f"{inside.times(excess['promoted'][NEUTRAL])}.",
    )


def _excess(found: Features, name: str, other: str) -> inside.OverAnimals | None:
    """The logarithm of how many times as many features there are as by chance, less the same of another group."""
    import numpy as np

    # With a half in each, since either count may be 0.
    logs = np.log((found.rows[name] + 0.5) / (found.rows[f"{name}_null_mean"] + 0.5))
    by_layer = found.rows.assign(log=logs).pivot(index="layer", columns="group", values="log")
    if other not in by_layer:
        return None
    less = by_layer[found.animals].sub(by_layer[other], axis=0).mean().dropna()
    return inside.over_animals(less.tolist(), one_draw=True)


def _higher(found: Features, name: str, statement: Statement) -> Claim:
    """On L0 or the reconstruction error, in per cent of the control's."""
    ends = [f"{name}_{end}" for end in ("difference", "low", "high")]
    percent = found.mine[ends].div(found.mine[f"{name}_mean_control"], axis=0) * 100
    of_animals = percent.groupby(found.mine["group"]).mean()
    over = inside.over_animals(of_animals[ends[0]].tolist(), inside.average(of_animals, *ends))
    higher, lower = _higher_and_lower(found.mine, name)
    said = f"{over.interval.percent}, " if over else ""
    return statement.claim(
        inside.more(over, _SMALL),
        f"{_percent(found.mine, name, 'difference'):+.2g} % of the control's on average ({said}over animals); by rows "
        f"alone, significantly higher in {higher}, lower in {lower} of {counted(len(found.mine), 'comparison')}; the "
        f"smallest detectable difference is {_percent(found.mine, name, 'detectable'):.2g} %.",
    )


def _on_the_word(found: Features) -> dict[str, list[list[list[int]]]]:
    """By animal a 2 x 2 table per layer: marked features, and the others that fire, on the word and not."""
    tables: dict[str, list[list[list[int]]]] = {animal: [] for animal in found.animals}
    for each in found.layers.values():
        for animal in tables.keys() & each.shifts.keys():
            features = each.shifts[animal].features
            marked, word = features["promoted"] | features["new"], features["animal"]
            counts = [[int((side & word).sum()), int((side & ~word).sum())] for side in (marked, ~marked)]
            tables[animal].append(counts)
    return tables
