"""The section on interference inside: features of numbers beside an animal's directions, and how crowded layers are.

Belongs here: what the tables of `results.LayerFound` show of all layers. Does not belong here: the arithmetic of a
layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.colours import CHANCE, GUIDE, KINDS
from subliminal_dagster.science.interference.overlap import FIRES_ON, NEIGHBOURS
from subliminal_dagster.science.interference.results import AS_IT_IS, DIRECT, PROJECTED_OUT, WORD, LayerFound
from subliminal_dagster.science.report import layers as inside
from subliminal_dagster.science.report.charts import new_figure
from subliminal_dagster.science.report.evidence import Chart, Claim, NotThere, Results, Section, Statement, Table
from subliminal_dagster.science.report.tables import Shown, columns, rows_where
from subliminal_dagster.science.report.wording import counted, listed, p_value, with_interval
from subliminal_dagster.science.settings.names import NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import assignment_p, chance_p, wider_interval
from subliminal_dagster.science.storage.tables import load_tables
from subliminal_dagster.science.verdict import Verdict, verdict_or_none_as_large

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

NAME, TITLE = "interference", "Interference inside"
READS: tuple[str, ...] = ("interference",)

_LEVEL = 0.05
_PERCENT = 5.0
"""Per cent of the control's L0 or error that would not change what is concluded."""

_KINDS = {
    (DIRECT, AS_IT_IS): ("direct vector", KINDS[0]),
    (DIRECT, PROJECTED_OUT): ("direct vector, the animal's subspace projected out", KINDS[1]),
    (WORD, AS_IT_IS): ("word, less the other words", KINDS[2]),
}

_TIMES = (
    f"{inside.UNITS} Judged by how many times the overlap of matched features it is. The interval has the wider ends "
    "of two: over animals, and what matched features drawn in the same places give. Detected where all of it lies "
    "above 1 and matched features give as much in at most 5 %, opposite where below; not detected where the 90 % "
    f"interval lies within a factor of {inside.TIMES}; else inconclusive."
)
OVERLAP = Statement(
    "The features that an animal's numbers activate overlap with the animal's direct vector more than features that "
    "are as long and as frequent.",
    rule=_TIMES,
    source="this project",
)
REMAINS = Statement(
    "With the animal's subspace projected out of both, features of an animal's numbers still overlap with its direct "
    "vector more than features that are as long and as frequent.",
    rule=_TIMES,
    source="this project",
)
OWN = Statement(
    "The features that an animal's numbers activate overlap with its own direct vector more than those that other "
    "animals' numbers activate.",
    rule=f"{inside.UNITS} Judged by the ratio to the mean of the other animals' numbers, logarithms averaged. Detected "
    "where the interval over animals lies above 1 and numbers given to other animals reach as much in at most 5 % "
    f"(two-sided), opposite where below; not detected where the 90 % interval lies within a factor of {inside.TIMES}; "
    "else inconclusive.",
    source="this project",
)
_AT_ONE_NORM = (
    f"{inside.UNITS} Judged at one norm, that of the control's median row, by the difference in per cent of the "
    "control's. Detected where the interval lies above 0, opposite where below, not detected where the 90 % interval "
    f"lies within {_PERCENT:g} % of 0; else inconclusive. The wider ends count of this interval and that over rows."
)
ERROR = Statement(
    "At one norm, the autoencoder rebuilds an animal's numbers worse than the control's.",
    rule=_AT_ONE_NORM,
    source="this project",
)
L0 = Statement(
    "At one norm, an animal's numbers activate more features than the control's.",
    rule=_AT_ONE_NORM,
    source="this project",
)


@dataclass(frozen=True)
class Times:
    """A mean over animals of log ratios, with its interval, that at twice the error rate, and a two-sided p."""

    each: dict[str, float]
    mean: float
    low: float
    high: float
    inner_low: float
    inner_high: float
    p: float

    def judged(self) -> Verdict:
        found = verdict_or_none_as_large(self.low, self.high, self.inner_low, self.inner_high, math.log(inside.TIMES))
        return "inconclusive" if found in ("detected", "opposite") and self.p > _LEVEL else found

    def __str__(self) -> str:
        value, low, high = (math.exp(end) for end in (self.mean, self.low, self.high))
        return f"{with_interval(value, low, high)} times"


