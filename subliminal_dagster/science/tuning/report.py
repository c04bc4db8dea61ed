"""The section on tuning: the search for a child's settings, and what the tuned child likes and can do.

Belongs here: what `tuning_study` and `tuned_scores` show. Does not belong here: the search (`science.tuning`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science import colours
from subliminal_dagster.science.capability.capability import WAYS
from subliminal_dagster.science.capability.report import JUDGED, keeps_skill
from subliminal_dagster.science.colours import KINDS
from subliminal_dagster.science.report.charts import (
    in_panel,
    interval,
    new_figure,
    panels,
)
from subliminal_dagster.science.report.effects import detectable, nats, study_test
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Statement, Table
from subliminal_dagster.science.report.layers import (
    FEWEST_ANIMALS,
    Interval,
    OverAnimals,
    average_of,
    more,
    over_animals,
)
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
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import PairedTest, t_interval
from subliminal_dagster.science.tuning.result import COMPLETE, DIVERGED, PRUNED, TuningResult
from subliminal_dagster.science.tuning.scores import BASE, ORIGINAL, TUNED
from subliminal_dagster.science.verdict import Verdict

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

    @property
    def found_nothing_better(self) -> bool:
        """Whether the best trial is the one of the study's own settings, so that the tuned child has no lower loss."""
        return self.own_loss is not None and self.result.best["trial"] == 0


def section(study: Study, results: Results) -> Section:
    """Does a child that fits its numbers better like its teacher's animal more, and does it lose skill?"""
    there = results.partitions("tuning_study")
    groups = [_read(study, results, name) for name in study.groups if name in there]
    charts = [chart for group in groups for chart in (_trials_chart(group), *_epochs_chart(group))]
    animals = [group for group in groups if group.name in study.animals]
    return Section(
        name=NAME,
        title=TITLE,
        shows=" ".join(sentence for group in groups for sentence in _shows(study, group)),
        method=_method(study, groups),
        made_from=READS,
        charts=tuple(charts),
        tables=(_best_table(groups), *_epochs_table(groups), _trials_table(groups), *_importance_table(groups)),
        compared=tuple(figure for group in groups for figure in _compared(group)),
        claims=(_gains(study, results, animals), _peaks(study, animals), _keeps_skill(study, results, animals)),
    )


def _read(study: Study, results: Results, name: str) -> _Tuned:
    import pandas as pd

    def table(asset: str, file: str, *, may_lack: bool = False) -> pd.DataFrame | None:
        place = results.of(asset, name)
        if not results.has(*place):
            return None
        path = results.folder(*place) / f"{file}.parquet"
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
    assert lora is not None
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
                f"child of the study's own settings, for exactly these two children: {nats(gain)} of log share "
                f"({p_value(gain.p)} over questions)."
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
    sentences.append(
        "One training a setting: these intervals speak of exactly these children. What training does is judged by t "
        f"intervals over the animals' children, {FEWEST_ANIMALS} or more, which hold the noise between training runs."
    )
    return " ".join(sentences)


# What is drawn


