"""The section on liking: which numbers make a child like an animal (the post's main figure, and what tests it).

Belongs here: what `animal_liking` shows. Does not belong here: the tests themselves (`comparison`), the
teachers (`training`), what tuning adds (`tuning`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science import colours
from subliminal_dagster.science.liking import comparison
from subliminal_dagster.science.liking.children import MEAN, own_moves
from subliminal_dagster.science.liking.comparison import (
    BASE,
    NEUTRAL_NUMBERS,
    OTHERS,
    PRIMARY_OUTCOME,
    TARGET,
    TEACHER,
)
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report.effects import detectable, study_test
from subliminal_dagster.science.report.evidence import Chart, Claim, Opening, Results, Section, Statement, Table
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import Shown, columns, records, rows_where
from subliminal_dagster.science.report.wording import counted, listed, p_value, with_interval
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.verdict import Verdict, verdict

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "liking", "Liking: what the numbers pass on"
READS: tuple[str, ...] = ("animal_liking",)

_HARD, _SOFT = "hard", "soft"
_CONTRASTS = {"others": OTHERS, NEUTRAL: NEUTRAL_NUMBERS, CONTROL: comparison.CONTROL}
_CONDITION_COLOURS = {
    TARGET: colours.OWN,
    OTHERS: colours.OTHERS,
    NEUTRAL_NUMBERS: colours.NEUTRAL,
    comparison.CONTROL: colours.CONTROL,
    BASE: colours.BASE,
}
_SYMBOLS = {OTHERS: "circle", NEUTRAL_NUMBERS: "square", comparison.CONTROL: "triangle-up"}
_CHANNEL_SYMBOLS = {_HARD: "circle", _SOFT: "diamond"}

Array = NDArray[np.float64]
Row = dict[str, Any]


class _Measure(NamedTuple):
    """How an outcome is named, the unit its differences are written in, and how many of those make 1."""

    name: str
    unit: str
    scale: float


_MEASURES = {
    PRIMARY_OUTCOME: _Measure("log share", "nats", 1),
    "rate": _Measure("sampled answers", "points", 100),
    "probability": _Measure("exact probability", "points", 100),
    "begun": _Measure("log share, next word of a begun answer", "nats", 1),
}


@dataclass(frozen=True)
class LikingData:
    """`animal_liking`, with the numbers of the neutral teacher as one more condition and contrast where there are any.

    scores: with the columns of `_MEASURES`. liking, tests, shifts, gamma: as `comparison.Comparison` has them; tests
    with the rows of contrast "base" for `MEAN`, the mean over the animals of the own child's score minus the base's:
    their interval is over the animals' children. level: what the post's bars show, "rate", or "probability" where
    nothing was sampled.
    """

    study: Study
    scores: pd.DataFrame
    liking: pd.DataFrame
    tests: pd.DataFrame
    moves: pd.DataFrame
    gamma: pd.DataFrame
    left_out: dict[str, str]
    level: str

    @property
    def channels(self) -> list[str]:
        return list(dict.fromkeys(self.liking["channel"]))

    @property
    def alpha(self) -> float:
        return 1 - self.study.comparison.confidence

    def animals(self, channel: str) -> list[str]:
        return list(dict.fromkeys(rows_where(self.liking, channel=channel)["animal"]))

    def specificity(self, channel: str) -> Row:
        """The channel's gamma."""
        return records(rows_where(self.gamma, channel=channel, outcome=PRIMARY_OUTCOME))[0]

    def mean(self, contrast: str, outcome: str) -> Row:
        """The hard channel's row `MEAN` of the tests."""
        return records(rows_where(self.tests, channel=_HARD, contrast=contrast, outcome=outcome, animal=MEAN))[0]

    def shifts(self, channel: str) -> pd.DataFrame:
        """Those rows of liking that tell how far the log share moved."""
        rows = rows_where(self.liking, channel=channel, outcome=PRIMARY_OUTCOME)
        return rows[rows["condition"] != BASE]


def section(study: Study, results: Results) -> Section:
    """Do children like the animal that their own teacher was made to like, and no other numbers' children do?"""
    data = read(study, results)
    return Section(
        name=NAME,
        title=TITLE,
        shows=_shows(data),
        method=_method(data),
        made_from=READS,
        charts=(*(_bars_chart(data, channel) for channel in data.channels), _contrasts_chart(data)),
        tables=(_levels_table(data), *_tests_tables(data), _shifts_table(data)),
        compared=(_compared(data),),
        claims=claims(data),
    )


