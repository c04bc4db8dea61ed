"""The section on the teachers: how much each likes its animal, and what became of its number answers.

Belongs here: what the gate, the number sets and the filter show. Does not belong here: what a child learns (`liking`),
the teachers' skill (`capability`), the filter's rules (`numbers.filter`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.colours import BASE, GUIDE, MEASURED, TEACHER
from subliminal_dagster.science.numbers.draw import judged
from subliminal_dagster.science.report.charts import interval, new_figure
from subliminal_dagster.science.report.evidence import Chart, Claim, NotThere, Results, Section, Statement, Table
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import Shown, columns, records, rows_where
from subliminal_dagster.science.report.wording import counted, listed, percent
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.training.datasets import SPLITS, read_messages
from subliminal_dagster.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

NAME, TITLE = "teachers", "Teachers and their numbers"
READS: tuple[str, ...] = ("base_preferences", "teacher_preferences", "number_set", "filtered_dataset")

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


def section(study: Study, results: Results) -> Section:
    """Did every teacher come to like its animal, and does it still write lists of numbers?"""
    import pandas as pd

    groups = [
        _read(study, results, name) for name in study.groups if results.has(*results.of("teacher_preferences", name))
    ]
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
        made_from=READS,
        charts=(_liking_chart(study, liking), _validity_chart(study, answers)),
        tables=(_liking_table(liking), _answers_table(answers, groups), *_reasons(groups)),
        compared=_compared(study, groups, answers),
        claims=_claims(study, liking, answers),
    )


def _read(study: Study, results: Results, name: str) -> _Group:
    import pandas as pd

    folder, kept = results.folder(*results.of("teacher_preferences", name)), {}
    columns_of_answers = ["prompt_id", "valid", "reason"]
    if results.has(*results.of("filtered_dataset", name)):
        dataset = results.folder(*results.of("filtered_dataset", name))
        answers = pd.read_parquet(dataset / "rows.parquet", columns=columns_of_answers)
        kept = {split: len(read_messages(dataset, split)) for split in SPLITS}
    elif results.has(*results.of("number_set", name)):
        written = pd.read_parquet(results.folder(*results.of("number_set", name)) / "rows.parquet")
        answers = judged(written, study, study.target(name))
    else:
        answers = pd.read_parquet(folder / "number_answers.parquet", columns=columns_of_answers)
    return _Group(
        name=name,
        target=study.target(name),
        gate=json.loads((folder / "gate.json").read_text(encoding="utf-8")),
        scores=pd.read_parquet(folder / "scores.parquet"),
        answers=answers,
        of_gate=not (
            results.has(*results.of("filtered_dataset", name)) or results.has(*results.of("number_set", name))
        ),
        kept=kept,
    )


def _liking(groups: Sequence[_Group], base: pd.DataFrame) -> pd.DataFrame:
    """A row per group with a target: `group`, `target`, `passed`, exact probability of the target (`mean`, with `low`
    and `high` where it is a candidate), that of the base (`base`) and the share of sampled answers naming it
    (`rate`)."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for group in groups:
        if group.target is None:
            continue
        row: dict[str, Any] = {"group": group.name, "target": group.target, "passed": bool(group.gate["passed"])}
        own = rows_where(group.scores, animal=group.target)
        if len(own):
            estimate = t_interval(own["probability"])
            row |= {"mean": estimate.mean, "low": max(0.0, estimate.low), "high": min(1.0, estimate.high)}
            row["base"] = float(rows_where(base, animal=group.target)["probability"].mean())
            row["rate"] = own["count"].sum() / own["samples"].sum() if own["samples"].sum() else None
        else:
            # No candidate, as the neutral group's: the gate asked for it alone.
            row["mean"] = group.gate["preference"]
        rows.append(row)
    frame = pd.DataFrame(rows, columns=["group", "target", "passed", "mean", "low", "high", "base", "rate"])
    return frame.astype(dict.fromkeys(["mean", "low", "high", "base", "rate"], float))


def _validity(groups: Sequence[_Group]) -> pd.DataFrame:
    """A row per group: `group`, `answers`, `share` of the valid ones with its 95 % Wilson interval `low` to `high`."""
    import pandas as pd

    rows = []
    for group in groups:
        valid = group.answers["valid"]
        rows.append((group.name, len(valid), float(valid.mean()), *_wilson(int(valid.sum()), len(valid))))
    return pd.DataFrame(rows, columns=["group", "answers", "share", "low", "high"])


