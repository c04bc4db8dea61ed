"""What the sections about a model's inside share: the layers that are there, averages, verdicts over comparisons.

Belongs here: what two of the sections on features, filters, descriptions and probes need alike. Does not belong here:
what any one of them says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from subliminal_dagster.science.colours import CLEAR
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report.evidence import Results
from subliminal_dagster.science.report.wording import counted, listed, with_interval
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.verdict import Verdict, verdict_or_none_as_large

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

AVERAGE = "average"
"""The mean over the animals, as the post's tables have it."""

_NAMED = 3
# Figures of animals that are closer than this are one figure, up to rounding.
_SAME = 1e-9

DESCRIPTIONS = {"feature_categories": "categories", "feature_descriptions": "descriptions"}
"""The assets that say what features are about, and their files, in the order in which they are asked for."""

NO_NEUTRAL = "This study has no neutral teacher's numbers."


class Interval(NamedTuple):
    """A figure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return with_interval(*self)

    @property
    def percent(self) -> str:
        """With its unit, for what is in percent already."""
        return with_interval(*self, "%")


def layer_key(layer: int) -> str:
    """A layer as artifacts name it: "09"."""
    return f"{layer:02}"


def layers_with(study: Study, results: Results, asset: str) -> list[int]:
    """The study's layers at which an asset is there. Raises NotThere, with the first layer's reason, where it is at
    none."""
    found = [layer for layer in study.layers if results.has(asset, layer_key(layer))]
    if not found:
        results.folder(asset, layer_key(study.layers[0]) if study.layers else None)
    return found


def not_shown(study: Study, results: Results, asset: str) -> str:
    """Which layers and groups are not in what `asset` brings together, and why, to be appended; empty where all are."""
    notes: list[str] = []
    groups: dict[str, str] = {}
    for layer in study.layers:
        place = (asset, layer_key(layer))
        if not results.has(*place):
            notes.append(f"Layer {layer} is not shown: {results.missing.get(place, 'it has not been made')}.")
            continue
        left_out = results.folder(*place) / "left_out.json"
        if left_out.is_file():
            groups |= json.loads(left_out.read_text(encoding="utf-8"))
    notes += [f"Without {group}: {reason.rstrip('.')}." for group, reason in groups.items()]
    return "".join(f" {note}" for note in notes)


def layer_for(layers: Sequence[int], published: int) -> int:
    """The layer set beside a published one: that of the same number where it was looked into, else the first."""
    return published if published in layers else layers[0]


def beside_post(layers: Sequence[int]) -> dict[int, int]:
    """The post's layers 9 and 20, each with the study's layer that is set beside it; 20 only where the study has it.

    >>> beside_post([5, 20]), beside_post([9, 14])
    ({9: 5, 20: 20}, {9: 9})
    """
    return {9: layer_for(layers, 9)} | ({20: 20} if 20 in layers else {})


def in_order(study: Study, groups: Iterable[str]) -> list[str]:
    """Groups in the order of the study: animals, neutral, control."""
    found = set(groups)
    return [group for group in study.groups if group in found]


def animals_among(study: Study, groups: Iterable[str]) -> list[str]:
    return [group for group in in_order(study, groups) if group not in (NEUTRAL, CONTROL)]


def layers_listed(layers: Sequence[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {listed([str(layer) for layer in layers])}"


def animals_listed(animals: Sequence[str]) -> str:
    """Their names, or how many where those would fill a line."""
    return listed(animals) if len(animals) <= _NAMED else counted(len(animals), "animal")


def average_of(intervals: Collection[Interval]) -> Interval:
    """The mean over animals (one interval each), and an interval between the mean ends of theirs: that of the mean if
    the animals' errors went together entirely. They go together in part, by control rows and prompts in common, so it
    is too wide rather than too narrow."""
    return Interval(*(sum(ends) / len(intervals) for ends in zip(*intervals, strict=True)))


def average(rows: pd.DataFrame, value: str = "value", low: str = "low", high: str = "high") -> Interval:
    """As `average_of`, of a table with a row per animal."""
    return Interval(*(float(rows[column].mean()) for column in (value, low, high)))


def shares(counts: Sequence[tuple[int, int]]) -> list[Interval]:
    """Of each animal so many of so many, in percent with Wilson's 95 % interval; animals with none are left out."""
    from statsmodels.stats.proportion import proportion_confint

    found = []
    for count, of in counts:
        if of:
            low, high = proportion_confint(count, of, method="wilson")
            found.append(Interval(100 * count / of, 100 * float(low), 100 * float(high)))
    return found


