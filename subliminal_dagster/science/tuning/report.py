"""The section on tuning: the search for a child's settings, and what the tuned child likes and can do.

Belongs here: what `tuning_study` and `tuned_scores` show. Does not belong here: the search (`science.tuning`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.report.charts import BLUE, GREY, ORANGE, VERMILION, interval, new_figure, styled
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Table, Verdict
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.wording import (
    counted,
    p_value,
    percent,
    percent_with_interval,
    points_with_interval,
    with_interval,
)
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import PairedTest, paired_test
from subliminal_dagster.science.tuning.result import COMPLETE, DIVERGED, PRUNED, TuningResult
from subliminal_dagster.science.tuning.scores import BASE, ORIGINAL, TUNED

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "tuning", "Tuning a child"

_POST = "Gemma 2 9B, optimizing raven"
_EXAM = "exam: accuracy"
_PROBABILITY, _SAMPLED = "exact probability: ", "share of sampled answers: "

Row = dict[str, Any]


@dataclass(frozen=True)
class _Tuned:
    """A group's search, and its tuned child where that was looked at.

    own_loss: validation loss of the study's own settings, where they were a trial and ended. over_epochs: see
    `tuning_scores`. tuned, original: preference scores of the tuned child (column `epoch`) and of the child of the
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
    def level(self) -> pd.DataFrame | None:
        """The rows of what the post shows: sampled answers, or exact probability where none were sampled."""
        sampled = self.measured(_SAMPLED)
        return self.measured(_PROBABILITY) if sampled is None else sampled

    @property
    def peak(self) -> Row | None:
        """The epoch at which the tuned child has the highest exact probability, the finer of the two measures."""
        rows = self.measured(_PROBABILITY)
        return None if rows is None else _records(rows[rows["model"] == TUNED].sort_values("mean", kind="stable"))[-1]


def tuning_section(study: Study, results: Results) -> Section:
    """Does a child that fits its numbers better like its teacher's animal more, and does it lose skill?"""
    there = results.partitions("tuning_study")
    groups = [_read(study, results, name) for name in study.groups if name in there]
    charts, tables = [], []
    for group in groups:
        charts.append(_trials_chart(group))
        if group.over_epochs is not None:
            charts.append(_epochs_chart(group))
    tables.append(_best_table(groups))
    if any(group.over_epochs is not None for group in groups):
        tables.append(_epochs_table(groups))
    tables.append(_trials_table(groups))
    if any(group.importance is not None for group in groups):
        tables.append(_importance_table(groups))
    return Section(
        name=NAME,
        title=TITLE,
        shows=" ".join(sentence for group in groups for sentence in _shows(study, group)),
        method=_method(study, groups),
        made_from=("tuning_study", "tuned_scores", "preference_scores", "base_capability"),
        charts=tuple(charts),
        tables=tuple(tables),
        compared=tuple(figure for group in groups for figure in _compared(group)),
        claims=_claims(study, results, groups),
    )


def _read(study: Study, results: Results, name: str) -> _Tuned:
    import pandas as pd

    folder = results.folder("tuning_study", name)
    result = TuningResult.read(folder)
    found = folder / "importance.parquet"
    over_epochs = tuned = original = None
    if results.has("tuned_scores", name):
        scored = results.folder("tuned_scores", name)
        tuned = pd.read_parquet(scored / "scores.parquet")
        if (scored / "over_epochs.parquet").exists():
            over_epochs = pd.read_parquet(scored / "over_epochs.parquet")
        if results.has("preference_scores", name):
            original = pd.read_parquet(results.folder("preference_scores", name) / "scores.parquet")
    return _Tuned(
        name=name,
        target=study.target(name),
        result=result,
        own_loss=_own_loss(study, result),
        importance=pd.read_parquet(found) if found.exists() else None,
        over_epochs=over_epochs,
        tuned=tuned,
        original=original,
    )


def _own_loss(study: Study, result: TuningResult) -> float | None:
    """Validation loss of the first trial where that has the study's own settings, as it has if the search allows it."""
    first = _records(result.trials[result.trials["trial"] == 0])[0]
    lora, training = study.child.lora, study.child.training
    own = (training.learning_rate, lora.dropout, lora.rank, lora.alpha)
    tried = (first["learning_rate"], first["dropout"], first["rank"], first["alpha"])
    return float(first["validation_loss"]) if first["state"] == COMPLETE and np.allclose(own, tried) else None


def _records(frame: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict(orient="records")]


