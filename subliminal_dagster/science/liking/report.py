"""The section on liking: which numbers make a child like an animal (the post's main figure, and what tests it).

Belongs here: what `animal_liking` shows. Does not belong here: the tests themselves (`science.comparison`), the
teachers (`teachers`), what tuning adds (`tuning`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.liking.comparison import (
    BASE,
    CONTROL,
    OTHERS,
    PRIMARY_OUTCOME,
    TARGET,
    TEACHER,
    compare,
)
from subliminal_dagster.science.report.charts import BLUE, LIGHT_GREY, VERMILION, group_colours, interval, styled
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Table, Verdict
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.wording import (
    counted,
    listed,
    p_value,
    points_with_interval,
    with_interval,
)
from subliminal_dagster.science.settings.names import NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import Estimate, PairedTest, paired_test, t_interval

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

NAME, TITLE = "liking", "Liking: what the numbers pass on"

NEUTRAL_NUMBERS = "neutral numbers"
MEAN = "mean over animals"

_HARD, _SOFT = "hard", "soft"
_SHOWN = (TARGET, OTHERS, NEUTRAL_NUMBERS, CONTROL, BASE)
_CONTRASTS = {"others": OTHERS, "neutral": NEUTRAL_NUMBERS, "control": CONTROL}
_CHANNEL_COLOURS = {_HARD: VERMILION, _SOFT: BLUE}
_LEVELS = {"rate": "sampled answers", "probability": "exact probability"}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Data:
    """`animal_liking`, with the numbers of the neutral teacher as one more condition and contrast where there are any.

    liking, tests, gamma: as `comparison.Comparison` has them; tests with the rows `MEAN`, the mean over the animals of
    the own child's score minus that under neutral numbers, under control numbers, and of the base (contrast "base").
    level: what the post's bars show, "rate", or "probability" where nothing was sampled.
    """

    study: Study
    scores: pd.DataFrame
    liking: pd.DataFrame
    tests: pd.DataFrame
    gamma: pd.DataFrame
    left_out: dict[str, str]
    level: str

    @property
    def channels(self) -> list[str]:
        return list(dict.fromkeys(self.liking["channel"]))

    @property
    def questions(self) -> int:
        return int(self.scores["question"].nunique())

    @property
    def alpha(self) -> float:
        return 1 - self.study.comparison.confidence

    def animals(self, channel: str) -> list[str]:
        return list(dict.fromkeys(self.liking.loc[self.liking["channel"] == channel, "animal"]))

    def specificity(self, channel: str, outcome: str) -> dict[str, Any]:
        """The channel's row of gamma."""
        rows = self.gamma[(self.gamma["channel"] == channel) & (self.gamma["outcome"] == outcome)]
        return _records(rows)[0]

    def mean(self, channel: str, contrast: str, outcome: str) -> dict[str, Any] | None:
        """The row `MEAN` of the tests; None where there is no such contrast."""
        chosen = (self.tests["channel"] == channel) & (self.tests["contrast"] == contrast)
        rows = self.tests[chosen & (self.tests["outcome"] == outcome) & (self.tests["animal"] == MEAN)]
        return next(iter(_records(rows)), None)


def liking_section(study: Study, results: Results) -> Section:
    """Do children like the animal that their own teacher was made to like, and no other numbers' children do?"""
    data = _read(study, results)
    return Section(
        name=NAME,
        title=TITLE,
        shows=_shows(data),
        method=_method(data),
        made_from=("animal_liking",),
        charts=(*(_bars_chart(data, channel) for channel in data.channels), _contrasts_chart(data)),
        tables=(_levels_table(data), _tests_table(data), _gamma_table(data), _shifts_table(data)),
        compared=_compared(data),
        claims=_claims(data),
    )


def _read(study: Study, results: Results) -> _Data:
    import pandas as pd

    folder = results.folder("animal_liking")
    scores, liking, tests, gamma = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("scores", "liking", "tests", "gamma")
    )
    level = "rate" if liking.loc[liking["outcome"] == "rate", "mean"].notna().all() else "probability"
    neutral = _against_neutral(study, scores)
    if neutral is not None:
        liking, tests = (
            pd.concat([mine, more], ignore_index=True) for mine, more in zip((liking, tests), neutral, strict=True)
        )
    data = _Data(
        study=study,
        scores=scores,
        liking=liking,
        tests=tests,
        gamma=gamma,
        left_out=json.loads((folder / "left_out.json").read_text(encoding="utf-8")),
        level=level,
    )
    return _Data(**vars(data) | {"tests": pd.concat([tests, _means(data)], ignore_index=True)})


