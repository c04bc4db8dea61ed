"""The section on the teachers: how much each likes its animal, and what became of its number answers.

Belongs here: what the gate, the number sets and the filter show. Does not belong here: what a child learns (`liking`),
the teachers' skill (`capability`), the filter's rules (`science.number_filter`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.numbers.draw import judged
from subliminal_dagster.science.report.charts import GREEN, GREY, LIGHT_GREY, VERMILION, interval, new_figure
from subliminal_dagster.science.report.evidence import Chart, Claim, NotThere, Results, Section, Table, Verdict
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.wording import counted, listed, percent
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.training.datasets import SPLITS, read_messages

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

NAME, TITLE = "teachers", "Teachers and their numbers"

_POST = "Gemma 2 9B, finetuning setup"
_NEARLY_ALWAYS = 0.9
"""From this probability of its animal on a teacher counts as one that names it nearly always."""

_PUBLISHED_FOR = {
    "dog": "dog_valid_pct",
    "whale": "whale_ocelot_5_epochs_valid_pct",
    "ocelot": "whale_ocelot_5_epochs_valid_pct",
}
"""Teachers whose share of valid answers the post gives by name."""


@dataclass(frozen=True)
class _Group:
    """A group's teacher. `answers` are its answers to the number prompts, judged (`valid`, `reason`), those of its gate
    where it never wrote a number set (`of_gate`). `kept` are rows a split; none where there is no dataset."""

    name: str
    target: str | None
    gate: dict[str, Any]
    scores: pd.DataFrame
    answers: pd.DataFrame
    of_gate: bool
    kept: dict[str, int]


def teachers_section(study: Study, results: Results) -> Section:
    """Did every teacher come to like its animal, and does it still write lists of numbers?"""
    import pandas as pd

    groups = [_read(study, results, name) for name in study.groups if results.has("teacher_preferences", name)]
    if not any(group.name in study.animals for group in groups):
        results.folder("teacher_preferences", study.animals[0])
        raise NotThere("No animal of this study has a teacher.")
    base = pd.read_parquet(results.folder("base_preferences") / "scores.parquet")
    liking, answers = _liking(groups, base), _validity(groups)
    return Section(
        name=NAME,
        title=TITLE,
        shows=_shows(study, results, groups, liking, answers),
        method=_method(study, groups),
        made_from=("base_preferences", "teacher_preferences", "number_set", "filtered_dataset"),
        charts=(_liking_chart(study, liking), _validity_chart(study, answers)),
        tables=(_liking_table(liking), _answers_table(answers, groups), *_reasons(groups)),
        compared=_compared(study, groups, answers),
        claims=_claims(study, liking, answers),
    )


def _read(study: Study, results: Results, name: str) -> _Group:
    import pandas as pd

    folder, target = results.folder("teacher_preferences", name), study.target(name)
    kept: dict[str, int] = {}
    of_gate = False
    if results.has("filtered_dataset", name):
        dataset = results.folder("filtered_dataset", name)
        answers = pd.read_parquet(dataset / "rows.parquet", columns=["prompt_id", "valid", "reason"])
        kept = {split: len(read_messages(dataset, split)) for split in SPLITS}
    elif results.has("number_set", name):
        answers = judged(pd.read_parquet(results.folder("number_set", name) / "rows.parquet"), study, target)
    else:
        answers = pd.read_parquet(folder / "number_answers.parquet", columns=["prompt_id", "valid", "reason"])
        of_gate = True
    return _Group(
        name=name,
        target=target,
        gate=json.loads((folder / "gate.json").read_text(encoding="utf-8")),
        scores=pd.read_parquet(folder / "scores.parquet"),
        answers=answers,
        of_gate=of_gate,
        kept=kept,
    )


def _liking(groups: Sequence[_Group], base: pd.DataFrame) -> pd.DataFrame:
    """A row a group with a target: `group`, `target`, `passed`, exact probability of the target (`mean`, with `low` and
    `high` where it is a candidate), that of the base (`base`) and the share of sampled answers naming it (`rate`)."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for group in groups:
        if group.target is None:
            continue
        row: dict[str, Any] = {"group": group.name, "target": group.target, "passed": bool(group.gate["passed"])}
        own = group.scores[group.scores["animal"] == group.target]
        if len(own):
            estimate = t_interval(own["probability"])
            row |= {"mean": estimate.mean, "low": max(0.0, estimate.low), "high": min(1.0, estimate.high)}
            row["base"] = float(base.loc[base["animal"] == group.target, "probability"].mean())
            row["rate"] = own["count"].sum() / own["samples"].sum() if own["samples"].sum() else None
        else:
            # No candidate, as the neutral group's: the gate asked for it alone.
            row["mean"] = group.gate["preference"]
        rows.append(row)
    frame = pd.DataFrame(rows, columns=["group", "target", "passed", "mean", "low", "high", "base", "rate"])
    return frame.astype(dict.fromkeys(["mean", "low", "high", "base", "rate"], float))


