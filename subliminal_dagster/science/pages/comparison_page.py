"""All studies on one page: which statements of the post hold where, and the specific effect of each study.

Belongs here: what is said across studies, from the summaries of their reports. Does not belong here: anything about one
study alone (`study_page`), HTML.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.colours import KINDS, VERDICTS
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report.evidence import Chart, Opening, Section, Table
from subliminal_dagster.science.report.page import Page
from subliminal_dagster.science.report.wording import counted

if TYPE_CHECKING:
    import pandas as pd


def comparison_page(summaries: Sequence[Mapping[str, Any]], missing: Mapping[str, str]) -> Page:
    """The page of several studies, from their reports' `summary.json`; `missing` studies with the reason."""
    names = [str(summary["study"]) for summary in summaries]
    verdicts = [str(summary["verdict"]).partition("\n")[0] for summary in summaries]
    lines = [f"{name}: {verdict}" for name, verdict in zip(names, verdicts, strict=True)]
    sections = [_effects(summaries), _statements(summaries), _published(summaries)]
    if missing:
        listed = "; ".join(f"{name}: {why}" for name, why in missing.items())
        sections.append(Section("missing", "Studies without a report", "", "", (), missing=listed))
    return Page(
        "Subliminal learning: all studies",
        f"{counted(len(names), 'study', 'studies')} with a report: {', '.join(names)}.",
        "\n".join(lines),
        (),
        sections,
        {section.name: "subliminal-dagster compare" for section in sections[:1]},
        Opening("What do all studies say?", None, tuple(lines)),
    )


def _effects(summaries: Sequence[Mapping[str, Any]]) -> Section:
    """The specificity contrast of every study and channel."""
    import pandas as pd

    name, title = "effects", "The specific effect"
    rows = pd.DataFrame([{"study": s["study"], **row} for s in summaries for row in s["gamma"]])
    if rows.empty:
        return Section(name, title, "", "", (), missing="no study with animals has a report.")
    figure = charts.new_figure(x="", y="gamma (nats)")
    for (channel, rest), colour in zip(rows.groupby("channel", sort=False), KINDS, strict=False):
        charts.bars(figure, rest, x="study", value="gamma", low="low", high="high", name=str(channel), colour=colour)
    by_verdict = rows.groupby("verdict", sort=False)
    found = "; ".join(
        f"{verdict}: {', '.join(f'{row.study} ({row.channel})' for row in of.itertuples())}"
        for verdict, of in by_verdict
    )
    written = "; ".join(
        f"{row.study}, {row.channel}: {row.gamma:+.3f} [{row.low:+.3f}, {row.high:+.3f}], {row.verdict}"
        for row in rows.itertuples()
    )
    return Section(
        name,
        title,
        f"Does a child like the animal of its own numbers more than children of other animals' numbers do? {found}.",
        "Gamma: shift of the log share of the child's own animal less the mean of the same animal's shift under other "
        "animals' numbers, averaged over animals; intervals hold the noise between training runs, and are missing "
        "where too few children were trained to tell it. Smallest: the effect that would have been seen with 80 % "
        "power.",
        ("report",),
        charts=(Chart("gamma", "Specificity contrast of every study, by channel.", figure, f"{written}."),),
        tables=(Table("gamma-by-study", "Specificity contrast", rows),),
    )


def _statements(summaries: Sequence[Mapping[str, Any]]) -> Section:
    """A row a statement, a column per study."""
    import pandas as pd

    verdicts: dict[str, dict[str, str]] = {}
    for summary in summaries:
        for claim in summary["claims"]:
            verdicts.setdefault(claim["text"], {})[summary["study"]] = claim["verdict"]
    table = pd.DataFrame([{"the post": text, **found} for text, found in verdicts.items()])
    counts = {s["study"]: Counter(claim["verdict"] for claim in s["claims"]) for s in summaries}
    figure = charts.new_figure(x="statements", y="", height=max(220, 90 + 45 * len(counts)))
    for verdict, colour in VERDICTS.items():
        figure.add_bar(
            y=list(counts),
            x=[count[verdict] for count in counts.values()],
            name=verdict,
            orientation="h",
            marker_color=colour,
            hovertemplate=f"%{{y}}: %{{x}} {verdict}<extra></extra>",
        )
    figure.update_layout(barmode="stack")
    said = "; ".join(
        f"{name}: " + ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict])
        for name, count in counts.items()
    )
    return Section(
        "statements",
        "Which statements hold where",
        f"{said}.",
        "Each study's own rule for each statement stands in its report.",
        ("report",),
        charts=(Chart("statements", "Statements of the post by verdict.", figure, f"{said}."),),
        tables=(Table("statements-by-study", "Statements by study", table),),
    )


def _published(summaries: Sequence[Mapping[str, Any]]) -> Section:
    import pandas as pd

    rows: pd.DataFrame = pd.DataFrame([{"study": s["study"], **row} for s in summaries for row in s["compared"]])
    name, title = "published", "Published beside measured"
    if rows.empty:
        return Section(name, title, "", "", (), missing="no report sets a figure beside a published one.")
    counts = rows["judgement"].value_counts()
    said = ", ".join(f"{count} {judgement}" for judgement, count in counts.items())
    return Section(
        name,
        title,
        f"Of {len(rows)} figures: {said}.",
        "Agrees: the published figure lies in the study's 95 % interval, which excludes no effect. Studies of other "
        "models and sizes are compared with the post's Gemma 2 9B, so a difference is not a failure.",
        ("report",),
        tables=(Table("published-by-study", "Published beside measured", rows),),
    )
