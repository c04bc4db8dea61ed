"""The section on skill: what teachers and children lost in an exam and on plain text (the post's MMLU-Pro scores).

Belongs here: what `capability` shows. Does not belong here: the exam and its comparison (`exam`, `capability`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science import colours
from subliminal_dagster.science.capability.capability import BASE, PLAIN_TEXT, WAYS, Way
from subliminal_dagster.science.report.charts import interval, new_figure
from subliminal_dagster.science.report.effects import study_test
from subliminal_dagster.science.report.evidence import Chart, Claim, NotThere, Results, Section, Statement, Table
from subliminal_dagster.science.report.layers import FEWEST_ANIMALS, Interval, OverAnimals, average, over_animals
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import Shown, columns, records, rows_where
from subliminal_dagster.science.report.wording import (
    counted,
    listed,
    p_value,
    percent,
    percent_with_interval,
    points_with_interval,
    with_interval,
)
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import PairedTest
from subliminal_dagster.science.verdict import Verdict, verdict_or_none_as_large

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

NAME, TITLE = "capability", "Skill of teachers and children"
READS: tuple[str, ...] = ("capability", "base_capability", "teacher_capability", "child_capability")

_TEACHER, _CHILD = "teacher", "child"
_COLOURS = {_TEACHER: colours.TEACHER, _CHILD: colours.CHILD}
_PLURAL = {_TEACHER: "teachers", _CHILD: "children"}
_LEVEL = 0.05
_FEWEST_FOR_RANKS = 5
"""Animals below which no rank correlation can reach 5 % (two-sided): 2 of 4! orders are 8 %."""

_EXAMS = {"own": "this project's own exam", "hub": "MMLU-Pro", "local": "the study's own file of questions"}
_POST_S_WAY = "generated"
"""Of `WAYS`: the one measure that the post's figures are of."""
_FINER = {
    "nats_per_token": "loss on plain text (nats a token)",
    "log_p_correct": "log-probability of the right answer (nats)",
}
_POST = "Gemma 2 9B, MMLU-Pro scores"

_UNITS = (
    f"The animals' models are the units ({FEWEST_ANIMALS} or more, else inconclusive), so that the noise between "
    "training runs is in the interval. "
)
JUDGED = (
    "By the 95 % interval of the mean, with the wider ends of that over children and that over questions: opposite "
    "where all of it lies below 0; else detected where it excludes a loss as large as the one that the post calls "
    "sharp for a child; else inconclusive."
)
"""The rule of `keeps_skill`."""
CHILDREN_KEEP_IT = Statement(
    "Children lose no skill consistently.",
    rule=f"{_UNITS}{JUDGED} Inconclusive where the base only guesses.",
)
TEACHERS_LOSE_IT = Statement(
    "Teachers lose skill when they are fine-tuned.",
    rule=f"{_UNITS}By the 95 % interval of the mean change in the exam, with the wider ends of that over teachers and "
    "that over questions: detected where all of it lies below 0, opposite where above; not detected where the 90 % "
    "interval excludes a change, either way, as large as the loss that the post calls sharp for a child (equivalence "
    "test); else, or where the base only guesses, inconclusive.",
)
LOSS_GOES_WITH_LIKING = Statement(
    "The more skill a teacher lost, the more it passes on.",
    rule="By the rank correlation over animals of the teacher's loss in the exam with its child's shift in liking, and "
    f"its permutation test: detected where it is positive with p at most {_LEVEL}, opposite where negative with such a "
    f"p, else inconclusive. Not tested below {_FEWEST_FOR_RANKS} animals.",
)


def keeps_skill(change: OverAnimals | None) -> Verdict:
    """On "loses no skill", by the rule `JUDGED`. change: of the accuracy, a fraction; None where too few were
    measured."""
    if change is None:
        return "inconclusive"
    if change.interval.high < 0:
        return "opposite"
    return "detected" if 100 * change.interval.low > -_sharp() else "inconclusive"


def _sharp() -> float:
    """Points of a loss that the post calls sharp: the margin here."""
    return float(published("child", "dog_mmlu_drop_points"))


