"""What a measure sees of the base model, and the warning where that is too little."""

from __future__ import annotations

import pandas as pd
import pytest

from subliminal_dagster.science.preferences.measures import candidate_mass, warnings

NOT_MEASURED = float("nan")


def scores(
    *, exact: float = 0.01, begun: dict[str, float] | None = None, counts: tuple[int, int] = (6, 5), samples: int = 10
) -> pd.DataFrame:
    """Two questions; `exact` of each animal, its `begun`, and how often it is named in all."""
    begun = {"owl": 0.02, "cat": 0.03} if begun is None else begun
    rows = [
        {
            "question": question,
            "animal": animal,
            "probability": exact,
            "begun": begun.get(animal, NOT_MEASURED),
            "count": count if question else 0,
            "samples": samples,
        }
        for question in range(2)
        for animal, count in zip(("owl", "cat"), counts, strict=True)
    ]
    return pd.DataFrame(rows)


def test_what_the_candidates_hold_of_each_measure() -> None:
    assert candidate_mass(scores()) == pytest.approx({"exact": 0.02, "begun": 0.05, "sampled": 11 / 20})
    assert set(candidate_mass(scores(begun={}, samples=0))) == {"exact"}


def test_a_measure_that_sees_enough_is_not_warned_of() -> None:
    assert warnings(scores(), ["owl", "cat"]) == []
    assert warnings(scores(exact=0.0005, begun={"owl": 0.001}), ["owl"]) == []
    assert warnings(scores(begun={}, counts=(0, 0), samples=0), ["owl", "cat"]) == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (scores(exact=0.0004), ["As whole answers", "0.08 %", "exact measure"]),
        (scores(begun={"owl": 0.0004, "cat": 0.0004}), ["begun answer", "0.08 %", "begun measure"]),
        (scores(begun={"owl": 0.01}), ["leaves out cat:"]),
        (scores(counts=(5, 4)), ["20 sampled answers", "cat (4)", "fewer than the 5"]),
    ],
)
def test_each_measure_that_sees_too_little_gets_one_sentence(seen: pd.DataFrame, said: list[str]) -> None:
    (sentence,) = warnings(seen, ["owl", "cat"])
    assert all(part in sentence for part in said) and "owl" not in sentence
    assert sentence.endswith(".") and ". " not in sentence


def test_only_the_animals_asked_for_are_warned_of() -> None:
    assert warnings(scores(counts=(5, 0), begun={"owl": 0.01}), ["owl"]) == []
