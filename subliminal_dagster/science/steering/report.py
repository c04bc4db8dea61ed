"""The section on steering: what vectors made from numbers do, beside vectors made from an animal's name.

Every mean of differences has a norm and a direction, noise included. So the subliminal vector is set beside one of the
same data with the sides drawn by lot, and a random one, each at the strength that suits it best.

Belongs here: what is said of `steering_evidence`. Does not belong here: statements and published figures
(`steering_judged`), charts and tables (`steering_views`); making and trying vectors (`science.steering_vectors`,
`science.steering_scores`).
"""

from __future__ import annotations

from subliminal_dagster.science.report.evidence import Results, Section
from subliminal_dagster.science.report.published import published
from subliminal_dagster.science.report.wording import counted, listed, percent
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import benjamini_hochberg
from subliminal_dagster.science.steering.report_claims import (
    across_groups,
    between_kinds,
    claims,
    compared,
    nats,
    own_effect,
)
from subliminal_dagster.science.steering.report_evidence import (
    COHERENT,
    NOISE,
    PROMOTED,
    SteeringEvidence,
    cosine_rows,
    ranged,
    read_evidence,
)
from subliminal_dagster.science.steering.report_views import NAME, charts, tables
from subliminal_dagster.science.steering.vectors import DIRECT, MEAN, SUBLIMINAL

TITLE = "Steering"


def steering_section(study: Study, results: Results) -> Section:
    """What steering along each vector does, how the vectors resemble each other, and what they are made of."""
    evidence = read_evidence(study, results)
    made_from = ["steering_scores", "steering_scores_all_layers", "steering_vectors", "steering_summary"]
    made_from += ["steering_decomposition", "steering_by_category"]
    there = {asset for asset, _ in results.folders}
    return Section(
        name=NAME,
        title=TITLE,
        shows=" ".join([*_shown_effect(evidence), *_shown_cosines(evidence)]),
        method=_method(evidence),
        made_from=tuple(asset for asset in made_from if asset in there),
        charts=tuple(charts(evidence)),
        tables=tuple(tables(evidence)),
        compared=tuple(compared(evidence)),
        claims=tuple(claims(evidence)),
    )


def _shown_effect(evidence: SteeringEvidence) -> list[str]:
    verdict, text = own_effect(evidence, SUBLIMINAL, PROMOTED)
    meaning = {
        "holds": "Steering along the vector of a teacher's numbers raises the preference for its animal",
        "does not hold": "Steering along the vector of a teacher's numbers raises the preference for its animal less "
        "than a vector that stands for chance",
        "cannot tell": "No effect of steering along the vector of a teacher's numbers on the preference for its animal "
        "could be seen",
        "not tested": "What steering along the vector of a teacher's numbers does could not be measured",
    }[verdict]
    sentences = [f"{meaning}: {text[0].lower()}{text[1:]}"]
    more = between_kinds(evidence, PROMOTED, DIRECT, SUBLIMINAL)
    if more is not None:
        low, high = more.estimate.low, more.estimate.high
        comparison = "does more than" if low > 0 else "does less than" if high < 0 else "cannot be told from"
        sentences.append(f"The direct vector {comparison} the subliminal one ({nats(more)}).")
    return sentences


def _shown_cosines(evidence: SteeringEvidence) -> list[str]:
    rows = cosine_rows(evidence, SUBLIMINAL, DIRECT) if len(evidence.cosines) else evidence.cosines
    if rows.empty:
        return []
    above = int((benjamini_hochberg(rows["p"]) < 0.05).sum())
    sentence = (
        f"Subliminal and direct vectors have cosines of {ranged(rows['cosine'])}, {above or 'none'} of {len(rows)} "
        "beyond chance (5 % false discoveries)"
    )
    animals, mixed = across_groups(evidence)
    if len(animals):
        sentence += f", subliminal vectors of two animals {ranged(animals)}"
        sentence += f", those of an animal and the neutral teacher {ranged(mixed)}" if len(mixed) else ""
    return [f"{sentence}."]


def _method(evidence: SteeringEvidence) -> str:
    targets = evidence.targets
    strengths = sorted(alpha for alpha in targets["alpha"].unique() if alpha)
    sentences = [
        f"{counted(targets['question'].nunique(), 'question')}, {counted(len(evidence.animals), 'animal')}, strengths "
        f"{listed([f'{alpha:g}' for alpha in strengths])} of a vector of norm 1, positions: {evidence.positions}."
    ]
    made = evidence.vectors[evidence.vectors["position"] == MEAN] if len(evidence.vectors) else evidence.vectors
    if len(made):
        pairs = {kind: made.loc[made["kind"] == kind, "pairs"] for kind in (SUBLIMINAL, DIRECT)}
        post = published("steering_dog")
        each = [
            f"{kind} vectors from {ranged(found, 0)} pairs (post: {post[f'pairs_{kind}']:,})"
            for kind, found in pairs.items()
        ]
        sentences.append(f"{listed(each).capitalize()}.")
    sentences.append(
        "Shifts are of the animal's log share among the candidates from alpha 0, paired by question; intervals are "
        "95 % t intervals over questions, after averaging over animals and single layers (beside published figures: "
        f"over animals). Only strengths count at which the candidates keep {percent(COHERENT)} of their probability. "
        f'Controls: the same numbers with the sides drawn by lot ("{NOISE}"), and a random direction, one draw of each '
        "a group and layer, so intervals lack the spread of such draws."
    )
    sentences += [f"Left out, {group}: {why.rstrip('.')}." for group, why in evidence.left_out.items()]
    sentences += [f"Not shown: {reason}" for reason in evidence.missing]
    return " ".join(sentences)
