"""What the sections about a model's inside share: the layers that are there, averages, verdicts over comparisons.

Belongs here: what two of the sections on features, filters, descriptions and probes need alike. Does not belong here:
what any one of them says.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report.evidence import Results
from subliminal_dagster.science.report.wording import counted, listed, with_interval
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

AVERAGE = "average"
"""The mean over the animals, as the post's tables have it."""

_NAMED = 3

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


def average(rows: pd.DataFrame, value: str = "value", low: str = "low", high: str = "high") -> Interval:
    """The mean over rows (one an animal), and an interval between the mean ends of theirs: that of the mean if the
    animals' errors went together entirely. They go together in part, by control rows and prompts in common, so it is
    too wide rather than too narrow."""
    return Interval(*(float(rows[column].mean()) for column in (value, low, high)))


def average_share(counts: Sequence[tuple[int, int]]) -> Interval | None:
    """The mean share in percent over animals (of each so many of so many), as `average` of Wilson's 95 % intervals.
    Features that several animals have in common are thus no more evidence than those of one. None where there are
    none."""
    import pandas as pd
    from statsmodels.stats.proportion import proportion_confint

    shares = []
    for count, of in counts:
        if of:
            low, high = proportion_confint(count, of, method="wilson")
            shares.append(Interval(100 * count / of, 100 * float(low), 100 * float(high)))
    return average(pd.DataFrame(shares)) if shares else None


def over_comparisons(total: int, for_it: int, against: int) -> Verdict:
    """The rule for a statement tested once an animal and layer: it holds where more than half of the tests speak for it
    and none against, it does not where more than half speak against it and none for; else nobody can tell."""
    if 2 * for_it > total and not against:
        return "detected"
    if 2 * against > total and not for_it:
        return "not detected"
    return "inconclusive"


def average_odds_ratio(tables: Mapping[str, Sequence[Sequence[Sequence[int]]]]) -> Interval | None:
    """The odds ratio of 2 x 2 tables (own inside, own outside; others inside, others outside), a geometric mean over
    animals, with a 95 % interval that is made as in `average`.

    tables: of every animal, one a layer; those are pooled by Mantel and Haenszel. A table with an empty cell gets one
    half in each. None where no table tells anything, since one of its rows or columns is empty.
    """
    import numpy as np
    from statsmodels.stats.contingency_tables import StratifiedTable

    logs = []
    for of_animal in tables.values():
        counts = np.asarray(of_animal, dtype=float).reshape(-1, 2, 2)
        tells = (counts.sum(axis=1) > 0).all(axis=1) & (counts.sum(axis=2) > 0).all(axis=1)
        if tells.any():
            pooled = StratifiedTable(np.moveaxis(counts[tells], 0, -1), shift_zeros=True)
            logs.append([pooled.logodds_pooled, *pooled.logodds_pooled_confint(0.05)])
    return Interval(*np.exp(np.mean(logs, axis=0)).tolist()) if logs else None


NO_HIGHER_RATE = (
    "Holds where the interval of the odds ratio ends below 2, twice the odds, and does not begin above 1; does not "
    "hold where it begins above 1; else, or where nothing could be compared, it cannot be told."
)


def no_higher_rate(ratio: Interval | None) -> Verdict:
    """For "at no higher rate", by the rule `NO_HIGHER_RATE`."""
    if ratio is None:
        return "inconclusive"
    if ratio.low > 1:
        return "not detected"
    return "detected" if ratio.high < 2 else "inconclusive"


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
    figure.update_yaxes(autorange="reversed", type="category", gridcolor="rgba(0,0,0,0)", ticklabelstandoff=5)
    return figure.update_xaxes(title={"text": x, "font": {"size": 13}}, row=len(titles))
