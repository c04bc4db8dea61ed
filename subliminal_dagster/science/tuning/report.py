"""The section on tuning: the search for a child's settings, and what the tuned child likes and can do.

Belongs here: what `tuning_study` and `tuned_scores` show. Does not belong here: the search (`science.tuning`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.report.charts import (
    BLUE,
    GREY,
    ORANGE,
    VERMILION,
    in_panel,
    interval,
    new_figure,
    panels,
)
from subliminal_dagster.science.report.effects import detectable, nats, study_test
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Statement, Table
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import Shown, columns, records, rows_where
from subliminal_dagster.science.report.wording import (
    counted,
    p_value,
    percent,
    percent_with_interval,
    points_with_interval,
)
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import PairedTest
from subliminal_dagster.science.tuning.result import COMPLETE, DIVERGED, PRUNED, TuningResult
from subliminal_dagster.science.tuning.scores import BASE, ORIGINAL, TUNED
from subliminal_dagster.science.verdict import Verdict, verdict

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "tuning", "Tuning a child"
READS: tuple[str, ...] = ("tuning_study", "tuned_scores", "preference_scores", "base_capability")

_POST = "Gemma 2 9B, optimizing raven"
_EXAM = "exam: accuracy"
_PROBABILITY, _SAMPLED = "exact probability: ", "share of sampled answers: "
_ENDS = ["mean", "low", "high"]
_LOSS = "validation loss (nats a token)"
_SETTINGS = {"learning rate": "learning_rate", "LoRA dropout": "dropout", "LoRA rank": "rank", "LoRA alpha": "alpha"}

Row = dict[str, Any]


@dataclass(frozen=True)
class _Tuned:
    """A group's search, and its tuned child where that was looked at.

    own_loss: validation loss of the study's own settings, where they were a trial and ended. over_epochs: see
    `tuning.scores`. tuned, original: preference scores of the tuned child (column `epoch`) and of the child of the
    study's own settings.
    """

    name: str
    target: str | None
    result: TuningResult
    own_loss: float | None
    importance: pd.DataFrame | None
    over_epochs: pd.DataFrame | None
    tuned: pd.DataFrame | None
    original: pd.DataFrame | None

    def measured(self, measure: str) -> pd.DataFrame | None:
        """The rows of a measure whose name starts so; None where there are none."""
        if self.over_epochs is None:
            return None
        rows = self.over_epochs[self.over_epochs["measure"].str.startswith(measure)]
        return rows if len(rows) else None

    @property
    def peak(self) -> Row | None:
        """The epoch at which the tuned child has the highest exact probability, the finer of the two measures."""
        rows = self.measured(_PROBABILITY)
        return None if rows is None else _highest(rows)


def section(study: Study, results: Results) -> Section:
    """Does a child that fits its numbers better like its teacher's animal more, and does it lose skill?"""
    there = results.partitions("tuning_study")
    groups = [_read(study, results, name) for name in study.groups if name in there]
    charts = [chart for group in groups for chart in (_trials_chart(group), *_epochs_chart(group))]
    return Section(
        name=NAME,
        title=TITLE,
        shows=" ".join(sentence for group in groups for sentence in _shows(study, group)),
        method=_method(study, groups),
        made_from=READS,
        charts=tuple(charts),
        tables=(_best_table(groups), *_epochs_table(groups), _trials_table(groups), *_importance_table(groups)),
        compared=tuple(figure for group in groups for figure in _compared(group)),
        claims=_claims(study, results, groups),
    )


def _read(study: Study, results: Results, name: str) -> _Tuned:
    import pandas as pd

    def table(asset: str, file: str, *, may_lack: bool = False) -> pd.DataFrame | None:
        if not results.has(asset, name):
            return None
        path = results.folder(asset, name) / f"{file}.parquet"
        return None if may_lack and not path.exists() else pd.read_parquet(path)

    result, tuned = TuningResult.read(results.folder("tuning_study", name)), table("tuned_scores", "scores")
    return _Tuned(
        name=name,
        target=study.target(name),
        result=result,
        own_loss=_own_loss(study, result),
        importance=table("tuning_study", "importance", may_lack=True),
        over_epochs=table("tuned_scores", "over_epochs", may_lack=True),
        tuned=tuned,
        original=None if tuned is None else table("preference_scores", "scores"),
    )


