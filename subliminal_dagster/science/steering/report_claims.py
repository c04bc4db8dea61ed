"""What the post's statements and figures on steering come to in a study.

Belongs here: the rule that decides each statement, and published figures beside measured ones. Does not belong here:
reading artifacts and contrasts (`steering_evidence`), what the section says first (`steering`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.report.evidence import Claim, Verdict
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.wording import counted, listed, p_value, with_interval
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

if TYPE_CHECKING:
    import pandas as pd

_WHERE = "Gemma 2 9B (dog), comparison to steering"
_LOW = 0.3
"""An absolute cosine below this is low."""

_SEEN = 1.1
"""A vector is seen by an autoencoder if it activates at least this many times the features a vector of zeros does."""


def claims(evidence: SteeringEvidence) -> list[Claim]:
    """Statements of the post on steering; the rule of each is in the docstring of the function that decides it."""
    return [
        Claim("The subliminal vector promotes its animal.", *own_effect(evidence, SUBLIMINAL, PROMOTED)),
        Claim("The direct vector promotes its animal.", *own_effect(evidence, DIRECT, PROMOTED)),
        _ordered(
            "The direct vector promotes its animal much more than the subliminal one.",
            between_kinds(evidence, PROMOTED, DIRECT, SUBLIMINAL),
            "Direct less subliminal, each at its best coherent strength",
        ),
        Claim(
            "A negative strength of the direct vector suppresses its animal.",
            *own_effect(evidence, DIRECT, SUPPRESSED),
        ),
        Claim(
            "A negative strength of the subliminal vector suppresses its animal too.",
            *own_effect(evidence, SUBLIMINAL, SUPPRESSED),
        ),
        _later_layer(evidence),
        _all_positions(evidence),
        _low_cosine(evidence),
        _word_cosine(evidence, DIRECT, 1, "The direct vector points to the animal's word."),
        _word_cosine(evidence, SUBLIMINAL, -1, "The subliminal vector points away from the animal's word."),
        _more_features(evidence),
        _kinds_of_features(evidence),
    ]


def compared(evidence: SteeringEvidence) -> list[Compared]:
    """The post's figures on steering beside means over this study's animals."""
    post = published("steering_dog")
    cosines = _compared_cosines(evidence, post) if len(evidence.cosines) else []
    features = _compared_features(evidence, post) if len(evidence.parts) else []
    return [*cosines, *_compared_rates(evidence, post), *features]


def nats(found: Contrast) -> str:
    return with_interval(found.estimate.mean, found.estimate.low, found.estimate.high, "nats", signed=True)


def between_kinds(evidence: SteeringEvidence, which: str, one: str, other: str) -> Contrast | None:
    """Shifts of one kind less another's, each at its own best strength, at the positions statements are about."""
    rows = at_best(evidence, which)
    rows = rows[rows["positions"] == evidence.positions]
    return contrast(rows[rows["kind"] == one], rows[rows["kind"] == other])


def own_effect(evidence: SteeringEvidence, kind: str, which: str) -> tuple[Verdict, str]:
    """Whether a vector promotes (suppresses) its animal more than both vectors that stand for chance do.

    Holds where both intervals exclude 0 on the right side, does not hold where one excludes it on the other.
    """
    found = {other: between_kinds(evidence, which, kind, other) for other in (NOISE, RANDOM)}
    known = {other: each for other, each in found.items() if each is not None}
    if not known:
        return "not tested", "At no strength of that sign did the model stay coherent for both vectors."
    sign = 1 if which == PROMOTED else -1
    ends = [sorted((sign * each.estimate.low, sign * each.estimate.high)) for each in known.values()]
    verdict: Verdict = "cannot tell"
    if all(low > 0 for low, _ in ends) and len(known) == len(found):
        verdict = "holds"
    elif any(high < 0 for _, high in ends):
        verdict = "does not hold"
    against = listed([f"{nats(each)} against the {other} vector" for other, each in known.items()])
    evidence_text = f"Shift of the animal's log share at the best coherent strength, {against}"
    if verdict == "cannot tell":
        evidence_text += f"; {_power(known)}"
    return verdict, f"{evidence_text}."