def _against_neutral(study: Study, scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Liking and tests with the neutral group's child in the control's place; None where there is none."""
    children = scores[(scores["model"] == "child") & (scores["group"] == NEUTRAL)]
    if children.empty:
        return None
    channels = list(children["channel"].unique())
    kept = scores[(scores["group"] != "control") & (scores["channel"].isna() | scores["channel"].isin(channels))]
    renamed = kept.assign(group=kept["group"].where(kept["group"] != NEUTRAL, "control"))
    settings = study.comparison
    found = compare(
        renamed,
        study.animals,
        permutations=settings.permutations,
        seed=study.seed,
        confidence=settings.confidence,
    )
    liking = found.liking[found.liking["condition"] == CONTROL].assign(condition=NEUTRAL_NUMBERS)
    tests = found.tests[found.tests["contrast"] == "control"].assign(contrast="neutral")
    return liking, tests


def _means(data: _Data) -> pd.DataFrame:
    """The rows `MEAN` of the tests."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for channel in data.channels:
        for contrast in ("neutral", "control", "base"):
            for outcome in dict.fromkeys([PRIMARY_OUTCOME, data.level]):
                differences = _own_minus(data, channel, contrast, outcome)
                if differences is None:
                    continue
                found = vars(_test(data, differences.mean(axis=1)))
                if outcome == "rate" and not found["se"]:
                    found |= _pooled(data, channel, contrast)
                labels = {"channel": channel, "contrast": contrast, "animal": MEAN, "outcome": outcome}
                rows.append(labels | found | {"p_bh": math.nan})
    return pd.DataFrame(rows)


def _pooled(data: _Data, channel: str, reference: str) -> dict[str, float]:
    """The interval of a difference of sampled rates by Newcombe's method, over all answers together: where no question
    differs from the others (mostly since no answer named any animal), a t interval would have no width."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    rows = [rows[rows["animal"].isin(data.animals(channel))] for rows in _own_and(data, channel, reference)]
    count = [int(each["count"].sum()) for each in rows]
    asked = [int(each["samples"].sum()) for each in rows]
    low, high = confint_proportions_2indep(
        count[0], asked[0], count[1], asked[1], method="newcomb", compare="diff", alpha=data.alpha
    )
    return {"low": float(low), "high": float(high)}


def _own_and(data: _Data, channel: str, reference: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scores of each animal under its own numbers, and those of a reference ("neutral", "control" or "base")."""
    scores = data.scores
    children = scores[(scores["model"] == "child") & (scores["channel"] == channel)]
    own = children[children["group"] == children["animal"]]
    return own, scores[scores["model"] == "base"] if reference == "base" else children[children["group"] == reference]


def _own_minus(data: _Data, channel: str, reference: str, outcome: str) -> Array | None:
    """Each animal's score under its own numbers minus that of a reference (see `_own_and`); shape (questions, animals).
    None where the reference was not measured."""
    own, other = _own_and(data, channel, reference)
    animals = data.animals(channel)
    if other.empty:
        return None

    def values(rows: pd.DataFrame) -> Array:
        measured = {
            "rate": rows["count"] / rows["samples"],
            "probability": rows["probability"],
            "log_share": np.log(rows["share"]),
        }
        wide = rows.assign(value=measured[outcome]).pivot(index="question", columns="animal", values="value")
        found: Array = wide.sort_index()[animals].to_numpy(dtype=float)
        return found

    return values(own) - values(other)


def _test(data: _Data, differences: Array) -> PairedTest:
    settings = data.study.comparison
    rng = np.random.default_rng(data.study.seed)
    return paired_test(differences, permutations=settings.permutations, rng=rng, confidence=settings.confidence)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict(orient="records")]


def _unit(outcome: str) -> str:
    return "nats" if outcome == "log_share" else "points"


