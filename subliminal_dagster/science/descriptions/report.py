"""What kinds of features the groups mark: categories by a judge, beside those of all features and of all that fire.

Belongs here: the post's categories of features, read from `feature_categories`, `feature_composition` and
`steering_by_category`, which are made on request. Does not belong here: judging and testing (`feature_categories` of
the library), filters by category (`filters`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.descriptions.categories import ALL_FEATURES, FIRED
from subliminal_dagster.science.descriptions.judges import CATEGORIES
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report import layers as inside
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Table
from subliminal_dagster.science.report.layers import Interval
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import records
from subliminal_dagster.science.report.wording import counted, listed
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "composition", "What the features are about"

_LEVEL = 0.05
_COLOURS = {"animals": charts.VERMILION, "opinion": charts.PURPLE, "numbers": charts.BLUE, "other": charts.LIGHT_GREY}
_TOTAL = "total"


@dataclass(frozen=True)
class _Composition:
    """Of all layers: `shares` as `group_composition` returns them, and `steering` the tables by category of every
    animal's two vectors, with columns layer and animal (empty where they were not made). `judges`: a row a layer."""

    shares: pd.DataFrame
    steering: pd.DataFrame
    judges: pd.DataFrame
    layers: list[int]
    animals: list[str]

    @property
    def mine(self) -> pd.DataFrame:
        return self.shares[self.shares["group"].isin(self.animals)]


def composition_section(study: Study, results: Results) -> Section:
    """The section on what features are about. Raises NotThere where no layer has `feature_composition`."""
    found = _read(study, results)
    fired = found.shares[found.shares["group"] == FIRED].groupby("layer")["of"].first()
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
        " ".join(_shows(found)),
        method + inside.not_shown(study, results, "feature_composition"),
        ("feature_categories", "feature_composition", *(("steering_by_category",) if has_steering else ())),
        charts=(_shares_chart(found),),
        tables=(
            _shares_table(found),
            _judge_table(found),
            *((_steering_table(found),) if has_steering else ()),
        ),
        compared=tuple(_compared(found)) if has_steering else (),
        claims=tuple(_claims(found)),
    )


def _read(study: Study, results: Results) -> _Composition:
    import pandas as pd

    layers = inside.layers_with(study, results, "feature_composition")
    shares, judges, steering = [], [], []
    for layer in layers:
        key = inside.layer_key(layer)
        shares.append(
            pd.read_parquet(results.folder("feature_composition", key) / "composition.parquet").assign(layer=layer)
        )
        facts = json.loads((results.folder("feature_categories", key) / "agreement.json").read_text(encoding="utf-8"))
        judges.append({"layer": layer, **{name: facts[name] for name in ("judge", "kappa", "low", "high", "accuracy")}})
        if results.has("steering_by_category", key):
            folder = results.folder("steering_by_category", key)
            files = [(animal, folder / f"{animal}.parquet") for animal in study.animals]
            steering += [
                pd.read_parquet(file).assign(layer=layer, animal=animal) for animal, file in files if file.is_file()
            ]
    joined = pd.concat(shares, ignore_index=True)
    return _Composition(
        joined,
        pd.concat(steering, ignore_index=True) if steering else pd.DataFrame(),
        pd.DataFrame(judges),
        layers,
        inside.animals_among(study, joined["group"]),
    )


# What is said


def _shows(found: _Composition) -> list[str]:
    kappas = [Interval(*row) for row in found.judges[["kappa", "low", "high"]].drop_duplicates().to_numpy().tolist()]
    judges = listed(list(dict.fromkeys(found.judges["judge"])))
    return [
        _shares_sentence(found),
        f"{_animals_sentence(found)}.",
        f"The judge ({judges}) agrees with labels given by hand at kappa {listed([str(kappa) for kappa in kappas])}.",
    ]


def _animals_sentence(found: _Composition) -> str:
    """Whether features of animals are more frequent, by the odds ratio over all comparisons."""
    ratio = _odds(found, "animals")
    if ratio is None:
        return "Features of animals could not be compared, since there are none among those that fire, or nothing else"
    more, fewer = _directions(found.mine[found.mine["category"] == "animals"])
    tested = counted(len(found.mine[found.mine["category"] == "animals"]), "comparison")
    by_itself = f"significantly more in {more} and fewer in {fewer} of {tested} by themselves"
    if ratio.low <= 1 <= ratio.high:
        return (
            f"No difference in features of animals could be seen: odds ratio {ratio} against the others that fire, "
            f"{by_itself}"
        )
    frequent = "more" if ratio.low > 1 else "less"
    return (
        f"Features of animals are {frequent} frequent than among the others that fire: odds ratio {ratio} over all "
        f"comparisons, {by_itself}"
    )


