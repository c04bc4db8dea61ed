"""An audit as a page, and as lines for a terminal.

Belongs here: what is said of the tables. Does not belong here: the tables (`audit`), HTML (`report.page`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subliminal_dagster.science.audit.audit import Audit
from subliminal_dagster.science.audit.combined import STANDS_OUT, judged
from subliminal_dagster.science.audit.data import ChatData
from subliminal_dagster.science.colours import MEASURED
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report.evidence import Chart, Opening, Section, Table
from subliminal_dagster.science.report.page import Page
from subliminal_dagster.science.report.tables import columns, records
from subliminal_dagster.science.report.wording import counted, listed, p_value

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "Which preference would this data set pass on?"
_ROWS_SHOWN = 10


def answer(found: Audit) -> str:
    """The audit in one sentence, or two."""
    out = found.combined[found.combined["verdict"] == STANDS_OUT]
    if len(out):
        named = listed([f"{row['candidate']} ({p_value(row['p_adjusted'])})" for row in records(out)])
        verb = "stands" if len(out) == 1 else "stand"
        return f"{named} {verb} out among {len(found.combined)} candidates, all of them counted."
    first = records(found.combined)[0]
    return (
        f"No candidate stands out among {len(found.combined)}: the first is {first['candidate']} "
        f"({p_value(first['p_adjusted'])}, all of them counted). That does not show that there is no hidden preference."
    )


def how_good() -> str:
    """What the benchmark says of such an answer."""
    return str(judged()["in_words"]).strip()


def markdown(title: str, found: Audit) -> str:
    """For a terminal."""
    lines = [title, "", answer(found), how_good(), ""]
    wide = _by_detector(found)
    lines += [f"{'candidate':14}{'p, adjusted':>12}  rank by detector"]
    for row in records(found.combined):
        ranks = ", ".join(f"{name} {int(rank)}" for name, rank in wide.loc[row["candidate"]].items())
        lines.append(f"{row['candidate']:14}{row['p_adjusted']:12.3f}  {ranks}")
    lines += ["", *(f"{'! ' if row['noted'] else '  '}{row['measured']}" for row in records(found.surface)), ""]
    return "\n".join(lines)


def audit_page(title: str, found: Audit, data: ChatData) -> Page:
    """The page of an audit."""
    facts = records(found.facts)[0]
    looked = counted(len(data.chats), "row")
    of_all = f"{looked} drawn of {data.total:,}" if data.sampled else f"all {looked}"
    sections = [_candidates(found), _rows(found, data), _surface(found), _judged()]
    return Page(
        f"Audit: {title}",
        f"{of_all}; {facts['passes']:,} forward passes, {facts['seconds']:.0f} s.",
        how_good(),
        (),
        sections,
        {},
        Opening(QUESTION, None, (answer(found), how_good()), sections[0].charts),
    )


def _candidates(found: Audit) -> Section:
    figure = charts.new_figure(x="", y="t among the candidates")
    figure.add_bar(
        x=found.combined["candidate"], y=found.combined["t"], name="all together", marker={"color": MEASURED}
    )
    wide = _by_detector(found).reset_index()
    said = "; ".join(f"{row['candidate']} t {row['t']:+.1f}" for row in records(found.combined)[:3])
    each_detector = found.candidates.drop(columns="rank").rename(columns={"p_adjusted": "p, adjusted"})
    shown = {
        "candidate": "candidate",
        "t": "t",
        "p": "p",
        "p, adjusted": "p_adjusted",
        "verdict": "verdict",
    }
    return Section(
        "candidates",
        "Candidates",
        f"Those that stand out most: {said}.",
        "A candidate's score by each detector is compared with the other candidates' (t, one-sided p); the combined "
        "one is the mean of the detectors' t, weighted as the benchmark found; p is adjusted over the candidates "
        "(Holm).",
        (),
        charts=(Chart("candidates", "How far each candidate stands out, all detectors together.", figure, said),),
        tables=(
            Table("combined", "All detectors together", columns(found.combined, shown)),
            Table("ranks", "Rank by detector", wide, "1: stands out most."),
            Table("detectors", "Every detector", each_detector),
        ),
    )


def _by_detector(found: Audit) -> pd.DataFrame:
    wide = found.candidates.pivot(index="candidate", columns="detector", values="rank")
    return wide.loc[found.combined["candidate"]]


def _rows(found: Audit, data: ChatData) -> Section:
    texts = {chat.row + 1: (chat.before[-1]["content"], chat.answer) for chat in data.chats}
    shown = found.leads.groupby("detector", sort=False).head(_ROWS_SHOWN)
    rows = shown.assign(
        prompt=[texts[int(row)][0] for row in shown["row"]], answer=[texts[int(row)][1] for row in shown["row"]]
    )
    first = found.combined["candidate"].iloc[0]
    return Section(
        "rows",
        "Rows that carry most",
        f"For {first}, by each detector that looks at single rows.",
        "lead: the row's score for the candidate less the mean over the others, in the detector's unit.",
        (),
        tables=(Table("rows", "Rows", rows),),
    )


def _surface(found: Audit) -> Section:
    said = [row["measured"] for row in records(found.surface) if row["noted"]]
    return Section(
        "surface",
        "On the surface",
        " ".join(said) or "Nothing that a reader would have to look at.",
        "Counted over the rows; nothing here could show what is hidden.",
        (),
        tables=(Table("surface", "What was looked for", found.surface),),
    )


def _judged() -> Section:
    import pandas as pd

    rows = [{"detector": name, **each} for name, each in judged()["detectors"].items()]
    return Section(
        "judged",
        "How far to believe this",
        how_good(),
        str(judged()["judged_on"]).strip(),
        (),
        tables=(Table("judged", "Each detector on data sets whose hidden preference is known", pd.DataFrame(rows)),),
    )