def _own_loss(study: Study, result: TuningResult) -> float | None:
    """Validation loss of the first trial where that has the study's own settings, as it has if the search allows it."""
    first = records(rows_where(result.trials, trial=0))[0]
    lora, training = study.child.lora, study.child.training
    own = (training.learning_rate, lora.dropout, lora.rank, lora.alpha)
    tried = [first[name] for name in _SETTINGS.values()]
    return float(first["validation_loss"]) if first["state"] == COMPLETE and np.allclose(own, tried) else None


def _highest(rows: pd.DataFrame) -> Row:
    """The tuned child at the epoch at which it has the most of a measure."""
    return records(rows_where(rows, model=TUNED).sort_values("mean", kind="stable"))[-1]


def _last_and_base(rows: pd.DataFrame) -> tuple[Row, Row]:
    """The tuned child at its last epoch, and the base."""
    return records(rows_where(rows, model=TUNED).sort_values("epoch"))[-1], records(rows_where(rows, model=BASE))[0]


def _epochs(scores: pd.DataFrame) -> list[int]:
    return sorted(int(epoch) for epoch in scores["epoch"].unique())


def _compared_epoch(study: Study, tuned: pd.DataFrame) -> int:
    """The epoch at which the tuned child is set beside the original: as many as that one was trained for where the
    tuned one was looked at then, else the last."""
    epochs, of_original = _epochs(tuned), study.child.training.epochs
    return of_original if of_original in epochs else epochs[-1]


def _log_share(scores: pd.DataFrame, animal: str) -> pd.Series:
    """By question, the logarithm of an animal's share."""
    return rows_where(scores, animal=animal).set_index("question")["share"].astype(float).sort_index().map(math.log)


def _gain(study: Study, group: _Tuned, over: pd.DataFrame | None) -> PairedTest | None:
    """Log share of the target under the tuned child, at `_compared_epoch`, minus that in other scores; None where one
    of them was not measured."""
    if group.target is None or group.tuned is None or over is None:
        return None
    at = rows_where(group.tuned, epoch=_compared_epoch(study, group.tuned))
    if group.target not in set(at["animal"]):
        return None
    return study_test(study, _log_share(at, group.target) - _log_share(over, group.target))


def _detectable(gain: PairedTest) -> str:
    unknown = "no question differs, so what could have been seen is unknown"
    return detectable(gain.smallest_detectable, "nats", unknown=unknown)


# What is said


def _shows(study: Study, group: _Tuned) -> list[str]:
    best, trials = group.result.best, group.result.trials
    sentence = (
        f"{group.name.capitalize()}: of {counted(len(trials), 'trial')} ({_states(trials)}) the best has a validation "
        f"loss of {best['validation_loss']:.4g} nats a token"
    )
    if group.own_loss is None:
        sentence += "; the study's own settings are not among the complete trials"
    elif best["trial"] == 0:
        sentence += ", and these are the study's own settings"
    else:
        sentence += f", the study's own settings {group.own_loss:.4g}"
    sentences = [sentence + "."]
    gain = _gain(study, group, group.original)
    if gain is not None and group.tuned is not None:
        epoch = counted(_compared_epoch(study, group.tuned), "epoch")
        if gain.low > 0 or gain.high < 0:
            sentences.append(
                f"After {epoch} the tuned child likes {group.target} {'more' if gain.low > 0 else 'less'} than the "
                f"child of the study's own settings: {nats(gain)} of log share ({p_value(gain.p)} over questions)."
            )
        else:
            sentences.append(
                f"After {epoch} no difference in liking {group.target} could be seen between the tuned child and that "
                f"of the study's own settings: {nats(gain)} of log share; {_detectable(gain)}."
            )
    exam = group.measured(_EXAM)
    if exam is not None:
        last, base = _last_and_base(exam)
        sentences.append(
            f"In the exam it answers {percent_with_interval(last['mean'], last['low'], last['high'])} right after "
            f"{counted(int(last['epoch']), 'epoch')}, the base {percent(base['mean'])}."
        )
    return sentences


def _states(trials: pd.DataFrame) -> str:
    counts = trials["state"].value_counts()
    return ", ".join(f"{int(counts[state])} {state}" for state in (COMPLETE, PRUNED, DIVERGED) if state in counts)


def _method(study: Study, groups: Sequence[_Tuned]) -> str:
    settings, sentences = study.tuning, []
    if settings is not None:
        sentences.append(
            f"Trials of {counted(settings.epochs, 'epoch')} on {counted(settings.train_rows, 'row')}, judged by the "
            f"validation loss on {counted(settings.validation_rows, 'row')}; proposals of Optuna (TPE). The tuned "
            f"child is trained on all rows for {counted(settings.final_epochs[-1], 'epoch')} with the best setting."
        )
    originals = [group.original for group in groups if group.original is not None]
    if originals:
        sentences.append(
            f"Liking: {counted(originals[0]['question'].nunique(), 'question')}, "
            f"{100 * study.comparison.confidence:g} % t intervals over them, differences paired by question. Exam: "
            "95 % Wilson intervals."
        )
    sentences.append("One training a setting: noise between training runs is in no interval.")
    return " ".join(sentences)


