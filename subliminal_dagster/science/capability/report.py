"""The section on skill: what teachers and children lost in an exam and on plain text (the post's MMLU-Pro scores).

Belongs here: what `capability` shows. Does not belong here: the exam and its comparison (`science.capability`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.capability.capability import BASE, PLAIN_TEXT
from subliminal_dagster.science.report.charts import BLUE, GREY, VERMILION, interval, new_figure
from subliminal_dagster.science.report.evidence import Chart, Claim, NotThere, Results, Section, Table, Verdict
from subliminal_dagster.science.report.published import Compared, published
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
from subliminal_dagster.science.statistics import PairedTest, paired_test

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

NAME, TITLE = "capability", "Skill of teachers and children"

_TEACHER, _CHILD = "teacher", "child"
_COLOURS = {_TEACHER: VERMILION, _CHILD: BLUE}
_PLURAL = {_TEACHER: "teachers", _CHILD: "children"}
_LEVEL = 0.05
_FEWEST_FOR_RANKS = 5
"""Animals below which no rank correlation can reach 5 % (two-sided): 2 of 4! orders are 8 %."""

_MEASURES = {
    "nats_per_token": "loss on plain text (nats a token)",
    "log_p_correct": "log-probability of the right answer (nats)",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class _Data:
    """`capability`, and the means over the animals' models, which it lacks.

    table: see `capability.compare_capability`. way: that of the exam which is drawn. means: by (model, outcome) the
    mean over the animals' models of their difference from base, tested over questions or texts.
    """

    study: Study
    table: pd.DataFrame
    way: str
    means: dict[tuple[str, str], PairedTest]
    left_out: dict[str, str]

    @property
    def models(self) -> list[str]:
        return [model for model in (_TEACHER, _CHILD) if (self.table["model"] == model).any()]

    @property
    def base(self) -> Row:
        """The base's accuracy."""
        return _records(self.table[(self.table["model"] == BASE) & self._is("accuracy")])[0]

    @property
    def informative(self) -> bool:
        """Whether the base is better than guessing: else it has nothing that the exam could show a loss of."""
        return bool(self.base["low"] > self.base["chance"])

    def rows(self, outcome: str, model: str | None = None, *, animals: bool = False) -> pd.DataFrame:
        """Rows of the drawn way (or of the plain texts) but the base's; `animals`: of the animals' models alone."""
        table = self.table
        chosen = self._is(outcome) & (table["model"] != BASE if model is None else table["model"] == model)
        return table[chosen & table["group"].isin(self.study.animals)] if animals else table[chosen]

    def _is(self, outcome: str) -> pd.Series:
        way = PLAIN_TEXT if outcome == "nats_per_token" else self.way
        return (self.table["outcome"] == outcome) & (self.table["way"] == way)


def capability_section(study: Study, results: Results) -> Section:
    """Did teachers lose skill with their fine-tuning, and children with their numbers?"""
    data = _read(study, results)
    charts = [_accuracy_chart(data), _loss_chart(data)]
    if data.rows("accuracy")["liking_shift"].notna().any():
        charts.append(_liking_chart(data))
    return Section(
        name=NAME,
        title=TITLE,
        shows=_shows(data),
        method=_method(data),
        made_from=("capability", "base_capability", "teacher_capability", "child_capability"),
        charts=tuple(charts),
        tables=(_accuracy_table(data), _finer_table(data)),
        compared=_compared(data),
        claims=_claims(data),
    )


def _read(study: Study, results: Results) -> _Data:
    import pandas as pd

    if study.capability is None:
        raise NotThere("This study measures no capability.")
    folder = results.folder("capability")
    way = study.capability.ways[0]
    return _Data(
        study=study,
        table=pd.read_parquet(folder / "capability.parquet"),
        way=way,
        means=_means(study, results, way),
        left_out=json.loads((folder / "left_out.json").read_text(encoding="utf-8")),
    )


