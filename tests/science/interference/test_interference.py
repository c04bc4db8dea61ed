"""Overlaps and superposition against plain loops, and every statement on them where nothing is to find and where an
effect was planted.

Whole layers are drawn: an autoencoder of random columns, numbers that activate some of its features in all groups alike
but for what is peculiar to each teacher, and animals whose direct vectors have a part in common.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_array

from subliminal_dagster.science.interference.overlap import (
    FeatureUse,
    Pushed,
    animal_subspace,
    matched_features,
    number_features,
    overlap_rows,
    overlaps,
)
from subliminal_dagster.science.interference.report import (
    ERROR,
    L0,
    OVERLAP,
    OWN,
    REMAINS,
    Interference,
    claims,
    section,
)
from subliminal_dagster.science.interference.results import LayerFound, Target, layer_interference
from subliminal_dagster.science.interference.superposition import (
    at_one_norm,
    effective_dimensions,
    layer_superposition,
    mean_squared_cosine,
)
from subliminal_dagster.science.report.evidence import NotThere, Results, Section
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.tables import save_tables

ANIMALS = ["dog", "fox", "lion", "owl", "wolf"]
GROUPS = [*ANIMALS, "neutral", "control"]
STATEMENTS = (OVERLAP, REMAINS, OWN, ERROR, L0)
FEATURES, HIDDEN, OF_NUMBERS, ROWS = 160, 24, 30, 40
THRESHOLD = 0.6


@dataclass(frozen=True)
class Truth:
    """What is planted: how far direct vectors lie along what all numbers, and along what its own numbers, activate; how
    much more of other features, and of what no feature has, there is in animals' numbers."""

    overlap: float = 0.0
    own: float = 0.0
    features: float = 0.0
    error: float = 0.0


def layer(rng: np.random.Generator, truth: Truth) -> LayerFound:
    decoder = rng.normal(size=(FEATURES, HIDDEN))
    # The last dimension is one that no feature has.
    decoder[:, -1] = 0
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)

    def encode(vectors: np.ndarray) -> tuple[csr_array, np.ndarray]:
        found = np.maximum(vectors @ decoder.T - THRESHOLD, 0)
        # All but a tenth is rebuilt, and nothing of the last dimension.
        return csr_array(found), 0.1 * (vectors**2).mean(axis=1) + vectors[:, -1] ** 2 / HIDDEN

    texts = {
        kind: (rng.exponential(size=(300, FEATURES)) * (rng.random((300, FEATURES)) < 0.03)) @ decoder
        for kind in ("prose", "numbers")
    }
    rate = rng.uniform(0.05, 0.5, OF_NUMBERS)
    activations, peculiar, every = {}, {}, {}
    outside = np.eye(HIDDEN)[-1]
    for group in GROUPS:
        peculiar[group] = np.exp(0.7 * rng.normal(size=OF_NUMBERS))
        fires = rng.random((ROWS, OF_NUMBERS)) < rate * np.minimum(peculiar[group], 2)
        every[group] = rng.exponential(size=(ROWS, FEATURES)) * (rng.random((ROWS, FEATURES)) < 0.02)
        every[group][:, :OF_NUMBERS] = rng.exponential(size=fires.shape) * fires
        rows = 2 * every[group] @ decoder
        if group in ANIMALS:
            others = rng.random((ROWS, FEATURES - OF_NUMBERS)) < 0.1
            rows = rows + truth.features * others @ decoder[OF_NUMBERS:] + truth.error * outside
        activations[group] = rows + 0.05 * rng.normal(size=(ROWS, HIDDEN))
    common, targets = rng.normal(size=HIDDEN), {}
    for group in GROUPS[:-1]:
        word = rng.normal(size=HIDDEN)
        used = peculiar[group] - np.mean([peculiar[other] for other in GROUPS[:-1]], axis=0)
        direct = rng.normal(size=HIDDEN) + 0.7 * common + truth.own * np.maximum(used, 0) @ decoder[:OF_NUMBERS]
        # Along all columns at once: up and down one would leave the squared cosine of the other.
        for column in decoder[:OF_NUMBERS]:
            direct = direct + truth.overlap * np.sign(direct @ column) * column
        targets[group] = Target(word, word, direct if group in ANIMALS else None, np.array([100, 101]))
    features = {group: csr_array(values) for group, values in every.items()}
    return layer_interference(decoder, encode, texts, features, activations, targets, 100, int(rng.integers(1000)))


def study(seed: int, truth: Truth) -> Interference:
    rng = np.random.default_rng(seed)
    return Interference({number: layer(rng, truth) for number in (9, 20)}, ANIMALS)


@cache
def counted(truth: Truth, studies: int, first: int = 0) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {statement.text: Counter() for statement in STATEMENTS}
    for seed in range(first, first + studies):
        for claim in claims(study(seed, truth), 1000, 1):
            counts[claim.text][claim.verdict] += 1
    return counts


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.text[:40])
def test_nothing_is_decided_where_nothing_is_to_find(statement: object) -> None:
    found = counted(Truth(), 80)[statement.text]  # type: ignore[attr-defined]
    assert found["detected"] + found["opposite"] <= stats.binom.ppf(0.995, found.total(), 0.05), found