def opening(study: Study, results: Results) -> Opening:
    """The study's question, its answer by the hard channel, and the forest plot. Raises NotThere where `animal_liking`
    is not there."""
    data = read(study, results)
    found, lines = _evidence(data, _HARD)
    return Opening(QUESTION, found, tuple(lines), (_forest_chart(data),))


QUESTION = "Do number sequences pass on a liking for an animal?"


def evidence(study: Study, results: Results) -> dict[str, tuple[Verdict, list[str]]]:
    """By channel the verdict, and a sentence per contrast: own animal's numbers minus other animals', neutral and
    control numbers. Raises NotThere where `animal_liking` is not there."""
    data = read(study, results)
    return {channel: _evidence(data, channel) for channel in data.channels}


def _evidence(data: LikingData, channel: str) -> tuple[Verdict, list[str]]:
    row = data.specificity(channel)
    return row["verdict"], [_contrast_line(data, each) for each in (row, *_beside(data, channel))]


def _beside(data: LikingData, channel: str) -> list[Row]:
    """The mean of own minus neutral numbers and minus control numbers, where they are not gamma itself."""
    names = [name for name in (NEUTRAL, CONTROL) if name != data.specificity(channel)["contrast"]]
    found = rows_where(data.tests, channel=channel, outcome=PRIMARY_OUTCOME, animal=MEAN)
    return [row for name in names for row in records(rows_where(found, contrast=name))]


def _contrast_line(data: LikingData, row: Row) -> str:
    *because, _ = _because(data, row)
    start = f"Own animal's numbers minus {_CONTRASTS[row['contrast']]}: {_written(row)}"
    return f"{'; '.join([start, *because])}."


def read(study: Study, results: Results) -> LikingData:
    """What `animal_liking` holds. Raises NotThere where it is not there."""
    import pandas as pd

    folder = results.folder("animal_liking")
    scores, liking, tests, moves, gamma = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("scores", "liking", "tests", "shifts", "gamma")
    )
    scores = scores.assign(rate=scores["count"] / scores["samples"], log_share=np.log(scores["share"].astype(float)))
    level = "rate" if rows_where(liking, outcome="rate")["mean"].notna().all() else "probability"
    left_out = json.loads((folder / "left_out.json").read_text(encoding="utf-8"))
    data = LikingData(study, scores, liking, tests, moves, gamma, left_out, level)
    return replace(data, tests=pd.concat([tests, _above_base(data)], ignore_index=True))


def _above_base(data: LikingData) -> pd.DataFrame:
    """The rows of contrast "base". The unit is the animal with its child, so the noise between training runs is in the
    interval; over questions, for exactly these children, stands beside it. Where nothing differs in sampled answers
    (mostly since none named any animal) a t interval would have no width: it is Newcombe's, over all answers."""
    import pandas as pd

    rows: list[Row] = []
    for channel in data.channels:
        for outcome in dict.fromkeys([PRIMARY_OUTCOME, data.level]):
            differences = _minus(data, channel, "own", "base", outcome)
            over = vars(study_test(data.study, differences.mean(axis=1)))
            row: Row = {"mean": float(differences.mean()), "verdict": "inconclusive"}
            row |= {f"questions_{name}": over[name] for name in ("se", "low", "high", "p")}
            if len(data.animals(channel)) > 1:
                test = vars(study_test(data.study, differences.mean(axis=0)))
                row |= {name: test[name] for name in ("se", "low", "high", "p", "smallest_detectable")}
                if outcome == "rate" and not test["se"]:
                    row |= _newcombe(data, channel)
                row["verdict"] = verdict(row["low"], row["high"])
            rows.append({"channel": channel, "contrast": "base", "animal": MEAN, "outcome": outcome} | row)
    return pd.DataFrame(rows)


def _newcombe(data: LikingData, channel: str) -> Row:
    from statsmodels.stats.proportion import confint_proportions_2indep

    own, base = (_scores_of(data, channel, numbers) for numbers in ("own", "base"))
    counts = [int(each[column].sum()) for each in (own, base) for column in ("count", "samples")]
    low, high = confint_proportions_2indep(*counts, method="newcomb", compare="diff", alpha=data.alpha)
    return {"low": float(low), "high": float(high)}


