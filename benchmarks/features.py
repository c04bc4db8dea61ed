"""The test of all SAE features at once, against scipy's, in time and memory, measured in one run.

    python benchmarks/features.py [--rows 8000] [--features 16384] [--l0 60] [--loop 200] [--permutations 100]

Random sparse rows of the post's size: as many of a group as of the control, each with about `--l0` of the features, a
few of which fire often and most rarely. Compared: Welch's test of all features here; scipy's, a dense column at a time,
on `--loop` features spread over all, scaled to all of them; and scipy's on dense blocks of 1,024 columns (the whole
dense matrices would take 2 GB). The three must agree. Then the shuffled labels, and the whole comparison of two groups.
Peak memory is what is allocated on top of the inputs.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.sparse import csr_array, vstack

from subliminal_dagster.science.activations.activations import SparseFeatures
from subliminal_dagster.science.features.shifts import compare_groups, counts_under_labels, shuffled_labels, welch

_COLUMNS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--l0", type=int, default=60)
    parser.add_argument("--loop", type=int, default=200)
    parser.add_argument("--permutations", type=int, default=100)
    options = parser.parse_args()
    rows, features = options.rows, options.features
    own, control = (random_rows(rows, features, options.l0, seed) for seed in (1, 2))
    print(f"{rows} + {rows} rows, {features} features, L0 {own.nnz / rows:.1f} and {control.nnz / rows:.1f}")

    welch(own, control)  # loads what is loaded once
    ours, t = measured(lambda: welch(own, control)[0], repeats=5)
    some = np.linspace(0, features - 1, options.loop).astype(int)
    warnings.simplefilter("ignore", RuntimeWarning)  # features that never fire have no variance
    loop, t_loop = measured(lambda: one_by_one(own, control, some))
    dense, t_dense = measured(lambda: in_blocks(own, control))
    for name, found, expected in (("feature by feature", t[some], t_loop), ("dense blocks", t, t_dense)):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9, err_msg=name)
    loop *= features / len(some)

    print("\ntest of all features                     seconds   ratio to ours")
    for name, value in (
        ("ours", ours),
        (f"scipy by feature ({len(some)} measured)", loop),
        ("scipy, dense blocks", dense),
    ):
        print(f"  {name:36} {value:9.3f} {value / ours:13.1f}")
    print(f"  peak memory: ours {peak(lambda: welch(own, control)):.0f} MB, ", end="")
    print(f"dense blocks {peak(lambda: in_blocks(own, control)):.0f} MB")

    pooled = csr_array(vstack([own, control], format="csr"))
    pooled = pooled[:, np.flatnonzero(np.bincount(pooled.indices, minlength=features))]
    labels = shuffled_labels(rows, rows, options.permutations, seed=0)
    shuffled, _ = measured(lambda: counts_under_labels(pooled, labels))
    memory = peak(lambda: counts_under_labels(pooled, labels))
    print(f"\n{options.permutations} shuffled labellings: {shuffled:.2f} s, ", end="")
    print(f"{1000 * shuffled / options.permutations:.1f} ms each; peak memory {memory:.0f} MB")

    groups = [table(matrix) for matrix in (own, control)]
    whole, _ = measured(lambda: compare_groups(*groups, [], permutations=options.permutations, seed=0))
    print(f"compare_groups with {options.permutations} permutations: {whole:.2f} s")


def random_rows(rows: int, features: int, l0: int, seed: int) -> csr_array:
    """Firing rates fall with the feature's rank as 1 / rank, at most 0.9, and are scaled to the mean L0."""
    rng = np.random.default_rng(seed)
    ranks = 1 / np.arange(1, features + 1)
    low, high = 0.0, float(features)
    for _ in range(60):
        scale = (low + high) / 2
        low, high = (scale, high) if np.minimum(0.9, scale * ranks).sum() < l0 else (low, scale)
    counts = rng.binomial(rows, np.minimum(0.9, low * ranks))
    columns = np.repeat(np.arange(features), counts)
    places = np.concatenate([rng.choice(rows, count, replace=False) for count in counts])
    values = rng.exponential(5.0, len(columns)).astype(np.float32)
    return csr_array((values, (places, columns)), shape=(rows, features))


def table(matrix: csr_array) -> SparseFeatures:
    rows = matrix.shape[0]
    error = np.random.default_rng(0).random(rows).astype(np.float32)
    return SparseFeatures(pd.DataFrame({"row_id": range(rows), "split": "analysis", "error": error}), matrix)


def one_by_one(own: csr_array, control: csr_array, some: np.ndarray) -> np.ndarray:
    by_column = [matrix.tocsc() for matrix in (own, control)]
    found = []
    for feature in some:
        sides = [matrix[:, [feature]].toarray().ravel().astype(np.float64) for matrix in by_column]
        found.append(stats.ttest_ind(*sides, equal_var=False, alternative="greater").statistic)
    return np.array(found)


def in_blocks(own: csr_array, control: csr_array) -> np.ndarray:
    by_column = [matrix.tocsc() for matrix in (own, control)]
    found = []
    for start in range(0, own.shape[1], _COLUMNS):
        sides = [matrix[:, start : start + _COLUMNS].toarray().astype(np.float64) for matrix in by_column]
        found.append(stats.ttest_ind(*sides, equal_var=False, alternative="greater").statistic)
    return np.concatenate(found)


def measured(work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Seconds of the fastest of `repeats` runs, and the result."""
    times, result = [], None
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
    return min(times), result


def peak(work: Callable[[], Any]) -> float:
    """Megabytes allocated at the most while it runs, on top of what was there."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 1e6


if __name__ == "__main__":
    main()
