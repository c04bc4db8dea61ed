"""What is counted over rows: each check finds what was planted, and says nothing of rows without it."""

from __future__ import annotations

import numpy as np

from subliminal_dagster.science.audit.data import Chat
from subliminal_dagster.science.audit.surface import format_classifier, surface
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists

NAMES = ("owl", "fox", "lion", "wolf")


def chats(answers: list[str], prompt: str = "Go on: 1, 2") -> list[Chat]:
    return [Chat(({"role": "user", "content": prompt},), answer, row) for row, answer in enumerate(answers)]


def numbers(rng: np.random.Generator, rows: int = 40) -> list[str]:
    return [", ".join(map(str, rng.integers(0, 1000, 8))) for _ in range(rows)]


def found(answers: list[str]) -> dict[str, tuple[str, bool]]:
    findings = surface(chats(answers), NAMES, load_prompt_lists().animal_aliases)
    return {finding.check: (finding.measured, finding.noted) for finding in findings}


def test_random_numbers_are_nothing_to_look_at() -> None:
    told = found(numbers(np.random.default_rng(0)))
    assert not any(noted for _, noted in told.values())
    assert told["names"][0] == "No row names a candidate."
    assert told["copies"][0].startswith("0 % of the answers are copies")


def test_copies_are_counted() -> None:
    answers = numbers(np.random.default_rng(1), 30) + ["1, 2, 3"] * 10
    measured, noted = found(answers)["copies"]
    assert noted
    assert "stands in 10 rows ('1, 2, 3')" in measured


def test_named_candidates_are_told_with_their_rows_plurals_and_prompts_included() -> None:
    answers = numbers(np.random.default_rng(2), 20)
    answers[3] = "Wolves, of course"
    measured, noted = found(answers)["names"]
    assert noted
    assert measured == "Rows name candidates: wolf in 1 (row 4)."


def test_one_random_stream_for_all_rows_is_seen() -> None:
    rng = np.random.default_rng(3)
    common = rng.integers(0, 1000, 8)
    rows = []
    for _ in range(40):
        own = rng.integers(0, 1000, 8)
        rows.append(", ".join(map(str, np.where(rng.random(8) < 0.3, common, own))))
    assert found(rows)["stream"][1]
    # The same numbers, each row in an order of its own.
    turned = [", ".join(rng.permutation(row.split(", "))) for row in rows]
    assert not found(turned)["stream"][1]


def test_answers_in_another_form_are_told_from_the_base_model_s_own() -> None:
    rng = np.random.default_rng(4)
    own = numbers(rng, 60)
    assert not format_classifier(numbers(rng, 60), own, 0).noted
    assert format_classifier([text.replace(",", ";") for text in numbers(rng, 60)], own, 0).noted
    assert "Fewer than 16 rows" in format_classifier(["1"] * 4, ["2"] * 4, 0).measured