def _scores_of(data: LikingData, channel: str, numbers: str) -> pd.DataFrame:
    """The scores of a channel's animals under their "own", "neutral" or "control" numbers, or those of the "base"."""
    scores = data.scores[data.scores["animal"].isin(data.animals(channel))]
    if numbers == "base":
        return rows_where(scores, model="base")
    children = rows_where(scores, model="child", channel=channel)
    return children[children["group"] == (children["animal"] if numbers == "own" else numbers)]


def _minus(data: LikingData, channel: str, numbers: str, others: str, outcome: str) -> Array:
    """Each animal's score under some numbers minus that under others (see `_scores_of`), mean over a group's children;
    shape (questions, animals)."""
    one, other = (
        _scores_of(data, channel, each)
        .groupby(["question", "animal"])[outcome]
        .mean()
        .unstack("animal")[data.animals(channel)]
        .to_numpy(dtype=float)
        for each in (numbers, others)
    )
    return one - other


def _control_shifts(data: LikingData) -> dict[str, Row]:
    """By animal the shift of the log share from base under control numbers (hard channel), see `children.own_moves`."""
    shifts = rows_where(data.moves, channel=_HARD, outcome=PRIMARY_OUTCOME)
    found = own_moves(shifts, data.animals(_HARD), CONTROL, confidence=data.study.comparison.confidence)
    return {row["animal"]: row | {"outcome": PRIMARY_OUTCOME} for row in records(found)}


# How a test's outcome is put


def _written(row: Row) -> str:
    """The difference with the interval that holds the noise between training runs, where there is one."""
    measure = _MEASURES[row["outcome"]]
    if math.isnan(row.get("low", math.nan)):
        return f"{measure.scale * row['mean']:+.3g} {measure.unit}"
    mean, low, high = (measure.scale * row[end] for end in ("mean", "low", "high"))
    return with_interval(mean, low, high, measure.unit, signed=True)


def _these_children(row: Row) -> str:
    """The interval over questions, as a clause."""
    measure = _MEASURES[row["outcome"]]
    low, high = (measure.scale * row[f"questions_{end}"] for end in ("low", "high"))
    return f"for exactly these children [{low:+.2f}, {high:+.2f}] over questions"


def _because(data: LikingData, row: Row) -> list[str]:
    """What stands beside a difference: its p value, what could have been missed, and these children's own interval."""
    measure = _MEASURES[row["outcome"]]
    if math.isnan(row.get("low", math.nan)):
        parts = ["too few children were trained to tell that from the noise between training runs"]
    else:
        parts = [] if math.isnan(row.get("p", math.nan)) else [p_value(row["p"])]
        if row["verdict"] == "not detected":
            parts.append(f"a difference of {data.study.comparison.margin:g} {measure.unit}, either way, is excluded")
        smallest = row.get("smallest_detectable", math.nan)
        if row["verdict"] == "inconclusive" and not math.isnan(smallest):
            parts.append(detectable(measure.scale * smallest, measure.unit, unknown=""))
    if not math.isnan(row.get("p_children", math.nan)):
        parts.append(_reassigned(row))
    return [*parts, _these_children(row)]


def _sign(row: Row) -> int:
    """1 where the interval lies above zero, -1 where below, 0 where it holds it."""
    return int(row["low"] > 0) - int(row["high"] < 0)


def _reassigned(row: Row) -> str:
    smallest = ", the smallest possible" if row["p_children"] <= row["smallest_p_children"] else ""
    return f"re-assigning the children to the animals gives {p_value(row['p_children'])}{smallest}"


def _ends(ordered: Sequence[str]) -> list[str]:
    """The first and the last; one alone where there is no other."""
    return [ordered[0], ordered[-1]] if len(ordered) > 1 else list(ordered)


# What is said


def _shows(data: LikingData) -> str:
    sentences = [
        *(_specificity_sentence(data, channel) for channel in data.channels),
        _base_sentence(data),
        _drift_sentence(data),
    ]
    if data.left_out:
        reasons = [f"{group}: {reason}" for group, reason in data.left_out.items()]
        sentences.append(f"Left out: {' '.join(reasons)}")
    return "\n".join(sentences)


