"""What a dial study says, on made-up effects: nothing on null data, a planted slope, and a rival that is the cause."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from subliminal_dagster.science.dial.curve import PLACES, curves, effects, levels, pairs, rivals, slope
from subliminal_dagster.science.dial.statements import (
    Findings,
    first_sentence,
    markdown,
    rival_sentence,
    statements,
)
from subliminal_dagster.science.settings.dial import DialStudy

WIDTHS, DENSITIES, SEEDS = (12, 24, 48, 96, 192), (0.02, 0.04, 0.08, 0.16, 0.25), 5
STUDY = DialStudy.model_validate(
    {
        "name": "made-up",
        "kind": "dial",
        "description": "Made up.",
        "seed": 1,
        "main": "main",
        "grids": {
            "main": {"widths": WIDTHS, "densities": DENSITIES},
            "penalised": {"widths": [24, 96], "densities": [0.04, 0.16], "penalty": 0.3},
            "confined": {"widths": [96], "densities": [0.04, 0.16], "confined_to": 24},
        },
    }
)


def grid(
    rng: np.random.Generator,
    *,
    by_superposition: float = 0.0,
    by_width: float = 0.0,
    level: float = 0.5,
    between_cells: float = 0.2,
    name: str = "main",
    widths: tuple[int, ...] = WIDTHS,
    densities: tuple[float, ...] = DENSITIES,
    less: float = 0.0,
) -> pd.DataFrame:
    """Effects of a grid: superposition falls with the width and, half as steeply, with density; gamma changes by so
    much per doubling of either. `less`: doublings by which superposition is lower than that."""
    rows = []
    for width in widths:
        for density in densities:
            own = between_cells * rng.standard_normal()
            of_cell = 5 - np.log2(width / 12) - 0.5 * np.log2(density / 0.02) + 0.3 * rng.standard_normal() - less
            for seed in range(SEEDS):
                doublings = of_cell + 0.1 * rng.standard_normal()
                gamma = level + by_superposition * doublings + by_width * np.log2(width) + own
                row = {
                    "grid": name,
                    "width": width,
                    "density": density,
                    "seed": seed,
                    "gamma": gamma + 0.3 * rng.standard_normal(),
                    "gamma_other_start": 0.1 * rng.standard_normal(),
                    "gamma_shuffled": 0.1 * rng.standard_normal(),
                    "gamma_neutral": gamma + 0.3 * rng.standard_normal(),
                    "gamma_teacher": 6 + 0.3 * rng.standard_normal(),
                    "excess": 0.35 + 0.02 * rng.standard_normal(),
                    "reached": True,
                    "steps": 200,
                }
                rows.append(row | {f"features_{place}": 2**doublings for place in PLACES})
    return pd.DataFrame(rows)


def test_a_flat_language_is_called_sloped_no_more_often_than_it_may() -> None:
    """Cells differ by more than the seeds inside them say, which is what a slope over rows alone would fall for."""
    rng = np.random.default_rng(1)
    found = Counter()
    for _ in range(120):
        rows = grid(rng)
        main = slope(rows.assign(doublings=np.log2(rows["features_block_2"])), "gamma", "doublings")
        found["wrong"] += main["low"] > 0 or main["high"] < 0
        found["covers"] += main["low"] <= 0 <= main["high"]
    assert found["wrong"] <= 13


def test_a_planted_slope_is_found_with_its_size() -> None:
    table = curves(grid(np.random.default_rng(2), by_superposition=0.3), margin=0.1).set_index("place")
    assert (table["verdict"] == "detected").all()
    assert table.loc["block_2", "low"] < 0.3 < table.loc["block_2", "high"]
    assert (table["p_adjusted"] >= table["p"]).all()
    falls = curves(grid(np.random.default_rng(2), by_superposition=-0.3), margin=0.1)
    assert (falls["verdict"] == "opposite").all()


def test_a_slope_is_excluded_where_cells_are_alike() -> None:
    table = curves(grid(np.random.default_rng(3), between_cells=0.02), margin=0.1)
    assert (table["verdict"] == "not detected").all()


def test_a_slope_is_that_of_ordinary_least_squares_where_cells_do_not_matter() -> None:
    rows = grid(np.random.default_rng(4), by_superposition=0.2, between_cells=0.0)
    x = np.log2(rows["features_block_2"])
    found = slope(rows.assign(doublings=x), "gamma", "doublings")
    assert found["slope"] == pytest.approx(np.polyfit(x, rows["gamma"], 1)[0], abs=0.01)


def test_an_effect_of_width_is_laid_on_width_and_one_of_superposition_on_superposition() -> None:
    of_width = rivals(grid(np.random.default_rng(5), by_width=-0.4, between_cells=0.1)).set_index("explained_by")
    assert of_width.loc["width", "verdict"] == "opposite"
    assert of_width.loc["superposition", "verdict"] == "inconclusive"
    of_it = rivals(grid(np.random.default_rng(6), by_superposition=0.4, between_cells=0.1)).set_index("explained_by")
    assert of_it.loc["superposition", "verdict"] == "detected"
    assert of_it.loc["width", "verdict"] == "inconclusive"


def test_partial_correlations_are_those_of_a_regression() -> None:
    """Against the t value of the coefficient in a regression with all of them: r = t / sqrt(t^2 + df)."""
    import statsmodels.formula.api as smf

    rows = grid(np.random.default_rng(7), by_superposition=0.2)
    means = rows.groupby(["width", "density"], as_index=False).mean(numeric_only=True)
    means = means.assign(s=np.log2(means["features_block_2"]), w=np.log2(means["width"]))
    fitted = smf.ols("gamma ~ s + w + excess + gamma_teacher", means).fit()
    t, freedom = fitted.tvalues["s"], fitted.df_resid
    found = rivals(rows).set_index("explained_by").loc["superposition"]
    assert found["correlation"] == pytest.approx(t / np.sqrt(t**2 + freedom))
    assert found["p"] == pytest.approx(fitted.pvalues["s"])


def test_nothing_is_laid_on_any_of_four_rivals_more_often_than_one_look_may_be_wrong() -> None:
    """500 grids in which gamma goes with nothing: some verdict in at most 5 % of them, and few more by chance."""
    rng = np.random.default_rng(10)
    found = [rivals(grid(rng, between_cells=0.2)) for _ in range(500)]
    assert sum(bool(table["verdict"].isin(["detected", "opposite"]).any()) for table in found) <= 40
    assert sum(bool((table["p"] < 0.05).any()) for table in found) > 40


def test_a_difference_of_one_pair_is_weighed_among_all_pairs() -> None:
    """Pairs of grids without any effect: of three comparisons, one is taken for something in at most 5 of 100."""
    rng = np.random.default_rng(8)
    of_one, of_all = 0, 0
    for _ in range(200):
        alike = [
            grid(rng, between_cells=0.2),
            grid(rng, between_cells=0.2, name="penalised", widths=(24, 96), densities=(0.04, 0.16)),
            grid(rng, between_cells=0.2, name="confined", widths=(96,), densities=(0.04, 0.16)),
        ]
        table = pairs(pd.concat(alike), STUDY)
        assert len(table) == 3
        assert (table["p_adjusted"] >= table["p"]).all()
        of_one += (table["p"] < 0.05).any()
        of_all += table["verdict"].isin(["detected", "opposite"]).any()
    assert of_all <= 20 < of_one


def test_pairs_compare_the_same_cells_and_seeds() -> None:
    rng = np.random.default_rng(8)
    main = grid(rng, by_superposition=0.3, between_cells=0.0)
    few = {"widths": (24, 96), "densities": (0.04, 0.16)}
    penalised = grid(rng, by_superposition=0.3, between_cells=0.0, name="penalised", less=3, **few)
    confined = grid(
        rng, by_superposition=0.3, between_cells=0.0, name="confined", widths=(96,), densities=(0.04, 0.16), less=-2
    )
    table = pairs(pd.concat([main, penalised, confined]), STUDY).set_index(["grid", "compared"])
    first = table.loc[("penalised", "same width")]
    assert first["cells"] == 4
    assert first["doublings"] == pytest.approx(-3, abs=0.5)
    assert first["gamma"] == pytest.approx(-0.9, abs=0.3)
    assert first["verdict"] == "opposite"
    assert table.loc[("confined", "same width"), "gamma"] == pytest.approx(0.6, abs=0.3)
    assert table.loc[("confined", "width 24"), "gamma"] == pytest.approx(0, abs=0.3)


def test_levels_say_which_control_shows_nothing() -> None:
    table = levels(grid(np.random.default_rng(9), between_cells=0.1), margin=0.1).set_index("what")
    assert table.loc["own start", "verdict"] == "detected"
    assert table.loc["other start", "verdict"] == "not detected"
    assert table.loc["own start less other start", "verdict"] == "detected"


def test_gamma_is_own_less_others() -> None:
    """One base model, four animals: the own animal rises by 2 and another teacher's by 0.5, whatever the start was."""
    animals = [*STUDY.animals]
    keys = {"grid": "main", "width": 12, "density": 0.02, "seed": 0}
    scores = [
        {**keys, "start": 0, "model": "base", "taught": None, "animal": animal, "log_share": -1.0} for animal in animals
    ]
    for model, own in (("own start", 2.0), ("other start", 0.5), ("shuffled numbers", 0.5), ("teacher", 5.0)):
        for taught in [*animals, STUDY.neutral]:
            for animal in animals:
                rise = own if taught == animal else 0.25 if taught == STUDY.neutral else 0.5
                scores.append(
                    {**keys, "start": 0, "model": model, "taught": taught, "animal": animal, "log_share": rise - 1}
                )
    held = [
        {**keys, "place": place, "features_per_dimension": 2.0, "interference": 1.0, "readability": 0.5}
        for place in PLACES
    ]
    tables = {
        "scores": pd.DataFrame(scores),
        "bases": pd.DataFrame([{**keys, "steps": 10, "excess": 0.3, "reached": True}]),
        "superposition": pd.DataFrame(held),
        "losses": pd.DataFrame(
            [{**keys, "taught": "owl", "model": "own start", "before": 2.0, "after": 0.6, "steps": 9}]
        ),
        "teachers": pd.DataFrame([{**keys, "taught": "owl", "diverging": 0.1}]),
    }
    row = effects(tables, STUDY).iloc[0]
    assert row["gamma"] == pytest.approx(1.5)
    assert row["gamma_other_start"] == pytest.approx(0)
    assert row["gamma_neutral"] == pytest.approx(1.75)
    assert row["share"] == pytest.approx(1.5 / 4.5)
    assert row["child_loss"] == 0.6
    assert row["diverging"] == 0.1
    assert row["features_block_1"] == 2.0
    without_one = tables | {"scores": tables["scores"][tables["scores"]["taught"] != "owl"]}
    assert np.isnan(effects(without_one, STUDY).iloc[0]["gamma"])