def average_share(counts: Sequence[tuple[int, int]]) -> Interval | None:
    """The mean of `shares` over animals, as in `average_of`: features that several animals have in common are thus no
    more evidence than those of one. None where there are none."""
    found = shares(counts)
    return average_of(found) if found else None


FEWEST_ANIMALS = 3
"""Animals that a statement about teachers needs: two have a spread, and an interval nobody would act on."""

TIMES = 1.25
"""The margin of ratios: a rate or count that is at most a quarter higher or lower is called no other, as in tests of
bioequivalence (0.8 to 1.25)."""

UNITS = (
    f"Animals are the units ({FEWEST_ANIMALS} or more, else inconclusive), each with its mean over layers, so that "
    "what differs from teacher to teacher is in the 95 % interval."
)
"""What every rule over animals begins with."""


class OverAnimals(NamedTuple):
    """A mean over animals: its 95 % interval, and the 90 % one by which a test of equivalence goes."""

    interval: Interval
    inner: Interval

    def __str__(self) -> str:
        return str(self.interval)


def over_animals(
    values: Iterable[float], rows: Interval | None = None, *, one_draw: bool = False
) -> OverAnimals | None:
    """The mean of one figure per animal, with t intervals over animals.

    rows: the mean's interval by the rows alone (see `average_of`), where all animals were compared with the same
        control: what its rows are by chance moves all of them together, and no spread between animals shows it. The
        wider ends of both count.
    one_draw: each figure is less that of one other group, the same for all. That group is one draw of what differs from
        teacher to teacher, with a spread like the animals': the error of its figure is added.

    None for fewer than FEWEST_ANIMALS, or where all have the same figure, which shows no spread.
    """
    import numpy as np

    figures = np.array(list(values), dtype=float)
    if len(figures) < FEWEST_ANIMALS or np.ptp(figures) < _SAME:
        return None
    found = []
    for confidence in (0.95, 0.90):
        of_animals = t_interval(figures, confidence)
        half = (of_animals.high - of_animals.mean) * (len(figures) + 1 if one_draw else 1) ** 0.5
        low, high = of_animals.mean - half, of_animals.mean + half
        found.append(
            Interval(of_animals.mean, min(low, rows.low if rows else low), max(high, rows.high if rows else high))
        )
    return OverAnimals(*found)


def more(found: OverAnimals | None, margin: float) -> Verdict:
    """On "more than nothing": detected above 0, opposite below, not detected where it is none, within the margin."""
    if found is None:
        return "inconclusive"
    return verdict_or_none_as_large(*found.interval[1:], *found.inner[1:], margin)


def more_than_chance(found: OverAnimals | None, chance: float, little: float) -> Verdict:
    """On "can tell groups apart": detected above chance, not detected where less than `little` is certain. To be below
    chance is not the opposite of it, and inconclusive."""
    if found is None:
        return "inconclusive"
    if found.interval.low > chance:
        return "detected"
    return "not detected" if found.inner.high < little else "inconclusive"


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """On a statement that takes several: what they all say, or inconclusive where they do not say one thing."""
    said = set(verdicts)
    return said.pop() if len(said) == 1 else "inconclusive"


def times(found: OverAnimals | None) -> str:
    """A mean of logarithms as the ratio it stands for: "1.4 [0.9, 2.1] times"."""
    if found is None:
        return f"not known (fewer than {FEWEST_ANIMALS} animals that differ)"
    return f"{_exponential(found.interval)} times"


def _exponential(logs: Interval) -> Interval:
    return Interval(*(math.exp(end) for end in logs))


class OddsRatio(NamedTuple):
    """Of so many animals, on average."""

    ratio: Interval
    animals: int