def _written(row: dict[str, Any], outcome: str) -> str:
    ends = row["mean"], row["low"], row["high"]
    return with_interval(*ends, "nats", signed=True) if outcome == "log_share" else points_with_interval(*ends)


def _detectable(row: dict[str, Any], outcome: str) -> str:
    """What a null could have missed, as a clause."""
    smallest = float(row["smallest_detectable"])
    if math.isnan(smallest):
        return "no question differs from the others, so the interval is over all answers together"
    value = f"{smallest:.2g}" if outcome == "log_share" else f"{100 * smallest:.2g}"
    return f"the smallest detectable difference is {value} {_unit(outcome)}"


def _sign(row: dict[str, Any]) -> int:
    """1 where the interval lies above zero, -1 where below, 0 where it holds it."""
    return int(row["low"] > 0) - int(row["high"] < 0)


def _runs_could_explain(data: _Data, row: dict[str, Any]) -> bool:
    """Whether children that are re-assigned to the animals at random do as well too often to tell (or cannot be)."""
    return not row["p_children"] <= data.alpha


def _shows(data: _Data) -> str:
    sentences = [_specificity_sentence(data, channel) for channel in data.channels]
    row = data.mean(_HARD, "base", data.level)
    if row is not None:
        measure = _LEVELS[data.level]
        difference = _written(row, data.level)
        if _sign(row):
            sentences.append(
                f"In {measure} children of the hard channel name their animal "
                f"{'more' if _sign(row) > 0 else 'less'} often than the base does: {difference}, {p_value(row['p'])}."
            )
        else:
            sentences.append(
                f"In {measure} no difference between them and the base could be seen (hard channel): {difference}; "
                f"{_detectable(row, data.level)}."
            )
    sentences.append(_drift_sentence(data))
    if data.left_out:
        reasons = [f"{group}: {reason}" for group, reason in data.left_out.items()]
        sentences.append(f"Left out: {' '.join(reasons)}")
    return "\n".join(sentences)


def _specificity_sentence(data: _Data, channel: str) -> str:
    row = data.specificity(channel, PRIMARY_OUTCOME)
    against = "other animals' children do" if row["contrast"] == "others" else "the child of control numbers does"
    difference, animals = _written(row, PRIMARY_OUTCOME), counted(len(data.animals(channel)), "animal")
    sign = _sign(row)
    if not sign:
        return (
            f"{channel.capitalize()} channel: no difference could be seen between how a child likes its own animal and "
            f"how {against}: {difference} of log share, {MEAN} ({animals}); {_detectable(row, PRIMARY_OUTCOME)}."
        )
    sentence = (
        f"{channel.capitalize()} channel: children like their own animal {'more' if sign > 0 else 'less'} than "
        f"{against}, by {difference} of log share, mean over {animals} ({p_value(row['p'])} over questions)"
    )
    if sign > 0 and row["contrast"] == "others" and _runs_could_explain(data, row):
        sentence += f"; {_reassigned(row)}, so chance differences between training runs could also explain it"
    return sentence + "."


def _reassigned(row: dict[str, Any]) -> str:
    smallest = ", the smallest possible" if row["p_children"] <= row["smallest_p_children"] else ""
    return f"re-assigning the children to the animals gives {p_value(row['p_children'])}{smallest}"


def _drift_sentence(data: _Data) -> str:
    """How far the animals move whatever the numbers (hard channel)."""
    moved, shifts = _control_shifts(data)
    span = f"{min(x.mean for x in shifts.values()):+.2f} to {max(x.mean for x in shifts.values()):+.2f} nats"
    if moved:
        sentence = (
            f"Control numbers by themselves move the log share of {listed(moved)} (hard channel, all animals: {span}), "
            "so a rise over the base is not specific"
        )
    else:
        sentence = f"Control numbers by themselves move no animal's log share that could be seen (hard channel, {span})"
    neutral = _shifts(data, _HARD, NEUTRAL_NUMBERS)["difference"]
    if len(neutral):
        sentence += f"; under neutral numbers it moves by {neutral.min():+.2f} to {neutral.max():+.2f} nats"
    return sentence + "."