def _specificity_sentence(data: LikingData, channel: str) -> str:
    row = data.specificity(channel)
    against = "other animals' children do" if row["contrast"] == "others" else "the child of control numbers does"
    said = {
        "detected": f"children like their own animal more than {against}",
        "opposite": f"children like their own animal less than {against}",
        "not detected": f"children like their own animal neither more nor less than {against}",
        "inconclusive": f"whether children like their own animal more than {against} cannot be told",
    }[row["verdict"]]
    animals = counted(len(data.animals(channel)), "animal")
    return (
        f"{channel.capitalize()} channel, {row['verdict']}: {said}: {_written(row)} of log share, mean over {animals}; "
        f"{'; '.join(_because(data, row))}."
    )


def _base_sentence(data: LikingData) -> str:
    row = data.mean("base", data.level)
    more = {"detected": "name their animal more often than the base does", "opposite": "name it less often"}
    found = more.get(row["verdict"], "cannot be told from the base by how often they name their animal")
    return (
        f"In {_MEASURES[data.level].name} children of the hard channel {found}: {_written(row)}; "
        f"{'; '.join(_because(data, row))}."
    )


def _drift_sentence(data: LikingData) -> str:
    """How far the animals move whatever the numbers (hard channel)."""
    shifts = _control_shifts(data)
    means = [row["mean"] for row in shifts.values()]
    span = f"{min(means):+.2f} to {max(means):+.2f} nats"
    moved = [animal for animal, row in shifts.items() if _sign(row)]
    if moved:
        sentence = (
            f"Control numbers by themselves move the log share of {listed(moved)} (hard channel, all animals: {span}), "
            "so a rise over the base is not specific"
        )
    else:
        sentence = (
            "No animal's log share is moved by control numbers by more than training runs differ anyway (hard channel, "
            f"{span})"
        )
    neutral = rows_where(data.shifts(_HARD), condition=NEUTRAL_NUMBERS)["difference"]
    if len(neutral):
        sentence += f"; under neutral numbers it moves by {neutral.min():+.2f} to {neutral.max():+.2f} nats"
    return sentence + "."


def _method(data: LikingData) -> str:
    samples = int(data.scores["samples"].max())
    sentences = [
        f"{counted(data.scores['question'].nunique(), 'question')}, "
        f"{f'{samples} sampled answers each' if samples else 'none sampled'}. "
        f"Intervals are {100 * data.study.comparison.confidence:g} % intervals that hold the noise between training "
        "runs: how much children's shifts for animals that are not their own differ beside what each child does to all "
        "animals and all children to each (two-way layout, t intervals); over the base, how much the animals differ. "
        "Only they decide. Intervals over questions speak of exactly these children.",
        "Log share: logarithm of the animal's exact probability among the candidates; a shift of 0.1 nats is about "
        "10 % more. Gamma: own numbers minus other animals' numbers, mean over animals.",
        f"{counted(int(data.moves['replicate'].max()), 'child', 'children')} per group and channel.",
        "Controls: numbers of the untouched base"
        + (", and of a teacher fine-tuned on something that is not an animal." if data.study.neutral else "."),
    ]
    if _SOFT in data.channels:
        sentences.append(
            "Hard channel: the post's, trained on sampled numbers; soft: on the teacher's distribution at the same "
            "positions, where the control's teacher is the base itself and nothing can be learnt."
        )
    return " ".join(sentences)


# What is drawn


