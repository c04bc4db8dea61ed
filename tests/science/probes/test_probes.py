"""Probes against scikit-learn, a plain PyTorch loop and a naive bootstrap; the controls; test rows decide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.linear_model import LogisticRegression

from subliminal_dagster.science.activations.activations import Activations, collect
from subliminal_dagster.science.activations.random_reader import random_reader
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import load_tokenizer
from subliminal_dagster.science.probes.figures import roc_figure, variants_figure
from subliminal_dagster.science.probes.probes import (
    ACTIVATIONS,
    ADDED,
    BOTH,
    CANONICAL,
    DIGITS,
    MACRO,
    RANDOM,
    READERS,
    SHUFFLED,
    SURFACE,
    Features,
    ProbeResult,
    beyond,
    concatenate,
    evaluate_probes,
    halves,
    measures,
    probe_many,
    probe_pair,
    shuffled_labels,
)
from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.probes import KINDS, ProbeSettings

SETTINGS = ProbeSettings(permutations=20)
SEED = 5


def some_rows(ids: np.ndarray) -> pd.DataFrame:
    split = np.where(ids % 5 == 0, "test", "analysis")
    return pd.DataFrame({"row_id": ids, "split": split, "text": "1, 2", "position": 3})


def some_features(
    shift: float, *, groups: str = "ab", n: int = 120, width: int = 12, seed: int = 0
) -> dict[str, Features]:
    """Normal values, group i shifted along dimension i, all groups with answers to the same prompts."""
    rng = np.random.default_rng(seed)
    features = {}
    for place, name in enumerate(groups):
        values = rng.normal(size=(n, width)).astype(np.float32)
        values[:, place] += shift
        features[name] = (some_rows(np.arange(n)), values)
    return features


def value(
    result: ProbeResult, metric: str, *, variant: str = ACTIVATIONS, probe: str = "linear", of: str = MACRO
) -> float:
    return float(row(result, metric, variant=variant, probe=probe, of=of)["value"])


def row(result: ProbeResult, metric: str, *, variant: str, probe: str, of: str = MACRO) -> pd.Series:
    keys = {"variant": variant, "probe": probe, "class": of, "metric": metric}
    found = result.metrics
    for column, wanted in keys.items():
        found = found[found[column] == wanted]
    assert len(found) == 1, keys
    return found.iloc[0]


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_measures_are_those_of_scikit_learn(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=30)])
    # Rounded, so that there are ties.
    probabilities = rng.dirichlet(np.ones(classes), len(labels)).round(1)
    weights = np.stack([np.ones(len(labels)), rng.integers(1, 4, len(labels))]).astype(float)
    found = measures(labels, probabilities, weights)
    predicted = probabilities.argmax(axis=1)
    for draw, weight in enumerate(weights):
        assert found["accuracy"][draw] == pytest.approx(
            reference.accuracy_score(labels, predicted, sample_weight=weight)
        )
        expected = reference.precision_recall_fscore_support(
            labels, predicted, labels=range(classes), sample_weight=weight, zero_division=0
        )
        for name, scores in zip(("precision", "recall", "f1"), expected[:3], strict=True):
            np.testing.assert_allclose(found[name][draw], scores, atol=1e-12)
        for c in range(classes):
            area = reference.roc_auc_score(labels == c, probabilities[:, c], sample_weight=weight)
            assert found["roc_auc"][draw, c] == pytest.approx(area)


@pytest.mark.parametrize("groups", ["ab", "abcd"])
def test_reported_values_are_those_of_the_predictions(groups: str) -> None:
    result = evaluate_probes(some_features(1.0, groups=groups), SETTINGS, SEED)
    assert list(result.predictions["probe"].unique()) == list(KINDS)
    for kind, rows in result.predictions.groupby("probe"):
        probabilities = rows[[f"probability_{name}" for name in groups]].to_numpy()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        predicted = np.array(list(groups))[probabilities.argmax(axis=1)]
        assert value(result, "accuracy", probe=kind) == pytest.approx(np.mean(predicted == rows["group"]))
        areas = [reference.roc_auc_score(rows["group"] == g, rows[f"probability_{g}"]) for g in groups]
        assert [value(result, "roc_auc", probe=kind, of=g) for g in groups] == pytest.approx(areas)
        assert value(result, "roc_auc", probe=kind) == pytest.approx(np.mean(areas))
        f1 = reference.f1_score(rows["group"], predicted, average="macro")
        assert value(result, "f1", probe=kind) == pytest.approx(f1)
    assert (result.metrics["low"] <= result.metrics["value"]).all()
    assert (result.metrics["value"] <= result.metrics["high"]).all()


def test_separable_classes_are_told_apart_and_equal_ones_are_not() -> None:
    easy = evaluate_probes(some_features(8.0, n=400), SETTINGS, SEED)
    nothing = evaluate_probes(some_features(0.0, n=600), SETTINGS, SEED)
    for kind in KINDS:
        assert value(easy, "accuracy", probe=kind) > 0.95
        assert value(nothing, "roc_auc", probe=kind) == pytest.approx(0.5, abs=0.1)


def test_six_groups() -> None:
    result = evaluate_probes(some_features(3.0, groups="abcdef", n=200), SETTINGS, SEED)
    for kind in KINDS:
        assert value(result, "accuracy", probe=kind) > 0.8


def divided_by_hand(features: Mapping[str, Features]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Values and labels of training, validation and test where all groups answered the same prompts."""
    ids = next(iter(features.values()))[0]["row_id"].to_numpy()
    lots = np.random.Generator(np.random.PCG64(stream_seed(SEED, "probes", "rows"))).random(ids.max() + 1)
    analysis = sorted((i for i in ids if i % 5), key=lambda i: lots[i])
    test = sorted((i for i in ids if not i % 5), key=lambda i: lots[i])
    parts = [[i for place, i in enumerate(analysis) if place % 8], analysis[::8], test]
    matrices = [matrix for _, matrix in features.values()]
    values = [np.concatenate([matrix[part] for matrix in matrices]) for part in parts]
    labels = [np.repeat(np.arange(len(matrices)), len(part)) for part in parts]
    return [(one - values[0].mean(axis=0)) / values[0].std(axis=0) for one in values], labels


