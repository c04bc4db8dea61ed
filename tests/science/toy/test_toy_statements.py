"""The rules of the toy statements on null and on planted data, with seeds as units: what they call detected, and how
often they are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from subliminal_dagster.science.settings.toy import AutoencoderSettings
from subliminal_dagster.science.toy import statements
from subliminal_dagster.science.toy.statements import NOTHING, Rule, as_large_as, below, larger, no_increase, within

SEEDS = 5
TRIALS = 2000
# Four standard errors of a rate of 5 % over all trials.
AT_MOST = 0.05 + 4 * math.sqrt(0.05 * 0.95 / TRIALS)


def values(mean: float, spread: float = 0.1) -> pd.Series:
    """Five seeds with exactly this mean and standard deviation."""
    standard = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    return pd.Series(mean + spread * standard / standard.std(ddof=1))


@pytest.mark.parametrize(
    ("rule", "mean", "spread", "verdict"),
    [
        (as_large_as(0.9), 0.96, 0.01, "detected"),
        (as_large_as(0.9), 0.5, 0.1, "not detected"),
        (as_large_as(0.9), 0.798, 0.143, "inconclusive"),  # 0.798 [0.620, 0.976]
        (below(0.1), 0.05, 0.01, "detected"),
        (below(0.1), -0.5, 0.1, "detected"),
        (below(0.1), 0.5, 0.1, "opposite"),
        (below(0.1), 0.1, 0.1, "inconclusive"),
        (within(0.3, 0.5), 0.4, 0.05, "detected"),
        (within(0.3, 0.5), 0.6, 0.05, "not detected"),
        (within(0.3, 0.5), 0.1, 0.05, "not detected"),
        (within(0.3, 0.5), 0.33, 0.193, "inconclusive"),  # 0.33 [0.09, 0.57]
        (within(0.3, 0.5), 0.513, 0.09, "inconclusive"),
        (larger(), 0.2, 0.1, "detected"),
        (larger(), -0.182, 0.056, "opposite"),
        (larger(), 0.0, 0.05, "not detected"),
        (larger(), -0.013, 0.102, "inconclusive"),  # -0.013 [-0.139, 0.114]; 90 % to -0.110
        (no_increase(), -0.3, 0.1, "detected"),
        (no_increase(), 0.0, 0.05, "detected"),
        (no_increase(), 0.2, 0.1, "opposite"),
        (no_increase(), 0.44, 0.419, "inconclusive"),  # 0.44 [-0.08, 0.96]
    ],
)
def test_verdicts(rule: Rule, mean: float, spread: float, verdict: str) -> None:
    assert rule.judge(values(mean, spread)) == verdict


def wrong(rule: Rule, mean: float, spread: float, verdict: str) -> float:
    """How often normal seeds with this mean get the verdict."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(mean, spread, size=(TRIALS, SEEDS))
    return float(np.mean([rule.judge(pd.Series(row)) == verdict for row in drawn]))


@pytest.mark.parametrize("spread", [0.02, 0.2])
@pytest.mark.parametrize(
    ("rule", "mean", "verdict"),
    [
        # Where a statement is only just false, and where its reverse or its absence is only just false.
        (as_large_as(0.9), 0.9, "detected"),
        (as_large_as(0.9), 0.9, "not detected"),
        (below(0.1), 0.1, "detected"),
        (below(0.1), 0.1, "opposite"),
        (within(0.3, 0.5), 0.5, "detected"),
        (within(0.3, 0.5), 0.3, "not detected"),
        (larger(), 0.0, "detected"),
        (larger(), 0.0, "opposite"),
        (larger(), NOTHING, "not detected"),
        (larger(), -NOTHING, "not detected"),
        (no_increase(), NOTHING, "detected"),
        (no_increase(), 0.0, "opposite"),
    ],
)
def test_a_rule_is_wrong_in_one_of_twenty_at_most(rule: Rule, mean: float, verdict: str, spread: float) -> None:
    assert wrong(rule, mean, spread, verdict) <= AT_MOST


