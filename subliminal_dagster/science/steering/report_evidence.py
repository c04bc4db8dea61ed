"""What the section on steering is written from: its artifacts as tables, and the contrasts its statements rest on.

Belongs here: reading the steering assets, and bringing groups and layers together. Does not belong here: what is said
(`steering`), drawn or tabled (`steering_views`); making and trying vectors (`science.steering_vectors`,
`science.steering_scores`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.report.evidence import NotThere, Results
from subliminal_dagster.science.settings.names import NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import Estimate, smallest_detectable, t_interval
from subliminal_dagster.science.steering.analysis import TOTAL, UNLABELLED
from subliminal_dagster.science.steering.scores import LOG_SHARE, PROBABILITY, RATE, effects
from subliminal_dagster.science.steering.vectors import MEAN, SUBLIMINAL, load_vectors

if TYPE_CHECKING:
    import pandas as pd

NOISE = f"{SUBLIMINAL} noise"
COHERENT = 0.1
"""The model counts as coherent while the candidates' probability, a geometric mean over questions, is at least this
share of what it is without steering. Below, shares among the candidates say nothing of what the model answers."""

PROMOTED, SUPPRESSED = "promoted", "suppressed"
_SWEEP = ["group", "kind", "layers", "positions"]
_WHOLE = (f", {MEAN}", ", word")


@dataclass(frozen=True)
class SteeringEvidence:
    """The steering assets of a study, all groups and layers together. Frames are empty where an asset is not there.

    targets: a row a `group`, `kind`, `layers` ("9", "9+20"), `positions`, `alpha` and `question`: the target's
        `probability`, `rate` (NaN without samples) and `shift` (nats, of its log share from alpha 0), `log_mass`
        (natural logarithm of the candidates' probability), and whether the strength is `coherent`.
    best: what `steering_scores.effects` says of coherent strengths, with `group`.
    coherence: as in `steering_scores.SteeringScores`, with `group`.
    vectors: `SteeringVector.facts`, with `group`.
    cosines: as in `steering_analysis.cosines`, by kind, with `group` and `layer`, of vectors over whole answers.
    between: the same of the groups' subliminal vectors, without `group`; `first` and `second` are groups.
    shifts: as in `steering_analysis.explained_shift`, with `group` and `layer`.
    parts: `steering_analysis.Decomposition.table`, with `group`, `layer`, `l0_first`, `l0_second`, `l0_zero`.
    missing: why a frame is empty, a sentence each. left_out: by group, why a gate refused it.
    """

    targets: pd.DataFrame
    best: pd.DataFrame
    coherence: pd.DataFrame
    vectors: pd.DataFrame
    cosines: pd.DataFrame
    between: pd.DataFrame
    shifts: pd.DataFrame
    parts: pd.DataFrame
    missing: tuple[str, ...]
    left_out: dict[str, str]

    @property
    def animals(self) -> list[str]:
        return list(dict.fromkeys(self.targets["group"]))

    @property
    def layers(self) -> list[str]:
        """What was steered, as tables name it: single layers in order, then all together."""
        return sorted(set(self.targets["layers"]), key=lambda name: (name.count("+"), int(name.split("+")[0])))

    @property
    def positions(self) -> str:
        """The positions that statements are about: all of them where that was tried, as in the post."""
        found = list(dict.fromkeys(self.targets["positions"]))
        return "all" if "all" in found else str(found[0])

    @property
    def measure(self) -> str:
        """The post's measure where answers were sampled, else the exact probability."""
        return PROBABILITY if self.targets[RATE].isna().all() else RATE

    @property
    def labelled(self) -> bool:
        """Whether features have categories."""
        return bool(len(self.parts)) and not self.parts["category"].isin([UNLABELLED, TOTAL]).all()


@dataclass(frozen=True)
class Contrast:
    """A mean difference of shifts (nats) over `questions`, averaged over groups and layers within each, and the
    smallest one that a test at 5 % would have found with 80 % power."""

    estimate: Estimate
    questions: int
    smallest: float


def read_evidence(study: Study, results: Results) -> SteeringEvidence:
    """Read all steering assets. Raises NotThere where no animal was steered."""
    import pandas as pd

    missing: list[str] = []
    sweeps = _sweeps(study, results, missing)
    questions, summary, coherence = (
        pd.concat(
            [pd.read_parquet(folder / f"{name}.parquet").assign(group=group) for group, folder in sweeps],
            ignore_index=True,
        )
        for name in ("questions", "summary", "coherence")
    )
    targets = _targets(questions)
    vectors, found = _vectors(study, results, missing)
    between, shifts, left_out = _across(results, missing)
    parts = _parts(study, results, missing)
    best = _best(summary, targets)
    return SteeringEvidence(
        targets, best, coherence, vectors, found, between, shifts, parts, tuple(dict.fromkeys(missing)), left_out
    )


def at_best(evidence: SteeringEvidence, which: str) -> pd.DataFrame:
    """Shifts at the coherent strength that promotes (or suppresses) most, of single layers: a row a group, kind,
    layers, positions and `question`, with `shift`."""
    best = evidence.best[~evidence.best["layers"].str.contains("+", regex=False)]
    chosen = best[[*_SWEEP, f"{which}_at"]].rename(columns={f"{which}_at": "alpha"}).dropna(subset="alpha")
    return evidence.targets.merge(chosen, on=[*_SWEEP, "alpha"])


def contrast(first: pd.DataFrame, second: pd.DataFrame, over: tuple[str, ...] = ("group", "layers")) -> Contrast | None:
    """Shifts of `first` less those of `second` (rows of `at_best`), paired by question and `over`; None without two
    questions that have both."""
    keys = [*over, "question"]
    pairs = first.merge(second, on=keys, suffixes=("", "_other"))
    values = (pairs["shift"] - pairs["shift_other"]).groupby(pairs["question"]).mean()
    if len(values) < 2:
        return None
    estimate = t_interval(values.to_numpy())
    return Contrast(estimate, len(values), smallest_detectable(estimate.se, len(values)))


def cosine_rows(evidence: SteeringEvidence, one: str, other: str) -> pd.DataFrame:
    """Cosines of two kinds of vectors, a row an animal and layer; the null is that of `one`, where it has one."""
    rows = evidence.cosines
    found = rows[(rows["first"] == one) & (rows["second"] == other) & (rows["group"] != NEUTRAL)]
    return found.sort_values("layer", kind="stable").reset_index(drop=True)


def ranged(values: pd.Series, digits: int = 2) -> str:
    """The lowest and highest of some values, or the one there is.

    >>> import pandas as pd
    >>> ranged(pd.Series([-0.05, 0.15]))
    '-0.05 to 0.15'
    """
    # Adding zero makes -0.0, which would be written with its sign, a plain zero.
    lowest, highest = (f"{round(float(end), digits) + 0.0:.{digits}f}" for end in (values.min(), values.max()))
    return lowest if lowest == highest else f"{lowest} to {highest}"


def over_animals(values: pd.Series, lowest: float, highest: float = np.inf) -> tuple[float, float | None, float | None]:
    """Mean over animals with its t interval, cut at the lowest and highest possible; no interval for one animal."""
    if len(values) < 2:
        return float(values.mean()), None, None
    found = t_interval(values.to_numpy(dtype=float))
    return found.mean, max(found.low, lowest), min(found.high, highest)


def _sweeps(study: Study, results: Results, missing: list[str]) -> list[tuple[str, Path]]:
    found = _folders(results, "steering_scores")
    if not found:
        raise NotThere("steering_scores has nothing of any animal: no vector was tried.")
    sweeps = [(partition.split("|")[0], folder) for partition, folder in found]
    if len(study.layers) > 1:
        sweeps += _optional(results, "steering_scores_all_layers", missing)
    order = {group: number for number, group in enumerate(study.groups)}
    return sorted(sweeps, key=lambda item: order.get(item[0], len(order)))


def _targets(questions: pd.DataFrame) -> pd.DataFrame:
    """`SteeringEvidence.targets`."""
    cell = [*_SWEEP, "alpha"]
    mass = questions.groupby([*cell, "question"], sort=False)[PROBABILITY].sum()
    # A candidate's probability can be too small for a number where steering is strong.
    log_mass = np.log(mass.clip(lower=np.finfo(float).tiny)).rename("log_mass")
    own = questions[questions["animal"] == questions["group"]].drop(columns="animal")
    own = own.merge(log_mass.reset_index(), on=[*cell, "question"])
    unsteered = own[own["alpha"] == 0][[*_SWEEP, "question", LOG_SHARE, "log_mass"]]
    joined = own.merge(unsteered, on=[*_SWEEP, "question"], suffixes=("", "_unsteered"))
    joined["shift"] = joined[LOG_SHARE] - joined[f"{LOG_SHARE}_unsteered"]
    change = (joined["log_mass"] - joined["log_mass_unsteered"]).groupby([joined[name] for name in cell])
    joined["coherent"] = change.transform("mean") >= np.log(COHERENT)
    return joined[[*cell, "question", PROBABILITY, RATE, "shift", "log_mass", "coherent"]]


def _best(summary: pd.DataFrame, targets: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    coherent = targets.loc[targets["coherent"], [*_SWEEP, "alpha"]].drop_duplicates()
    kept = summary.merge(coherent, on=[*_SWEEP, "alpha"])
    return pd.concat(
        [effects(part).assign(group=group) for group, part in kept.groupby("group", sort=False)], ignore_index=True
    )


def _vectors(study: Study, results: Results, missing: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    import pandas as pd

    facts, found = [], []
    order = {group: number for number, group in enumerate(study.groups)}
    folders = _optional(results, "steering_vectors", missing)
    for partition, folder in sorted(folders, key=lambda item: order.get(item[0].split("|")[0], len(order))):
        group, layer = partition.split("|")
        facts += [{"group": group, **vector.facts()} for vector in load_vectors(folder)]
        every = pd.read_parquet(folder / "cosines.parquet")
        whole = every["first"].str.endswith(_WHOLE) & every["second"].str.endswith(_WHOLE)
        found.append(every[whole].assign(group=group, layer=int(layer)))
        for column in ("first", "second"):
            found[-1][column] = found[-1][column].str.rsplit(", ", n=1).str[0]
    return pd.DataFrame(facts), pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _across(results: Results, missing: list[str]) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    import pandas as pd

    try:
        folder = results.folder("steering_summary")
    except NotThere as reason:
        missing.append(str(reason))
        return pd.DataFrame(), pd.DataFrame(), {}
    between = pd.read_parquet(folder / "cosines.parquet")
    for column in ("first", "second"):
        between[column] = between[column].str.removesuffix("'s numbers")
    left_out = json.loads((folder / "left_out.json").read_text(encoding="utf-8"))
    return between, pd.read_parquet(folder / "child_shifts.parquet"), left_out


def _parts(study: Study, results: Results, missing: list[str]) -> pd.DataFrame:
    import pandas as pd

    if study.sae is None:
        return pd.DataFrame()
    found = []
    for partition, folder in _optional(results, "steering_decomposition", missing):
        group, layer = partition.split("|")
        table = folder / "table.parquet"
        if results.has("steering_by_category", layer):
            labelled = results.folder("steering_by_category", layer) / f"{group}.parquet"
            # A group that a gate refused has none.
            table = labelled if labelled.is_file() else table
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        found.append(pd.read_parquet(table).assign(group=group, layer=int(layer), **facts))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _folders(results: Results, asset: str) -> list[tuple[str, Path]]:
    """Partition and folder of an asset's artifacts that hold something. Raises NotThere where there is none at all."""
    found = [(partition, results.folder(asset, partition)) for partition in results.partitions(asset)]
    return [(partition, folder) for partition, folder in found if not (folder / "nothing.json").exists()]


def _optional(results: Results, asset: str, missing: list[str]) -> list[tuple[str, Path]]:
    try:
        return _folders(results, asset)
    except NotThere as reason:
        missing.append(str(reason))
        return []
