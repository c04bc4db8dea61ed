"""What the post's statements and figures on steering come to in a study.

Belongs here: each statement with the rule that decides it, and published figures beside measured ones. Does not belong
here: reading artifacts and contrasts (`report_evidence`), what the section says first (`report`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.report.evidence import Claim, Statement
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import rows_where
from subliminal_dagster.science.report.wording import counted, listed, p_value
from subliminal_dagster.science.settings.names import NEUTRAL
from subliminal_dagster.science.statistics import benjamini_hochberg
from subliminal_dagster.science.steering.analysis import TOTAL, own_vector
from subliminal_dagster.science.steering.ranks import LEVEL, PROMOTED, SUPPRESSED, Rank, rank
from subliminal_dagster.science.steering.report_evidence import (
    SteeringEvidence,
    cosine_rows,
    over_animals,
    ranged,
    ranked,
)
from subliminal_dagster.science.steering.scores import RATE
from subliminal_dagster.science.steering.vectors import CENTRED_WORD, DIRECT, SUBLIMINAL, WORD
from subliminal_dagster.science.verdict import Verdict, verdict

if TYPE_CHECKING:
    import pandas as pd

_WHERE = "Gemma 2 9B (dog), comparison to steering"
_L0 = {SUBLIMINAL: "l0_first", DIRECT: "l0_second", "zero": "l0_zero"}
_LOW = 0.3
"""An absolute cosine below this is low."""

_NOT_BOTH = "Not both were tried at coherent strengths."
_REVERSED: dict[Verdict, Verdict] = {"detected": "opposite", "opposite": "detected", "inconclusive": "inconclusive"}

_SEEN = 1.1
"""A vector is seen by an autoencoder if it activates at least this many times the features a vector of zeros does."""

_RANK = (
    "among the same of vectors made of the same number answers with signs drawn by lot (flips), each with its own best "
    "coherent strength. Detected where it lies above 97.5 % of what chance gives, opposite where it lies below 97.5 %; "
    "else it is inconclusive. The unit is the animal: chance is the larger p of two, one flip for all animals and one "
    "for each."
)
_EFFECT = (
    "The shift of the animal's log share at the best coherent strength, mean over animals and layers, is ranked "
    f"{_RANK}"
)
_MORE = f"The difference of the two shifts, mean over animals, is ranked {_RANK}"
_WORD = (
    "Judged for the vectors of exactly these teachers, with the animal's word as it is and less the other animals' "
    "words (what all words share says nothing of an animal). Detected where every animal has a significant cosine on "
    "the side that is stated (5 % false discoveries over animals and layers) with both, and none one on the other; "
    "opposite where every animal has one on the other side with both, and none one on this; else it is inconclusive."
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
    rule="The cosine is corrected for the noise in both vectors, which lowers it whatever the true one. Detected "
    f"where the 95 % interval of every animal and layer, and the t interval over animals, lies within {_LOW} of zero; "
    "opposite where all of these lie further away, on one side; else, or with a single animal, it is inconclusive.",
)
TO_WORD = Statement("The direct vector points to the animal's word.", _WORD)
FROM_WORD = Statement("The subliminal vector points away from the animal's word.", _WORD)
MORE_FEATURES = Statement(
    "The subliminal vector activates many more of the autoencoder's features than the direct one.",
    rule="Both vectors are encoded at one length, as the longer of two activates more features whatever its "
    "direction. The difference in active features, all layers of an animal together, mean over animals, is ranked "
    "among the same of both vectors' flips (signs of their differences drawn by lot). Detected where it lies above "
    "97.5 % of them, opposite where it lies below 97.5 %; else, or where no subliminal vector activates at least "
    f"{_SEEN} times as many as a vector of zeros does, it is inconclusive.",
)
KINDS_OF_FEATURES = Statement(
    "What the direct vector alone activates is about animals, what the subliminal one alone does is not.",
    rule="Judged are the features that one vector alone activates, all layers together. Detected where the share "
    "that is about animals is larger for the direct vector, both by the 95 % t interval over animals and by Fisher's "
    "exact test at 5 % of all features (which takes them for independent); opposite where it is smaller by both; "
    "else, or with a single animal, it is inconclusive.",
)
OWN_VECTOR = Statement(
    "A child's activations move along its own group's subliminal vector more than other children's do.",
    rule="The cosine of each group's child's mean shift with its own vector less the mean of all other children's, "
    "the control's included, mean over groups and layers. Detected where it is above 97.5 % of what re-assigning "
    "children to vectors gives and above 97.5 % of what the vectors' flips give; opposite where it is below 97.5 % "
    "of both; else it is inconclusive.",
    source="this project",
)
ONE_DIRECTION = Statement(
    "The subliminal vectors of different groups, the neutral teacher's included, have a direction in common.",
    rule="Cosines are of products of different prompts alone, since all groups are contrasted with the same control "
    "rows. Judged for exactly these teachers: detected where every pair of groups has a positive cosine beyond "
    "chance at every layer (5 % false discoveries over pairs and layers), opposite where every pair has a negative "
    "one; else it is inconclusive.",
    source="this project",
)


def claims(evidence: SteeringEvidence) -> Iterator[Claim]:
    """Statements of the post on steering, then two of this project."""
    yield PROMOTES.claim(*own_effect(evidence, SUBLIMINAL, PROMOTED))
    yield DIRECT_PROMOTES.claim(*own_effect(evidence, DIRECT, PROMOTED))
    yield _ranked_claim(STRONGER, more_than_subliminal(evidence), "Direct less subliminal", _NOT_BOTH)
    yield DIRECT_SUPPRESSES.claim(*own_effect(evidence, DIRECT, SUPPRESSED))
    yield SUPPRESSES.claim(*own_effect(evidence, SUBLIMINAL, SUPPRESSED))
    yield _later_layer(evidence)
    yield _all_positions(evidence)
    yield _low_cosine(evidence)
    yield _word_cosine(evidence, TO_WORD, DIRECT, 1)
    yield _word_cosine(evidence, FROM_WORD, SUBLIMINAL, -1)
    yield _more_features(evidence)
    yield _kinds_of_features(evidence)
    yield _own_vector(evidence)
    yield _one_direction(evidence)


def compared(evidence: SteeringEvidence) -> Iterator[Compared]:
    """The post's figures on steering beside means over this study's animals."""
    post = published("steering_dog")
    if len(evidence.cosines):
        yield from _compared_cosines(evidence, post)
    yield from _compared_rates(evidence, post)
    if len(evidence.parts):
        yield from _compared_features(evidence, post)


def own_effect(evidence: SteeringEvidence, kind: str, which: str) -> tuple[Verdict, str]:
    """Whether a vector promotes (suppresses) its animal, by the rule `_EFFECT`, and on what evidence."""
    found = ranked(evidence, which, (kind,), lambda best: _over_layers(evidence, best[kind]))
    if found is None:
        return "not tested", "At no strength of that sign did the model stay coherent."
    judged = found.verdict if which == PROMOTED else _REVERSED[found.verdict]
    return judged, f"Shift of the animal's log share at the best coherent strength: {_written(found)}."


def more_than_subliminal(evidence: SteeringEvidence) -> Rank | None:
    """What the direct vector promotes its animal by, less what the subliminal one does."""
    return ranked(
        evidence,
        PROMOTED,
        (DIRECT, SUBLIMINAL),
        lambda best: _over_layers(evidence, best[DIRECT]) - _over_layers(evidence, best[SUBLIMINAL]),
    )


def _over_layers(evidence: SteeringEvidence, best: pd.DataFrame) -> pd.Series:
    """Mean over single layers at the positions that statements are about; NaN where these were not tried."""
    import pandas as pd

    here = best.loc[:, best.columns.get_level_values("positions") == evidence.positions]
    mean: pd.Series = here.mean(axis=1) if here.shape[1] else pd.Series(np.nan, index=best.index)
    return mean


def _written(found: Rank) -> str:
    """A rank with what a test of its strength could see."""
    return (
        f"{found.observed:+.3f} nats; chance gives {found.low:+.3f} to {found.high:+.3f} in 95 % of "
        f"{counted(found.draws, 'flip')}, so nothing in that range stands out from chance (p of more "
        f"{found.p_more:.2g}, of less {found.p_less:.2g})"
    )


def _ranked_claim(statement: Statement, found: Rank | None, what: str, why_not: str) -> Claim:
    if found is None:
        return statement.claim("not tested", why_not)
    return statement.claim(found.verdict, f"{what}, each at its best coherent strength: {_written(found)}.")


def across_groups(evidence: SteeringEvidence) -> tuple[pd.Series, pd.Series]:
    """Corrected cosines of subliminal vectors: of two animals, and of an animal and the neutral teacher."""
    import pandas as pd

    between = evidence.between
    if not len(between):
        return pd.Series(dtype=float), pd.Series(dtype=float)
    neutral = (between["first"] == NEUTRAL) | (between["second"] == NEUTRAL)
    return between.loc[~neutral, "corrected"].dropna(), between.loc[neutral, "corrected"].dropna()


def _later_layer(evidence: SteeringEvidence) -> Claim:
    layers = [layers for layers in evidence.layers if "+" not in layers]
    if len(layers) < 2:
        return LATER.claim("not tested", "The direct vector was not tried at two layers.")
    ends = [(layers[place], evidence.positions) for place in (-1, 0)]

    def later_less_earlier(best: dict[str, pd.DataFrame]) -> pd.Series:
        later, earlier = (best[DIRECT].reindex(columns=best[DIRECT].columns.union(ends))[end] for end in ends)
        return later - earlier

    found = ranked(evidence, PROMOTED, (DIRECT,), later_less_earlier)
    return _ranked_claim(LATER, found, f"Layer {layers[-1]} less layer {layers[0]}", _NOT_BOTH)


def _all_positions(evidence: SteeringEvidence) -> Claim:
    if set(evidence.against["positions"]) != {"all", "last"}:
        return POSITIONS.claim("not tested", "This study does not steer both (steering.sweep.positions).")

    def all_less_last(best: dict[str, pd.DataFrame]) -> pd.Series:
        tables = [table.T.groupby("positions").mean().T for table in best.values()]
        both = [table.reindex(columns=["all", "last"]) for table in tables]
        return (both[0]["all"] - both[0]["last"] + both[1]["all"] - both[1]["last"]) / 2

    found = ranked(evidence, PROMOTED, (SUBLIMINAL, DIRECT), all_less_last)
    return _ranked_claim(POSITIONS, found, "All less last, mean of both vectors", _NOT_BOTH)


def _low_cosine(evidence: SteeringEvidence) -> Claim:
    rows = evidence.corrected
    if not len(rows):
        return DIFFERENT.claim("not tested", "There are no cosines.")
    by_animal = rows.groupby("group")["cosine"].agg(lambda values: values.mean(skipna=False))
    _, low, high = over_animals(by_animal, -1, 1)
    judged: Verdict = "inconclusive"
    if low is not None and high is not None:
        lowest, highest = np.append(rows["low"], low), np.append(rows["high"], high)
        if (lowest > -_LOW).all() and (highest < _LOW).all():
            judged = "detected"
        elif (lowest > _LOW).all() or (highest < -_LOW).all():
            judged = "opposite"
    plain = cosine_rows(evidence, SUBLIMINAL, DIRECT)["cosine"]
    told = rows["cosine"].notna()
    corrected = f", corrected {ranged(rows.loc[told, 'cosine'])}" if told.any() else ""
    return DIFFERENT.claim(
        judged,
        f"Cosines of {ranged(plain)} as they are{corrected}, with intervals from {rows['low'].min():.2f} to "
        f"{rows['high'].max():.2f}; {int((~told).sum()) or 'none'} of {counted(len(rows), 'pair')} hold a vector that "
        "cannot be told from noise.",
    )


def _word_cosine(evidence: SteeringEvidence, statement: Statement, kind: str, sign: int) -> Claim:
    if not len(evidence.cosines):
        return statement.claim("not tested", "There are no cosines.")
    each = [rows for word in (WORD, CENTRED_WORD) if len(rows := cosine_rows(evidence, kind, word))]
    if len(each) < 2:
        return statement.claim("not tested", f"There is no {kind} vector, or no other animal's word.")
    sides, said = [], []
    for rows, name in zip(each, ("the word as it is", "less the other words"), strict=True):
        significant = benjamini_hochberg(rows["p"]) < 0.05
        right, wrong = (significant & (np.sign(rows["cosine"]) == side) for side in (sign, -sign))
        groups = set(rows["group"])
        if not wrong.any() and set(rows.loc[right, "group"]) == groups:
            sides.append("detected")
        elif not right.any() and set(rows.loc[wrong, "group"]) == groups:
            sides.append("opposite")
        else:
            sides.append("inconclusive")
        said.append(
            f"{name} {ranged(rows['cosine'])} (chance alone up to {ranged(rows['chance'])}), {int(right.sum())} of "
            f"{len(rows)} significantly {'positive' if sign > 0 else 'negative'}, {int(wrong.sum())} the other way"
        )
    judged: Verdict = "inconclusive"
    if sides == ["detected"] * 2:
        judged = "detected"
    elif sides == ["opposite"] * 2:
        judged = "opposite"
    return statement.claim(judged, f"Cosines with {'; '.join(said)}.")


def _more_features(evidence: SteeringEvidence) -> Claim:
    if not len(evidence.parts):
        return MORE_FEATURES.claim("not tested", "There is no decomposition.")
    total = rows_where(evidence.parts, category=TOTAL)
    sums = total.groupby("group")[list(_L0.values())].sum()
    drawn = evidence.parts_flips
    more = (drawn["first"] - drawn["second"]).groupby([drawn["group"], drawn["flip"]]).sum().unstack("flip")
    # A flip that not all groups have stands for none of them.
    more = more.loc[sums.index].dropna(axis=1)
    if not more.shape[1]:
        return MORE_FEATURES.claim("not tested", "The vectors have no flips.")
    found = rank((sums["l0_first"] - sums["l0_second"]).to_numpy(dtype=float), more.to_numpy(dtype=float))
    # Where an autoencoder sees no vector, what it activates are its biases.
    seen = (total["l0_first"] >= _SEEN * total["l0_zero"]).any()
    means = sums.mean()
    return MORE_FEATURES.claim(
        found.verdict if seen else "inconclusive",
        f"All layers together, mean of {counted(len(sums), 'animal')}: {means['l0_first']:.0f} features against "
        f"{means['l0_second']:.0f}; flips give a difference of {found.low:+.0f} to {found.high:+.0f} in 95 %; vectors "
        f"of zeros activate {means['l0_zero']:.0f}, by their biases alone.",
    )


def _kinds_of_features(evidence: SteeringEvidence) -> Claim:
    from scipy.stats import fisher_exact

    if not evidence.labelled:
        why = "Features have no categories (steering_by_category is made on request)."
        return KINDS_OF_FEATURES.claim("not tested", why)
    columns = ["first_only", "second_only"]
    counts = evidence.parts.groupby(["category", "group"])[columns].sum()
    totals = rows_where(counts.reset_index(), category=TOTAL).set_index("group")[columns]
    animals = rows_where(counts.reset_index(), category="animals").set_index("group")[columns]
    about = animals.reindex(totals.index, fill_value=0)
    if not totals.to_numpy().all():
        return KINDS_OF_FEATURES.claim("inconclusive", "One of the two vectors activates no feature alone.")
    shares = about / totals
    mean, low, high = over_animals(shares["second_only"] - shares["first_only"], -1, 1)
    several, all_of = about.to_numpy().sum(axis=0), totals.to_numpy().sum(axis=0)
    p = float(fisher_exact([several, all_of - several]).pvalue)
    judged: Verdict = "inconclusive"
    if p < 0.05 and low is not None and high is not None:
        judged = verdict(low, high)
    interval = "" if low is None or high is None else f" [{100 * low:+.0f}, {100 * high:+.0f}] over animals"
    return KINDS_OF_FEATURES.claim(
        judged,
        f"About animals: {several[1]} of {all_of[1]} features of the direct vector alone, {several[0]} of {all_of[0]} "
        f"features of the subliminal one alone (Fisher's exact test, {p_value(p)}); difference "
        f"{100 * mean:+.0f} percentage points{interval}.",
    )


def _own_vector(evidence: SteeringEvidence) -> Claim:
    if not len(evidence.children):
        return OWN_VECTOR.claim("not tested", "The children's shifts are not there.")
    found = own_vector(evidence.children, evidence.child_flips)
    judged: Verdict = "inconclusive"
    if max(found.p_more, found.flips_more) <= LEVEL:
        judged = "detected"
    elif max(found.p_less, found.flips_less) <= LEVEL:
        judged = "opposite"
    few = (
        f"; with so few children re-assigning cannot give less than p = {found.smallest_p:.2g}, so nothing can be "
        "decided"
        if found.smallest_p > LEVEL
        else ""
    )
    return OWN_VECTOR.claim(
        judged,
        f"Own less other children's cosine {found.difference:+.3f}; re-assigning children gives as much in "
        f"{100 * found.p_more:.1f} %, flips in {100 * found.flips_more:.1f} %, chance {found.low:+.3f} to "
        f"{found.high:+.3f}; the children's mean shifts have cosines of {ranged(evidence.shifts['cosine'])} with each "
        f"other{few}.",
    )


def _one_direction(evidence: SteeringEvidence) -> Claim:
    rows = evidence.between
    if not len(rows):
        return ONE_DIRECTION.claim("not tested", "There are not two groups with vectors.")
    rows = rows[rows["first"] < rows["second"]]
    significant = benjamini_hochberg(rows["p"]) < 0.05
    judged: Verdict = "inconclusive"
    if significant.all() and (rows["cosine"] > 0).all():
        judged = "detected"
    elif significant.all() and (rows["cosine"] < 0).all():
        judged = "opposite"
    known = rows["corrected"].dropna()
    corrected = f", corrected for noise {ranged(known)}" if len(known) else ""
    return ONE_DIRECTION.claim(
        judged,
        f"Cosines over different prompts {ranged(rows['cosine'])}{corrected}; chance alone up to "
        f"{ranged(rows['chance'])}; {int(significant.sum())} of {len(rows)} beyond it.",
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
