"""The table of all studies: cells of a dial beside layers of language models, each by its own measure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from subliminal_dagster.science.dial.dose import COLUMNS, dial_rows, dose_figure, model_rows

EFFECTS = pd.DataFrame(
    {
        "grid": "main",
        "width": [12, 12, 12, 24],
        "density": 0.1,
        "gamma": [0.4, 0.6, np.nan, 0.2],
        "features_block_2": [4.0, 6.0, 5.0, 2.0],
    }
)
GAMMA = pd.DataFrame({"channel": ["hard"], "mean": [0.3], "low": [0.1], "high": [0.5]})


def test_a_dial_has_a_row_per_cell_with_what_was_measured() -> None:
    rows = dial_rows("dial", EFFECTS)
    assert list(rows.columns) == COLUMNS
    assert rows["where"].tolist() == ["main, width 12, density 0.1", "main, width 24, density 0.1"]
    assert rows["superposition"].tolist() == [5.0, 2.0]
    assert rows["gamma"].tolist() == pytest.approx([0.5, 0.2])
    # t(1) at 97.5 % is 12.7, times the standard error 0.1.
    assert rows["low"][0] == pytest.approx(0.5 - 1.2706, abs=1e-3)
    assert np.isnan(rows["low"][1]), "one model has no interval"


def test_a_language_model_has_a_row_per_layer() -> None:
    rows = model_rows("bundled", {"09": 115.0, "20": 45.0}, GAMMA)
    assert rows["where"].tolist() == ["layer 9, hard", "layer 20, hard"]
    assert rows["gamma"].tolist() == [0.3, 0.3]
    assert set(rows["measured_as"]) != set(dial_rows("dial", EFFECTS)["measured_as"])


def test_each_measure_has_a_panel_and_an_empty_one_says_so() -> None:
    both = dose_figure(pd.concat([dial_rows("dial", EFFECTS), model_rows("bundled", {"09": 115.0}, GAMMA)]))
    assert [len(axes.containers) for axes in both.axes] == [1, 1]
    one = dose_figure(dial_rows("dial", EFFECTS))
    assert [text.get_text() for text in one.axes[1].texts] == ["none measured yet"]
