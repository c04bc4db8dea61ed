"""What entanglement says of one study: tables of all that `beyond` computes, with verdicts.

Belongs here: putting the base model's measures together with the study's numbers and children. Does not belong here:
the arithmetic (`beyond`), sentences (`report`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.entanglement.beyond import (
    RATIO,
    OwnMore,
    beyond_frequency,
    digits_exchanged,
    frequency_ratios,
    lifts,
    matched_bins,
    nearest,
    number_weights,
    own_more,
    predict,
    prediction_verdict,
    rank_correlations,
    variance_shares,
)
from subliminal_dagster.science.entanglement.measures import EMBEDDING, PROMPTED, TOLD, UNEMBEDDING, Entanglement
from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.child import ComparisonSettings
from subliminal_dagster.science.settings.entanglement import EntanglementSettings

# pandas takes half a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MEAN = "mean"
"""The row of a table that stands for all animals, or all children."""

PREDICTION_MARGIN = 0.2
"""A mean rank correlation that explains less than 4 % of the variance of ranks is called none."""

LIFTS = ((TOLD, PROMPTED), (UNEMBEDDING, PROMPTED), (EMBEDDING, PROMPTED), (UNEMBEDDING, TOLD), (EMBEDDING, TOLD))
"""By which measure numbers are chosen, and by which they are tried. The reverse would be the same comparison again."""

_OWN = ["animal", "value", "low", "high", "inner_low", "inner_high", "p_matched", "p_assigned", "verdict"]
_DATA = ["measure", *_OWN]


@dataclass(frozen=True)
class Found:
    """Tables, all tidy.

    shares: a row per `measure`: shares of its variance that are the `number`'s, the `animal`'s, of both their
        `frequency`, and `left` (see `beyond.variance_shares`).
    lifts: a row per pair of measures (`by`, `measured`) and `animal`: `value`; and one of the `MEAN`, with `low`,
        `high`, `inner_low`, `inner_high`, `p_matched`, `verdict` (see `beyond.OwnMore`). In the unit of `measured`.
    data: the same per `measure` and animal of the study, with `p_assigned` besides.
    predictions: a row per `measure` and `group`: `value`, a rank correlation, and `elsewhere`, that without the group's
        own animal; and one of the `MEAN`, with the columns of `beyond.Prediction`, the `verdict` of the measure alone,
        `verdict_of_any`, and how many `animals` there are.
    top: a row per `animal` and `rank`: the `number` that love for the animal raises most beyond frequency, by how much
        (`told`, nats), and what it does to the animal as a prompt (`prompted`, nats, beyond frequency).
    coverage: a row per `group`: how many numbers its `children` were trained on, and the share of them that was
        `measured`.
    """

    shares: pd.DataFrame
    lifts: pd.DataFrame
    data: pd.DataFrame
    predictions: pd.DataFrame
    top: pd.DataFrame
    coverage: pd.DataFrame


def study_entanglement(
    measured: Entanglement,
    written: Mapping[str, Sequence[int]],
    trained: Mapping[str, Sequence[int]],
    shifts: Mapping[str, Sequence[float]],
    animals: Sequence[str],
    settings: EntanglementSettings,
    comparison: ComparisonSettings,
    seed: int,
) -> Found:
    """All tables of a study.

    Args:
        written: by group, the numbers of its teachers' valid answers.
        trained: by group, the numbers that its children were trained on.
        shifts: by group, how much more its children like each candidate than the base does, in the order of
            `measured.animals`: nats of log share, mean over questions and children.
        animals: those of the study that are compared.
    """
    import pandas as pd

    study = _Study.of(measured, animals, settings, comparison, seed)
    numbers = list(map(int, measured.numbers["number"]))
    counts = {group: number_weights(own, numbers)[0] * len(own) for group, own in written.items()}
    # Of the data and not of the base model: one measure more to predict from.
    ratios = frequency_ratios(counts, study.candidates)
    own = {name: number_weights(drawn, numbers) for name, drawn in trained.items()}
    shares = [{"measure": name} | variance_shares(m, study.bins, study.log_p) for name, m in measured.values.items()]
    return Found(
        pd.DataFrame(shares),
        pd.DataFrame(_lift_rows(study), columns=["by", "measured", *_OWN]),
        pd.DataFrame(_data_rows(study, {group: _shares(each) for group, each in counts.items()}), columns=_DATA),
        _predictions(study, {name: weights for name, (weights, _) in own.items()}, shifts, ratios),
        _top(study, numbers),
        pd.DataFrame(
            [{"group": group, "numbers": len(trained[group]), "measured": share} for group, (_, share) in own.items()]
        ),
    )


def written_numbers(texts: Iterable[str]) -> list[int]:
    """All numbers in texts, in order."""
    return [int(digits) for text in texts for digits in re.findall(r"\d+", text)]


@dataclass(frozen=True)
class _Study:
    candidates: list[str]
    animals: list[str]
    bins: NDArray[np.int64]
    log_p: Array
    left: dict[str, Array]
    orders: list[NDArray[np.int64]]
    settings: EntanglementSettings
    comparison: ComparisonSettings
    seed: int

    @classmethod
    def of(
        cls,
        measured: Entanglement,
        animals: Sequence[str],
        settings: EntanglementSettings,
        comparison: ComparisonSettings,
        seed: int,
    ) -> _Study:
        numbers, log_p = measured.numbers, measured.animals["log_p"].to_numpy(dtype=float)
        bins = matched_bins(numbers["digits"].to_numpy(), numbers["log_p"].to_numpy())
        left = {name: beyond_frequency(values, bins, log_p) for name, values in measured.values.items()}
        drawn = digits_exchanged(list(numbers["number"]), settings.draws, stream_seed(seed, "entanglement"))
        candidates = list(measured.animals["animal"])
        return cls(candidates, list(animals), bins, log_p, left, list(drawn), settings, comparison, seed)

    def places(self, measure: Array, names: Sequence[str]) -> list[int]:
        """The columns of these candidates that a measure has a value of."""
        there = np.atleast_1d(np.isfinite(measure).all(axis=0))
        return [self.candidates.index(name) for name in names if there[self.candidates.index(name)]]

    def own_more(self, square: Array, drawn: Iterable[Array], *, assigned: bool) -> OwnMore:
        permutations = self.comparison.permutations if assigned else None
        return own_more(square, drawn, confidence=0.95, permutations=permutations, seed=self.seed)

    def margin(self, measure: str) -> float:
        """What counts as no effect, in the unit of a measure: of cosines nobody knows."""
        return self.comparison.margin if measure in (TOLD, PROMPTED) else 0.0


def _shares(counts: Array) -> Array:
    return counts / counts.sum() if counts.sum() else counts


def _lift_rows(study: _Study) -> Iterator[dict[str, Any]]:
    for by, measured in LIFTS:
        if by not in study.left:
            continue
        places = study.places(study.left[by] + study.left[measured], study.candidates)
        names = [study.candidates[place] for place in places]
        if not names:
            continue
        near, tried = nearest(study.left[by][:, places], study.settings.top), study.left[measured][:, places]
        found = study.own_more(
            lifts(near, tried), (lifts(near, tried[order]) for order in study.orders), assigned=False
        )
        yield from _own_rows({"by": by, "measured": measured}, names, found, study.margin(measured))


def _data_rows(study: _Study, weights: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    for measure, left in study.left.items():
        places = [place for place in study.places(left, study.animals) if study.candidates[place] in weights]
        names = [study.candidates[place] for place in places]
        if not names:
            continue
        rows, kept = np.stack([weights[name] for name in names]), left[:, places]
        found = study.own_more(rows @ kept, (rows @ kept[order] for order in study.orders), assigned=True)
        yield from _own_rows({"measure": measure}, names, found, study.margin(measure))


def _own_rows(about: dict[str, str], names: Sequence[str], found: OwnMore, margin: float) -> Iterator[dict[str, Any]]:
    for name, value in zip(names, found.each, strict=True):
        yield about | {"animal": name, "value": float(value)}
    columns = ("low", "high", "inner_low", "inner_high", "p_matched", "p_assigned")
    mean = {"animal": MEAN, "value": found.mean} | {column: getattr(found, column) for column in columns}
    yield about | mean | {"verdict": found.judged(margin)}


def _predictions(
    study: _Study, weights: Mapping[str, Array], shifts: Mapping[str, Sequence[float]], ratios: Array
) -> pd.DataFrame:
    import pandas as pd

    groups = list(weights)
    data, moved = np.stack([weights[group] for group in groups]), np.array([shifts[group] for group in groups])
    own = np.array([[group == candidate for candidate in study.candidates] for group in groups])
    measures = dict(study.left)
    ratio = np.where(np.isfinite(ratios).all(axis=0), study.log_p, np.nan)
    measures[RATIO] = beyond_frequency(ratios, study.bins, ratio)

    found = {
        measure: predict(
            data,
            values,
            moved,
            study.orders,
            measures=len(measures),
            permutations=study.comparison.permutations,
            seed=study.seed,
            # A ratio knows its own animal's numbers by construction.
            own=own if measure == RATIO else None,
        )
        for measure, values in measures.items()
    }
    any_of_them = prediction_verdict(found, PREDICTION_MARGIN)
    rows: list[dict[str, Any]] = []
    for measure, prediction in found.items():
        elsewhere = rank_correlations(data, measures[measure], moved, own)
        for place, group in enumerate(groups[: len(prediction.each)]):
            each = {"value": float(prediction.each[place]), "elsewhere": float(elsewhere[place])}
            rows.append({"measure": measure, "group": group} | each)
        mean = {name: value for name, value in vars(prediction).items() if name != "each"}
        rows.append(
            {"measure": measure, "group": MEAN, "value": mean.pop("mean"), "elsewhere": _mean(elsewhere)}
            | mean
            | {
                "verdict": prediction.judged(len(found), PREDICTION_MARGIN),
                "verdict_of_any": any_of_them,
                "animals": int(np.isfinite(measures[measure]).all(axis=0).sum()),
            }
        )
    return pd.DataFrame(rows)


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else math.nan


def _top(study: _Study, numbers: Sequence[int]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for place in study.places(study.left[TOLD] + study.left[PROMPTED], study.candidates):
        told, prompted = study.left[TOLD][:, place], study.left[PROMPTED][:, place]
        for rank, at in enumerate(np.argsort(-told, kind="stable")[: study.settings.top], 1):
            number = {"animal": study.candidates[place], "rank": rank, "number": numbers[at]}
            rows.append(number | {"told": float(told[at]), "prompted": float(prompted[at])})
    return pd.DataFrame(rows, columns=["animal", "rank", "number", "told", "prompted"])