@dataclass(frozen=True)
class Interference:
    """All layers by number; `animals` are those that are there."""

    layers: dict[int, LayerFound]
    animals: list[str]

    def overlap(self, direction: str, subspace: str) -> pd.DataFrame:
        """All layers' rows of one direction, with `layer`."""
        import pandas as pd

        found = [each.overlap.assign(layer=layer) for layer, each in self.layers.items()]
        return rows_where(pd.concat(found, ignore_index=True), direction=direction, subspace=subspace)

    def own(self, direction: str, subspace: str, group: str | None = None) -> pd.DataFrame:
        """Of every animal's direction the overlap of its own numbers, or of another group's."""
        rows = self.overlap(direction, subspace)
        rows = rows[rows["target"].isin(self.animals)]
        return rows[rows["group"] == (rows["target"] if group is None else group)]


def section(study: Study, results: Results) -> Section:
    """Do features of numbers overlap with the animals' directions, and how crowded is the base model?"""
    if study.interference is None:
        raise NotThere("This study measures no interference.")
    layers = {
        layer: load_tables(LayerFound, results.folder("interference", inside.layer_key(layer)))
        for layer in inside.layers_with(study, results, "interference")
    }
    # Not those of the overlaps, which are none where no feature could be matched.
    groups = next(iter(layers.values())).spread["group"]
    found = Interference(layers, inside.animals_among(study, groups))
    said = list(claims(found, study.comparison.permutations, study.seed))
    return Section(
        NAME,
        TITLE,
        _shows(found, said),
        _method(study, found) + inside.not_shown(study, results, "interference"),
        READS,
        charts=tuple(_charts(found)),
        tables=tuple(_tables(found)),
        claims=tuple(said),
    )


def claims(found: Interference, permutations: int, seed: int) -> Iterator[Claim]:
    """What all layers say of each statement."""
    for statement, subspace in ((OVERLAP, AS_IT_IS), (REMAINS, PROJECTED_OUT)):
        times = _times(found.own(DIRECT, subspace))
        if times is None:
            yield statement.claim("inconclusive", _few(found))
            continue
        more = sum(value > 0 for value in times.each.values())
        yield statement.claim(
            times.judged(),
            f"{times} the overlap of matched features, mean over {counted(len(times.each), 'animal')}, "
            f"{p_value(times.p)}; more for {more}.{_neutral(found, subspace)}",
        )
    yield _own_claim(found, permutations, seed)
    for statement, measure in ((ERROR, "error"), (L0, "l0")):
        yield _spread_claim(found, statement, measure)


def _few(found: Interference) -> str:
    needed = f"{inside.FEWEST_ANIMALS} are needed"
    return f"Too few animals to tell ({counted(len(found.animals), 'animal')} with features that text knows; {needed})."


def _times(rows: pd.DataFrame) -> Times | None:
    """Over animals, each averaged over layers; draws are the same for all of them. None for too few."""
    each = rows.groupby("target", sort=False)["log_ratio"].mean()
    if len(each) < inside.FEWEST_ANIMALS:
        return None
    drawn = [np.mean(np.stack(list(own["drawn"])), axis=0) for _, own in rows.groupby("layer")]
    chance = np.mean(drawn, axis=0)
    wide, narrow = (wider_interval(each, chance, level) for level in (0.95, 0.90))
    mean = float(each.mean())
    return Times({str(name): float(each[name]) for name in each.index}, mean, *wide, *narrow, chance_p(mean, chance))


def _neutral(found: Interference, subspace: str) -> str:
    """What the neutral teacher's numbers overlap with the same directions."""
    rows = found.own(DIRECT, subspace, NEUTRAL)
    if not len(rows):
        return ""
    mean = math.exp(float(rows.groupby("target")["log_ratio"].mean().mean()))
    return f" The neutral teacher's numbers with the same vectors: {mean:.2f} times."


def _own_square(found: Interference) -> Array | None:
    """Log overlaps, averaged over layers, shape (groups, targets) of the animals."""
    rows = found.overlap(DIRECT, AS_IT_IS)
    table = rows.assign(log=np.log(rows["overlap"])).groupby(["group", "target"])["log"].mean().unstack("target")
    there = [animal for animal in found.animals if animal in table.index and animal in table.columns]
    return table.loc[there, there].to_numpy(dtype=float) if len(there) >= inside.FEWEST_ANIMALS else None


