"""Training small toy models on a CPU: a whole step in one compiled loop over blocks of rows.

At 20 features a step is bound by calls and memory traffic, not by arithmetic. Here a block of rows goes through all
models of a stack while it lies in the first-level cache, and nothing is written back but gradients. Rows are the fast
axis, so that the compiler makes vectors of them. Batches and the target's outputs are shared by the stack.

Belongs here: this one engine. Does not belong here: larger models and GPUs (`stacked`), the data (`autoencoder`).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from subliminal_dagster.science.toy.autoencoder import Floats, History, Lesson, Weights, norms, recorded_steps

_BLOCK = 128
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8

# Sums may be reordered, which is what lets them be vectors; infinities and NaN keep their meaning.
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})


def train(lesson: Lesson, start: Weights) -> tuple[Weights, History]:
    """Train a stack of models, in one thread and without the GIL; `start` is left as it is."""
    w, b = start.w.copy(), start.b.copy()
    gradients = _like(w, b)
    first, second = _like(w, b), _like(w, b)
    loss = np.zeros(start.models)
    target = lesson.target or Weights(np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.float32))
    inputs = np.zeros((1, 1), np.float32) if lesson.inputs is None else lesson.inputs
    recorded = set(recorded_steps(lesson.training.steps))
    steps, losses, columns = [], [], []
    done = 0
    for draws in lesson.draws.chunks(lesson.training.steps):
        _train_chunk(
            draws,
            lesson.draws.last_active,
            lesson.draws.scale,
            lesson.target is not None,
            target.w[0],
            target.b[0],
            lesson.inputs is not None,
            inputs,
            lesson.loss_weights,
            lesson.relu,
            np.float32(2 * lesson.rows / (lesson.draws.batch_size * lesson.draws.features)),
            np.float32(lesson.rows * lesson.penalty),
            w,
            b,
            gradients,
            first,
            second,
            loss,
            done,
            lesson.training.learning_rate,
            lesson.training.weight_decay,
        )
        done += len(draws)
        if done in recorded:
            steps.append(done)
            losses.append(loss.astype(np.float32))
            columns.append(norms(w))
    return Weights(w, b), History(np.array(steps), np.array(losses), np.array(columns))


def _like(w: Floats, b: Floats) -> tuple[Floats, Floats]:
    return np.zeros_like(w), np.zeros_like(b)


@_compiled
def _weighted_sums(matrix: Any, rows: Any, bias: Any, out: Any, count: int) -> None:
    """out[j, r] = bias[j] + sum over i of matrix[j, i] rows[i, r], for the first `count` r."""
    outputs, inputs = matrix.shape
    whole = inputs - inputs % 4
    for j in range(outputs):
        line = out[j]
        for r in range(count):
            line[r] = bias[j]
        for i in range(0, whole, 4):
            a, b, c, d = matrix[j, i], matrix[j, i + 1], matrix[j, i + 2], matrix[j, i + 3]
            p, q, s, t = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
            for r in range(count):
                line[r] += a * p[r] + b * q[r] + c * s[r] + d * t[r]
        for i in range(whole, inputs):
            a, p = matrix[j, i], rows[i]
            for r in range(count):
                line[r] += a * p[r]


@_compiled
def _add_products(hidden: Any, error: Any, back: Any, rows: Any, out: Any, count: int) -> None:
    """out[j, i] += sum over r of hidden[j, r] error[i, r] + back[j, r] rows[i, r]: the gradient of W, which is used
    twice in the model."""
    for j in range(hidden.shape[0]):
        h, k = hidden[j], back[j]
        whole = len(error) - len(error) % 4
        for i in range(0, whole, 4):
            e0, e1, e2, e3 = error[i], error[i + 1], error[i + 2], error[i + 3]
            x0, x1, x2, x3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
            s0 = s1 = s2 = s3 = np.float32(0)
            for r in range(count):
                s0 += h[r] * e0[r] + k[r] * x0[r]
                s1 += h[r] * e1[r] + k[r] * x1[r]
                s2 += h[r] * e2[r] + k[r] * x2[r]
                s3 += h[r] * e3[r] + k[r] * x3[r]
            out[j, i] += s0
            out[j, i + 1] += s1
            out[j, i + 2] += s2
            out[j, i + 3] += s3
        for i in range(whole, len(error)):
            e0, x0 = error[i], rows[i]
            s0 = np.float32(0)
            for r in range(count):
                s0 += h[r] * e0[r] + k[r] * x0[r]
            out[j, i] += s0


@_compiled
def _add_penalty(w: Any, penalty: Any, gradient: Any) -> float:
    """Adds the gradient of penalty * sum over i != j of (W_i . W_j)^2 and returns that sum times the penalty."""
    hidden, features = w.shape
    total = 0.0
    for i in range(features):
        for k in range(features):
            if i != k:
                overlap = w[0, i] * w[0, k]
                for j in range(1, hidden):
                    overlap += w[j, i] * w[j, k]
                total += overlap * overlap
                for j in range(hidden):
                    gradient[j, i] += 4 * penalty * overlap * w[j, k]
    return penalty * total


@_compiled
def _adamw(values: Any, gradient: Any, first: Any, second: Any, step: int, rate: float, decay: float) -> None:
    """One step of AdamW (Loshchilov & Hutter 2019) on flat arrays, as torch.optim computes it."""
    correction = rate / (1 - _BETAS[0] ** step)
    spread = np.sqrt(1 - _BETAS[1] ** step)
    for i in range(len(values)):
        first[i] = _BETAS[0] * first[i] + (1 - _BETAS[0]) * gradient[i]
        second[i] = _BETAS[1] * second[i] + (1 - _BETAS[1]) * gradient[i] * gradient[i]
        values[i] = values[i] * (1 - rate * decay) - correction * first[i] / (np.sqrt(second[i]) / spread + _EPSILON)


@_compiled
def _train_chunk(
    draws: Any,
    last_active: Any,
    scale: Any,
    has_target: bool,
    target_w: Any,
    target_b: Any,
    has_inputs: bool,
    inputs: Any,
    loss_weights: Any,
    relu: bool,
    share: Any,
    penalty: Any,
    w: Any,
    b: Any,
    gradients: Any,
    first: Any,
    second: Any,
    loss: Any,
    done: int,
    rate: float,
    decay: float,
) -> None:
    """One step for every batch of `draws` (steps, n, rows), in place; `loss` (models,) becomes the last step's.

    share: what the gradient of an output's squared error, halved, is multiplied with.
    """
    models, hidden, features = w.shape
    batch = draws.shape[2]
    rows = np.empty((features, _BLOCK), np.float32)
    partial = np.empty((features, _BLOCK), np.float32)
    goal = np.empty((features, _BLOCK), np.float32)
    error = np.empty((features, _BLOCK), np.float32)
    code = np.empty((hidden, _BLOCK), np.float32)
    back = np.empty((hidden, _BLOCK), np.float32)
    nothing = np.zeros(hidden, np.float32)
    transposed = np.empty((models, features, hidden), np.float32)
    target_transposed = np.ascontiguousarray(target_w.T)
    gradient_w, gradient_b = gradients
    for step in range(len(draws)):
        gradient_w[:] = 0
        gradient_b[:] = 0
        loss[:] = 0
        for model in range(models):
            transposed[model] = w[model].T
        for begin in range(0, batch, _BLOCK):
            count = min(_BLOCK, batch - begin)
            for i in range(features):
                drawn, line = draws[step, i, begin : begin + count], rows[i]
                for r in range(count):
                    line[r] = np.float32(drawn[r]) * scale if drawn[r] <= last_active else np.float32(0)
            if has_target:
                _weighted_sums(target_w, rows, nothing, code, count)
                _weighted_sums(target_transposed, code, target_b, goal, count)
                if relu:
                    for i in range(features):
                        line = goal[i]
                        for r in range(count):
                            line[r] = max(line[r], np.float32(0))
            else:
                goal[:] = rows
            for model in range(models):
                seen = rows
                if has_inputs:
                    seen = partial
                    for i in range(features):
                        partial[i] = inputs[model, i] * rows[i]
                _weighted_sums(w[model], seen, nothing, code, count)
                _weighted_sums(transposed[model], code, b[model], error, count)
                for i in range(features):
                    line, wanted, weight = error[i], goal[i], share * loss_weights[model, i]
                    total = np.float32(0)
                    squares = np.float32(0)
                    for r in range(count):
                        # Where the ReLU is shut its output is 0 and passes no gradient.
                        is_open = line[r] > 0 or not relu
                        miss = (line[r] if is_open else np.float32(0)) - wanted[r]
                        squares += miss * miss
                        line[r] = weight * miss if is_open else np.float32(0)
                        total += line[r]
                    gradient_b[model, i] += total
                    loss[model] += squares * weight / 2
                _weighted_sums(w[model], error, nothing, back, count)
                _add_products(code, error, back, seen, gradient_w[model], count)
        for model in range(models):
            if penalty > 0:
                loss[model] += _add_penalty(w[model], penalty, gradient_w[model])
        number = done + step + 1
        _adamw(w.ravel(), gradient_w.ravel(), first[0].ravel(), second[0].ravel(), number, rate, decay)
        _adamw(b.ravel(), gradient_b.ravel(), first[1].ravel(), second[1].ravel(), number, rate, decay)