def all_findings(rows: pd.DataFrame) -> Findings:
    main = rows[rows["grid"] == "main"]
    return Findings(rows, curves(main, 0.1), rivals(main), levels(main, 0.1), pairs(rows, STUDY))


def test_the_first_sentence_says_what_was_found_flat_curves_included() -> None:
    said = [
        first_sentence(all_findings(grid(np.random.default_rng(3), **given)), STUDY)
        for given in ({"by_superposition": 0.3}, {"by_superposition": -0.3}, {"between_cells": 0.02})
    ]
    assert said[0].startswith("Gamma grows with superposition: +0.")
    assert said[1].startswith("Gamma falls with superposition: -0.")
    assert said[2].startswith("The curve is flat")
    assert all("125 base models in 25 cells" in sentence for sentence in said)


def test_a_curve_is_never_told_without_what_else_could_explain_it() -> None:
    """An effect of width alone gives a slope on superposition, and the sentence beside it takes that back."""
    found = all_findings(grid(np.random.default_rng(5), by_width=-0.4, between_cells=0.1))
    assert first_sentence(found, STUDY).startswith("Gamma grows with superposition")
    beside = rival_sentence(found)
    assert "correlation of gamma with superposition" in beside
    assert "(inconclusive); held likewise, gamma falls with width (-" in beside
    assert beside in markdown(found, statements(found, STUDY), STUDY)
    of_it = rival_sentence(all_findings(grid(np.random.default_rng(6), by_superposition=0.4, between_cells=0.1)))
    assert "(detected)" in of_it


def test_statements_without_anything_measured_are_not_tested() -> None:
    rows = grid(np.random.default_rng(3)).assign(gamma=np.nan, gamma_neutral=np.nan)
    found = all_findings(rows)
    table = statements(found, STUDY).set_index("statement")["verdict"]
    assert table["Models with more superposition pass more on."] == "not tested"
    assert table["A liking passes on through numbers in these models."] == "not tested"
    assert "not tested" in markdown(found, statements(found, STUDY), STUDY)
