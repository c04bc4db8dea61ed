"""How much faster seeds train together than one after another, and how far a step is from what the processor can do.

    python benchmarks/dial.py [--seeds 5] [--steps 20]

One line per width: a step of all seeds at once, the same steps one model at a time, their ratio, and the share of the
rate of a plain matrix product (in the same run, of one thread) that the step's arithmetic reaches: 6 operations a
weight and word, the rest being small operations of many kinds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from subliminal_dagster.science.dial.language import Language
from subliminal_dagster.science.dial.stack import Stack, Training, new_stack, train

ROWS = 64


def seconds(call: Callable[[], object]) -> float:
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def step_seconds(stack: Stack, rows: np.ndarray, steps: int) -> float:
    ids = torch.from_numpy(rows).expand(stack.models, -1, -1)
    return seconds(lambda: train(stack, lambda _: (ids, ids > 0), Training(1e-3, steps))) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    language = Language(1, 0.08, 3)
    square = torch.randn(1024, 1024)
    peak = 2 * 1024**3 / seconds(lambda: square @ square)
    rows = language.corpus(ROWS, np.random.default_rng(0))
    for width in (12, 24, 48, 96, 192):
        many = new_stack(len(language.words), width, list(range(options.seeds)))
        together = step_seconds(many, rows, options.steps)
        alone = step_seconds(many.take([0]), rows, options.steps) * options.seeds
        weights = sum(weight[0].numel() for weight in many.weights.values())
        reached = 6 * weights * rows.size * options.seeds / together / peak
        print(
            f"width {width:3}: {1000 * together:6.1f} ms per step of {options.seeds} models, "
            f"{alone / together:.1f} times as fast as one at a time, {100 * reached:.0f} % of a matrix product's rate"
        )


if __name__ == "__main__":
    main()