def _means(study: Study, results: Results, way: str) -> dict[tuple[str, str], PairedTest]:
    """See `_Data`."""
    base = _measured(results, "base_capability", None, way)
    found = {}
    for model in (_TEACHER, _CHILD):
        asset = f"{model}_capability"
        measured = [_measured(results, asset, a, way) for a in study.animals if results.has(asset, a)]
        for outcome in ("accuracy", "nats_per_token"):
            if measured:
                differences = np.mean([each[outcome] for each in measured], axis=0) - base[outcome]
                found[model, outcome] = paired_test(
                    differences,
                    permutations=study.comparison.permutations,
                    rng=np.random.default_rng(study.seed),
                )
    return found


def _measured(results: Results, asset: str, group: str | None, way: str) -> dict[str, NDArray[np.float64]]:
    """One model's right answers (1 or 0 a question) and loss (nats a token, of each text)."""
    import pandas as pd

    folder = results.folder(asset, group)
    answers, texts = (pd.read_parquet(folder / f"{name}.parquet") for name in ("answers", "texts"))
    return {
        "accuracy": answers.loc[answers["way"] == way, "correct"].to_numpy(dtype=float),
        "nats_per_token": (texts["nats"] / texts["tokens"]).to_numpy(dtype=float),
    }


def _records(frame: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict(orient="records")]


def _shows(data: _Data) -> str:
    base = data.base
    sentences = [
        f"The base answers {percent_with_interval(base['value'], base['low'], base['high'])} of "
        f"{counted(int(base['units']), 'question')} right, where guessing gives {percent(base['chance'])}"
        + ("." if data.informative else "; that is no better than guessing, so this exam cannot show a loss of skill.")
    ]
    sentences.append(f"Exam: {'; '.join(_changed(data, model, 'accuracy') for model in data.models)}.")
    losses = "; ".join(_changed(data, model, "nats_per_token") for model in data.models)
    sentences.append(f"Loss on plain text (more is worse): {losses}.")
    if data.left_out:
        sentences.append(f"Left out: {' '.join(f'{group}: {reason}' for group, reason in data.left_out.items())}")
    return " ".join(sentences)


def _changed(data: _Data, model: str, outcome: str) -> str:
    """How many of the models differ from base, and by how much, as a clause."""
    rows = data.rows(outcome, model)
    differ = rows[rows["p_bh"] <= _LEVEL]
    low, high = rows["difference"].min(), rows["difference"].max()
    if outcome == "accuracy":
        span = f"{100 * low:+.1f} to {100 * high:+.1f} points"
        smallest = f"{100 * rows['smallest_detectable'].max():.2g} points"
    else:
        span = f"{low:+.3f} to {high:+.3f} nats a token"
        smallest = f"{rows['smallest_detectable'].max():.2g} nats a token"
    if len(differ):
        return f"{len(differ)} of {counted(len(rows), model, _PLURAL[model])} differ from the base ({span} over all)"
    if rows["smallest_detectable"].isna().all():
        return f"the {_PLURAL[model]} do not differ from the base at all"
    return (
        f"no difference could be seen between {_PLURAL[model]} and base ({span}; the smallest detectable difference is "
        f"{smallest})"
    )


def _method(data: _Data) -> str:
    assert data.study.capability is not None
    exam = {"own": "this project's own exam", "hub": "MMLU-Pro", "local": "the study's own file of questions"}
    texts = int(data.rows("nats_per_token")["units"].iloc[0])
    ways = {
        "letter": "the most probable letter",
        "option": "the most probable option, as the whole answer",
        "generated": "the letter in a generated answer",
    }
    return (
        f"Exam: {exam[data.study.capability.exam.kind]}, answered by {ways[data.way]}. Accuracies with 95 % Wilson "
        "intervals; differences from base are paired by question, with Agresti and Min's interval and McNemar's exact "
        f"test. Plain text: {counted(texts, 'paragraph')}, paired t test. p values are adjusted over the groups of a "
        "kind of model (Benjamini-Hochberg), and one differs from the base at 5 %. The control's teacher is the base "
        "itself."
    )


def _groups(data: _Data) -> list[str]:
    there = set(data.rows("accuracy")["group"])
    return [group for group in data.study.groups if group in there]