def _shares_sentence(found: _Composition) -> str:
    """ "Of the features that an animal's numbers mark, 60 % are about numbers (of all that fire 58 %), ..." """
    parts = []
    for category in CATEGORIES:
        rows = found.mine[found.mine["category"] == category]
        parts.append(f"{100 * rows['share'].mean():.3g} % {category} ({100 * rows['fired_share'].mean():.3g} %)")
    return (
        f"The features that an animal's numbers mark are, on average over {inside.animals_listed(found.animals)} and "
        f"{inside.layers_listed(found.layers)}, {listed(parts)}; in brackets all features that fire."
    )


def _directions(rows: pd.DataFrame) -> tuple[int, int]:
    """How many comparisons are significant, more frequent and less."""
    significant = rows["p_bh"] < _LEVEL
    more = rows["share"] > rows["fired_share"]
    return int((significant & more).sum()), int((significant & ~more).sum())


def _odds(found: _Composition, category: str) -> Interval | None:
    """To be in the category: the animals' marked features against the other features that fire."""
    fired = found.shares[found.shares["group"] == FIRED].set_index(["layer", "category"])
    tables: dict[str, list[list[list[int]]]] = {}
    for row in records(found.mine[found.mine["category"] == category]):
        all_fired = fired.loc[(row["layer"], category)]
        own = [row["features"], row["of"] - row["features"]]
        others = [all_fired["features"] - own[0], all_fired["of"] - all_fired["features"] - own[1]]
        tables.setdefault(row["group"], []).append([own, others])
    return inside.average_odds_ratio(tables)


# Charts and tables


def _shares_chart(found: _Composition) -> Chart:
    sets = [
        each
        for each in (ALL_FEATURES, FIRED, CONTROL, NEUTRAL, *found.animals)
        if (found.shares["group"] == each).any()
    ]
    figure = inside.panels(
        [f"layer {layer}" for layer in found.layers],
        x="share of features, %",
        height=40 + 30 * len(sets),
        legend_lines=2,
    )
    for place, layer in enumerate(found.layers, start=1):
        for category in sorted(CATEGORIES, key=list(_COLOURS).index):
            rows = found.shares[(found.shares["layer"] == layer) & (found.shares["category"] == category)]
            rows = rows.set_index("group").loc[[each for each in sets if each in set(rows["group"])]].reset_index()
            figure.add_bar(
                x=100 * rows["share"], y=rows["group"], orientation="h", name=category, legendgroup=category,
                showlegend=place == 1, marker_color=_COLOURS[category], customdata=rows[["features", "of"]],
                hovertemplate=f"%{{y}}, {category}: %{{x:.4g}} % (%{{customdata[0]}} of %{{customdata[1]}})"
                "<extra></extra>",
                row=place, col=1,
            )  # fmt: skip
    figure.update_layout(barmode="stack").update_xaxes(range=[0, 100])
    means = found.shares.groupby(["group", "category"])["share"].mean()
    said = [f"{each} {100 * means[each, 'animals']:.3g} and {100 * means[each, 'numbers']:.3g}" for each in sets]
    title = "Categories of the features each group marks, beside those of all features and of all that fire"
    return Chart("composition-shares", title, figure, f"Animals and numbers, %, mean over layers: {'; '.join(said)}.")


def _shares_table(found: _Composition) -> Table:
    columns = {
        "layer": "layer",
        "group": "features of",
        "category": "category",
        "features": "features",
        "share": "share, %",
        "fired_share": "of all that fire, %",
        "base_share": "of all features, %",
        "odds_ratio": "odds ratio",
        "low": "low",
        "high": "high",
        "p": "p",
        "p_bh": "p, corrected",
    }
    table = found.shares.copy()
    table[["share", "base_share", "fired_share"]] *= 100
    note = (
        "Odds to be in the category, against the other features that fire, with 95 % interval; p of Fisher's exact "
        "test, corrected over all groups and categories of the layer (Benjamini-Hochberg)."
    )
    return Table("composition-shares", "Features by category", table[list(columns)].rename(columns=columns), note)


def _judge_table(found: _Composition) -> Table:
    table = found.judges.assign(accuracy=100 * found.judges["accuracy"]).rename(columns={"accuracy": "agreed, %"})
    note = (
        "Against descriptions labelled by hand. Kappa (Cohen's): 1 is full agreement, 0 that of chance; 95 % interval."
    )
    return Table(
        "composition-judge",
        "How far the judge is to be believed",
        table.rename(columns={"accuracy": "agreed, %"}),
        note,
    )


def _steering_table(found: _Composition) -> Table:
    columns = {
        "layer": "layer",
        "animal": "animal",
        "category": "category",
        "both": "both",
        "first_only": "subliminal only",
        "second_only": "direct only",
        "mean_difference": "mean difference",
        "example": "example",
        "example_active_in": "active in",
        "example_difference": "difference",
        "example_description": "description",
    }
    table = found.steering.copy()
    names = {"first only": "subliminal only", "second only": "direct only"}
    table["example_active_in"] = table["example_active_in"].replace(names)
    table["example"] = table["layer"].astype(str) + "_" + table["example"].astype(str)
    note = (
        "Numbers of features active in the subliminal and in the direct steering vector. Difference: activations of "
        "the subliminal vector less those of the direct one, each vector's divided by their L2 norm. Example: the "
        "feature that differs most."
    )
    title = "Features of the steering vectors by category"
    return Table("composition-steering", title, table[list(columns)].rename(columns=columns), note)


