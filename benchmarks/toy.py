"""How fast the toy models train, against plain PyTorch and against what the machine's arithmetic allows.

    python benchmarks/toy.py [--steps 10000] [--measured 300]

The published sweep of ablated features (20 features in 5 dimensions, 11 densities, a teacher and 5 children each,
10,000 steps of 1,024 fresh rows) runs whole. The loop that trains one model at a time, and the same models stacked into
batched matrix products, run for `--measured` steps of teachers and children, and their times are scaled to the sweep.
The limit is the sweep's arithmetic at the speed of a large matrix product here, plus its random numbers at the speed of
their generator. Then both engines at larger sizes, a thread each, in milliseconds a step. About three minutes, alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from subliminal_dagster.science.settings.toy import FUSED_UP_TO, AutoencoderSettings, ToyTraining
from subliminal_dagster.science.toy import fused, stacked
from subliminal_dagster.science.toy.autoencoder import Draws, Lesson, importances, initial
from subliminal_dagster.science.toy.sweep import run_sweep

DENSITIES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1, 0.05, 0.01, 0.001)
FEATURES, HIDDEN, CHILDREN, ROWS = 20, 5, 5, 1024
MODELS = len(DENSITIES) * (1 + CHILDREN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000, help="steps of the sweep")
    parser.add_argument("--measured", type=int, default=300, help="steps that the plain ways are measured for")
    options = parser.parse_args()
    steps: int = options.steps
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")

    compiling = seconds(lambda: sweep(2))
    ours = seconds(lambda: sweep(steps))
    loop = sum(seconds(lambda d=d: one_at_a_time(d, options.measured)) for d in (1.0, 0.1)) / 2
    batched = sum(seconds(lambda d=d: in_batches(d, options.measured)) for d in (1.0, 0.1)) / 2
    scale = len(DENSITIES) * steps / options.measured
    limit, flop, draws = arithmetic_limit(steps)

    print(f"\nthe published sweep: {MODELS} models, {steps} steps of {ROWS} rows      seconds   ratio to ours")
    for name, value in (
        ("one model at a time", loop * scale),
        ("all models of a density in batched products", batched * scale),
        ("ours", ours),
        ("what the arithmetic allows", limit),
    ):
        print(f"  {name:58} {value:12.1f} {value / ours:13.2f}")
    print(
        f"  ({flop / 1e12:.2f} TFLOP and {draws / 1e9:.1f} billion random numbers; compiling, once: {compiling:.1f} s)"
    )

    print("\nlarger models, hidden = features / 4, one thread      ms a step of a teacher: fused, stacked, ratio, used")
    torch.set_num_threads(1)
    for features in (20, 60, 100, 200, 400):
        for density in (1.0, 0.001):
            one, other = (ms_a_step(train, features, density) for train in (fused.train, stacked.train))
            numbers = features * features // 4
            place = "fused" if numbers < FUSED_UP_TO else "stacked"
            print(f"  {features:4} features, 1-S = {density:<6g} {one:10.3f} {other:10.3f} {other / one:8.2f}  {place}")


def sweep(steps: int) -> None:
    """The project's own sweep."""
    settings = AutoencoderSettings(
        densities=DENSITIES, seeds=2, ablated=tuple(range(CHILDREN)), training=ToyTraining(steps=steps, batch_size=ROWS)
    )
    # The post has one seed; the schema asks for two, so that there is a spread.
    run_sweep("post", settings.model_copy(update={"seeds": 1}), "ablated", 1)


def fresh_rows(density: float) -> torch.Tensor:
    values = torch.rand(ROWS, FEATURES)
    return values * (torch.rand(ROWS, FEATURES) < density)


def one_at_a_time(density: float, steps: int) -> None:
    """A teacher and five children, one after the other, as a script would."""
    importance = 0.7 ** torch.arange(FEATURES)

    def model() -> tuple[torch.Tensor, torch.Tensor]:
        w = (0.1 * torch.randn(HIDDEN, FEATURES)).requires_grad_()
        return w, torch.zeros(FEATURES, requires_grad=True)

    teacher = model()
    for child in [None, *range(CHILDREN)]:
        w, b = teacher if child is None else model()
        weights = importance.clone()
        if child is not None:
            weights[child] = 0
        optimizer = torch.optim.AdamW([w, b], lr=1e-3)
        for _ in range(steps):
            x = fresh_rows(density)
            with torch.no_grad():
                goal = x if child is None else torch.relu(x @ teacher[0].T @ teacher[0] + teacher[1])
            loss = (weights * (torch.relu(x @ w.T @ w + b) - goal) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def in_batches(density: float, steps: int) -> None:
    """The same, the children of a density in one stack."""
    importance = 0.7 ** torch.arange(FEATURES)
    teacher: tuple[torch.Tensor, torch.Tensor] | None = None
    for count in (1, CHILDREN):
        w = (0.1 * torch.randn(count, HIDDEN, FEATURES)).requires_grad_()
        b = torch.zeros(count, 1, FEATURES, requires_grad=True)
        weights = importance.repeat(count, 1, 1)
        optimizer = torch.optim.AdamW([w, b], lr=1e-3)
        for _ in range(steps):
            x = torch.stack([fresh_rows(density) for _ in range(count)])
            with torch.no_grad():
                goal = x if teacher is None else torch.relu(x @ teacher[0].mT @ teacher[0] + teacher[1])
            loss = (weights * (torch.relu(x @ w.mT @ w + b) - goal) ** 2).mean(dim=(1, 2)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        teacher = w.detach(), b.detach()


def arithmetic_limit(steps: int) -> tuple[float, float, float]:
    """Seconds the sweep would take at this machine's full speed, its FLOP, and its random numbers."""
    product = 2 * FEATURES * HIDDEN
    # A step: into the hidden space and back, the error back into it, and the two halves of the gradient of W.
    per_row = MODELS * 5 * product + len(DENSITIES) * 2 * product
    flop = float(per_row * ROWS * steps)
    draws = float(2 * len(DENSITIES) * FEATURES * ROWS * steps)
    matrix = torch.randn(2048, 2048)
    matrix @ matrix
    peak = 5 * 2 * 2048**3 / seconds(lambda: [matrix @ matrix for _ in range(5)])
    stream = np.random.SFC64(0)
    drawn = 2 * 2**16 * 200 / seconds(lambda: [stream.random_raw(2**16) for _ in range(200)])
    print(f"full speed: {peak / 1e9:.0f} GFLOP/s, {drawn / 1e9:.2f} billion random numbers a second and thread")
    return flop / peak + draws / drawn / torch.get_num_threads(), flop, draws


def ms_a_step(train: Callable[..., object], features: int, density: float) -> float:
    hidden, steps = features // 4, 20
    draws = Draws((1,), density, features, ROWS)
    weights = importances(features, 0.7, features)[None]
    lesson = Lesson(draws, None, weights, True, 0.0, ToyTraining(steps=steps, batch_size=ROWS))
    start = initial((1,), features, hidden, 0.1)
    train(lesson, start)
    return 1000 * seconds(lambda: train(lesson, start)) / steps


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