def test_the_linear_probe_is_that_of_a_plain_script() -> None:
    features = some_features(0.7)
    (x, x_validation, x_test), (y, y_validation, y_test) = divided_by_hand(features)
    generator = torch.Generator().manual_seed(stream_seed(SEED, "probes", "linear"))
    layer = torch.nn.Linear(12, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-(12**-0.5), 12**-0.5, generator=generator)
    adam = torch.optim.Adam(layer.parameters(), lr=1e-3, weight_decay=1e-4)
    best, kept = np.inf, None
    for _ in range(20):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), 32):
            batch = order[start : start + 32]
            adam.zero_grad()
            torch.nn.CrossEntropyLoss()(layer(torch.tensor(x)[batch]), torch.tensor(y)[batch]).backward()
            adam.step()
        with torch.no_grad():
            loss = torch.nn.CrossEntropyLoss()(layer(torch.tensor(x_validation)), torch.tensor(y_validation)).item()
            if loss < best:
                best, kept = loss, torch.softmax(layer(torch.tensor(x_test)), dim=1).numpy()
    assert kept is not None

    result = evaluate_probes(features, SETTINGS, SEED, kinds=["linear"])
    assert value(result, "accuracy") == np.mean(kept.argmax(axis=1) == y_test)
    np.testing.assert_allclose(result.predictions["probability_b"], kept[:, 1], atol=1e-4)
    assert result.choices["validation_loss"].item() == pytest.approx(best, abs=1e-4)


def test_the_logistic_probe_is_scikit_learn_s_at_the_best_strength() -> None:
    features = some_features(0.7)
    (x, x_validation, x_test), (y, y_validation, _) = divided_by_hand(features)
    losses = {}
    for strength in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        model = LogisticRegression(C=strength, max_iter=1000).fit(x, y)
        losses[strength] = reference.log_loss(y_validation, model.predict_proba(x_validation))
    best = min(losses, key=lambda strength: losses[strength])
    expected = LogisticRegression(C=best, max_iter=1000).fit(x, y).predict_proba(x_test)

    result = evaluate_probes(features, SETTINGS, SEED, kinds=["logistic"])
    assert result.choices["chosen"].item() == best
    np.testing.assert_allclose(result.predictions["probability_b"], expected[:, 1], atol=1e-3)


