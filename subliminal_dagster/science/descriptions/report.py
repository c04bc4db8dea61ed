"""What kinds of features the groups mark: categories by a judge, beside those of all features and of all that fire.

Belongs here: the post's categories of features, read from `feature_categories`, `feature_composition` and
`steering_by_category`, which are made on request. Does not belong here: judging and testing (`categories`),
filters by category (`features`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.colours import KINDS
from subliminal_dagster.science.descriptions.categories import ALL_FEATURES, FIRED
from subliminal_dagster.science.descriptions.judges import CATEGORIES
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report import layers as inside
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Statement, Table
from subliminal_dagster.science.report.layers import Interval
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import Shown, columns, records, rows_where
from subliminal_dagster.science.report.wording import counted, listed
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.verdict import verdict

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "composition", "What the features are about"
READS: tuple[str, ...] = ("feature_categories", "feature_composition", "steering_by_category")

_LEVEL = 0.05
_COLOURS = dict(zip(("animals", "opinion", "numbers", "other"), KINDS, strict=False))

_HALF = (
    f"{inside.UNITS} Detected where the interval lies above one half, opposite where it lies below; else inconclusive. "
    "The wider ends count of this interval and that over features."
)
MOSTLY_NUMBERS = Statement(
    "What subliminal numbers promote or newly activate is mostly about numbers and other things.",
    rule=f"About the share of what is neither of animals nor opinion. {_HALF}",
)
NO_MORE_ANIMALS = Statement(
    "Features of animals are promoted or newly activated at no higher rate than elsewhere.", inside.NO_HIGHER_RATE
)
NOT_NEUTRAL = Statement(
    "Animals' numbers mark more features of animals than the neutral teacher's do (control).",
    rule=f"{inside.UNITS} Judged by the odds of a marked feature to be of animals, against the other features that "
    "fire: how many times as high as the same of the neutral teacher's numbers, which is one draw of any teacher's. "
    "Detected where the interval lies above 1, opposite where it lies below, not detected where the 90 % interval lies "
    f"within a factor of {inside.TIMES}; else inconclusive. The wider ends count of this interval and that over "
    "features.",
    source="this project",
)
VECTORS = Statement(
    "What the subliminal steering vector activates, and the direct one does not, is about numbers and other things.",
    rule=f"About the share of numbers and other among features of the subliminal vectors alone. {_HALF}",
)


@dataclass(frozen=True)
class Composition:
    """Of all layers: `shares` as `group_composition` returns them, and `steering` the tables by category of every
    animal's two vectors, with columns layer and group (empty where they were not made). `judges`: a row per layer."""

    shares: pd.DataFrame
    steering: pd.DataFrame
    judges: pd.DataFrame
    layers: list[int]
    animals: list[str]

    @property
    def mine(self) -> pd.DataFrame:
        return self.shares[self.shares["group"].isin(self.animals)]

    @property
    def comparisons(self) -> pd.DataFrame:
        """Of the animals' numbers with the others: the rows on features of animals."""
        return rows_where(self.mine, category="animals")


def section(study: Study, results: Results) -> Section:
    """The section on what features are about. Raises NotThere where no layer has `feature_composition`."""
    found = _read(study, results)
    fired = rows_where(found.shares, group=FIRED).groupby("layer")["of"].first()
    has_steering = len(found.steering) > 0
    method = (
        f"A judge sorts every described feature into {listed(CATEGORIES)}. A group marks the features that its "
        "numbers promote or newly activate; the control's are all that fire on it. Every share is set beside that of "
        f"all features and tested against the other features that fire on any group's numbers ("
        f"{listed([f'{count:,} at layer {layer}' for layer, count in fired.items()])}): Fisher's exact test, "
        "corrected over all groups and categories of a layer (Benjamini-Hochberg)."
    )
    return Section(
        NAME,
        TITLE,
        _shows(found),
        method + inside.not_shown(study, results, "feature_composition"),
        READS if has_steering else READS[:2],
        charts=(_shares_chart(found),),
        tables=(_shares_table(found), _judge_table(found), *([_steering_table(found)] if has_steering else [])),
        compared=tuple(_compared(found)) if has_steering else (),
        claims=tuple(claims(found)),
    )