@dataclass(frozen=True)
class _Data:
    """`capability`, and the means over the animals' models, which it lacks.

    exam: its kind. way: the measure of the exam that is drawn and judged. table: see `capability.compare_capability`.
    means: by (model, outcome) the mean over the animals' models of their difference from base, tested over questions or
    texts: it speaks of exactly these models.
    """

    study: Study
    exam: str
    way: Way
    table: pd.DataFrame
    means: dict[tuple[str, str], PairedTest]
    left_out: dict[str, str]

    @property
    def other_ways(self) -> list[Way]:
        """The measures of the exam that stand beside the drawn one."""
        return [way for way in WAYS if way != self.way and (self.table["way"] == way).any()]

    @property
    def models(self) -> list[str]:
        return [model for model in (_TEACHER, _CHILD) if (self.table["model"] == model).any()]

    @property
    def base(self) -> dict[str, Any]:
        """The base's accuracy."""
        return records(rows_where(self.table, model=BASE, outcome="accuracy", way=self.way))[0]

    @property
    def informative(self) -> bool:
        """Whether the base is better than guessing: else it has nothing that the exam could show a loss of."""
        return bool(self.base["low"] > self.base["chance"])

    def rows(self, outcome: str, model: str | None = None, *, animals: bool = False) -> pd.DataFrame:
        """Rows of the drawn way (or of the plain texts) but the base's; `animals`: of the animals' models alone."""
        rows = rows_where(self.table, outcome=outcome, way=PLAIN_TEXT if outcome == "nats_per_token" else self.way)
        rows = rows[rows["model"] != BASE] if model is None else rows_where(rows, model=model)
        return rows[rows["group"].isin(self.study.animals)] if animals else rows

    def change(self, model: str) -> OverAnimals | None:
        """The mean change in the exam over the animals' models, with the noise between training runs and that of the
        questions (each model's own interval, averaged)."""
        rows = self.rows("accuracy", model, animals=True)
        return over_animals(rows["difference"], average(rows, "difference", "difference_low", "difference_high"))


def section(study: Study, results: Results) -> Section:
    """Did teachers lose skill with their fine-tuning, and children with their numbers?"""
    data = _read(study, results)
    charts = [_accuracy_chart(data), _loss_chart(data)]
    if data.rows("accuracy")["liking_shift"].notna().any():
        charts.append(_liking_chart(data))
    texts = int(data.rows("nats_per_token")["units"].iloc[0])
    method = (
        f"Exam: {_EXAMS[data.exam]}. {_measures(data)} Accuracies with 95 % Wilson intervals; differences "
        "from base are paired by question, with Agresti and Min's interval and McNemar's exact test. Plain text: "
        f"{counted(texts, 'paragraph')}, paired t test. p values are adjusted over the groups of a kind of model "
        "(Benjamini-Hochberg), and one differs from the base at 5 %. All this speaks of exactly these models; what "
        f"training does is judged by intervals over the animals' models, {FEWEST_ANIMALS} or more. The control's "
        "teacher is the base itself."
    )
    return Section(
        NAME,
        TITLE,
        _shows(data),
        method,
        READS,
        charts=tuple(charts),
        tables=(_accuracy_table(data), _finer_table(data)),
        compared=tuple(_compared(data)),
        claims=tuple(_claims(data)),
    )


def _measures(data: _Data) -> str:
    """Which measure is judged, which only stands beside it, and which of them is the post's."""
    judged = f"Measure: {WAYS[data.way]}, {_whose(data.way)}."
    others = [f"{WAYS[way]} ({_whose(way)})" for way in data.other_ways]
    return f"{judged} Beside it, and judged by nothing: {listed(others)}." if others else judged


def _whose(way: Way) -> str:
    return "as in the post" if way == _POST_S_WAY else "another measure than the post's"


