"""What the post's statements and figures on steering come to in a study.

Belongs here: each statement with the rule that decides it, and published figures beside measured ones. Does not belong
here: reading artifacts and contrasts (`report_evidence`), what the section says first (`report`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.report.effects import nats
from subliminal_dagster.science.report.evidence import Claim, Statement
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import rows_where
from subliminal_dagster.science.report.wording import counted, listed, p_value
from subliminal_dagster.science.settings.names import NEUTRAL
from subliminal_dagster.science.statistics import benjamini_hochberg
from subliminal_dagster.science.steering.analysis import TOTAL
from subliminal_dagster.science.steering.report_evidence import (
    NOISE,
    PROMOTED,
    SUPPRESSED,
    Contrast,
    SteeringEvidence,
    at_best,
    contrast,
    cosine_rows,
    over_animals,
    ranged,
)
from subliminal_dagster.science.steering.scores import RATE
from subliminal_dagster.science.steering.vectors import DIRECT, MEAN, RANDOM, SUBLIMINAL, WORD
from subliminal_dagster.science.verdict import Verdict, verdict

if TYPE_CHECKING:
    import pandas as pd

_WHERE = "Gemma 2 9B (dog), comparison to steering"
_L0 = {SUBLIMINAL: "l0_first", DIRECT: "l0_second", "zero": "l0_zero"}
_LOW = 0.3
"""An absolute cosine below this is low."""

_SEEN = 1.1
"""A vector is seen by an autoencoder if it activates at least this many times the features a vector of zeros does."""

_EFFECT = (
    "The vector at its best strength is set beside two that stand for chance: one of the same data with the sides "
    "drawn by lot, and a random one. Holds where the 95 % intervals of both differences lie on the side that is "
    "stated; does not hold where one lies on the other; else it cannot be told."
)
_MORE = (
    "Holds where the 95 % interval of the difference between the two shifts lies above 0; does not hold where it lies "
    "below; else it cannot be told."
)
_WORD = (
    "Holds where every animal has a significant cosine on the side that is stated (5 % false discoveries over animals "
    "and layers) and none one on the other; does not hold where all that are significant are on the other; else it "
    "cannot be told."
)
PROMOTES = Statement("The subliminal vector promotes its animal.", _EFFECT)
DIRECT_PROMOTES = Statement("The direct vector promotes its animal.", _EFFECT)
STRONGER = Statement("The direct vector promotes its animal much more than the subliminal one.", _MORE)
DIRECT_SUPPRESSES = Statement("A negative strength of the direct vector suppresses its animal.", _EFFECT)
SUPPRESSES = Statement("A negative strength of the subliminal vector suppresses its animal too.", _EFFECT)
LATER = Statement("The direct vector works better at the later layer.", _MORE)
POSITIONS = Statement("Steering all positions works better than the last alone.", _MORE)
DIFFERENT = Statement(
    "Subliminal and direct vectors have low cosine similarity: they are different directions.",
    rule="Judged are the subliminal vectors that are longer than chance alone makes them (p < 0.05): the cosine of any "
    f"other says nothing. Holds where all their cosines with the direct vector are below {_LOW} in size; does not hold "
    "where all are at least that, and beyond chance; else it cannot be told.",
)
TO_WORD = Statement("The direct vector points to the animal's word.", _WORD)
FROM_WORD = Statement("The subliminal vector points away from the animal's word.", _WORD)
MORE_FEATURES = Statement(
    "The subliminal vector activates many more of the autoencoder's features than the direct one.",
    rule="All layers of an animal together. Holds where the subliminal vector activates more features for every "
    "animal; does not hold where it does for none; else, or where no subliminal vector activates at least "
    f"{_SEEN} times as many as a vector of zeros does, it cannot be told.",
)
KINDS_OF_FEATURES = Statement(
    "What the direct vector alone activates is about animals, what the subliminal one alone does is not.",
    rule="Judged are the features that one vector alone activates, all animals and layers together. Holds where the "
    "share that is about animals is larger for the direct vector, by Fisher's exact test at 5 %; does not hold where "
    "it is smaller; else it cannot be told.",
)


def claims(evidence: SteeringEvidence) -> Iterator[Claim]:
    """Statements of the post on steering."""
    yield PROMOTES.claim(*own_effect(evidence, SUBLIMINAL, PROMOTED))
    yield DIRECT_PROMOTES.claim(*own_effect(evidence, DIRECT, PROMOTED))
    stronger = between_kinds(evidence, PROMOTED, DIRECT, SUBLIMINAL)
    yield _more(STRONGER, stronger, "Direct less subliminal, each at its best coherent strength")
    yield DIRECT_SUPPRESSES.claim(*own_effect(evidence, DIRECT, SUPPRESSED))
    yield SUPPRESSES.claim(*own_effect(evidence, SUBLIMINAL, SUPPRESSED))
    yield _later_layer(evidence)
    yield _all_positions(evidence)
    yield _low_cosine(evidence)
    yield _word_cosine(evidence, TO_WORD, DIRECT, 1)
    yield _word_cosine(evidence, FROM_WORD, SUBLIMINAL, -1)
    yield _more_features(evidence)
    yield _kinds_of_features(evidence)


def compared(evidence: SteeringEvidence) -> Iterator[Compared]:
    """The post's figures on steering beside means over this study's animals."""
    post = published("steering_dog")
    if len(evidence.cosines):
        yield from _compared_cosines(evidence, post)
    yield from _compared_rates(evidence, post)
    if len(evidence.parts):
        yield from _compared_features(evidence, post)


def between_kinds(evidence: SteeringEvidence, which: str, one: str, other: str) -> Contrast | None:
    """Shifts of one kind less another's, each at its own best strength, at the positions statements are about."""
    rows = rows_where(at_best(evidence, which), positions=evidence.positions)
    return contrast(rows_where(rows, kind=one), rows_where(rows, kind=other))