def _control_shifts(data: _Data) -> tuple[list[str], dict[str, Estimate]]:
    """By animal the shift of the log share from base under control numbers (hard channel), with an interval that is
    simultaneous over the animals (Bonferroni), and those animals whose interval excludes 0."""
    own, own_minus_control = (_own_minus(data, _HARD, name, PRIMARY_OUTCOME) for name in ("base", "control"))
    assert own is not None and own_minus_control is not None
    animals = data.animals(_HARD)
    level = 1 - data.alpha / len(animals)
    found = {
        animal: t_interval(values, level) for animal, values in zip(animals, (own - own_minus_control).T, strict=True)
    }
    return [animal for animal, shift in found.items() if shift.low > 0 or shift.high < 0], found


def _shifts(data: _Data, channel: str, condition: str) -> pd.DataFrame:
    liking = data.liking
    chosen = (liking["channel"] == channel) & (liking["condition"] == condition)
    return liking[chosen & (liking["outcome"] == PRIMARY_OUTCOME)]


def _method(data: _Data) -> str:
    samples = int(data.scores["samples"].max())
    confidence = f"{100 * data.study.comparison.confidence:g} %"
    sentences = [
        f"{counted(data.questions, 'question')}, {f'{samples} sampled answers each' if samples else 'none sampled'}. "
        f"Intervals are {confidence} t intervals over questions; p values are of paired t tests, adjusted over the "
        "animals (Benjamini-Hochberg) where said.",
        "Log share: logarithm of the animal's exact probability among the candidates; a shift of 0.1 nats is about "
        "10 % more. Gamma: own numbers minus other animals' numbers, mean over animals.",
        "One child a group: noise between training runs is in no interval, only in the re-assignment of children to "
        "animals.",
        "Controls: numbers of the untouched base"
        + (", and of a teacher fine-tuned on something that is no animal." if data.study.neutral else "."),
    ]
    if _SOFT in data.channels:
        sentences.append(
            "Hard channel: the post's, trained on sampled numbers; soft: on the teacher's distribution at the same "
            "positions, where the control's teacher is the base itself and nothing can be learnt."
        )
    return " ".join(sentences)


def _bars_chart(data: _Data, channel: str) -> Chart:
    """The post's bars, and the shift of the log share below them."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    styled(figure, height=560)
    liking = data.liking[data.liking["channel"] == channel]
    colours = {
        TARGET: VERMILION,
        OTHERS: BLUE,
        CONTROL: group_colours(["control"])["control"],
        NEUTRAL_NUMBERS: group_colours([NEUTRAL])[NEUTRAL],
        BASE: LIGHT_GREY,
    }
    for condition in _SHOWN:
        for row, outcome, columns, scale in (
            (1, data.level, ("mean", "low", "high"), 100.0),
            (2, PRIMARY_OUTCOME, ("difference", "difference_low", "difference_high"), 1.0),
        ):
            rows = liking[(liking["condition"] == condition) & (liking["outcome"] == outcome)]
            if len(rows) and not (row == 2 and condition == BASE):
                trace = _bar(rows, columns, scale, condition, colours[condition], "%" if row == 1 else "nats")
                figure.add_bar(**trace, showlegend=row == 1, row=row, col=1)
    animals = data.animals(channel)
    figure.update_layout(barmode="group", bargap=0.2)
    figure.update_xaxes(categoryorder="array", categoryarray=animals)
    figure.update_yaxes(title=f"{_LEVELS[data.level]} (%)", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="shift from base (nats)", row=2, col=1)
    shifts = liking[(liking["outcome"] == PRIMARY_OUTCOME) & (liking["condition"] != BASE)]
    parts = [
        _span(shifts[shifts["condition"] == condition]) for condition in _SHOWN if condition in set(shifts["condition"])
    ]
    alt = f"Above {_LEVELS[data.level]}, below the shift of the log share from base in nats: {'; '.join(parts)}."
    title = f"Liking of each animal by the numbers a model was trained on, {channel} channel"
    return Chart(f"{NAME}-{channel}", title, figure, alt)


def _span(shifts: pd.DataFrame) -> str:
    """One condition's lowest and highest shift, with the animals."""
    ordered = _records(shifts.sort_values("difference", kind="stable"))
    ends = [ordered[0], ordered[-1]] if len(ordered) > 1 else ordered
    named = [f"{row['difference']:+.2f} ({row['animal']})" for row in ends]
    return f"{ordered[0]['condition']} {' to '.join(named)}"