@pytest.mark.parametrize(
    ("statement", "truth"),
    [
        (OVERLAP, Truth(overlap=1.0)),
        (REMAINS, Truth(overlap=1.0)),
        (OWN, Truth(own=4.0)),
        (ERROR, Truth(error=3.0)),
        (L0, Truth(features=3.0)),
    ],
    ids=["overlap", "remains", "own", "error", "l0"],
)
def test_a_planted_effect_is_found(statement: object, truth: Truth) -> None:
    found = counted(truth, 6, 500)[statement.text]  # type: ignore[attr-defined]
    assert found["detected"] >= 5, found


def test_the_section_says_what_the_tables_hold(tmp_path: Path) -> None:
    found = study(3, Truth(overlap=1.0))
    bundled = load_study("smollm2-135m-instruct")
    written = written_section(found, tmp_path)
    said = {claim.text: claim.verdict for claim in written.claims}
    assert said == {claim.text: claim.verdict for claim in claims(found, 10_000, bundled.seed)}
    assert said[OVERLAP.text] == "detected" and "160 on" not in written.shows
    tables = {table.name: table.frame for table in written.tables}
    own = tables["interference-overlaps"].query("layer == 9 and `numbers of` == 'owl' and `direction of` == 'owl'")
    assert set(own["subspace"]) == {"as it is", "projected out"} and set(own["direction"]) == {"direct", "word"}
    assert (own["times"] * own["matched"]).tolist() == pytest.approx(own["overlap"].tolist())
    assert {chart.name for chart in written.charts} == {"interference-overlap", "interference-spread"}
    with pytest.raises(NotThere, match="measures no interference"):
        written_section(found, tmp_path, "interference=null")
    with pytest.raises(NotThere, match="on request"):
        section(bundled, Results({}, {("interference", "09"): "it is made on request only"}))  # type: ignore[arg-type]


def test_two_animals_decide_nothing() -> None:
    full = study(1, Truth(overlap=1.0))
    said = {claim.text: claim.verdict for claim in claims(Interference(full.layers, ["dog", "fox"]), 100, 1)}
    assert set(said.values()) == {"inconclusive"}


def written_section(found: Interference, folder: Path, *overrides: str) -> Section:
    """The bundled study's section on these layers."""
    folders = {}
    for number, each in found.layers.items():
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        save_tables(each, place)
        folders["interference", f"{number:02}"] = place
    return section(load_study("smollm2-135m-instruct", list(overrides)), Results(folders, {}))  # type: ignore[arg-type]


def test_where_nothing_can_be_matched_nothing_is_said(tmp_path: Path) -> None:
    full = study(1, Truth())
    empty = {number: replace(each, overlap=each.overlap.iloc[:0]) for number, each in full.layers.items()}
    written = written_section(Interference(empty, ANIMALS), tmp_path)
    said = {claim.text: claim.verdict for claim in written.claims}
    assert said[OVERLAP.text] == said[REMAINS.text] == said[OWN.text] == "inconclusive"
    assert "not decided" in written.shows and len(written.charts) == 2
    use = FeatureUse(np.full(4, 0.5), np.ones(4), 100)
    known, matched = matched_features(np.arange(4), use, 10, seed=1)
    assert len(known) == 0 and matched.shape == (10, 0)


def test_the_same_layer_gives_the_same_tables() -> None:
    first, again = (layer(np.random.default_rng(5), Truth()) for _ in range(2))
    for name in ("overlap", "spread", "superposition", "texts"):
        left, right = getattr(first, name), getattr(again, name)
        assert left.to_json() == right.to_json()


# Arithmetic


def test_overlaps_are_squared_cosines_before_and_after_a_subspace_is_projected_out() -> None:
    rng = np.random.default_rng(0)
    decoder, direction, span = rng.normal(size=(9, 6)), rng.normal(size=6), rng.normal(size=(2, 6))
    decoder[4] = span[0]
    for feature, found in enumerate(overlaps(decoder, direction)):
        cosine = decoder[feature] @ direction / np.linalg.norm(decoder[feature]) / np.linalg.norm(direction)
        assert found == pytest.approx(cosine**2)
    basis = animal_subspace([span[0], 2 * span[0]], span[1:])
    assert basis.shape == (6, 2), "directions that say the same count once"
    outside = np.linalg.svd(span)[2][2:]
    for feature, found in enumerate(overlaps(decoder, direction, basis)):
        column, along = outside @ decoder[feature], outside @ direction
        lengths = np.linalg.norm(column) * np.linalg.norm(along)
        assert found == pytest.approx((column @ along / lengths) ** 2 if feature != 4 else 0)