def own_effect(evidence: SteeringEvidence, kind: str, which: str) -> tuple[Verdict, str]:
    """Whether a vector promotes (suppresses) its animal, by the rule `_EFFECT`, and on what evidence."""
    found = {other: between_kinds(evidence, which, kind, other) for other in (NOISE, RANDOM)}
    known = {other: each for other, each in found.items() if each is not None}
    if not known:
        return "not tested", "At no strength of that sign did the model stay coherent for both vectors."
    sides = [verdict(each.estimate.low, each.estimate.high) for each in known.values()]
    right, wrong = ("detected", "not detected") if which == PROMOTED else ("not detected", "detected")
    judged: Verdict = "inconclusive"
    if sides == [right] * len(found):
        judged = "detected"
    elif wrong in sides:
        judged = "not detected"
    against = listed([f"{nats(each.estimate)} against the {other} vector" for other, each in known.items()])
    power = _power(judged, *known.values())
    return judged, f"Shift of the animal's log share at the best coherent strength, {against}{power}."


def _power(judged: Verdict, *found: Contrast) -> str:
    """What could have been seen, where nothing was."""
    smallest = max(each.smallest for each in found)
    sentence = f"; the smallest difference that would have been found is {smallest:.2g} nats"
    return sentence if judged == "inconclusive" else ""


def across_groups(evidence: SteeringEvidence) -> tuple[pd.Series, pd.Series]:
    """Cosines of subliminal vectors: of two animals, and of an animal and the neutral teacher."""
    import pandas as pd

    between = evidence.between
    if not len(between):
        return pd.Series(dtype=float), pd.Series(dtype=float)
    neutral = (between["first"] == NEUTRAL) | (between["second"] == NEUTRAL)
    return between.loc[~neutral, "cosine"], between.loc[neutral, "cosine"]


def _more(statement: Statement, found: Contrast | None, what: str) -> Claim:
    """By the rule `_MORE`."""
    if found is None:
        return statement.claim("not tested", f"{what}: not both were tried at coherent strengths.")
    judged = verdict(found.estimate.low, found.estimate.high)
    return statement.claim(judged, f"{what}: {nats(found.estimate)}{_power(judged, found)}.")


def _later_layer(evidence: SteeringEvidence) -> Claim:
    rows = rows_where(at_best(evidence, PROMOTED), positions=evidence.positions, kind=DIRECT)
    layers = sorted(rows["layers"].unique(), key=int)
    if len(layers) < 2:
        return LATER.claim("not tested", "The direct vector was not tried at two layers.")
    later, earlier = (rows_where(rows, layers=layers[place]) for place in (-1, 0))
    what = f"Layer {layers[-1]} less layer {layers[0]}, each at its best coherent strength"
    return _more(LATER, contrast(later, earlier, ("group",)), what)


