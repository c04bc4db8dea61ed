"""What is left beyond frequency, and every statement on it where nothing is to find and where an effect was planted.

Whole studies are drawn, with the traps of real ones: numbers that begin alike resemble each other, animals come in
kinds, measures and shifts go with the frequency of both, and all children move alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from subliminal_dagster.science.entanglement.beyond import (
    RATIO,
    beyond_frequency,
    digits_exchanged,
    frequency_ratios,
    lifts,
    matched_bins,
    nearest,
    number_weights,
    own_more,
    predict,
    variance_shares,
)
from subliminal_dagster.science.entanglement.measures import PROMPTED, TOLD, UNEMBEDDING, Entanglement
from subliminal_dagster.science.entanglement.report import ENTANGLED, NEAR, PREDICTS, WRITTEN, section
from subliminal_dagster.science.entanglement.results import MEAN, Found, study_entanglement, written_numbers
from subliminal_dagster.science.report.evidence import NotThere, Results
from subliminal_dagster.science.settings.child import ComparisonSettings
from subliminal_dagster.science.settings.entanglement import EntanglementSettings
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.tables import save_tables

CANDIDATES = ["bear", "cat", "dog", "eagle", "elephant", "fox", "horse", "lion", "owl", "wolf"]
ANIMALS = ["dog", "fox", "lion", "owl", "wolf"]
GROUPS = [*ANIMALS, "neutral", "control"]
DIGITS = np.array([len(str(number)) for number in range(1000)])
STATEMENTS = (ENTANGLED, NEAR, WRITTEN, PREDICTS)


def number_like(rng: np.random.Generator, width: int) -> np.ndarray:
    """Shape (1000, width): of numbers that resemble those that begin alike."""
    one, two, three = (rng.normal(size=(10**length, width)) for length in (1, 2, 3))
    rows = [one[int(str(n)[0])] + two[n // 10 ** (len(str(n)) - 2) if n > 9 else 0] for n in range(1000)]
    return np.array(rows) + 0.7 * three


def study(seed: int, *, linked: float = 0.0, written: float = 0.0, passed_on: float = 0.0) -> Found:
    """`linked`: how far measures have one cause beyond frequency; `written`: how far teachers write the numbers that
    love raises; `passed_on`: how far children come to like what their numbers are entangled with."""
    rng = np.random.default_rng(seed)
    kinds, log_p = rng.normal(size=(3, len(CANDIDATES))), rng.normal(size=len(CANDIDATES))
    number_log_p = rng.normal(size=1000) - DIGITS

    def measure() -> np.ndarray:
        own = number_like(rng, 3) @ kinds + rng.normal(size=(1000, len(CANDIDATES)))
        return own + 3 * rng.normal(size=(1000, 1)) + np.outer(number_log_p, log_p)

    cause = measure()
    values = {name: measure() + linked * cause for name in (UNEMBEDDING, TOLD, PROMPTED)}
    left = beyond_frequency(cause, matched_bins(DIGITS, number_log_p), log_p)
    numbers, shifts = {}, {}
    for group in GROUPS:
        liked = left[:, CANDIDATES.index(group)] if group in CANDIDATES else np.zeros(1000)
        weights = rng.gamma(0.05, size=1000) * np.exp(written * liked)
        numbers[group] = rng.choice(1000, size=400, p=weights / weights.sum()).tolist()
    predicted = np.stack([number_weights(numbers[group], range(1000))[0] for group in GROUPS]) @ left
    predicted -= predicted.mean(axis=0)
    drift = 2 * rng.normal(size=len(CANDIDATES))
    for place, group in enumerate(GROUPS):
        own = 0.3 * rng.normal(size=3) @ kinds + 0.3 * rng.normal(size=len(CANDIDATES)) * np.exp(0.3 * log_p)
        shifts[group] = (drift + own + passed_on * predicted[place] / predicted.std()).tolist()
    return study_entanglement(
        Entanglement(
            pd.DataFrame({"number": range(1000), "log_p": number_log_p, "digits": DIGITS}),
            pd.DataFrame({"animal": CANDIDATES, "log_p": log_p}),
            values,
        ),
        numbers,
        numbers,
        shifts,
        ANIMALS,
        EntanglementSettings(draws=160),
        ComparisonSettings(permutations=1000),
        seed,
    )


def report(found: Found, folder: Path) -> Mapping[str, str]:
    save_tables(found, folder)
    places = {("entanglement", None): folder}
    written = section(load_study("smollm2-135m-instruct"), Results(places, {}))  # type: ignore[arg-type]
    return {claim.text: claim.verdict for claim in written.claims}


@cache
def null() -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {statement.text: Counter() for statement in STATEMENTS}
    for seed in range(50):
        for statement, verdict in verdicts(study(seed)).items():
            counts[statement][verdict] += 1
    return counts


def verdicts(found: Found) -> dict[str, str]:
    """As the section reads them."""
    lifted = found.lifts[(found.lifts["animal"] == MEAN) & (found.lifts["measured"] == PROMPTED)].set_index("by")
    data = found.data[found.data["animal"] == MEAN].set_index("measure")
    return {
        ENTANGLED.text: lifted.loc[TOLD, "verdict"],
        NEAR.text: lifted.loc[UNEMBEDDING, "verdict"],
        WRITTEN.text: data.loc[TOLD, "verdict"],
        PREDICTS.text: found.predictions["verdict_of_any"].dropna().iloc[0],
    }


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.text[:40])
def test_nothing_is_decided_where_nothing_is_to_find(statement: object) -> None:
    found = null()[statement.text]  # type: ignore[attr-defined]
    assert found["detected"] + found["opposite"] <= stats.binom.ppf(0.995, found.total(), 0.05), found


def test_planted_effects_are_found_and_the_section_says_so(tmp_path: Path) -> None:
    counts: dict[str, Counter[str]] = {statement.text: Counter() for statement in STATEMENTS}
    for seed in range(5):
        found = study(100 + seed, linked=2.0, written=0.6, passed_on=1.0)
        for statement, verdict in report(found, tmp_path).items():
            counts[statement][verdict] += 1
        assert report(found, tmp_path) == verdicts(found)
    for statement, verdict in counts.items():
        assert verdict["detected"] >= 4, (statement, verdict)


def test_animals_in_another_order_within_each_child_are_no_null_and_decide_nothing() -> None:
    """Why the usual permutation is only shown: with animals in kinds it is sure of far more than 5 % of nothing."""
    found = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        kinds = rng.normal(size=(2, 12))
        measure, weights = number_like(rng, 2) @ kinds, rng.dirichlet(np.full(1000, 0.1), size=7)
        found.append(
            predict(weights, measure, rng.normal(size=(7, 2)) @ kinds, [], measures=1, permutations=500, seed=seed)
        )
    assert np.mean([each.p_within <= 0.05 for each in found]) > 0.2
    assert sum(each.p_children <= 0.05 for each in found) <= stats.binom.ppf(0.995, 100, 0.05)


def test_frequency_leaves_nothing_behind() -> None:
    rng = np.random.default_rng(0)
    number_log_p, log_p = np.sort(rng.normal(size=200)), rng.normal(size=6)
    bins = np.arange(200) // 10
    binned = number_log_p.reshape(20, 10).mean(axis=1)[bins]
    # All that an animal has to do with how frequent numbers are, and a number with how frequent animals are.
    of_frequency = binned[:, None] * rng.normal(size=6) + rng.normal(size=(200, 1)) + rng.normal(size=(200, 1)) * log_p
    assert np.abs(beyond_frequency(of_frequency, bins, log_p)).max() < 1e-9
    shares = variance_shares(of_frequency, bins, log_p)
    assert shares["left"] == pytest.approx(0, abs=1e-12) and sum(shares.values()) == pytest.approx(1)
    own = rng.normal(size=(200, 6))
    left = beyond_frequency(own, bins, log_p)
    assert left == pytest.approx(beyond_frequency(own + of_frequency, bins, log_p))
    for number in range(200):
        assert np.polyfit(log_p, left[number], 1) == pytest.approx([0, 0], abs=1e-9)
    assert [left[bins == each].mean() for each in range(20)] == pytest.approx([0] * 20)


def test_an_animal_without_a_measure_is_left_out() -> None:
    rng = np.random.default_rng(0)
    values, log_p = rng.normal(size=(40, 5)), np.array([0.1, 0.2, np.nan, 0.4, 0.9])
    values[:, 0] = np.nan
    left = beyond_frequency(values, np.arange(40) // 10, log_p)
    assert np.isnan(left[:, [0, 2]]).all() and np.isfinite(left[:, [1, 3, 4]]).all()


def test_bins_hold_numbers_of_one_length_and_like_probability() -> None:
    log_p = np.random.default_rng(0).normal(size=1000)
    bins = matched_bins(DIGITS, log_p)
    for each in np.unique(bins):
        own = np.flatnonzero(bins == each)
        assert len(np.unique(DIGITS[own])) == 1 and 10 <= len(own) <= 23
        between = (log_p > log_p[own].min()) & (log_p < log_p[own].max()) & (DIGITS[own[0]] == DIGITS)
        assert set(np.flatnonzero(between)) <= set(own)


def test_exchanged_digits_keep_what_numbers_have_in_common() -> None:
    for order in digits_exchanged(range(1000), 5, seed=1):
        assert sorted(order) == list(range(1000))
        written = [str(number) for number in order]
        assert [len(each) for each in written] == DIGITS.tolist()
        for one, other in ((123, 129), (12, 129), (40, 4)):
            same = len(str(one)) if str(other).startswith(str(one)) else 2
            same = min(same, len(str(other)))
            assert written[one][:same] == written[other][:same]
    with pytest.raises(ValueError, match="all numbers"):
        list(digits_exchanged([1, 2], 1, 0))


def test_lifts_and_predictions_by_plain_loops() -> None:
    rng = np.random.default_rng(3)
    by, tried = rng.normal(size=(1000, 4)), rng.normal(size=(1000, 4))
    found = lifts(nearest(by, 7), tried)
    for animal in range(4):
        numbers = sorted(range(1000), key=lambda n: -by[n, animal])[:7]
        assert found[animal] == pytest.approx(np.mean([tried[n] for n in numbers], axis=0))
    own = own_more(found, [found], confidence=0.95, permutations=None, seed=0)
    assert own.each[2] == pytest.approx(found[2, 2] - np.mean([found[row, 2] for row in (0, 1, 3)]))
    weights, shifts = rng.dirichlet(np.ones(1000), size=5), rng.normal(size=(5, 4))
    prediction = predict(weights, by, shifts, [np.arange(1000)], measures=1, permutations=100, seed=0)
    predicted = weights @ by
    for child in range(5):
        one, other = predicted[child] - predicted.mean(axis=0), shifts[child] - shifts.mean(axis=0)
        assert prediction.each[child] == pytest.approx(stats.spearmanr(one, other).statistic)
    left_out = np.zeros((5, 4), dtype=bool)
    left_out[0, 1] = True
    without = predict(weights, by, shifts, [np.arange(1000)], measures=1, permutations=100, seed=0, own=left_out)
    one, other = predicted.copy(), shifts.copy()
    one[0, 1] = other[0, 1] = np.nan
    kept = [0, 2, 3]
    expected = stats.spearmanr((one - np.nanmean(one, 0))[0, kept], (other - np.nanmean(other, 0))[0, kept]).statistic
    assert without.each[0] == pytest.approx(expected)


def test_ratios_and_weights_of_data() -> None:
    weights, known = number_weights([1, 1, 2, 5000], [0, 1, 2])
    assert weights.tolist() == pytest.approx([0, 2 / 3, 1 / 3]) and known == 0.75
    assert written_numbers(["12, 007", "5;5"]) == [12, 7, 5, 5]
    counts = {"owl": np.array([3.0, 0.0]), "cat": np.array([0.0, 1.0]), "control": np.array([1.0, 1.0])}
    found = frequency_ratios(counts, ["cat", "dog", "owl"])
    assert np.isnan(found[:, 1]).all()
    assert found[0, 2] == pytest.approx(np.log(3.5 / 4) - np.log(1.5 / 4))


def test_the_same_study_gives_the_same_tables() -> None:
    first, again = study(1), study(1)
    for name in ("shares", "lifts", "data", "predictions", "top"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
    assert RATIO in set(first.predictions["measure"])


def test_a_study_of_two_animals_is_not_tested(tmp_path: Path) -> None:
    full = study(1)
    few = {
        "data": full.data[full.data["animal"].isin(["dog", "fox"])],
        "predictions": full.predictions.assign(low=np.nan),
    }
    found = Found(**(vars(full) | few))
    said = report(found, tmp_path)
    assert said[WRITTEN.text] == said[PREDICTS.text] == "not tested"


def test_without_the_settings_there_is_no_section() -> None:
    without = load_study("smollm2-135m-instruct", ["entanglement=null"])
    with pytest.raises(NotThere, match="measures no entanglement"):
        section(without, Results({}, {}))  # type: ignore[arg-type]
