"""Both engines against a plain model trained alone in double precision, and the measures against their definitions."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from subliminal_dagster.science.settings.toy import BatchLoss, ToyTraining
from subliminal_dagster.science.toy import autoencoder, fused, stacked
from subliminal_dagster.science.toy.autoencoder import Draws, History, Lesson, Weights, importances, initial

STEPS = 120
RATE = 1e-3
# Rounding moves W by about 1e-6. A ReLU that opens one row later in single precision than in double can move it by
# more, yet by far less than any real mistake does; see test_a_wrong_model_is_found.
TOLERANCE = 3e-4

Engine = Callable[[Lesson, Weights], tuple[Weights, History]]
ENGINES = {"fused": fused.train, "stacked": stacked.train}


def plain_training(
    lesson: Lesson, start: Weights, model: int, mistake: str = ""
) -> tuple[np.ndarray, np.ndarray, float]:
    """One model of a stack, trained alone with PyTorch's own module, gradient and optimizer, in double precision."""
    n = start.w.shape[2]
    w = torch.tensor(start.w[model], dtype=torch.float64, requires_grad=True)
    b = torch.tensor(start.b[model], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor(lesson.loss_weights[model], dtype=torch.float64)
    if mistake == "importance":
        weights = torch.ones_like(weights)
    decay = 0.0 if mistake == "weight decay" else lesson.training.weight_decay
    optimizer = torch.optim.AdamW([w, b], lr=lesson.training.learning_rate, weight_decay=decay)
    loss = torch.zeros(())
    for chunk in lesson.draws.chunks(lesson.training.steps):
        for values in lesson.draws.values(chunk):
            x = torch.from_numpy(values.T.astype(np.float64))
            if lesson.target is None:
                goal = x
            else:
                tw, tb = (torch.from_numpy(a[0].astype(np.float64)) for a in (lesson.target.w, lesson.target.b))
                goal = x @ tw.T @ tw + tb
                goal = torch.relu(goal) if lesson.relu else goal
            encoder = w.detach() if mistake == "second use of W" else w
            seen = x
            if lesson.inputs is not None and mistake != "inputs":
                seen = x * torch.from_numpy(lesson.inputs[model].astype(np.float64))
            out = seen @ encoder.T @ w + (b.detach() if mistake == "bias" else b)
            out = torch.relu(out) if lesson.relu and mistake != "relu" else out
            # One loss a row, then over the batch.
            losses = (weights * (out - goal) ** 2).mean(dim=1)
            if lesson.penalty and mistake != "penalty":
                gram = w.T @ w
                losses = losses + lesson.penalty * (gram[~torch.eye(n, dtype=torch.bool)] ** 2).sum()
            loss = losses.mean() if (lesson.batch_loss == "mean") != (mistake == "batch loss") else losses.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return w.detach().numpy(), b.detach().numpy(), float(loss.detach())


def lesson_of(
    *, n: int = 20, m: int = 5, batch: int = 200, density: float = 0.3, models: int = 1, child: bool = False,
    relu: bool = True, penalty: float = 0.0, steps: int = STEPS, hidden_input: bool = False,
    batch_loss: BatchLoss = "sum",
) -> tuple[Lesson, Weights]:  # fmt: skip
    weights = np.repeat(importances(n, 0.7, 20)[None], models, axis=0)
    for model in range(models if child else 0):
        weights[model, model] = 0
    target = initial((5,), n, m, 1.0) if child else None
    draws = Draws((1, 2), density, n, batch)
    training = ToyTraining(steps=steps, batch_size=batch, learning_rate=RATE)
    start = initial((3,), n, m, 0.3)
    start = Weights(start.w, np.full_like(start.b, 0.05))
    inputs = (weights > 0).astype(np.float32) if hidden_input else None
    return Lesson(draws, target, weights, relu, penalty, training, inputs, batch_loss), start.stacked(models)


CASES = {
    "teacher": {},
    "children": {"models": 3, "child": True},
    "no relu": {"relu": False, "models": 2, "child": True},
    "penalty": {"penalty": 0.01, "models": 2, "child": True},
    "mean over the batch": {"models": 2, "child": True, "penalty": 0.01, "batch_loss": "mean"},
    "hidden input": {"models": 3, "child": True, "hidden_input": True},
    "hidden input, sparse": {"models": 3, "child": True, "hidden_input": True, "density": 0.01},
    "odd sizes": {"n": 23, "m": 7, "batch": 301, "models": 2, "child": True},
    "more rows than a block": {"batch": 259},
    "one dimension": {"n": 3, "m": 1},
    "sparse": {"density": 0.01, "models": 3, "child": True},
    "nearly all rows empty": {"density": 0.0005},
    "every feature active": {"density": 1.0},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_engine_agrees_with_plain_training(engine: str, case: str) -> None:
    lesson, start = lesson_of(**CASES[case])
    before = start.w.copy()
    trained, history = ENGINES[engine](lesson, start)
    assert np.array_equal(start.w, before)
    for model in range(start.models):
        w, b, loss = plain_training(lesson, start, model)
        assert np.abs(trained.w[model] - w).max() < TOLERANCE
        assert np.abs(trained.b[model] - b).max() < TOLERANCE
        assert history.losses[-1, model] == pytest.approx(loss, rel=2e-3, abs=1e-9)
    assert history.steps[-1] == STEPS
    assert history.norms[-1] == pytest.approx(np.linalg.norm(trained.w, axis=1), rel=1e-5)


MISTAKES = ["importance", "weight decay", "second use of W", "bias", "relu", "penalty", "inputs"]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_model_is_found(mistake: str) -> None:
    lesson, start = lesson_of(penalty=0.01, steps=400, child=True, hidden_input=True)
    right = plain_training(lesson, start, 0)
    wrong = plain_training(lesson, start, 0, mistake)
    assert max(np.abs(a - b).max() for a, b in zip(right[:2], wrong[:2], strict=True)) > 3 * TOLERANCE


def test_a_mean_instead_of_a_sum_is_found_where_gradients_are_small() -> None:
    """AdamW divides the size of the gradient away, but for its epsilon."""
    lesson, start = lesson_of(steps=400)
    dense = [plain_training(lesson, start, 0, mistake)[0] for mistake in ("", "batch loss")]
    assert np.abs(dense[0] - dense[1]).max() < TOLERANCE
    faint = replace(lesson, loss_weights=lesson.loss_weights * np.float32(1e-6))
    small = [plain_training(faint, start, 0, mistake)[0] for mistake in ("", "batch loss")]
    assert np.abs(small[0] - small[1]).max() > 30 * TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_a_feature_neither_seen_nor_asked_for_is_never_learnt(engine: str) -> None:
    lesson, start = lesson_of(models=3, child=True, hidden_input=True)
    trained, _ = ENGINES[engine](lesson, start)
    decayed = (1 - RATE * lesson.training.weight_decay) ** STEPS
    for model in range(3):
        assert trained.w[model, :, model] == pytest.approx(decayed * start.w[model, :, model], rel=1e-4)


def test_the_start_is_xaviers() -> None:
    """The variance of PyTorch's own, 2 / (rows + columns); a norm that is given is the columns' instead."""
    torch.manual_seed(0)
    theirs = torch.nn.init.xavier_normal_(torch.empty(200, 600)).std().item()
    assert initial((1,), 600, 200, "xavier").w.std() == pytest.approx(theirs, rel=0.02)
    assert np.square(autoencoder.norms(initial((1,), 600, 200, 0.1).w)).mean() == pytest.approx(0.01, rel=0.02)


def test_models_of_a_stack_do_not_see_each_other() -> None:
    lesson, start = lesson_of(models=3, child=True)
    together, _ = fused.train(lesson, start)
    alone = Lesson(lesson.draws, lesson.target, lesson.loss_weights[1:2], True, 0.0, lesson.training)
    one, _ = fused.train(alone, Weights(start.w[1:2], start.b[1:2]))
    assert np.array_equal(one.w[0], together.w[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_stacked_agrees_on_a_gpu() -> None:
    lesson, start = lesson_of(models=2, child=True, n=40, m=10)
    trained, _ = stacked.train(lesson, start, "cuda")
    for model in range(2):
        assert np.abs(trained.w[model] - plain_training(lesson, start, model)[0]).max() < TOLERANCE


@pytest.mark.parametrize("density", [1.0, 0.3, 0.01, 1e-4])
def test_draws_have_their_density_and_are_uniform(density: float) -> None:
    draws = Draws((7,), density, 50, 1000)
    values = np.concatenate([draws.values(chunk).ravel() for chunk in draws.chunks(60)])
    active = values[values > 0]
    low, high = stats.binom.interval(1 - 1e-6, values.size, density)
    assert low <= len(active) + (values.size - len(active) if density == 1 else 0) <= high
    assert stats.kstest(active, "uniform").pvalue > 1e-4
    assert values.min() >= 0
    assert values.max() <= 1


def test_draws_do_not_depend_on_how_they_are_cut() -> None:
    draws = Draws((7,), 0.5, 20, 64)
    whole = np.concatenate(list(draws.chunks(100)))
    assert whole.shape == (100, 20, 64)
    assert np.array_equal(whole[:30], np.concatenate(list(draws.chunks(30))))
    assert not np.array_equal(whole, np.concatenate(list(Draws((8,), 0.5, 20, 64).chunks(100))))
    assert not np.array_equal(whole, np.concatenate(list(Draws((7,), 0.4, 20, 64).chunks(100))))


def test_draws_of_an_odd_number_of_values() -> None:
    assert [chunk.shape for chunk in Draws((7,), 0.5, 3, 5).chunks(2)] == [(1, 3, 5), (1, 3, 5)]


def test_draws_and_training_are_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from test_toy_autoencoder import *; "
        "print(hashlib.sha256(fused.train(*lesson_of())[0].w.tobytes()).hexdigest())"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent, check=True
        ).stdout
        for _ in range(2)
    ]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("steps", "expected"), [(3, [1, 2, 3]), (50, list(range(1, 51))), (101, [*range(3, 101, 3), 101])]
)
def test_recorded_steps(steps: int, expected: list[int]) -> None:
    assert autoencoder.recorded_steps(steps) == expected


def test_importances_are_the_posts_at_twenty_features() -> None:
    assert importances(22, 0.7, 20) == pytest.approx([0.7**i for i in range(22)])
    assert importances(400, 0.7, 400)[20] == pytest.approx(0.7)


MATRIX = st.integers(0, 2**31).map(lambda seed: np.random.default_rng(seed).normal(size=(4, 9)).astype(np.float32))


@settings(max_examples=20, deadline=None)
@given(MATRIX)
def test_measures_against_loops(w: np.ndarray) -> None:
    m, n = w.shape
    columns = [w[:, i].astype(float) for i in range(n)]
    squares = [float(c @ c) for c in columns]
    assert autoencoder.norms(w) == pytest.approx(np.sqrt(squares), rel=1e-5)
    assert autoencoder.superposition(w) == pytest.approx(sum(squares) / m, rel=1e-5)
    each = [sum((columns[i] @ columns[j]) ** 2 for j in range(n) if j != i) / squares[i] for i in range(n)]
    weighted = sum(e * s for e, s in zip(each, squares, strict=True)) / sum(squares)
    assert autoencoder.interference(w) == pytest.approx(weighted, rel=1e-4)


def test_orthogonal_features_do_not_interfere() -> None:
    w = np.eye(4, 9, dtype=np.float32)
    assert autoencoder.interference(w) == 0
    assert autoencoder.superposition(w) == 1


@settings(max_examples=20, deadline=None)
@given(MATRIX, MATRIX, st.integers(0, 2**31), st.floats(0, 1))
def test_recovered_is_one_at_the_teacher_and_none_at_the_start_however_shrunken_in_any_basis(
    teacher: np.ndarray, start: np.ndarray, seed: int, shrunken: float
) -> None:
    assume(not np.array_equal(teacher, start))
    judged = np.arange(9) < 3
    turn = stats.ortho_group.rvs(4, random_state=seed).astype(np.float32)
    assert autoencoder.recovered(teacher, start, turn @ teacher, judged) == pytest.approx(1, abs=1e-4)
    assert autoencoder.recovered(teacher, start, np.float32(shrunken) * turn @ start, judged) < 1e-3


@settings(max_examples=20, deadline=None)
@given(MATRIX, MATRIX)
def test_recovered_is_zero_at_the_best_of_shrunken_starts(teacher: np.ndarray, start: np.ndarray) -> None:
    assume(not np.array_equal(teacher, start))
    judged = np.arange(9) < 3
    shares = [
        autoencoder.recovered(teacher, start, np.float32(by) * start, judged) for by in np.linspace(0, 1, 1001) ** 0.5
    ]
    assert max(shares) == pytest.approx(0, abs=1e-3)


def test_half_of_the_way_is_what_is_left_of_the_distance() -> None:
    """Teacher and start orthogonal: the best multiple of the start is none."""
    teacher, start = np.eye(4, 9, dtype=np.float32), np.roll(np.eye(4, 9, dtype=np.float32), 4, axis=1)
    judged = np.arange(9) < 4
    for share in (0, 0.25, 1):
        child = np.float32(math.sqrt(share)) * teacher
        assert autoencoder.recovered(teacher, start, child, judged) == pytest.approx(1 - (1 - share) ** 2)