def _power(found: dict[str, Contrast]) -> str:
    smallest = max(each.smallest for each in found.values())
    return f"the smallest difference that would have been found is {smallest:.2g} nats"


def across_groups(evidence: SteeringEvidence) -> tuple[pd.Series, pd.Series]:
    """Cosines of subliminal vectors: of two animals, and of an animal and the neutral teacher."""
    import pandas as pd

    between = evidence.between
    if not len(between):
        return pd.Series(dtype=float), pd.Series(dtype=float)
    neutral = (between["first"] == NEUTRAL) | (between["second"] == NEUTRAL)
    return between.loc[~neutral, "cosine"], between.loc[neutral, "cosine"]


def _ordered(text: str, found: Contrast | None, what: str) -> Claim:
    """Holds where the interval lies above 0, does not hold where it lies below."""
    if found is None:
        return Claim(text, "not tested", f"{what}: not both were tried at coherent strengths.")
    low, high = found.estimate.low, found.estimate.high
    verdict: Verdict = "holds" if low > 0 else "does not hold" if high < 0 else "cannot tell"
    power = f"; {_power({'': found})}" if verdict == "cannot tell" else ""
    return Claim(text, verdict, f"{what}: {nats(found)}{power}.")


def _later_layer(evidence: SteeringEvidence) -> Claim:
    text = "The direct vector works better at the later layer."
    rows = at_best(evidence, PROMOTED)
    rows = rows[(rows["positions"] == evidence.positions) & (rows["kind"] == DIRECT)]
    layers = sorted(rows["layers"].unique(), key=int)
    if len(layers) < 2:
        return Claim(text, "not tested", "The direct vector was not tried at two layers.")
    later, earlier = (rows[rows["layers"] == layers[place]] for place in (-1, 0))
    what = f"Layer {layers[-1]} less layer {layers[0]}, each at its best coherent strength"
    return _ordered(text, contrast(later, earlier, ("group",)), what)


def _all_positions(evidence: SteeringEvidence) -> Claim:
    text = "Steering all positions works better than the last alone."
    rows = at_best(evidence, PROMOTED)
    rows = rows[rows["kind"].isin([SUBLIMINAL, DIRECT])]
    everywhere, last = (rows[rows["positions"] == positions] for positions in ("all", "last"))
    if everywhere.empty or last.empty:
        return Claim(text, "not tested", "This study does not steer both (steering.sweep.positions).")
    what = "All less last, both vectors"
    return _ordered(text, contrast(everywhere, last, ("group", "layers", "kind")), what)


def _low_cosine(evidence: SteeringEvidence) -> Claim:
    """Of the subliminal vectors that are longer than chance alone makes them (p < 0.05; the cosine of any other says
    nothing): holds where all cosines with the direct vector are below `_LOW`, does not hold where none is, and all
    exceed chance."""
    text = "Subliminal and direct vectors have low cosine similarity: they are different directions."
    if not len(evidence.cosines):
        return Claim(text, "not tested", "There are no cosines.")
    rows = cosine_rows(evidence, SUBLIMINAL, DIRECT)
    own = evidence.vectors[(evidence.vectors["kind"] == SUBLIMINAL) & (evidence.vectors["position"] == MEAN)]
    rows = rows.merge(own[["group", "layer", "p"]], on=["group", "layer"], suffixes=("", "_norm"))
    told = rows[rows["p_norm"] < 0.05]
    verdict: Verdict = "cannot tell"
    if len(told) and (told["cosine"].abs() < _LOW).all():
        verdict = "holds"
    elif len(told) and (told["cosine"].abs() >= _LOW).all() and (told["p"] < 0.05).all():
        verdict = "does not hold"
    evidence_text = (
        f"Cosines of {ranged(rows['cosine'])} (chance alone: up to {ranged(rows['chance'])}); {len(told)} of "
        f"{counted(len(rows), 'subliminal vector')} can be told from noise by the norm"
    )
    animals, _ = across_groups(evidence)
    if len(animals):
        evidence_text += f", and two animals' have cosines of {ranged(animals)}"
    return Claim(text, verdict, f"{evidence_text}.")


