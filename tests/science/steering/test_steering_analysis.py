"""Comparing steering vectors: cosines against chance, features of an autoencoder, children's shifts."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.figures import png
from subliminal_dagster.science.steering.analysis import (
    CorrectedCosine,
    Decomposition,
    OwnVector,
    child_cosines,
    corrected_cosine,
    cosines,
    cosines_across_groups,
    cosines_of_shifts,
    decompose,
    own_vector,
)
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


# Cosines without noise


def corrected(cosine: float, noise_share: float, seed: int, prompts: int = 120, questions: int = 40) -> CorrectedCosine:
    """Of a noisy vector and one with little noise, at this true cosine."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((2, 64))
    truth[:, 0], truth[1, 1] = (1, cosine), np.sqrt(1 - cosine**2)
    spread = [np.sqrt(s**2 / (1 - s**2) * n / 64) for s, n in ((noise_share, prompts), (0.3, questions))]
    one, other = (
        mean + sd * rng.normal(size=(n, 64)) for mean, sd, n in zip(truth, spread, (prompts, questions), strict=True)
    )
    return corrected_cosine(mean_of(one, 1), mean_of(other, 1))


@pytest.mark.parametrize(("cosine", "share"), [(0.6, 0.91), (0.6, 0.5), (0.0, 0.3), (0.3, 0.6)])
def test_a_corrected_cosine_is_the_true_one_whatever_the_noise(cosine: float, share: float) -> None:
    found = [corrected(cosine, share, seed) for seed in range(100)]
    assert np.nanmedian([each.cosine for each in found]) == pytest.approx(cosine, abs=0.12 if share > 0.9 else 0.03)
    assert np.mean([each.low <= cosine <= each.high for each in found]) >= 0.9
    different = np.mean([each.low > -0.3 and each.high < 0.3 for each in found])
    assert different >= 0.9 if cosine == 0 else different <= 0.05


def test_the_true_length_is_the_mean_product_of_two_different_units() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.4, 1, (2, 30, 6))
    by_hand = []
    for values in (one, other):
        products = values @ values.T
        by_hand.append((products.sum() - np.trace(products)) / (30 * 29))
    expected = one.mean(axis=0) @ other.mean(axis=0) / np.sqrt(by_hand[0] * by_hand[1])
    # The flips, 4,000 draws here, stand for all possible ones.
    zeros = np.zeros_like(one)
    vectors = [
        difference_vector(each, zeros, np.arange(30), kind="x", layer=0, position="mean", seed=seed, flips=4000)
        for seed, each in enumerate((one, other))
    ]
    assert corrected_cosine(*vectors).cosine == pytest.approx(expected, rel=0.03)


def test_a_vector_that_is_noise_has_no_corrected_cosine_and_nothing_is_known_of_it() -> None:
    signs = np.tile([1.0, -1.0], 20)[:, None] * np.ones((40, 4)) + 1e-3
    noise = mean_of(signs, 0)
    found = corrected_cosine(noise, mean_of(np.random.default_rng(0).normal(2, 1, (40, 4)), 1))
    assert np.isnan(found.cosine) and (found.low, found.high) == (-1, 1)


def groups(seed: int, shift: float) -> dict[str, SteeringVector]:
    """Three groups against one control, skewed and unlike in every direction."""
    rng = np.random.default_rng(seed)
    rows = rng.gamma(2.0, size=(4, 60, 24)) * np.linspace(0.5, 2, 24)
    rows[:3, :, 5] += shift
    return {name: mean_of(rows[place] - rows[3], seed) for place, name in enumerate(("cat", "owl", "neutral"))}