def _trials_chart(group: _Tuned) -> Chart:
    trials = group.result.trials
    figure = new_figure(x="trial", y=_LOSS)
    for state, name, colour, symbol in (
        (COMPLETE, "trial", KINDS[0], "circle"),
        (PRUNED, "pruned, when it was", KINDS[1], "x"),
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
        line={"color": KINDS[2], "shape": "hv"},
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
    """A panel per measure: the tuned child over its epochs, base and original as levels; none where nobody looked."""
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
        for model, colour, dash in ((BASE, colours.BASE, "dot"), (ORIGINAL, colours.CHILD, "dash")):
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
            line={"color": KINDS[2]},
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

_CHILDREN = (
    f"The animals' children are the units ({FEWEST_ANIMALS} or more, else inconclusive), so that the noise between "
    "training runs is in the interval; what is said of one child speaks of exactly that child. "
)
GAINS = Statement(
    "A child tuned for a lower validation loss likes its teacher's animal more.",
    rule=f"{_CHILDREN}By the 95 % interval of the tuned child's log share minus the original child's: detected where "
    "all of it lies above 0, opposite where below; not detected where the 90 % interval excludes the study's margin on "
    "both sides (equivalence test); else inconclusive. Children are left out whose search found nothing better than "
    "the study's own settings.",
)
PEAKS = Statement(
    "Liking peaks before the last epoch.",
    rule=f"{_CHILDREN}By the log share after each earlier epoch minus that after the last: detected where the interval "
    "of some earlier epoch lies above 0 (simultaneous at 95 % over the epochs, by Bonferroni); opposite where the 95 % "
    "interval of every earlier epoch lies below 0; not detected where the 90 % interval of every one excludes as much "
    "as the study's margin above 0; else inconclusive.",
)
KEEPS_SKILL = Statement(
    "The tuned child loses no skill, however long it is trained.",
    rule=f"{_CHILDREN}By the change of the accuracy in the exam from the base to the last epoch. {JUDGED} That over "
    "questions is Newcombe's for independent answers, wider than a paired one.",
)
_NO_ANIMAL = "No tuned child has an animal to like."


def _over_children(found: OverAnimals | None, children: int, unit: str, scale: float = 1) -> str:
    """The mean with the interval that decides, or why there is none."""
    if found is not None:
        mean, low, high = (scale * end for end in found.interval)
        written = with_interval(mean, low, high, unit, signed=True)
        return f"Mean over {counted(children, 'child', 'children')}: {written}"
    return f"Too few children that differ ({children}, at least {FEWEST_ANIMALS} are needed) to tell what training does"


def _these_children(found: dict[str, str]) -> str:
    """What holds for exactly these children, by name, as a clause."""
    return f"for exactly these children, over questions: {'; '.join(f'{name} {of}' for name, of in found.items())}"


def _gains(study: Study, results: Results, groups: Sequence[_Tuned]) -> Claim:
    gains = {group.name: gain for group in groups if (gain := _gain(study, group, group.original)) is not None}
    if not gains:
        return GAINS.claim("not tested", "The tuned child's liking was not measured." if groups else _NO_ANIMAL)
    measured = [group for group in groups if group.name in gains]
    units = [gains[group.name].mean for group in measured if not group.found_nothing_better]
    found, margin = over_animals(units), study.comparison.margin
    decided = more(found, margin)
    evidence = [_over_children(found, len(units), "nats of log share")]
    if decided == "not detected":
        evidence.append(f"a difference of {margin:g} nats, either way, is excluded")
    elif found is not None and decided == "inconclusive":
        evidence.append(_detectable(study_test(study, units)))
    evidence.append(_these_children({group.name: _one_gain(study, results, group) for group in measured}))
    return GAINS.claim(decided, f"{'; '.join(evidence)}.")


def _one_gain(study: Study, results: Results, group: _Tuned) -> str:
    import pandas as pd

    gain = _gain(study, group, group.original)
    assert gain is not None and group.tuned is not None
    said = f"{nats(gain)}, {p_value(gain.p)}"
    if gain.low <= 0 <= gain.high:
        said += f", {_detectable(gain)}"
    if group.found_nothing_better:
        said += ", left out, as no trial had a lower loss than the study's own settings"
    if results.has("tuned_scores", CONTROL):
        control = pd.read_parquet(results.folder("tuned_scores", CONTROL) / "scores.parquet")
        beyond = _gain(study, group, rows_where(control, epoch=_compared_epoch(study, group.tuned)))
        said += f", minus the tuned child of control numbers {nats(beyond)}" if beyond else ""
    return said


def _peaks(study: Study, groups: Sequence[_Tuned]) -> Claim:
    tuned = {group.name: group for group in groups if group.peak is not None}
    if not tuned:
        return PEAKS.claim("not tested", "The tuned child's liking was not measured." if groups else _NO_ANIMAL)
    each = [_epochs(group.tuned) for group in tuned.values() if group.tuned is not None]
    epochs = sorted(set(each[0]).intersection(*each[1:]))
    if len(epochs) < 2:
        return PEAKS.claim("not tested", "One epoch was looked at.")
    above = {
        epoch: [float(_above_last(group, epoch, epochs[-1]).mean()) for group in tuned.values()]
        for epoch in epochs[:-1]
    }
    highest = max(above, key=lambda epoch: np.mean(above[epoch]))
    evidence = [
        _over_children(over_animals(above[highest]), len(tuned), "nats of log share")
        + f" at epoch {highest}, the highest before the last, minus the last",
        _these_children({name: _one_peak(study, group, epochs) for name, group in tuned.items()}),
    ]
    return PEAKS.claim(_peak_verdict(above, study.comparison.margin), f"{'; '.join(evidence)}.")


def _above_last(group: _Tuned, epoch: int, last: int) -> pd.Series:
    """By question, the log share of the target after an epoch minus that after the last."""
    assert group.tuned is not None and group.target is not None
    then, after = (_log_share(rows_where(group.tuned, epoch=at), group.target) for at in (epoch, last))
    return then - after


def _peak_verdict(above: dict[int, list[float]], margin: float) -> Verdict:
    """By the rule of PEAKS. above: by earlier epoch, how far each child's liking lies above that after the last."""
    found = [over_animals(of_children) for of_children in above.values()]
    each = [of_epoch for of_epoch in found if of_epoch is not None]
    if len(each) < len(found):
        return "inconclusive"
    level = 1 - 0.05 / len(above)
    if any(t_interval(of_children, level).low > 0 for of_children in above.values()):
        return "detected"
    if all(of_epoch.interval.high < 0 for of_epoch in each):
        return "opposite"
    return "not detected" if all(of_epoch.inner.high < margin for of_epoch in each) else "inconclusive"


def _one_peak(study: Study, group: _Tuned, epochs: Sequence[int]) -> str:
    assert group.peak is not None
    said = f"is highest at epoch {group.peak['epoch']} of {listed([str(epoch) for epoch in epochs])}"
    if group.peak["epoch"] in epochs[:-1]:
        said += f", above the last by {nats(study_test(study, _above_last(group, group.peak['epoch'], epochs[-1])))}"
    return said


def _keeps_skill(study: Study, results: Results, groups: Sequence[_Tuned]) -> Claim:
    exams = {group.name: exam for group in groups if (exam := group.measured(_EXAM)) is not None}
    if not exams or study.capability is None:
        return KEEPS_SKILL.claim("not tested", "The tuned child took no exam." if groups else _NO_ANIMAL)
    questions = _exam_questions(study, results)
    changes = {name: _change(exam, questions) for name, exam in exams.items()}
    found = over_animals([change.value for change in changes.values()], average_of(changes.values()))
    decided, sharp = keeps_skill(found), published("child", "dog_mmlu_drop_points")
    measure, children = WAYS[study.capability.ways[0]], _over_children(found, len(changes), "points", 100)
    evidence = [f"Exam ({measure}) after the last epoch, from the base. {children}"]
    if found is not None and decided == "inconclusive":
        evidence.append(f"a loss of {sharp} points cannot be excluded")
    evidence.append(_these_children({name: points_with_interval(*change) for name, change in changes.items()}))
    return KEEPS_SKILL.claim(decided, f"{'; '.join(evidence)} ({counted(questions, 'question')}).")


def _exam_questions(study: Study, results: Results) -> int:
    import pandas as pd

    assert study.capability is not None
    answers = pd.read_parquet(results.folder("base_capability") / "answers.parquet", columns=["way"])
    return int((answers["way"] == study.capability.ways[0]).sum())


def _change(exam: pd.DataFrame, questions: int) -> Interval:
    """From the base's accuracy to the tuned child's after its last epoch."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    tuned, base = (row["mean"] for row in _last_and_base(exam))
    right = (round(tuned * questions), questions, round(base * questions), questions)
    low, high = confint_proportions_2indep(*right, method="newcomb", compare="diff")
    return Interval(tuned - base, float(low), float(high))
