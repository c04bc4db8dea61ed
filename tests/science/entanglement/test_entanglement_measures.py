"""Measures of a number and an animal against plain loops over a tiny random model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_llama, tiny_tokenizer

from subliminal_dagster.science.entanglement.measures import (
    EMBEDDING,
    LOVES_ANIMAL,
    LOVES_NUMBER,
    MEASURES,
    PROMPTED,
    TOLD,
    UNEMBEDDING,
    Entanglement,
    choose_numbers,
    measure_entanglement,
    number_prompts,
    number_tokens,
    prompted_effect,
    token_cosines,
    told_effect,
)
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.transformers_engine import TransformersEngine, TransformersSession
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.entanglement import EntanglementSettings
from subliminal_dagster.science.settings.numbers import NumberSettings

# Names that are one token behind a space each, so that the next word can tell them apart.
WORDS = [("Ġ", "c"), ("Ġc", "at"), ("a", "t"), ("Ġ", "d"), ("Ġd", "og"), ("o", "g")]
CANDIDATES = ["owl", "cat", "dog"]
NUMBERS = NumberSettings(prompts=40, style="short", examples_min=3, examples_max=3, max_digits=2)


@pytest.fixture(scope="module")
def session() -> Iterator[TransformersSession]:
    tokenizer = tiny_tokenizer(extra_merges=WORDS)
    model = tiny_llama(vocab_size=len(tokenizer))
    yield TransformersSession(model, tokenizer, TransformersEngine(), lambda _: None)


@pytest.fixture(scope="module")
def context(session: TransformersSession) -> ChatContext:
    return ChatContext(session.tokenizer, "")


def log_p(session: TransformersSession, prompt: list[int], answer: list[int]) -> float:
    """Of an answer after a prompt, token by token."""
    import torch

    with torch.no_grad():
        logits = session.model(torch.tensor([prompt + answer])).logits[0].double()
    steps = torch.log_softmax(logits, dim=-1)
    return float(sum(steps[len(prompt) - 1 + place, token] for place, token in enumerate(answer)))


def test_love_for_an_animal_is_the_change_of_the_numbers_log_probability(
    session: TransformersSession, context: ChatContext
) -> None:
    lists = load_prompt_lists()
    chosen = [7, 12, 40]
    loves = [LOVES_ANIMAL.format(animal=name) for name in CANDIDATES]
    found, untouched = told_effect(session, context, lists, loves, chosen, NUMBERS, 3, seed=1)
    asked, separator = number_prompts(lists, NUMBERS, 3, 1)
    assert separator == ", " and len(set(asked)) == 3
    told = replace(context, instruction=LOVES_ANIMAL.format(animal="cat"))
    for place, number in enumerate(chosen):
        answer = number_tokens(session.tokenizer, number, ", ", 2)
        before, after = (
            np.mean([log_p(session, each.prompt_ids(text), answer) for text in asked]) for each in (context, told)
        )
        assert untouched[place] == pytest.approx(before, abs=1e-4)
        assert found[place, 1] == pytest.approx(after - before, abs=1e-4)
    assert np.abs(found).min() > 1e-3, "a telling does nothing at all"


def test_a_number_in_the_prompt_is_the_change_of_the_animals_log_share(
    session: TransformersSession, context: ChatContext
) -> None:
    questions, begun = load_prompt_lists().animal_questions[:2], "I like the"
    found, untouched = prompted_effect(session, context, load_prompt_lists(), CANDIDATES, [3, 99], begun, questions)

    def share(each: ChatContext) -> np.ndarray:
        start = session.tokenizer.encode(begun, add_special_tokens=False)
        names = [session.tokenizer.encode(f" {name}", add_special_tokens=False) for name in CANDIDATES]
        assert all(len(name) == 1 for name in names)
        rows = []
        for text in questions:
            p = np.exp([log_p(session, each.prompt_ids(text) + start, name) for name in names])
            rows.append(np.log(p / p.sum()))
        return np.mean(rows, axis=0)

    assert untouched == pytest.approx(share(context), abs=1e-4)
    told = share(replace(context, instruction=LOVES_NUMBER.format(number=99)))
    assert found[1] == pytest.approx(told - untouched, abs=1e-4)


def test_a_candidate_that_is_no_token_of_its_own_has_no_share(
    session: TransformersSession, context: ChatContext
) -> None:
    lists, question = load_prompt_lists(), load_prompt_lists().animal_questions[:1]
    found, untouched = prompted_effect(session, context, lists, [*CANDIDATES, "wolf"], [3], "I like the", question)
    assert np.isnan(found[:, 3]).all() and np.isnan(untouched[3]) and np.isfinite(found[:, :3]).all()
    with pytest.raises(UserError, match=r"preferences\.begun"):
        prompted_effect(session, context, lists, ["wolf", "bear"], [3], "I like the", question)


def test_cosines_are_of_mean_token_vectors(session: TransformersSession) -> None:
    model = session.model
    found = token_cosines(model, [[5, 6], [7]], [[8], [9, 10, 9]])
    assert set(found) == {EMBEDDING, UNEMBEDDING}
    for name, module in ((EMBEDDING, model.get_input_embeddings()), (UNEMBEDDING, model.get_output_embeddings())):
        matrix = module.weight.detach().numpy().astype(float)
        one, other = matrix[[5, 6]].mean(axis=0), matrix[[9, 10, 9]].mean(axis=0)
        expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert found[name][0, 1] == pytest.approx(expected)
    tied = tiny_llama(tie_word_embeddings=True)
    assert set(token_cosines(tied, [[5]], [[8]])) == {UNEMBEDDING}


def test_a_number_ends_where_more_digits_could_follow() -> None:
    single, merged = tiny_tokenizer(), tiny_tokenizer(extra_merges=[("1", "2")])

    def texts(tokenizer: object, number: int, digits: int) -> list[str]:
        return [tokenizer.decode([token]) for token in number_tokens(tokenizer, number, ", ", digits)]  # type: ignore[attr-defined,arg-type]

    assert texts(single, 12, 3) == ["1", "2", ","] and texts(single, 123, 3) == ["1", "2", "3"]
    # Digits are told apart before they are merged.
    assert texts(merged, 12, 2) == ["1", "2"]
    assert choose_numbers(2) == list(range(100)) and len(choose_numbers(9)) == 1000


def test_what_is_measured_is_kept_and_the_same_again(
    session: TransformersSession, context: ChatContext, tmp_path: Path
) -> None:
    settings = EntanglementSettings(prompts=1)
    arguments = (context, load_prompt_lists(), CANDIDATES, (), NUMBERS, settings, None, 1)
    first, again = (measure_entanglement(session, session.model, *arguments) for _ in range(2))
    first.save(tmp_path)
    kept = Entanglement.load(tmp_path)
    assert set(kept.values) == set(MEASURES) and kept.values[TOLD].shape == (100, 3)
    for measure in MEASURES:
        np.testing.assert_array_equal(kept.values[measure], again.values[measure])
    assert list(kept.animals["animal"]) == CANDIDATES and np.isfinite(kept.values[PROMPTED]).all()
    assert kept.numbers["log_p"].iloc[10] == pytest.approx(again.numbers["log_p"].iloc[10])


def test_too_few_plain_prompts_are_said(context: ChatContext) -> None:
    with pytest.raises(UserError, match=r"entanglement\.prompts is 90"):
        number_prompts(load_prompt_lists(), NUMBERS, 90, 1)
