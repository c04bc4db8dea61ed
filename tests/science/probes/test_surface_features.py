"""Surface features against values worked out by hand, and against laws they keep."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.probes.surface_features import SURFACE_FEATURES, ngram_counts, surface_features


def features_of(numbers: list[int], response: str) -> dict[str, float]:
    found = surface_features(pd.DataFrame({"numbers": [numbers], "response": [response]}))
    return dict(zip(SURFACE_FEATURES, found[0].tolist(), strict=True))


def test_numbers_worked_out_by_hand() -> None:
    found = features_of([7, 12, 300, 12], "7, 12, 300, 12")
    expected = {
        "count": 4,
        "digits": 8,
        "length": 14,
        "one_digit": 0.25,
        "two_digits": 0.5,
        "three_digits": 0.25,
        "mean": 331 / 4,
        "sd": np.std([7, 12, 300, 12]),
        "first": 7,
        "last": 12,
        "repeated": 0.25,
        "ascending": 2 / 3,
        "digit_0": 2 / 8,
        "digit_1": 2 / 8,
        "digit_2": 2 / 8,
        "digit_3": 1 / 8,
        "digit_7": 1 / 8,
        "comma": 1,
        "spaced": 1,
    }
    assert {name: value for name, value in found.items() if value} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("response", "marks"),
    [
        ("1,2,3", {"comma"}),
        ("1, 2, 3.", {"comma", "spaced", "final_period"}),
        ("1; 2; 3", {"semicolon", "spaced"}),
        (" [1;2;3] \n", {"semicolon", "square_brackets"}),
        ("(1 2 3)", {"blank", "round_brackets"}),
        ("1\n2\n3", {"new_line"}),
        ("1,\n2,\n3", {"comma", "new_line", "spaced"}),
    ],
)
def test_format_of_the_response(response: str, marks: set[str]) -> None:
    found = features_of([1, 2, 3], response)
    assert {name for name in SURFACE_FEATURES[-8:] if found[name]} == marks
    assert {found[name] for name in marks} == {1.0}


def test_a_single_number_has_no_separator() -> None:
    found = features_of([5], "[5].")
    assert [name for name in SURFACE_FEATURES[-8:] if found[name]] == ["square_brackets", "final_period"]
    assert (found["ascending"], found["sd"], found["repeated"]) == (0, 0, 0)


@given(st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=10), min_size=1, max_size=8))
def test_shares_add_up_and_a_row_depends_on_itself_alone(lists: list[list[int]]) -> None:
    rows = pd.DataFrame({"numbers": lists, "response": [" ".join(map(str, numbers)) for numbers in lists]})
    found = pd.DataFrame(surface_features(rows), columns=list(SURFACE_FEATURES))
    np.testing.assert_allclose(found[[f"digit_{digit}" for digit in range(10)]].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found[["one_digit", "two_digits", "three_digits"]].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found["length"], found["digits"] + found["count"] - 1)
    np.testing.assert_array_equal(found.iloc[[0]], surface_features(rows.iloc[[0]]))


def test_rows_without_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="no numbers"):
        features_of([], "none")
    with pytest.raises(UserError, match="response"):
        surface_features(pd.DataFrame({"numbers": [[1]]}))


def test_ngrams_are_counted_in_one_order_for_all_groups() -> None:
    found = ngram_counts({"owl": ["1, 22", "9"], "control": ["22, 22"]})
    assert found["owl"].shape[1] == found["control"].shape[1]
    together = np.concatenate([found["owl"], found["control"]])
    # "22" stands in the first text once and in the last one twice, and so does "22" with the blank before it.
    assert any(np.array_equal(column, [1, 0, 2]) for column in together.T)
    assert together.sum(axis=1).tolist() == [5 + 4 + 3, 1, 6 + 5 + 4]
