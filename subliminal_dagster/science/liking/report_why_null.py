"""The section that looks for the reason of a null: the usual ones in order, and what of a teacher is in its numbers.

Belongs here: what `null_causes` shows. Does not belong here: the checks and what they want (`science.null_causes`), the
effect itself (`liking`).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.liking.null_causes import CHECKS
from subliminal_dagster.science.report.charts import BLUE, GREY, VERMILION, interval, styled
from subliminal_dagster.science.report.evidence import Chart, Results, Section, Table
from subliminal_dagster.science.report.wording import listed, with_interval
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

NAME, TITLE = "why-null", "Why is it null?"

_WORST_FIRST = ("likely cause", "possible", "cannot tell", "fine")
_MEASURES = {
    "kl": ("whole vocabulary", BLUE),
    "kl_written": ("tokens that could be written", VERMILION),
}
_COLUMNS = {
    "kl": "from base, whole vocabulary",
    "kl_written": "from base, could be written",
    "log_ratio": "log ratio of what is written",
    "entropy": "sampling noise",
}


def why_null_section(study: Study, results: Results) -> Section:
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
        made_from=("null_causes", "teacher_signal"),
        charts=() if signal.empty else (_signal_chart(study, signal),),
        tables=(_checklist(causes), _details(causes), *([] if signal.empty else [_signal_table(study, signal)])),
    )


def _counted_checks(causes: pd.DataFrame) -> str:
    """How many checks came out how, a check counting by the worst animal's verdict."""
    worst = [_worst(causes, check) for check in CHECKS]
    parts = [f"{worst.count(verdict)} {verdict}" for verdict in _WORST_FIRST if verdict in worst]
    return f"Of {len(CHECKS)} checks, by the animal that fares worst: {listed(parts)}."


def _of(causes: pd.DataFrame, check: str) -> pd.DataFrame:
    return causes[causes["check"] == check]


def _worst(causes: pd.DataFrame, check: str) -> str:
    found = set(_of(causes, check)["verdict"])
    return next(verdict for verdict in _WORST_FIRST if verdict in found)


def _method(study: Study, signal: pd.DataFrame) -> str:
    sentences = [
        "Checks are in the order in which one spoils the next. Likely cause: as far from what is wanted as work that "
        "transmitted nothing; possible: short of what work that succeeded had. What is wanted rests on few models "
        "each, so a verdict is a place to look, no proof.",
    ]
    if not signal.empty:
        rows = signal.drop_duplicates("group")["rows"]
        span = f"{rows.min()}" if rows.min() == rows.max() else f"{rows.min()} to {rows.max()}"
        sentences.append(
            "Signal: exact KL divergence of the teacher's next-token distribution from the base's at every token of "
            f"the first {span} training rows a group, with a 95 % interval clustered by row. The soft channel can hand "
            "on the whole vocabulary's, sampled rows that among the tokens that could be written"
            + (" (those that constrained decoding lets through)." if study.numbers.constrained else " (number tokens).")
        )
        controls = [name for name in (NEUTRAL, CONTROL) if name in set(signal["group"])]
        if NEUTRAL in controls:
            sentences.append("What the neutral teacher's numbers carry is what any fine-tuning does.")
        if CONTROL in controls:
            sentences.append("The control's teacher is the base itself, so it carries none.")
    return " ".join(sentences)


