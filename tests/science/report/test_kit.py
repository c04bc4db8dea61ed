"""What all sections are put together with: verdicts by an interval, tables by columns, figures with panels."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report.evidence import Statement
from subliminal_dagster.science.report.tables import columns, records, yes_no
from subliminal_dagster.science.verdict import verdict

NUMBERS = st.floats(-1e6, 1e6)


@given(ends=st.tuples(NUMBERS, NUMBERS).map(sorted), zero=NUMBERS)
def test_a_verdict_is_sure_only_where_the_interval_excludes_zero(ends: list[float], zero: float) -> None:
    low, high = ends
    sure = not low <= zero <= high
    assert (verdict(low, high, zero) != "inconclusive") == sure
    if sure:
        assert verdict(low, high, zero) == ("detected" if low > zero else "opposite")
    assert verdict(-high, -low, -zero) == {"detected": "opposite", "opposite": "detected"}.get(
        verdict(low, high, zero), "inconclusive"
    )


def test_a_claim_says_whose_statement_it_judges_and_by_which_rule() -> None:
    claim = Statement("It rises.", "Holds where it rises.", "this project").claim("detected", "It rose.")
    assert (claim.text, claim.verdict, claim.evidence) == ("It rises.", "detected", "It rose.")
    assert (claim.source, claim.rule) == ("this project", "Holds where it rises.")
    assert Statement("It rises.", "Holds where it rises.").claim("detected", "").source == "the post"


def test_columns_are_renamed_scaled_and_computed_and_rows_numbered_anew() -> None:
    rows = pd.DataFrame({"a": [0.1, 0.2], "b": [True, False]}, index=[5, 3])
    shown = columns(rows, {"A (%)": ("a", 100), "b": lambda each: yes_no(each["b"]), "const": lambda _: "x"})
    assert list(shown.columns) == ["A (%)", "b", "const"] and list(shown.index) == [0, 1]
    assert shown["A (%)"].tolist() == pytest.approx([10.0, 20.0]) and shown["b"].tolist() == ["yes", "no"]
    assert columns(rows.head(0), {"A": "a"}).empty


def test_records_are_rows_by_column() -> None:
    assert records(pd.DataFrame({"a": [1, 2], 3: ["x", "y"]})) == [{"a": 1, "3": "x"}, {"a": 2, "3": "y"}]


@pytest.mark.parametrize(("panels", "across", "rows"), [(1, 1, 1), (3, 1, 3), (3, 2, 2)])
def test_panels_lie_below_each_other_by_their_titles(panels: int, across: int, rows: int) -> None:
    titles = [f"panel {n}" for n in range(panels)]
    figure = charts.panels(titles, height=200 * rows, between=40, columns=across)
    assert [note.text for note in figure.layout.annotations] == titles
    domains = sorted({tuple(axis.domain) for axis in figure.select_yaxes()})
    assert len(domains) == rows and figure.layout.height == 200 * rows
    for lower, upper in itertools.pairwise(domains):
        assert (upper[0] - lower[1]) * figure.layout.height == pytest.approx(40)
    charts.legend_above_titles(figure)
    assert (figure.layout.legend.y - 1) * figure.layout.height == pytest.approx(30)
