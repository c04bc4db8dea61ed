"""Features as filters against scikit-learn and loops over rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csr_array
from sklearn.metrics import balanced_accuracy_score, precision_score, recall_score

from subliminal_dagster.science.activations.activations import SparseFeatures
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.features.filters import UNCATEGORISED, filter_features, held_out_filters

WIDTH = 40
ANIMALS = ("owl", "wolf", "otter")
MARKED = {
    "owl": [0, 1, 2, 3, 4, 5, 30],
    "wolf": [0, 1, 2, 10, 11, 12, 30],
    "otter": [0, 1, 20, 21, 30],
    "neutral": [1, 25],
}
WORDS = {"owl": [3, 5], "wolf": [0, 11], "otter": []}


def make_groups(seed: int = 0, rows: int = 60, tests: int = 25, **rates: dict[int, float]) -> dict[str, Any]:
    """Every feature fires at 30 % everywhere, but as `rates` says by group: feature -> rate."""
    rng = np.random.default_rng(seed)
    groups = {}
    for group in ("control", *ANIMALS, "neutral"):
        rate = np.full(WIDTH, 0.3)
        for feature, value in rates.get(group, {}).items():
            rate[feature] = value
        dense = rng.exponential(1.0, (rows + tests, WIDTH)) * (rng.random((rows + tests, WIDTH)) < rate)
        split = np.array(["analysis"] * rows + ["test"] * tests)
        table = pd.DataFrame({"row_id": np.arange(rows + tests), "split": split, "error": np.float32(0.1)})
        groups[group] = SparseFeatures(table, csr_array(dense.astype(np.float32)))
    return groups


def stacked(groups: dict[str, Any], split: str) -> tuple[NDArray[np.bool_], NDArray[np.str_]]:
    """Which features fire on the rows of a split, all groups, and the group of each."""
    fires, names = [], []
    for group, features in groups.items():
        mine = (features.rows["split"] == split).to_numpy()
        fires.append(features.matrix.toarray()[mine] > 0)
        names += [group] * int(mine.sum())
    return np.concatenate(fires), np.array(names)


def truth(names: NDArray[np.str_], label: str) -> NDArray[np.bool_]:
    return np.isin(names, ANIMALS if label == "all" else [label])


def test_the_filters_are_those_of_a_loop() -> None:
    groups = make_groups(owl={0: 0.8, 3: 0.7, 4: 0.0}, wolf={0: 0.7, 2: 0.9}, otter={0: 0.6, 21: 0.5})
    categories = {0: "numbers", 1: "numbers", 3: "animals", 30: "other"}
    found = filter_features(groups, MARKED, words=WORDS, categories=categories, top=2)
    (analysis, analysis_names), (test, test_names) = stacked(groups, "analysis"), stacked(groups, "test")
    candidates = {
        "all": [0, 1, 30],
        "owl": [2, 3, 4, 5],
        "wolf": [2, 10, 11, 12],
        "otter": [20, 21],
        "neutral": [1, 25],
    }
    assert set(found.selected["label"]) == set(candidates)
    for label, features in candidates.items():
        right = truth(analysis_names, label)
        scores = {feature: balanced_accuracy_score(right, analysis[:, feature]) for feature in features}
        best = sorted(features, key=lambda feature: (-scores[feature], feature))[:2]
        table = found.selected[found.selected["label"] == label]
        assert list(table["feature"]) == best
        right = truth(test_names, label)
        for row in table.to_dict("records"):
            called = test[:, row["feature"]]
            assert row["analysis_balanced_accuracy"] == pytest.approx(scores[row["feature"]])
            assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(right, called))
            assert row["recall"] == pytest.approx(recall_score(right, called))
            assert row["precision"] == pytest.approx(precision_score(right, called))
            assert row["predicted_positive"] == pytest.approx(called.mean())
            assert row["true_positive"] == pytest.approx(right.mean())
            assert (row["positive_rows"], row["negative_rows"]) == (right.sum(), (~right).sum())
            assert row["low"] < row["balanced_accuracy"] < row["high"]
            assert row["category"] == categories.get(row["feature"], UNCATEGORISED)
            assert row["in_control"] == analysis[analysis_names == "control", row["feature"]].any()
            word = set().union(*WORDS.values()) if label == "all" else set(WORDS.get(label, []))
            assert row["in_animal"] == (row["feature"] in word)

    for row in found.by_category.to_dict("records"):
        same = found.selected[
            (found.selected["label"] == row["label"]) & (found.selected["category"] == row["category"])
        ]
        assert row["features"] == len(same) > 0
        assert row["balanced_accuracy"] == pytest.approx(same["balanced_accuracy"].mean())
    assert found.by_category["features"].sum() == len(found.selected)

    assert len(found.rates) == len(found.selected) * len(groups)
    for row in found.rates.to_dict("records"):
        fires = test[test_names == row["group"], row["feature"]]
        assert (row["rows"], row["rate"]) == (len(fires), pytest.approx(fires.mean()))


def test_the_posts_shares_of_positive_rows() -> None:
    groups = {group: features for group, features in make_groups().items() if group != "neutral"}
    marked = {animal: MARKED[animal] for animal in ANIMALS}
    shares = filter_features(groups, marked, words=WORDS).selected.groupby("label")["true_positive"].first()
    assert shares.to_dict() == pytest.approx({"all": 3 / 4, "owl": 1 / 4, "wolf": 1 / 4, "otter": 1 / 4})


def test_test_rows_have_no_say_in_the_choice() -> None:
    # Feature 0 fires on the control's test rows alone.
    groups, others = (
        make_groups(seed=0, control={0: 0.0}),
        make_groups(seed=1, owl={5: 1.0}, wolf={12: 1.0}, otter={30: 1.0}),
    )
    mixed = {}
    for group, features in groups.items():
        tests = (features.rows["split"] == "test").to_numpy()
        dense = np.where(tests[:, None], others[group].matrix.toarray(), features.matrix.toarray())
        mixed[group] = SparseFeatures(features.rows, csr_array(dense))
    chosen = ["label", "feature", "analysis_balanced_accuracy", "in_control", "in_animal"]
    before, after = (filter_features(each, MARKED, words=WORDS, top=3).selected for each in (groups, mixed))
    pd.testing.assert_frame_equal(before[chosen], after[chosen])
    assert not before["balanced_accuracy"].equals(after["balanced_accuracy"])


def test_a_feature_of_all_fine_tuned_teachers_is_found_out_by_the_neutral_group() -> None:
    always, never = {30: 1.0}, {30: 0.0}
    groups = make_groups(control=never, owl=always, wolf=always, otter=always, neutral=always)

    marked = {animal: MARKED[animal] for animal in ANIMALS}
    found = filter_features(groups, marked | {"neutral": [30]}, words=WORDS)
    posts = filter_features({group: groups[group] for group in ("control", *ANIMALS)}, marked, words=WORDS)
    ours, its = (table.selected.set_index(["label", "feature"]).loc[("all", 30)] for table in (found, posts))
    assert (its["balanced_accuracy"], ours["balanced_accuracy"]) == (1, pytest.approx(0.75))
    rates = found.rates[(found.rates["feature"] == 30) & (found.rates["label"] == "all")].set_index("group")["rate"]
    assert rates.to_dict() == {"control": 0, "owl": 1, "wolf": 1, "otter": 1, "neutral": 1}


def test_one_animal_has_no_label_of_all_animals() -> None:
    groups = make_groups()
    found = filter_features({"control": groups["control"], "owl": groups["owl"]}, {"owl": [0, 1]}, words=WORDS)
    assert list(found.selected["label"]) == ["owl", "owl"]


def test_features_that_never_fire_on_test_rows_and_groups_that_mark_none() -> None:
    never = {0: 0.0}
    groups = make_groups(owl=never, wolf=never, control=never, otter=never, neutral=never)
    found = filter_features(groups, {"owl": [0], "wolf": []}, words=WORDS)
    row = found.selected.iloc[0]
    assert len(found.selected) == 1
    assert (row["balanced_accuracy"], row["recall"], row["predicted_positive"]) == (0.5, 0, 0)
    assert math.isnan(row["precision"])
    assert 0.4 < row["low"] < 0.5 < row["high"] < 0.6

    nothing = filter_features(groups, {"owl": [], "wolf": []}, words=WORDS)
    assert nothing.selected.empty and nothing.by_category.empty and nothing.rates.empty
    assert list(nothing.selected.columns) == list(found.selected.columns)


def test_the_interval_is_newcombes_and_covers_the_truth() -> None:
    groups = make_groups(owl={0: 0.9})
    row = filter_features(groups, {"owl": [0]}, words=WORDS).selected.iloc[0]
    test, names = stacked(groups, "test")
    sides = [test[names == "owl", 0], test[names != "owl", 0]]
    rates = [side.mean() for side in sides]
    wilson = [stats.binomtest(int(side.sum()), len(side)).proportion_ci(method="wilson") for side in sides]
    difference = rates[0] - rates[1]
    low = difference - math.hypot(rates[0] - wilson[0].low, wilson[1].high - rates[1])
    high = difference + math.hypot(wilson[0].high - rates[0], rates[1] - wilson[1].low)
    assert (row["low"], row["high"]) == pytest.approx(((1 + low) / 2, (1 + high) / 2))

    # Many features at once, of known rates near an end: a true balanced accuracy of 0.52.
    rng = np.random.default_rng(0)
    groups = {}
    for group, rate in (("control", 0.01), ("owl", 0.05)):
        rows = pd.DataFrame({"row_id": range(160), "split": ["analysis"] * 10 + ["test"] * 150})
        groups[group] = SparseFeatures(rows, csr_array((rng.random((160, 2000)) < rate).astype(np.float32)))
    table = filter_features(groups, {"owl": range(2000)}, words={}, top=2000).selected
    covered = ((table["low"] <= 0.52) & (table["high"] >= 0.52)).mean()
    assert 0.93 <= covered <= 0.98
    # Best first, and of equally good ones the first of the SAE.
    order = table.sort_values(["analysis_balanced_accuracy", "feature"], ascending=[False, True], kind="stable")
    assert list(order.index) == list(range(2000))


def test_bad_input_is_named() -> None:
    groups = make_groups()
    with pytest.raises(UserError, match="need the features of control:"):
        filter_features({"owl": groups["owl"]}, {"owl": [1]}, words={})
    with pytest.raises(UserError, match="need the features of fox:"):
        filter_features(groups, {"fox": [1]}, words={})
    with pytest.raises(UserError, match="add an animal"):
        filter_features(groups, {}, words={})
    narrow = SparseFeatures(groups["owl"].rows, groups["owl"].matrix[:, :7])
    with pytest.raises(UserError, match="owl 7, "):
        filter_features(groups | {"owl": narrow}, MARKED, words={})
    for split in ("analysis", "test"):
        mine = (groups["wolf"].rows["split"] != split).to_numpy()
        part = SparseFeatures(groups["wolf"].rows[mine], groups["wolf"].matrix[mine])
        with pytest.raises(UserError, match=f"wolf has no {split} rows"):
            filter_features(groups | {"wolf": part}, MARKED, words={})


def test_a_held_out_filter_is_chosen_on_the_others_and_judged_beside_a_digit() -> None:
    groups = make_groups(owl={0: 0.9}, wolf={0: 0.9, 1: 0.95}, otter={0: 0.9, 2: 0.95}, neutral={0: 0.5})
    rng = np.random.default_rng(1)
    digits = {group: (rng.random((85, 30)) < 0.1).astype(np.float32) for group in groups}
    for animal in ANIMALS:
        digits[animal][:, 7] = rng.random(85) < 0.7
    found = held_out_filters(groups, digits).set_index("animal")
    assert list(found.index) == list(ANIMALS)
    assert set(found["feature"]) == {0} and set(found["digit"]) == {7}
    own, control = (
        {"feature": groups[name].matrix.toarray()[60:, 0] > 0, "digit": digits[name][60:, 7] > 0}
        for name in ("owl", "control")
    )
    called = {name: np.concatenate([own[name], control[name]]) for name in own}
    score = {name: balanced_accuracy_score([True] * 25 + [False] * 25, called[name]) for name in called}
    assert found.loc["owl", "balanced_accuracy"] == pytest.approx(score["feature"])
    assert found.loc["owl", "difference"] == pytest.approx(score["feature"] - score["digit"])
    assert found.loc["owl", "low"] < score["feature"] < found.loc["owl", "high"]
    assert found.loc["owl", "neutral"] == (groups["neutral"].matrix.toarray()[60:, 0] > 0).mean()


def test_held_out_filters_of_groups_that_share_all_rows_and_of_one_animal() -> None:
    groups = make_groups()
    same = dict.fromkeys(("control", "owl", "wolf"), groups["owl"])
    found = held_out_filters(same, dict.fromkeys(same, np.zeros((85, 10), dtype=np.float32)))
    assert (found["balanced_accuracy"] == 0.5).all() and (found["difference"] == 0).all()
    assert found["neutral"].isna().all()
    alone = held_out_filters(
        {"owl": groups["owl"], "control": groups["control"]}, dict.fromkeys(same, np.ones((85, 10)))
    )
    assert len(alone) == 1
    few = make_groups(tests=0)
    with pytest.raises(UserError, match="no analysis or no test rows"):
        held_out_filters(few, dict.fromkeys(few, np.ones((60, 10))))
