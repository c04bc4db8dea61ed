"""Authors that like each candidate: how they are made, what they would have chosen, and whose like wrote the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_studies import tiny_study_settings

from subliminal_dagster.science.audit.authorship import authorship, can_be_made, gains, load_authors, make_authors
from subliminal_dagster.science.audit.data import EncodedChat
from subliminal_dagster.science.audit.evidence import p_values, weighed
from subliminal_dagster.science.audit.shape import answers_in_shape, choices, token_shapes
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.loading import load_base
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.training.adapter import TrlTrainer

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
ANSWERS = [[10, 11, 2], [12, 13, 14, 2], [15, 2]]
PLACES, TOKENS, AUTHORS = 40, 12, 12


def a_study(base: Path, **teacher: Any) -> Study:
    settings = tiny_study_settings(base)
    training = {"learning_rate": 0.02, "batch_size": 8, "epochs": 1, "max_length": 512}
    settings["teacher"] |= {"lora": {"rank": 4, "alpha": 4}, "training": training, "stop": None} | teacher
    return Study.model_validate(settings)


def test_gains_are_counted_by_hand() -> None:
    answers = [[1, 2, 3], [4, 5, 6]]
    of_base = [np.array([1, 9, 9]), np.array([4, 5, 9])]
    follows = [np.array([1, 2, 9]), np.array([4, 5, 6])]
    strays = [np.array([7, 9, 9]), np.array([7, 7, 6])]
    found = gains([follows, strays, of_base], of_base, answers)
    # One place per answer at which the first chooses otherwise, two at which the second does.
    np.testing.assert_allclose(found[:, 0], [1, 1])
    np.testing.assert_allclose(found[:, 1], np.array([-1, -1]) / np.sqrt(2))
    assert not found[:, 2].any()


def test_authors_are_made_once_from_random_numbers_of_their_own(tiny_base: Path, tmp_path: Path) -> None:
    study, base = a_study(tiny_base), ModelVariant(tiny_base)
    context = ChatContext(load_tokenizer(tiny_base), study.system_prompt)

    def made(said: list[str], name: str = "one", processes: int = 1) -> list[torch.Tensor]:
        lists, places = load_prompt_lists(None), (tmp_path / name, tmp_path / "steps")
        given = (study, ["owl", "wolf"], base, context, lists, TrlTrainer(), *places)
        make_authors(*given, processes=processes, progress=said.append)
        authors = load_authors(places[0], ["owl", "wolf"])
        weights = [load_file(each.folder / "adapter_model.safetensors") for each in authors]
        return [torch.cat([each[name].flatten() for name in sorted(each) if "lora_A" in name]) for each in weights]

    said: list[str] = []
    first = made(said)
    assert said == ["an author that likes owl: 1/2", "an author that likes wolf: 2/2"]
    assert not torch.equal(first[0], first[1])
    again: list[str] = []
    assert all(map(torch.equal, first, made(again)))
    assert not again
    # In processes of their own the same to the last digit, in whatever order they end.
    assert all(map(torch.equal, first, made(again, "other", processes=2)))
    assert sorted(text.split(":")[1] for text in again) == [" 1/2", " 2/2"]


def test_a_told_author_reads_its_instruction_and_the_base_model_does_not(tiny_base: Path, tmp_path: Path) -> None:
    study = a_study(tiny_base, method="prompt", instruction="You love {animal}s.")
    context = ChatContext(load_tokenizer(tiny_base), study.system_prompt)
    lists, base = load_prompt_lists(None), ModelVariant(tiny_base)
    make_authors(study, ["owl", "wolf"], base, context, lists, TrlTrainer(), tmp_path, tmp_path / "steps")
    authors = load_authors(tmp_path, ["owl", "wolf"])
    asked: list[str | None] = []

    def prompts(instruction: str | None) -> list[list[int]]:
        asked.append(instruction)
        return PROMPTS if instruction is None else [[*prompt, 20] for prompt in PROMPTS]

    rows = [EncodedChat(prompt, answer, row) for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True))]
    tokenizer, model = load_tokenizer(tiny_base), load_base(tiny_base, "float32", "cpu")
    found = authorship(ModelVariant(tiny_base), authors, rows, tokenizer, prompts)
    assert asked == [None, "You love owls.", "You love wolfs."]
    assert found.shape == (3, 2)
    shapes = token_shapes(tokenizer, model.config.vocab_size)
    answers = [*ANSWERS, *(row.answer for row in answers_in_shape(model, rows, shapes))]
    # One answer at a time here, both to a prompt at once there.
    of_base = choices(model, PROMPTS * 2, [[answer] for answer in answers], shapes)
    told = choices(model, [[*prompt, 20] for prompt in PROMPTS] * 2, [[answer] for answer in answers], shapes)
    gain = gains([told], of_base, answers)[:, 0]
    np.testing.assert_allclose(found[:, 0], gain[:3] - gain[3:])


def test_a_study_of_teachers_that_exist_makes_no_authors(tiny_base: Path, tmp_path: Path) -> None:
    study = a_study(tiny_base)
    assert can_be_made(study)
    existing = study.teacher.model_copy(update={"method": "adapter"})
    assert not can_be_made(study.model_copy(update={"teacher": existing}))


def written_by(rng: np.random.Generator, like: int | None, shared: float) -> np.ndarray:
    """The authors' gains on 24 answers of an author that shares that part of one author's own choices: each author
    chooses otherwise than the base model (token 0) at its own rate; another tenth of the places strays in all."""
    rates = rng.uniform(0.05, 0.2, AUTHORS)
    common = rng.integers(1, TOKENS, (24, PLACES)) * (rng.random((24, PLACES)) < 0.1)
    own = rng.integers(1, TOKENS, (AUTHORS, 24, PLACES)) * (rng.random((AUTHORS, 24, PLACES)) < rates[:, None, None])
    authors = np.where(rng.random(own.shape) < 0.5, np.where(own > 0, own, common), own)
    data = np.where(rng.random(common.shape) < 0.5, common, 0)
    if like is not None:
        data = np.where(rng.random(common.shape) < shared, own[like], data)
    nothing = [np.zeros(PLACES, dtype=int)] * 48
    both = [[*each, *each] for each in authors]
    answers = [*data, *nothing[:24]]
    found = gains(both, nothing, answers)
    return weighed(found[:24] - found[24:])


@pytest.mark.parametrize("like", [0, 7])
def test_the_like_of_the_author_is_found_and_nobody_where_there_is_none(like: int) -> None:
    rng = np.random.default_rng(like)
    planted = [written_by(rng, like, 0.15) for _ in range(60)]
    assert np.mean([t.argmax() == like for t in planted]) > 0.8
    null = np.stack([p_values(written_by(rng, None, 0)) for _ in range(200)])
    # Of 2,400 candidates 120 below 0.05 by chance; 12 of one data set are not independent.
    assert 0.02 < (null < 0.05).mean() < 0.08
    assert np.mean(null.min(axis=1) * AUTHORS < 0.05) < 0.1