def _read(study: Study, results: Results) -> Composition:
    import pandas as pd

    layers = inside.layers_with(study, results, "feature_composition")
    shares, judges, steering = [], [], [pd.DataFrame()]
    for layer in layers:
        key = inside.layer_key(layer)
        rows = pd.read_parquet(results.folder("feature_composition", key) / "composition.parquet")
        shares.append(rows.assign(layer=layer))
        facts = json.loads((results.folder("feature_categories", key) / "agreement.json").read_text(encoding="utf-8"))
        judges.append({"layer": layer, **{name: facts[name] for name in ("judge", "kappa", "low", "high", "accuracy")}})
        if results.has("steering_by_category", key):
            for animal in study.animals:
                file = results.folder("steering_by_category", key) / f"{animal}.parquet"
                if file.is_file():
                    steering.append(pd.read_parquet(file).assign(layer=layer, group=animal))
    joined = pd.concat(shares, ignore_index=True)
    animals = inside.animals_among(study, joined["group"])
    return Composition(joined, pd.concat(steering, ignore_index=True), pd.DataFrame(judges), layers, animals)


# What is said


def _shows(found: Composition) -> str:
    parts = []
    for category in CATEGORIES:
        rows = rows_where(found.mine, category=category)
        parts.append(f"{100 * rows['share'].mean():.3g} % {category} ({100 * rows['fired_share'].mean():.3g} %)")
    kappas = [str(Interval(*row)) for row in found.judges[["kappa", "low", "high"]].drop_duplicates().to_numpy()]
    return (
        f"The features that an animal's numbers mark are, on average over {inside.animals_listed(found.animals)} and "
        f"{inside.layers_listed(found.layers)}, {listed(parts)}; in brackets all features that fire. "
        f"{_about_animals(found)}. The judge ({listed(list(dict.fromkeys(found.judges['judge'])))}) agrees with labels "
        f"given by hand at kappa {listed(kappas)}."
    )


def _about_animals(found: Composition) -> str:
    """Whether features of animals are more frequent, by the odds ratio over all comparisons."""
    odds = inside.average_odds_ratio(_odds(found))
    if odds is None:
        return "Features of animals could not be compared, since there are none among those that fire, or nothing else"
    ratio = odds.ratio
    if ratio.low <= 1 <= ratio.high:
        seen = f"No difference in features of animals could be seen: odds ratio {ratio} against the others that fire"
    else:
        frequent = "more" if ratio.low > 1 else "less"
        seen = (
            f"Features of animals are {frequent} frequent than among the others that fire: odds ratio {ratio} over all "
            "comparisons"
        )
    more, fewer = _more_and_fewer(found.comparisons)
    tested = counted(len(found.comparisons), "comparison")
    return f"{seen}, significantly more in {more} and fewer in {fewer} of {tested} by themselves"


def _more_and_fewer(rows: pd.DataFrame) -> tuple[int, int]:
    """How many comparisons are significant, more frequent and less."""
    significant = rows[rows["p_bh"] < _LEVEL]
    more = int((significant["share"] > significant["fired_share"]).sum())
    return more, len(significant) - more


def _odds(found: Composition) -> dict[str, list[list[list[int]]]]:
    """By group a 2 x 2 table per layer: marked features, and the others that fire, of animals and not."""
    fired = rows_where(found.shares, group=FIRED, category="animals").set_index("layer")
    tables: dict[str, list[list[list[int]]]] = {animal: [] for animal in found.animals}
    for row in records(found.comparisons):
        tables[row["group"]].append(_table(row, fired))
    return tables


def _table(row: Mapping[str, Any], fired: pd.DataFrame) -> list[list[int]]:
    about, of = fired.loc[row["layer"], ["features", "of"]]
    own = [row["features"], row["of"] - row["features"]]
    return [own, [about - own[0], of - about - own[1]]]


# Charts and tables


