"""The statistics against scipy, statsmodels, enumeration and simulation."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.statistics import (
    assignment_p,
    benjamini_hochberg,
    chance_p,
    holm,
    paired_test,
    sign_flip_p,
    smallest_detectable,
    t_interval,
    wider_interval,
)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_interval_and_p_are_those_of_scipy() -> None:
    values = _rng().normal(0.3, 1, 50)
    reference = stats.ttest_1samp(values, 0)
    low, high = reference.confidence_interval(0.9)
    interval = t_interval(values, 0.9)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((values.mean(), low, high))
    assert interval.se == pytest.approx(values.std(ddof=1) / math.sqrt(50))

    other = np.random.default_rng(1).normal(0, 1, 50)
    tested = paired_test(values - other, permutations=99, rng=_rng())
    assert tested.p == pytest.approx(stats.ttest_rel(values, other).pvalue)


def test_one_unit_has_no_interval() -> None:
    with pytest.raises(UserError, match="at least two"):
        t_interval([1.0])


def test_no_difference_at_all_is_no_evidence() -> None:
    nothing = paired_test(np.full(20, 1e-17), permutations=99, rng=_rng())
    assert (nothing.mean, nothing.p, nothing.p_sign_flip) == (0.0, 1.0, 1.0)
    assert math.isnan(nothing.smallest_detectable)


def test_sign_flips_of_few_units_are_enumerated() -> None:
    differences = _rng().normal(0.5, 1, 8)
    flipped = [np.mean(differences * signs) for signs in itertools.product([1, -1], repeat=8)]
    as_extreme = np.mean(np.abs(flipped) >= abs(differences.mean()) - 1e-12)
    assert sign_flip_p(differences, permutations=256, rng=_rng()) == pytest.approx(as_extreme)


def test_drawn_sign_flips_are_close_to_the_t_test_and_never_zero() -> None:
    differences = _rng().normal(0.25, 1, 60)
    p = sign_flip_p(differences, permutations=9999, rng=_rng())
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)
    assert sign_flip_p(np.full(60, 1.0), permutations=999, rng=_rng()) == pytest.approx(2 / 1000)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5).filter(lambda value: abs(value) > 1e-3), min_size=3, max_size=8))
def test_sign_flips_are_symmetrical(differences: list[float]) -> None:
    there = sign_flip_p(differences, permutations=1000, rng=_rng())
    back = sign_flip_p([-value for value in differences], permutations=1000, rng=_rng())
    assert there == pytest.approx(back)


def test_matchings_are_enumerated() -> None:
    effect = _rng().normal(size=(4, 4)) + 0.5 * np.eye(4)
    means = [np.mean([effect[row, column] for column, row in enumerate(p)]) for p in itertools.permutations(range(4))]
    expected = np.mean(np.array(means) >= np.trace(effect) / 4 - 1e-12)
    p, smallest = assignment_p(effect, permutations=24, rng=_rng())
    assert (p, smallest) == pytest.approx((expected, 1 / 24))


def test_the_smallest_p_of_matchings_is_reached_and_reported() -> None:
    for rows, permutations, smallest in [(2, 999, 1 / 2), (5, 999, 1 / 120), (9, 999, 1 / 1000)]:
        assert assignment_p(np.eye(rows), permutations=permutations, rng=_rng()) == pytest.approx((smallest, smallest))


def test_adjusted_p_values_are_statsmodels_own() -> None:
    rng = np.random.default_rng(3)
    for count in (1, 2, 17):
        p_values = rng.random(count) ** 3
        assert holm(p_values).tolist() == multipletests(p_values, method="holm")[1].tolist()
        assert benjamini_hochberg(p_values).tolist() == multipletests(p_values, method="fdr_bh")[1].tolist()


def test_benjamini_hochberg_by_hand() -> None:
    p_values = _rng().uniform(0, 0.2, 7)
    order = np.argsort(p_values)
    by_hand = np.empty(7)
    running = 1.0
    for rank in range(7, 0, -1):
        running = min(running, p_values[order[rank - 1]] * 7 / rank)
        by_hand[order[rank - 1]] = running
    assert benjamini_hochberg(p_values) == pytest.approx(by_hand)


def test_the_smallest_detectable_effect_has_the_power_it_claims() -> None:
    effect = smallest_detectable(0.1, 50)
    deviation = 0.1 * math.sqrt(50)
    assert TTestPower().power(effect / deviation, 50, 0.05) == pytest.approx(0.8)
    assert effect == pytest.approx((stats.t.ppf(0.975, 49) + stats.t.ppf(0.8, 49)) * 0.1, rel=0.01)

    drawn = _rng().normal(effect, deviation, size=(4000, 50))
    found = stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_loading_the_analyses_does_not_load_what_is_slow() -> None:
    code = (
        "import sys, subliminal_dagster.science.liking.figure;"
        "print([m for m in ('pandas', 'scipy', 'statsmodels', 'matplotlib', 'dagster') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


# Chance


def test_chance_counts_the_observed_value_among_its_draws() -> None:
    drawn = np.arange(99.0)
    assert chance_p(1000.0, drawn) == pytest.approx(2 / 100) == chance_p(-1000.0, drawn)
    assert chance_p(49.0, drawn) == 1.0 and chance_p(3.0, []) == 1.0
    rng = np.random.default_rng(0)
    p = [chance_p(rng.normal(), rng.normal(size=99)) for _ in range(2000)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.015)


def test_the_wider_interval_has_both_kinds_of_noise_in_it() -> None:
    values = np.array([1.0, 1.1, 0.9, 1.0])
    narrow = t_interval(values)
    assert wider_interval(values, np.zeros(100), 0.95) == (narrow.low, narrow.high)
    drawn = np.linspace(-2, 3, 1001)
    low, high = wider_interval(values, drawn, 0.95)
    assert (low, high) == pytest.approx((1 - np.quantile(drawn, 0.975), 1 - np.quantile(drawn, 0.025)))
