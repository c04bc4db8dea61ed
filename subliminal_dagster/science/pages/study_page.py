"""The page of one study: its sections in order, and what a reader should know first.

Belongs here: which sections there are, the verdict on top, the commands. Does not belong here: any one section, HTML.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Protocol, get_args

from subliminal_dagster.science.arms import report as arms
from subliminal_dagster.science.capability import report as capability
from subliminal_dagster.science.descriptions import report as composition
from subliminal_dagster.science.dial import report as dial
from subliminal_dagster.science.dial.report import dial_sections
from subliminal_dagster.science.entanglement import report as entanglement
from subliminal_dagster.science.features import report as features
from subliminal_dagster.science.features import report_filters as filters
from subliminal_dagster.science.interference import report as interference
from subliminal_dagster.science.liking import report as liking
from subliminal_dagster.science.liking import report_why_null as why_null
from subliminal_dagster.science.pages.provenance import provenance_section
from subliminal_dagster.science.pages.reworded import opening_about, section_about
from subliminal_dagster.science.preferences import report as favourites
from subliminal_dagster.science.preferences import report_words as words
from subliminal_dagster.science.preferences.published_prompts import wording
from subliminal_dagster.science.probes import report as probes
from subliminal_dagster.science.report.evidence import (
    Claim,
    NotThere,
    Opening,
    Results,
    Section,
    Source,
    section_or_reason,
)
from subliminal_dagster.science.report.page import Page, compared_frame
from subliminal_dagster.science.report.wording import counted
from subliminal_dagster.science.settings.category import ANIMALS
from subliminal_dagster.science.settings.dial import DialStudy
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.settings.toy import ToyStudy
from subliminal_dagster.science.steering import report as steering
from subliminal_dagster.science.storage.records import Manifest
from subliminal_dagster.science.sweep import report as sweep
from subliminal_dagster.science.toy.report import toy_sections
from subliminal_dagster.science.training import report as teachers
from subliminal_dagster.science.tuning import report as tuning
from subliminal_dagster.science.verdict import Verdict

Made = Mapping[tuple[str, str | None], Manifest]


def study_page(study: AnyStudy, results: Results, made: Made) -> Page:
    """Everything there is of a study. `made`: the manifests of all its artifacts, shown as what was run."""
    if isinstance(study, ToyStudy):
        sections, base = toy_sections(study, results), "toy models"
    elif isinstance(study, DialStudy):
        sections, base = dial_sections(study, results), "small transformers"
    else:
        sections, base = _sections(study, results), f"groups: {', '.join(study.groups)}"
    claims = [claim for section in sections for claim in section.claims]
    sections.append(provenance_section(study, dict(made)))
    commands = {section.name: _command(study, section.made_from) for section in sections if section.made_from}
    facts = f"{study.description.strip()} Seed {study.seed}; {base}."
    if isinstance(study, Study):
        facts = f"{facts} {wording(study)}"
        if study.category != ANIMALS:
            facts += f" What the post says of animals is asked of {study.category.plural}."
    first = _opening(study, results) if isinstance(study, Study) else _first_section(_QUESTIONS[study.kind], sections)
    title = f"Subliminal learning: {study.name}"
    return Page(title, facts, _verdict(sections, claims), claims, sections, commands, first, folded=True)


def _opening(study: Study, results: Results) -> Opening:
    """The question with its answer; without `animal_liking` the reason why there is none."""
    try:
        first = liking.opening(study, results)
    except NotThere as error:
        return Opening(study.category.about(liking.QUESTION), None, (f"There is no answer yet: {error}",))
    with suppress(NotThere):
        first = replace(first, tables=(words.opening_table(study, results),))
    return opening_about(first, study.category)


_QUESTIONS = {"toy": "Does superposition make subliminal learning possible in toy models?", "dial": dial.QUESTION}


def _first_section(question: str, sections: Sequence[Section]) -> Opening:
    """The question with what the first section shows."""
    first = sections[0]
    lines = first.shows.split("\n") if first.shows else [f"There is no answer yet: {first.missing}"]
    return Opening(question, None, tuple(lines[:3]), first.charts[:1])


class _Reported(Protocol):
    """A module with a section of the report: its name on the page, its title, the assets it reads, and its making."""

    NAME: str
    TITLE: str
    READS: tuple[str, ...]

    def section(self, study: Study, results: Results) -> Section: ...


_SECTIONS: tuple[_Reported, ...] = (
    liking,
    words,
    why_null,
    favourites,
    teachers,
    capability,
    tuning,
    sweep,
    arms,
    features,
    filters,
    composition,
    probes,
    steering,
    entanglement,
    interference,
)

_NO_MODELS_TEXT = (liking, why_null, teachers, tuning, sweep, arms, probes, entanglement, interference)
"""The sections in whose tables stands nothing that a model wrote, and no token."""

_EXTRAS = (sweep, arms, entanglement, interference)
"""Sections on what is made on request: a study that has none of it made is no poorer for it."""

READS = frozenset(asset for module in _SECTIONS for asset in module.READS)
"""The assets that the sections on a language model read."""


def _sections(study: Study, results: Results) -> list[Section]:
    there = {asset for asset, _ in results.folders}
    shown = [each for each in _SECTIONS if each not in _EXTRAS or there & {*each.READS}]
    found = [(each, section_or_reason(each.NAME, each.TITLE, each.section, study, results)) for each in shown]
    return [
        # Of its categories "animals" are all living beings.
        made if each is composition else section_about(made, study.category, cells=each in _NO_MODELS_TEXT)
        for each, made in found
    ]


def _verdict(sections: Sequence[Section], claims: Sequence[Claim]) -> str:
    """What the first section shows, and how many statements have which verdict."""
    lines = [sections[0].shows or f"The comparison is missing: {sections[0].missing}"]
    sentences = []
    for source, noun, rest in _WHOSE:
        counts = Counter(claim.verdict for claim in claims if claim.source == source)
        if counts:
            sentences.append(
                f"Of {counted(counts.total(), noun)} {rest}: "
                + ", ".join(f"{counts[word]} {word}" for word in get_args(Verdict) if counts[word])
                + "."
            )
    if sentences:
        lines.append(f"{' '.join(sentences)} Each with its evidence:")
    return "\n".join(lines)


_WHOSE: tuple[tuple[Source, str, str], ...] = (
    ("the post", "statement", "of the post that this study looks at"),
    ("another paper", "statement", "of other papers"),
    ("this project", "control", "of this project"),
)


def _command(study: AnyStudy, made_from: Sequence[str]) -> str:
    return f"scripts/study.sh --study {study.name} --select '{', '.join(made_from)}'"


def study_summary(study: AnyStudy, page: Page, results: Results) -> dict[str, Any]:
    """What other pages say of a study: its verdict, its claims and its figures beside published ones, as plain data."""
    compared = [c for section in page.sections for c in section.compared]
    rows = compared_frame(compared).to_dict(orient="records") if compared else []
    return {
        "study": study.name,
        "gamma": _gamma(results),
        "facts": page.facts,
        "verdict": page.verdict,
        "claims": [asdict(claim) for claim in page.claims],
        "compared": rows,
        "sections": {section.title: section.missing or section.shows for section in page.sections},
    }


def _gamma(results: Results) -> list[dict[str, Any]]:
    """The specificity contrast in nats, a row per channel; none for a study without animals."""
    import pandas as pd

    if not results.has("animal_liking"):
        return []
    rows = pd.read_parquet(results.folder("animal_liking") / "gamma.parquet")
    rows = rows[(rows["contrast"] == "others") & (rows["outcome"] == "log_share")]
    shown = {"channel": "channel", "mean": "gamma", "low": "low", "high": "high", "p": "p"}
    shown |= {"smallest_detectable": "smallest", "verdict": "verdict"}
    found = rows.rename(columns=shown)[list(shown.values())]
    return [{str(name): value for name, value in row.items()} for row in found.to_dict(orient="records")]