def test_the_simulation_finds_a_rule_that_looks_at_means_alone() -> None:
    hasty = Rule(lambda seeds: "detected" if seeds.mean() > 0.9 else "opposite", "")
    assert wrong(hasty, 0.9, 0.1, "detected") > 0.4


DENSITIES = (1.0, 0.3, 0.1, 0.05, 0.01, 0.001)


def setting(**fields: object) -> AutoencoderSettings:
    return AutoencoderSettings(**{"densities": DENSITIES, "seeds": SEEDS, "ablated": (0,), "auxiliary": (5,)} | fields)


def children(name: str, recovered: Callable[[float], float], rng: np.random.Generator, spread: float) -> pd.DataFrame:
    """A setting's children without its ablated feature; `recovered` by density, with noise a seed."""
    return pd.DataFrame(
        {"setting": name, "experiment": "ablated", "auxiliary": 0, "density": density, "seed": seed}
        | {"recovered": recovered(density) + rng.normal(scale=spread), "teacher_superposition": 2.0}
        for density in DENSITIES
        for seed in range(SEEDS)
    )


@pytest.mark.parametrize(
    ("predicts", "recovered", "verdict"),
    [
        ("nothing", 0.0, "detected"),
        ("nothing", 0.9, "opposite"),
        ("recovery", 0.0, "not detected"),
        ("recovery", 0.9, "detected"),
    ],
)
def test_a_setting_is_judged_over_all_its_densities(predicts: str, recovered: float, verdict: str) -> None:
    table = children("other", lambda d: recovered * (d == 0.05), np.random.default_rng(0), 0.02)
    (said,) = statements.setting_statements(table, "post", {"other": setting(predicts=predicts)})
    assert said.verdict == verdict
    assert said.measured.startswith(f"{table[table['density'] == 0.05]['recovered'].mean():.3f} ") or not recovered


def test_the_density_that_decides_is_named() -> None:
    """A sure recovery beats a larger one that no interval holds; where nothing is, the highest interval counts."""
    rng = np.random.default_rng(0)
    sure = children("other", lambda d: 0.5 * (d == 0.05), rng, 0.02)
    wild = rng.normal(0.7, 1, SEEDS)
    table = sure.assign(recovered=sure["recovered"].mask(sure["density"] == 0.3, np.resize(wild, len(sure))))
    (said,) = statements.setting_statements(table, "post", {"other": setting()})
    assert said.verdict == "detected" and "1-S = 0.05," in said.criterion
    unsure = children("other", lambda _: 0.0, rng, 0.01)
    unsure.loc[unsure["density"] == 0.3, "recovered"] = wild
    (said,) = statements.setting_statements(unsure, "post", {"other": setting(predicts="nothing")})
    assert said.verdict == "inconclusive" and "1-S = 0.3," in said.criterion


@pytest.mark.parametrize(("predicts", "verdicts"), [("nothing", ("opposite", "detected")), ("recovery", ("detected",))])
def test_many_densities_are_no_more_chances_to_find_something(predicts: str, verdicts: tuple[str, ...]) -> None:
    """At every density as much is recovered as still counts as nothing."""
    trials = 400
    rng = np.random.default_rng(0)
    tables = [children("other", lambda _: NOTHING, rng, 0.1) for _ in range(trials)]
    own = {"other": setting(predicts=predicts)}
    said = [statements.setting_statements(table, "post", own)[0].verdict for table in tables]
    for verdict in verdicts:
        assert said.count(verdict) / trials <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(("kept", "verdict"), [(0.8, "detected"), (0.0, "not detected"), (-0.8, "opposite")])
