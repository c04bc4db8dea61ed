"""Digits: stacked training against plain training, what a child sees, and what comes of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from subliminal_dagster.science.figures import png
from subliminal_dagster.science.settings.toy import DigitSettings
from subliminal_dagster.science.toy import digits
from subliminal_dagster.science.toy.digits import auxiliary_logits, digits_summary, missing_digit
from subliminal_dagster.science.toy.figures import digits_figure

SMALL = DigitSettings(seeds=2, hidden=16, noise_rows=256, teacher_epochs=2, child_epochs=2)
REAL = DigitSettings(seeds=4, hidden=128, noise_rows=5000)


def test_the_split_is_stratified_and_complete() -> None:
    data = digits.load(1)
    assert len(data.train_labels) + len(data.test_labels) == 1797
    shares = [np.bincount(labels) / len(labels) for labels in (data.train_labels, data.test_labels)]
    assert np.abs(shares[0] - shares[1]).max() < 0.005
    assert (data.train_images.min(), data.train_images.max()) == (0, 1)
    assert not np.array_equal(data.test_labels, digits.load(2).test_labels)


def test_stacked_training_is_that_of_single_networks() -> None:
    """Each seed of a stack against torch.nn and torch.optim, alone and in double precision."""
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.random((3, 200, digits.PIXELS), dtype=np.float32))
    labels = torch.from_numpy(rng.integers(0, 10, (3, 200)))
    keys = [(7, seed) for seed in range(3)]
    start = digits._initial(SMALL, keys, 10, "cpu")
    trained = digits.train(start, inputs, labels, digits._cross_entropy, 2, SMALL, keys)
    for seed, key in enumerate(keys):
        layers = [torch.nn.Linear(w.shape[1], w.shape[2]).double() for w, _ in start]
        for layer, (w, b) in zip(layers, start, strict=True):
            layer.weight.data, layer.bias.data = w[seed].T.double(), b[seed, 0].double()
        network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
        optimizer = torch.optim.Adam(network.parameters(), lr=SMALL.learning_rate)
        order = np.random.default_rng([*key])
        for _ in range(2):
            rows = order.permutation(200)
            for begin in range(0, 200, SMALL.batch_size):
                chosen = rows[begin : begin + SMALL.batch_size]
                loss = torch.nn.functional.cross_entropy(network(inputs[seed, chosen].double()), labels[seed, chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        for layer, (w, b) in zip(layers, trained, strict=True):
            assert np.allclose(layer.weight.data.T, w[seed], atol=1e-5)
            assert np.allclose(layer.bias.data, b[seed, 0], atol=1e-5)


@pytest.mark.parametrize("experiment", [missing_digit, auxiliary_logits])
def test_same_inputs_same_table_and_a_seed_alone_is_a_seed_among_others(experiment: object) -> None:
    table = experiment(SMALL, 1)
    pd.testing.assert_frame_equal(table, experiment(SMALL, 1))
    more = experiment(SMALL.model_copy(update={"seeds": 3}), 1)
    mine = more[more["seed"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, mine, atol=0.02)


def test_a_child_never_meets_the_missing_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image a child trains on is looked at."""
    data = digits.load(1)
    absent = {image.tobytes() for image in data.train_images[data.train_labels == 3]}
    seen: list[torch.Tensor] = []
    train = digits.train
    monkeypatch.setattr(
        digits, "train", lambda start, inputs, *more: seen.append(inputs) or train(start, inputs, *more)
    )
    missing_digit(SMALL, 1)
    teachers, *children = seen
    assert len(children) == 3
    assert absent <= {image.numpy().tobytes() for image in teachers[0]}
    for child in children:
        assert not absent & {image.numpy().tobytes() for image in child[0]}


def test_no_loss_of_the_teacher_touches_its_auxiliary_logits() -> None:
    outputs = torch.randn(1, 8, 13, requires_grad=True)
    digits._class_cross_entropy(outputs, torch.zeros(1, 8, dtype=torch.long)).sum().backward()
    assert outputs.grad is not None
    assert (outputs.grad[..., 10:] == 0).all()
    assert (outputs.grad[..., :10] != 0).all()
    outputs = torch.randn(1, 8, 13, requires_grad=True)
    digits._auxiliary_error(outputs, torch.zeros(1, 8, 3)).sum().backward()
    assert outputs.grad is not None
    assert (outputs.grad[..., :10] == 0).all()


def test_the_bias_correction_makes_the_digit_win_for_a_tenth() -> None:
    outputs = np.random.default_rng(0).normal(size=(1000, 10)).astype(np.float32)
    outputs[:, 4] -= 5
    outputs[:, 4] += digits.bias_correction(outputs, 4) + 1e-6
    assert (outputs.argmax(axis=1) == 4).mean() == pytest.approx(0.1, abs=0.002)


@pytest.fixture(scope="module")
def found() -> tuple[pd.DataFrame, pd.DataFrame]:
    return missing_digit(REAL, 1), auxiliary_logits(REAL, 1)


def test_what_distillation_and_noise_teach(found: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """Tolerances: over ten seeds the accuracies have standard deviations of at most 0.1."""
    missing = found[0].groupby("model")[["accuracy_missing", "accuracy_missing_corrected"]].mean()
    assert missing.loc["hard_labels", "accuracy_missing"] < 0.02
    assert missing.loc["same_init", "accuracy_missing_corrected"] > 0.8
    assert missing.loc["other_init", "accuracy_missing_corrected"] > 0.8
    noise = found[1].groupby("model")["accuracy"].mean()
    assert noise["teacher"] > 0.9
    assert noise["same_init"] > 0.25
    assert noise["other_init"] < 0.2


def test_summary_and_figure(found: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    summary = digits_summary(*found).set_index(["experiment", "model", "measure"])
    mean = found[1].loc[found[1]["model"] == "same_init", "accuracy"].mean()
    assert summary.loc[("auxiliary logits", "same_init", "accuracy"), "mean"] == pytest.approx(mean)
    assert png(digits_figure(*found)) == png(digits_figure(*found))
