"""What the report's sections about a model's inside share."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from inside_artifacts import small_study
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable, Table2x2
from statsmodels.stats.proportion import proportion_confint

from subliminal_dagster.science.report import layers as inside
from subliminal_dagster.science.report.evidence import Results
from subliminal_dagster.science.report.layers import Interval


def test_an_interval_over_animals_is_scipys_and_no_narrower_than_the_rows_allow() -> None:
    values = [1.0, 2.0, 4.0, 3.0]
    found = inside.over_animals(values)
    assert found is not None
    for interval, level in ((found.interval, 0.95), (found.inner, 0.9)):
        reference = stats.ttest_1samp(values, 0).confidence_interval(level)
        assert interval == pytest.approx((2.5, reference.low, reference.high))
    with_rows = inside.over_animals(values, Interval(2.5, -3, 2.6))
    assert with_rows is not None
    assert (with_rows.interval.low, with_rows.interval.high) == (-3, found.interval.high)
    assert inside.over_animals([1.0, 2.0]) is None and inside.over_animals([2.0] * 5) is None


def test_one_other_group_is_one_draw_like_an_animal() -> None:
    # Where nothing tells the others from the one, 5 % of such intervals miss zero; a plain one misses far more often.
    rng = np.random.default_rng(0)
    missed = np.zeros(2)
    for _ in range(1000):
        values, one = rng.normal(size=5), rng.normal()
        for place, one_draw in enumerate((True, False)):
            found = inside.over_animals(values - one, one_draw=one_draw)
            assert found is not None
            missed[place] += not found.interval.low <= 0 <= found.interval.high
    assert missed[0] / 1000 == pytest.approx(0.05, abs=0.021) and missed[1] / 1000 > 0.2


def test_verdicts_over_animals() -> None:
    def over(low: float, high: float, inner: float = 0.0) -> inside.OverAnimals:
        return inside.OverAnimals(Interval(0, low, high), Interval(0, low + inner, high - inner))

    assert inside.more(over(1, 2), 5) == "detected" and inside.more(over(-2, -1), 5) == "opposite"
    assert inside.more(over(-5.5, 5.5, 1), 5) == "not detected" and inside.more(over(-9, 9, 1), 5) == "inconclusive"
    assert inside.more_than_chance(over(51, 53), 50, 60) == "detected"
    assert inside.more_than_chance(over(45, 61, 2), 50, 60) == "not detected"
    assert inside.more_than_chance(over(40, 49), 50, 60) == "not detected"
    assert inside.more_than_chance(over(45, 70, 2), 50, 60) == "inconclusive"
    assert inside.more(None, 5) == inside.more_than_chance(None, 50, 60) == "inconclusive"
    assert inside.all_of(["detected", "detected"]) == "detected"
    assert inside.all_of(["detected", "opposite"]) == "inconclusive"
    assert inside.times(over(-math.log(2), math.log(2))) == "1.00 [0.50, 2.00] times"


def test_the_odds_ratio_of_one_animal_is_that_of_statsmodels() -> None:
    one = inside.average_odds_ratio({"owl": [[[12, 30], [9, 80]]]})
    assert one is not None
    assert one.ratio.value == pytest.approx(Table2x2([[12, 30], [9, 80]]).oddsratio)
    tables = [np.array([[12, 30], [9, 80]]), np.array([[5, 40], [10, 70]])]
    two = inside.average_odds_ratio({"owl": [table.tolist() for table in tables]})
    reference = StratifiedTable([table.astype(float) for table in tables])
    assert two is not None and two.animals == 1
    assert two.ratio == pytest.approx((reference.oddsratio_pooled, *reference.oddsratio_pooled_confint()))


def test_the_same_features_of_several_animals_are_no_more_evidence_than_those_of_one() -> None:
    table = [[[12, 30], [9, 80]]]
    four, one = inside.average_odds_ratio(dict.fromkeys("abcd", table)), inside.average_odds_ratio({"a": table})
    assert four is not None and one is not None
    assert four.ratio == pytest.approx(one.ratio) and (four.animals, one.animals) == (4, 1)
    assert inside.average_share([(3, 20)] * 4) == pytest.approx(inside.average_share([(3, 20)]))
    low, high = proportion_confint(3, 20, method="wilson")
    assert inside.average_share([(3, 20), (0, 0)]) == pytest.approx((15, 100 * low, 100 * high))
    assert inside.average_share([(0, 0)]) is None


def test_complete_separation_is_evidence_and_empty_margins_are_none() -> None:
    separated = inside.average_odds_ratio({"owl": [[[10, 2], [0, 40]], [[9, 3], [0, 41]]]})
    assert separated is not None
    assert separated.ratio.low > 1
    assert inside.average_odds_ratio({"owl": [[[0, 5], [0, 7]]], "dog": [[[0, 0], [3, 4]]]}) is None


def test_no_higher_rate_takes_an_interval_that_excludes_a_quarter_more() -> None:
    def judged(low: float, high: float, animals: int = 5) -> str:
        return inside.no_higher_rate(inside.OddsRatio(Interval(1, low, high), animals))

    assert judged(1.1, 3) == "opposite" and judged(0.8, 1.2) == "detected" and judged(0.3, 0.9) == "detected"
    # What was once called no higher rate.
    assert judged(0.64, 1.49) == judged(0.8, 1.99) == "inconclusive"
    assert judged(0.8, 1.2, animals=2) == judged(1.1, 3, animals=2) == inside.no_higher_rate(None) == "inconclusive"


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
