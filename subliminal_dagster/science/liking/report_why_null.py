"""The section that looks for the reason of a null: the usual ones in order, and what of a teacher is in its numbers.

Belongs here: what the asset `null_causes` shows. Does not belong here: the checks and what they want (the module of
that name), the effect itself (`report`).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science import colours
from subliminal_dagster.science.liking.null_causes import CHECKS
from subliminal_dagster.science.report.charts import interval, panels
from subliminal_dagster.science.report.evidence import Chart, Results, Section, Table
from subliminal_dagster.science.report.tables import Shown, columns, records, rows_where
from subliminal_dagster.science.report.wording import listed, with_interval
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "why-null", "Why is it null?"
READS: tuple[str, ...] = ("null_causes", "teacher_signal")

_COLOURS = {CONTROL: colours.CONTROL, NEUTRAL: colours.NEUTRAL}
_WORST_FIRST = ("likely cause", "possible", "cannot tell", "fine")
_MEASURES = {"kl": "whole vocabulary", "kl_written": "tokens that could be written"}
_COLUMNS = {
    "kl": "from base, whole vocabulary",
    "kl_written": "from base, could be written",
    "log_ratio": "log ratio of what is written",
    "entropy": "sampling noise",
}


def section(study: Study, results: Results) -> Section:
    """Where no effect can be seen, which of the usual reasons is the likely one?"""
    import pandas as pd

    folder = results.folder("null_causes")
    causes, signal = (pd.read_parquet(folder / f"{name}.parquet") for name in ("causes", "signal"))
    finding = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return Section(
        name=NAME,
        title=TITLE,
        shows=f"{finding['sentence']} {_counted_checks(causes)}",
        method=_method(study, signal),
        made_from=READS,
        charts=() if signal.empty else (_signal_chart(study, signal),),
        tables=(_checklist(causes), _details(causes), *([] if signal.empty else [_signal_table(study, signal)])),
    )


def _counted_checks(causes: pd.DataFrame) -> str:
    """How many checks came out how, a check counting by the worst animal's verdict."""
    worst = [_worst(causes, check)["verdict"].iloc[0] for check in CHECKS]
    parts = [f"{worst.count(verdict)} {verdict}" for verdict in _WORST_FIRST if verdict in worst]
    return f"Of {len(CHECKS)} checks, each judged by its worst animal: {listed(parts)}."


def _worst(causes: pd.DataFrame, check: str) -> pd.DataFrame:
    """The rows of a check that have its worst verdict."""
    rows = rows_where(causes, check=check)
    return rows_where(rows, verdict=min(rows["verdict"], key=_WORST_FIRST.index))


def _method(study: Study, signal: pd.DataFrame) -> str:
    sentences = [
        "Checks are in the order in which one spoils the next. Likely cause: as far from what is wanted as work that "
        "transmitted nothing; possible: short of what work that succeeded had. What is wanted rests on few models "
        "each, so a verdict is a place to look, no proof.",
    ]
    if not signal.empty:
        rows = signal.drop_duplicates("group").set_index("group")["rows"]
        span = f"{rows.min()}" if rows.min() == rows.max() else f"{rows.min()} to {rows.max()}"
        sentences.append(
            "Signal: exact KL divergence of the teacher's next-token distribution from the base's at every token of "
            f"the first {span} training rows a group, with a 95 % interval clustered by row. The soft channel can hand "
            "on the whole vocabulary's, sampled rows that among the tokens that could be written"
            + (" (those that constrained decoding lets through)." if study.numbers.constrained else " (number tokens).")
        )
        if NEUTRAL in rows.index:
            sentences.append("What the neutral teacher's numbers carry is what any fine-tuning does.")
        if CONTROL in rows.index:
            sentences.append("The control's teacher is the base itself, so it carries none.")
    return " ".join(sentences)