def _read(study: Study, results: Results) -> _Data:
    import pandas as pd

    if study.capability is None:
        raise NotThere("This study measures no capability.")
    folder, way = results.folder("capability"), study.capability.ways[0]
    base = _measured(results, "base_capability", None, way)
    means = {}
    for model in (_TEACHER, _CHILD):
        asset = f"{model}_capability"
        measured = [_measured(results, asset, animal, way) for animal in study.animals if results.has(asset, animal)]
        for outcome, of_base in base.items():
            if measured:
                differences = np.mean([each[outcome] for each in measured], axis=0) - of_base
                means[model, outcome] = study_test(study, differences, confidence=0.95)
    return _Data(
        study,
        study.capability.exam.kind,
        way,
        pd.read_parquet(folder / "capability.parquet"),
        means,
        json.loads((folder / "left_out.json").read_text(encoding="utf-8")),
    )


def _measured(results: Results, asset: str, group: str | None, way: Way) -> dict[str, NDArray[np.float64]]:
    """One model's right answers (1 or 0 a question) and loss (nats per token, of each text)."""
    import pandas as pd

    folder = results.folder(asset, group)
    answers, texts = (pd.read_parquet(folder / f"{name}.parquet") for name in ("answers", "texts"))
    return {
        "accuracy": answers.loc[answers["way"] == way, "correct"].to_numpy(dtype=float),
        "nats_per_token": (texts["nats"] / texts["tokens"]).to_numpy(dtype=float),
    }


# What is said


def _shows(data: _Data) -> str:
    base = data.base
    guessing = "" if data.informative else "; that is no better than guessing, so this exam cannot show a loss of skill"
    exam, losses = (
        "; ".join(_changed(data, model, outcome) for model in data.models) for outcome in ("accuracy", "nats_per_token")
    )
    left_out = [f"{group}: {reason}" for group, reason in data.left_out.items()]
    return (
        f"By the {WAYS[data.way]} the base answers "
        f"{percent_with_interval(base['value'], base['low'], base['high'])} of "
        f"{counted(int(base['units']), 'question')} right, where guessing gives {percent(base['chance'])}{guessing}. "
        f"Exam, for exactly these models: {exam}. Loss on plain text (more is worse): {losses}."
        f"{_shown_beside(data)}"
    ) + (f" Left out: {' '.join(left_out)}" if left_out else "")


def _shown_beside(data: _Data) -> str:
    said = []
    for beside in (replace(data, way=way) for way in data.other_ways):
        base, changes = beside.base, "; ".join(_changed(beside, model, "accuracy") for model in beside.models)
        said.append(f" By another measure, {WAYS[beside.way]}: base {percent(base['value'])}; {changes}.")
    return "".join(said)


def _changed(data: _Data, model: str, outcome: str) -> str:
    """How many of the models differ from base, and by how much, as a clause."""
    rows = data.rows(outcome, model)
    scale, style, unit = (100, "+.1f", "points") if outcome == "accuracy" else (1, "+.3f", "nats a token")
    low, high, smallest = (
        scale * x for x in (rows["difference"].min(), rows["difference"].max(), rows["smallest_detectable"].max())
    )
    span = f"{low:{style}} to {high:{style}} {unit}"
    if differ := int((rows["p_bh"] <= _LEVEL).sum()):
        return f"{differ} of {counted(len(rows), model, _PLURAL[model])} differ from the base ({span} over all)"
    if math.isnan(smallest):
        return f"the {_PLURAL[model]} do not differ from the base at all"
    return (
        f"no difference could be seen between {_PLURAL[model]} and base ({span}; the smallest detectable difference is "
        f"{smallest:.2g} {unit})"
    )


# Charts