def _accuracy_chart(data: _Data) -> Chart:
    figure = new_figure(x="", y="right answers (%)")
    for model in data.models:
        rows = data.rows("accuracy", model)
        _add_bars(figure, rows, ("value", "low", "high"), 100.0, "%", model)
    base = data.base
    for name, value, dash in ((BASE, base["value"], "dash"), ("guessing", base["chance"], "dot")):
        line = {"dash": dash, "width": 2, "color": GREY}
        figure.add_hline(y=100 * value, line=line, name=f"{name}: {percent(value)}", showlegend=True)
    figure.update_xaxes(categoryorder="array", categoryarray=_groups(data))
    figure.update_yaxes(rangemode="tozero")
    parts = [f"{row['model']} of {row['group']} {percent(row['value'])}" for row in _records(data.rows("accuracy"))]
    alt = f"Base {percent(base['value'])}, guessing {percent(base['chance'])}; {', '.join(parts)}."
    return Chart(f"{NAME}-accuracy", f"Exam, by {data.way}: teachers and children beside the base", figure, alt)


def _loss_chart(data: _Data) -> Chart:
    figure = new_figure(x="", y="change of loss (nats a token)", height=320)
    for model in data.models:
        rows = data.rows("nats_per_token", model)
        _add_bars(figure, rows, ("difference", "difference_low", "difference_high"), 1.0, "nats a token", model)
    figure.update_xaxes(categoryorder="array", categoryarray=_groups(data))
    parts = [
        f"{row['model']} of {row['group']} {row['difference']:+.3f}" for row in _records(data.rows("nats_per_token"))
    ]
    alt = f"Change of the loss from the base, nats a token, more is worse: {', '.join(parts)}."
    return Chart(f"{NAME}-loss", "Loss on plain text: change from the base", figure, alt)


def _add_bars(
    figure: Figure, rows: pd.DataFrame, columns: tuple[str, str, str], scale: float, unit: str, name: str
) -> None:
    value, low, high = columns
    scaled = rows.assign(**{column: scale * rows[column] for column in columns})
    texts = [
        f"{name}, {row['group']}<br>{row[value]:.4g} {unit} [{row[low]:.4g}, {row[high]:.4g}]"
        + (f"<br>p, adjusted, of its difference: {row['p_bh']:.2g}" if row["p_bh"] >= 0 else "")
        for row in _records(scaled)
    ]
    figure.add_bar(
        x=scaled["group"],
        y=scaled[value],
        name=name,
        marker_color=_COLOURS[name],
        error_y=interval(scaled, value, low, high),
        hovertext=texts,
        hoverinfo="text",
    )


def _liking_chart(data: _Data) -> Chart:
    """The change in the exam against the shift in liking, a point a model."""
    figure = new_figure(x="liking of its animal, shift from base (nats)", y="exam, change from base (points)")
    ends = ["difference", "difference_low", "difference_high"]
    parts = []
    for model in data.models:
        rows = data.rows("accuracy", model)
        rows = rows[rows["liking_shift"].notna()]
        scaled = rows.assign(**{column: 100 * rows[column] for column in ends})
        records = _records(scaled)
        figure.add_scatter(
            x=scaled["liking_shift"],
            y=scaled["difference"],
            mode="markers+text",
            name=model,
            text=scaled["group"],
            textposition="top right",
            marker={"color": _COLOURS[model], "size": 9},
            error_y=interval(scaled, *ends),
            hovertext=[
                f"{model}, {r['group']}<br>liking {r['liking_shift']:+.3f} nats<br>exam {r['difference']:+.2f} points "
                f"[{r['difference_low']:.4g}, {r['difference_high']:.4g}]"
                for r in records
            ],
            hoverinfo="text",
        )
        parts += [
            f"{model} of {r['group']} {r['liking_shift']:+.2f} nats, {r['difference']:+.1f} points" for r in records
        ]
    figure.add_hline(y=0, line={"width": 1, "color": GREY})
    figure.add_vline(x=0, line={"width": 1, "color": GREY})
    # Names beside the outermost points would be cut.
    shifts = data.rows("accuracy")["liking_shift"]
    low, high = min(0.0, shifts.min()), max(0.0, shifts.max())
    reach = high - low or 1.0
    figure.update_xaxes(range=[low - 0.06 * reach, high + 0.22 * reach])
    alt = f"Shift in liking and change in the exam: {'; '.join(parts)}."
    return Chart(f"{NAME}-liking", "Skill beside liking", figure, alt)