def _shares_chart(found: Composition) -> Chart:
    there = set(found.shares["group"])
    sets = [each for each in (ALL_FEATURES, FIRED, CONTROL, NEUTRAL, *found.animals) if each in there]
    figure = inside.panels(found.layers, x="share of features, %", height=40 + 30 * len(sets), legend_lines=2)
    for place, layer in enumerate(found.layers, start=1):
        for category, colour in _COLOURS.items():
            rows = rows_where(found.shares, layer=layer, category=category)
            rows = rows.set_index("group").reindex([each for each in sets if each in set(rows["group"])]).reset_index()
            figure.add_bar(
                x=100 * rows["share"], y=rows["group"], orientation="h", marker_color=colour,
                customdata=rows[["features", "of"]],
                hovertemplate=f"%{{y}}, {category}: %{{x:.4g}} % (%{{customdata[0]}} of %{{customdata[1]}})"
                "<extra></extra>",
                **charts.in_panel(place, category),
            )  # fmt: skip
    figure.update_layout(barmode="stack").update_xaxes(range=[0, 100])
    means = found.shares.groupby(["group", "category"])["share"].mean()
    said = [f"{each} {100 * means[each, 'animals']:.3g} and {100 * means[each, 'numbers']:.3g}" for each in sets]
    title = "Categories of the features each group marks, beside those of all features and of all that fire"
    return Chart("composition-shares", title, figure, f"Animals and numbers, %, mean over layers: {'; '.join(said)}.")


def _shares_table(found: Composition) -> Table:
    shown: Shown = {
        "layer": "layer",
        "features of": "group",
        "category": "category",
        "features": "features",
        "share, %": ("share", 100),
        "of all that fire, %": ("fired_share", 100),
        "of all features, %": ("base_share", 100),
        "odds ratio": "odds_ratio",
        "low": "low",
        "high": "high",
        "p": "p",
        "p, corrected": "p_bh",
    }
    note = (
        "Odds to be in the category, against the other features that fire, with 95 % interval; p of Fisher's exact "
        "test, corrected over all groups and categories of the layer (Benjamini-Hochberg)."
    )
    return Table("composition-shares", "Features by category", columns(found.shares, shown), note)


def _judge_table(found: Composition) -> Table:
    table = found.judges.assign(accuracy=100 * found.judges["accuracy"]).rename(columns={"accuracy": "agreed, %"})
    note = (
        "Against descriptions labelled by hand. Kappa (Cohen's): 1 is full agreement, 0 that of chance; 95 % interval."
    )
    return Table("composition-judge", "How far the judge is to be believed", table, note)


def _steering_table(found: Composition) -> Table:
    sides = {"first only": "subliminal only", "second only": "direct only"}
    shown: Shown = {
        "layer": "layer",
        "animal": "group",
        "category": "category",
        "both": "both",
        "subliminal only": "first_only",
        "direct only": "second_only",
        "mean difference": "mean_difference",
        "example": lambda rows: rows["layer"].astype(str) + "_" + rows["example"].astype(str),
        "active in": lambda rows: rows["example_active_in"].replace(sides),
        "difference": "example_difference",
        "description": "example_description",
    }
    note = (
        "Numbers of features active in the subliminal and in the direct steering vector. Difference: activations of "
        "the subliminal vector less those of the direct one, each vector's divided by their L2 norm. Example: the "
        "feature that differs most."
    )
    return Table(
        "composition-steering", "Features of the steering vectors by category", columns(found.steering, shown), note
    )


# Beside the post


def _counts(rows: pd.DataFrame, column: str, categories: Sequence[str]) -> list[tuple[int, int]]:
    """How many of each animal's features are in these categories, all layers together, and of how many with any.
    `column` has their number."""
    known = rows[rows["category"].isin(CATEGORIES)]
    return [
        (int(part.loc[part["category"].isin(categories), column].sum()), int(part[column].sum()))
        for _, part in known.groupby("group", sort=False)
    ]