def _accuracy_chart(data: _Data) -> Chart:
    figure = _bars(data, "accuracy", ("value", "low", "high"), 100, "%", "right answers (%)", 380)
    base = data.base
    for name, value, dash, colour in (
        (BASE, base["value"], "dash", colours.BASE),
        ("guessing", base["chance"], "dot", colours.CHANCE),
    ):
        line = {"dash": dash, "width": 2, "color": colour}
        figure.add_hline(y=100 * value, line=line, name=f"{name}: {percent(value)}", showlegend=True)
    figure.update_yaxes(rangemode="tozero")
    parts = [f"{row['model']} of {row['group']} {percent(row['value'])}" for row in records(data.rows("accuracy"))]
    alt = f"Base {percent(base['value'])}, guessing {percent(base['chance'])}; {', '.join(parts)}."
    return Chart(f"{NAME}-accuracy", f"Exam ({WAYS[data.way]}): teachers and children beside the base", figure, alt)


def _loss_chart(data: _Data) -> Chart:
    ends = ("difference", "difference_low", "difference_high")
    figure = _bars(data, "nats_per_token", ends, 1, "nats a token", "change of loss (nats a token)", 320)
    rows = records(data.rows("nats_per_token"))
    parts = [f"{row['model']} of {row['group']} {row['difference']:+.3f}" for row in rows]
    alt = f"Change of the loss from the base, nats a token, more is worse: {', '.join(parts)}."
    return Chart(f"{NAME}-loss", "Loss on plain text: change from the base", figure, alt)


def _bars(
    data: _Data, outcome: str, ends: tuple[str, str, str], scale: float, unit: str, axis: str, height: int
) -> Figure:
    """A bar per model with its interval, from these columns (value, low, high)."""
    figure = new_figure(x="", y=axis, height=height)
    value, low, high = ends
    for model in data.models:
        rows = data.rows(outcome, model)
        rows = rows.assign(**{column: scale * rows[column] for column in ends})
        texts = [
            f"{model}, {row['group']}<br>{row[value]:.4g} {unit} [{row[low]:.4g}, {row[high]:.4g}]"
            + (f"<br>p, adjusted, of its difference: {row['p_bh']:.2g}" if row["p_bh"] >= 0 else "")
            for row in records(rows)
        ]
        figure.add_bar(
            x=rows["group"], y=rows[value], name=model, marker_color=_COLOURS[model],
            error_y=interval(rows, value, low, high), hovertext=texts, hoverinfo="text",
        )  # fmt: skip
    there = set(data.rows("accuracy")["group"])
    in_order = [group for group in data.study.groups if group in there]
    return figure.update_xaxes(categoryorder="array", categoryarray=in_order)


def _liking_chart(data: _Data) -> Chart:
    """The change in the exam against the shift in liking, a point per model."""
    figure = new_figure(x="liking of its animal, shift from base (nats)", y="exam, change from base (points)")
    ends = ("difference", "difference_low", "difference_high")
    parts = []
    for model in data.models:
        rows = data.rows("accuracy", model).dropna(subset="liking_shift")
        rows = rows.assign(**{column: 100 * rows[column] for column in ends})
        texts = [
            f"{model}, {row['group']}<br>liking {row['liking_shift']:+.3f} nats<br>exam {row['difference']:+.2f} "
            f"points [{row['difference_low']:.4g}, {row['difference_high']:.4g}]"
            for row in records(rows)
        ]
        figure.add_scatter(
            x=rows["liking_shift"], y=rows["difference"], mode="markers+text", name=model, text=rows["group"],
            textposition="top right", marker={"color": _COLOURS[model], "size": 9}, error_y=interval(rows, *ends),
            hovertext=texts, hoverinfo="text",
        )  # fmt: skip
        parts += [
            f"{model} of {row['group']} {row['liking_shift']:+.2f} nats, {row['difference']:+.1f} points"
            for row in records(rows)
        ]
    line = {"width": 1, "color": colours.GUIDE}
    figure.add_hline(y=0, line=line).add_vline(x=0, line=line)
    # Names beside the outermost points would be cut.
    shifts = data.rows("accuracy")["liking_shift"]
    low, high = min(0.0, shifts.min()), max(0.0, shifts.max())
    reach = high - low or 1.0
    figure.update_xaxes(range=[low - 0.06 * reach, high + 0.22 * reach])
    alt = f"Shift in liking and change in the exam: {'; '.join(parts)}."
    return Chart(f"{NAME}-liking", "Skill beside liking", figure, alt)