def _bar(
    rows: pd.DataFrame, columns: tuple[str, str, str], scale: float, name: str, colour: str, unit: str
) -> dict[str, Any]:
    """One condition's bars, an animal each. Without an interval where the questions do not differ."""
    value, low, high = (scale * rows[column].to_numpy(dtype=float) for column in columns)
    spread = high > low
    if unit == "%":
        low, high = np.maximum(low, 0), np.minimum(high, 100)
    texts = []
    for i, row in enumerate(_records(rows)):
        interval = f" [{low[i]:.4g}, {high[i]:.4g}]" if spread[i] else ""
        text = f"{name}, {row['animal']}<br>{value[i]:.4g} {unit}{interval}"
        if unit == "%" and not math.isnan(row["difference"]):
            text += f"<br>{100 * row['difference']:+.4g} points from base"
        texts.append(text)
    return {
        "x": rows["animal"],
        "y": value,
        "name": name,
        "marker_color": colour,
        "hovertext": texts,
        "hoverinfo": "text",
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": np.where(spread, high - value, np.nan),
            "arrayminus": np.where(spread, value - low, np.nan),
            "thickness": 1.3,
            "width": 2,
        },
    }


def _contrasts(data: _Data) -> pd.DataFrame:
    """The log share under own numbers minus each reference: a row a channel, contrast and animal, the mean last."""
    import pandas as pd

    gamma = data.gamma[data.gamma["contrast"] == "others"].assign(animal=MEAN)
    rows = pd.concat([data.tests, gamma], ignore_index=True)
    return rows[(rows["outcome"] == PRIMARY_OUTCOME) & rows["contrast"].isin(list(_CONTRASTS))]


def _contrasts_chart(data: _Data) -> Chart:
    """What is specific: a panel a reference, a row an animal and their mean, a point a channel."""
    from plotly.subplots import make_subplots

    rows = _contrasts(data)
    contrasts = [name for name in _CONTRASTS if (rows["contrast"] == name).any()]
    places = [animal for animal in data.study.animals if (rows["animal"] == animal).any()] + [MEAN]
    titles = [f"minus {_CONTRASTS[name]}" for name in contrasts]
    height = 90 + len(contrasts) * (70 + 28 * len(places))
    # The space between panels is a share of the height, and holds an axis and a title.
    figure = make_subplots(rows=len(contrasts), cols=1, subplot_titles=titles, vertical_spacing=64 / height)
    styled(figure, height=height)
    for panel, contrast in enumerate(contrasts, start=1):
        for number, channel in enumerate(data.channels):
            chosen = rows[(rows["contrast"] == contrast) & (rows["channel"] == channel)]
            offset = 0.24 * (number - (len(data.channels) - 1) / 2)
            _add_points(figure, chosen, places, offset, channel, panel)
        figure.add_vline(x=0, line={"width": 1, "color": "#808080"}, row=panel, col=1)
        figure.update_yaxes(
            tickvals=list(range(len(places))), ticktext=places, range=[len(places) - 0.5, -0.5], row=panel, col=1,
            showgrid=False, zeroline=False, ticksuffix=" ",
        )  # fmt: skip
    figure.update_xaxes(title="difference of log share (nats)", row=len(contrasts), col=1)
    figure.update_annotations(font_size=13, xanchor="left", x=0)
    figure.update_layout(legend_y=1 + 30 / height)
    means = [row for name in contrasts for row in _records(rows[(rows["animal"] == MEAN) & (rows["contrast"] == name)])]
    parts = [
        f"{row['channel']} channel minus {_CONTRASTS[row['contrast']]} {_written(row, PRIMARY_OUTCOME)}"
        for row in means
    ]
    alt = f"The liking of each animal under its own numbers minus that under others; {MEAN}: {'; '.join(parts)}."
    return Chart(f"{NAME}-contrasts", "Is it specific? Own numbers minus other numbers", figure, alt)


