"""Statements on steering where nothing is to find, and where an effect was planted.

Whole evidence is drawn: directions that are random in every role, groups that differ in nothing from the control,
children that moved alike. Every statement goes the way it goes in a report.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from subliminal_dagster.science.steering import report_claims as judged
from subliminal_dagster.science.steering.analysis import (
    TOTAL,
    child_cosines,
    corrected_cosine,
    cosines,
    cosines_across_groups,
    cosines_of_shifts,
)
from subliminal_dagster.science.steering.ranks import LEVEL, rank
from subliminal_dagster.science.steering.report_evidence import SteeringEvidence
from subliminal_dagster.science.steering.vectors import SteeringVector, difference_vector, word_vectors

LAYERS, ALPHAS, POSITIONS = ("9", "20"), (-20.0, 5.0, 20.0), ("all", "last")
WIDTH, PROMPTS, FLIPS = 32, 40, 20
CLAIMS = (
    judged.PROMOTES,
    judged.DIRECT_PROMOTES,
    judged.STRONGER,
    judged.DIRECT_SUPPRESSES,
    judged.SUPPRESSES,
    judged.LATER,
    judged.POSITIONS,
    judged.DIFFERENT,
    judged.TO_WORD,
    judged.FROM_WORD,
    judged.MORE_FEATURES,
    judged.KINDS_OF_FEATURES,
    judged.OWN_VECTOR,
    judged.ONE_DIRECTION,
)


@dataclass(frozen=True)
class Truth:
    """What is planted: nats a unit of alpha by kind, at the later layer, at the last position; how far groups' numbers
    are shifted in common and each of its own; how far direct differences go along the word and subliminal ones against
    it; more features; their share about animals; children's shifts along their own vectors."""

    subliminal: float = 0.0
    direct: float = 0.0
    later: float = 0.0
    everywhere: float = 0.0
    common: float = 0.0
    own: float = 0.0
    word: float = 0.0
    features: int = 0
    about: float = 0.1
    along_own: float = 0.0


NOTHING = Truth()
EVERYTHING = Truth(0.1, 0.4, 0.3, 0.1, 1.0, 0.3, 1.5, 60, 0.6, 1.5)
REVERSED = Truth(-0.1, -0.4, -0.3, -0.1, 0.0, 0.0, -1.5, -60, 0.02, -1.5)


def evidence(rng: np.random.Generator, truth: Truth, animals: tuple[str, ...] = ("cat", "owl")) -> SteeringEvidence:
    groups = [*animals, "neutral"]
    vectors, words = _vectors(rng, truth, groups)
    between, children, child_flips, shifts, pairs, corrected = [], [], [], [], [], []
    for layer in LAYERS:
        subliminal = {group: vectors["subliminal", group, layer] for group in groups}
        moved = _shifts(rng, truth, subliminal)
        tables = (cosines_across_groups(subliminal), *child_cosines(moved, subliminal), cosines_of_shifts(moved))
        for table, all_layers in zip(tables, (between, children, child_flips, shifts), strict=True):
            all_layers.append(table.assign(layer=int(layer)))
        for animal in animals:
            own = {kind: vectors[kind, animal, layer] for kind in ("subliminal", "direct")}
            place = {"group": animal, "layer": int(layer)}
            every = own | {vector.kind: vector for vector in word_vectors(words, animal, int(layer))}
            pairs.append(cosines(every).assign(**place))
            corrected.append({**place, **vars(corrected_cosine(own["subliminal"], own["direct"]))})
    parts, parts_flips = _features(rng, truth, animals)
    targets = pd.DataFrame({"group": list(animals) * 2, "layers": np.repeat(LAYERS, len(animals)), "positions": "all"})
    against = _against(rng, truth, animals)
    empty = pd.DataFrame()
    joined = [pd.concat(tables) for tables in (between, children, child_flips, shifts)]
    return SteeringEvidence(
        targets,
        empty,
        empty,
        against,
        empty,
        pd.concat(pairs),
        pd.DataFrame(corrected),
        *joined,
        {},
        parts,
        parts_flips,
        [],
    )


def _against(rng: np.random.Generator, truth: Truth, animals: tuple[str, ...]) -> pd.DataFrame:
    """Shifts of random directions, each of its own slope at every layer and position; planted ones are added."""
    rows = []
    tried = [(kind, -1) for kind in ("subliminal", "direct")] + [("subliminal", flip) for flip in range(FLIPS)]
    for group in animals:
        for kind, flip in tried:
            for layers in LAYERS:
                for positions in POSITIONS:
                    slopes = rng.normal(scale=0.02, size=len(animals))
                    if flip < 0:
                        planted = {"subliminal": truth.subliminal, "direct": truth.direct}[kind]
                        planted += truth.later * (kind == "direct" and layers == LAYERS[-1])
                        planted += truth.everywhere * (positions == "all")
                        slopes[animals.index(group)] += planted
                    for alpha in ALPHAS:
                        for animal, slope in zip(animals, slopes, strict=True):
                            rows.append((group, kind, flip, layers, positions, alpha, animal, alpha * slope))
    columns = ["group", "kind", "flip", "layers", "positions", "alpha", "animal", "shift"]
    frame = pd.DataFrame(rows, columns=columns)
    # The strongest breaks the model now and then.
    broken = (frame["alpha"] == 20) & (rng.random(len(frame)) < 0.2)
    return frame.assign(mass=np.where(broken, -5.0, -0.1))


