"""What the section on steering is written from: its artifacts as tables, and the ranks its statements rest on.

Belongs here: reading the steering assets, and bringing groups and layers together. Does not belong here: what is said
(`steering`), drawn or tabled (`report_views`); making and trying vectors (`vectors`,
`scores`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.report.evidence import NotThere, Results
from subliminal_dagster.science.report.tables import rows_where
from subliminal_dagster.science.settings.names import NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.steering.analysis import TOTAL, UNLABELLED, corrected_cosine
from subliminal_dagster.science.steering.ranks import COHERENT, Rank, at_best, rank
from subliminal_dagster.science.steering.scores import LOG_SHARE, PROBABILITY, RATE, effects
from subliminal_dagster.science.steering.vectors import DIRECT, MEAN, SUBLIMINAL, load_vectors

if TYPE_CHECKING:
    import pandas as pd

NOISE = f"{SUBLIMINAL} noise"
_SWEEP = ["group", "kind", "layers", "positions"]
_CELL = [*_SWEEP, "alpha"]
_WHOLE = (f", {MEAN}", ", word")


@dataclass(frozen=True)
class SteeringEvidence:
    """The steering assets of a study, all groups and layers together. Frames are empty where an asset is not there.

    targets: a row a `group`, `kind`, `layers` ("9", "9+20"), `positions`, `alpha` and `question`: the target's
        `probability`, `rate` (NaN without samples) and `shift` (nats, of its log share from alpha 0), `log_mass`
        (natural logarithm of the candidates' probability), and whether the strength is `coherent`.
    best: what `scores.effects` says of coherent strengths, with `group`.
    coherence: as in `scores.SteeringScores`, with `group`.
    against: as `scores.measure_against_flips` gives it, of the study's animals alone, with `group`.
    vectors: `SteeringVector.facts`, with `group`.
    cosines: as in `analysis.cosines`, by kind, with `group` and `layer`, of vectors over whole answers.
    corrected: `analysis.CorrectedCosine` of an animal's subliminal and direct vector, with `group` and `layer`.
    between: as in `analysis.cosines_across_groups`, with `layer`.
    children, child_flips: as in `analysis.child_cosines`, with `layer`.
    shifts: as in `analysis.cosines_of_shifts`, with `layer`.
    left_out: by group, why a gate refused it.
    parts: `analysis.Decomposition.table`, with `group`, `layer` and the facts.
    parts_flips: `analysis.Decomposition.flips`, with `group` and `layer`.
    missing: why a frame is empty, a sentence each.
    """

    targets: pd.DataFrame
    best: pd.DataFrame
    coherence: pd.DataFrame
    against: pd.DataFrame
    vectors: pd.DataFrame
    cosines: pd.DataFrame
    corrected: pd.DataFrame
    between: pd.DataFrame
    children: pd.DataFrame
    child_flips: pd.DataFrame
    shifts: pd.DataFrame
    left_out: dict[str, str]
    parts: pd.DataFrame
    parts_flips: pd.DataFrame
    missing: list[str]

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


def read_evidence(study: Study, results: Results) -> SteeringEvidence:
    """Read all steering assets. Raises NotThere where no animal was steered."""
    import pandas as pd

    missing: list[str] = []
    sweeps = _folders(results, "steering_scores")
    if not sweeps:
        raise NotThere("steering_scores has nothing of any animal: no vector was tried.")
    if len(study.layers) > 1:
        sweeps += _folders(results, "steering_scores_all_layers", missing)
    sweeps = _in_order(study, sweeps)

    def of_all(name: str, folders: list[tuple[str, str, Path]] = sweeps) -> pd.DataFrame:
        tables = [pd.read_parquet(folder / f"{name}.parquet").assign(group=group) for group, _, folder in folders]
        return pd.concat(tables, ignore_index=True)

    targets, summary, coherence = _targets(of_all("questions")), of_all("summary"), of_all("coherence")
    against = of_all("flips", [place for place in sweeps if place[1]])
    against = against[against["animal"].isin(targets["group"])]
    kept = summary.merge(targets.loc[targets["coherent"], _CELL].drop_duplicates(), on=_CELL)
    found = [effects(part).assign(group=group) for group, part in kept.groupby("group", sort=False)]
    best = pd.concat(found, ignore_index=True)
    vectors, cosines, corrected = _vectors(study, results, missing)
    (between, children, child_flips, shifts), left_out = _across(results, missing)
    parts, parts_flips = _parts(study, results, missing)
    inside = (between, children, child_flips, shifts, left_out, parts, parts_flips)
    return SteeringEvidence(targets, best, coherence, against, vectors, cosines, corrected, *inside, missing)


def ranked(
    evidence: SteeringEvidence,
    which: str,
    kinds: tuple[str, ...],
    value: Callable[[dict[str, pd.DataFrame]], pd.Series],
) -> Rank | None:
    """Where `value` of the animals' vectors lies among the same of flips; None where no animal has it.

    `value` is handed, by kind, shifts at the best strength that promotes (suppresses), with a row a direction and a
    column per pair of `layers` and `positions` that was tried, and returns one number per row. For chance the rows are
    flips, all groups' together, and another flip stands in for each of several kinds.
    """
    if not len(evidence.against):
        return None
    rows = evidence.against[evidence.against["kind"].isin({*kinds, SUBLIMINAL})]
    best = at_best(rows, which)
    directions = ["animal", "kind", "flip", "group"]
    table = best.pivot(index=directions, columns=["layers", "positions"], values="shift")
    who = table.index.to_frame(index=False)
    table = table.set_axis(range(len(table)))
    observed, chance = [], []
    for animal in evidence.animals:
        own = rows_where(who, animal=animal, group=animal, flip=-1).reset_index().set_index("kind")["index"]
        flips = table[(who["animal"] == animal) & (who["flip"] >= 0)]
        if not set(kinds) <= set(own.index) or len(flips) < 2:
            continue
        # Only where all kinds have a coherent strength, and so the same for chance.
        shared = table.columns[table.loc[own[list(kinds)]].notna().all()]
        found = value({kind: table.loc[[own[kind]], shared].set_axis([0]) for kind in kinds})
        if found.isna().all():
            continue
        numbers = np.arange(len(flips))
        drawn = {kind: flips[shared].set_axis(np.roll(numbers, place)) for place, kind in enumerate(kinds)}
        observed.append(float(found.iloc[0]))
        chance.append(value(drawn).sort_index().to_numpy())
    return rank(np.array(observed), np.array(chance)) if observed else None


def cosine_rows(evidence: SteeringEvidence, one: str, other: str) -> pd.DataFrame:
    """Cosines of two kinds of vectors, a row per animal and layer; the null is that of `one`, where it has one."""
    found = rows_where(evidence.cosines, first=one, second=other)
    return found[found["group"] != NEUTRAL].sort_values("layer", kind="stable").reset_index(drop=True)


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


def _targets(questions: pd.DataFrame) -> pd.DataFrame:
    """`SteeringEvidence.targets`."""
    mass = questions.groupby([*_CELL, "question"], sort=False)[PROBABILITY].transform("sum")
    # A candidate's probability can be too small for a number where steering is strong.
    questions = questions.assign(log_mass=np.log(mass.clip(lower=np.finfo(float).tiny)))
    own = questions[questions["animal"] == questions["group"]]
    unsteered = rows_where(own, alpha=0)[[*_SWEEP, "question", LOG_SHARE, "log_mass"]]
    joined = own.merge(unsteered, on=[*_SWEEP, "question"], suffixes=("", "_unsteered"))
    joined["shift"] = joined[LOG_SHARE] - joined[f"{LOG_SHARE}_unsteered"]
    change = (joined["log_mass"] - joined["log_mass_unsteered"]).groupby([joined[name] for name in _CELL])
    joined["coherent"] = change.transform("mean") >= np.log(COHERENT)
    return joined[[*_CELL, "question", PROBABILITY, RATE, "shift", "log_mass", "coherent"]]


def _vectors(study: Study, results: Results, missing: list[str]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """`SteeringEvidence.vectors`, `.cosines` and `.corrected`."""
    import pandas as pd

    facts, found, corrected = [], [], []
    for group, layer, folder in _in_order(study, _folders(results, "steering_vectors", missing)):
        vectors = load_vectors(folder)
        facts += [{"group": group, **vector.facts()} for vector in vectors]
        whole_answers = {vector.kind: vector for vector in vectors if vector.position == MEAN}
        if DIRECT in whole_answers:
            cosine = corrected_cosine(whole_answers[SUBLIMINAL], whole_answers[DIRECT])
            corrected.append({"group": group, "layer": int(layer), **vars(cosine), "cosine": _in_range(cosine.cosine)})
        every = pd.read_parquet(folder / "cosines.parquet")
        pairs = every[["first", "second"]]
        whole = pairs.apply(lambda names: names.str.endswith(_WHOLE)).all(axis=1)
        every[["first", "second"]] = pairs.apply(lambda names: names.str.rsplit(", ", n=1).str[0])
        found.append(every[whole].assign(group=group, layer=int(layer)))
    cosines = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    return pd.DataFrame(facts), cosines, pd.DataFrame(corrected)


def _across(results: Results, missing: list[str]) -> tuple[list[pd.DataFrame], dict[str, str]]:
    """`SteeringEvidence.between`, `.children`, `.child_flips` and `.shifts`; `.left_out`."""
    import pandas as pd

    try:
        folder = results.folder("steering_summary")
    except NotThere as reason:
        missing.append(str(reason))
        return [pd.DataFrame()] * 4, {}
    left_out = json.loads((folder / "left_out.json").read_text(encoding="utf-8"))
    names = ("cosines", "child_cosines", "child_flips", "children")
    between, *others = (pd.read_parquet(folder / f"{name}.parquet") for name in names)
    return [between.assign(corrected=_in_range(between["corrected"])), *others], left_out


def _in_range(corrected: Any) -> Any:
    """A cosine corrected for noise, or many: the correction can carry one past 1, which a cosine cannot be."""
    return np.clip(corrected, -1, 1)


def _parts(study: Study, results: Results, missing: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`SteeringEvidence.parts` and `.parts_flips`."""
    import pandas as pd

    found, flips = [], []
    for group, layer, folder in _folders(results, "steering_decomposition", missing) if study.sae else []:
        table = folder / "table.parquet"
        if results.has("steering_by_category", layer):
            labelled = results.folder("steering_by_category", layer) / f"{group}.parquet"
            # A group that a gate refused has none.
            table = labelled if labelled.is_file() else table
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        found.append(pd.read_parquet(table).assign(group=group, layer=int(layer), **facts))
        flips.append(pd.read_parquet(folder / "flips.parquet").assign(group=group, layer=int(layer)))
    if not found:
        return pd.DataFrame(), pd.DataFrame()
    return pd.concat(found, ignore_index=True), pd.concat(flips, ignore_index=True)


def _folders(results: Results, asset: str, missing: list[str] | None = None) -> list[tuple[str, str, Path]]:
    """Group, layer (empty where it is all of them) and folder of an asset's artifacts that hold something. Where there
    are none at all it raises NotThere, or appends the reason to `missing`."""
    try:
        partitions = results.partitions(asset)
    except NotThere as reason:
        if missing is None:
            raise
        missing.append(str(reason))
        return []
    found = []
    for partition in partitions:
        folder = results.folder(asset, partition)
        if not (folder / "nothing.json").exists():
            group, _, layer = partition.partition("|")
            found.append((group, layer, folder))
    return found


def _in_order(study: Study, found: list[tuple[str, str, Path]]) -> list[tuple[str, str, Path]]:
    """By the study's order of groups."""
    order = {group: place for place, group in enumerate(study.groups)}
    return sorted(found, key=lambda item: order.get(item[0], len(order)))