def _compared(found: Composition) -> Iterator[Compared]:
    table = published("steering_dog", "decomposition")
    where = "Gemma 2 9B, features of the dog vectors, layers 9 and 20"
    for column, name, shown in (
        ("first_only", "subliminal_only", "the subliminal vector alone"),
        ("both", "both", "both vectors"),
    ):
        for category in CATEGORIES:
            if measured := inside.average_share(_counts(found.steering, column, [category])):
                share = round(100 * table[category][name] / table["total"][name], 1)
                what = f"{category} among the features of {shown}, average of animals"
                yield Compared(what, where, share, *measured, unit="%")


# Claims


def claims(found: Composition) -> Iterator[Claim]:
    """What the categories say of the post's statements and of this project's."""
    yield _more_than_half(
        MOSTLY_NUMBERS,
        _counts(found.mine, "features", ["numbers", "other"]),
        "Numbers and other together are {} of the features that an animal's numbers mark, all layers together.",
        "No animal marks a feature that has a category.",
    )
    comparisons, tables = found.comparisons, _odds(found)
    odds = inside.average_odds_ratio(tables)
    more, fewer = _more_and_fewer(comparisons)
    said = "no feature of animals could be compared" if odds is None else f"odds ratio {odds.ratio}"
    yield NO_MORE_ANIMALS.claim(
        inside.no_higher_rate(odds),
        f"Marked features against the others that fire: {said}, average of animals (Mantel-Haenszel over layers, 95 %; "
        f"1 is no difference); significantly more in {more}, fewer in {fewer} of "
        f"{counted(len(comparisons), 'comparison')}.",
    )
    yield _not_neutral(found, tables)
    if len(found.steering):
        yield _more_than_half(
            VECTORS,
            _counts(found.steering, "first_only", ["numbers", "other"]),
            "Numbers and other are {} of such features, all layers together.",
            "No feature with a category is in the subliminal vectors alone.",
        )


def _more_than_half(statement: Statement, counts: Sequence[tuple[int, int]], evidence: str, none: str) -> Claim:
    """On a share of each animal's features, that it is more than one half."""
    shares = inside.shares(counts)
    if not shares:
        return statement.claim("inconclusive", none)
    of_features = inside.average_of(shares)
    over = inside.over_animals([share.value for share in shares], of_features)
    # All animals with one share have no spread, and as many features as are counted.
    interval = over.interval if over else of_features
    enough = len(shares) >= inside.FEWEST_ANIMALS
    return statement.claim(
        verdict(interval.low, interval.high, 50) if enough else "inconclusive", evidence.format(interval.percent)
    )


def _not_neutral(found: Composition, tables: Mapping[str, Sequence[Sequence[Sequence[int]]]]) -> Claim:
    neutral = rows_where(found.shares, group=NEUTRAL, category="animals")
    if not len(neutral):
        return NOT_NEUTRAL.claim("not tested", inside.NO_NEUTRAL)
    fired = rows_where(found.shares, group=FIRED, category="animals").set_index("layer")
    its = inside.log_odds_ratios({NEUTRAL: [_table(row, fired) for row in records(neutral)]})
    if not its:
        return NOT_NEUTRAL.claim("inconclusive", "The neutral teacher's numbers mark nothing that could be compared.")
    less = [_less(log, its[NEUTRAL]) for log in inside.log_odds_ratios(tables).values()]
    # What animals mark in common narrows their spread, and not the one teacher's: what is counted has its part as well.
    of_features = inside.average_of(less) if less else None
    over = inside.over_animals([each.value for each in less], of_features, one_draw=True)
    return NOT_NEUTRAL.claim(
        inside.more(over, math.log(inside.TIMES)),
        f"{100 * found.comparisons['share'].mean():.3g} % of what an animal's numbers mark is about animals, and "
        f"{100 * neutral['share'].mean():.3g} % of what the neutral teacher's mark; odds beside that one teacher's: "
        f"{inside.times(over)}.",
    )


def _less(one: Interval, other: Interval) -> Interval:
    """The difference of two figures with independent, symmetric errors."""
    difference, half = one.value - other.value, math.hypot(one.high - one.value, other.high - other.value)
    return Interval(difference, difference - half, difference + half)