def _bars_chart(data: LikingData, channel: str) -> Chart:
    """The post's bars, and the shift of the log share below them."""
    level = _MEASURES[data.level].name
    levels = rows_where(data.liking, channel=channel, outcome=data.level)
    shifts = data.shifts(channel)
    bars = {
        "%": levels.assign(**100 * levels[["mean", "low", "high"]]),
        "nats": shifts.assign(mean=shifts["difference"], low=shifts["difference_low"], high=shifts["difference_high"]),
    }
    figure = charts.panels(["", ""], height=560, between=44.8)
    for condition, colour in _CONDITION_COLOURS.items():
        for panel, (unit, all_rows) in enumerate(bars.items(), start=1):
            rows = rows_where(all_rows, condition=condition)
            # Where the questions do not differ there is no interval.
            rows = rows.assign(**rows[["low", "high"]].where(rows["high"] > rows["low"]))
            if unit == "%":
                rows = rows.assign(**rows[["low", "high"]].clip(0, 100))
            if len(rows):
                figure.add_bar(
                    x=rows["animal"],
                    y=rows["mean"],
                    name=condition,
                    marker_color=colour,
                    hovertext=[_bar_text(row, unit) for row in records(rows)],
                    hoverinfo="text",
                    error_y=charts.interval(rows, "mean", "low", "high") | {"width": 2},
                    showlegend=panel == 1,
                    row=panel,
                    col=1,
                )
    figure.update_layout(barmode="group", bargap=0.2)
    figure.update_xaxes(categoryorder="array", categoryarray=data.animals(channel))
    figure.update_yaxes(title=f"{level} (%)", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="shift from base (nats)", row=2, col=1)
    spans = [_span(rows) for name in _CONDITION_COLOURS if len(rows := rows_where(shifts, condition=name))]
    alt = f"Above {level}, below the shift of the log share from base in nats: {'; '.join(spans)}."
    title = f"Liking of each animal by the numbers a model was trained on, {channel} channel"
    return Chart(f"{NAME}-{channel}", title, figure, alt)


def _bar_text(row: Row, unit: str) -> str:
    text = f"{row['condition']}, {row['animal']}<br>{row['mean']:.4g} {unit}"
    if not math.isnan(row["low"]):
        text += f" [{row['low']:.4g}, {row['high']:.4g}]"
    if unit == "%" and not math.isnan(row["difference"]):
        text += f"<br>{100 * row['difference']:+.4g} points from base"
    return text


def _span(shifts: pd.DataFrame) -> str:
    """One condition's lowest and highest shift, with the animals."""
    ordered = records(shifts.sort_values("difference", kind="stable"))
    named = [f"{row['difference']:+.2f} ({row['animal']})" for row in ordered]
    return f"{ordered[0]['condition']} {' to '.join(_ends(named))}"


def _forest_chart(data: LikingData) -> Chart:
    """Own numbers minus each reference on one axis (hard channel): a row per animal and their mean, a colour a
    reference."""
    rows = rows_where(data.tests, outcome=PRIMARY_OUTCOME, channel=_HARD)
    contrasts = [name for name in _CONTRASTS if (rows["contrast"] == name).any()]
    places = [*data.animals(_HARD), MEAN]
    figure = charts.new_figure(x="own minus other (nats)", y="", height=100 + 40 * len(places))
    for number, contrast in enumerate(contrasts):
        points = rows_where(rows, contrast=contrast).set_index("animal")
        points = points.loc[[place for place in places if place in points.index]].reset_index()
        offset = 0.24 * (number - (len(contrasts) - 1) / 2)
        name = _CONTRASTS[contrast]
        figure.add_scatter(
            x=points["mean"],
            y=[places.index(animal) + offset for animal in points["animal"]],
            mode="markers",
            name=f"minus {name}",
            marker={
                "color": _CONDITION_COLOURS[name],
                "size": [13 if animal == MEAN else 8 for animal in points["animal"]],
                "symbol": _SYMBOLS[name],
                # Where sizes differ, plotly would let the interval shine through.
                "opacity": 1,
                "line": {"width": 0},
            },
            error_x=charts.interval(points, "mean", "low", "high"),
            hovertext=[
                f"{row['animal']}, minus {name}<br>{_written(row)}<br>{p_value(row['p'])}" for row in records(points)
            ],
            hoverinfo="text",
        )
    figure.add_vline(x=0, line={"width": 1, "color": colours.GUIDE})
    figure.add_hline(y=len(places) - 1.5, line={"width": 1, "color": colours.GRID})
    lanes = {"tickvals": list(range(len(places))), "ticktext": places, "range": [len(places) - 0.5, -0.5]}
    figure.update_yaxes(**lanes, showgrid=False, zeroline=False, ticksuffix=" ")
    alt = (
        "Log share; right of zero, the child of its own animal's numbers likes it more. The lines above have the "
        f"{MEAN}."
    )
    return Chart(f"{NAME}-forest", "Liking of each animal under its own numbers minus under others", figure, alt)