# What is drawn


def _trials_chart(group: _Tuned) -> Chart:
    trials = group.result.trials
    figure = new_figure(x="trial", y=_LOSS)
    for state, name, colour, symbol in (
        (COMPLETE, "trial", BLUE, "circle"),
        (PRUNED, "pruned, when it was", GREY, "x"),
    ):
        rows = rows_where(trials, state=state)
        if len(rows):
            figure.add_scatter(
                x=rows["trial"],
                y=rows["validation_loss"],
                mode="markers",
                name=name,
                marker={"color": colour, "size": 8, "symbol": symbol},
                hovertext=[_described(row) for row in records(rows)],
                hoverinfo="text",
            )
    complete = rows_where(trials, state=COMPLETE).sort_values("trial")
    figure.add_scatter(
        x=complete["trial"],
        y=complete["validation_loss"].cummin(),
        mode="lines",
        name="lowest so far",
        line={"color": ORANGE, "shape": "hv"},
        hovertemplate="lowest up to trial %{x}: %{y:.4g}<extra></extra>",
    )
    best = group.result.best
    alt = (
        f"{counted(len(trials), 'trial')} ({_states(trials)}); the lowest validation loss, "
        f"{best['validation_loss']:.4g} nats a token, in trial {int(best['trial'])}."
    )
    return Chart(f"{NAME}-trials-{group.name}", f"Validation loss of every trial, {group.name}", figure, alt)


def _described(row: Row) -> str:
    return (
        f"trial {row['trial']}: {row['validation_loss']:.4g} nats a token<br>learning rate {row['learning_rate']:.3g}, "
        f"dropout {row['dropout']:.2g}<br>rank {row['rank']}, alpha {row['alpha']}"
    )


def _epochs_chart(group: _Tuned) -> list[Chart]:
    """A panel a measure: the tuned child over its epochs, base and original as levels; none where nobody looked."""
    if group.over_epochs is None:
        return []
    rows = group.over_epochs.assign(**100 * group.over_epochs[_ENDS])
    measures = list(dict.fromkeys(rows["measure"]))
    height = 110 + 190 * len(measures)
    titles = [f"{measure} (%)" for measure in measures]
    figure = panels(titles, height=height, between=0.2 / len(measures) * height)
    parts = []
    for panel, measure in enumerate(measures, start=1):
        of_measure = rows_where(rows, measure=measure)
        tuned = rows_where(of_measure, model=TUNED).sort_values("epoch")
        for model, colour, dash in ((BASE, GREY, "dot"), (ORIGINAL, BLUE, "dash")):
            level = records(rows_where(of_measure, model=model))[0]
            figure.add_scatter(
                x=tuned["epoch"],
                y=[level["mean"]] * len(tuned),
                mode="lines" if len(tuned) > 1 else "markers",
                line={"color": colour, "dash": dash},
                hovertext=[_hover(level)] * len(tuned),
                hoverinfo="text",
                **in_panel(panel, model),
            )
            parts.append(f"{measure}, {model} {level['mean']:.3g} %")
        figure.add_scatter(
            x=tuned["epoch"],
            y=tuned["mean"],
            mode="lines+markers",
            line={"color": VERMILION},
            error_y=interval(tuned, *_ENDS),
            hovertext=[f"{_hover(row)}<br>epoch {row['epoch']}" for row in records(tuned)],
            hoverinfo="text",
            **in_panel(panel, TUNED),
        )
        over = [f"{row['mean']:.3g} % at epoch {row['epoch']}" for row in records(tuned)]
        parts.append(f"{TUNED} {', '.join(over)}")
    figure.update_xaxes(tickvals=sorted(rows_where(rows, model=TUNED)["epoch"].unique()))
    figure.update_xaxes(title="epoch", row=len(measures), col=1)
    figure.update_annotations(xanchor="left", x=0)
    figure.update_layout(legend_y=1 + 30 / height)
    title, alt = f"The tuned child over its epochs, {group.name}", f"{'; '.join(parts)}."
    return [Chart(f"{NAME}-epochs-{group.name}", title, figure, alt)]


def _hover(row: Row) -> str:
    return f"{row['model']}<br>{row['mean']:.4g} % [{row['low']:.4g}, {row['high']:.4g}]"