def _all_positions(evidence: SteeringEvidence) -> Claim:
    rows = at_best(evidence, PROMOTED)
    rows = rows[rows["kind"].isin([SUBLIMINAL, DIRECT])]
    everywhere, last = (rows_where(rows, positions=positions) for positions in ("all", "last"))
    if everywhere.empty or last.empty:
        return POSITIONS.claim("not tested", "This study does not steer both (steering.sweep.positions).")
    return _more(POSITIONS, contrast(everywhere, last, ("group", "layers", "kind")), "All less last, both vectors")


def _low_cosine(evidence: SteeringEvidence) -> Claim:
    if not len(evidence.cosines):
        return DIFFERENT.claim("not tested", "There are no cosines.")
    rows = cosine_rows(evidence, SUBLIMINAL, DIRECT)
    own = rows_where(evidence.vectors, kind=SUBLIMINAL, position=MEAN)
    rows = rows.merge(own[["group", "layer", "p"]], on=["group", "layer"], suffixes=("", "_norm"))
    told = rows[rows["p_norm"] < 0.05]
    low = told["cosine"].abs() < _LOW
    judged: Verdict = "inconclusive"
    if len(told) and low.all():
        judged = "detected"
    elif len(told) and not low.any() and (told["p"] < 0.05).all():
        judged = "not detected"
    animals, _ = across_groups(evidence)
    of_animals = f", and two animals' have cosines of {ranged(animals)}" if len(animals) else ""
    return DIFFERENT.claim(
        judged,
        f"Cosines of {ranged(rows['cosine'])} (chance alone: up to {ranged(rows['chance'])}); {len(told)} of "
        f"{counted(len(rows), 'subliminal vector')} can be told from noise by the norm{of_animals}.",
    )


def _word_cosine(evidence: SteeringEvidence, statement: Statement, kind: str, sign: int) -> Claim:
    if not len(evidence.cosines):
        return statement.claim("not tested", "There are no cosines.")
    rows = cosine_rows(evidence, kind, WORD)
    if rows.empty:
        return statement.claim("not tested", f"There is no {kind} vector.")
    significant = benjamini_hochberg(rows["p"]) < 0.05
    right = significant & (np.sign(rows["cosine"]) == sign)
    wrong = significant & (np.sign(rows["cosine"]) == -sign)
    judged: Verdict = "inconclusive"
    if not wrong.any() and set(rows.loc[right, "group"]) == set(rows["group"]):
        judged = "detected"
    elif wrong.any() and not right.any():
        judged = "not detected"
    return statement.claim(
        judged,
        f"Cosines of {ranged(rows['cosine'])}, chance alone up to {ranged(rows['chance'])}; {int(right.sum())} of "
        f"{len(rows)} significantly {'positive' if sign > 0 else 'negative'}, {int(wrong.sum())} the other way.",
    )


def _more_features(evidence: SteeringEvidence) -> Claim:
    if not len(evidence.parts):
        return MORE_FEATURES.claim("not tested", "There is no decomposition.")
    total = rows_where(evidence.parts, category=TOTAL)
    sums = total.groupby("group")[list(_L0.values())].sum()
    more = sums["l0_first"] > sums["l0_second"]
    judged: Verdict = "inconclusive"
    # Where an autoencoder sees no vector, what it activates are its biases.
    if (total["l0_first"] >= _SEEN * total["l0_zero"]).any() and more.nunique() == 1:
        judged = "detected" if more.all() else "not detected"
    means = sums.mean()
    return MORE_FEATURES.claim(
        judged,
        f"All layers together, mean of {counted(len(sums), 'animal')}: {means['l0_first']:.0f} features against "
        f"{means['l0_second']:.0f}; vectors of zeros activate {means['l0_zero']:.0f}, by their biases alone.",
    )


