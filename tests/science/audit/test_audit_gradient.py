"""Gradient alignment against what a small step of training does, on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_model

from subliminal_dagster.science.audit.data import EncodedChat
from subliminal_dagster.science.audit.gradient import (
    differentiable,
    preference_gradients,
    row_products,
    trained_weights,
)
from subliminal_dagster.science.models.loading import load_base

PROMPTS = [[1, 2, 3], [4, 5]]
TOKENS = [[6], [7, 8], [9]]
ROWS = [EncodedChat([1, 2], [10, 11, 12], 0), EncodedChat([3], [13, 14], 1)]


def log_shares(model: torch.nn.Module) -> np.ndarray:
    found = []
    for prompt in PROMPTS:
        with torch.no_grad():
            said = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
        found.append(torch.stack([said[own].logsumexp(0) for own in TOKENS]).log_softmax(0))
    return torch.stack(found).mean(0).numpy()


@pytest.fixture
def model(tmp_path: Path) -> torch.nn.Module:
    loaded: torch.nn.Module = load_base(save_tiny_model(tmp_path / "model"), "float32", "cpu")
    return loaded


def test_products_are_what_a_small_step_on_the_rows_does(model: torch.nn.Module) -> None:
    with differentiable(model):
        preferences = preference_gradients(model, PROMPTS, TOKENS)
        products = row_products(model, ROWS, preferences)
        before, step = log_shares(model), 1e-3
        for place, row in enumerate(ROWS):
            ids = torch.tensor([[*row.prompt, *row.answer]])
            said = model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1].log_softmax(-1)
            loss = said.gather(-1, ids[0, len(row.prompt) :, None]).mean()
            moved = torch.autograd.grad(loss, trained_weights(model))
            with torch.no_grad():
                for weight, by in zip(trained_weights(model), moved, strict=True):
                    weight += step * by
                change = (log_shares(model) - before) / step
                for weight, by in zip(trained_weights(model), moved, strict=True):
                    weight -= step * by
            np.testing.assert_allclose(products[place], change, rtol=0.05, atol=2e-3)


def test_products_are_those_of_each_row_by_itself(model: torch.nn.Module) -> None:
    with differentiable(model):
        preferences = preference_gradients(model, PROMPTS, TOKENS)
        both = row_products(model, ROWS, preferences)
        np.testing.assert_allclose(both[1:], row_products(model, ROWS[1:], preferences), rtol=1e-5)
        # Shares sum to one, so that weighed by them their gradients cancel.
        chances = [np.exp(log_shares(model))]
        assert abs(float(both[0] @ chances[0])) < 0.1 * np.abs(both[0]).max() + 1e-6


def test_the_model_is_left_as_it_was(model: torch.nn.Module) -> None:
    wanted = [weight.requires_grad for weight in model.parameters()]
    values = [weight.detach().clone() for weight in model.parameters()]
    with differentiable(model):
        assert all(weight.requires_grad for weight in trained_weights(model))
        assert not model.get_input_embeddings().weight.requires_grad
        row_products(model, ROWS, preference_gradients(model, PROMPTS, TOKENS))
    assert [weight.requires_grad for weight in model.parameters()] == wanted
    assert all(torch.equal(weight, value) for weight, value in zip(model.parameters(), values, strict=True))
    assert all(weight.grad is None for weight in model.parameters())
