"""An animal as the next word of a begun answer: equal to a plain loop, and no token counts for two animals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import GEMMA, save_tiny_model, tiny_tokenizer

from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.loading import load_base
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.models.transformers_engine import TransformersEngine
from subliminal_dagster.science.preferences.begun import NextWords
from subliminal_dagster.science.preferences.preferences import measure_preferences, summary
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.preferences import PreferenceSettings

LISTS = load_prompt_lists()
BEGUN = ("My favorite animal is the", "I pick the")
SPACE = "\u0120"


def words_tokenizer(template: str | None = None) -> Any:
    """As a real one: " owl", " owls", " cat", " cats" and " Cat" are one token each, " Owl" and " wolf" several."""
    merges = [("owl", "s"), (f"{SPACE}owl", "s"), (SPACE, "c"), (f"{SPACE}c", "a"), (f"{SPACE}ca", "t")]
    merges += [(f"{SPACE}cat", "s"), (SPACE, "C"), (f"{SPACE}C", "a"), (f"{SPACE}Ca", "t")]
    merges += [(SPACE, "s"), (f"{SPACE}s", "e"), (f"{SPACE}se", "a")]
    return tiny_tokenizer(**({} if template is None else {"chat_template": template}), extra_merges=merges)


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = words_tokenizer(GEMMA if request.param == "gemma2" else None)
    folder = save_tiny_model(tmp_path_factory.mktemp("base"), request.param, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(folder)
    return folder


def settings(*candidates: str, begun: tuple[str, ...] = BEGUN) -> PreferenceSettings:
    return PreferenceSettings(candidates=candidates, begun=begun, questions=3, samples_per_question=0)


def measured(base: Path, asked: PreferenceSettings) -> Any:
    with TransformersEngine().open(ModelVariant(base)) as session:
        return measure_preferences(session, ChatContext(session.tokenizer, ""), LISTS, asked, 0)[0]


def plain_loop(base: Path, names: dict[str, tuple[str, ...]]) -> dict[tuple[int, str], float]:
    """Render, append the text, run one text at a time, and add up what the spellings' last tokens get."""
    model = load_base(base, "float32", "cpu")
    context = ChatContext(words_tokenizer(GEMMA if "Gemma" in type(model).__name__ else None), "")
    found = {}
    for question, text in enumerate(LISTS.animal_questions[:3]):
        for animal, spelled in names.items():
            total = 0.0
            for begun in BEGUN:
                rendered = context.render(text) + begun
                before = context.tokenizer(rendered, add_special_tokens=False)["input_ids"]
                with torch.no_grad():
                    after = model(torch.tensor([before]), use_cache=False).logits[0, -1].double().softmax(dim=-1)
                for spelling in spelled:
                    ids = context.tokenizer(f"{rendered} {spelling}", add_special_tokens=False)["input_ids"]
                    assert ids[:-1] == before
                    total += float(after[ids[-1]]) / len(BEGUN)
            found[question, animal] = total
    return found


def test_equals_a_plain_loop(base: Path) -> None:
    scores = measured(base, settings("owl", "wolf", "cat"))
    expected = plain_loop(base, {"owl": ("owl", "owls"), "cat": ("cat", "cats", "Cat")})
    rows = scores.set_index(["question", "animal"])
    for place, probability in expected.items():
        assert rows.at[place, "begun"] == pytest.approx(probability, rel=1e-4)
        among = sum(value for (question, _), value in expected.items() if question == place[0])
        assert rows.at[place, "begun_share"] == pytest.approx(probability / among, rel=1e-4)
    assert scores.loc[scores["animal"] == "wolf", ["begun", "begun_share"]].isna().all(axis=None)
    assert summary(scores).set_index("animal").at["owl", "begun"] == pytest.approx(
        np.mean([value for (_, animal), value in expected.items() if animal == "owl"]), rel=1e-4
    )


def test_the_other_measures_are_what_they_are_without_it(base: Path) -> None:
    with_it, without = measured(base, settings("owl", "cat")), measured(base, settings("owl", "cat", begun=()))
    others = [column for column in without if not column.startswith("begun")]
    assert without[["begun", "begun_share"]].isna().all(axis=None) and with_it["begun"].notna().all()
    assert with_it[others].equals(without[others])


def test_a_name_of_several_tokens_is_left_out_by_name() -> None:
    found = NextWords.of(["owl", "wolf", "polar-bear"], BEGUN, ChatContext(words_tokenizer(), ""), LISTS)
    assert set(found.left_out) == {"wolf", "polar-bear"}
    assert all("single token" in reason for reason in found.left_out.values())
    assert set(found.owner) == {0} and len(found.tokens) == 2


def test_a_token_that_begins_another_s_name_counts_for_nobody() -> None:
    found = NextWords.of(["owl", "cat", "catfish"], BEGUN, ChatContext(words_tokenizer(), ""), LISTS)
    assert found.left_out == {
        "cat": "a token of its name also begins catfish",
        "catfish": "no spelling of its name is a single token",
    }
    assert set(found.owner) == {0}


def test_where_nobody_is_measured_the_model_is_not_asked(base: Path) -> None:
    scores = measured(base, settings("wolf", "lion"))
    assert scores[["begun", "begun_share"]].isna().all(axis=None)
    assert scores["share"].notna().all()


@pytest.mark.parametrize("text", ["", " ", "The ", " The", "One\nmore", "two  spaces"])
def test_a_begun_answer_has_no_stray_space(text: str) -> None:
    with pytest.raises(ValueError, match="is not a begun answer"):
        settings("owl", "cat", begun=(text,))