def _kinds_of_features(evidence: SteeringEvidence) -> Claim:
    from scipy.stats import fisher_exact

    if not evidence.labelled:
        why = "Features have no categories (steering_by_category is made on request)."
        return KINDS_OF_FEATURES.claim("not tested", why)
    alone = evidence.parts.groupby("category")[["first_only", "second_only"]].sum()
    about, every = alone.reindex(["animals", TOTAL], fill_value=0).to_numpy()
    if not every.all():
        return KINDS_OF_FEATURES.claim("inconclusive", "One of the two vectors activates no feature alone.")
    p = float(fisher_exact([about, every - about]).pvalue)
    subliminal, direct = about / every
    judged: Verdict = "inconclusive"
    if p < 0.05:
        judged = "detected" if direct > subliminal else "not detected"
    return KINDS_OF_FEATURES.claim(
        judged,
        f"About animals: {about[1]} of {every[1]} features of the direct vector alone, {about[0]} of {every[0]} "
        f"features of the subliminal one alone (Fisher's exact test, {p_value(p)}).",
    )


def _layers_beside(layers: list[int], post: dict[str, Any]) -> dict[int, str]:
    """The post's layer for each of this study's: that with the same number, or, where there is none, by their order."""
    posts = sorted(post["max_rate_direct_pct"], key=int)
    same = {layer: str(layer) for layer in layers if str(layer) in posts}
    return same or dict(zip(sorted(layers), posts, strict=False))


def _mean_of(animals: pd.Index | pd.Series) -> str:
    names = listed(list(animals))
    return f"mean of {names}" if len(animals) > 1 else names


def _compared_cosines(evidence: SteeringEvidence, post: dict[str, Any]) -> Iterator[Compared]:
    for one, other in ((SUBLIMINAL, DIRECT), (DIRECT, WORD), (SUBLIMINAL, WORD)):
        rows = cosine_rows(evidence, one, other)
        for layer, theirs in _layers_beside(sorted(rows["layer"].unique()), post).items():
            here = rows_where(rows, layer=layer)
            what = f"cosine of the {one} vector and the {other}{'' if other == WORD else ' one'}, layer {layer}"
            yield Compared(
                f"{what} ({_mean_of(here['group'])})",
                f"{_WHERE}, layer {theirs}",
                float(post[f"cosine_{one}_{other}"][theirs]),
                *over_animals(here["cosine"], -1, 1),
                unit="cosine",
                no_effect=0.0,
            )


def _compared_rates(evidence: SteeringEvidence, post: dict[str, Any]) -> Iterator[Compared]:
    rows = rows_where(evidence.targets, kind=DIRECT, positions=evidence.positions)
    single = sorted(int(layers) for layers in evidence.layers if "+" not in layers)
    what = "sampled answers that name the animal" if evidence.measure == RATE else "exact probability of the animal"
    for layer, theirs in _layers_beside(single, post).items():
        here = rows_where(rows, layers=str(layer))
        means = (100 * here.groupby(["group", "alpha"])[evidence.measure].mean()).reset_index(name="rate")
        highest = means[means["alpha"] > 0].groupby("group")["rate"].max()
        if len(highest):
            yield Compared(
                f"{what}, highest under the direct vector, layer {layer} ({_mean_of(highest.index)})",
                f"{_WHERE}, layer {theirs}",
                float(post["max_rate_direct_pct"][theirs]),
                *over_animals(highest, 0, 100),
                unit="%",
                no_effect=float(rows_where(means, alpha=0)["rate"].mean()),
            )


def _compared_features(evidence: SteeringEvidence, post: dict[str, Any]) -> Iterator[Compared]:
    total = rows_where(evidence.parts, category=TOTAL).groupby("group")[list(_L0.values())].sum()
    where, mean = f"{_WHERE}, both layers", _mean_of(total.index)
    for kind in (SUBLIMINAL, DIRECT):
        yield Compared(
            f"features that the {kind} vector activates, all layers ({mean})",
            where,
            float(post[f"l0_{kind}"]),
            *over_animals(total[_L0[kind]], 0),
            unit="features",
            no_effect=float(total["l0_zero"].mean()),
        )
    for category, figures in post["decomposition"].items():
        rows = rows_where(evidence.parts, category=category)
        about = "" if category == TOTAL else f" ({category})"
        for column, key, activate in (
            ("both", "both", "both vectors activate"),
            ("first_only", "subliminal_only", f"the {SUBLIMINAL} vector alone activates"),
            ("second_only", "direct_only", f"the {DIRECT} vector alone activates"),
        ):
            if len(rows):
                yield Compared(
                    f"features{about} that {activate}, all layers ({mean})",
                    where,
                    float(figures[key]),
                    *over_animals(rows.groupby("group")[column].sum().reindex(total.index, fill_value=0), 0),
                    unit="features",
                )
