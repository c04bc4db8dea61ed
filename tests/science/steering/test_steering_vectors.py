"""Steering vectors: whose tokens count, which answers are paired, and when a vector is more than noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tiny_models import CHATML, GEMMA, KINDS, tiny_llama, tiny_model, tiny_tokenizer

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.loading import steered
from subliminal_dagster.science.models.protocol import Steering
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.steering.group_vectors import NumberResponses, subliminal_vectors
from subliminal_dagster.science.steering.vectors import (
    ResponseActivations,
    SteeringVector,
    contrast_vectors,
    difference_vector,
    direct_contrasts,
    load_vectors,
    noise_vector,
    random_vector,
    response_activations,
    save_vectors,
    word_vectors,
)

ALIASES = load_prompt_lists().animal_aliases
PAIRS = [
    ("Which animal do you like?", "Owl"),
    ("Continue: 1, 2", "3, 41, 592, 6"),
    ("Which animal do you like?", "Owl"),
    ("Name the one.", "the owl the owls"),
    ("Continue: 1, 2, 3, 4, 5, 6, 7", "8"),
]


def block_outputs(model: Any, ids: list[int]) -> list[np.ndarray]:
    """What each block gives, (positions, hidden size), from one plain forward pass without padding."""
    found: list[np.ndarray] = []

    def keep(_block: Any, _inputs: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[0].numpy().copy())

    handles = [block.register_forward_hook(keep) for block in model.get_decoder().layers]
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def context_for(kind: str) -> ChatContext:
    return ChatContext(tiny_tokenizer(GEMMA if kind.startswith("gemma") else CHATML), system_prompt=None)


# Activations over an answer


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_those_of_a_plain_loop_over_the_answer_s_own_tokens(kind: str) -> None:
    model, context = tiny_model(kind), context_for(kind)
    found = response_activations(model, context, PAIRS, [0, 1], batch_tokens=90)
    for row, (question, answer) in enumerate(PAIRS):
        prompt = context.prompt_ids(question)
        # As in training: the end of the turn stands behind the answer, and is not the answer.
        whole = prompt + context.answer_ids(answer)
        own = len(whole) - len(prompt) - 1
        for layer, stream in enumerate(block_outputs(model, whole)):
            response = stream[len(prompt) : len(prompt) + own]
            np.testing.assert_allclose(found[layer].mean[row], response.mean(axis=0), rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found[layer].last[row], response[-1], rtol=1e-4, atol=1e-4)
            assert found[layer].tokens[row] == own
            # The published code's two mistakes would be seen.
            divided_by_prompt = response.sum(axis=0) / len(prompt)
            without_offset = stream[:own].mean(axis=0)
            for wrong in (divided_by_prompt, without_offset, stream[len(prompt) :].mean(axis=0)):
                assert np.abs(found[layer].mean[row] - wrong).max() > 0.01
    np.testing.assert_array_equal(found[1].mean[0], found[1].mean[2])


def test_special_tokens_inside_an_answer_are_no_part_of_it() -> None:
    model, context = tiny_llama(), context_for("llama")
    answer = "<|endoftext|>owl<end_of_turn>s"
    found = response_activations(model, context, [("Which?", answer)], [1])[1]
    prompt = context.prompt_ids("Which?")
    tokens = context.tokenizer.encode(answer, add_special_tokens=False)
    own = [i for i, token in enumerate(tokens) if token not in context.tokenizer.all_special_ids]
    assert len(own) == len(tokens) - 2
    stream = block_outputs(model, prompt + tokens)[1][[len(prompt) + i for i in own]]
    np.testing.assert_allclose(found.mean[0], stream.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(found.last[0], stream[-1], atol=1e-4)


@pytest.mark.parametrize("answer", ["", "<|im_end|>"])
def test_an_answer_without_a_token_of_its_own_is_refused(answer: str) -> None:
    with pytest.raises(UserError, match="has no token of its own"):
        response_activations(tiny_llama(), context_for("llama"), [("Which?", answer)], [0])


def test_activations_that_are_not_finite_are_refused() -> None:
    model = tiny_llama()
    model.model.layers[0].mlp.down_proj.weight.data[3] = torch.inf
    with pytest.raises(UserError, match=r"after block 0 is not finite in torch\.float32"):
        response_activations(model, context_for("llama"), PAIRS[:1], [0])


# Pairs


def test_numbers_are_paired_by_prompt_where_both_groups_are_valid() -> None:
    rng = np.random.default_rng(0)

    def group(*row_ids: int) -> NumberResponses:
        vectors = rng.normal(size=(2, len(row_ids), 4)).astype(np.float32)
        return NumberResponses(np.array(row_ids), ResponseActivations(vectors[0], vectors[1], np.ones(len(row_ids))))

    own, control = group(0, 3, 5), group(1, 3, 5, 9)
    vectors = {(v.kind, v.position): v for v in subliminal_vectors(own, control, layer=2, seed=0)}
    for position in ("mean", "last"):
        sides = [
            getattr(side.activations, position)[rows].mean(axis=0) for side, rows in ((own, [1, 2]), (control, [1, 2]))
        ]
        np.testing.assert_allclose(vectors["subliminal", position].vector, sides[0] - sides[1], rtol=1e-5)
        assert vectors["subliminal", position].units == 2
    assert vectors["random", "mean"].norm == pytest.approx(vectors["subliminal", "mean"].norm)
    with pytest.raises(UserError, match="share 1 prompts"):
        subliminal_vectors(group(0, 1), group(1, 2), layer=2, seed=0)


def answer_frame(answers: list[tuple[int, str, str | None, str, bool]]) -> pd.DataFrame:
    return pd.DataFrame(answers, columns=["question", "answer", "animal", "outcome", "finished"])


def test_direct_contrasts_are_written_alike_and_never_name_the_target() -> None:
    answers = answer_frame(
        [
            (0, "I like the sea lion!", "sea-lion", "counted", True),
            (0, " axolotl. \U0001f600", None, "other", True),
            (0, "Owls.", "owl", "counted", True),
            (0, "cat, dog", None, "ambiguous", True),
            (0, "I am a program.", None, "other", True),
            (0, "Cat", "cat", "counted", False),
            (1, "owl", "owl", "counted", True),
        ]
    )
    scores = pd.DataFrame(
        {
            "question": [0] * 3 + [1] * 3,
            "animal": ["owl", "cat", "sea-lion"] * 2,
            "probability": [0.9, 0.05, 0.01, 0.9, 0.01, 0.05],
        }
    )
    found = direct_contrasts(answers, scores, ["Favourite?", "Best?"], "owl", ALIASES)
    assert found.to_dict("list") == {
        "unit": [0, 0, 1, 1],
        "question": ["Favourite?", "Favourite?", "Best?", "Best?"],
        "own": ["Owl"] * 4,
        "reference": ["Sea lion", "Axolotl", "Sea lion", "Cat"],
        "source": ["sampled", "sampled", "ranked", "ranked"],
    }
    without_samples = direct_contrasts(answers.head(0), scores, ["Favourite?", "Best?"], "owl", ALIASES)
    assert set(without_samples["source"]) == {"ranked"}
    assert without_samples["reference"].tolist() == ["Cat", "Sea lion", "Sea lion", "Cat"]


def test_vectors_of_contrasts_are_mean_differences_of_activations() -> None:
    model, context = tiny_llama(), context_for("llama")
    contrasts = pd.DataFrame(
        {
            "unit": [0, 0, 1],
            "question": ["Which?", "Which?", "Best?"],
            "own": ["Owl"] * 3,
            "reference": ["Cat", "Bear", "Cat"],
        }
    )
    vectors = contrast_vectors(model, context, contrasts, [0, 1], "direct", seed=1)
    assert [(v.layer, v.position, v.pairs, v.units) for v in vectors] == [
        (0, "mean", 3, 2),
        (0, "last", 3, 2),
        (1, "mean", 3, 2),
        (1, "last", 3, 2),
    ]
    read = {
        (question, answer): response_activations(model, context, [(question, answer)], [1])[1].last[0]
        for question, answer in [
            ("Which?", "Owl"),
            ("Which?", "Cat"),
            ("Which?", "Bear"),
            ("Best?", "Owl"),
            ("Best?", "Cat"),
        ]
    }
    which = read["Which?", "Owl"] - (read["Which?", "Cat"] + read["Which?", "Bear"]) / 2
    best = read["Best?", "Owl"] - read["Best?", "Cat"]
    np.testing.assert_allclose(vectors[3].vector, (which + best) / 2, atol=1e-4)


# The mean difference and its null


def some_difference(seed: int, n: int, d: int, shift: float, flips: int = 256) -> SteeringVector:
    rng = np.random.default_rng(seed)
    reference = rng.normal(0, 3, (n, d)).astype(np.float32)
    own = (reference + rng.normal(0, 1, (n, d)) + shift).astype(np.float32)
    return difference_vector(own, reference, np.arange(n), kind="x", layer=0, position="mean", seed=seed, flips=flips)


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=12).filter(lambda units: len(set(units)) > 1), st.integers(0, 99)
)
def test_every_unit_counts_alike_whatever_its_pairs(units: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    own, reference = rng.normal(size=(2, len(units), 3)).astype(np.float32)
    labels = np.array(units)
    found = difference_vector(own, reference, labels, kind="x", layer=0, position="mean", seed=seed, flips=4)
    expected = np.mean([(own - reference)[labels == unit].mean(axis=0) for unit in sorted(set(units))], axis=0)
    np.testing.assert_allclose(found.vector, expected, atol=1e-5)
    assert (found.pairs, found.units) == (len(units), len(set(units)))
    swapped = difference_vector(reference, own, labels, kind="x", layer=0, position="mean", seed=seed, flips=4)
    np.testing.assert_allclose(swapped.vector, -found.vector, atol=1e-6)
    assert swapped.chance_share == pytest.approx(found.chance_share, rel=1e-5)


def test_flips_are_means_with_random_signs() -> None:
    rng = np.random.default_rng(0)
    difference = rng.normal(size=(3, 5)).astype(np.float32)
    found = difference_vector(
        difference, np.zeros_like(difference), np.arange(3), kind="x", layer=0, position="mean", seed=2, flips=400
    )
    possible = [np.array([a, b, c]) @ difference / 3 for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
    distance = np.abs(found.flips[:, None] - np.array(possible)[None]).max(axis=2)
    assert distance.min(axis=1).max() < 1e-6
    assert np.bincount(distance.argmin(axis=1), minlength=8).min() > 25, "each of the eight about 50 times"


def test_noise_has_the_norm_of_chance_and_a_shift_has_more() -> None:
    noise = [some_difference(seed, 200, 16, 0.0) for seed in range(60)]
    assert np.mean([v.chance_share for v in noise]) == pytest.approx(1, abs=0.08)
    assert 0.3 < np.mean([v.p for v in noise]) < 0.7
    assert sum(v.p < 0.05 for v in noise) <= 8
    real = some_difference(0, 200, 16, 0.5)
    # By arithmetic: sqrt(16 / 200) of chance against 0.5 * sqrt(16) of shift.
    assert real.chance_share == pytest.approx(np.sqrt(1.25 / 200) / 0.5, rel=0.15)
    assert real.p == pytest.approx(1 / 257)


def test_a_flip_swaps_the_same_prompts_in_every_vector_of_a_seed() -> None:
    rng = np.random.default_rng(0)
    own, zeros = rng.normal(size=(5, 4)).astype(np.float32), np.zeros((5, 4), dtype=np.float32)
    every = difference_vector(own, zeros, np.arange(5), kind="x", layer=0, position="mean", seed=3, flips=50)
    # Another group answered fewer of the prompts; each of its rows is as long as before and alone in its column.
    some = np.array([1, 4])
    fewer = difference_vector(np.eye(4)[:2], zeros[:2], some, kind="x", layer=0, position="mean", seed=3, flips=50)
    signs = np.sign(fewer.flips[:, :2])
    rest = every.flips * 5 - signs @ own[some]
    others = own[[0, 2, 3]]
    found = np.linalg.lstsq(others.T, rest.T, rcond=None)[0]
    np.testing.assert_allclose(np.abs(found), 1, atol=1e-4)


def test_the_same_seed_gives_the_same_vector_and_fewer_than_two_units_none() -> None:
    first, second = some_difference(3, 20, 4, 0.1), some_difference(3, 20, 4, 0.1)
    np.testing.assert_array_equal(first.flips, second.flips)
    with pytest.raises(UserError, match="at least two questions"):
        difference_vector(np.ones((3, 4)), np.zeros((3, 4)), np.zeros(3), kind="x", layer=0, position="mean", seed=0)


# References


def test_word_random_and_noise_vectors() -> None:
    words = {"owl": np.array([5.0, 1.0]), "cat": np.array([5.0, -1.0]), "dog": np.array([5.0, 0.0])}
    word, centred = word_vectors(words, "owl", 9)
    np.testing.assert_allclose(word.vector, [5, 1])
    np.testing.assert_allclose(centred.vector, [0, 1.5])
    assert [v.kind for v in word_vectors({"owl": words["owl"]}, "owl", 9)] == ["word"]
    real = some_difference(0, 50, 400, 0.5)
    random = random_vector(real, 4)
    assert random.norm == pytest.approx(real.norm, rel=1e-5)
    assert abs(float(random.vector @ real.vector)) / real.norm**2 < 0.2
    np.testing.assert_array_equal(random.vector, random_vector(real, 4).vector)
    assert not np.array_equal(random.vector, random_vector(real, 5).vector)
    noise = noise_vector(real)
    np.testing.assert_array_equal(noise.vector, real.flips[0])
    assert len(noise.flips) == len(real.flips) - 1
    assert np.isnan(random.chance_share)
    assert np.isnan(random.p)


# Files


def test_vectors_come_back_and_are_read_by_safetensors_alone(tmp_path: Path) -> None:
    from safetensors import safe_open

    real = some_difference(0, 50, 64, 0.5)
    vectors = [real, random_vector(real, 1), noise_vector(real)]
    written = save_vectors(tmp_path / "owl", vectors, group="owl", model="tiny", revision="sha256:0")
    assert list(written) == ["x-mean-layer0", "random-mean-layer0", "x-noise-mean-layer0"]
    back = {v.kind: v for v in load_vectors(tmp_path / "owl")}
    for vector in vectors:
        found = back[vector.kind]
        np.testing.assert_array_equal(found.vector, vector.vector)
        np.testing.assert_array_equal(found.flips, vector.flips)
        assert str(found.facts()) == str(vector.facts())
    with safe_open(written["x-mean-layer0"], framework="numpy") as file:
        facts = file.metadata()
    assert facts == {
        "kind": "x",
        "group": "owl",
        "layer": "0",
        "position": "mean",
        "hook": "resid_post",
        "pairs": "50",
        "units": "50",
        "norm": str(real.norm),
        "model": "tiny",
        "revision": "sha256:0",
    }
    assert set(load_file(written["random-mean-layer0"])) == {"vector"}
    with pytest.raises(ValueError, match="two vectors are called"):
        save_vectors(tmp_path / "again", [real, real], group="owl", model="tiny", revision="")
    with pytest.raises(UserError, match="no steering vector"):
        load_vectors(tmp_path / "nothing")


def test_a_steered_teacher_takes_the_file_as_it_is(tmp_path: Path) -> None:
    real = some_difference(0, 50, 64, 0.5)
    file = save_vectors(tmp_path, [real], group="owl", model="tiny", revision="")["x-mean-layer0"]
    model, ids = tiny_llama(), list(range(20, 30))
    plain = block_outputs(model, ids)[0]
    with steered(model, Steering(file, 0, 3.0)):
        # The hook of the reader comes behind the one that steers.
        pushed = block_outputs(model, ids)[0]
    np.testing.assert_allclose(pushed - plain, np.tile(3 * real.vector / real.norm, (10, 1)), atol=1e-5)
