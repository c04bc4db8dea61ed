"""Artifacts of a study's inside, small and fabricated, for tests of the report: written by the functions that write the
real ones, from features that fire as often as a test says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from subliminal_dagster.science.activations.activations import SparseFeatures, write_features
from subliminal_dagster.science.activations.digits import digit_columns
from subliminal_dagster.science.descriptions.categories import agreement, group_composition, load_labelled
from subliminal_dagster.science.descriptions.judges import CATEGORIES, Category
from subliminal_dagster.science.features.filters import filter_features, held_out_filters
from subliminal_dagster.science.features.shifts import (
    FeatureShifts,
    compare_groups,
    firing_features,
    halves,
    labelled_features,
    marked_features,
    unique_features,
)
from subliminal_dagster.science.report.evidence import Results
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.steering.analysis import table_by_category

WIDTH = 60
ANALYSIS, TEST = 60, 30
WORD = [0, 1, 2, 3]
"""The features that fire on every animal's word."""


def small_study(*overrides: str) -> Study:
    """Two animals, one of the post's, and two layers, one of the post's."""
    study = load_study("smollm2-135m-instruct", ["animals=[owl, dog]", "layers=[9, 14]", *overrides])
    assert isinstance(study, Study)
    return study


def sparse_features(seed: int, rates: Mapping[int, float], error: float = 0.1) -> SparseFeatures:
    """Every feature fires on 20 % of the rows, but as `rates` says; `error` is the mean reconstruction error."""
    rng = np.random.default_rng(seed)
    rate = np.full(WIDTH, 0.2)
    for feature, value in rates.items():
        rate[feature] = value
    shape = (ANALYSIS + TEST, WIDTH)
    dense = rng.exponential(1.0, shape) * (rng.random(shape) < rate)
    rows = pd.DataFrame(
        {
            "row_id": np.arange(shape[0]),
            "split": ["analysis"] * ANALYSIS + ["test"] * TEST,
            "error": (error * rng.uniform(0.9, 1.1, shape[0])).astype(np.float32),
        }
    )
    return SparseFeatures(rows, csr_array(dense.astype(np.float32)))


