"""A child's liking over its epochs: the table against plain sums, and the figure."""

import numpy as np
import pandas as pd
import pytest

from subliminal_dagster.science.liking.checkpoints import (
    PROBABILITY,
    SAMPLED,
    SHIFT,
    liking_by_epoch,
)
from subliminal_dagster.science.liking.checkpoints_figure import checkpoints_figure


def scores(rng: np.random.Generator, samples: int = 10) -> pd.DataFrame:
    rows = []
    for question in range(6):
        probabilities = rng.uniform(0.01, 0.1, 3)
        for animal, probability in zip(("cat", "owl", "wolf"), probabilities, strict=True):
            share = probability / probabilities.sum()
            count = rng.integers(0, samples + 1)
            rows.append((question, animal, probability, share, count, samples))
    frame = pd.DataFrame(rows, columns=["question", "animal", "probability", "share", "count", "samples"])
    # In whatever order: rows of base and child are paired by question.
    return frame.sample(frac=1, random_state=int(rng.integers(100))).reset_index(drop=True)


def test_the_table_has_each_epoch_beside_the_base() -> None:
    rng = np.random.default_rng(0)
    base, first, second = (scores(rng) for _ in range(3))
    table = liking_by_epoch(base, {1: first, 2: second}, ["owl", "cat"])
    assert list(table["epoch"].unique()) == [0, 1, 2] and len(table) == 3 * 2 * 3
    own = table[(table["animal"] == "owl") & (table["epoch"] == 2)].set_index("measure")
    mine = second[second["animal"] == "owl"].set_index("question").sort_index()
    before = base[base["animal"] == "owl"].set_index("question").sort_index()
    shift = np.log(mine["share"] / before["share"])
    assert own.loc[SHIFT, "mean"] == pytest.approx(shift.mean())
    half = 2.5705818 * shift.std(ddof=1) / np.sqrt(6)  # t of 5 degrees of freedom at 97.5 %
    assert own.loc[SHIFT, "high"] - own.loc[SHIFT, "mean"] == pytest.approx(half)
    assert own.loc[PROBABILITY, "mean"] == pytest.approx(mine["probability"].mean())
    assert own.loc[SAMPLED, "mean"] == pytest.approx(mine["count"].sum() / 60)
    assert (table.loc[(table["epoch"] == 0) & (table["measure"] == SHIFT), ["mean", "low", "high"]] == 0).all(axis=None)


def test_without_samples_there_is_no_rate() -> None:
    rng = np.random.default_rng(1)
    table = liking_by_epoch(scores(rng, 0), {1: scores(rng, 0)}, ["owl"])
    assert SAMPLED not in set(table["measure"])


@pytest.mark.parametrize("target", ["owl", None, "violin"])
def test_the_figure_has_a_panel_per_measure_and_a_line_per_animal(target: str | None) -> None:
    rng = np.random.default_rng(2)
    table = liking_by_epoch(scores(rng), {1: scores(rng), 2: scores(rng)}, ["owl", "cat", "wolf"])
    figure = checkpoints_figure(table, target, "title")
    assert [axes.get_ylabel() for axes in figure.axes] == [PROBABILITY, SHIFT, SAMPLED]
    assert all(len(axes.get_lines()) == 4 for axes in figure.axes)  # three animals and the base's level