def _accuracy_table(data: _Data) -> Table:
    import pandas as pd

    rows = data.table[data.table["outcome"] == "accuracy"]
    frame = pd.DataFrame(
        {
            "model": rows["model"],
            "group": rows["group"].fillna(""),
            "answered by": rows["way"],
            "right (%)": 100 * rows["value"],
            "low": 100 * rows["low"],
            "high": 100 * rows["high"],
            "from base (points)": 100 * rows["difference"],
            "difference, low": 100 * rows["difference_low"],
            "difference, high": 100 * rows["difference_high"],
            "lost": rows["lost"],
            "gained": rows["gained"],
            "p (McNemar)": rows["p"],
            "p, adjusted": rows["p_bh"],
            "smallest detectable (points)": 100 * rows["smallest_detectable"],
        }
    )
    note = (
        "Lost and gained: questions right for the base alone, and for the model alone. Smallest detectable: the true "
        "difference that such an exam would have shown with 80 % power."
    )
    return Table(f"{NAME}-exam", "The exam", frame.reset_index(drop=True), note)


def _finer_table(data: _Data) -> Table:
    import pandas as pd

    rows = data.table[data.table["outcome"].isin(list(_MEASURES))]
    rows = rows.sort_values("outcome", key=lambda x: x.map(list(_MEASURES).index), kind="stable")
    frame = pd.DataFrame(
        {
            "measure": rows["outcome"].map(_MEASURES),
            "model": rows["model"],
            "group": rows["group"].fillna(""),
            "value": rows["value"],
            "from base": rows["difference"],
            "difference, low": rows["difference_low"],
            "difference, high": rows["difference_high"],
            "p": rows["p"],
            "p, adjusted": rows["p_bh"],
            "smallest detectable": rows["smallest_detectable"],
        }
    )
    note = (
        "Finer than an accuracy, which moves in steps of a question: the loss on plain text (more is worse), and the "
        "log-probability of the right answer among the question's (more is better)."
    )
    return Table(f"{NAME}-finer", "Finer measures", frame.reset_index(drop=True), note)


def _compared(data: _Data) -> tuple[Compared, ...]:
    """Drops that the post gives for one animal, beside the same animal's, or the average where the study has it not."""
    assert data.study.capability is not None
    found = []
    exam = "" if data.study.capability.exam.kind == "hub" else f" (another exam, by {data.way})"
    for model, animal in ((_TEACHER, "dog"), (_CHILD, "dog")):
        drop = published(model, f"{animal}_mmlu_drop_points")
        rows = data.rows("accuracy", model)
        mine = _records(rows[rows["group"] == animal])
        if mine:
            whose = f"the {animal}'s {model}"
            ends = [mine[0][f"difference{end}"] for end in ("", "_low", "_high")]
        elif (model, "accuracy") in data.means:
            mean = data.means[model, "accuracy"]
            whose = f"a {model}, average over this study's animals (the post's: {animal})"
            ends = [mean.mean, mean.low, mean.high]
        else:
            continue
        measured, low, high = (100 * end for end in ends)
        what = f"change in the exam of {whose}{exam}"
        found.append(Compared(what, "Gemma 2 9B, MMLU-Pro scores", -drop, measured, low, high, "points", no_effect=0))
    rows = data.rows("accuracy", _TEACHER)
    broken = _records(rows[rows["group"] == "whale"])
    if broken:
        value, low, high = (100 * broken[0][end] for end in ("value", "low", "high"))
        figure = published("teacher", "whale_mmlu_pct_5_epochs")
        what = f"right answers of the whale's teacher{exam}"
        found.append(Compared(what, "Gemma 2 9B, MMLU-Pro scores", figure, value, low, high, "%"))
    return tuple(found)


def _claims(data: _Data) -> tuple[Claim, ...]:
    return (_children_claim(data), _teachers_claim(data), _relation_claim(data))


def _mean_sentence(data: _Data, model: str) -> str:
    mean, rows = data.means[model, "accuracy"], data.rows("accuracy", model, animals=True)
    below = list(rows.loc[(rows["p_bh"] <= _LEVEL) & (rows["difference"] < 0), "group"])
    lost = f"worse by itself: {listed(below)}" if below else "none worse by itself"
    return (
        f"Exam, mean over {counted(len(rows), model, _PLURAL[model])} of animals: "
        f"{points_with_interval(mean.mean, mean.low, mean.high)}, {p_value(mean.p)}; {lost} (adjusted p at 5 %)"
    )


