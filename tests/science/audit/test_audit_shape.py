"""Answers in the shape of the data's own, and what a model would choose within it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subliminal_dagster.science.audit.data import EncodedChat
from subliminal_dagster.science.audit.shape import answers_in_shape, choices, shape, token_shapes
from subliminal_dagster.science.models.chat import load_tokenizer
from subliminal_dagster.science.models.loading import load_base

ROWS = [("Go on: 1, 2", "31, 7, 208"), ("the owl", "he owl the"), ("5", "9"), ("7 and 8: the", "1; 2, the 3")]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (" owl", " The", True),
        ("12", "98", True),
        ("12", "7", False),
        (", ", "; ", False),
        ("owl", " owl", False),
        ("Ωμέγα", "the", True),
        ("\u0664", "4", True),
        ("a1b", "xyz2c", True),
        ("\n", "\n\n", False),
    ],
)
def test_words_are_alike_and_so_are_numbers_of_as_many_digits(one: str, other: str, alike: bool) -> None:
    assert (shape(one) == shape(other)) is alike


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return load_tokenizer(tiny_base)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return load_base(tiny_base, "float32", "cpu")


@pytest.fixture(scope="module")
def rows(tokenizer: Any) -> list[EncodedChat]:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return [
        EncodedChat(tokenizer.encode(question), [*tokenizer.encode(answer), end], number)
        for number, (question, answer) in enumerate(ROWS)
    ]


def favourite(model: Any, tokens: list[int], alike: list[int]) -> int:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
    return max(alike, key=lambda token: float(logits[token]))


def test_every_token_is_the_model_s_favourite_of_the_row_s_shape(
    tokenizer: Any, model: Any, rows: list[EncodedChat]
) -> None:
    shapes = token_shapes(tokenizer, model.config.vocab_size)
    by_hand = [[i for i in range(len(shapes)) if shapes[i] == shapes[token]] for row in rows for token in row.answer]
    digits = {tokenizer.convert_tokens_to_ids(digit) for digit in "0123456789"}
    # "3" of "31", the comma, and the end, which is like nothing else.
    assert set(by_hand[0]) == digits and len(by_hand[2]) == 1 and len(by_hand[len(rows[0].answer) - 1]) == 1
    found = answers_in_shape(model, rows, shapes)
    assert [(row.prompt, row.row) for row in found] == [(row.prompt, row.row) for row in rows]
    alike = iter(by_hand)
    for row, own in zip(rows, found, strict=True):
        expected: list[int] = []
        for _ in row.answer:
            expected.append(favourite(model, [*row.prompt, *expected], next(alike)))
        assert own.answer == expected
    assert any(own.answer != row.answer for own, row in zip(found, rows, strict=True))
    texts = [tokenizer.decode(own.answer[:-1]) for own in found]
    assert [shape(text) for text in texts] == [shape(answer) for _, answer in ROWS]


def test_choices_are_within_the_shape_given_the_answer_so_far(
    tokenizer: Any, model: Any, rows: list[EncodedChat]
) -> None:
    shapes = token_shapes(tokenizer, model.config.vocab_size)
    # Every prompt with its own answer, and with another row's.
    both = [[row.answer, other.answer] for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]
    asked = [(row.prompt, answer) for row, answers in zip(rows, both, strict=True) for answer in answers]
    for found, (prompt, answer) in zip(choices(model, [row.prompt for row in rows], both, shapes), asked, strict=True):
        expected = []
        for place, token in enumerate(answer):
            alike = np.flatnonzero(shapes == shapes[token]).tolist()
            expected.append(favourite(model, [*prompt, *answer[:place]], alike))
        assert found.tolist() == expected


def test_a_model_that_wrote_the_rows_writes_them_again(tokenizer: Any, model: Any, rows: list[EncodedChat]) -> None:
    shapes = token_shapes(tokenizer, model.config.vocab_size)
    once = answers_in_shape(model, rows, shapes)
    assert answers_in_shape(model, once, shapes) == once
    of_own = choices(model, [row.prompt for row in once], [[row.answer] for row in once], shapes)
    assert [each.tolist() for each in of_own] == [row.answer for row in once]


def test_ids_that_no_text_belongs_to_are_like_nothing(tokenizer: Any, model: Any) -> None:
    size = model.config.vocab_size + 3
    shapes = token_shapes(tokenizer, size)
    assert shapes.shape == (size,)
    for lonely in (tokenizer.convert_tokens_to_ids("<|im_end|>"), size - 1):
        assert (shapes == shapes[lonely]).sum() == 1