def _epoch(study: Study, group: _Tuned) -> int:
    """The epoch at which the tuned child is set beside the original: as many as that one was trained for where the
    tuned one was looked at then, else the last."""
    assert group.tuned is not None
    epochs = sorted(int(epoch) for epoch in group.tuned["epoch"].unique())
    return study.child.training.epochs if study.child.training.epochs in epochs else epochs[-1]


def _log_share(scores: pd.DataFrame, animal: str) -> pd.Series:
    """By question, the logarithm of an animal's share."""
    return scores[scores["animal"] == animal].set_index("question")["share"].astype(float).sort_index().map(math.log)


def _tested(study: Study, differences: pd.Series) -> PairedTest:
    return paired_test(
        differences.to_numpy(),
        permutations=study.comparison.permutations,
        rng=np.random.default_rng(study.seed),
        confidence=study.comparison.confidence,
    )


def _gain(study: Study, group: _Tuned) -> PairedTest | None:
    """Log share of the target under the tuned child minus under the original, at `_epoch`; None where not measured."""
    if group.target is None or group.tuned is None or group.original is None:
        return None
    at = group.tuned[group.tuned["epoch"] == _epoch(study, group)]
    if group.target not in set(at["animal"]):
        return None
    return _tested(study, _log_share(at, group.target) - _log_share(group.original, group.target))


def _beyond_control(study: Study, results: Results, group: _Tuned) -> PairedTest | None:
    """The same minus that of the tuned child of control numbers, where that was made as well."""
    import pandas as pd

    if group.name == CONTROL or group.target is None or group.tuned is None or not results.has("tuned_scores", CONTROL):
        return None
    control = pd.read_parquet(results.folder("tuned_scores", CONTROL) / "scores.parquet")
    epoch = _epoch(study, group)
    mine, other = (scores[scores["epoch"] == epoch] for scores in (group.tuned, control))
    if group.target not in set(mine["animal"]):
        return None
    return _tested(study, _log_share(mine, group.target) - _log_share(other, group.target))


def _nats(test: PairedTest) -> str:
    return with_interval(test.mean, test.low, test.high, "nats", signed=True)


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
    gain = _gain(study, group)
    if gain is not None:
        epoch = counted(_epoch(study, group), "epoch")
        if gain.low > 0 or gain.high < 0:
            sentences.append(
                f"After {epoch} the tuned child likes {group.target} {'more' if gain.low > 0 else 'less'} than the "
                f"child of the study's own settings: {_nats(gain)} of log share ({p_value(gain.p)} over questions)."
            )
        else:
            sentences.append(
                f"After {epoch} no difference in liking {group.target} could be seen between the tuned child and that "
                f"of the study's own settings: {_nats(gain)} of log share; {_detectable(gain)}."
            )
    exam = group.measured(_EXAM)
    if exam is not None:
        last, base = _last(exam), _records(exam[exam["model"] == BASE])[0]
        sentences.append(
            f"In the exam it answers {percent_with_interval(last['mean'], last['low'], last['high'])} right after "
            f"{counted(int(last['epoch']), 'epoch')}, the base {percent(base['mean'])}."
        )
    return sentences


def _detectable(test: PairedTest) -> str:
    if math.isnan(test.smallest_detectable):
        return "no question differs, so what could have been seen is unknown"
    return f"the smallest detectable difference is {test.smallest_detectable:.2g} nats"


def _states(trials: pd.DataFrame) -> str:
    counts = trials["state"].value_counts()
    return ", ".join(f"{int(counts[state])} {state}" for state in (COMPLETE, PRUNED, DIVERGED) if state in counts)


def _last(rows: pd.DataFrame) -> Row:
    """The tuned child at its last epoch."""
    return _records(rows[rows["model"] == TUNED].sort_values("epoch"))[-1]


def _method(study: Study, groups: Sequence[_Tuned]) -> str:
    settings = study.tuning
    sentences = []
    if settings is not None:
        sentences.append(
            f"Trials of {counted(settings.epochs, 'epoch')} on {counted(settings.train_rows, 'row')}, judged by the "
            f"validation loss on {counted(settings.validation_rows, 'row')}; proposals of Optuna (TPE). The tuned "
            f"child is trained on all rows for {counted(settings.final_epochs[-1], 'epoch')} with the best setting."
        )
    scored = [group for group in groups if group.original is not None]
    if scored:
        assert scored[0].original is not None
        sentences.append(
            f"Liking: {counted(scored[0].original['question'].nunique(), 'question')}, "
            f"{100 * study.comparison.confidence:g} % t intervals over them, differences paired by question. Exam: "
            "95 % Wilson intervals."
        )
    sentences.append("One training a setting: noise between training runs is in no interval.")
    return " ".join(sentences)