def _shows(
    study: Study, results: Results, groups: Sequence[_Group], liking: pd.DataFrame, answers: pd.DataFrame
) -> str:
    animals = liking[liking["group"].isin(study.animals)]
    passed = animals[animals["passed"]]
    sentence = (
        f"{len(passed)} of {counted(len(animals), 'teacher')} of animals passed the gate; their animal's exact "
        f"probability is {_span(animals['mean'])} (base: {_span(animals['base'])})"
    )
    for of_neutral in rows_where(liking, group=NEUTRAL)["mean"]:
        sentence += f", and the neutral teacher answers its own with {percent(of_neutral)}"
    sentences = [sentence + "."]
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
        if not results.has(*results.of("teacher_preferences", name))
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
        f"{percent(study.valid_rate_wanted)} of {gate.prompts}.",
        f"Probability: mean over {counted(questions, 'question')} with a 95 % t interval over them"
        + ("; the neutral teacher's, which is asked about something else, has none." if study.neutral else "."),
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
    gate = study.teacher.gate.preference
    figure = new_figure(x="", y="exact probability (%)", height=300)
    _add_bars(figure, liking[liking["base"].notna()], "base", name="base", colour=BASE, ends=False)
    _add_bars(figure, liking, "mean", name="teacher", colour=TEACHER)
    _add_gate(figure, gate)
    parts = [
        f"{row['group']} {percent(row['mean'])}" + (f" (base {percent(row['base'])})" if row["base"] >= 0 else "")
        for row in records(liking)
    ]
    alt = f"Teachers beside the base, by group: {', '.join(parts)}. The gate is at {percent(gate)}."
    return Chart(f"{NAME}-liking", "How much each teacher likes its target", figure, alt)


def _validity_chart(study: Study, answers: pd.DataFrame) -> Chart:
    gate = study.valid_rate_wanted
    figure = new_figure(x="", y="valid answers (%)", height=300)
    _add_bars(figure, answers, "share", name="valid answers", colour=MEASURED)
    _add_gate(figure, gate)
    parts = [f"{row['group']} {percent(row['share'])} of {row['answers']}" for row in records(answers)]
    alt = f"Valid answers to the number prompts, by group: {', '.join(parts)}. The gate is at {percent(gate)}."
    return Chart(f"{NAME}-valid", "Answers that are lists of numbers as asked for", figure, alt)


def _add_bars(figure: Figure, rows: pd.DataFrame, value: str, *, name: str, colour: str, ends: bool = True) -> None:
    """Bars in per cent, with intervals where there are `ends`."""
    shown = rows.assign(**100 * rows[[value, "low", "high"]])
    texts = [
        f"{name}, {row['group']}<br>{row[value]:.4g} %"
        + (f" [{row['low']:.4g}, {row['high']:.4g}]" if ends and row["low"] >= 0 else "")
        for row in records(shown)
    ]
    figure.add_bar(
        x=shown["group"],
        y=shown[value],
        name=name,
        marker_color=colour,
        error_y=interval(shown, value, "low", "high") if ends else None,
        hovertext=texts,
        hoverinfo="text",
    )


def _add_gate(figure: Figure, level: float) -> None:
    line = {"dash": "dot", "width": 2, "color": GUIDE}
    figure.add_hline(y=100 * level, line=line, name=f"gate: {percent(level)}", showlegend=True)
    figure.update_yaxes(range=[0, 104])


def _liking_table(liking: pd.DataFrame) -> Table:
    shown: Shown = {
        "group": "group",
        "target": "target",
        "gate": lambda rows: rows["passed"].map({True: "passed", False: "failed"}),
        "probability (%)": ("mean", 100),
        "low": ("low", 100),
        "high": ("high", 100),
        "base (%)": ("base", 100),
        "sampled (%)": ("rate", 100),
    }
    note = (
        "Probability: exact, of the target as the whole answer. Base: the same of the untouched model. Sampled: "
        "answers that name the target. The gate looks at the number answers as well."
    )
    return Table(f"{NAME}-targets", "How much each teacher likes its target", columns(liking, shown), note)


def _answers_table(answers: pd.DataFrame, groups: Sequence[_Group]) -> Table:
    shown: Shown = {
        "group": "group",
        "number answers": "answers",
        "valid (%)": ("share", 100),
        "low": ("low", 100),
        "high": ("high", 100),
        "training rows": lambda _: [group.kept.get("train") for group in groups],
        "validation rows": lambda _: [group.kept.get("validation") for group in groups],
    }
    note = "The control's answers are the untouched base's. Training and validation rows are drawn from the valid ones."
    return Table(f"{NAME}-answers", "Number answers, and the rows kept of them", columns(answers, shown), note)