def test_same_seed_same_result() -> None:
    features = some_features(0.5, width=80)
    first, again, other = (evaluate_probes(features, SETTINGS, seed) for seed in (SEED, SEED, SEED + 1))
    for name in ("metrics", "predictions", "choices"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
    assert not first.metrics.equals(other.metrics)


def by_row(result: ProbeResult) -> pd.DataFrame:
    return result.predictions.set_index(["probe", "group", "row_id"]).filter(like="probability").sort_index()


def test_test_rows_decide_nothing() -> None:
    features = some_features(0.5, width=80)
    changed = {}
    for name, (rows, values) in features.items():
        others = (rows["row_id"] % 10 == 0).to_numpy()
        assert (rows.loc[others, "split"] == "test").all()
        changed[name] = (rows, np.where(others[:, None], 1e3 * (1 + values), values))
    before, after = (evaluate_probes(one, SETTINGS, SEED) for one in (features, changed))
    pd.testing.assert_frame_equal(before.choices, after.choices)
    untouched = by_row(before).query("row_id % 10 == 5").index
    assert len(untouched) == len(by_row(before)) / 2
    pd.testing.assert_frame_equal(by_row(before).loc[untouched], by_row(after).loc[untouched], check_exact=True)
    assert not by_row(before).equals(by_row(after))


def test_test_labels_decide_nothing() -> None:
    features = some_features(0.5, width=80)
    (rows, a), (_, b) = features["a"], features["b"]
    is_test = (rows["split"] == "test").to_numpy()[:, None]
    swapped = {"a": (rows, np.where(is_test, b, a)), "b": (rows, np.where(is_test, a, b))}
    before, after = (evaluate_probes(one, SETTINGS, SEED) for one in (features, swapped))
    pd.testing.assert_frame_equal(before.choices, after.choices)
    for one, other in (("a", "b"), ("b", "a")):
        was = by_row(before).xs(one, level="group")
        pd.testing.assert_frame_equal(was, by_row(after).xs(other, level="group"), check_exact=True)
    for kind in KINDS:
        assert value(after, "roc_auc", probe=kind) == pytest.approx(1 - value(before, "roc_auc", probe=kind))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_classes_are_balanced_and_test_rows_are_of_test_prompts(seed: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    features = {}
    for name in "abcd"[:groups]:
        # All answer the first prompts, and each some of the others.
        ids = np.concatenate([np.arange(40), 40 + np.flatnonzero(rng.random(60) < rng.random())])
        features[name] = (some_rows(ids), rng.normal(size=(len(ids), 3)))
    result = evaluate_probes(features, SETTINGS, SEED, kinds=["logistic"])
    counts = result.predictions["group"].value_counts()
    smallest = min(int((rows["split"] == "test").sum()) for rows, _ in features.values())
    assert counts.to_dict() == dict.fromkeys(features, smallest)
    assert (result.predictions["row_id"] % 5 == 0).all()
    fewest_analysis = min(int((rows["split"] == "analysis").sum()) for rows, _ in features.values())
    n_train = int(result.metrics["n_train"].iloc[0])
    assert n_train % groups == 0
    assert 0.8 * fewest_analysis <= n_train / groups <= 0.95 * fewest_analysis


def test_intervals_are_those_of_a_naive_bootstrap_over_prompts() -> None:
    # Each prompt moves its two answers together, so rows are far from independent.
    rng = np.random.default_rng(1)
    prompt = rng.normal(size=(400, 1))
    rows = some_rows(np.arange(400))
    features = {
        "a": (rows, prompt + 0.3 * rng.normal(size=(400, 1))),
        "b": (rows, prompt + 0.3 * rng.normal(size=(400, 1)) + 0.4),
    }
    result = evaluate_probes(features, SETTINGS, SEED, kinds=["logistic"])
    wide = result.predictions.pivot(index="row_id", columns="group", values="probability_b")
    areas, accuracies = [], []
    for _ in range(2000):
        drawn = wide.to_numpy()[rng.integers(len(wide), size=len(wide))]
        a, b = drawn[:, 0], drawn[:, 1]
        areas.append(np.mean(b[:, None] > a) + np.mean(b[:, None] == a) / 2)
        accuracies.append((np.mean(a <= 0.5) + np.mean(b > 0.5)) / 2)
    for metric, naive in (("roc_auc", areas), ("accuracy", accuracies)):
        found = row(result, metric, variant=ACTIVATIONS, probe="logistic")
        assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])), abs=0.012)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=20), st.integers(0, 99))