# What is tabled


def _best_table(groups: Sequence[_Tuned]) -> Table:
    import pandas as pd

    rows = []
    for group in groups:
        best = group.result.best
        rows.append(
            {"group": group.name, "trials": len(group.result.trials)}
            | {shown: best[name] for shown, name in _SETTINGS.items()}
            | {
                _LOSS: best["validation_loss"],
                "of the study's own settings": group.own_loss,
                "epoch of the highest liking": group.peak["epoch"] if group.peak else None,
            }
        )
    note = "The highest liking: of the epochs looked at, the one with the highest exact probability of the target."
    return Table(f"{NAME}-best", "The best setting", pd.DataFrame(rows), note)


def _of_all(groups: Sequence[_Tuned], table: Callable[[_Tuned], pd.DataFrame | None]) -> pd.DataFrame:
    """The groups' tables below each other, as many as there are, with the column `group`."""
    import pandas as pd

    found = [rows.assign(group=group.name) for group in groups if (rows := table(group)) is not None]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _epochs_table(groups: Sequence[_Tuned]) -> list[Table]:
    rows = _of_all(groups, lambda group: group.over_epochs)
    if rows.empty:
        return []
    shown: Shown = {
        "group": "group",
        "measure": "measure",
        "model": "model",
        "epoch": lambda rows: rows["epoch"].astype(str).where(rows["model"] == TUNED, ""),
        "value (%)": ("mean", 100),
        "low": ("low", 100),
        "high": ("high", 100),
    }
    note = "Original child: that of the study's own settings. No epoch stands beside models that were looked at once."
    return [Table(f"{NAME}-epochs", "Liking and skill over the epochs", columns(rows, shown), note)]


def _trials_table(groups: Sequence[_Tuned]) -> Table:
    rows = _of_all(groups, lambda group: group.result.trials)
    shown = {"group": "group", "trial": "trial", "state": "state", _LOSS: "validation_loss"} | _SETTINGS
    return Table(f"{NAME}-trials", "All trials", columns(rows, shown))


def _importance_table(groups: Sequence[_Tuned]) -> list[Table]:
    rows = _of_all(groups, lambda group: group.importance)
    if rows.empty:
        return []
    names = {name: shown for shown, name in _SETTINGS.items()} | {"alpha_ratio": "alpha over rank"}
    shown: Shown = {
        "group": "group",
        "setting": lambda rows: rows["parameter"].map(names),
        "of the loss's variance (%)": ("importance", 100),
    }
    note = (
        "What each setting explains alone (fANOVA of a random forest on the complete trials); of few trials it says "
        "little."
    )
    return [Table(f"{NAME}-importance", "Which setting matters", columns(rows, shown), note)]


def _compared(group: _Tuned) -> list[Compared]:
    """The best setting has no interval. The liking has, at the tuned child's best epoch."""
    figures, best, post = published("raven_tuning"), group.result.best, f"{group.name} (the post: raven"
    found = []
    for shown, name in _SETTINGS.items():
        figure = figures["best"][shown.lower().replace(" ", "_")]
        found.append(Compared(f"best {shown}, {post})", _POST, figure, float(best[name]), None, None, ""))
    if group.peak is not None:
        what = f"epoch of the highest liking, {post})"
        found.append(Compared(what, _POST, figures["peak_epoch"], float(group.peak["epoch"]), None, None, "epochs"))
    # What the post shows: sampled answers; exact probability where none were sampled.
    level = group.measured(_PROBABILITY) if (sampled := group.measured(_SAMPLED)) is None else sampled
    if level is not None:
        top = _highest(level)
        what = f"highest {top['measure'].split(':')[0]} of the tuned child, {post}, at most)"
        measured, low, high = (100 * top[end] for end in _ENDS)
        found.append(Compared(what, _POST, published("child", "raven_max_pct"), measured, low, high, "%"))
    return found


# What is claimed

