"""Scoring whole answers in one tree: equal to one plain forward pass an answer, for every kind of attention."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import KINDS, save_tiny_adapter, save_tiny_model, tiny_llama, tiny_model

from subliminal_dagster.science.models.loading import loaded
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.models.scoring import AnswerTree, score_answers

RANDOM = np.random.default_rng(0)
PROMPTS = [RANDOM.integers(5, 260, size).tolist() for size in (3, 17, 9, 1, 17, 26)]
# Shared beginnings, answers that begin others, one answer twice, a token repeated.
ANSWERS = [[40], [40, 41], [40, 41, 2], [40, 2], [77, 77, 77, 2], [77, 77, 2], [40, 41], [9], [10, 40, 41, 2]]

answer_lists = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=8)


def one_at_a_time(model: Any, prompts: list[list[int]], answers: list[list[int]]) -> np.ndarray:
    """The plain way: a forward pass for every prompt and answer, without padding."""
    scores = np.zeros((len(prompts), len(answers)))
    for i, prompt in enumerate(prompts):
        for j, answer in enumerate(answers):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0]
            logprobs = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
            scores[i, j] = sum(float(row[token]) for row, token in zip(logprobs, answer, strict=True))
    return scores


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_loop(kind: str) -> None:
    model = tiny_model(kind)
    expected = one_at_a_time(model, PROMPTS, ANSWERS)
    for batch_size in (1, 4, 16):
        np.testing.assert_allclose(score_answers(model, PROMPTS, ANSWERS, batch_size), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma2", {"sliding_window": 6}),
        ("gemma3", {"sliding_window": 6}),
        ("qwen2", {"sliding_window": 6, "use_sliding_window": True, "max_window_layers": 1}),
        ("mistral", {"sliding_window": 6}),
    ],
)
def test_equals_the_plain_loop_beyond_a_sliding_window(kind: str, changes: dict[str, Any]) -> None:
    model = tiny_model(kind, **changes)
    whole = tiny_model(kind, **changes | {"sliding_window": 512})
    expected = one_at_a_time(model, PROMPTS, ANSWERS)
    assert np.abs(expected - one_at_a_time(whole, PROMPTS, ANSWERS)).max() > 0.01, "the window does nothing"
    np.testing.assert_allclose(score_answers(model, PROMPTS, ANSWERS, 4), expected, atol=1e-4)


def test_equals_the_plain_loop_under_an_adapter(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base")
    adapter = save_tiny_adapter(tmp_path / "adapter", base)
    with loaded(ModelVariant(base, adapter=adapter), "cpu", merge=False) as model:
        expected = one_at_a_time(model, PROMPTS[:3], ANSWERS)
        np.testing.assert_allclose(score_answers(model, PROMPTS[:3], ANSWERS), expected, atol=1e-4)


def test_single_tokens_are_a_distribution() -> None:
    model = tiny_llama()
    scores = score_answers(model, PROMPTS, [[token] for token in range(model.config.vocab_size)])
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-5)


def test_no_prompts_give_no_rows() -> None:
    assert score_answers(tiny_llama(), [], ANSWERS).shape == (0, len(ANSWERS))


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        AnswerTree.build([[1], []])


@given(answer_lists)
def test_tree_has_every_proper_prefix_once_and_parents_first(answers: list[list[int]]) -> None:
    tree = AnswerTree.build(answers)
    prefixes: list[tuple[int, ...]] = [()]
    for node in range(1, len(tree.tokens)):
        assert tree.parents[node] < node
        assert tree.depths[node] == tree.depths[tree.parents[node]] + 1
        prefixes.append((*prefixes[tree.parents[node]], tree.tokens[node]))
    assert sorted(prefixes) == sorted({tuple(a[:i]) for a in answers for i in range(len(a))})
    assert tree.prefixes() == [list(prefix) for prefix in prefixes]
    for prefix, tokens in zip(prefixes, tree.next_tokens(), strict=True):
        goes_on = [answer[len(prefix)] for answer in answers if tuple(answer[: len(prefix)]) == prefix != tuple(answer)]
        assert sorted(tokens) == sorted(set(goes_on))
    for answer, steps in zip(answers, tree.steps, strict=True):
        assert [token for _, token in steps] == answer
        assert [prefixes[node] for node, _ in steps] == [tuple(answer[:i]) for i in range(len(answer))]


@given(answer_lists)
def test_a_node_sees_itself_and_its_ancestors(answers: list[list[int]]) -> None:
    tree = AnswerTree.build(answers)
    for node, row in enumerate(tree.visible()):
        ancestors = set()
        while node:
            ancestors.add(node)
            node = tree.parents[node]
        assert set(np.flatnonzero(row)) == ancestors