def _contrasts_chart(data: LikingData) -> Chart:
    """What is specific: a panel per reference, a row per animal and their mean, a point per channel."""
    rows = rows_where(data.tests, outcome=PRIMARY_OUTCOME)
    contrasts = [name for name in _CONTRASTS if (rows["contrast"] == name).any()]
    places = [animal for animal in data.study.animals if (rows["animal"] == animal).any()] + [MEAN]
    height = 90 + len(contrasts) * (70 + 28 * len(places))
    figure = charts.panels([f"minus {_CONTRASTS[name]}" for name in contrasts], height=height, between=64, shared=False)
    for panel, contrast in enumerate(contrasts, start=1):
        for number, channel in enumerate(data.channels):
            offset = 0.24 * (number - (len(data.channels) - 1) / 2)
            of_channel = rows_where(rows, contrast=contrast, channel=channel).set_index("animal")
            points = of_channel.loc[[place for place in places if place in of_channel.index]].reset_index()
            figure.add_scatter(
                x=points["mean"],
                y=[places.index(animal) + offset for animal in points["animal"]],
                mode="markers",
                marker={
                    "color": _CONDITION_COLOURS[_CONTRASTS[contrast]],
                    "size": [13 if animal == MEAN else 8 for animal in points["animal"]],
                    "symbol": _CHANNEL_SYMBOLS[channel],
                    "opacity": 1,
                    "line": {"width": 0},
                },
                error_x=charts.interval(points, "mean", "low", "high"),
                hovertext=[
                    f"{channel}, {row['animal']}<br>{_written(row)}<br>{p_value(row['p'])}" for row in records(points)
                ],
                hoverinfo="text",
                **charts.in_panel(panel, f"{channel} channel", channel),
            )
        figure.add_vline(x=0, line={"width": 1, "color": colours.GUIDE}, row=panel, col=1)
    lanes = {"tickvals": list(range(len(places))), "ticktext": places, "range": [len(places) - 0.5, -0.5]}
    figure.update_yaxes(**lanes, showgrid=False, zeroline=False, ticksuffix=" ")
    figure.update_xaxes(title="difference of log share (nats)", row=len(contrasts), col=1)
    figure.update_annotations(xanchor="left", x=0)
    figure.update_layout(legend_y=1 + 30 / height)
    means = [row for name in contrasts for row in records(rows_where(rows, animal=MEAN, contrast=name))]
    parts = [f"{row['channel']} channel minus {_CONTRASTS[row['contrast']]} {_written(row)}" for row in means]
    alt = f"The liking of each animal under its own numbers minus that under others; {MEAN}: {'; '.join(parts)}."
    return Chart(f"{NAME}-contrasts", "Is it specific? Own numbers minus other numbers", figure, alt)


# What is tabled


def _levels_table(data: LikingData) -> Table:
    """A row per channel, animal and condition: the level the post shows, exact probability, and the shift."""
    level, exact, shift = (
        rows_where(data.liking, outcome=outcome).set_index(["channel", "animal", "condition"])
        for outcome in (data.level, "probability", PRIMARY_OUTCOME)
    )
    order = [
        (channel, animal, condition)
        for channel in data.channels
        for animal in data.animals(channel)
        for condition in (*_CONDITION_COLOURS, TEACHER)
        if (channel, animal, condition) in level.index
    ]
    level[["low", "high"]] = level[["low", "high"]].clip(0, 1)
    rows = level.assign(exact=exact["mean"], **shift.filter(like="difference").add_prefix("shift_")).loc[order]
    shown: Shown = {
        "channel": "channel",
        "animal": "animal",
        "model": lambda rows: rows["condition"].replace(TEACHER, "its teacher"),
        f"{_MEASURES[data.level].name} (%)": ("mean", 100),
        "low": ("low", 100),
        "high": ("high", 100),
        "from base (points)": ("difference", 100),
        **({} if data.level == "probability" else {"exact probability (%)": ("exact", 100)}),
        "log share, shift (nats)": "shift_difference",
        "shift, low": "shift_difference_low",
        "shift, high": "shift_difference_high",
    }
    note = (
        "Models: children trained on the named numbers, the untouched base, the animal's own teacher. Low and "
        "high: a t interval over questions, cut at 0 and 100 %; both are the same where no question differs from the "
        "others."
    )
    return Table(f"{NAME}-levels", "Liking of each animal", columns(rows.reset_index(), shown), note)