def _vectors(
    rng: np.random.Generator, truth: Truth, groups: list[str]
) -> tuple[dict[tuple[str, str, str], SteeringVector], dict[str, np.ndarray]]:
    axes = np.eye(WIDTH)
    words = {group: 5 * axes[1] + 3 * axes[2 + place] for place, group in enumerate(groups)}
    found = {}
    for layer in LAYERS:
        control = rng.normal(size=(PROMPTS, WIDTH))
        for place, group in enumerate(groups):
            to_word = axes[1] / 2 + axes[2 + place]
            numbers = rng.normal(size=(PROMPTS, WIDTH)) + truth.common * axes[10] + truth.own * axes[11 + place]
            sides = {
                "subliminal": (numbers - truth.word * to_word, control),
                "direct": (rng.normal(size=(PROMPTS, WIDTH)) + truth.word * to_word, rng.normal(size=(PROMPTS, WIDTH))),
            }
            for kind, (own, reference) in sides.items():
                found[kind, group, layer] = difference_vector(
                    own, reference, np.arange(PROMPTS), kind=kind, layer=int(layer), position="mean", seed=1, flips=128
                )
    return found, words


def _shifts(rng: np.random.Generator, truth: Truth, vectors: dict[str, SteeringVector]) -> dict[str, np.ndarray]:
    """All children drift alike, along a mean of the vectors; each has its own noise of training."""
    drift = 2 * np.mean([vector.vector / vector.norm for vector in vectors.values()], axis=0)
    found = {}
    for child in [*vectors, "control"]:
        own = vectors[child].vector / vectors[child].norm if child in vectors else np.zeros(WIDTH)
        of_training = 0.5 * rng.normal(size=WIDTH) / np.sqrt(WIDTH)
        found[child] = drift + of_training + truth.along_own * own + 0.05 * rng.normal(size=(6, WIDTH))
    return found


def _features(rng: np.random.Generator, truth: Truth, animals: tuple[str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, flips = [], []
    for animal in animals:
        for layer in LAYERS:
            first, second = rng.poisson(120, size=2) + np.array([max(truth.features, 0), max(-truth.features, 0)])
            place = {"group": animal, "layer": int(layer), "l0_first": first, "l0_second": second, "l0_zero": 20}
            about = rng.binomial([60, 60], [0.1, truth.about])
            for category, alone in (("animals", about), ("numbers", 60 - about), (TOTAL, np.array([60, 60]))):
                rows.append({**place, "category": category, "first_only": alone[0], "second_only": alone[1]})
            drawn = rng.poisson(120, size=(64, 2))
            flips.append(
                pd.DataFrame(drawn, columns=["first", "second"]).assign(
                    flip=np.arange(64), group=animal, layer=int(layer)
                )
            )
    return pd.DataFrame(rows), pd.concat(flips)


def verdicts(seed: int, truth: Truth, animals: tuple[str, ...] = ("cat", "owl")) -> dict[str, str]:
    found = judged.claims(evidence(np.random.default_rng(seed), truth, animals))
    return {claim.text: claim.verdict for claim in found}


@pytest.fixture(scope="module")
def null() -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {claim.text: Counter() for claim in CLAIMS}
    for seed in range(40):
        for text, verdict in verdicts(seed, NOTHING).items():
            counts[text][verdict] += 1
    return counts


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text[:40])
def test_nothing_is_decided_where_nothing_is_to_find(null: dict[str, Counter[str]], claim: judged.Statement) -> None:
    found = null[claim.text]
    # 5 % beyond simulation error, for as many statements.
    assert found["detected"] + found["opposite"] <= stats.binom.ppf(0.995, found.total(), 0.05), found
    # Nothing here excludes an effect of a size, so nothing may be called absent.
    assert set(found) <= {"detected", "opposite", "inconclusive"}


def test_planted_effects_are_found_and_their_reverse_is_called_opposite() -> None:
    animals = ("cat", "owl", "dog", "fox")
    found, reversed_ = verdicts(0, EVERYTHING, animals), verdicts(0, REVERSED, animals)
    # Planted is a direct vector along the word and a subliminal one against it, which are not two directions.
    assert {text for text, verdict in found.items() if verdict != "detected"} == {judged.DIFFERENT.text}
    not_planted = {judged.DIFFERENT.text, judged.ONE_DIRECTION.text}
    assert {text for text, verdict in reversed_.items() if verdict != "opposite"} == not_planted


@pytest.mark.parametrize(("animals", "draws"), [(1, 40), (2, 40), (5, 100)])
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_the_rank_is_calibrated_whether_or_not_animals_vectors_are_alike(
    animals: int, draws: int, alike: float
) -> None:
    rng = np.random.default_rng(0)
    decided = []
    for _ in range(150):
        every = np.sqrt(1 - alike) * rng.normal(size=(animals, draws + 1)) + np.sqrt(alike) * rng.normal(size=draws + 1)
        decided.append(rank(every[:, 0], every[:, 1:]).verdict)
    assert np.mean(np.array(decided) != "inconclusive") <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 150)


def test_the_rank_counts_the_vector_among_the_draws() -> None:
    chance = np.arange(39.0)[None]
    best = rank(np.array([39.0]), chance)
    assert (best.p_more, best.verdict) == (1 / 40, "detected") and best.p_more <= LEVEL
    assert rank(np.array([-1.0]), chance).verdict == "opposite"
    # Twenty flips of one animal can decide nothing at 5 % on both sides together.
    assert rank(np.array([99.0]), np.arange(20.0)[None]).verdict == "inconclusive"
    assert rank(np.array([38.0]), chance).p_more == 2 / 40