@pytest.mark.parametrize("field", [{"child_inputs": "trained"}, {"batch_loss": "mean"}])
def test_a_changed_setting_is_compared_with_the_post_by_seed(field: dict[str, str], kept: float, verdict: str) -> None:
    rng = np.random.default_rng(1)
    table = pd.concat([children("post", lambda _: 0.8, rng, 0.02), children("other", lambda _: 0.8 - kept, rng, 0.02)])
    own = {"third": setting(relu=False), "post": setting(), "other": setting(**field, densities=(0.05,))}
    (said,) = statements.changed_statements(table, own)
    assert said.verdict == verdict
    at = table[table["density"] == 0.05].pivot(index="seed", columns="setting", values="recovered")
    assert said.measured.startswith(f"{(at['post'] - at['other']).mean():.3f} ")
    assert "1-S = 0.05" in said.criterion


def models(superposition: Callable[[float], float], spread: float, rng: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame(
        {"setting": "post", "experiment": "ablated", "role": "teacher", "density": density, "seed": seed}
        | {"superposition": superposition(density) + rng.normal(scale=spread)}
        for density in DENSITIES
        for seed in range(SEEDS)
    )


def growth(superposition: Callable[[float], float], spread: float, rng: np.random.Generator) -> str:
    said = statements._teacher_statements(models(superposition, spread, rng), 1.0, 0.001)
    return next(each.verdict for each in said if "grow" in each.statement)


@pytest.mark.parametrize(
    ("superposition", "spread", "verdict"),
    [
        (lambda d: 1 - math.log10(d), 0.02, "detected"),
        (lambda d: 1.0, 0.02, "not detected"),
        (lambda d: 1.0, 0.3, "inconclusive"),
        (lambda d: 4 + math.log10(d), 0.02, "opposite"),
        # Growth that does not double, and growth with a fall on the way.
        (lambda d: 1 - 0.2 * math.log10(d), 0.02, "inconclusive"),
        (lambda d: 1 - math.log10(d) - (d == 0.01), 0.02, "inconclusive"),
    ],
)
def test_growth_of_superposition(superposition: Callable[[float], float], spread: float, verdict: str) -> None:
    assert growth(superposition, spread, np.random.default_rng(0)) == verdict


def test_no_growth_is_seldom_called_growth() -> None:
    rng = np.random.default_rng(0)
    said = [growth(lambda _: 1.0, 0.1, rng) for _ in range(300)]
    assert max(said.count("detected"), said.count("opposite")) / 300 <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 300)


def test_beyond_the_sparsest_density() -> None:
    rng = np.random.default_rng(0)
    table = children("n400", lambda d: {0.001: 0.3, 0.01: 0.8}.get(d, 0.0), rng, 0.02)
    sparse = table[table["density"].isin([0.001, 0.01])]
    sparse = sparse.assign(density=sparse["density"] / 10)
    for equal, words in ((True, "each feature is active as often"), (False, "as many rows")):
        own = {"n400": setting(equal_activations=equal)}
        (said,) = statements.sparser_statements(sparse, own)
        # From 0.8 to 0.3.
        assert said.verdict == "detected" and words in said.criterion
    rising = sparse.assign(recovered=1 - sparse["recovered"])
    assert statements.sparser_statements(rising, own)[0].verdict == "opposite"


def test_one_seed_decides_nothing() -> None:
    one = children("other", lambda _: 0.9, np.random.default_rng(0), 0.02).query("seed == 0")
    assert statements.setting_statements(one, "post", {"other": setting()}) == []
    said = statements.changed_statements(one, {"plain": setting(), "other": setting(batch_loss="mean")})
    assert [each.verdict for each in said] == ["not tested"]


def test_what_a_change_does_is_not_said_without_the_setting_that_lacks_it() -> None:
    table = children("other", lambda _: 0.9, np.random.default_rng(0), 0.02)
    for others in ({}, {"third": setting(relu=False)}):
        assert statements.changed_statements(table, {"other": setting(batch_loss="mean")} | others) == []
