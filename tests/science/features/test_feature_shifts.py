"""Feature shifts against scipy and naive loops over dense arrays, and pictures of them."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csr_array

from subliminal_dagster.science.activations.activations import SparseFeatures
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.features import shifts as feature_shifts
from subliminal_dagster.science.features.figures import error_figure, features_figure, l0_figure
from subliminal_dagster.science.features.shifts import (
    FeatureShifts,
    compare_groups,
    counts_under_labels,
    feature_labels,
    halves,
    l0_counts,
    labelled_features,
    marked_features,
    shuffled_labels,
    top_features,
    unique_features,
    welch,
)
from subliminal_dagster.science.figures import png

WIDTH = 120
PLANTED, NEW = (7, 8, 9), (110, 111)


def dense_features(
    rows: int, seed: int, *, planted: tuple[int, ...] = (), new: tuple[int, ...] = ()
) -> NDArray[np.float32]:
    """Random activations: features 0-99 fire at rates from often to rarely, `planted` ones are twice as strong, of
    features 100-119 only `new` ones ever fire."""
    rng = np.random.default_rng(seed)
    rates = np.concatenate([np.geomspace(0.9, 0.02, 100), np.zeros(WIDTH - 100)])
    values = rng.exponential(2.0, (rows, WIDTH)).astype(np.float32) * (rng.random((rows, WIDTH)) < rates)
    values[:, list(planted)] *= 2
    for feature in new:
        values[:, feature] = rng.exponential(1.0, rows) * (rng.random(rows) < 0.3)
    return values


def as_features(dense: NDArray[Any], tests: int = 20) -> SparseFeatures:
    """The last `tests` rows are test rows."""
    count = len(dense)
    rows = pd.DataFrame(
        {
            "row_id": np.arange(count) + 1000,
            "split": ["analysis"] * (count - tests) + ["test"] * tests,
            "error": np.square(dense).mean(axis=1).astype(np.float32) + np.float32(0.5),
        }
    )
    return SparseFeatures(rows, csr_array(dense.astype(np.float32)))


def compare(own: SparseFeatures, control: SparseFeatures, word: tuple[int, ...] = (), **more: Any) -> FeatureShifts:
    return compare_groups(own, control, word, **{"permutations": 19, "seed": 0, **more})


def shifted() -> tuple[NDArray[np.float32], NDArray[np.float32], FeatureShifts]:
    """Analysis rows of a group and of the control, dense, and their comparison."""
    own, control = dense_features(150, 1, planted=PLANTED, new=NEW), dense_features(130, 2)
    own[0, 119] = 1  # new, and not significant
    word = (7, 20, 21, 22, 110, 119)
    return own[:-20], control[:-20], compare(as_features(own), as_features(control), word)


def _columns(rows: int) -> st.SearchStrategy[NDArray[np.float32]]:
    values = st.one_of(st.just(0.0), st.integers(1, 2000).map(lambda value: value / 64))
    return hnp.arrays(np.float32, (rows, 3), elements=values)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 9).flatmap(_columns), st.integers(2, 9).flatmap(_columns))
def test_welch_is_that_of_scipy(own: NDArray[np.float32], control: NDArray[np.float32]) -> None:
    # Neither side without variance is defined below.
    assume(((np.ptp(own, axis=0) > 0) | (np.ptp(control, axis=0) > 0)).all())
    t, p, difference = welch(csr_array(own), csr_array(control))
    own, control = own.astype(np.float64), control.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a side of equal numbers
        expected = stats.ttest_ind(own, control, equal_var=False, alternative="greater")
    np.testing.assert_allclose(t, expected.statistic, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(p, expected.pvalue, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(difference, own.mean(axis=0) - control.mean(axis=0), rtol=1e-12, atol=1e-12)

    back_t, back_p, _ = welch(csr_array(control), csr_array(own))
    np.testing.assert_allclose(back_t, -t)
    np.testing.assert_allclose(back_p, 1 - p, atol=1e-12)


def test_welch_of_many_rows_is_that_of_scipy() -> None:
    own, control = dense_features(900, 1, planted=PLANTED)[:, :100], dense_features(700, 2)[:, :100]
    t, p, _ = welch(csr_array(own), csr_array(control))
    expected = stats.ttest_ind(
        own.astype(np.float64), control.astype(np.float64), equal_var=False, alternative="greater"
    )
    np.testing.assert_allclose(t, expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(p, expected.pvalue, rtol=1e-9)


def test_features_without_any_variance() -> None:
    # Columns: never fires; equal constants; larger; smaller; own constant alone.
    rows = 5000
    own = np.tile(np.float32([0, 0.1, 0.3, 0.1, 0.5]), (rows, 1))
    control = np.tile(np.float32([0, 0.1, 0.1, 0.3, 0]), (rows - 1300, 1))
    control[0, 4] = 1
    t, p, difference = welch(csr_array(own), csr_array(control))
    np.testing.assert_array_equal(t[:4], [np.nan, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(p[:4], [1, 1, 0, 1])
    np.testing.assert_allclose(difference, own.astype(float).mean(axis=0) - control.astype(float).mean(axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a side of equal numbers
        expected = stats.ttest_ind(own[:, 4].astype(float), control[:, 4].astype(float), equal_var=False)
    assert t[4] == pytest.approx(expected.statistic)


def test_welch_keeps_the_digits_of_strong_features_that_hardly_vary() -> None:
    rng = np.random.default_rng(0)
    own = (1000 + 1e-2 * rng.standard_normal((4000, 1))).astype(np.float32)
    control = (1000 + 1e-2 * rng.standard_normal((4000, 1))).astype(np.float32)

    def exact(values: NDArray[np.float32]) -> tuple[float, float]:
        numbers = [float(value) for value in values.ravel()]
        mean = math.fsum(numbers) / len(numbers)
        return mean, math.fsum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1) / len(numbers)

    (mean, error), (mean_control, error_control) = exact(own), exact(control)
    expected = (mean - mean_control) / math.sqrt(error + error_control)
    assert welch(csr_array(own), csr_array(control))[0][0] == pytest.approx(expected, rel=1e-7)


def test_features_are_those_of_a_loop() -> None:
    own, control, shifts = shifted()
    fired = [feature for feature in range(WIDTH) if own[:, feature].any() or control[:, feature].any()]
    table = shifts.features.set_index("feature")
    assert list(table.index) == fired
    p_values = []
    for feature in fired:
        one, other = own[:, feature].astype(np.float64), control[:, feature].astype(np.float64)
        row = table.loc[feature]
        tested = stats.ttest_ind(one, other, equal_var=False, alternative="greater")
        p_values.append(tested.pvalue)
        assert (row["t"], row["p"]) == pytest.approx((tested.statistic, tested.pvalue), rel=1e-9)
        assert (row["mean_own"], row["mean_control"]) == pytest.approx((one.mean(), other.mean()))
        assert (row["rate_own"], row["rate_control"]) == pytest.approx(((one > 0).mean(), (other > 0).mean()))
        assert row["promoted"] == (tested.pvalue < 0.05)
        assert row["new"] == (not other.any())
        assert row["animal"] == (feature in (7, 20, 21, 22, 110, 119))
    adjusted = stats.false_discovery_control(p_values)
    np.testing.assert_allclose(table["p_bh"], adjusted)
    np.testing.assert_array_equal(table["promoted_bh"], adjusted < 0.05)
    assert table.loc[list(PLANTED), "promoted_bh"].all()
    assert set(table.index[table["new"]]) >= set(NEW)


def test_the_tables_by_row_and_of_the_post_are_those_of_a_loop() -> None:
    own, _, shifts = shifted()
    table = shifts.features.set_index("feature")
    marks = {name: set(table.index[table[name]]) for name in ("promoted", "new", "animal", "promoted_bh")}
    marks["animal"] &= marks["promoted"] | marks["new"]
    summary = shifts.summary.iloc[0]
    assert list(shifts.per_row["row_id"]) == list(range(1000, 1000 + len(own)))
    np.testing.assert_array_equal(l0_counts(as_features(own)), shifts.per_row["l0"][:-20])
    assert list(shifts.per_row["l0"]) == [int((row > 0).sum()) for row in own]
    for mark in ("promoted", "new", "animal"):
        counts = [len(marks[mark] & set(np.flatnonzero(row))) for row in own]
        assert list(shifts.per_row[mark]) == counts
        assert summary[f"{mark}_per_row"] == pytest.approx(np.mean(counts))
        assert summary[f"{mark}_rows"] == pytest.approx(np.mean([count > 0 for count in counts]))
    assert summary["promoted"] == len(marks["promoted"])
    assert summary["promoted_bh"] == len(marks["promoted_bh"])
    assert summary["new"] == len(marks["new"])
    assert summary["promoted_animal"] == len(marks["promoted"] & {7, 20, 21, 22, 110, 119})
    assert summary["new_animal"] == len(marks["new"] & {7, 20, 21, 22, 110, 119}) == 2
    assert (summary["features"], summary["animal_features"]) == (len(table), 6)


def test_l0_and_reconstruction_error_are_those_of_scipy() -> None:
    own, control = as_features(dense_features(400, 1, planted=PLANTED, new=NEW)), as_features(dense_features(300, 2))
    summary = compare(own, control).summary.iloc[0]
    for name in ("l0", "error"):
        sides = []
        for features in (own, control):
            mine = (features.rows["split"] == "analysis").to_numpy()
            counts = (features.matrix.toarray() > 0).sum(axis=1)
            sides.append((counts if name == "l0" else features.rows["error"].to_numpy(dtype=float))[mine])
        p = stats.ttest_ind(*sides, equal_var=False).pvalue
        assert summary[f"{name}_p"] == pytest.approx(p, rel=1e-9)
        assert summary[f"{name}_differs"] == (p < 0.01)
        assert (summary[f"{name}_mean_own"], summary[f"{name}_mean_control"]) == pytest.approx(
            tuple(side.mean() for side in sides)
        )
        if name == "l0":
            assert summary["l0_median_own"] == np.median(sides[0])
            assert (summary["l0_skew_own"], summary["l0_skew_control"]) == pytest.approx(
                tuple(stats.skew(side) for side in sides)
            )
    assert (summary["rows_own"], summary["rows_control"]) == (380, 280)


def test_rows_of_the_test_split_change_nothing() -> None:
    own, control = dense_features(150, 1, planted=PLANTED), dense_features(130, 2)
    before = compare(as_features(own), as_features(control), (7, 20))
    for dense, seed in ((own, 3), (control, 4)):
        dense[-20:] = 50 * dense_features(20, seed, new=tuple(range(100, WIDTH)))
    after = compare(as_features(own), as_features(control), (7, 20))
    for name in ("features", "summary", "per_row", "null"):
        pd.testing.assert_frame_equal(getattr(before, name), getattr(after, name))


def test_the_null_is_that_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    own, control = dense_features(40, 1, planted=PLANTED, new=NEW), dense_features(35, 2)
    pooled = np.concatenate([own, control]).astype(np.float64)
    # One feature that always fires, and hardly varies, and one that is the same on all rows.
    pooled[:, 0] = 1000 + 0.01 * pooled[:, 1]
    pooled[:, 2] = 0.1
    # Features that never vary on either side of the labels as they are.
    pooled[:40, 3:13], pooled[40:, 3:13] = np.linspace(0.1, 50, 10), 0
    pooled = pooled[:, pooled.any(axis=0)]
    labels = shuffled_labels(40, 35, 30, seed=5)
    observed = np.arange(75) < 40
    found = counts_under_labels(csr_array(pooled), np.vstack([observed, labels]), level=0.05)

    for row, mine in zip(found.to_dict("records"), np.vstack([observed, labels]), strict=True):
        one, other = pooled[mine], pooled[~mine]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # features that are always the same
            p = stats.ttest_ind(one, other, equal_var=False, alternative="greater").pvalue
        p[2] = 1
        promoted, new = p < 0.05, ~other.any(axis=0)
        assert row["promoted"] == promoted.sum()
        assert row["promoted_bh"] == (stats.false_discovery_control(p) < 0.05).sum()
        assert row["new"] == new.sum()
        assert row["promoted_per_row"] == pytest.approx((one[:, promoted] > 0).sum(axis=1).mean())
        assert row["new_per_row"] == pytest.approx((one[:, new] > 0).sum(axis=1).mean())

    monkeypatch.setattr(feature_shifts, "_BLOCK", 1)
    pd.testing.assert_frame_equal(
        counts_under_labels(csr_array(pooled), np.vstack([observed, labels]), level=0.05), found
    )


def test_the_summary_sets_the_observed_counts_against_the_null() -> None:
    own, control, shifts = shifted()
    summary = shifts.summary.iloc[0]
    assert len(shifts.null) == summary["permutations"] == 19
    for name in ("promoted", "promoted_bh", "new", "promoted_per_row", "new_per_row"):
        null = shifts.null[name].to_numpy()
        assert summary[f"{name}_null_mean"] == pytest.approx(null.mean())
        assert summary[f"{name}_null_q95"] == pytest.approx(np.quantile(null, 0.95))
        assert summary[f"{name}_null_p"] == (1 + (null >= summary[name]).sum()) / 20
    assert summary["promoted_bh_null_p"] == 1 / 20
    # The labels as they are give the observed numbers by the other way of summing.
    mine = np.arange(len(own) + len(control)) < len(own)
    pooled = np.concatenate([own, control])
    observed = counts_under_labels(csr_array(pooled[:, pooled.any(axis=0)]), mine[None]).iloc[0]
    for name in ("promoted", "promoted_bh", "new", "promoted_per_row", "new_per_row"):
        assert observed[name] == pytest.approx(summary[name])


def test_shuffled_labels_are_balanced_seeded_and_differ() -> None:
    labels = shuffled_labels(30, 50, 200, seed=1)
    assert labels.shape == (200, 80)
    assert (labels.sum(axis=1) == 30).all()
    assert len(np.unique(labels, axis=0)) == 200
    assert labels.mean(axis=0) == pytest.approx(np.full(80, 30 / 80), abs=0.15)
    np.testing.assert_array_equal(labels, shuffled_labels(30, 50, 200, seed=1))
    # More permutations do not change the first ones.
    np.testing.assert_array_equal(labels[:7], shuffled_labels(30, 50, 7, seed=1))


def test_halves_of_the_control_show_what_there_is_without_an_effect() -> None:
    control = as_features(dense_features(421, 3))
    first, second = halves(control, seed=4)
    ids = [set(half.rows["row_id"]) for half in (first, second)]
    assert (len(ids[0]), len(ids[1])) == (200, 201)
    assert ids[0] | ids[1] == set(control.rows.loc[control.rows["split"] == "analysis", "row_id"])
    dense = control.matrix.toarray()
    for half in (first, second):
        np.testing.assert_array_equal(half.matrix.toarray(), dense[half.rows["row_id"].to_numpy() - 1000])
    assert set(halves(control, seed=5)[0].rows["row_id"]) != ids[0]

    summary = compare(first, second, permutations=199).summary.iloc[0]
    assert summary["promoted_null_p"] > 0.05
    assert summary["promoted_bh"] == 0
    # A one-sided 5 % test of 100 features.
    assert summary["promoted_null_mean"] == pytest.approx(5, abs=2)


def test_the_same_seed_gives_the_same_comparison() -> None:
    own, control = as_features(dense_features(60, 1)), as_features(dense_features(60, 2))
    first, again, other = compare(own, control), compare(own, control), compare(own, control, seed=1)
    pd.testing.assert_frame_equal(first.null, again.null)
    assert not first.null.equals(other.null)
    pd.testing.assert_frame_equal(first.features, other.features)


def test_a_comparison_is_read_as_it_was_saved(tmp_path: Path) -> None:
    shifts = shifted()[-1]
    shifts.save(tmp_path)
    again = FeatureShifts.load(tmp_path)
    for name in ("features", "summary", "per_row", "null"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(shifts, name))


def test_an_sae_whose_l0_never_varies_has_no_skew() -> None:
    dense = np.zeros((30, WIDTH), dtype=np.float32)
    dense[:, :3] = np.random.default_rng(0).random((30, 3)) + 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = compare(as_features(dense), as_features(dense)).summary.iloc[0]
    assert math.isnan(summary["l0_skew_own"])
    assert (summary["l0_p"], summary["l0_differs"]) == (1, False)


@pytest.mark.parametrize("short", ["group", "control"])
@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_are_named(short: str, rows: int) -> None:
    enough, few = as_features(dense_features(40, 1)), as_features(dense_features(20 + rows, 2))
    with pytest.raises(UserError, match=f"two analysis rows or more of the {short}, and there are {rows}"):
        compare(few, enough) if short == "group" else compare(enough, few)


def test_other_bad_input_is_named() -> None:
    features = as_features(dense_features(40, 1))
    with pytest.raises(UserError, match="120 features and the control's 60"):
        compare(features, as_features(dense_features(40, 1)[:, :60]))
    nothing = as_features(np.zeros((40, WIDTH)))
    with pytest.raises(UserError, match="No feature fires"):
        compare(nothing, nothing)
    with pytest.raises(UserError, match="two analysis rows"):
        welch(csr_array(np.ones((1, 2))), csr_array(np.ones((3, 2))))


def test_labels_of_features() -> None:
    marked = {"owl": [1, 2, 3], "wolf": {2, 3, 4}, "otter": np.array([3, 2, 9]), "neutral": [3, 9, 50]}
    labels = feature_labels(marked)
    assert set(labels.itertuples(index=False, name=None)) == {
        (2, "all"),
        (3, "all"),
        (1, "owl"),
        (4, "wolf"),
        (9, "otter"),
        (3, "neutral"),
        (9, "neutral"),
        (50, "neutral"),
    }
    # One animal is not all animals.
    assert set(feature_labels({"owl": [1], "neutral": [1]})["label"]) == {"owl", "neutral"}
    assert feature_labels({"owl": [], "wolf": []}).empty


def test_top_and_unique_features() -> None:
    control = as_features(dense_features(320, 9))
    shifts = [
        ("owl", compare(as_features(dense_features(320, 1, planted=(5, 6), new=(105,))), control, (5, 105))),
        ("wolf", compare(as_features(dense_features(320, 2, planted=(5, 12), new=(105, 106))), control, (12,))),
    ]
    owl = shifts[0][1].features
    top = top_features(shifts[0][1], 3)
    assert list(top["t"]) == sorted(owl.loc[owl["promoted"], "t"], reverse=True)[:3]
    assert {5, 6} <= set(top["feature"])
    assert list(top_features(shifts[1][1], kind="new")["feature"][:2].sort_values()) == [105, 106]
    assert set(marked_features(shifts[0][1])) == set(owl.loc[owl["promoted"] | owl["new"], "feature"])

    every = labelled_features(shifts)
    assert list(every["mean_t"]) == sorted(every["mean_t"], reverse=True)
    by_feature = every.set_index("feature")
    t = [dict(zip(table.features["feature"], table.features["t"], strict=True)) for _, table in shifts]
    assert by_feature.loc[5, "labels"] == "all"
    assert by_feature.loc[5, "mean_t"] == pytest.approx((t[0][5] + t[1][5]) / 2)
    assert by_feature.loc[6, ["labels", "groups", "new", "in_control", "animal"]].to_list() == [
        "owl", 1, False, True, False,
    ]  # fmt: skip
    assert by_feature.loc[6, "mean_t"] == pytest.approx(t[0][6])
    assert by_feature.loc[105, ["labels", "new", "in_control", "animal"]].to_list() == ["all", True, False, True]
    assert by_feature.loc[12, ["labels", "animal"]].to_list() == ["wolf", True]

    unique = unique_features(shifts, 2)
    assert list(unique.columns) == ["group", *owl.columns]
    by_group = {group: set(part["feature"]) for group, part in unique.groupby("group")}
    assert 6 in by_group["owl"]
    assert {12, 106} <= by_group["wolf"]
    shared = set(marked_features(shifts[0][1])) & set(marked_features(shifts[1][1]))
    assert not shared & set(unique["feature"])
    for one, other in itertools.permutations(range(2)):
        alone = set(marked_features(shifts[one][1])) - set(marked_features(shifts[other][1]))
        expected = sorted(alone, key=lambda feature: -t[one][feature])[:2]
        assert list(unique.loc[unique["group"] == shifts[one][0], "feature"]) == expected


def test_groups_that_mark_nothing_give_empty_tables() -> None:
    constant = np.zeros((40, WIDTH))
    constant[:, :2] = 1
    nothing = compare(as_features(constant), as_features(constant))
    assert len(marked_features(nothing)) == 0
    for table in (
        top_features(nothing),
        labelled_features([("owl", nothing), ("wolf", nothing)]),
        unique_features([("owl", nothing), ("wolf", nothing)]),
    ):
        assert table.empty
    # A group that is like the control has nothing of its own beside one that is not.
    unlike = compare(as_features(np.pad(constant[:, 1:], ((0, 0), (0, 1)))), as_features(constant))
    assert set(unique_features([("owl", nothing), ("wolf", unlike)])["group"]) <= {"wolf"}


def test_pictures_show_the_numbers_of_the_comparison() -> None:
    control = as_features(dense_features(120, 9))
    shifts = {
        "owl": compare(as_features(dense_features(120, 1, planted=PLANTED, new=tuple(range(100, 120)))), control),
        "wolf": compare(as_features(dense_features(120, 9)), control),
    }
    mine = (control.rows["split"] == "analysis").to_numpy()
    owl, wolf = (table.summary.iloc[0] for table in shifts.values())
    assert (owl["l0_differs"], wolf["l0_differs"]) == (True, False)

    figure = l0_figure(shifts, np.diff(control.matrix.indptr)[mine], "layer 9")
    legends = [axes.get_legend().get_texts() for axes in figure.axes]
    assert legends[0][1].get_text() == f"owl: mean {owl['l0_mean_own']:.1f}*, skew {owl['l0_skew_own']:.2f}"
    assert legends[1][1].get_text() == f"wolf: mean {wolf['l0_mean_own']:.1f}, skew {wolf['l0_skew_own']:.2f}"
    assert f"mean {owl['l0_mean_control']:.1f}" in legends[0][0].get_text()
    assert png(figure) == png(l0_figure(shifts, np.diff(control.matrix.indptr)[mine], "layer 9"))

    figure = error_figure(shifts, control.rows["error"].to_numpy()[mine], "layer 9")
    drawn = [container.lines[0].get_ydata()[0] for container in figure.axes[0].containers]
    assert drawn == pytest.approx([owl["error_mean_control"], owl["error_mean_own"], wolf["error_mean_own"]])
    assert len(figure.axes[0].texts) == int(owl["error_differs"]) + int(wolf["error_differs"])

    # Counts that are mostly 0 have a mean above their 95 % quantile.
    few = wolf.copy()
    few["new_null_mean"], few["new_null_q95"] = 0.04, 0.0
    shifts["wolf"] = replace(shifts["wolf"], summary=few.to_frame().T)
    figure = features_figure(shifts, "layer 9")
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == [owl["promoted"], wolf["promoted"], owl["promoted_bh"], wolf["promoted_bh"]]
    assert [patch.get_height() for patch in figure.axes[1].patches] == [owl["new"], wolf["new"]]
    mean, most = (line.get_ydata() for line in figure.axes[1].lines)
    assert list(mean) == [owl["new_null_mean"], 0.04]
    assert list(most) == [owl["new_null_q95"], 0]
    png(figure)


def test_loading_the_feature_analyses_does_not_load_what_is_slow() -> None:
    code = (
        "import sys, subliminal_dagster.science.features.filters, subliminal_dagster.science.features.figures;"
        "print([m for m in ('pandas', 'scipy', 'statsmodels', 'matplotlib', 'dagster') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