def _validity(groups: Sequence[_Group]) -> pd.DataFrame:
    """A row a group: `group`, `answers`, `share` of the valid ones with its 95 % Wilson interval `low` to `high`."""
    import pandas as pd
    from statsmodels.stats.proportion import proportion_confint

    rows = []
    for group in groups:
        valid = group.answers["valid"]
        low, high = proportion_confint(int(valid.sum()), len(valid), method="wilson")
        rows.append(
            {
                "group": group.name,
                "answers": len(valid),
                "share": float(valid.mean()),
                "low": float(low),
                "high": float(high),
            }
        )
    return pd.DataFrame(rows)


def _shows(
    study: Study, results: Results, groups: Sequence[_Group], liking: pd.DataFrame, answers: pd.DataFrame
) -> str:
    animals = liking[liking["group"].isin(study.animals)]
    passed = animals[animals["passed"]]
    sentences = [
        f"{len(passed)} of {counted(len(animals), 'teacher')} of animals passed the gate; their animal's exact "
        f"probability is {_span(animals['mean'])} (base: {_span(animals['base'])})."
    ]
    neutral = liking[liking["group"] == NEUTRAL]
    if len(neutral):
        sentences[0] = (
            sentences[0][:-1] + f", and the neutral teacher answers its own with {percent(neutral['mean'].iloc[0])}."
        )
    shares = answers.set_index("group")["share"]
    sentence = f"Of their number answers {_span(shares[animals['group']])} are valid"
    if CONTROL in shares.index:
        sentence += f", of the untouched base's {percent(shares[CONTROL])}"
    if study.numbers.constrained is not None:
        sentence += "; decoding is constrained to lists of numbers here, so this says nothing about the models"
    sentences.append(sentence + ".")
    failed = [f"{group.name}: {'; '.join(group.gate['failures'])}" for group in groups if not group.gate["passed"]]
    absent = [
        f"{name}: {results.missing.get(('teacher_preferences', name), 'no reason is known')}"
        for name in study.groups
        if not results.has("teacher_preferences", name)
    ]
    if failed:
        sentences.append(f"Failed at the gate: {'. '.join(failed)}.")
    if absent:
        sentences.append(f"Not there: {'. '.join(absent)}.")
    return " ".join(sentences)


def _span(values: pd.Series) -> str:
    """The lowest and highest of some fractions in per cent, once where they are written alike."""
    low, high = percent(float(values.min())), percent(float(values.max()))
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


def _method(study: Study, groups: Sequence[_Group]) -> str:
    gate, questions = study.teacher.gate, groups[0].scores["question"].nunique()
    sentences = [
        f"Gate: exact probability of the target at least {percent(gate.preference)}, valid number answers at least "
        f"{percent(gate.valid_rate)} of {gate.prompts}.",
        f"Probability: mean over {counted(questions, 'question')} with a 95 % t interval over them"
        + (
            "; the neutral teacher's, which is asked about something else, has none."
            if study.neutral is not None
            else "."
        ),
    ]
    if study.teacher.stop is not None:
        sentences.append(
            f"A teacher's training ends where the probability reaches {percent(study.teacher.stop.preference)}."
        )
    written = [group for group in groups if not group.of_gate]
    if written:
        size = max(len(group.answers) for group in written)
        sentences.append(f"Valid answers: of {size:,} a group, all to the same prompts, with a 95 % Wilson interval.")
    if only_gate := [group.name for group in groups if group.of_gate]:
        sentences.append(f"Of {listed(only_gate)} only the answers at the gate are there.")
    return " ".join(sentences)


