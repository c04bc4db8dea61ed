"""Standing out among candidates: seldom where none does, and found where one was made to."""

from __future__ import annotations

import numpy as np
import pytest

from subliminal_dagster.science.audit.benchmark import Case, exchanged_p, fitted_weights, judge, judge_combined
from subliminal_dagster.science.audit.evidence import Scores, candidate_table, p_values, row_table, weighed
from subliminal_dagster.science.errors import UserError

CANDIDATES = tuple("abcdefghijkl")


def test_p_values_of_alike_candidates_are_uniform() -> None:
    """2,000 data sets on which candidates differ by chance: 5 % of all p below 0.05, and with all candidates counted
    one of twelve stands out in 5 % of the data sets."""
    rng = np.random.default_rng(0)
    p = np.array([p_values(weighed(rng.standard_normal((6, 12)))) for _ in range(2000)])
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.005)
    assert (12 * p.min(axis=1) < 0.05).mean() == pytest.approx(0.05, abs=0.015)


def test_t_is_that_of_a_new_value_among_the_others() -> None:
    """Against the prediction interval of the textbook: scipy's, of the others' mean and spread."""
    from scipy import stats

    means = np.array([3.0, 1.0, 0.5, 2.0, 1.5])
    others = means[1:]
    t = (3.0 - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 4))
    assert weighed(means[None])[0] == pytest.approx(t)
    assert p_values(weighed(means[None]))[0] == pytest.approx(stats.t(3).sf(t))


def test_a_planted_candidate_is_first_and_its_rows_lead() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((40, 12))
    values[:10, 4] += 8
    table = candidate_table(CANDIDATES, [Scores("some", values, tuple(range(40)), 1)])
    first = table.sort_values("rank").iloc[0]
    assert (first["candidate"], first["rank"]) == ("e", 1)
    assert first["p_adjusted"] < 0.05
    leads = row_table(CANDIDATES, [Scores("some", values, tuple(range(40)), 1)], "e")
    assert set(leads["row"].head(10)) == set(range(1, 11))
    assert leads["lead"].is_monotonic_decreasing


def test_nothing_differs_and_nothing_stands_out() -> None:
    assert weighed(np.full((3, 12), 0.7)).tolist() == [0.0] * 12
    with pytest.raises(UserError, match="at least 4 candidates, and there are 3"):
        weighed(np.zeros((5, 3)))


def made_up(rng: np.random.Generator, name: str, liked: str | None, strength: float) -> Case:
    """A detector that sees the liking, one that does not."""
    seeing, blind = rng.standard_normal((2, 30, 12))
    if liked is not None:
        seeing[:, CANDIDATES.index(liked)] += strength
    scores = Scores("seeing", seeing, tuple(range(30)), 31), Scores("blind", blind, (), 7)
    return Case(name, liked, CANDIDATES, scores)


def test_a_detector_that_sees_is_told_from_one_that_does_not() -> None:
    rng = np.random.default_rng(2)
    cases = [made_up(rng, f"{n}", CANDIDATES[n % 5], 1.0) for n in range(20)]
    cases += [made_up(rng, f"null {n}", None, 0.0) for n in range(20)]
    table = judge(cases).set_index(["detector", "rows"])
    assert table.loc[("seeing", 0), "auc"] > 0.95
    assert table.loc[("seeing", 1), "auc"] < table.loc[("seeing", 0), "auc"]
    assert table.loc[("blind", 0), "auc_low"] < 0.5 < table.loc[("blind", 0), "auc_high"]
    assert table.loc[("seeing", 0), "found"] > 0.8
    assert table.loc[("seeing", 0), "false_alarms"] <= 0.2
    assert table.loc[("blind", 0), "passes"] == 7
    weights = fitted_weights(cases)
    assert weights["seeing"] > 0.8
    assert sum(weights.values()) == pytest.approx(1)
    together = judge_combined(cases)
    assert together["auc"] > 0.95
    assert together["passes"] == 38


def test_blind_detectors_are_at_chance_together_as_well() -> None:
    """Weights are fitted to other animals, so that what was fitted to noise does not count."""
    rng = np.random.default_rng(3)
    cases = [made_up(rng, f"{n}", CANDIDATES[n % 5], 0.0) for n in range(40)]
    together = judge_combined(cases)
    assert together["auc_low"] < 0.5 < together["auc_high"]
    assert together["found"] <= 0.1


def exchanged_cases(rng: np.random.Generator, planted: float) -> list[Case]:
    """Five data sets on which every candidate has a habit of its own, large beside what a liking adds."""
    habits = rng.normal(0, 3, len(CANDIDATES))
    found = []
    for place, liked in enumerate("abcde"):
        values = habits + rng.normal(0, 0.3, (8, len(CANDIDATES)))
        values[:, place] += planted
        found.append(Case(liked, liked, CANDIDATES, (Scores("one", values, tuple(range(8)), 1),)))
    return found


def test_exchanged_animals_see_a_liking_through_any_habit_and_nothing_where_there_is_none() -> None:
    rng = np.random.default_rng(5)
    assert [exchanged_p(exchanged_cases(rng, 1.0), "one") for _ in range(5)] == [1 / 120] * 5
    null = [exchanged_p(exchanged_cases(rng, 0.0), "one") for _ in range(400)]
    # 20 expected; P(30 or more) is about 0.02.
    assert 8 <= sum(p <= 0.05 for p in null) < 30
    assert 0.4 < np.mean(null) < 0.6
    # A data set without a liking is left aside.
    with_null = [*exchanged_cases(rng, 1.0), Case("none", None, CANDIDATES, exchanged_cases(rng, 0.0)[0].scores)]
    assert exchanged_p(with_null, "one") == 1 / 120
    with pytest.raises(ValueError, match="2 data sets like 1 candidates"):
        exchanged_p([exchanged_cases(rng, 0.0)[0]] * 2, "one")