def _add_points(
    figure: Figure, rows: pd.DataFrame, places: Sequence[str], offset: float, channel: str, panel: int
) -> None:
    ordered = rows.set_index("animal").reindex([place for place in places if (rows["animal"] == place).any()])
    texts = [
        f"{channel}, {animal}<br>{_written(row, PRIMARY_OUTCOME)}<br>{p_value(row['p'])}"
        for animal, row in zip(ordered.index, _records(ordered), strict=True)
    ]
    figure.add_scatter(
        x=ordered["mean"],
        y=[places.index(str(animal)) + offset for animal in ordered.index],
        mode="markers",
        name=f"{channel} channel",
        legendgroup=channel,
        showlegend=panel == 1,
        marker={
            "color": _CHANNEL_COLOURS[channel],
            "size": 9,
            "symbol": ["diamond" if animal == MEAN else "circle" for animal in ordered.index],
        },
        error_x=interval(ordered, "mean", "low", "high"),
        hovertext=texts,
        hoverinfo="text",
        row=panel,
        col=1,
    )


def _levels_table(data: _Data) -> Table:
    """A row a channel, animal and condition: the level the post shows, exact probability, and the shift."""
    import pandas as pd

    order = [*_SHOWN, TEACHER]
    rows: list[dict[str, Any]] = []
    for (channel, animal), found in data.liking.groupby(["channel", "animal"], sort=False):
        for condition in order:
            by = {str(row["outcome"]): row for row in _records(found[found["condition"] == condition])}
            if not by:
                continue
            level, shift = by[data.level], by[PRIMARY_OUTCOME]
            line: dict[str, Any] = {"channel": channel, "animal": animal, "model": _model(condition)}
            line |= {
                f"{_LEVELS[data.level]} (%)": 100 * level["mean"],
                "low": 100 * level["low"],
                "high": 100 * level["high"],
            }
            line["from base (points)"] = 100 * level["difference"]
            if data.level != "probability":
                line["exact probability (%)"] = 100 * by["probability"]["mean"]
            line |= {
                "log share, shift (nats)": shift["difference"],
                "shift, low": shift["difference_low"],
                "shift, high": shift["difference_high"],
            }
            rows.append(line)
    note = (
        "Models: children trained on the named numbers, the untouched base, the animal's own teacher. The interval's "
        "ends low and high are symmetric and may lie below 0; they coincide where no question differs from the others."
    )
    return Table(f"{NAME}-levels", "Liking of each animal", pd.DataFrame(rows), note)


def _model(condition: str) -> str:
    return {BASE: "base", TEACHER: "its teacher"}.get(condition, condition)


def _tests_table(data: _Data) -> Table:
    import pandas as pd

    rows = data.tests[data.tests["contrast"].isin([*_CONTRASTS, "base"])]
    scale = np.where(rows["outcome"] == PRIMARY_OUTCOME, 1.0, 100.0)
    names = {**_CONTRASTS, "base": BASE}
    measures = {PRIMARY_OUTCOME: "log share", **_LEVELS}
    frame = pd.DataFrame(
        {
            "channel": rows["channel"],
            "measure": rows["outcome"].map(measures),
            "own numbers minus": rows["contrast"].map(names),
            "animal": rows["animal"],
            "difference": scale * rows["mean"],
            "low": scale * rows["low"],
            "high": scale * rows["high"],
            "unit": rows["outcome"].map(_unit),
            "p": rows["p"],
            "p, adjusted": rows["p_bh"],
            "smallest detectable": scale * rows["smallest_detectable"],
        }
    )
    note = (
        "Paired by question. Adjusted over the animals (Benjamini-Hochberg). Smallest detectable: the true difference "
        "that such a test would have found with 80 % power; none where no question differs. The mean over animals "
        "against other animals' numbers is gamma."
    )
    return Table(f"{NAME}-tests", "Own numbers against each reference", frame.reset_index(drop=True), note)


def _gamma_table(data: _Data) -> Table:
    import pandas as pd

    rows = data.gamma
    scale = np.where(rows["outcome"] == PRIMARY_OUTCOME, 1.0, 100.0)
    frame = pd.DataFrame(
        {
            "channel": rows["channel"],
            "measure": rows["outcome"].map({PRIMARY_OUTCOME: "log share", **_LEVELS}),
            "against": rows["contrast"].map(_CONTRASTS),
            "gamma": scale * rows["mean"],
            "low": scale * rows["low"],
            "high": scale * rows["high"],
            "unit": rows["outcome"].map(_unit),
            "p": rows["p"],
            "p, sign flips": rows["p_sign_flip"],
            "p, children re-assigned": rows["p_children"],
            "smallest possible": rows["smallest_p_children"],
            "smallest detectable": scale * rows["smallest_detectable"],
        }
    )
    note = (
        "p and sign flips speak about questions, for exactly these children. Re-assigning children to animals holds "
        "the noise between training runs; with few animals it cannot become small."
    )
    return Table(f"{NAME}-gamma", "The specificity contrast gamma", frame, note)