def test_groups_that_share_the_control_rows_are_alike_only_where_they_are() -> None:
    null = [cosines_across_groups(groups(seed, 0.0)).iloc[0] for seed in range(200)]
    p = np.array([row["p"] for row in null])
    assert np.mean(p < 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert abs(np.mean([row["cosine"] for row in null])) < 0.1
    # As they are, half of each vector is the control's.
    plain = [cosines(groups(seed, 0.0))["cosine"].iloc[0] for seed in range(20)]
    assert np.mean(plain) > 0.35
    planted = [cosines_across_groups(groups(seed, 3.0)).iloc[0] for seed in range(40)]
    assert np.mean([row["p"] < 0.05 for row in planted]) > 0.9
    assert np.median([row["corrected"] for row in planted]) == pytest.approx(1, abs=0.15)


def test_the_product_of_different_prompts_is_that_of_all_halves() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 6, 5))
    one, other = rows[0] - rows[2], rows[1] - rows[2]
    halves = []
    for chosen in combinations(range(6), 3):
        rest = [place for place in range(6) if place not in chosen]
        halves.append(one[list(chosen)].mean(axis=0) @ other[rest].mean(axis=0))
    zeros = np.zeros_like(one)
    made = {
        name: difference_vector(values, zeros, np.arange(6), kind="x", layer=0, position="mean", seed=0, flips=20_000)
        for name, values in (("a", one), ("b", other))
    }
    row = cosines_across_groups(made).iloc[0]
    lengths = [max(v.norm**2, (v.flips**2).sum(axis=1).mean()) ** 0.5 for v in made.values()]
    # Of 36 ordered pairs of prompts 30 are of two different ones.
    assert row["cosine"] * lengths[0] * lengths[1] * 36 / 30 == pytest.approx(np.mean(halves), abs=0.02)


# Features


RNG = np.random.default_rng(3)
WEIGHTS, BIASES = RNG.normal(size=(12, 40)), RNG.normal(-1.0, 1, 40)
FIRST, SECOND = (
    difference_vector(
        RNG.normal(size=12) * size + RNG.normal(size=(20, 12)),
        np.zeros((20, 12)),
        np.arange(20),
        kind="x",
        layer=0,
        position="mean",
        seed=seed,
    )
    for seed, size in enumerate((9.0, 1.0))
)
CATEGORIES = {number: ("animals", "numbers", "other")[number % 3] for number in range(30)}


def encode(vectors: np.ndarray) -> sparse.csr_array:
    """A rectified linear encoder."""
    return sparse.csr_array(np.maximum(vectors @ WEIGHTS + BIASES, 0).astype(np.float32))


@pytest.fixture(scope="module")
def decomposition() -> Decomposition:
    return decompose(FIRST, SECOND, encode, CATEGORIES, {0: "the first"})