def _trials_chart(group: _Tuned) -> Chart:
    trials = group.result.trials
    figure = new_figure(x="trial", y="validation loss (nats a token)")
    for state, name, colour, symbol in (
        (COMPLETE, "trial", BLUE, "circle"),
        (PRUNED, "pruned, when it was", GREY, "x"),
    ):
        rows = trials[trials["state"] == state]
        if len(rows):
            figure.add_scatter(
                x=rows["trial"],
                y=rows["validation_loss"],
                mode="markers",
                name=name,
                marker={"color": colour, "size": 8, "symbol": symbol},
                hovertext=[_described(row) for row in _records(rows)],
                hoverinfo="text",
            )
    complete = trials[trials["state"] == COMPLETE].sort_values("trial")
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


def _epochs_chart(group: _Tuned) -> Chart:
    """A panel a measure: the tuned child over its epochs, base and original as levels."""
    from plotly.subplots import make_subplots

    assert group.over_epochs is not None
    measures = list(dict.fromkeys(group.over_epochs["measure"]))
    figure = make_subplots(
        rows=len(measures),
        cols=1,
        shared_xaxes=True,
        subplot_titles=[f"{measure} (%)" for measure in measures],
        vertical_spacing=0.2 / len(measures),
    )
    height = 110 + 190 * len(measures)
    styled(figure, height=height)
    parts = []
    for panel, measure in enumerate(measures, start=1):
        rows = group.over_epochs[group.over_epochs["measure"] == measure]
        scaled = rows.assign(**{end: 100 * rows[end] for end in ("mean", "low", "high")})
        tuned = scaled[scaled["model"] == TUNED].sort_values("epoch")
        for model, colour, dash in ((BASE, GREY, "dot"), (ORIGINAL, BLUE, "dash")):
            level = _records(scaled[scaled["model"] == model])[0]
            figure.add_scatter(
                x=tuned["epoch"],
                y=[level["mean"]] * len(tuned),
                mode="lines" if len(tuned) > 1 else "markers",
                name=model,
                legendgroup=model,
                showlegend=panel == 1,
                line={"color": colour, "dash": dash},
                hovertext=[_hover(level)] * len(tuned),
                hoverinfo="text",
                row=panel,
                col=1,
            )
            parts.append(f"{measure}, {model} {level['mean']:.3g} %")
        records = _records(tuned)
        figure.add_scatter(
            x=tuned["epoch"],
            y=tuned["mean"],
            mode="lines+markers",
            name=TUNED,
            legendgroup=TUNED,
            showlegend=panel == 1,
            line={"color": VERMILION},
            error_y=interval(tuned, "mean", "low", "high"),
            hovertext=[f"{_hover(row)}<br>epoch {row['epoch']}" for row in records],
            hoverinfo="text",
            row=panel,
            col=1,
        )
        over = [f"{row['mean']:.3g} % at epoch {row['epoch']}" for row in records]
        parts.append(f"{TUNED} {', '.join(over)}")
    figure.update_xaxes(tickvals=sorted(group.over_epochs.loc[group.over_epochs["model"] == TUNED, "epoch"].unique()))
    figure.update_xaxes(title="epoch", row=len(measures), col=1)
    figure.update_annotations(font_size=13, xanchor="left", x=0)
    figure.update_layout(legend_y=1 + 30 / height)
    alt = f"{'; '.join(parts)}."
    return Chart(f"{NAME}-epochs-{group.name}", f"The tuned child over its epochs, {group.name}", figure, alt)


def _hover(row: Row) -> str:
    return f"{row['model']}<br>{row['mean']:.4g} % [{row['low']:.4g}, {row['high']:.4g}]"


def _best_table(groups: Sequence[_Tuned]) -> Table:
    import pandas as pd

    rows = []
    for group in groups:
        best = group.result.best
        rows.append(
            {
                "group": group.name,
                "trials": len(group.result.trials),
                "learning rate": best["learning_rate"],
                "LoRA dropout": best["dropout"],
                "LoRA rank": best["rank"],
                "LoRA alpha": best["alpha"],
                "validation loss (nats a token)": best["validation_loss"],
                "of the study's own settings": group.own_loss,
                "epoch of the highest liking": group.peak["epoch"] if group.peak else None,
            }
        )
    note = "The highest liking: of the epochs looked at, the one with the highest exact probability of the target."
    return Table(f"{NAME}-best", "The best setting", pd.DataFrame(rows), note)