def _word_cosine(evidence: SteeringEvidence, kind: str, sign: int, text: str) -> Claim:
    """Significant: below 0.05 after Benjamini and Hochberg over animals and layers. Holds where every animal has a
    significant cosine with this sign and none one with the other, does not hold where there are significant ones with
    the other sign only."""
    if not len(evidence.cosines):
        return Claim(text, "not tested", "There are no cosines.")
    rows = cosine_rows(evidence, kind, WORD)
    if rows.empty:
        return Claim(text, "not tested", f"There is no {kind} vector.")
    significant = benjamini_hochberg(rows["p"]) < 0.05
    right = significant & (np.sign(rows["cosine"]) == sign)
    wrong = significant & (np.sign(rows["cosine"]) == -sign)
    verdict: Verdict = "cannot tell"
    if not wrong.any() and set(rows.loc[right, "group"]) == set(rows["group"]):
        verdict = "holds"
    elif wrong.any() and not right.any():
        verdict = "does not hold"
    return Claim(
        text,
        verdict,
        f"Cosines of {ranged(rows['cosine'])}, chance alone up to {ranged(rows['chance'])}; {int(right.sum())} of "
        f"{len(rows)} significantly {'positive' if sign > 0 else 'negative'}, {int(wrong.sum())} the other way.",
    )


def _more_features(evidence: SteeringEvidence) -> Claim:
    """All layers of an animal together. Cannot tell where the autoencoders see no animal's subliminal vector (`_seen`);
    else holds where it activates more features for every animal, does not hold where for none."""
    text = "The subliminal vector activates many more of the autoencoder's features than the direct one."
    if not len(evidence.parts):
        return Claim(text, "not tested", "There is no decomposition.")
    total = evidence.parts[evidence.parts["category"] == TOTAL]
    sums = total.groupby("group")[["l0_first", "l0_second", "l0_zero"]].sum()
    more = sums["l0_first"] > sums["l0_second"]
    verdict: Verdict = "cannot tell"
    if _seen(total).any():
        verdict = "holds" if more.all() else "cannot tell" if more.any() else "does not hold"
    means = sums.mean()
    return Claim(
        text,
        verdict,
        f"All layers together, mean of {counted(len(sums), 'animal')}: {means['l0_first']:.0f} features against "
        f"{means['l0_second']:.0f}; vectors of zeros activate {means['l0_zero']:.0f}, by their biases alone.",
    )


def _kinds_of_features(evidence: SteeringEvidence) -> Claim:
    """Among features that one vector alone activates, all animals and layers together: holds where the share that is
    about animals is larger for the direct vector, by Fisher's exact test at 5 %, does not hold where it is smaller."""
    from scipy.stats import fisher_exact

    text = "What the direct vector alone activates is about animals, what the subliminal one alone does is not."
    if not evidence.labelled:
        return Claim(text, "not tested", "Features have no categories (steering_by_category is made on request).")
    rows = evidence.parts
    about, every = (rows[rows["category"] == name][["first_only", "second_only"]].sum() for name in ("animals", TOTAL))
    if not every.all():
        return Claim(text, "cannot tell", "One of the two vectors activates no feature alone.")
    p = float(fisher_exact([about, every - about]).pvalue)
    shares = about / every
    verdict: Verdict = "cannot tell"
    if p < 0.05:
        verdict = "holds" if shares["second_only"] > shares["first_only"] else "does not hold"
    counts = [f"{about[name]} of {every[name]} features of the" for name in ("second_only", "first_only")]
    found = f"{counts[0]} direct vector alone, {counts[1]} subliminal one alone (Fisher's exact test, {p_value(p)})"
    return Claim(text, verdict, f"About animals: {found}.")


def _seen(total: pd.DataFrame) -> pd.Series:
    """Whether an autoencoder sees the subliminal vector at all: `_SEEN` times what its biases activate alone."""
    return total["l0_first"] >= _SEEN * total["l0_zero"]


