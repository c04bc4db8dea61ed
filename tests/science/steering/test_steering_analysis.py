"""Comparing steering vectors: cosines against chance, features of an autoencoder, a child's shift explained."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.figures import png
from subliminal_dagster.science.steering.analysis import Decomposition, cosines, decompose, explained_shift
from subliminal_dagster.science.steering.figures import cosine_figure, decomposition_figure
from subliminal_dagster.science.steering.vectors import SteeringVector, difference_vector, noise_vector, random_vector


def mean_of(difference: np.ndarray, seed: int) -> SteeringVector:
    zeros = np.zeros_like(difference)
    return difference_vector(
        difference, zeros, np.arange(len(difference)), kind="x", layer=0, position="mean", seed=seed
    )


# Cosines


def test_cosines_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    one = mean_of(rng.normal(0.3, 1, (40, 8)), 1)
    vectors = {"subliminal": one, "random": random_vector(one, 2), "noise": noise_vector(one)}
    vectors["word"] = SteeringVector("word", 0, "word", rng.normal(size=8).astype(np.float32))
    found = cosines(vectors)
    assert len(found) == 12
    for row in found.itertuples():
        a, b = vectors[row.first], vectors[row.second]
        expected = a.vector @ b.vector / (np.linalg.norm(a.vector) * np.linalg.norm(b.vector))
        assert row.cosine == pytest.approx(expected, abs=1e-5)
        flipped, fixed = (a, b) if len(a.flips) else (b, a)
        if not len(flipped.flips):
            assert row.flipped == ""
            assert np.isnan([row.p, row.chance]).all()
            continue
        assert vectors[row.flipped] is flipped
        null = [abs(f @ fixed.vector) / np.linalg.norm(f) / np.linalg.norm(fixed.vector) for f in flipped.flips]
        assert row.p == pytest.approx((1 + sum(n >= abs(expected) for n in null)) / (1 + len(null)))
        assert row.chance == pytest.approx(np.quantile(null, 0.95), rel=1e-4)


def test_a_common_direction_is_found_and_a_common_covariance_is_not_taken_for_one() -> None:
    axes = np.diag([10.0, 3.0, *[0.3] * 30])
    p_related, p_unrelated, cosines_unrelated = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        first, second = rng.normal(size=(2, 100, 32)) @ axes
        unrelated = cosines({"a": mean_of(first, seed), "b": mean_of(second, seed)})
        p_unrelated += unrelated["p"].tolist()
        cosines_unrelated += unrelated["cosine"].abs().tolist()
        shift = np.zeros(32)
        shift[5] = 8
        p_related += cosines({"a": mean_of(first + shift, seed), "b": mean_of(second + shift, seed)})["p"].tolist()
    # Along the covariance's main axis two noise vectors look alike, far beyond directions drawn from all alike.
    assert np.median(cosines_unrelated) > 0.7 > 3.5 / np.sqrt(32)
    assert np.mean(np.array(p_unrelated) < 0.05) <= 0.12
    assert np.mean(np.array(p_related) < 0.05) >= 0.9


def test_vectors_that_cannot_be_compared_are_refused() -> None:
    one = SteeringVector("word", 0, "word", np.ones(3, dtype=np.float32))
    with pytest.raises(UserError, match="different widths"):
        cosines({"a": one, "b": SteeringVector("word", 0, "word", np.ones(4, dtype=np.float32))})
    with pytest.raises(UserError, match="'b' is zero"):
        cosines({"a": one, "b": SteeringVector("word", 0, "word", np.zeros(3, dtype=np.float32))})


# Features


RNG = np.random.default_rng(3)
WEIGHTS, BIASES = RNG.normal(size=(12, 40)), RNG.normal(-1.0, 1, 40)
FIRST, SECOND = RNG.normal(size=(2, 12)).astype(np.float32) * np.array([[9.0], [1.0]], dtype=np.float32)
CATEGORIES = {number: ("animals", "numbers", "other")[number % 3] for number in range(30)}


def encode(vectors: np.ndarray) -> sparse.csr_array:
    """A rectified linear encoder."""
    return sparse.csr_array(np.maximum(vectors @ WEIGHTS + BIASES, 0).astype(np.float32))


@pytest.fixture(scope="module")
def decomposition() -> Decomposition:
    return decompose(FIRST, SECOND, encode, CATEGORIES, {0: "the first"})


def test_the_decomposition_is_that_of_a_plain_loop(decomposition: Decomposition) -> None:
    one, other = (np.maximum(vector @ WEIGHTS + BIASES, 0) for vector in (FIRST, SECOND))
    assert decomposition.facts == {
        "l0_first": int((one > 0).sum()),
        "l0_second": int((other > 0).sum()),
        "l0_zero": int((BIASES > 0).sum()),
    }
    one, other = one / np.sqrt((one**2).sum()), other / np.sqrt((other**2).sum())
    features = decomposition.features.set_index("feature")
    counts: dict[str, dict[str, int]] = {}
    differences: dict[str, list[float]] = {}
    for number in range(40):
        if one[number] == 0 and other[number] == 0:
            assert number not in features.index
            continue
        active_in = "second only" if one[number] == 0 else "first only" if other[number] == 0 else "both"
        row = features.loc[number]
        assert (row["active_in"], row["category"]) == (active_in, CATEGORIES.get(number, "unlabelled"))
        assert row["first"] == pytest.approx(one[number], abs=1e-6)
        assert row["difference"] == pytest.approx(one[number] - other[number], abs=1e-6)
        for category in (row["category"], "total"):
            counts.setdefault(category, {"both": 0, "first only": 0, "second only": 0})[active_in] += 1
            differences.setdefault(category, []).append(one[number] - other[number])
    table = decomposition.table.set_index("category")
    assert set(table.index) == set(counts) == {"animals", "numbers", "other", "unlabelled", "total"}
    for category, expected in counts.items():
        row = table.loc[category]
        assert [row["both"], row["first_only"], row["second_only"]] == list(expected.values())
        assert row["mean_difference"] == pytest.approx(np.mean(differences[category]), abs=1e-6)
        assert abs(row["example_difference"]) == pytest.approx(np.abs(differences[category]).max(), abs=1e-6)
        assert features.loc[row["example"], "difference"] == row["example_difference"]
    assert decomposition.features["description"].tolist().count("the first") == int(0 in features.index)


def test_a_vector_without_any_feature_is_told_and_not_divided_by() -> None:
    found = decompose(np.array([1.0, -1.0]), np.array([-1.0, -1.0]), lambda v: sparse.csr_array(np.maximum(v, 0)))
    assert found.facts == {"l0_first": 1, "l0_second": 0, "l0_zero": 0}
    assert found.features[["feature", "first", "second", "active_in"]].to_numpy().tolist() == [
        [0, 1.0, 0.0, "first only"]
    ]
    assert found.table["category"].tolist() == ["unlabelled", "total"]


# A child's shift


def test_the_explained_share_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    directions = {"subliminal": rng.normal(size=10), "direct": rng.normal(size=10)}
    shift = rng.normal(size=(30, 10)) + directions["direct"]
    found = explained_shift(shift.astype(np.float32), directions).set_index("direction")
    for name, columns in (
        ("subliminal", [directions["subliminal"]]),
        ("direct", [directions["direct"]]),
        ("all together", list(directions.values())),
    ):
        basis = np.array(columns).T
        residual = shift.T - basis @ np.linalg.lstsq(basis, shift.T, rcond=None)[0]
        assert found.loc[name, "explained"] == pytest.approx(1 - (residual**2).sum() / (shift**2).sum(), abs=1e-5)
        mean = shift.mean(axis=0)
        left = mean - basis @ np.linalg.lstsq(basis, mean, rcond=None)[0]
        assert found.loc[name, "explained_mean"] == pytest.approx(1 - (left @ left) / (mean @ mean), abs=1e-5)
        assert found.loc[name, "chance"] == len(columns) / 10
    cosine = [row @ directions["direct"] / np.linalg.norm(row) / np.linalg.norm(directions["direct"]) for row in shift]
    assert found.loc["direct", "cosine"] == pytest.approx(np.mean(cosine), abs=1e-5)
    interval = stats.t.interval(0.95, 29, np.mean(cosine), stats.sem(cosine))
    np.testing.assert_allclose(found.loc["direct", ["low", "high"]].astype(float), interval, atol=1e-5)
    assert np.isnan(found.loc["all together", "cosine"])


@given(st.integers(0, 1000), st.floats(0.1, 50))
def test_all_together_explain_no_less_than_any_and_orthogonal_ones_add_up(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 6))
    b = b - (a @ b) / (a @ a) * a
    shift = rng.normal(size=(5, 6))
    found = explained_shift(shift, {"a": a, "b": scale * b}).set_index("direction")["explained"]
    assert found["all together"] == pytest.approx(found["a"] + found["b"], abs=1e-9)
    crooked = explained_shift(shift, {"a": a, "b": scale * b + a}).set_index("direction")["explained"]
    assert crooked["all together"] == pytest.approx(found["all together"], abs=1e-9)
    assert crooked["all together"] >= max(crooked["a"], crooked["b"]) - 1e-12


def test_the_chance_share_is_what_random_directions_explain() -> None:
    rng = np.random.default_rng(0)
    shift = rng.normal(size=(8, 50)) @ np.diag(np.linspace(0, 3, 50))
    shares = [explained_shift(shift, {"r": rng.normal(size=50)})["explained"].item() for _ in range(400)]
    assert np.mean(shares) == pytest.approx(explained_shift(shift, {"r": np.ones(50)})["chance"].item(), rel=0.15)


def test_shifts_that_are_none_are_left_out_or_refused() -> None:
    shift = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    found = explained_shift(shift, {"d": np.array([3.0, 0.0])}).iloc[0]
    assert (found["cosine"], found["low"], found["high"], found["explained"]) == (1, 1, 1, 1)
    with pytest.raises(UserError, match="no shift to explain"):
        explained_shift(np.zeros((5, 2)), {"d": np.ones(2)})
    with pytest.raises(UserError, match="direction 'd' is zero"):
        explained_shift(shift, {"d": np.zeros(2)})


# Pictures


def test_figures_show_the_tables(decomposition: Decomposition) -> None:
    rng = np.random.default_rng(0)
    one = mean_of(rng.normal(0.5, 1, (40, 8)), 1)
    table = cosines(
        {"subliminal": one, "twin": mean_of(rng.normal(0.5, 1, (40, 8)), 2), "random": random_vector(one, 2)}
    )
    axes = cosine_figure(table, "layer 9").axes[0]
    shown = [text.get_text() for text in axes.texts]
    expected = []
    for first, second in pd.MultiIndex.from_product([["subliminal", "twin", "random"]] * 2):
        if first != second:
            row = table[(table["first"] == first) & (table["second"] == second)].iloc[0]
            expected.append(f"{row['cosine']:.2f}{'*' if row['p'] < 0.05 else ''}")
    assert shown == expected
    assert shown[0].endswith("*")
    figure = decomposition_figure(decomposition, "subliminal", "direct", "owl")
    drawn = [[bar.get_width() for bar in container] for container in figure.axes[0].containers if len(container) > 1]
    by_category = decomposition.table[decomposition.table["category"] != "total"]
    assert drawn == by_category[["both", "first_only", "second_only"]].to_numpy().T.tolist()
    assert png(figure).startswith(b"\x89PNG")
