"""What rows are read by that needs no trained model: digits by place, and a model of random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import KINDS, save_tiny_model

from subliminal_dagster.science.activations.activations import collect
from subliminal_dagster.science.activations.digits import NUMBERS, PLACES, digit_columns, digit_name
from subliminal_dagster.science.activations.random_reader import clipped, random_reader
from subliminal_dagster.science.models.chat import load_tokenizer


def test_the_first_ten_columns_are_the_digit_that_ends_the_row() -> None:
    columns = digit_columns([[7, 12, 305], [4]])
    assert [digit_name(column) for column in np.flatnonzero(columns[0])] == [
        "5 as the units of number 1 from the end",
        "0 as the tens of number 1 from the end",
        "3 as the hundreds of number 1 from the end",
        "2 as the units of number 2 from the end",
        "1 as the tens of number 2 from the end",
        "7 as the units of number 3 from the end",
    ]
    assert np.flatnonzero(columns[1]).tolist() == [4]


@given(st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=12), min_size=1, max_size=5))
def test_every_digit_of_the_last_numbers_is_one_column(rows: list[list[int]]) -> None:
    columns = digit_columns(rows)
    assert columns.shape == (len(rows), NUMBERS * PLACES * 10)
    assert columns.sum(axis=1).tolist() == [len("".join(map(str, numbers[-NUMBERS:]))) for numbers in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_reader_reads_as_the_base_model_does_and_knows_nothing_of_it(kind: str, tmp_path: Path) -> None:
    layers = {"layer_types": ["sliding_attention", "full_attention"] * 3} if kind == "gemma3" else {}
    base = save_tiny_model(tmp_path, kind, num_hidden_layers=6, **layers)
    before = torch.get_rng_state()
    model, again, other = (random_reader(base, "float32", "cpu", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert [clipped(model, layer) for layer in (0, 3, 20)] == [0, 3, 3]
    texts = ["1, 2, 3", "1, 2, 4"]
    read = [collect(one, load_tokenizer(base), texts, 3)[1] for one in (model, again, other)]
    np.testing.assert_array_equal(read[0], read[1])
    assert not np.allclose(read[0], read[2])
    assert read[0].shape == (2, 64) and not np.allclose(read[0][0], read[0][1])