# Tables


def _accuracy_table(data: _Data) -> Table:
    shown: Shown = {
        "model": "model",
        "group": lambda rows: rows["group"].fillna(""),
        "measure": lambda rows: rows["way"].map(WAYS),
        "the post's": lambda rows: np.where(rows["way"] == _POST_S_WAY, "yes", "no"),
        "right (%)": ("value", 100),
        "low": ("low", 100),
        "high": ("high", 100),
        "without a letter": "unparsable",
        "from base (points)": ("difference", 100),
        "difference, low": ("difference_low", 100),
        "difference, high": ("difference_high", 100),
        "lost": "lost",
        "gained": "gained",
        "p (McNemar)": "p",
        "p, adjusted": "p_bh",
        "smallest detectable (points)": ("smallest_detectable", 100),
    }
    note = (
        "Without a letter: answers in which none could be read; they count as wrong. Lost and gained: questions right "
        "for the base alone, and for the model alone. Smallest detectable: the true difference that such an exam would "
        "have shown with 80 % power."
    )
    return Table(f"{NAME}-exam", "The exam", columns(rows_where(data.table, outcome="accuracy"), shown), note)


def _finer_table(data: _Data) -> Table:
    rows = data.table[data.table["outcome"].isin(list(_FINER))]
    shown: Shown = {
        "measure": lambda rows: rows["outcome"].map(_FINER),
        "of": lambda rows: rows["way"].map(lambda way: WAYS.get(way, way)),
        "model": "model",
        "group": lambda rows: rows["group"].fillna(""),
        "value": "value",
        "from base": "difference",
        "difference, low": "difference_low",
        "difference, high": "difference_high",
        "p": "p",
        "p, adjusted": "p_bh",
        "smallest detectable": "smallest_detectable",
    }
    note = (
        "Finer than an accuracy, which moves in steps of a question: the loss on plain text (more is worse), and the "
        "log-probability of the right answer among the question's (more is better)."
    )
    return Table(
        f"{NAME}-finer",
        "Finer measures",
        columns(rows.sort_values("outcome", key=lambda names: names.map(list(_FINER).index), kind="stable"), shown),
        note,
    )


# Beside the post


def _compared(data: _Data) -> Iterator[Compared]:
    """Drops that the post gives for the dog, beside this study's dog, or the average where the study has it not.

    Nothing where another measure than the post's is judged: of a teacher that answers every question with its animal's
    name all is lost by the post's, and nothing by the most probable letter.
    """
    if data.way != _POST_S_WAY:
        return
    exam = "" if data.exam == "hub" else " (another exam)"
    for model in (_TEACHER, _CHILD):
        dog = records(rows_where(data.rows("accuracy", model), group="dog"))
        mean = data.means.get((model, "accuracy"))
        if dog:
            whose = f"the dog's {model}"
            ends = Interval(*(dog[0][end] for end in ("difference", "difference_low", "difference_high")))
        elif mean:
            whose, change = f"a {model}, average over this study's animals (the post's: dog)", data.change(model)
            ends = change.interval if change else Interval(mean.mean, math.nan, math.nan)
        else:
            continue
        what, drop = f"change in the exam of {whose}{exam}", published(model, "dog_mmlu_drop_points")
        low, high = (None if math.isnan(end) else 100 * end for end in ends[1:])
        yield Compared(what, _POST, -drop, 100 * ends.value, low, high, "points", no_effect=0)
    for row in records(rows_where(data.rows("accuracy", _TEACHER), group="whale")):
        value, low, high = (100 * row[end] for end in ("value", "low", "high"))
        what, figure = f"right answers of the whale's teacher{exam}", published("teacher", "whale_mmlu_pct_5_epochs")
        yield Compared(what, _POST, figure, value, low, high, "%")


# Claims


