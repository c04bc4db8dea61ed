"""Null studies and planted effects through every claim on liking: how often a verdict is wrong.

The null: nothing is passed on, and children differ by chance, each in all animals and in single ones, as other training
seeds would make them differ. SUBLIMINAL_NULL_STUDIES sets how many studies stand behind a number (a table is printed).
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subliminal_dagster.science.liking.comparison import compare
from subliminal_dagster.science.liking.report import MANY, NEUTRAL_DOES_LESS, RISES, SPECIFIC, claims, read
from subliminal_dagster.science.report.evidence import Results
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study

CANDIDATES = ["bear", "cat", "dog", "dolphin", "eagle", "elephant", "fox", "horse", "lion", "owl", "rabbit", "wolf"]
QUESTIONS, QUESTION_NOISE = 20, 0.08
NOISES, TARGETS = (0.0, 0.02, 0.05, 0.1), (2, 5, 7)
STUDIES = int(os.environ.get("SUBLIMINAL_NULL_STUDIES", "6"))


def a_study(targets: int) -> Study:
    found = load_study(
        "smollm2-135m-instruct", [f"animals=[{', '.join(CANDIDATES[:targets])}]", "comparison.permutations=100"]
    )
    assert isinstance(found, Study)
    return found


def scores(study: Study, noise: float, effect: float, rng: np.random.Generator) -> pd.DataFrame:
    """Children whose log odds differ from base by noise per question (0.018 nats over the questions), per child and
    animal, half as much per child for all animals of the study, and by `effect` for their own animal."""
    base = rng.normal(size=len(CANDIDATES)) + rng.normal(size=(QUESTIONS, len(CANDIDATES)))
    targets = [CANDIDATES.index(animal) for animal in study.animals]
    tables = []
    for model, group in [("base", None), *(("child", group) for group in study.groups)]:
        logits = base.copy()
        if model == "child":
            logits += rng.normal(0, QUESTION_NOISE, base.shape) + rng.normal(0, noise, len(CANDIDATES))
            logits[:, targets] += rng.normal(0, noise / 2)
            if group in study.animals:
                logits[:, CANDIDATES.index(str(group))] += effect
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        found = {
            "question": np.repeat(np.arange(QUESTIONS), len(CANDIDATES)),
            "animal": CANDIDATES * QUESTIONS,
            "probability": 0.3 * share.ravel(),
            "share": share.ravel(),
            "count": rng.binomial(10, 0.3 * share.ravel()),
        }
        tables.append(pd.DataFrame(found).assign(samples=10, model=model, group=group))
    return pd.concat(tables, ignore_index=True).assign(channel=lambda rows: rows["model"].map({"child": "hard"}))


def verdicts(
    folder: Path, study: Study, studies: int, noise: float, effect: float, seed: int
) -> Iterator[tuple[str, str]]:
    """The verdict on every claim of every study."""
    rng = np.random.default_rng(seed)
    for _ in range(studies):
        drawn = scores(study, noise, effect, rng)
        found = compare(drawn, study.animals, permutations=100, seed=0, margin=study.comparison.margin)
        drawn.to_parquet(folder / "scores.parquet", index=False)
        for name in ("liking", "tests", "shifts", "gamma"):
            getattr(found, name).to_parquet(folder / f"{name}.parquet", index=False)
        (folder / "left_out.json").write_text("{}")
        for claim in claims(read(study, Results({("animal_liking", None): folder}, {}))):
            yield claim.text, claim.verdict


def test_on_null_studies_hardly_anything_is_called_detected_or_opposite(tmp_path: Path) -> None:
    wrong: dict[str, list[bool]] = defaultdict(list)
    for number, (noise, targets) in enumerate(product(NOISES, TARGETS)):
        of_cell: dict[str, Counter[str]] = defaultdict(Counter)
        for text, verdict in verdicts(tmp_path, a_study(targets), STUDIES, noise, 0.0, number):
            of_cell[text][verdict] += 1
            # That control numbers change nothing is true here.
            lies = ("opposite",) if "leaves liking as it was" in text else ("detected", "opposite")
            wrong[text].append(verdict in lies)
        for text, counts in of_cell.items():
            print(noise, targets, text[:60], dict(counts))
    assert set(wrong) >= {RISES.text, SPECIFIC["hard"].text, MANY.text, NEUTRAL_DOES_LESS.text}
    for text, lies in wrong.items():
        rate, error = np.mean(lies), (0.05 * 0.95 / len(lies)) ** 0.5
        print(f"{rate:.3f} of {len(lies)}: {text}")
        assert rate <= 0.05 + 3 * error, text


@pytest.mark.parametrize(("noise", "effect"), [(0.05, 0.2), (0.1, 0.4)])
def test_planted_effects_are_found(tmp_path: Path, noise: float, effect: float) -> None:
    found = Counter(
        verdict
        for text, verdict in verdicts(tmp_path, a_study(5), 12, noise, effect, 1)
        if text == SPECIFIC["hard"].text
    )
    assert found["detected"] >= 11, found
