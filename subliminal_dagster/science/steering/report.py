"""The section on steering: what vectors made from numbers do, beside vectors made from an animal's name.

Every mean of differences has a norm and a direction, noise included. So the subliminal vector is one more draw among
those of the same data with the sides drawn by lot, each at the strength that suits it best.

Belongs here: what is said of `report_evidence`. Does not belong here: statements and published figures
(`report_claims`), charts and tables (`report_views`); making and trying vectors (`vectors`,
`scores`).
"""

from __future__ import annotations

from collections.abc import Iterator

from subliminal_dagster.science.report.evidence import Results, Section
from subliminal_dagster.science.report.published import published
from subliminal_dagster.science.report.tables import rows_where
from subliminal_dagster.science.report.wording import counted, listed, percent
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.steering import report_claims as judged
from subliminal_dagster.science.steering.ranks import COHERENT, PROMOTED
from subliminal_dagster.science.steering.report_evidence import NOISE, SteeringEvidence, ranged, read_evidence
from subliminal_dagster.science.steering.report_views import charts, tables
from subliminal_dagster.science.steering.vectors import DIRECT, MEAN, SUBLIMINAL

NAME, TITLE = "steering", "Steering"
READS: tuple[str, ...] = (
    "steering_scores",
    "steering_scores_all_layers",
    "steering_vectors",
    "steering_summary",
    "steering_decomposition",
    "steering_by_category",
)


def section(study: Study, results: Results) -> Section:
    """What steering along each vector does, how the vectors resemble each other, and what they are made of."""
    evidence = read_evidence(study, results)
    there = {asset for asset, _ in results.folders}
    return Section(
        NAME,
        TITLE,
        " ".join(_shows(evidence)),
        " ".join(_method(evidence)),
        made_from=tuple(asset for asset in READS if asset in there),
        charts=tuple(charts(evidence)),
        tables=tuple(tables(evidence)),
        compared=tuple(judged.compared(evidence)),
        claims=tuple(judged.claims(evidence)),
    )


def _shows(evidence: SteeringEvidence) -> Iterator[str]:
    """What the subliminal vector does, the direct one beside it, and how the vectors resemble each other."""
    effect, text = judged.own_effect(evidence, SUBLIMINAL, PROMOTED)
    meaning = {
        "detected": "Steering along the vector of a teacher's numbers raises the preference for its animal",
        "opposite": "Steering along the vector of a teacher's numbers raises the preference for its animal less "
        "than chance does",
        "inconclusive": "No effect of steering along the vector of a teacher's numbers on the preference for its "
        "animal could be told from chance",
        "not tested": "What steering along the vector of a teacher's numbers does could not be measured",
    }[effect]
    yield f"{meaning}: {text[0].lower()}{text[1:]}"
    if more := judged.more_than_subliminal(evidence):
        words = {"detected": "does more than", "opposite": "does less than"}
        comparison = words.get(more.verdict, "cannot be told from")
        yield (
            f"The direct vector {comparison} the subliminal one ({more.observed:+.3f} nats; chance {more.low:+.3f} to "
            f"{more.high:+.3f})."
        )
    if len(evidence.corrected):
        known = evidence.corrected["cosine"].dropna()
        sentence = (
            f"Subliminal and direct vectors have cosines of {ranged(known)}, corrected for noise"
            if len(known)
            else "Subliminal and direct vectors cannot be compared: one of each pair cannot be told from noise"
        )
        animals, mixed = judged.across_groups(evidence)
        sentence += f"; subliminal vectors of two animals {ranged(animals)}" if len(animals) else ""
        sentence += f", those of an animal and the neutral teacher {ranged(mixed)}" if len(mixed) else ""
        yield f"{sentence}."


def _method(evidence: SteeringEvidence) -> Iterator[str]:
    targets = evidence.targets
    strengths = listed([f"{alpha:g}" for alpha in sorted(targets["alpha"].unique()) if alpha])
    yield (
        f"{counted(targets['question'].nunique(), 'question')}, {counted(len(evidence.animals), 'animal')}, strengths "
        f"{strengths} of a vector of norm 1, positions: {evidence.positions}."
    )
    made = rows_where(evidence.vectors, position=MEAN) if len(evidence.vectors) else evidence.vectors
    if len(made):
        post = published("steering_dog")
        each = [
            f"{kind} vectors from {ranged(rows_where(made, kind=kind)['pairs'], 0)} pairs "
            f"(post: {post[f'pairs_{kind}']:,})"
            for kind in (SUBLIMINAL, DIRECT)
        ]
        yield f"{listed(each).capitalize()}."
    drawn = int(evidence.against.loc[evidence.against["flip"] >= 0, "flip"].nunique())
    yield (
        "Shifts are of the animal's log share among the candidates from alpha 0; intervals in charts and tables are "
        "95 % t intervals over questions and speak of exactly these vectors (beside published figures: over "
        f"animals). Only strengths count at which the candidates keep {percent(COHERENT)} of their probability. "
        f"Statements rest on ranks among {counted(drawn, 'sign flip')} of the same answers an animal and layer, "
        "scored by each candidate's "
        f'likeliest spelling. Drawn beside the vectors are one flip ("{NOISE}") and a random direction.'
    )
    yield from (f"Left out, {group}: {why.rstrip('.')}." for group, why in evidence.left_out.items())
    yield from (f"Not shown: {reason}" for reason in evidence.missing)