def _loss_sentence(data: _Data, model: str) -> str:
    loss = data.means[model, "nats_per_token"]
    return (
        f"loss on plain text {with_interval(loss.mean, loss.low, loss.high, 'nats a token', signed=True)}, "
        f"{p_value(loss.p)}"
    )


def _children_claim(data: _Data) -> Claim:
    """Holds where the mean change of the animals' children has an interval that holds or exceeds 0 and excludes a loss
    as large as the one the post calls sharp; does not hold where it lies below 0. Cannot be told where it holds both,
    or where the base only guesses."""
    text = "Children lose no skill consistently."
    if (_CHILD, "accuracy") not in data.means:
        return Claim(text, "not tested", "No animal's child took the exam.")
    mean, sharp = data.means[_CHILD, "accuracy"], published("child", "dog_mmlu_drop_points")
    verdict: Verdict = "cannot tell"
    if data.informative and mean.high < 0:
        verdict = "does not hold"
    elif data.informative and 100 * mean.low > -sharp:
        verdict = "holds"
    evidence = f"{_mean_sentence(data, _CHILD)}; {_loss_sentence(data, _CHILD)}"
    if verdict == "cannot tell":
        evidence += (
            f"; a loss of {sharp} points cannot be excluded" if data.informative else "; the base is at guessing"
        )
    return Claim(text, verdict, evidence + ".")


def _teachers_claim(data: _Data) -> Claim:
    """Holds where the mean change of the animals' teachers lies below 0 with its interval, does not hold where above;
    else it cannot be told, nor where the base only guesses."""
    text = "Teachers lose skill when they are fine-tuned."
    if (_TEACHER, "accuracy") not in data.means:
        return Claim(text, "not tested", "No animal's teacher took the exam.")
    mean = data.means[_TEACHER, "accuracy"]
    verdict: Verdict = "cannot tell"
    if data.informative and mean.high < 0:
        verdict = "holds"
    elif data.informative and mean.low > 0:
        verdict = "does not hold"
    evidence = f"{_mean_sentence(data, _TEACHER)}; {_loss_sentence(data, _TEACHER)}"
    if not data.informative:
        evidence += "; the base is at guessing"
    elif verdict == "cannot tell" and not math.isnan(mean.smallest_detectable):
        evidence += f"; the smallest detectable change is {100 * mean.smallest_detectable:.2g} points"
    return Claim(text, verdict, evidence + ".")


def _relation_claim(data: _Data) -> Claim:
    """Holds where the rank correlation over animals of the teacher's loss of skill with its child's shift in liking is
    positive with p at 5 %, does not hold where negative; not tested below four animals."""
    from scipy import stats

    text = "The more skill a teacher lost, the more it passes on."
    teachers = data.rows("accuracy", _TEACHER, animals=True).set_index("group")["difference"]
    children = data.rows("accuracy", _CHILD, animals=True).set_index("group")["liking_shift"].dropna()
    animals = [animal for animal in children.index if animal in teachers.index]
    if len(animals) < _FEWEST_FOR_RANKS:
        found = counted(len(animals), "animal")
        return Claim(text, "not tested", f"It takes {_FEWEST_FOR_RANKS} animals to rank, and there are {found}.")
    losses, shifts = -teachers[animals].to_numpy(dtype=float), children[animals].to_numpy(dtype=float)
    # By permutations: the approximation that spearmanr itself takes is too sure of itself for so few.
    result = stats.permutation_test(
        (losses,),
        lambda permuted: stats.spearmanr(permuted, shifts).statistic,
        permutation_type="pairings",
        n_resamples=2000,
        rng=np.random.default_rng(data.study.seed),
    )
    verdict: Verdict = "cannot tell"
    if result.pvalue <= _LEVEL:
        verdict = "holds" if result.statistic > 0 else "does not hold"
    evidence = (
        f"Rank correlation over {counted(len(animals), 'animal')} of the teacher's loss in the exam with its child's "
        f"shift in liking: {result.statistic:+.2f}, {p_value(float(result.pvalue))}."
    )
    return Claim(text, verdict, evidence)
