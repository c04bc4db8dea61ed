"""What the report's sections about a model's inside share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inside_artifacts import small_study
from statsmodels.stats.contingency_tables import StratifiedTable, Table2x2
from statsmodels.stats.proportion import proportion_confint

from subliminal_dagster.science.report import layers as inside
from subliminal_dagster.science.report.evidence import Results
from subliminal_dagster.science.report.layers import Interval


@given(st.integers(1, 20), st.data())
def test_more_than_half_of_the_comparisons_decide_unless_one_contradicts(total: int, data: st.DataObject) -> None:
    for_it = data.draw(st.integers(0, total))
    against = data.draw(st.integers(0, total - for_it))
    verdict = inside.over_comparisons(total, for_it, against)
    assert (verdict == "detected") == (for_it > total / 2 and against == 0)
    assert (verdict == "not detected") == (against > total / 2 and for_it == 0)
    assert inside.over_comparisons(0, 0, 0) == "inconclusive"


def test_the_odds_ratio_of_one_animal_is_that_of_statsmodels() -> None:
    one = inside.average_odds_ratio({"owl": [[[12, 30], [9, 80]]]})
    assert one is not None
    assert one.value == pytest.approx(Table2x2([[12, 30], [9, 80]]).oddsratio)
    tables = [np.array([[12, 30], [9, 80]]), np.array([[5, 40], [10, 70]])]
    two = inside.average_odds_ratio({"owl": [table.tolist() for table in tables]})
    reference = StratifiedTable([table.astype(float) for table in tables])
    assert two == pytest.approx((reference.oddsratio_pooled, *reference.oddsratio_pooled_confint()))


def test_the_same_features_of_several_animals_are_no_more_evidence_than_those_of_one() -> None:
    table = [[[12, 30], [9, 80]]]
    assert inside.average_odds_ratio(dict.fromkeys("abcd", table)) == pytest.approx(
        inside.average_odds_ratio({"a": table})
    )
    assert inside.average_share([(3, 20)] * 4) == pytest.approx(inside.average_share([(3, 20)]))
    low, high = proportion_confint(3, 20, method="wilson")
    assert inside.average_share([(3, 20), (0, 0)]) == pytest.approx((15, 100 * low, 100 * high))
    assert inside.average_share([(0, 0)]) is None


def test_complete_separation_is_evidence_and_empty_margins_are_none() -> None:
    separated = inside.average_odds_ratio({"owl": [[[10, 2], [0, 40]], [[9, 3], [0, 41]]]})
    assert separated is not None
    assert separated.low > 1
    assert inside.no_higher_rate(separated) == "not detected"
    assert inside.average_odds_ratio({"owl": [[[0, 5], [0, 7]]], "dog": [[[0, 0], [3, 4]]]}) is None
    assert inside.no_higher_rate(None) == "inconclusive"
    assert inside.no_higher_rate(Interval(1.1, 0.8, 1.6)) == "detected"
    assert inside.no_higher_rate(Interval(1.1, 0.5, 2.6)) == "inconclusive"


def test_an_average_of_intervals_is_no_narrower_than_they_are() -> None:
    rows = pd.DataFrame([Interval(1, 0, 2), Interval(3, 1, 5)])
    assert inside.average(rows) == Interval(2, 0.5, 3.5)


def test_layers_and_groups_that_are_not_there_are_named_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "left_out.json").write_text('{"dog": "its numbers failed their gate."}')
    results = Results({("probe_comparison", "09"): tmp_path}, {("probe_comparison", "14"): "it was not made"})
    study = small_study()
    assert inside.layers_with(study, results, "probe_comparison") == [9]
    said = inside.not_shown(study, results, "probe_comparison")
    assert said == " Layer 14 is not shown: it was not made. Without dog: its numbers failed their gate."