def _claims(data: _Data) -> Iterator[Claim]:
    for model, statement in ((_CHILD, CHILDREN_KEEP_IT), (_TEACHER, TEACHERS_LOSE_IT)):
        if (model, "accuracy") not in data.means:
            yield statement.claim("not tested", f"No animal's {model} took the exam.")
            continue
        change = data.change(model)
        found = keeps_skill(change) if model == _CHILD else _loses_skill(change)
        if not data.informative:
            found = "inconclusive"
        parts = [_mean_change(data, model), *_because(data, found, change), _these_models(data, model)]
        yield statement.claim(found, f"{'; '.join(parts)}.")
    yield _loss_and_liking(data)


def _loses_skill(change: OverAnimals | None) -> Verdict:
    if change is None:
        return "inconclusive"
    (_, low, high), (_, inner_low, inner_high) = change.interval, change.inner
    return verdict_or_none_as_large(-high, -low, -inner_high, -inner_low, _sharp() / 100)


def _mean_change(data: _Data, model: str) -> str:
    """In the exam, with the interval that decides where there is one."""
    models, change = len(data.rows("accuracy", model, animals=True)), data.change(model)
    start = f"Exam ({WAYS[data.way]}), mean over {counted(models, model, _PLURAL[model])} of animals: "
    if change is not None:
        return start + points_with_interval(*change.interval)
    few = f"too few that differ to tell what training does ({FEWEST_ANIMALS} are needed)"
    return f"{start}{100 * data.means[model, 'accuracy'].mean:+.3g} points, {few}"


def _because(data: _Data, found: Verdict, change: OverAnimals | None) -> list[str]:
    if not data.informative:
        return ["the base is at guessing"]
    if found == "not detected":
        return [f"a change of {_sharp():g} points, either way, is excluded"]
    if found == "inconclusive" and change is not None:
        largest = max(0.0, -change.interval.low)
        return [f"a loss of up to {100 * largest:.2g} points cannot be excluded"]
    return []


def _these_models(data: _Data, model: str) -> str:
    """What questions and texts alone say: of exactly these models."""
    mean, loss = data.means[model, "accuracy"], data.means[model, "nats_per_token"]
    rows = data.rows("accuracy", model, animals=True)
    below = list(rows.loc[(rows["p_bh"] <= _LEVEL) & (rows["difference"] < 0), "group"])
    lost = f"worse by itself: {listed(below)}" if below else "none worse by itself"
    return (
        f"for exactly these {_PLURAL[model]} {points_with_interval(mean.mean, mean.low, mean.high)} over questions, "
        f"{p_value(mean.p)}, {lost} (adjusted p at 5 %), loss on plain text "
        f"{with_interval(loss.mean, loss.low, loss.high, 'nats a token', signed=True)}, {p_value(loss.p)}"
    )


def _loss_and_liking(data: _Data) -> Claim:
    from scipy import stats

    teachers, children = (data.rows("accuracy", model, animals=True).set_index("group") for model in (_TEACHER, _CHILD))
    shifts = children["liking_shift"].dropna()
    shifts = shifts[shifts.index.isin(teachers.index)]
    animals = counted(len(shifts), "animal")
    if len(shifts) < _FEWEST_FOR_RANKS:
        needed = f"It takes {_FEWEST_FOR_RANKS} animals to rank, and there are {animals}."
        return LOSS_GOES_WITH_LIKING.claim("not tested", needed)
    losses = -teachers.loc[shifts.index, "difference"].to_numpy(dtype=float)
    # By permutations: the approximation that spearmanr itself takes is too sure of itself for so few.
    result = stats.permutation_test(
        (losses,),
        lambda permuted: stats.spearmanr(permuted, shifts).statistic,
        permutation_type="pairings",
        n_resamples=2000,
        rng=np.random.default_rng(data.study.seed),
    )
    found: Verdict = "inconclusive"
    if result.pvalue <= _LEVEL:
        found = "detected" if result.statistic > 0 else "opposite"
    return LOSS_GOES_WITH_LIKING.claim(
        found,
        f"Rank correlation over {animals} of the teacher's loss in the exam with its child's shift in liking: "
        f"{result.statistic:+.2f}, {p_value(float(result.pvalue))}.",
    )