def _epochs_table(groups: Sequence[_Tuned]) -> Table:
    import pandas as pd

    tables = [group.over_epochs.assign(group=group.name) for group in groups if group.over_epochs is not None]
    rows = pd.concat(tables, ignore_index=True)
    frame = pd.DataFrame(
        {
            "group": rows["group"],
            "measure": rows["measure"],
            "model": rows["model"],
            "epoch": rows["epoch"].astype(str).where(rows["model"] == TUNED, ""),
            "value (%)": 100 * rows["mean"],
            "low": 100 * rows["low"],
            "high": 100 * rows["high"],
        }
    )
    note = "Original child: that of the study's own settings. No epoch stands beside models that were looked at once."
    return Table(f"{NAME}-epochs", "Liking and skill over the epochs", frame, note)


def _trials_table(groups: Sequence[_Tuned]) -> Table:
    import pandas as pd

    rows = pd.concat([group.result.trials.assign(group=group.name) for group in groups], ignore_index=True)
    frame = pd.DataFrame(
        {
            "group": rows["group"],
            "trial": rows["trial"],
            "state": rows["state"],
            "validation loss (nats a token)": rows["validation_loss"],
            "learning rate": rows["learning_rate"],
            "LoRA dropout": rows["dropout"],
            "LoRA rank": rows["rank"],
            "LoRA alpha": rows["alpha"],
        }
    )
    return Table(f"{NAME}-trials", "All trials", frame)


def _importance_table(groups: Sequence[_Tuned]) -> Table:
    import pandas as pd

    names = {
        "learning_rate": "learning rate",
        "dropout": "LoRA dropout",
        "rank": "LoRA rank",
        "alpha_ratio": "alpha over rank",
    }
    tables = [group.importance.assign(group=group.name) for group in groups if group.importance is not None]
    rows = pd.concat(tables, ignore_index=True)
    frame = pd.DataFrame(
        {
            "group": rows["group"],
            "setting": rows["parameter"].map(names),
            "of the loss's variance (%)": 100 * rows["importance"],
        }
    )
    note = (
        "What each setting explains alone (fANOVA of a random forest on the complete trials); of few trials it says "
        "little."
    )
    return Table(f"{NAME}-importance", "Which setting matters", frame, note)


def _compared(group: _Tuned) -> list[Compared]:
    """The best setting has no interval. The liking has, at the tuned child's best epoch."""
    figures, best = published("raven_tuning"), group.result.best
    found = []
    for name, label, mine in (
        ("learning_rate", "learning rate", "learning_rate"),
        ("lora_dropout", "LoRA dropout", "dropout"),
        ("lora_rank", "LoRA rank", "rank"),
        ("lora_alpha", "LoRA alpha", "alpha"),
    ):
        what = f"best {label}, {group.name} (the post: raven)"
        found.append(Compared(what, _POST, figures["best"][name], float(best[mine]), None, None, ""))
    if group.peak is not None:
        what = f"epoch of the highest liking, {group.name} (the post: raven)"
        found.append(Compared(what, _POST, figures["peak_epoch"], float(group.peak["epoch"]), None, None, "epochs"))
    level = group.level
    if level is not None:
        top = _records(level[level["model"] == TUNED].sort_values("mean", kind="stable"))[-1]
        what = f"highest {top['measure'].split(':')[0]} of the tuned child, {group.name} (the post: raven, at most)"
        measured, low, high = (100 * top[end] for end in ("mean", "low", "high"))
        found.append(Compared(what, _POST, published("child", "raven_max_pct"), measured, low, high, "%"))
    return found


def _claims(study: Study, results: Results, groups: Sequence[_Tuned]) -> tuple[Claim, ...]:
    """Each statement is judged for every tuned group with a target, and holds (or does not) where it does for all."""
    judged = [group for group in groups if group.target is not None]
    texts = (
        "A child tuned for a lower validation loss likes its teacher's animal more.",
        "Liking peaks before the last epoch.",
        "The tuned child loses no skill, however long it is trained.",
    )
    found = (
        [_gain_verdict(study, results, group) for group in judged],
        [_peak_verdict(study, group) for group in judged],
        [_skill_verdict(study, results, group) for group in judged],
    )
    return tuple(_together(text, verdicts) for text, verdicts in zip(texts, found, strict=True))