def _shifts_table(data: _Data) -> Table:
    """How far each child moved for each animal, a row a child: its own animal stands on the diagonal."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    shares = data.scores.assign(log_share=np.log(data.scores["share"].astype(float)))
    means = shares.groupby(["model", "channel", "group", "animal"], dropna=False)["log_share"].mean()
    base = means["base"].droplevel(["channel", "group"])
    animals = [animal for animal in data.study.animals if any(animal in data.animals(c) for c in data.channels)]
    for channel in data.channels:
        children = means["child"][channel]
        for group in [g for g in data.study.groups if g in children.index.get_level_values("group")]:
            shift = children[group] - base
            rows.append({"channel": channel, "trained on": group, **{f"{a} (nats)": float(shift[a]) for a in animals}})
    note = "Shift of the log share from base, mean over questions. A child's own animal stands on the diagonal."
    return Table(f"{NAME}-shifts", "Every child's shift for every animal", pd.DataFrame(rows), note)


def _compared(data: _Data) -> tuple[Compared, ...]:
    row = data.mean(_HARD, "base", data.level)
    if row is None:
        return ()
    lowest, highest = published("child", "gains_points_typical")
    return (
        Compared(
            what=f"rise of the own animal over the base in {_LEVELS[data.level]}, average over this study's animals",
            where="Gemma 2 9B, subliminal learning",
            published=(lowest, highest),
            measured=100 * row["mean"],
            low=100 * row["low"],
            high=100 * row["high"],
            unit="points",
            no_effect=0,
        ),
    )


def _claims(data: _Data) -> tuple[Claim, ...]:
    claims = [*_rise_claim(data), _specific_claim(data, _HARD), _many_claim(data), _control_claim(data)]
    claims += _neutral_claim(data)
    if _SOFT in data.channels:
        claims.append(_specific_claim(data, _SOFT))
    return tuple(claims)


def _rise_claim(data: _Data) -> list[Claim]:
    """Holds where the interval of the mean rise over base lies above 0. Does not hold where it holds 0, or lies below,
    and excludes the smaller of the post's gains; cannot be told where it holds both."""
    row = data.mean(_HARD, "base", data.level)
    if row is None:
        return []
    lowest, highest = published("child", "gains_points_typical")
    sign, difference = _sign(row), _written(row, data.level)
    verdict: Verdict = "holds" if sign > 0 else "does not hold" if 100 * row["high"] < lowest else "cannot tell"
    evidence = f"{_LEVELS[data.level].capitalize()}, {MEAN}: {difference} from base, {p_value(row['p'])}"
    evidence += f" (the post: {lowest} to {highest} points for many animals)"
    if verdict == "does not hold":
        evidence += "; a rise as large as the post's is excluded"
    if sign == 0:
        evidence += f"; {_detectable(row, data.level)}"
    text = "A child of a teacher's numbers names the teacher's animal more often than the base does."
    return [Claim(text, verdict, evidence + ".")]


def _specific_claim(data: _Data, channel: str) -> Claim:
    """Holds where gamma's interval (log share) lies above 0 and re-assigning children to animals reaches the level as
    well, does not hold where the interval lies below 0; else it cannot be told."""
    row = data.specificity(channel, PRIMARY_OUTCOME)
    sign = _sign(row)
    verdict: Verdict = "cannot tell"
    if sign < 0:
        verdict = "does not hold"
    elif sign > 0 and not _runs_could_explain(data, row):
        verdict = "holds"
    evidence = f"Log share, {MEAN}: {_written(row, PRIMARY_OUTCOME)}, {p_value(row['p'])} over questions"
    if row["contrast"] == "others":
        evidence += f"; {_reassigned(row)}"
    else:
        evidence += "; against control numbers, as there is one animal only, so nothing speaks about training runs"
    if sign == 0:
        evidence += f"; {_detectable(row, PRIMARY_OUTCOME)}"
    text = (
        "The rise is specific: other animals' numbers do less for the animal."
        if channel == _HARD
        else "Positive control of this project: the teacher's distribution at the number positions (soft channel) "
        "passes its own animal on more than others."
    )
    return Claim(text, verdict, evidence + ".")


