"""Agreement of judges, and compositions of groups: against scipy and sklearn, and by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from subliminal_dagster.science.descriptions.categories import (
    ALL_FEATURES,
    FIRED,
    Agreement,
    agreement,
    categorise_features,
    group_composition,
    judge_failures,
    load_labelled,
)
from subliminal_dagster.science.descriptions.judges import CATEGORIES, Category, load_judge_prompt
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.statistics import benjamini_hochberg

LABELLED = load_labelled()


class Fixed:
    """A judge that says what it is told to, description by description."""

    name = "fixed"

    def __init__(self, categories: Sequence[Category | None]) -> None:
        self.categories = list(categories)

    def categorise(self, descriptions: Sequence[str]) -> list[Category | None]:
        assert len(descriptions) == len(self.categories)
        return self.categories


def judged_right(share: float, seed: int = 0) -> list[Category | None]:
    """The labels, a share of them as they are and the rest drawn at random."""
    rng = np.random.default_rng(seed)
    return [
        label if rng.random() < share else CATEGORIES[rng.integers(len(CATEGORIES))] for label in LABELLED["category"]
    ]


def found_by(categories: Sequence[Category | None]) -> Agreement:
    return agreement(Fixed(categories), LABELLED)


# The labelled descriptions


def test_the_labelled_descriptions_are_many_balanced_and_unlike_the_examples() -> None:
    assert len(LABELLED) >= 120
    assert LABELLED["description"].is_unique
    assert (LABELLED.groupby(["style", "category"]).size().unstack().nunique(axis=1) == 1).all()
    assert set(LABELLED["category"]) == set(CATEGORIES)
    examples = {description.lower() for description, _ in load_judge_prompt().examples}
    assert not examples & set(LABELLED["description"].str.lower())


# Agreement


def test_kappa_is_that_of_sklearn_and_its_interval_that_of_statsmodels() -> None:
    said = judged_right(0.7)
    found = found_by(said)
    assert found.kappa == pytest.approx(cohen_kappa_score(LABELLED["category"], said))
    table = pd.crosstab(LABELLED["category"], pd.Series(said))
    reference = cohens_kappa(table.to_numpy())
    assert (found.low, found.high) == pytest.approx((reference.kappa_low, reference.kappa_upp))
    assert found.low < found.kappa < found.high
    right = LABELLED["category"].to_numpy() == np.array(said)
    assert found.accuracy == pytest.approx(right.mean())
    animals = found.by_category.set_index("category").loc["animals"]
    assert animals["agreed"] == (right & (LABELLED["category"] == "animals")).sum()
    assert animals["precision"] == pytest.approx(animals["agreed"] / said.count("animals"))
    assert animals["recall"] == pytest.approx(animals["agreed"] / (LABELLED["category"] == "animals").sum())
    by_style = found.by_style.set_index("style")
    assert by_style.loc["mixed", "accuracy"] == pytest.approx(right[LABELLED["style"] == "mixed"].mean())
    assert by_style["labelled"].sum() == len(LABELLED)


def test_a_judge_that_agrees_passes_and_one_that_agrees_less_than_asked_for_does_not() -> None:
    assert found_by(list(LABELLED["category"])).kappa == 1
    assert judge_failures(1.0, found_by(list(LABELLED["category"]))) == []
    middling = found_by(judged_right(0.6))
    assert judge_failures(0.4, middling) == []
    (reason,) = judge_failures(0.8, middling)
    assert reason.startswith(f"the judge fixed agrees with the labelled descriptions at kappa {middling.kappa:.2f}")


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_judge_that_always_says_the_same_is_refused_at_any_threshold(category: Category) -> None:
    found = found_by([category] * len(LABELLED))
    assert found.kappa == pytest.approx(0, abs=1e-12)
    assert judge_failures(1e-9, found)


@pytest.mark.parametrize("seed", range(5))
def test_a_judge_at_chance_is_refused_at_any_threshold(seed: int) -> None:
    found = found_by(judged_right(0.0, seed))
    (reason,) = judge_failures(1e-9, found)
    assert "no better than chance" in reason


def test_an_answer_that_was_none_counts_against_the_judge() -> None:
    said: list[Category | None] = list(LABELLED["category"])
    said[:8] = [None] * 8
    found = found_by(said)
    assert found.accuracy == pytest.approx(1 - 8 / len(said))
    assert found.kappa < 1
    assert list(found.answers["judged"][:8]) == ["unreadable"] * 8
    assert found.by_category["labelled"].sum() == len(said)


# Categories of features


def test_features_get_the_category_of_their_description() -> None:
    descriptions = pd.DataFrame({"feature": [7, 2, 9], "description": ["a", "b", "c"], "method": "x"})
    found = categorise_features(descriptions, Fixed(["animals", None, "other"]))
    assert found.to_dict("list") == {
        "feature": [7, 9],
        "description": ["a", "c"],
        "category": ["animals", "other"],
    }


# Composition


def layer(seed: int, features: int = 200) -> tuple[dict[int, Category], set[int], dict[str, set[int]]]:
    """Categories of most features of a layer, those that fire, and what some groups mark among these."""
    rng = np.random.default_rng(seed)
    categories = {
        int(i): CATEGORIES[rng.choice(4, p=[0.2, 0.5, 0.05, 0.25])] for i in range(features) if rng.random() < 0.9
    }
    fired = set(np.flatnonzero(rng.random(features) < 0.6).tolist())
    marked = {group: {i for i in fired if rng.random() < share} for group, share in {"owl": 0.3, "dog": 0.1}.items()}
    return categories, fired, marked | {"cat": set()}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_compositions_are_those_of_a_plain_count(seed: int) -> None:
    categories, fired, marked = layer(seed)
    table = group_composition(categories, marked, fired)
    assert len(table) == 4 * (2 + len(marked))
    fired_known = [i for i in fired if i in categories]
    p_values = []
    for row in table.itertuples():
        members = {ALL_FEATURES: list(categories), FIRED: fired_known}.get(row.group) or [
            i for i in marked.get(row.group, ()) if i in categories
        ]
        inside = [i for i in members if categories[i] == row.category]
        assert (row.features, row.of) == (len(inside), len(members))
        np.testing.assert_equal(row.share, len(inside) / len(members) if members else np.nan)
        assert row.base_share == list(categories.values()).count(row.category) / len(categories)
        assert row.fired_share == sum(categories[i] == row.category for i in fired_known) / len(fired_known)
        if row.group in (ALL_FEATURES, FIRED):
            assert np.isnan(row.p) and np.isnan(row.p_bh)
            continue
        rest = [i for i in fired_known if i not in members]
        rest_inside = sum(categories[i] == row.category for i in rest)
        two_by_two = [[len(inside), len(members) - len(inside)], [rest_inside, len(rest) - rest_inside]]
        assert row.p == pytest.approx(fisher_exact(two_by_two).pvalue if members else 1.0)
        p_values.append(row.p)
    tested = table["p"].notna()
    np.testing.assert_allclose(table.loc[tested, "p_bh"], benjamini_hochberg(p_values))
    for _, part in table.groupby("group", sort=False):
        assert part["features"].sum() == part["of"].iloc[0]


def test_a_group_that_marks_one_category_stands_out_and_one_like_the_rest_does_not() -> None:
    categories: dict[int, Category] = {i: CATEGORIES[i % 4] for i in range(400)}
    animals = [i for i, category in categories.items() if category == "animals"]
    table = group_composition(categories, {"owl": animals[:40], "dog": range(40)}, range(400)).set_index(
        ["group", "category"]
    )
    owl, dog = table.loc["owl"], table.loc["dog"]
    assert owl.loc["animals", "p_bh"] < 1e-10 and owl.loc["animals", "low"] > 1
    assert owl.loc["numbers", "p_bh"] < 1e-3 and owl.loc["numbers", "high"] < 1
    assert (dog["p"] == 1).all() and (dog["low"] < 1).all() and (dog["high"] > 1).all()
    assert (table.loc[FIRED, "share"] == 0.25).all()


def test_a_group_that_marks_all_that_fires_has_nothing_to_be_compared_with() -> None:
    categories, fired, _ = layer(0)
    table = group_composition(categories, {"owl": fired}, fired)
    assert (table.loc[table["group"] == "owl", "p"] == 1).all()


def test_without_groups_there_are_the_base_rates() -> None:
    categories, fired, _ = layer(0)
    table = group_composition(categories, {}, fired)
    assert list(table["group"].unique()) == [ALL_FEATURES, FIRED]


def test_features_of_another_sae_are_refused() -> None:
    with pytest.raises(UserError, match="No feature that fires has a category"):
        group_composition({1: "animals"}, {}, [2, 3])
    with pytest.raises(ValueError, match="owl marks features that fire nowhere, such as 4"):
        group_composition({1: "animals"}, {"owl": [1, 4]}, [1, 2])