# Beside the post


def _vector_share(found: _Composition, column: str, categories: Sequence[str]) -> Interval | None:
    """How many of the features of animals' vectors, all layers together, are in these categories: in percent of those
    with any."""
    known = found.steering[found.steering["category"].isin(CATEGORIES)]
    counts = [
        (int(part.loc[part["category"].isin(categories), column].sum()), int(part[column].sum()))
        for _, part in known.groupby("animal", sort=False)
    ]
    return inside.average_share(counts)


def _compared(found: _Composition) -> list[Compared]:
    table: dict[str, dict[str, Any]] = published("steering_dog", "decomposition")
    where = "Gemma 2 9B, features of the dog vectors, layers 9 and 20"
    compared = []
    for column, name, shown in (
        ("first_only", "subliminal_only", "the subliminal vector alone"),
        ("both", "both", "both vectors"),
    ):
        for category in CATEGORIES:
            measured = _vector_share(found, column, [category])
            if measured:
                share = 100 * table[category][name] / table[_TOTAL][name]
                what = f"{category} among the features of {shown}, average of animals"
                compared.append(Compared(what, where, round(share, 1), *measured, unit="%"))
    return compared


# Claims


def _claims(found: _Composition) -> list[Claim]:
    claims = [_mostly_numbers(found), _no_more_animals(found), _neutral_claim(found)]
    if len(found.steering):
        claims.append(_vectors(found))
    return claims


def _mostly_numbers(found: _Composition) -> Claim:
    """It holds where the interval of the share of animals and opinion, average of animals, lies below one half, and it
    does not where it lies above."""
    counts = []
    for animal in found.animals:
        rows = found.mine[found.mine["group"] == animal]
        inside_both = rows.loc[rows["category"].isin(["animals", "opinion"]), "features"].sum()
        counts.append((int(inside_both), int(rows["features"].sum())))
    share = inside.average_share(counts)
    text = "What subliminal numbers promote or newly activate is mostly about numbers and other things."
    if share is None:
        return Claim(text, "cannot tell", "No animal marks a feature that has a category.")
    return Claim(
        text,
        "holds" if share.high < 50 else "does not hold" if share.low > 50 else "cannot tell",
        f"Animals and opinion together are {share.percent} of the features that an animal's numbers mark, all layers "
        "together, average of animals.",
    )


def _no_more_animals(found: _Composition) -> Claim:
    """See `inside.no_higher_rate`."""
    ratio = _odds(found, "animals")
    more, fewer = _directions(found.mine[found.mine["category"] == "animals"])
    tested = counted(len(found.mine[found.mine["category"] == "animals"]), "comparison")
    said = "no feature of animals could be compared" if ratio is None else f"odds ratio {ratio}"
    return Claim(
        "Features of animals are promoted or newly activated at no higher rate than elsewhere.",
        inside.no_higher_rate(ratio),
        f"Marked features against the others that fire: {said}, average of animals "
        "(Mantel-Haenszel over layers, 95 %; 1 is no difference); "
        f"significantly more in {more}, fewer in {fewer} of {tested}.",
    )


def _neutral_claim(found: _Composition) -> Claim:
    """Of layers: where the animals' share of features of animals is significantly raised, it does not hold where the
    neutral teacher's is too; without any raised share there is nothing to explain."""
    text = "Where animals' numbers mark more features of animals, the neutral teacher's do not (control)."
    neutral = found.shares[(found.shares["group"] == NEUTRAL) & (found.shares["category"] == "animals")]
    if not len(neutral):
        return Claim(text, "not tested", "This study has no neutral teacher's numbers.")
    tested = found.mine[found.mine["category"] == "animals"]
    mine, _ = _directions(tested)
    its, _ = _directions(neutral)
    return Claim(
        text,
        "does not hold" if mine and its else "cannot tell",
        f"Significantly more features of animals in {mine} of {counted(len(tested), 'comparison')} of animals, "
        f"and in {its} "
        f"of {len(neutral)} of the neutral teacher ({100 * neutral['share'].mean():.3g} % of what it marks).",
    )


def _vectors(found: _Composition) -> Claim:
    """It holds where the interval of the share of numbers and other, among features of subliminal vectors alone, lies
    above one half, and it does not where it lies below."""
    text = (
        "What the subliminal steering vector activates, and the direct one does not, is about numbers and other things."
    )
    share = _vector_share(found, "first_only", ["numbers", "other"])
    if share is None:
        return Claim(text, "cannot tell", "No feature with a category is in the subliminal vectors alone.")
    return Claim(
        text,
        "holds" if share.low > 50 else "does not hold" if share.high < 50 else "cannot tell",
        f"Numbers and other are {share.percent} of such features, all layers together, average of animals.",
    )