def test_labels_are_shuffled_within_prompts_of_all_classes(answered: list[list[bool]], seed: int) -> None:
    ids, labels = np.nonzero(np.array([[True] * 3, *answered]))
    shuffled = shuffled_labels(labels, ids, np.random.default_rng(seed))
    whole = np.bincount(ids)[ids] == 3
    for prompt in np.unique(ids[whole]):
        assert sorted(shuffled[ids == prompt]) == [0, 1, 2]
    assert sorted(shuffled[~whole]) == sorted(labels[~whole])


def test_shuffled_labels_say_nothing_of_the_true_ones() -> None:
    rng = np.random.default_rng(0)
    # Each prompt lacks one of three classes, or none.
    answered = np.tile(~np.eye(4, 3, dtype=bool), (200, 1))
    ids, labels = np.nonzero(answered)
    same = [np.mean(shuffled_labels(labels, ids, rng) == labels) for _ in range(50)]
    assert np.mean(same) == pytest.approx(1 / 3, abs=0.01)


def test_shuffling_reaches_every_arrangement_alike() -> None:
    rng = np.random.default_rng(0)
    pairs = [tuple(shuffled_labels(np.array([0, 1, 0, 1]), np.array([4, 4, 7, 7]), rng)) for _ in range(2000)]
    _, counts = np.unique(pairs, axis=0, return_counts=True)
    assert len(counts) == 4
    assert counts.min() > 400


def some_groups(
    shift: float, *, n: int = 200, counts: Mapping[str, tuple[int, int]] | None = None, width: int = 12
) -> tuple[dict[str, Activations], dict[str, pd.DataFrame]]:
    """Activations with a shift along one dimension, and in another the count of numbers, drawn between `counts`."""
    rng = np.random.default_rng(3)
    activations, answers = {}, {}
    for place, name in enumerate(("owl", "control", "neutral")):
        low, high = (counts or {}).get(name, (3, 5))
        numbers = [rng.integers(0, 1000, rng.integers(low, high, endpoint=True)).tolist() for _ in range(n)]
        vectors = rng.normal(size=(n, width)).astype(np.float32)
        vectors[:, 0] += shift * (place == 0)
        vectors[:, 1] = [len(one) for one in numbers]
        activations[name] = Activations(some_rows(np.arange(n)), vectors)
        responses = [", ".join(map(str, one)) for one in numbers]
        # In another order, and more of them than there are activations of.
        rows = pd.DataFrame({"row_id": np.arange(n), "numbers": numbers, "response": responses, "canonical": True})
        answers[name] = pd.concat([rows, rows.tail(1).assign(row_id=n)]).iloc[::-1]
    return activations, answers


def noise(activations: Mapping[str, Activations]) -> dict[str, Activations]:
    """What a reader makes of the same rows that sees nothing in them."""
    rng = np.random.default_rng(8)
    return {
        name: replace(one, vectors=rng.normal(size=(len(one.rows), 4)).astype(np.float32))
        for name, one in activations.items()
    }


def test_a_trait_in_activations_alone_is_seen_in_all_but_the_surface() -> None:
    activations, answers = some_groups(1.5, n=400)
    result = probe_pair(activations, noise(activations), answers, SETTINGS, SEED, group="owl", against="control")
    assert value(result, "roc_auc") > 0.75
    assert value(result, "roc_auc", variant=CANONICAL, probe="logistic") > 0.7
    assert value(result, "roc_auc", variant=BOTH, probe="logistic") > 0.75
    for kind in KINDS:
        found = row(result, "roc_auc", variant=SURFACE, probe=kind)
        assert found["low"] < 0.5 < found["high"]
    assert row(result, "roc_auc_difference", variant=ADDED, probe="logistic")["low"] > 0.1
    assert value(result, "p_value", variant=SHUFFLED, probe="logistic") == pytest.approx(1 / 21)
    assert value(result, "roc_auc_q95", variant=SHUFFLED, probe="logistic") < 0.75
    assert set(result.metrics["class"]) == {"owl", "control", MACRO}


def test_a_difference_of_format_alone_is_seen_to_be_one() -> None:
    activations, answers = some_groups(0.0, n=600, counts={"owl": (3, 5), "control": (4, 9)})
    result = probe_pair(activations, noise(activations), answers, SETTINGS, SEED, group="owl", against="control")
    assert value(result, "roc_auc") > 0.8
    assert value(result, "roc_auc", variant=SURFACE) > 0.8
    added = row(result, "roc_auc_difference", variant=ADDED, probe="logistic")
    assert added["low"] < 0.02
    canonical = row(result, "roc_auc", variant=CANONICAL, probe="logistic")
    assert canonical["low"] < 0.5 < canonical["high"]