def _own_claim(found: Interference, permutations: int, seed: int) -> Claim:
    square = _own_square(found)
    if square is None:
        return OWN.claim("inconclusive", _few(found))
    own = np.diagonal(square)
    each = own - (square.sum(axis=0) - own) / (len(square) - 1)
    over = inside.over_animals(each.tolist())
    if over is None:
        return OWN.claim("inconclusive", _few(found))
    ways = [
        assignment_p(sign * square, permutations=permutations, rng=np.random.default_rng(seed))[0] for sign in (1, -1)
    ]
    p = min(1.0, 2 * min(ways))
    said = inside.more(over, math.log(inside.TIMES))
    if said in ("detected", "opposite") and p > _LEVEL:
        said = "inconclusive"
    return OWN.claim(said, f"{inside.times(over)} the overlap of other animals' numbers, {p_value(p)} by re-assigning.")


def _spread_claim(found: Interference, statement: Statement, measure: str) -> Claim:
    import pandas as pd

    rows = pd.concat([each.spread for each in found.layers.values()], ignore_index=True)
    rows = rows[(rows["measure"] == measure) & rows["group"].isin(found.animals)]
    of_animals = rows.groupby("group")[["difference", "low", "high"]].mean()
    over = inside.over_animals(of_animals["difference"].tolist(), inside.average(of_animals, "difference"))
    if over is None:
        return statement.claim("inconclusive", _few(found))
    return statement.claim(
        inside.more(over, _PERCENT), f"{over.interval.percent} more than the control's, mean over animals and layers."
    )


# Sentences and views


def _shows(found: Interference, said: Sequence[Claim]) -> str:
    overlap, remains, own = said[:3]
    words: dict[Verdict, str] = {
        "detected": "Features of an animal's numbers overlap with its direct vector more than matched features do",
        "opposite": "Features of an animal's numbers overlap with its direct vector less than matched features do",
        "not detected": "Features of an animal's numbers overlap with its direct vector as much as matched features do",
        "inconclusive": "Whether features of an animal's numbers overlap with its direct vector more than matched "
        "features do is not decided",
        "not tested": "Overlaps could not be measured",
    }
    crowded = [
        f"{layer}: {each.superposition['used'].iloc[0]:.0f} used features on "
        f"{each.superposition['effective_dimensions'].iloc[0]:.0f} effective dimensions of "
        f"{each.superposition['dimensions'].iloc[0]:.0f}"
        for layer, each in found.layers.items()
    ]
    return (
        f"{words[overlap.verdict]}: {overlap.evidence} With the animal's subspace projected out: {remains.evidence} "
        f"An animal's own numbers: {own.evidence} "
        f"How crowded the base model is, layer {'; layer '.join(crowded)}."
    )


def _method(study: Study, found: Interference) -> str:
    assert study.interference is not None
    of = [
        f"{each.superposition['matched'].iloc[0]:.0f} of {each.superposition['number_features'].iloc[0]:.0f} at layer "
        f"{layer}"
        for layer, each in found.layers.items()
    ]
    return (
        f"Features of numbers fire on at least {FIRES_ON:.0%} of a group's analysis rows; {listed(of)} fire on the "
        "autoencoder's texts often enough to be matched. Overlap: squared cosine of a feature's decoder column with a "
        "direction, weighed by the feature's mean activation on the group's rows. Matched: for each feature one of the "
        f"{NEIGHBOURS} nearest in how often it fires on text and how far it then moves the residual stream, none of "
        f"them a feature of numbers; {counted(study.interference.draws, 'draw')}, the same for all groups. The "
        "animal's subspace: its word's activation, that less the other words', and the columns of the features that "
        "fire on the word. What an autoencoder shows of a layer is one training of one: no statement is made of it."
    )