class Artifacts:
    """Folders of a study's artifacts. `rates` and `errors` by group, of what differs from the control."""

    def __init__(
        self,
        root: Path,
        study: Study,
        rates: Mapping[str, Mapping[int, float]] | None = None,
        errors: Mapping[str, float] | None = None,
    ) -> None:
        self.root, self.study = root, study
        self.folders: dict[tuple[str, str | None], Path] = {}
        rates, errors = rates or {}, errors or {}
        self.features = {
            layer: {
                group: sparse_features(100 * layer + place, rates.get(group, {}), errors.get(group, 0.1))
                for place, group in enumerate(study.groups)
            }
            for layer in study.layers
        }
        self.shifts: dict[int, dict[str, FeatureShifts]] = {}
        for layer, groups in self.features.items():
            self.shifts[layer] = {}
            for group, own in groups.items():
                pair = halves(own, 1) if group == CONTROL else (own, groups[CONTROL])
                word = [] if group == CONTROL else WORD
                self.shifts[layer][group] = compare_groups(*pair, word, permutations=40, seed=1)

    @property
    def digits(self) -> dict[str, np.ndarray]:
        """Of every group, the columns of numbers that say nothing."""
        rng = np.random.default_rng(7)
        return {group: digit_columns(rng.integers(0, 1000, (ANALYSIS + TEST, 8))) for group in self.study.groups}

    @property
    def results(self) -> Results:
        return Results(self.folders, {})

    def folder(self, asset: str, partition: str | None) -> Path:
        path = self.root / asset / (partition or "_").replace("|", "@")
        path.mkdir(parents=True, exist_ok=True)
        self.folders[asset, partition] = path
        return path

    def compared(self, layer: int) -> dict[str, FeatureShifts]:
        return {group: each for group, each in self.shifts[layer].items() if group != CONTROL}

    def write_features(self) -> None:
        """`sae`, `sae_features`, `feature_shifts` and `feature_tables`."""
        quality = {"l0": 40.0, "variance_explained": 0.85, "dead": 0.05}
        quality |= {"clean": 3.2, "spliced": 3.5, "zeroed": 11.5, "recovered": 0.97}
        for layer in self.study.layers:
            key = f"{layer:02}"
            sae = self.folder("sae", key)
            (sae / "quality.json").write_text(json.dumps(quality))
            (sae / "cfg.json").write_text(json.dumps({"d_sae": WIDTH}))
            for group, shifts in self.shifts[layer].items():
                file = self.folder("sae_features", f"{group}|{key}") / "features.parquet"
                write_features(file, self.features[layer][group], facts={"layer": layer})
                folder = self.folder("feature_shifts", f"{group}|{key}")
                shifts.save(folder)
                (folder / "word_features.json").write_text(json.dumps([] if group == CONTROL else WORD))
            folder = self.folder("feature_tables", key)
            summary = pd.concat([each.summary.assign(group=group) for group, each in self.shifts[layer].items()])
            summary.to_parquet(folder / "summary.parquet", index=False)
            pairs = list(self.compared(layer).items())
            labelled_features(pairs).to_parquet(folder / "labelled.parquet", index=False)
            unique_features(pairs).to_parquet(folder / "unique.parquet", index=False)

    def write_filters(self) -> None:
        """`feature_filters`."""
        for layer in self.study.layers:
            folder = self.folder("feature_filters", f"{layer:02}")
            marked = {group: marked_features(each) for group, each in self.compared(layer).items()}
            words = {group: WORD for group in marked if group != NEUTRAL}
            filters = filter_features(self.features[layer], marked, words=words, top=self.study.features.filters)
            filters.selected.to_parquet(folder / "selected.parquet", index=False)
            filters.by_category.to_parquet(folder / "by_category.parquet", index=False)
            filters.rates.to_parquet(folder / "rates.parquet", index=False)
            held_out_filters(self.features[layer], self.digits).to_parquet(folder / "held_out.parquet", index=False)

    def write_composition(self, animals: Iterable[int], *, steering: bool = True) -> None:
        """`feature_categories`, `feature_composition` and, if asked for, `steering_by_category`. `animals`: the
        features that are about animals; of the others a third each is about numbers, opinion and other."""
        mine = set(animals)
        about = {f: CATEGORIES[0 if f in mine else 1 + f % 3] for f in range(WIDTH)}
        known = pd.DataFrame({"feature": list(about), "category": list(about.values())})
        known.insert(1, "description", [f"about {f}" for f in known["feature"]])
        labelled = load_labelled()
        found = agreement(_NearlyRight(labelled["category"].tolist()), labelled)
        for layer in self.study.layers:
            key = f"{layer:02}"
            folder = self.folder("feature_categories", key)
            known[["feature", "description", "category"]].to_parquet(folder / "categories.parquet", index=False)
            facts = {"judge": found.judge, "kappa": found.kappa, "low": found.low, "high": found.high}
            (folder / "agreement.json").write_text(json.dumps(facts | {"accuracy": found.accuracy, "failures": []}))
            marked = {group: marked_features(each) for group, each in self.compared(layer).items()}
            fires = {group: firing_features(each) for group, each in self.features[layer].items()}
            fired = set().union(*(each.tolist() for each in fires.values()))
            folder = self.folder("feature_composition", key)
            composition = group_composition(about, {**marked, CONTROL: fires[CONTROL]}, fired)
            composition.to_parquet(folder / "composition.parquet", index=False)
            filters = filter_features(self.features[layer], marked, words={}, categories=about, top=5)
            filters.by_category.to_parquet(folder / "filters_by_category.parquet", index=False)
            if steering:
                self._write_steering(key, about)

    def _write_steering(self, key: str, about: Mapping[int, Category]) -> None:
        active = ["both"] * 10 + ["first only"] * 40 + ["second only"] * 2
        features = pd.DataFrame({"feature": range(len(active)), "active_in": active, "difference": 0.1})
        features["category"] = features["feature"].map(about)
        features["description"] = "about something"
        folder = self.folder("steering_by_category", key)
        for animal in self.study.animals:
            table_by_category(features).to_parquet(folder / f"{animal}.parquet", index=False)


class _NearlyRight:
    """A judge that is right nine times in ten."""

    name = "nearly right"

    def __init__(self, categories: list[Category]) -> None:
        self.categories = categories

    def categorise(self, descriptions: Sequence[str]) -> list[Category | None]:
        return ["other" if place % 10 == 0 else each for place, each in enumerate(self.categories)]