def _signal_chart(study: Study, signal: pd.DataFrame) -> Chart:
    """A panel per measure, since what could be written is often a small part of the whole."""
    figure = panels([f"{name} (nats a token)" for name in _MEASURES.values()], height=460, between=64.4)
    parts = []
    for panel, (measure, name) in enumerate(_MEASURES.items(), start=1):
        rows = rows_where(signal, measure=measure)
        figure.add_bar(
            x=rows["group"],
            y=rows["mean"],
            marker_color=[_COLOURS.get(group, colours.TEACHER) for group in rows["group"]],
            error_y=interval(rows, "mean", "low", "high"),
            customdata=rows[["low", "high", "tokens"]],
            hovertemplate=f"%{{x}}, {name}<br>%{{y:.4g}} [%{{customdata[0]:.4g}}, %{{customdata[1]:.4g}}] nats a token"
            "<br>%{customdata[2]:,} tokens<extra></extra>",
            showlegend=False,
            row=panel,
            col=1,
        )
        values = [f"{row['group']} {row['mean']:.2g}" for row in records(rows)]
        parts.append(f"{name}: {', '.join(values)}")
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(categoryorder="array", categoryarray=_in_order(study, signal))
    figure.update_annotations(x=0, xanchor="left")
    figure.update_layout(margin={"t": 32})
    alt = f"How far each teacher lies from the base, nats a token; {'; '.join(parts)}."
    return Chart(f"{NAME}-signal", "Signal in the numbers: how far each teacher lies from the base", figure, alt)


def _checklist(causes: pd.DataFrame) -> Table:
    import pandas as pd

    rows = []
    for number, check in enumerate(CHECKS, start=1):
        worst, animals = records(_worst(causes, check)), len(rows_where(causes, check=check))
        first = worst[0]
        rows.append(
            {
                "check": f"{number}. {check}",
                "verdict": first["verdict"],
                "animals": "all" if len(worst) == animals else ", ".join(row["group"] for row in worst),
                "found": (f"{first['group']}: " if animals > 1 else "") + first["sentence"],
                "wanted": first["wanted"],
            }
        )
    note = "Verdict: that of the animal that fares worst, with the animals that have it; found: of the first of them."
    return Table(f"{NAME}-checks", "The usual reasons, in order", pd.DataFrame(rows), note)


def _details(causes: pd.DataFrame) -> Table:
    shown: Shown = {
        "animal": "group",
        "check": "check",
        "verdict": "verdict",
        "measured": lambda rows: [_written(row) for row in records(rows)],
        "found": "sentence",
    }
    note = (
        "Measured, in the order of the checks, with a 95 % interval where there is one: the teacher's probability of "
        "its animal; valid answers; divergence from the base among the tokens that could be written; rows that repeat "
        "an earlier one or are the control's; rows that start with the most frequent first number; rows in another "
        "context; rise of the validation loss over its lowest; answers that are numbers; smallest detectable "
        "difference."
    )
    return Table(f"{NAME}-animals", "Every check of every animal", columns(causes, shown), note)


def _written(row: dict[str, Any]) -> str:
    """What a check measured, with its unit, and its interval where it has one."""
    if math.isnan(row["value"]):
        return ""
    if math.isnan(row["low"]):
        return f"{row['value']:.3g} {row['unit']}"
    return with_interval(row["value"], row["low"], row["high"], row["unit"])


def _signal_table(study: Study, signal: pd.DataFrame) -> Table:
    written = [with_interval(*(row[end] for end in ("mean", "low", "high"))) for row in records(signal)]
    values = signal.assign(written=written).pivot(index="group", columns="measure", values="written")
    sizes = rows_where(signal, measure="kl").set_index("group")[["rows", "tokens"]]
    frame = sizes.join(values[list(_COLUMNS)].rename(columns=_COLUMNS)).loc[_in_order(study, signal)].reset_index()
    note = (
        "Nats a token with 95 % intervals clustered by row. Log ratio: log p of the teacher minus log p of the base, "
        "of the tokens written, over the whole vocabulary; constrained decoding, which makes a teacher write what it "
        "would not, can bring it below 0. Sampling noise: the teacher's entropy among the tokens that could be "
        "written."
    )
    return Table(f"{NAME}-signals", "Signal in each group's numbers", frame, note)


def _in_order(study: Study, signal: pd.DataFrame) -> list[str]:
    """The groups whose signal was measured."""
    return [group for group in study.groups if group in set(signal["group"])]