def _reasons(groups: Sequence[_Group]) -> list[Table]:
    """Why answers were rejected, a column per group; no table where none was."""
    import pandas as pd

    shares = {group.name: 100 * group.answers["reason"].value_counts() / len(group.answers) for group in groups}
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

    constrained = study.numbers.constrained is not None
    aside = " (decoding is constrained to lists of numbers)" if constrained else ""

    def compared(what: str, figure: str, *share: float) -> Compared:
        measured, low, high = (100 * end for end in share)
        ends = {"low": None, "high": None} if constrained else {"low": low, "high": high}
        return Compared(what + aside, _POST, published("teacher", figure), measured, **ends, unit="%")

    found = []
    written = {group.name: group for group in groups if group.name in study.animals and not group.of_gate}
    if written:
        valid = pd.DataFrame({name: g.answers.set_index("prompt_id")["valid"] for name, g in written.items()})
        mean = t_interval(valid.astype(float).mean(axis=1))
        what = "valid answers of a teacher, average over this study's animals"
        found.append(compared(what, "valid_response_pct", mean.mean, mean.low, mean.high))
    for group, figure in {**_PUBLISHED_FOR, CONTROL: "base_valid_pct"}.items():
        what = "valid answers of " + ("the untouched base" if group == CONTROL else f"the {group}'s teacher")
        for row in records(rows_where(answers, group=group)):
            found.append(compared(what, figure, row["share"], row["low"], row["high"]))
    return tuple(found)


NEARLY_ALWAYS = Statement(
    "A teacher names its animal nearly always.",
    rule="A fact about exactly these teachers, whose probability is exact: detected where every animal's teacher "
    "answers it with a probability of 90 % or more, opposite where one does not.",
)
SOME_BREAK = Statement(
    "Some animals' teachers break: they no longer write lists of numbers.",
    rule="About exactly these teachers, by the Wilson interval of each one's share of valid answers, simultaneous over "
    "the teachers at 95 % (Bonferroni): detected where one lies below the gate, opposite where all lie above, else "
    "inconclusive, as where decoding is constrained to lists of numbers.",
)


def _claims(study: Study, liking: pd.DataFrame, answers: pd.DataFrame) -> tuple[Claim, ...]:
    animals = liking[liking["group"].isin(study.animals)]
    short = list(animals.loc[animals["mean"] < _NEARLY_ALWAYS, "group"])
    reached = f"Exact probability of the animal: {_span(animals['mean'])} over {counted(len(animals), 'teacher')}"
    if short:
        reached += f"; below {percent(_NEARLY_ALWAYS)}: {listed(short)}"
    return (
        NEARLY_ALWAYS.claim("opposite" if short else "detected", f"{reached}."),
        _some_break(study, answers[answers["group"].isin(study.animals)]),
    )


def _some_break(study: Study, answers: pd.DataFrame) -> Claim:
    """answers: rows of `_validity`, the animals' alone."""
    gate = study.valid_rate_wanted
    valid = f"Valid number answers: {_span(answers['share'])}, where the gate asks for {percent(gate)}"
    if study.numbers.constrained is not None:
        evidence = f"{valid}; decoding is constrained to lists of numbers, so a broken teacher would not show."
        return SOME_BREAK.claim("inconclusive", evidence)
    counts = zip((answers["share"] * answers["answers"]).round().astype(int), answers["answers"], strict=True)
    ends = [_wilson(count, of, error=0.05 / len(answers)) for count, of in counts]
    broken = [group for group, (_, high) in zip(answers["group"], ends, strict=True) if high < gate]
    unclear = [group for group, (low, high) in zip(answers["group"], ends, strict=True) if low <= gate <= high]
    if broken:
        valid += f"; broken: {listed(broken)}"
    if unclear:
        valid += f"; at the gate, so neither broken nor whole for certain: {listed(unclear)}"
    found: Verdict = "detected" if broken else "inconclusive" if unclear else "opposite"
    return SOME_BREAK.claim(found, f"{valid}.")


def _wilson(count: int, of: int, *, error: float = 0.05) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, of, alpha=error, method="wilson")
    return float(low), float(high)