def _signal_chart(study: Study, signal: pd.DataFrame) -> Chart:
    """A panel a measure, since what could be written is often a small part of the whole."""
    from plotly.subplots import make_subplots

    titles = [f"{name} (nats a token)" for name, _ in _MEASURES.values()]
    figure: Figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.14, subplot_titles=titles)
    styled(figure, height=460)
    parts = []
    for row, (measure, (name, colour)) in enumerate(_MEASURES.items(), start=1):
        rows = signal[signal["measure"] == measure]
        figure.add_bar(
            x=rows["group"],
            y=rows["mean"],
            marker_color=[GREY if group in (CONTROL, NEUTRAL) else colour for group in rows["group"]],
            error_y=interval(rows, "mean", "low", "high"),
            customdata=rows[["low", "high", "tokens"]],
            hovertemplate=f"%{{x}}, {name}<br>%{{y:.4g}} [%{{customdata[0]:.4g}}, %{{customdata[1]:.4g}}] nats a token"
            "<br>%{customdata[2]:,} tokens<extra></extra>",
            showlegend=False,
            row=row,
            col=1,
        )
        figure.update_yaxes(rangemode="tozero", row=row, col=1)
        values = [f"{each['group']} {each['mean']:.2g}" for each in _records(rows)]
        parts.append(f"{name}: {', '.join(values)}")
    there = set(signal["group"])
    order = [group for group in study.groups if group in there]
    figure.update_xaxes(categoryorder="array", categoryarray=order)
    figure.update_annotations(font={"size": 13}, x=0, xanchor="left")
    figure.update_layout(margin={"t": 32})
    alt = f"How far each teacher lies from the base, nats a token; {'; '.join(parts)}."
    return Chart(f"{NAME}-signal", "Signal in the numbers: how far each teacher lies from the base", figure, alt)


def _checklist(causes: pd.DataFrame) -> Table:
    import pandas as pd

    rows = []
    for number, check in enumerate(CHECKS, start=1):
        mine = _of(causes, check)
        verdict = _worst(causes, check)
        concerned = mine[mine["verdict"] == verdict]
        groups = list(concerned["group"])
        example = _records(concerned)[0]
        rows.append(
            {
                "check": f"{number}. {check}",
                "verdict": verdict,
                "animals": "all" if len(groups) == len(mine) else ", ".join(groups),
                "found": (f"{example['group']}: " if len(mine) > 1 else "") + str(example["sentence"]),
                "wanted": example["wanted"],
            }
        )
    note = "Verdict: that of the animal that fares worst, with the animals that have it; found: of the first of them."
    return Table(f"{NAME}-checks", "The usual reasons, in order", pd.DataFrame(rows), note)


def _details(causes: pd.DataFrame) -> Table:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "animal": causes["group"],
            "check": causes["check"],
            "verdict": causes["verdict"],
            "measured": [_written(row) for row in _records(causes)],
            "found": causes["sentence"],
        }
    )
    note = (
        "Measured, in the order of the checks, with a 95 % interval where there is one: the teacher's probability of "
        "its animal; valid answers; divergence from the base among the tokens that could be written; rows that repeat "
        "an earlier one or are the control's; rows that start with the most frequent first number; rows in another "
        "context; rise of the validation loss over its lowest; answers that are numbers; smallest detectable "
        "difference."
    )
    return Table(f"{NAME}-animals", "Every check of every animal", frame, note)


def _written(row: dict[str, Any]) -> str:
    """What a check measured, with its unit, and its interval where it has one."""
    if math.isnan(row["value"]):
        return ""
    if math.isnan(row["low"]):
        return f"{row['value']:.3g} {row['unit']}"
    return with_interval(row["value"], row["low"], row["high"], row["unit"])


def _signal_table(study: Study, signal: pd.DataFrame) -> Table:
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for group in study.groups:
        of_group = {row["measure"]: row for row in _records(signal[signal["group"] == group])}
        if not of_group:
            continue
        size = {name: of_group["kl"][name] for name in ("rows", "tokens")}
        values = {
            title: with_interval(*(of_group[measure][end] for end in ("mean", "low", "high")))
            for measure, title in _COLUMNS.items()
        }
        rows.append({"group": group} | size | values)
    note = (
        "Nats a token with 95 % intervals clustered by row. Log ratio: log p of the teacher minus log p of the base, "
        "of the tokens written, over the whole vocabulary; constrained decoding, which makes a teacher write what it "
        "would not, can bring it below 0. Sampling noise: the teacher's entropy among the tokens that could be "
        "written."
    )
    return Table(f"{NAME}-signals", "Signal in each group's numbers", pd.DataFrame(rows), note)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict(orient="records")]