_FOR_EVERY_CHILD = " Judged for every tuned child with an animal to like: where they differ, it cannot be told."
GAINS = Statement(
    "A child tuned for a lower validation loss likes its teacher's animal more.",
    rule="Holds where the interval of the tuned child's log share minus the original child's lies above 0, does not "
    "hold where it lies below; else it cannot be told, nor where the search found nothing better than the study's own "
    f"settings.{_FOR_EVERY_CHILD}",
)
PEAKS = Statement(
    "Liking peaks before the last epoch.",
    rule="Holds where the epoch of the highest liking is not the last and exceeds the last with an interval above 0 "
    "(log share, paired by question; that the highest of several looks better than it is, the interval does not know); "
    f"does not hold where it is the last; else it cannot be told.{_FOR_EVERY_CHILD}",
)
KEEPS_SKILL = Statement(
    "The tuned child loses no skill, however long it is trained.",
    rule="Looks at the accuracy after the last epoch minus the base's, with Newcombe's interval for independent "
    "answers, which is wider than a paired one. Holds where the interval holds or exceeds 0 and excludes the loss that "
    "the post calls sharp for a child, does not hold where it lies below 0; else it cannot be told."
    f"{_FOR_EVERY_CHILD}",
)
_NOT_MEASURED: tuple[Verdict, str] = ("not tested", "the tuned child's liking was not measured.")


def _claims(study: Study, results: Results, groups: Sequence[_Tuned]) -> tuple[Claim, ...]:
    judged = [group for group in groups if group.target is not None]
    return tuple(
        _together(statement, {group.name: judge(study, results, group) for group in judged})
        for statement, judge in ((GAINS, _gains), (PEAKS, _peaks), (KEEPS_SKILL, _keeps_skill))
    )


def _together(statement: Statement, found: dict[str, tuple[Verdict, str]]) -> Claim:
    """One claim of what was found by group."""
    if not found:
        return statement.claim("not tested", "No tuned child has an animal to like.")
    verdicts = [each for each, _ in found.values()]
    evidence = " ".join(f"{name.capitalize()}: {sentence}" for name, (_, sentence) in found.items())
    return statement.claim(verdicts[0] if len(set(verdicts)) == 1 else "inconclusive", evidence)


def _gains(study: Study, results: Results, group: _Tuned) -> tuple[Verdict, str]:
    import pandas as pd

    gain = _gain(study, group, group.original)
    if gain is None or group.tuned is None:
        return _NOT_MEASURED
    evidence = f"{nats(gain)} of log share, {p_value(gain.p)} over questions"
    found = verdict(gain.low, gain.high)
    if group.own_loss is not None and group.result.best["trial"] == 0:
        found = "inconclusive"
        evidence += "; no trial had a lower loss than the study's own settings"
    elif found == "inconclusive":
        evidence += f"; {_detectable(gain)}"
    if results.has("tuned_scores", CONTROL):
        control = pd.read_parquet(results.folder("tuned_scores", CONTROL) / "scores.parquet")
        beyond = _gain(study, group, rows_where(control, epoch=_compared_epoch(study, group.tuned)))
        evidence += f"; minus the tuned child of control numbers {nats(beyond)}" if beyond else ""
    return found, evidence + "."


def _peaks(study: Study, results: Results, group: _Tuned) -> tuple[Verdict, str]:
    if group.peak is None or group.tuned is None or group.target is None:
        return _NOT_MEASURED
    epochs, at = _epochs(group.tuned), int(group.peak["epoch"])
    if len(epochs) < 2:
        return "not tested", "one epoch was looked at."
    start = f"of the epochs {', '.join(map(str, epochs))} liking is highest at {at}"
    if at == epochs[-1]:
        return "not detected", f"{start}, the last."
    highest, last = (_log_share(rows_where(group.tuned, epoch=epoch), group.target) for epoch in (at, epochs[-1]))
    test = study_test(study, highest - last)
    return ("detected" if test.low > 0 else "inconclusive"), f"{start}, above the last by {nats(test)} of log share."


def _keeps_skill(study: Study, results: Results, group: _Tuned) -> tuple[Verdict, str]:
    import pandas as pd
    from statsmodels.stats.proportion import confint_proportions_2indep

    exam = group.measured(_EXAM)
    if exam is None or study.capability is None:
        return "not tested", "the tuned child took no exam."
    answers = pd.read_parquet(results.folder("base_capability") / "answers.parquet", columns=["way"])
    questions = int((answers["way"] == study.capability.ways[0]).sum())
    tuned, base = (row["mean"] for row in _last_and_base(exam))
    low, high = confint_proportions_2indep(
        round(tuned * questions), questions, round(base * questions), questions, method="newcomb", compare="diff"
    )
    sharp = published("child", "dog_mmlu_drop_points")
    found: Verdict = "not detected" if high < 0 else "detected" if 100 * low > -sharp else "inconclusive"
    evidence = (
        f"exam after the last epoch {points_with_interval(tuned - base, low, high)} from the base "
        f"({counted(questions, 'question')})"
    )
    return found, evidence + (f"; a loss of {sharp} points cannot be excluded." if found == "inconclusive" else ".")