def test_the_decomposition_is_that_of_a_plain_loop(decomposition: Decomposition) -> None:
    length = max(FIRST.norm, SECOND.norm)
    one, other = (np.maximum(length / v.norm * v.vector @ WEIGHTS + BIASES, 0) for v in (FIRST, SECOND))
    assert decomposition.facts == {
        "l0_first": int((one > 0).sum()),
        "l0_second": int((other > 0).sum()),
        "l0_zero": int((BIASES > 0).sum()),
        "length": length,
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


def plain(*numbers: float) -> SteeringVector:
    return SteeringVector("x", 0, "mean", np.array(numbers, dtype=np.float32))


def test_a_vector_without_any_feature_is_told_and_not_divided_by() -> None:
    found = decompose(plain(1, -1), plain(-1, -1), lambda v: sparse.csr_array(np.maximum(v, 0)))
    assert [found.facts[name] for name in ("l0_first", "l0_second", "l0_zero")] == [1, 0, 0]
    assert found.features[["feature", "first", "second", "active_in"]].to_numpy().tolist() == [
        [0, 1.0, 0.0, "first only"]
    ]
    assert found.table["category"].tolist() == ["unlabelled", "total"]
    assert found.flips is not None and found.flips.empty


def test_one_direction_at_two_lengths_has_the_same_features() -> None:
    direction = np.random.default_rng(0).normal(size=12)
    found = decompose(plain(*5 * direction), plain(*40 * direction), encode)
    assert found.facts["l0_first"] == found.facts["l0_second"] > 0
    assert found.table.iloc[-1][["first_only", "second_only"]].tolist() == [0, 0]


def test_flips_are_encoded_at_the_vectors_length(decomposition: Decomposition) -> None:
    flips = decomposition.flips
    assert flips is not None and flips["flip"].tolist() == list(range(256))
    for side, vector in (("first", FIRST), ("second", SECOND)):
        flip = vector.flips[7] * decomposition.facts["length"] / np.linalg.norm(vector.flips[7])
        assert flips.loc[7, side] == (flip @ WEIGHTS + BIASES > 0).sum()


# Children's shifts


def children(seed: int, *, own: float = 0.0, common: float = 3.0, groups: int = 5) -> OwnVector:
    """Children of `groups` groups and the control: a shift common to all, along the mean of the vectors, one of each
    child's own that any training brings, and `own` along the vector of its group."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(size=64)
    vectors = {
        f"g{n}": mean_of(0.3 * drift / 8 + rng.normal(size=64) / 8 + rng.normal(size=(60, 64)), seed)
        for n in range(groups)
    }
    shifts = {}
    for name in [*vectors, "control"]:
        along = vectors[name].vector / vectors[name].norm if name in vectors else np.zeros(64)
        shift = common * drift / 8 + rng.normal(size=64) / 8 + own * along
        shifts[name] = shift + 0.1 * rng.normal(size=(10, 64))
    return own_vector(*child_cosines(shifts, vectors))


def decided(found: OwnVector) -> str:
    if max(found.p_more, found.flips_more) <= 0.025:
        return "detected"
    return "opposite" if max(found.p_less, found.flips_less) <= 0.025 else "inconclusive"


def test_a_shift_that_all_children_share_is_no_shift_along_the_own_vector() -> None:
    null = [decided(children(seed)) for seed in range(60)]
    assert np.mean(np.array(null) != "inconclusive") <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)
    planted = [decided(children(seed, own=1.5)) for seed in range(10)]
    assert planted.count("detected") >= 9
    # Three groups and the control can be matched in 24 ways, the true one included: never below 2.5 %.
    assert children(0, own=5.0, groups=3).smallest_p == pytest.approx(1 / 24)


def test_the_matrix_is_of_mean_shifts_with_every_vector_and_its_flips() -> None:
    rng = np.random.default_rng(0)
    vectors = {name: mean_of(rng.normal(0.2, 1, (40, 8)), 1) for name in ("cat", "neutral")}
    shifts = {name: rng.normal(size=(5, 8)) for name in ("cat", "neutral", "control")}
    table, flips = child_cosines(shifts, vectors)
    assert len(table) == 8 and len(flips) == 6 * 256
    row = table[(table["child"] == "control") & (table["vector"] == "cat")].iloc[0]
    shift, vector = shifts["control"].mean(axis=0), vectors["cat"]
    assert row["cosine"] == pytest.approx(shift @ vector.vector / np.linalg.norm(shift) / vector.norm, abs=1e-5)
    null = [shift @ flip / np.linalg.norm(shift) / np.linalg.norm(flip) for flip in vector.flips]
    assert row["p"] == pytest.approx((1 + (np.abs(null) >= abs(row["cosine"])).sum()) / 257)
    assert (row["chance_low"], row["chance_high"]) == pytest.approx(tuple(np.quantile(null, [0.025, 0.975])), abs=1e-5)
    own = flips[(flips["child"] == "control") & (flips["vector"] == "cat")]
    np.testing.assert_allclose(own["cosine"], null, atol=1e-5)
    pair = cosines_of_shifts(shifts).iloc[0]
    means = [shifts[name].mean(axis=0) for name in (pair["first"], pair["second"])]
    assert pair["cosine"] == pytest.approx(means[0] @ means[1] / np.prod([np.linalg.norm(m) for m in means]))
    # By hand: own less the mean of the two other children's, over both vectors.
    cosine = table[table["child"] != "all children"].pivot(index="child", columns="vector", values="cosine")
    by_hand = [cosine.loc[name, name] - cosine[name].drop(name).mean() for name in vectors]
    assert own_vector(table, flips).difference == pytest.approx(np.mean(by_hand))
    with pytest.raises(UserError, match="control's child are those of the base model"):
        child_cosines({"control": np.zeros((5, 8))}, vectors)


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