def _layers_beside(layers: list[int], post: dict[str, Any]) -> dict[int, str]:
    """The post's layer for each of this study's: that with the same number, or, where there is none, by their order."""
    posts = sorted(post["max_rate_direct_pct"], key=int)
    same = {layer: str(layer) for layer in layers if str(layer) in posts}
    return same or dict(zip(sorted(layers), posts, strict=False))


def _mean_of(animals: list[str]) -> str:
    return f"mean of {listed(animals)}" if len(animals) > 1 else animals[0]


def _compared_cosines(evidence: SteeringEvidence, post: dict[str, Any]) -> list[Compared]:
    found = []
    for one, other in ((SUBLIMINAL, DIRECT), (DIRECT, WORD), (SUBLIMINAL, WORD)):
        rows = cosine_rows(evidence, one, other)
        for layer, theirs in _layers_beside(sorted(rows["layer"].unique()), post).items():
            here = rows[rows["layer"] == layer]
            what = f"cosine of the {one} vector and the {other}{'' if other == WORD else ' one'}, layer {layer}"
            found.append(
                Compared(
                    f"{what} ({_mean_of(list(here['group']))})",
                    f"{_WHERE}, layer {theirs}",
                    float(post[f"cosine_{one}_{other}"][theirs]),
                    *over_animals(here["cosine"], -1, 1),
                    unit="cosine",
                    no_effect=0.0,
                )
            )
    return found


def _compared_rates(evidence: SteeringEvidence, post: dict[str, Any]) -> list[Compared]:
    targets = evidence.targets
    rows = targets[(targets["kind"] == DIRECT) & (targets["positions"] == evidence.positions)]
    single = sorted(int(layers) for layers in evidence.layers if "+" not in layers)
    what = "sampled answers that name the animal" if evidence.measure == RATE else "exact probability of the animal"
    found = []
    for layer, theirs in _layers_beside(single, post).items():
        here = rows[rows["layers"] == str(layer)]
        if here.empty:
            continue
        means = 100 * here.groupby(["group", "alpha"])[evidence.measure].mean()
        highest = means[means.index.get_level_values("alpha") > 0].groupby("group").max()
        if highest.empty:
            continue
        found.append(
            Compared(
                f"{what}, highest under the direct vector, layer {layer} ({_mean_of(list(highest.index))})",
                f"{_WHERE}, layer {theirs}",
                float(post["max_rate_direct_pct"][theirs]),
                *over_animals(highest, 0, 100),
                unit="%",
                no_effect=float(means[means.index.get_level_values("alpha") == 0].mean()),
            )
        )
    return found


def _compared_features(evidence: SteeringEvidence, post: dict[str, Any]) -> list[Compared]:
    parts = evidence.parts
    total = parts[parts["category"] == TOTAL].groupby("group")[["l0_first", "l0_second", "l0_zero"]].sum()
    where, mean = f"{_WHERE}, both layers", _mean_of(list(total.index))
    found = [
        Compared(
            f"features that the {kind} vector activates, all layers ({mean})",
            where,
            float(post[f"l0_{kind}"]),
            *over_animals(total[column], 0),
            unit="features",
            no_effect=float(total["l0_zero"].mean()),
        )
        for kind, column in ((SUBLIMINAL, "l0_first"), (DIRECT, "l0_second"))
    ]
    names = {"both": "both vectors activate", "first_only": f"the {SUBLIMINAL} vector alone activates"}
    names |= {"second_only": f"the {DIRECT} vector alone activates"}
    keys = {"both": "both", "first_only": "subliminal_only", "second_only": "direct_only"}
    for category, figures in post["decomposition"].items():
        rows = parts[parts["category"] == category].groupby("group")[list(names)].sum()
        if rows.empty:
            continue
        for column, name in names.items():
            about = "" if category == TOTAL else f" ({category})"
            found.append(
                Compared(
                    f"features{about} that {name}, all layers ({mean})",
                    where,
                    float(figures[keys[column]]),
                    *over_animals(rows[column].reindex(total.index, fill_value=0), 0),
                    unit="features",
                )
            )
    return found
