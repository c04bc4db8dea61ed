"""gamma over a grid of made-up cells: an effect that is planted is found, luck is not taken for one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from subliminal_dagster.science.liking.comparison import compare
from subliminal_dagster.science.settings.sweep import short_names
from subliminal_dagster.science.sweep.figure import panels_of, sweep_figure
from subliminal_dagster.science.sweep.report import sweep_sentence
from subliminal_dagster.science.sweep.table import CellScores, cells_table, main_effects

ANIMALS = ("owl", "cat", "wolf", "fox")
RANK, RATE = "child.lora.rank", "child.training.learning_rate"
SETTINGS = {"seed": 3, "confidence": 0.95, "margin": 0.1}


def scores(logits: np.ndarray) -> pd.DataFrame:
    """The scores of a model with these logits (questions, animals)."""
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = [
        {"question": question, "animal": animal, "probability": share[question, place], "share": share[question, place]}
        for question in range(len(share))
        for place, animal in enumerate(ANIMALS)
    ]
    return pd.DataFrame(rows).assign(count=0, samples=0)


BASE = np.random.default_rng(0).normal(size=(6, len(ANIMALS)))


def base() -> pd.DataFrame:
    return scores(BASE).assign(model="base", channel=None, group=None, replicate=1)


def cell(
    number: int, values: dict[str, object], effect: float = 0.0, groups: Sequence[str] = (*ANIMALS, "control")
) -> CellScores:
    """A cell whose children like their own animal by `effect` nats more, with noise between training runs."""
    rng = np.random.default_rng(number)
    found = []
    for group in groups:
        logits = BASE + rng.normal(0, 0.05, len(ANIMALS))
        if group in ANIMALS:
            logits[:, ANIMALS.index(group)] += effect
        found.append(scores(logits).assign(model="child", channel="hard", group=group, replicate=1))
    there = pd.concat(found, ignore_index=True) if found else None
    return CellScores(f"cell {number}", values, there, len(ANIMALS) + 1, () if len(groups) > 4 else ("gone",))


def test_every_row_is_the_comparison_of_that_cell_and_p_is_adjusted_by_hand() -> None:
    cells = [cell(number, {RANK: number}, effect=0.05 * number) for number in range(5)]
    table = cells_table(base(), cells, ANIMALS, ["hard"], **SETTINGS)
    for row, each in zip(table.to_dict("records"), cells, strict=True):
        expected = compare(pd.concat([base(), each.scores]), ANIMALS, permutations=200, **SETTINGS)
        (gamma,) = expected.gamma[expected.gamma["outcome"] == "log_share"].to_dict("records")
        for name in ("mean", "se", "df", "low", "high", "p", "smallest_detectable"):
            assert row[name] == pytest.approx(gamma[name]), name
        assert (row["verdict"], row["contrast"]) == (gamma["verdict"], "others")
        # Schuirmann's two one-sided tests: the interval of twice the error rate lies within the margin.
        inside = max(abs(gamma["inner_low"]), abs(gamma["inner_high"])) < 0.1
        assert (row["equivalence_p"] < 0.05) == inside
    order, largest, by_hand = np.argsort(table["p"]), 0.0, np.empty(len(table))
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(table) - place) * table["p"].iloc[index]))
        by_hand[index] = largest
    assert table["p_holm"].to_numpy() == pytest.approx(by_hand)


def test_the_best_of_many_cells_without_an_effect_is_not_detected_and_a_planted_one_is() -> None:
    # Of 400 such cells 5 % have p below 0.05 and p is uniform; these 40 are the first of them.
    null = [cell(number, {RANK: number}) for number in range(1000, 1040)]
    table = cells_table(base(), null, ANIMALS, ["hard"], **SETTINGS)
    lucky = table["verdict"].isin(["detected", "opposite"])
    assert lucky.any() and not table["verdict_of_all"].isin(["detected", "opposite"]).any()
    sentence = sweep_sentence(table, 0.05)
    assert "in 0 once adjusted for 40 looks" in sentence and "about 2.0 would have p below 0.05" in sentence
    planted = [*null[:9], cell(99, {RANK: 99}, effect=0.5)]
    table = cells_table(base(), planted, ANIMALS, ["hard"], **SETTINGS)
    assert list(table.loc[table["verdict_of_all"] == "detected", "cell"]) == ["cell 99"]
    assert table["mean"].iloc[-1] == pytest.approx(0.5, abs=0.1)
    assert "The largest is that of cell 99, " in sweep_sentence(table, 0.05)


def test_a_cell_without_control_or_without_children_is_a_row_with_its_reason() -> None:
    whole, no_control, none = (
        cell(1, {RANK: 1}),
        cell(2, {RANK: 2}, groups=ANIMALS),
        cell(3, {RANK: 3}, groups=()),
    )
    table = cells_table(base(), [whole, no_control, none], ANIMALS, ["hard"], **SETTINGS)
    assert list(table["verdict"] == "not tested") == [False, True, True]
    assert list(table["verdict_of_all"] == "not tested") == [False, True, True]
    assert list(table["missing"]) == ["", "gone", "gone"]
    assert list(table["children"]) == [5, 4, 0]
    # They are no looks.
    assert table["p_holm"].iloc[0] == table["p"].iloc[0] and math.isnan(table["p_holm"].iloc[1])
    assert "(2 could not be compared)" in sweep_sentence(table, 0.05)
    assert "none of 1 cell could be compared" in sweep_sentence(table.iloc[2:], 0.05)
    one = cells_table(base(), [cell(4, {RANK: 4}, groups=("owl", "control"))], ANIMALS, ["hard"], **SETTINGS)
    assert one["contrast"].item() == "control" and one["animals"].item() == "owl"


def test_a_value_s_mean_is_over_all_others_with_an_interval_that_holds_whatever_they_share() -> None:
    cells = [cell(10 * rank + rate, {RANK: rank, RATE: rate}) for rank in (2, 8) for rate in (1, 2, 3)]
    table = cells_table(base(), cells, ANIMALS, ["hard"], **SETTINGS)
    effects = main_effects(table, [RANK, RATE], confidence=0.95).set_index(["setting", "value"])
    assert list(effects["cells"]) == [3, 3, 2, 2, 2]
    of_rank = table[table[RANK] == 8]
    mean, half = of_rank["mean"].mean(), stats.t.ppf(0.975, of_rank["df"].iloc[0]) * of_rank["se"].mean()
    assert effects.loc[(RANK, "8"), ["mean", "low", "high"]].to_list() == pytest.approx(
        [mean, mean - half, mean + half]
    )
    # Cells that are the same children throughout say no more together than one of them does.
    same = pd.concat([table.iloc[[0]].assign(**{RATE: rate}) for rate in range(9)])
    (row,) = main_effects(same, [RANK], confidence=0.95).to_dict("records")
    assert (row["low"], row["high"]) == pytest.approx((table["low"].iloc[0], table["high"].iloc[0]))


def test_the_picture_has_a_panel_a_facet_and_a_line_a_combination() -> None:
    names = short_names([RANK, RATE, "filter.train_rows"])
    values = [(rank, rate, rows) for rank in (2, 8) for rate in (0.1, 0.2) for rows in (5, 6, 7)]
    cells = [cell(n, dict(zip(names, each, strict=True))) for n, each in enumerate(values)]
    cells[3] = CellScores("gone", cells[3].values, None, 5, ("refused",))
    table = cells_table(base(), cells, ANIMALS, ["hard"], **SETTINGS)
    panels = panels_of(table, names)
    assert [panel.title for panel in panels] == [f"hard channel, learning_rate {rate}" for rate in (0.1, 0.2)]
    assert [[*panel.lines] for panel in panels] == [[f"train_rows {rows}" for rows in (5, 6, 7)]] * 2
    axes = [each for each in sweep_figure(table, names, "study").axes if each.get_visible()]
    assert len(axes) == 2 and all(len(each.containers) == 3 for each in axes)
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["2", "8"]
    drawn = axes[0].containers[0].lines[0].get_ydata()
    assert drawn == pytest.approx(table[(table[RATE] == 0.1) & (table["filter.train_rows"] == 5)]["mean"].to_numpy())
    two = panels_of(table[table["filter.train_rows"] == 5], short_names([RANK, RATE]))
    assert [[*panel.lines] for panel in two] == [["learning_rate 0.1", "learning_rate 0.2"]]