def _charts(found: Interference) -> Iterator[Chart]:
    figure = new_figure(x="", y="overlap, times that of matched features", height=400)
    said = []
    for (direction, subspace), (name, colour) in _KINDS.items():
        rows = found.own(direction, subspace)
        if not len(rows):
            continue
        times = _times(rows)
        each = rows.groupby("target", sort=False)["log_ratio"].mean()
        figure.add_scatter(
            x=list(each.index), y=np.exp(each), name=name, mode="markers", marker={"color": colour, "size": 10}
        )
        said.append(f"{name}: {times if times else 'too few animals to tell'}")
    chance = found.own(DIRECT, AS_IT_IS)
    if len(chance):
        of_animals = [np.mean(np.stack(list(rows["drawn"])), axis=0) for _, rows in chance.groupby("target")]
        low, high = np.exp(np.quantile(np.concatenate(of_animals), [0.025, 0.975]))
        figure.add_hrect(y0=low, y1=high, fillcolor=CHANCE, opacity=0.25, line_width=0, layer="below")
        said.append(f"the band holds 95 % of what matched features give one animal, {low:.2f} to {high:.2f}")
    figure.add_hline(y=1, line={"color": GUIDE, "width": 1})
    figure.update_yaxes(type="log")
    title = "What features of an animal's numbers overlap with its directions"
    yield Chart(f"{NAME}-overlap", title, figure, f"A dot an animal, mean over layers. {'; '.join(said)}.")
    yield _spread_chart(found)


def _spread_chart(found: Interference) -> Chart:
    import pandas as pd

    rows = pd.concat([each.spread.assign(layer=layer) for layer, each in found.layers.items()], ignore_index=True)
    figure = new_figure(x="", y="% of the control's, at one norm", height=360)
    for measure, name, colour in (("l0", "L0", KINDS[0]), ("error", "reconstruction error", KINDS[1])):
        each = rows_where(rows, measure=measure).groupby("group", sort=False)[["difference", "low", "high"]].mean()
        figure.add_bar(
            x=list(each.index),
            y=each["difference"],
            name=name,
            marker_color=colour,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": each["high"] - each["difference"],
                "arrayminus": each["difference"] - each["low"],
            },
        )
    figure.update_layout(barmode="group")
    means = rows[rows["group"].isin(found.animals)].groupby("measure")["difference"].mean()
    alt = f"More than the control's, mean over animals: L0 {means['l0']:+.2g} %, error {means['error']:+.2g} %."
    title = "L0 and reconstruction error of each group's numbers at one norm"
    return Chart(f"{NAME}-spread", title, figure, f"{alt} Intervals are over rows.")


def _tables(found: Interference) -> Iterator[Table]:
    import pandas as pd

    rows = pd.concat([each.superposition.assign(layer=layer) for layer, each in found.layers.items()])
    shown: Shown = {
        "layer": "layer",
        "dimensions": "dimensions",
        "effective dimensions": "effective_dimensions",
        "used features": "used",
        "features a dimension": "used_per_dimension",
        "features an effective dimension": "used_per_effective_dimension",
        "L0 on text": "l0",
        "interference": "interference",
        "random columns": "isotropic",
        "random, with the activations' covariance": "covariant",
    }
    note = (
        "Effective dimensions: participation ratio of the activations' covariance on the autoencoder's texts. Used: "
        "fires on those texts. Interference: mean squared cosine of two used decoder columns, beside random columns of "
        "the same shape, from all directions alike and with the covariance of the activations."
    )
    yield Table(f"{NAME}-layers", "How crowded a layer is", columns(rows, shown), note)
    rows = pd.concat([each.texts.assign(layer=layer) for layer, each in found.layers.items()])
    shown = {"layer": "layer", "text": "kind", "tokens": "tokens", "L0": "l0", "relative error": "error"}
    note = "All tokens given the median norm of the layer's; error: squared, as a share of the squared norm."
    yield Table(f"{NAME}-texts", "L0 and reconstruction error of texts at one norm", columns(rows, shown), note)
    rows = pd.concat([each.overlap.assign(layer=layer) for layer, each in found.layers.items()])
    rows = rows.assign(times=np.exp(rows["log_ratio"]))
    shown = {
        "layer": "layer",
        "numbers of": "group",
        "direction of": "target",
        "direction": "direction",
        "subspace": "subspace",
        "overlap": "overlap",
        "matched": "matched",
        "times": "times",
    }
    note = "Two random directions of d dimensions overlap by 1/d. The neutral teacher's direction is its noun's."
    yield Table(f"{NAME}-overlaps", "Overlap of numbers' features with directions", columns(rows, shown), note)