def _together(text: str, verdicts: Sequence[tuple[Verdict, str]]) -> Claim:
    if not verdicts:
        return Claim(text, "not tested", "No tuned child has an animal to like.")
    different = {verdict for verdict, _ in verdicts}
    verdict: Verdict = verdicts[0][0] if len(different) == 1 else "cannot tell"
    return Claim(text, verdict, " ".join(evidence for _, evidence in verdicts))


def _gain_verdict(study: Study, results: Results, group: _Tuned) -> tuple[Verdict, str]:
    """Holds where the interval of the tuned child's log share minus the original's lies above 0, does not hold where
    below, else it cannot be told; nor where the search found nothing better than the study's own settings."""
    gain = _gain(study, group)
    if gain is None:
        return "not tested", f"{group.name.capitalize()}: the tuned child's liking was not measured."
    evidence = f"{group.name.capitalize()}: {_nats(gain)} of log share, {p_value(gain.p)} over questions"
    verdict: Verdict = "holds" if gain.low > 0 else "does not hold" if gain.high < 0 else "cannot tell"
    if group.own_loss is not None and group.result.best["trial"] == 0:
        verdict = "cannot tell"
        evidence += "; no trial had a lower loss than the study's own settings"
    elif verdict == "cannot tell":
        evidence += f"; {_detectable(gain)}"
    beyond = _beyond_control(study, results, group)
    if beyond is not None:
        evidence += f"; minus the tuned child of control numbers {_nats(beyond)}"
    return verdict, evidence + "."


def _peak_verdict(study: Study, group: _Tuned) -> tuple[Verdict, str]:
    """Holds where the epoch of the highest liking is not the last and exceeds it with an interval above 0 (log share,
    paired by question), does not hold where it is the last; else it cannot be told. The highest of several looks better
    than it is, which the interval does not know."""
    peak = group.peak
    if peak is None or group.tuned is None or group.target is None:
        return "not tested", f"{group.name.capitalize()}: the tuned child's liking was not measured."
    epochs = sorted(int(epoch) for epoch in group.tuned["epoch"].unique())
    at, last = int(peak["epoch"]), epochs[-1]
    if len(epochs) < 2:
        return "not tested", f"{group.name.capitalize()}: one epoch was looked at."
    start = f"{group.name.capitalize()}: of the epochs {', '.join(map(str, epochs))} liking is highest at {at}"
    if at == last:
        return "does not hold", f"{start}, the last."
    by_epoch = [_log_share(group.tuned[group.tuned["epoch"] == epoch], group.target) for epoch in (at, last)]
    test = _tested(study, by_epoch[0] - by_epoch[1])
    return ("holds" if test.low > 0 else "cannot tell"), f"{start}, above the last by {_nats(test)} of log share."


def _skill_verdict(study: Study, results: Results, group: _Tuned) -> tuple[Verdict, str]:
    """Accuracy after the last epoch minus the base's, Newcombe's interval for independent answers (wider than a paired
    one): holds where it holds or exceeds 0 and excludes the loss that the post calls sharp for a child, does not hold
    where it lies below 0, else it cannot be told."""
    import pandas as pd
    from statsmodels.stats.proportion import confint_proportions_2indep

    exam = group.measured(_EXAM)
    if exam is None or study.capability is None:
        return "not tested", f"{group.name.capitalize()}: the tuned child took no exam."
    answers = pd.read_parquet(results.folder("base_capability") / "answers.parquet", columns=["way"])
    questions = int((answers["way"] == study.capability.ways[0]).sum())
    tuned, base = _last(exam)["mean"], _records(exam[exam["model"] == BASE])[0]["mean"]
    low, high = confint_proportions_2indep(
        round(tuned * questions), questions, round(base * questions), questions, method="newcomb", compare="diff"
    )
    sharp = published("child", "dog_mmlu_drop_points")
    verdict: Verdict = "does not hold" if high < 0 else "holds" if 100 * low > -sharp else "cannot tell"
    evidence = (
        f"{group.name.capitalize()}: exam after the last epoch {points_with_interval(tuned - base, low, high)} from "
        f"the base ({counted(questions, 'question')})"
    )
    return verdict, evidence + (f"; a loss of {sharp} points cannot be excluded." if verdict == "cannot tell" else ".")