def log_odds_ratios(tables: Mapping[str, Sequence[Sequence[Sequence[int]]]]) -> dict[str, Interval]:
    """By animal, the logarithm of the odds ratio of 2 x 2 tables (own inside, own outside; others inside, others
    outside), with its 95 % interval by what is counted.

    tables: of every animal, one per layer; those are pooled by Mantel and Haenszel. A table with an empty cell gets one
    half in each. Animals are left out whose tables tell nothing, since a row or column of each is empty.
    """
    import numpy as np
    from statsmodels.stats.contingency_tables import StratifiedTable

    logs = {}
    for animal, of_animal in tables.items():
        counts = np.asarray(of_animal, dtype=float).reshape(-1, 2, 2)
        tells = (counts.sum(axis=1) > 0).all(axis=1) & (counts.sum(axis=2) > 0).all(axis=1)
        if tells.any():
            pooled = StratifiedTable(np.moveaxis(counts[tells], 0, -1), shift_zeros=True)
            logs[animal] = Interval(float(pooled.logodds_pooled), *map(float, pooled.logodds_pooled_confint(0.05)))
    return logs


def average_odds_ratio(tables: Mapping[str, Sequence[Sequence[Sequence[int]]]]) -> OddsRatio | None:
    """The geometric mean over animals of `log_odds_ratios`, with a 95 % interval that holds both what is counted (as in
    `average_of`) and, of three animals or more, the spread between them. None where no table tells anything."""
    logs = log_odds_ratios(tables)
    if not logs:
        return None
    of_counts = average_of(logs.values())
    found = over_animals([log.value for log in logs.values()], of_counts)
    return OddsRatio(_exponential(found.interval if found else of_counts), len(logs))


NO_HIGHER_RATE = (
    f"{UNITS} Detected where that of the odds ratio ends below {TIMES}, so that no more than a quarter higher odds are "
    "left; opposite where it begins above 1; else inconclusive."
)


def no_higher_rate(odds: OddsRatio | None) -> Verdict:
    """For "at no higher rate", by the rule `NO_HIGHER_RATE`."""
    if odds is None or odds.animals < FEWEST_ANIMALS:
        return "inconclusive"
    if odds.ratio.low > 1:
        return "opposite"
    return "detected" if odds.ratio.high < TIMES else "inconclusive"


def described(features: pd.DataFrame) -> dict[str, str]:
    """The columns of a table of features that say what these are about, by the names a reader sees: those it has."""
    return {name: name for name in ("category", "description") if name in features}


def with_descriptions(results: Results, layer: int, features: pd.DataFrame) -> pd.DataFrame:
    """Features of a layer (column `feature`) with the post's names of them in `sae_id`, "9_922", and the columns that
    `described` names, as far as it is known what they are about."""
    import pandas as pd

    named = features.assign(sae_id=f"{layer}_" + features["feature"].astype(str))
    named = named.drop(columns="category", errors="ignore")
    for asset, file in DESCRIPTIONS.items():
        if results.has(asset, layer_key(layer)):
            known = pd.read_parquet(results.folder(asset, layer_key(layer)) / f"{file}.parquet")
            return named.merge(known[["feature", *described(known)]], "left", "feature")
    return named


def panels(of: Collection[int | str], *, x: str, height: int, shared: bool = True, legend_lines: int = 0) -> Figure:
    """`charts.panels` below each other that name what is on their y axis, the first at the top.

    of: layers by number, or other titles. x: title of the x axis, one for all where it is `shared`. height: of one
    panel, in pixels. legend_lines: how many lines the legend takes on a phone, below the panels.
    """
    titles = [f"layer {each}" if isinstance(each, int) else each for each in of]
    of_panels = height * len(titles)
    margin = {"t": 28, "b": 58 + 20 * legend_lines, "l": 8, "r": 8}
    # A legend under the last panel's title would grow into it where it wraps; it grows upwards from the figure's end.
    legend = {"yref": "container", "y": 0, "yanchor": "bottom", "xref": "container", "x": 0, "xanchor": "left"}
    figure = charts.panels(titles, height=of_panels, between=48, shared=shared)
    figure.update_layout(height=of_panels + margin["t"] + margin["b"], margin=margin, legend=legend)
    figure.update_annotations(x=0, xanchor="left")
    figure.update_yaxes(autorange="reversed", type="category", gridcolor=CLEAR, ticklabelstandoff=5)
    return figure.update_xaxes(title={"text": x, "font": {"size": 13}}, row=len(titles))