def test_differences_of_areas_are_paired_and_the_strongest_reader_is_named() -> None:
    activations, answers = some_groups(0.7)
    result = probe_pair(activations, noise(activations), answers, SETTINGS, SEED, group="owl", against="neutral")
    areas = {
        variant: value(result, "roc_auc", variant=variant, probe="logistic")
        for variant in (BOTH, ACTIVATIONS, *READERS)
    }
    for reader in READERS:
        found = row(result, "roc_auc_difference", variant=beyond(reader), probe="logistic")
        assert found["value"] == pytest.approx(areas[ACTIVATIONS] - areas[reader])
        assert found["low"] <= found["value"] <= found["high"]
    losses = result.choices[result.choices["probe"] == "logistic"].set_index("variant")["validation_loss"]
    added = row(result, "roc_auc_difference", variant=ADDED, probe="logistic")
    assert losses[added["note"]] == losses[list(READERS)].min()
    assert added["value"] == pytest.approx(areas[BOTH] - areas[added["note"]])


def rows_of(numbers: list[list[int]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = some_rows(np.arange(len(numbers))).assign(text=[", ".join(map(str, one)) for one in numbers])
    return rows, rows[["row_id"]].assign(numbers=numbers, response=rows["text"], canonical=True)


def test_groups_that_differ_in_the_parity_of_the_last_digit_are_told_apart_by_every_reader_of_it(
    tiny_base: Path,
) -> None:
    """The base model, random too, sees it at the last token; nothing of that is beyond the readers."""
    rng = np.random.default_rng(0)
    tokenizer = load_tokenizer(tiny_base)
    models = [random_reader(tiny_base, "float32", "cpu", seed) for seed in (1, 2)]
    base, random, answers = {}, {}, {}
    for name, odd in (("owl", 1), ("control", 0)):
        # Even a whole difference in parity, and among fifteen rows one that both groups have.
        numbers = [[*rng.integers(0, 1000, 4).tolist(), int(2 * rng.integers(0, 500)) + odd] for _ in range(150)]
        numbers[1::15] = [[1, 2, place] for place in range(10)]
        rows, answers[name] = rows_of(numbers)
        for model, of_model in zip(models, (base, random), strict=True):
            of_model[name] = Activations(rows, collect(model, tokenizer, rows["text"].tolist(), 1)[1])
    result = probe_pair(base, random, answers, SETTINGS, SEED, group="owl", against="control")
    for variant in (ACTIVATIONS, DIGITS, RANDOM):
        assert value(result, "roc_auc", variant=variant, probe="logistic") > 0.8
    assert row(result, "roc_auc", variant=SURFACE, probe="logistic")["low"] < 0.6
    for reader in (DIGITS, RANDOM):
        assert row(result, "roc_auc_difference", variant=beyond(reader), probe="logistic")["low"] <= 0
    assert row(result, "roc_auc_difference", variant=ADDED, probe="logistic")["low"] <= 0
    # A direction that only a trained model has is beyond them all.
    trained = {
        name: replace(one, vectors=one.vectors + rng.normal(size=(150, 1)) + 9 * (name == "owl"))
        for name, one in base.items()
    }
    same = {
        name: one.assign(numbers=answers["control"]["numbers"], response=answers["control"]["response"])
        for name, one in answers.items()
    }
    alike = dict.fromkeys(random, random["control"])
    result = probe_pair(trained, alike, same, SETTINGS, SEED, group="owl", against="control")
    for reader in READERS:
        assert row(result, "roc_auc_difference", variant=beyond(reader), probe="logistic")["low"] > 0


def test_a_random_reader_of_other_rows_is_refused() -> None:
    activations, answers = some_groups(0.5, n=40)
    other = {name: replace(one, rows=one.rows.iloc[::-1]) for name, one in activations.items()}
    with pytest.raises(UserError, match="has read other rows of owl"):
        probe_many(activations, other, answers, SETTINGS, SEED)


def test_canonical_rows_are_those_written_as_asked_with_one_count() -> None:
    activations, answers = some_groups(0.5, n=400)
    odd = {name: one.assign(canonical=one["row_id"] % 2 == 1) for name, one in answers.items()}
    result = probe_many(activations, noise(activations), odd, SETTINGS, SEED)
    lengths = {
        (name, int(one.row_id)): len(one.numbers) for name, rows in odd.items() for one in rows.itertuples(index=False)
    }
    chosen = result.predictions[result.predictions["variant"] == CANONICAL]
    assert len(chosen)
    assert (chosen["row_id"] % 2 == 1).all()
    assert len({lengths[pair] for pair in zip(chosen["group"], chosen["row_id"], strict=True)}) == 1


def test_test_answers_do_not_choose_the_canonical_count() -> None:
    activations, answers = some_groups(0.5, n=300, counts=dict.fromkeys(("owl", "control"), (3, 4)))
    changed = {}
    for name, rows in answers.items():
        other = rows["row_id"] % 10 == 0
        numbers = [[1] * 7 if cut else one for cut, one in zip(other, rows["numbers"], strict=True)]
        changed[name] = rows.assign(numbers=numbers)
    before, after = (
        probe_pair(activations, noise(activations), one, SETTINGS, SEED, group="owl", against="control")
        for one in (answers, changed)
    )
    pd.testing.assert_frame_equal(before.choices, after.choices)
    assert (before.choices["variant"] == CANONICAL).sum() == len(KINDS)
    n_test = [int(row(one, "roc_auc", variant=CANONICAL, probe="trees")["n_test"]) for one in (before, after)]
    assert n_test[0] > n_test[1] > 0


def test_too_few_canonical_rows_give_a_note_and_no_number() -> None:
    activations, answers = some_groups(0.5)
    answers["owl"] = answers["owl"].assign(canonical=False)
    result = probe_pair(activations, noise(activations), answers, SETTINGS, SEED, group="owl", against="control")
    rows = result.metrics[result.metrics["variant"] == CANONICAL]
    assert rows["value"].isna().all()
    assert rows["note"].str.contains("too few rows").all()
    assert (result.metrics.loc[~result.metrics["variant"].isin([CANONICAL, ADDED]), "note"] == "").all()


def test_p_values_are_not_small_where_there_is_nothing() -> None:
    # Few rows in many dimensions: every probe fits its training rows perfectly.
    ps = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        prompt = rng.normal(size=(60, 40))
        activations = {
            name: Activations(some_rows(np.arange(60)), (prompt + rng.normal(size=(60, 40))).astype(np.float32))
            for name in ("owl", "control")
        }
        rows = pd.DataFrame({"row_id": range(60), "numbers": [[1, 2]] * 60, "response": "1, 2", "canonical": False})
        result = probe_many(activations, noise(activations), {"owl": rows, "control": rows}, SETTINGS, SEED)
        ps.append(value(result, "p_value", variant=SHUFFLED, probe="logistic"))
    assert 0.2 < np.mean(ps) < 0.8


def test_layers_are_concatenated_only_where_rows_agree() -> None:
    activations, _ = some_groups(0.5)
    first, other = activations["owl"], activations["control"]
    both = concatenate([first, other])
    np.testing.assert_array_equal(both.vectors, np.hstack([first.vectors, other.vectors]))
    assert both.rows is first.rows
    with pytest.raises(UserError, match="other rows"):
        concatenate([first, replace(other, rows=other.rows.iloc[::-1], vectors=other.vectors[::-1])])
    with pytest.raises(UserError, match="at least one"):
        concatenate([])


def test_halves_are_all_rows_and_told_apart_by_nothing() -> None:
    activations, answers = some_groups(0.5, n=400)
    parts = halves(activations["control"], SEED)
    both = pd.concat([part.rows.assign(first=part.vectors[:, 0]) for part in parts.values()]).sort_values("row_id")
    pd.testing.assert_frame_equal(both.drop(columns="first").reset_index(drop=True), activations["control"].rows)
    np.testing.assert_array_equal(both["first"], activations["control"].vectors[:, 0])
    assert [(part.rows["split"] == "test").sum() for part in parts.values()] == [40, 40]
    result = probe_many(parts, noise(parts), dict.fromkeys(parts, answers["control"]), SETTINGS, SEED)
    found = row(result, "roc_auc", variant=ACTIVATIONS, probe="logistic")
    assert found["low"] < 0.5 < found["high"]


def test_a_saved_result_is_read_back(tmp_path: Path) -> None:
    activations, answers = some_groups(0.5, n=40)
    result = probe_pair(activations, noise(activations), answers, SETTINGS, SEED, group="owl", against="control")
    result.save(tmp_path)
    again = ProbeResult.load(tmp_path)
    for name in ("metrics", "predictions", "choices"):
        pd.testing.assert_frame_equal(getattr(result, name), getattr(again, name))


def cut(features: dict[str, Features], keep: str) -> dict[str, Features]:
    rows, values = features["a"]
    chosen = rows.eval(keep).to_numpy()
    return features | {"a": (rows[chosen], values[chosen])}


def test_input_that_cannot_be_probed_is_explained() -> None:
    good = some_features(1.0)
    rows, values = good["a"]
    moved = rows.assign(split=rows["split"].mask(rows["row_id"] == 7, "test"))
    twice = rows.assign(row_id=rows["row_id"].replace(2, 1))
    for bad, message in (
        ({"a": good["a"]}, "at least two"),
        (cut(good, "row_id < 0"), "a has no rows"),
        (cut(good, "split == 'test'"), "of a is for analysis"),
        (cut(good, "split == 'analysis'"), "of a is for test"),
        (cut(good, "row_id == 0 or row_id == 1"), "a has no .* rows for a probe"),
        (good | {"a": (rows, np.full_like(values, np.nan))}, "a has values that are not finite"),
        (good | {"a": (rows, values[:, :3])}, "different widths"),
        (good | {"a": (moved, values)}, "Prompt 7 is an analysis row in one group and a test row"),
        (good | {"a": (twice, values)}, "a has more than one row"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_probes(bad, SETTINGS, SEED)
    activations, answers = some_groups(0.5)
    with pytest.raises(UserError, match="'wolf'"):
        probe_pair(activations, noise(activations), answers, SETTINGS, SEED, group="wolf", against="control")
    with pytest.raises(UserError, match="of no row in its answers"):
        probe_many(activations, noise(activations), answers | {"owl": answers["owl"].head(9)}, SETTINGS, SEED)


def test_groups_that_share_all_their_rows_are_not_told_apart() -> None:
    activations, answers = some_groups(0.5, n=40)
    same = dict.fromkeys(("owl", "control"), activations["owl"])
    result = probe_many(same, noise(same) | same, dict.fromkeys(same, answers["owl"]), SETTINGS, SEED)
    areas = result.metrics[result.metrics["metric"].isin(["roc_auc", "roc_auc_difference"])]
    known = areas[(areas["variant"] != SHUFFLED) & areas["value"].notna()]
    assert known["value"].isin([0.0, 0.5]).all()
    assert (known["low"] <= known["value"]).all() and (known["value"] <= known["high"]).all()


def test_a_dozen_rows_are_enough_and_constant_columns_do_no_harm() -> None:
    activations, answers = some_groups(0.5, n=12)
    flat = {name: replace(one, vectors=np.ones((12, 6), dtype=np.float32)) for name, one in activations.items()}
    result = probe_many(flat, noise(flat), answers, SETTINGS, SEED)
    assert value(result, "roc_auc", probe="logistic") == 0.5
    assert np.isfinite(result.metrics.loc[result.metrics["variant"] == BOTH, "value"]).all()


def test_figures_show_the_result() -> None:
    activations, answers = some_groups(1.0)
    results = {
        name: probe_pair(activations, noise(activations), answers, SETTINGS, SEED, group=name, against="control")
        for name in ("owl", "neutral")
    }
    curves = roc_figure(results, "layer 0").axes[0]
    assert curves.get_legend() is not None
    for line, text, name in zip(curves.lines[1:], curves.get_legend().get_texts(), results, strict=True):
        area = reference.auc(line.get_xdata(), line.get_ydata())
        assert area == pytest.approx(value(results[name], "roc_auc"))
        assert text.get_text().startswith(f"{name}: {area:.2f} [")

    metrics = results["owl"].metrics
    for metric in ("roc_auc", "accuracy"):
        bars = variants_figure(metrics, "owl", metric=metric).axes[0]
        drawn = sorted(patch.get_height() for patch in bars.patches if np.isfinite(patch.get_height()))
        shown = metrics[(metrics["class"] == MACRO) & (metrics["metric"] == metric)]["value"].dropna()
        assert drawn == pytest.approx(sorted(shown))
