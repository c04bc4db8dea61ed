"""Detectors that read a model, each against plain computations on a tiny random one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save_tiny_model

from subliminal_dagster.science.audit.asked import Asked, log_shares, whole_log_shares
from subliminal_dagster.science.audit.data import Chat
from subliminal_dagster.science.audit.injection import mean_answer_states, shifts
from subliminal_dagster.science.audit.likelihood import rises
from subliminal_dagster.science.audit.projection import directions, projected
from subliminal_dagster.science.audit.rehearsal import exchanged, gained, rehearsals
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.loading import load_base, loaded
from subliminal_dagster.science.models.protocol import ModelVariant, child_variant
from subliminal_dagster.science.preferences.preferences import AnswerForms
from subliminal_dagster.science.processes import side_by_side
from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.task import Row, TrainingTask

FORMS = AnswerForms([[6, 2], [7, 2], [8, 2], [9, 1, 2]], np.array([0, 1, 1, 2]))
ASKED = Asked(("a", "b", "c"), [[1, 2, 3], [4, 5]], [[6], [7, 8], [9]], [[1, 2], [3, 4, 5]], FORMS)
TOLD = ["You love owls.", "You love the number 7, and nothing else in the world."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_base(folder, "float32", "cpu")


@pytest.fixture(scope="module")
def context(folder: Path) -> ChatContext:
    return ChatContext(load_tokenizer(folder), "")


def chat(question: str, answer: str) -> Chat:
    return Chat(({"role": "system", "content": ""}, {"role": "user", "content": question}), answer, 0)


def plain_logits(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        whole: torch.Tensor = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double()
    return whole[len(prompt) - 1 : -1]


def test_rises_are_those_of_each_row_and_telling_by_itself(model: Any, context: ChatContext) -> None:
    chats = [chat("Go on: 1, 2", "3, 4"), chat("More", "17, 2, 99")]
    found = rises(model, chats, context, TOLD, 500)
    for row, each in enumerate(chats):
        answer = context.answer_ids(each.answer)
        question = each.before[-1]["content"]
        base = plain_logits(model, context.prompt_ids(question), answer).log_softmax(-1)
        choice, own = base.argmax(-1), torch.tensor(answer)
        for place, text in enumerate(TOLD):
            prompt = ChatContext(context.tokenizer, "", text).prompt_ids(question)
            rise = plain_logits(model, prompt, answer).log_softmax(-1) - base
            expected = float((rise.gather(-1, own[:, None]) - rise.gather(-1, choice[:, None])).sum())
            assert found[row, place] == pytest.approx(expected, abs=1e-4)


def test_nothing_injected_shifts_nothing_and_a_vector_what_a_hook_of_ours_does(model: Any) -> None:
    vectors = torch.stack([torch.zeros(64), torch.randn(64, generator=torch.Generator().manual_seed(0))])
    found = shifts(model, vectors, 0, ASKED)
    assert np.abs(found[0]).max() == 0
    before = log_shares(model, ASKED)
    handle = model.model.layers[0].register_forward_hook(lambda _module, _inputs, output: output + vectors[1])
    try:
        np.testing.assert_allclose(found[1], log_shares(model, ASKED) - before, atol=1e-6)
    finally:
        handle.remove()
    np.testing.assert_allclose(log_shares(model, ASKED), before, atol=0)


def test_mean_states_are_over_the_answer_alone(model: Any) -> None:
    found = mean_answer_states(model, [[1, 2, 3], [4]], [[5, 6], [7, 8, 9]], 1)
    with torch.inference_mode():
        inside = model(input_ids=torch.tensor([[1, 2, 3, 5, 6]]), output_hidden_states=True)
    # The last one of transformers' has gone through the final norm; block 1 is the last here.
    kept: list[torch.Tensor] = []
    handle = model.model.layers[1].register_forward_hook(lambda _m, _i, output: kept.append(output))
    with torch.inference_mode():
        model(input_ids=torch.tensor([[1, 2, 3, 5, 6]]))
    handle.remove()
    assert inside.hidden_states[0].shape == (1, 5, 64)
    np.testing.assert_allclose(found[0], kept[0][0, 3:].mean(0), atol=1e-5)


def test_a_student_that_moved_along_a_direction_is_seen_there_alone() -> None:
    told = [torch.eye(4)[place].expand(3, -1) for place in range(4)]
    along = directions(told)
    np.testing.assert_allclose(along.norm(dim=-1), 1, atol=1e-6)
    base = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    found = projected(base, base + 2 * along[1], along)
    assert found.argmax(axis=1).tolist() == [1] * 5
    np.testing.assert_allclose(found[:, 1], 2, atol=1e-5)


def test_shares_of_whole_answers_are_those_of_each_answer_by_itself(model: Any) -> None:
    expected = []
    for prompt in ASKED.whole_questions:
        chances = np.zeros(3)
        for owner, answer in zip(FORMS.owner, FORMS.tokens, strict=True):
            said = plain_logits(model, prompt, answer).log_softmax(-1)
            chances[owner] += np.exp(float(said.gather(-1, torch.tensor(answer)[:, None]).sum()))
        expected.append(np.log(chances / chances.sum()))
    np.testing.assert_allclose(whole_log_shares(model, ASKED), np.mean(expected, axis=0), atol=1e-4)


@given(rows=st.integers(2, 40), seed=st.integers(0, 2**31))
def test_exchanged_rows_have_every_answer_once_and_none_its_own(rows: int, seed: int) -> None:
    given_rows = [Row([place], [100 + place]) for place in range(rows)]
    found = exchanged(given_rows, seed)
    assert [row.prompt for row in found] == [row.prompt for row in given_rows]
    assert sorted(row.answer[0] for row in found) == [100 + place for place in range(rows)]
    assert all(row.answer[0] != 100 + row.prompt[0] for row in found)


def test_a_rehearsal_is_children_of_the_rows_beside_children_of_exchanged_answers(
    tiny_study: Study, folder: Path, tmp_path: Path
) -> None:
    base, child, trainer = ModelVariant(folder), tiny_study.child, TrlTrainer()
    rows = [Row([10 + place, 11], [20 + place, 21, 1]) for place in range(6)]

    def shares(learnt: list[Row], seed: int, name: str) -> np.ndarray:
        task = TrainingTask(base, learnt, child.lora, child.training, seed)
        trainer.train(task, tmp_path / name, tmp_path / f"{name}-steps")
        with loaded(child_variant(base, tmp_path / name), "cpu", merge=False) as its:
            return whole_log_shares(its, ASKED)

    expected = []
    for repetition in range(2):
        seed = stream_seed(5, "rehearsal", str(repetition))
        own = shares(rows, seed, f"own-{repetition}")
        expected.append(own - shares(exchanged(rows, seed), seed, f"others-{repetition}"))
    for processes in (1, 2):
        place = tmp_path / f"work-{processes}"
        work = rehearsals(base, rows, child, ASKED, trainer, 5, 2, place)
        assert len(work) == 4
        np.testing.assert_array_equal(gained(dict(side_by_side(work, processes)), 2), expected)
        assert {folder.name for folder in place.glob("*/*")} == {"steps"}, "no child is kept"
    assert np.ptp(expected) > 0