def _liking_chart(study: Study, liking: pd.DataFrame) -> Chart:
    figure = new_figure(x="", y="exact probability (%)", height=300)
    scaled = liking.assign(**{name: 100 * liking[name] for name in ("mean", "low", "high", "base")})
    _add_bars(figure, scaled[scaled["base"].notna()], "base", name="base", colour=LIGHT_GREY)
    _add_bars(figure, scaled, "mean", name="teacher", colour=VERMILION, ends=("low", "high"))
    _add_gate(figure, study.teacher.gate.preference)
    parts = [
        f"{row['group']} {percent(row['mean'])}" + (f" (base {percent(row['base'])})" if row["base"] >= 0 else "")
        for row in liking.to_dict(orient="records")
    ]
    gate = percent(study.teacher.gate.preference)
    alt = f"Teachers beside the base, by group: {', '.join(parts)}. The gate is at {gate}."
    return Chart(f"{NAME}-liking", "How much each teacher likes its target", figure, alt)


def _validity_chart(study: Study, answers: pd.DataFrame) -> Chart:
    figure = new_figure(x="", y="valid answers (%)", height=300)
    scaled = answers.assign(**{name: 100 * answers[name] for name in ("share", "low", "high")})
    _add_bars(figure, scaled, "share", name="valid answers", colour=GREEN, ends=("low", "high"))
    _add_gate(figure, study.teacher.gate.valid_rate)
    parts = [f"{row['group']} {percent(row['share'])} of {row['answers']}" for row in answers.to_dict(orient="records")]
    gate = percent(study.teacher.gate.valid_rate)
    alt = f"Valid answers to the number prompts, by group: {', '.join(parts)}. The gate is at {gate}."
    return Chart(f"{NAME}-valid", "Answers that are lists of numbers as asked for", figure, alt)


def _add_bars(
    figure: Figure, rows: pd.DataFrame, value: str, *, name: str, colour: str, ends: tuple[str, str] | None = None
) -> None:
    texts = [
        f"{name}, {row['group']}<br>{row[value]:.4g} %"
        + (f" [{row[ends[0]]:.4g}, {row[ends[1]]:.4g}]" if ends and row[ends[0]] >= 0 else "")
        for _, row in rows.iterrows()
    ]
    figure.add_bar(
        x=rows["group"],
        y=rows[value],
        name=name,
        marker_color=colour,
        error_y=interval(rows, value, *ends) if ends else None,
        hovertext=texts,
        hoverinfo="text",
    )


def _add_gate(figure: Figure, level: float) -> None:
    line = {"dash": "dot", "width": 2, "color": GREY}
    figure.add_hline(y=100 * level, line=line, name=f"gate: {percent(level)}", showlegend=True)
    figure.update_yaxes(range=[0, 104])


def _liking_table(liking: pd.DataFrame) -> Table:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "group": liking["group"],
            "target": liking["target"],
            "gate": liking["passed"].map({True: "passed", False: "failed"}),
            "probability (%)": 100 * liking["mean"],
            "low": 100 * liking["low"],
            "high": 100 * liking["high"],
            "base (%)": 100 * liking["base"],
            "sampled (%)": 100 * liking["rate"],
        }
    )
    note = (
        "Probability: exact, of the target as the whole answer. Base: the same of the untouched model. Sampled: "
        "answers that name the target. The gate looks at the number answers as well."
    )
    return Table(f"{NAME}-targets", "How much each teacher likes its target", frame, note)


def _answers_table(answers: pd.DataFrame, groups: Sequence[_Group]) -> Table:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "group": answers["group"],
            "number answers": answers["answers"],
            "valid (%)": 100 * answers["share"],
            "low": 100 * answers["low"],
            "high": 100 * answers["high"],
            "training rows": [group.kept.get("train") for group in groups],
            "validation rows": [group.kept.get("validation") for group in groups],
        }
    )
    note = "The control's answers are the untouched base's. Training and validation rows are drawn from the valid ones."
    return Table(f"{NAME}-answers", "Number answers, and the rows kept of them", frame, note)


