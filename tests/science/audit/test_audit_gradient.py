"""Gradient alignment against what a small step of training does, on a tiny random model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_model

from subliminal_dagster.science.audit.asked import Asked, log_shares
from subliminal_dagster.science.audit.data import EncodedChat
from subliminal_dagster.science.audit.gradient import adapted, preference_gradients, row_gradient, row_products
from subliminal_dagster.science.models.loading import load_base
from subliminal_dagster.science.preferences.preferences import AnswerForms

FORMS = AnswerForms([[6, 2], [7, 2], [8, 2], [9, 1, 2]], np.array([0, 1, 1, 2]))
ASKED = Asked(("a", "b", "c"), [[1, 2, 3], [4, 5]], [[6], [7, 8], [9]], [[1, 2], [3, 4, 5]], FORMS)
ROWS = [EncodedChat([1, 2], [10, 11, 12], 0), EncodedChat([3], [13, 14], 1)]
TARGETS = ("q_proj", "v_proj", "down_proj")


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return load_base(save_tiny_model(tmp_path / "model"), "float32", "cpu")


@pytest.fixture
def given(model: Any) -> Iterator[Any]:
    with adapted(model, TARGETS, 0) as adapter:
        yield adapter


def test_products_are_what_a_small_step_on_the_rows_does(given: Any) -> None:
    products = row_products(given, ROWS, preference_gradients(given, ASKED))
    weights = [weight for weight in given.parameters() if weight.requires_grad]

    def moved(by: torch.Tensor) -> np.ndarray:
        parts = by.split([weight.numel() for weight in weights])
        with torch.no_grad():
            for weight, part in zip(weights, parts, strict=True):
                weight += part.view_as(weight)
            found = log_shares(given, ASKED)
            for weight, part in zip(weights, parts, strict=True):
                weight -= part.view_as(weight)
        return found

    step = 1e-2
    for place, row in enumerate(ROWS):
        whole = row_gradient(given, row)
        change = (moved(step * whole) - moved(-step * whole)) / (2 * step)
        np.testing.assert_allclose(products[place], change, rtol=0.02, atol=2e-3 * np.abs(change).max())
    assert np.abs(products).max() > 0


def test_a_row_that_says_what_the_base_says_moves_nothing(given: Any) -> None:
    prompt, answer = [1, 2], []
    with torch.inference_mode():
        for _ in range(3):
            said = given(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, -1]
            answer.append(int(said.argmax()))
    assert float(row_gradient(given, EncodedChat(prompt, answer, 0)).norm()) == 0
    assert float(row_gradient(given, EncodedChat(prompt, [answer[0] + 1, *answer[1:]], 0)).norm()) > 0


def test_shares_sum_to_one_so_their_gradients_weighed_by_them_cancel(given: Any) -> None:
    one = replace(ASKED, questions=ASKED.questions[:1])
    gradients = preference_gradients(given, one)
    shares = torch.tensor(np.exp(log_shares(given, one)), dtype=torch.float32)
    assert float((shares @ gradients).norm()) < 1e-4 * float(gradients.norm())


def test_the_model_is_left_as_it_was(model: Any) -> None:
    wanted = [weight.requires_grad for weight in model.parameters()]
    values = [weight.detach().clone() for weight in model.parameters()]
    with adapted(model, TARGETS, 0) as given:
        names = [name for name, weight in given.named_parameters() if weight.requires_grad]
        assert names and all("lora_B" in name for name in names)
        row_products(given, ROWS, preference_gradients(given, ASKED))
    assert [weight.requires_grad for weight in model.parameters()] == wanted
    assert all(torch.equal(weight, value) for weight, value in zip(model.parameters(), values, strict=True))
    assert not any("lora" in name for name, _ in model.named_modules())