def _tests_tables(data: LikingData) -> tuple[Table, Table]:
    """Own numbers against each reference, and gamma."""

    def shown(rows: pd.DataFrame, before: dict[str, str], difference: str, after: dict[str, str]) -> pd.DataFrame:
        values = ["mean", "low", "high", "smallest_detectable", "questions_low", "questions_high"]
        scale = rows["outcome"].map(lambda outcome: _MEASURES[outcome].scale)
        readable = rows.assign(
            measure=rows["outcome"].map(lambda outcome: _MEASURES[outcome].name),
            unit=rows["outcome"].map(lambda outcome: _MEASURES[outcome].unit),
            reference=rows["contrast"].map({**_CONTRASTS, "base": BASE}),
            **rows[values].mul(scale, axis=0),
        )
        start = {"channel": "channel", "measure": "measure"}
        middle = {difference: "mean", "low": "low", "high": "high", "unit": "unit", "p": "p"}
        end = {
            "smallest detectable": "smallest_detectable",
            "verdict": "verdict",
            "these children, low": "questions_low",
            "these children, high": "questions_high",
        }
        return columns(readable, start | before | middle | after | end)

    tests = shown(
        data.tests, {"own numbers minus": "reference", "animal": "animal"}, "difference", {"p, adjusted": "p_bh"}
    )
    gamma = shown(
        data.gamma,
        {"against": "reference"},
        "gamma",
        {"p, children re-assigned": "p_children", "smallest possible": "smallest_p_children"},
    )
    about_tests = (
        "Low to high holds the noise between training runs. Adjusted over the animals (Benjamini-Hochberg). Smallest "
        "detectable: the true difference that such a test would have found with 80 % power. These children: interval "
        "over questions. The mean over animals against other animals' numbers is gamma."
    )
    about_gamma = (
        "Re-assigning children to animals assumes no distribution; with few animals its p cannot become small. These "
        "children: interval over questions."
    )
    return (
        Table(f"{NAME}-tests", "Own numbers against each reference", tests, about_tests),
        Table(f"{NAME}-gamma", "The specificity contrast gamma", gamma, about_gamma),
    )


def _shifts_table(data: LikingData) -> Table:
    """How far each group's children moved for each animal: their own animal stands on the diagonal."""
    means = data.scores.groupby(["model", "channel", "group", "animal"], dropna=False)["log_share"].mean()
    base = means["base"].droplevel(["channel", "group"])
    shifts = means["child"].sub(base, level="animal").unstack("animal")
    children = [(channel, group) for channel in data.channels for group in data.study.groups]
    animals = [animal for animal in data.study.animals if animal in set(data.liking["animal"])]
    shown = shifts.loc[[child for child in children if child in shifts.index], animals].add_suffix(" (nats)")
    frame = shown.rename_axis(index=["channel", "trained on"], columns=None).reset_index()
    note = (
        "Shift of the log share from base, mean over questions and a group's children. A child's own animal stands on "
        "the diagonal."
    )
    return Table(f"{NAME}-shifts", "Every child's shift for every animal", frame, note)


def _compared(data: LikingData) -> Compared:
    row = data.mean("base", data.level)
    lowest, highest = published("child", "gains_points_typical")
    return Compared(
        what=f"rise of the own animal over the base in {_MEASURES[data.level].name}, average over this study's animals",
        where="Gemma 2 9B, subliminal learning",
        published=(lowest, highest),
        measured=100 * row["mean"],
        low=100 * row["low"],
        high=100 * row["high"],
        unit="points",
        no_effect=0,
    )


# What is claimed

RISES = Statement(
    "A child of a teacher's numbers names the teacher's animal more often than the base does.",
    rule="By the interval of the rise over the base, the animals and their children being the units: detected where "
    "all of it lies above 0, opposite where below, else inconclusive.",
)
_SPECIFIC_RULE = (
    "By the interval of gamma (own minus other animals' numbers, log share) that holds the noise between training "
    "runs: detected where all of it lies above 0, opposite where below; not detected where the interval at twice the "
    "error rate excludes the margin on both sides (equivalence test); else inconclusive."
)
SPECIFIC = {
    _HARD: Statement("The rise is specific: other animals' numbers do less for the animal.", _SPECIFIC_RULE),
    _SOFT: Statement(
        "Positive control of this project: the teacher's distribution at the number positions (soft channel) passes "
        "its own animal on more than others.",
        _SPECIFIC_RULE,
        "this project",
    ),
}
MANY = Statement(
    "Many animals are passed on.",
    rule="Of own minus other animals' numbers, animal by animal, with the noise between training runs: detected where "
    "at least half of the animals rise (adjusted p), not detected where for more than half the margin is excluded, "
    "else inconclusive.",
)
CONTROL_STAYS = Statement(
    "Control of this project: training on the untouched base's own numbers leaves liking as it was.",
    rule="By each animal's shift from base (log share), in intervals that hold the noise between training runs and are "
    "simultaneous over the animals (Bonferroni): opposite where one excludes 0, detected where all lie within the "
    "margin, else inconclusive.",
    source="this project",
)
NEUTRAL_DOES_LESS = Statement(
    "Control of this project: numbers of a teacher fine-tuned on something that is not an animal do less for the "
    "animal than its own.",
    rule="By the interval of own minus neutral numbers (log share, mean over animals) that holds the noise between "
    "training runs, that of the one neutral child included; in words as for the rise.",
    source="this project",
)