def test_features_are_matched_by_rate_and_length_and_none_is_a_numbers_feature() -> None:
    rng = np.random.default_rng(0)
    rates, strengths = rng.uniform(0.01, 0.5, 400), rng.uniform(0.5, 20, 400)
    dense = (rng.random((3000, 400)) < rates) * strengths
    decoder = rng.normal(size=(400, 8))
    use = FeatureUse.of(csr_array(dense), decoder)
    assert use.rate == pytest.approx((dense > 0).mean(axis=0))
    assert use.length[7] == pytest.approx(strengths[7] * np.linalg.norm(decoder[7]))
    own = np.arange(50)
    known, matched = matched_features(own, use, 200, seed=1)
    assert matched.shape == (200, len(known)) and matched.min() >= 50
    for name in ("rate", "length"):
        of = np.log(getattr(use, name))
        off, chance = np.abs(of[matched] - of[known]).mean(), np.abs(of[50:, None] - of[known]).mean()
        assert off < chance / 3
    dense[:, 3] = 0
    known, _ = matched_features(own, FeatureUse.of(csr_array(dense), decoder), 5, seed=1)
    assert 3 not in known and len(known) == 49


def test_a_groups_overlap_is_weighed_by_what_its_numbers_push() -> None:
    rng = np.random.default_rng(0)
    matrix = np.zeros((10, 6))
    matrix[:5, 0], matrix[:, 2], matrix[0, 4] = 2.0, 1.0, 9.0
    matrix[:0, 5] = 1
    own, mean = number_features(csr_array(matrix))
    assert own.tolist() == [0, 2, 4] and mean.tolist() == pytest.approx([1.0, 1.0, 0.9])
    decoder = rng.normal(size=(12, 3))
    lengths = np.linalg.norm(decoder, axis=1)
    known, matched = np.array([0, 2]), np.array([[6, 7], [8, 9]])
    pushed = {"owl": Pushed.of(own, mean, known, decoder)}
    overlap = rng.random(12)
    (row,) = overlap_rows(pushed, known, matched, overlap)
    weights = np.array([lengths[0], lengths[2]]) / (lengths[0] + lengths[2])
    assert row["overlap"] == pytest.approx(weights @ overlap[[0, 2]])
    drawn = [weights @ overlap[[6, 7]], weights @ overlap[[8, 9]]]
    assert row["matched"] == pytest.approx(np.mean(drawn))
    assert row["drawn"] == pytest.approx(np.log(drawn / np.mean(drawn)).tolist())
    (without,) = overlap_rows(pushed, known, matched, overlap, np.array([2, 8]))
    assert without["overlap"] == pytest.approx(overlap[0])
    assert np.exp(without["drawn"][1]) * without["matched"] == pytest.approx(overlap[9])


def test_superposition_by_plain_loops() -> None:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(15, 5))
    squared = [
        (columns[i] @ columns[j] / np.linalg.norm(columns[i]) / np.linalg.norm(columns[j])) ** 2
        for i, j in combinations(range(15), 2)
    ]
    assert mean_squared_cosine(columns) == pytest.approx(np.mean(squared))
    # As many dimensions as are used, where they are used alike.
    vectors = np.zeros((4000, 12), dtype=np.float32)
    vectors[:, :4] = rng.normal(size=(4000, 4))
    assert effective_dimensions(vectors + 7) == pytest.approx(4, rel=0.01)
    found = layer_superposition(rng.normal(size=(300, 12)), np.arange(300) < 200, vectors, 9.0, seed=1)
    assert (found["used"], found["features"], found["l0"]) == (200, 300, 9.0)
    assert found["used_per_effective_dimension"] * found["dimensions_per_used"] == pytest.approx(1)
    assert found["isotropic"] == pytest.approx(1 / 12, rel=0.05), "random directions of 12 dimensions"
    assert found["covariant"] == pytest.approx(1 / 4, rel=0.1), "and of the four that are used"
    assert found["isotropic_low"] <= found["interference"] <= found["isotropic_high"] * 1.1


def test_at_one_norm_length_plays_no_part() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(8, 5)).astype(np.float32)

    def encode(rows: np.ndarray) -> tuple[csr_array, np.ndarray]:
        assert np.linalg.norm(rows, axis=1) == pytest.approx(np.full(len(rows), 3.0), rel=1e-5)
        kept = np.where(rows > 0.5, rows, 0)
        return csr_array(kept), ((rows - kept) ** 2).mean(axis=1)

    l0, error = at_one_norm(vectors, 3.0, encode)
    again = at_one_norm(vectors * rng.uniform(0.1, 9, (8, 1)).astype(np.float32), 3.0, encode)
    assert l0.tolist() == again[0].tolist() and error == pytest.approx(again[1], rel=1e-4)
    unit = 3 * vectors[2] / np.linalg.norm(vectors[2])
    assert l0[2] == (unit > 0.5).sum() and error[2] == pytest.approx((unit[unit <= 0.5] ** 2).sum() / 9, rel=1e-4)