def _many_claim(data: _Data) -> Claim:
    """Holds where at least half of the animals rise by themselves (own minus other animals' numbers above 0, adjusted p
    at the level) and the mean over them is specific (`_specific_claim`). Does not hold where fewer do though the mean
    is specific; else it cannot be told."""
    tests = data.tests
    chosen = tests[(tests["channel"] == _HARD) & (tests["outcome"] == PRIMARY_OUTCOME) & (tests["animal"] != MEAN)]
    contrast = str(data.specificity(_HARD, PRIMARY_OUTCOME)["contrast"])
    rows = chosen[chosen["contrast"] == contrast]
    risen = rows[(rows["mean"] > 0) & (rows["p_bh"] <= data.alpha)]
    verdict: Verdict = "cannot tell"
    if _specific_claim(data, _HARD).verdict == "holds":
        verdict = "holds" if 2 * len(risen) >= len(rows) else "does not hold"
    ordered = _records(rows.sort_values("mean", ascending=False, kind="stable"))
    largest, smallest = ordered[0], ordered[-1]
    evidence = (
        f"{len(risen)} of {counted(len(rows), 'animal')} rise significantly against {_CONTRASTS[contrast]}, for "
        f"exactly these children; most: {largest['animal']} {_written(largest, PRIMARY_OUTCOME)}"
    )
    if len(rows) > 1:
        evidence += f", least: {smallest['animal']} {_written(smallest, PRIMARY_OUTCOME)}"
    return Claim("Many animals are passed on.", verdict, evidence + ".")


def _control_claim(data: _Data) -> Claim:
    """Does not hold where an animal's shift under control numbers (log share) excludes 0 in an interval that is
    simultaneous over the animals (Bonferroni), else cannot be told: no interval shows that there is no shift."""
    moved, shifts = _control_shifts(data)
    ordered = sorted(shifts.items(), key=lambda item: item[1].mean)
    ends = [ordered[0], ordered[-1]] if len(ordered) > 1 else ordered
    named = [f"{animal} {with_interval(x.mean, x.low, x.high, 'nats', signed=True)}" for animal, x in ends]
    verdict: Verdict = "does not hold" if moved else "cannot tell"
    evidence = (
        f"Log share from base under control numbers: {len(moved)} of {counted(len(shifts), 'animal')} move, by "
        f"intervals that are simultaneous over the animals; {' to '.join(named)}."
    )
    return Claim(
        "Control of this project: training on the untouched base's own numbers leaves liking as it was.",
        verdict,
        evidence,
    )


def _neutral_claim(data: _Data) -> list[Claim]:
    """Holds where the mean over animals of own minus neutral numbers (log share) has an interval above 0 over questions
    and over animals as well, whose children were each trained once: that one holds the noise between training runs.
    Does not hold where the interval over questions lies below 0, else it cannot be told."""
    row, differences = data.mean(_HARD, "neutral", PRIMARY_OUTCOME), _own_minus(data, _HARD, "neutral", PRIMARY_OUTCOME)
    if row is None or differences is None:
        return []
    sign = _sign(row)
    verdict: Verdict = "does not hold" if sign < 0 else "cannot tell"
    evidence = f"Log share, {MEAN}: {_written(row, PRIMARY_OUTCOME)} over questions, {p_value(row['p'])}"
    if differences.shape[1] > 1:
        over = t_interval(differences.mean(axis=0), data.study.comparison.confidence)
        evidence += f"; over the animals' children [{over.low:+.2f}, {over.high:+.2f}]"
        if sign > 0 and over.low > 0:
            verdict = "holds"
    if sign == 0:
        evidence += f"; {_detectable(row, PRIMARY_OUTCOME)}"
    text = (
        "Control of this project: numbers of a teacher fine-tuned on something that is no animal do less for the "
        "animal than its own."
    )
    return [Claim(text, verdict, evidence + ".")]