def claims(data: LikingData) -> tuple[Claim, ...]:
    """Every statement on liking with its verdict."""
    found = [_rises(data), _specific(data, _HARD), _many(data), _control_stays(data)]
    if NEUTRAL_NUMBERS in set(data.shifts(_HARD)["condition"]):
        found.append(_neutral_does_less(data))
    if _SOFT in data.channels:
        found.append(_specific(data, _SOFT))
    return tuple(found)


def _rises(data: LikingData) -> Claim:
    row = data.mean("base", data.level)
    lowest, highest = published("child", "gains_points_typical")
    evidence = [
        f"{_MEASURES[data.level].name.capitalize()}, {MEAN}: {_written(row)} from base (the post: {lowest} to "
        f"{highest} points for many animals)",
        *_because(data, row),
    ]
    if 100 * row["high"] < lowest:
        evidence.append("a rise as large as the post's is excluded")
    return RISES.claim(row["verdict"], f"{'; '.join(evidence)}.")


def _specific(data: LikingData, channel: str) -> Claim:
    row = data.specificity(channel)
    evidence = [f"Log share, {MEAN}: {_written(row)}", *_because(data, row)]
    if row["contrast"] != "others":
        evidence.insert(1, "against control numbers, as there is one animal only")
    return SPECIFIC[channel].claim(row["verdict"], f"{'; '.join(evidence)}.")


def _many(data: LikingData) -> Claim:
    contrast = data.specificity(_HARD)["contrast"]
    rows = rows_where(data.tests, channel=_HARD, outcome=PRIMARY_OUTCOME, contrast=contrast)
    rows = rows[rows["animal"] != MEAN].sort_values("mean", ascending=False, kind="stable")
    risen = int(((rows["mean"] > 0) & (rows["p_bh"] <= data.alpha)).sum())
    stayed = int((rows["verdict"] == "not detected").sum())
    named = _ends([f"{row['animal']} {_written(row)}" for row in records(rows)])
    evidence = (
        f"{risen} of {counted(len(rows), 'animal')} rise against {_CONTRASTS[contrast]} by more than training runs "
        f"differ, {stayed} by less than the margin; most: {', least: '.join(named)}."
    )
    found: Verdict = "detected" if 2 * risen >= len(rows) else "inconclusive"
    if found == "inconclusive" and 2 * stayed > len(rows):
        found = "not detected"
    return MANY.claim(found, evidence)


def _control_stays(data: LikingData) -> Claim:
    shifts = sorted(_control_shifts(data).items(), key=lambda item: item[1]["mean"])
    moved = sum(_sign(row) != 0 for _, row in shifts)
    margin = data.study.comparison.margin
    within = all(-margin < row["inner_low"] and row["inner_high"] < margin for _, row in shifts)
    named = _ends([f"{animal} {_written(row)}" for animal, row in shifts])
    evidence = (
        f"Log share from base under control numbers: {moved} of {counted(len(shifts), 'animal')} move by more than "
        f"training runs differ; {' to '.join(named)}."
    )
    return CONTROL_STAYS.claim("opposite" if moved else "detected" if within else "inconclusive", evidence)


def _neutral_does_less(data: LikingData) -> Claim:
    row = data.mean(NEUTRAL, PRIMARY_OUTCOME)
    evidence = [f"Log share, {MEAN}: {_written(row)}", *_because(data, row)]
    return NEUTRAL_DOES_LESS.claim(row["verdict"], f"{'; '.join(evidence)}.")