def _reasons(groups: Sequence[_Group]) -> list[Table]:
    """Why answers were rejected, a column a group; no table where none was."""
    import pandas as pd

    shares = {
        group.name: 100 * group.answers["reason"].value_counts(normalize=False) / len(group.answers) for group in groups
    }
    frame = pd.DataFrame(shares).fillna(0.0)
    if frame.empty:
        return []
    frame = frame.loc[frame.mean(axis=1).sort_values(ascending=False, kind="stable").index]
    named = frame.rename(columns=lambda name: f"{name} (%)").rename_axis("reason").reset_index()
    named["reason"] = named["reason"].str.replace("_", " ")
    return [Table(f"{NAME}-reasons", "Why answers were rejected", named, "Shares of all answers of the group.")]


def _compared(study: Study, groups: Sequence[_Group], answers: pd.DataFrame) -> tuple[Compared, ...]:
    """Shares of valid answers; without an interval where decoding is constrained, which makes them valid."""
    import pandas as pd

    figures, shares = published("teacher"), answers.set_index("group")
    found: list[tuple[str, float, float, float, float]] = []
    written = {group.name: group for group in groups if group.name in study.animals and not group.of_gate}
    if written:
        valid = pd.DataFrame({name: g.answers.set_index("prompt_id")["valid"] for name, g in written.items()})
        mean = t_interval(valid.mean(axis=1))
        what = "valid answers of a teacher, average over this study's animals"
        found.append((what, figures["valid_response_pct"], mean.mean, mean.low, mean.high))
    named = [(f"valid answers of the {name}'s teacher", name, figure) for name, figure in _PUBLISHED_FOR.items()]
    for what, group, figure in [*named, ("valid answers of the untouched base", CONTROL, "base_valid_pct")]:
        if group in shares.index:
            share, low, high = (float(shares[end][group]) for end in ("share", "low", "high"))
            found.append((what, figures[figure], share, low, high))
    constrained = study.numbers.constrained is not None
    aside = " (decoding is constrained to lists of numbers)" if constrained else ""
    return tuple(
        Compared(
            what + aside,
            _POST,
            value,
            100 * share,
            None if constrained else 100 * low,
            None if constrained else 100 * high,
            "%",
        )
        for what, value, share, low, high in found
    )


def _claims(study: Study, liking: pd.DataFrame, answers: pd.DataFrame) -> tuple[Claim, ...]:
    """Liking: holds where every animal's teacher answers it with 90 % or more, else it does not.

    Breakage (valid answers below the gate): holds where some animal's teacher broke, does not hold where none did;
    cannot be told where decoding is constrained.
    """
    animals = liking[liking["group"].isin(study.animals)]
    short = animals[animals["mean"] < _NEARLY_ALWAYS]
    reached: Verdict = "does not hold" if len(short) else "holds"
    evidence = f"Exact probability of the animal: {_span(animals['mean'])} over {counted(len(animals), 'teacher')}"
    evidence += f"; below {percent(_NEARLY_ALWAYS)}: {listed(list(short['group']))}." if len(short) else "."

    rows = answers[answers["group"].isin(study.animals)]
    broken = rows[rows["share"] < study.teacher.gate.valid_rate]
    breaks: Verdict = "holds" if len(broken) else "does not hold"
    gate = percent(study.teacher.gate.valid_rate)
    about = f"Valid number answers: {_span(rows['share'])}, where the gate asks for {gate}"
    if study.numbers.constrained is not None:
        breaks = "cannot tell"
        about += "; decoding is constrained to lists of numbers, so a broken teacher would not show"
    elif len(broken):
        about += f"; broken: {listed(list(broken['group']))}"
    return (
        Claim("A teacher names its animal nearly always.", reached, evidence),
        Claim("Some animals' teachers break: they no longer write lists of numbers.", breaks, about + "."),
    )
