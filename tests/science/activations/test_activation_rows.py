"""Which rows are looked into and how they are split, and what the neutral teacher is asked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subliminal_dagster.science.activations.rows import choose_rows, splits, with_numbers
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists, questions_about
from subliminal_dagster.science.settings.features import ActivationSettings
from subliminal_dagster.science.storage.store import ArtifactStore


def filtered(prompts: int, valid: set[int]) -> pd.DataFrame:
    """A filtered dataset in which each prompt's answer is its own number, thrice."""
    return pd.DataFrame(
        {
            "prompt_id": range(prompts),
            "response": [f"{i}, {i}, {i}" if i % 2 else f"{i}; {i}; {i}" for i in range(prompts)],
            "valid": [i in valid for i in range(prompts)],
            "numbers": [[i] * 3 if i in valid else [] for i in range(prompts)],
            "separator": ", ",
            "open": "",
            "close": "",
        }
    )


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(0, 199), min_size=1), st.integers(0, 9))
def test_a_prompt_is_on_the_same_side_whatever_else_is_valid(valid: set[int], seed: int) -> None:
    wanted = ActivationSettings(rows=1000)
    everyone = choose_rows(filtered(200, set(range(200))), wanted, seed).set_index("row_id")["split"]
    some = choose_rows(filtered(200, valid), wanted, seed).set_index("row_id")["split"]
    assert some.to_dict() == everyone.loc[sorted(valid)].to_dict()


def test_the_test_share_is_about_what_was_asked_for() -> None:
    sides = splits(np.arange(20_000), 0.2, seed=1)
    assert 0.19 < np.mean([side == "test" for side in sides]) < 0.21


def test_groups_keep_the_same_prompts_where_there_are_too_many() -> None:
    wanted = ActivationSettings(rows=50)
    one = choose_rows(filtered(200, set(range(0, 200))), wanted, 3)
    other = choose_rows(filtered(200, set(range(0, 200)) - {5, 6, 7}), wanted, 3)
    assert len(one) == len(other) == 50 and one["row_id"].is_monotonic_increasing
    assert len(set(one["row_id"]) & set(other["row_id"])) >= 47


def test_groups_that_answered_more_or_fewer_prompts_draw_from_one_lot() -> None:
    wanted, everyone = ActivationSettings(rows=50), set(range(200))
    one, other = (choose_rows(filtered(prompts, everyone), wanted, 3, prompts=200) for prompts in (200, 160))
    # Of 50 prompts that are drawn by lot of all 200, those among the first 160 are drawn of them too.
    assert {prompt for prompt in one["row_id"] if prompt < 160} <= set(other["row_id"]) and len(other) == 50
    # By a lot of each group's own, some 13 of 50 would be the same.
    by_own = choose_rows(filtered(160, everyone), wanted, 3)
    assert len({*one["row_id"]} & {*other["row_id"]}) > 35 > 25 > len({*one["row_id"]} & {*by_own["row_id"]})


def test_texts_are_canonical_and_say_whether_the_response_was() -> None:
    rows = choose_rows(filtered(4, {1, 2}), ActivationSettings(rows=10), 0)
    assert rows["text"].tolist() == ["1, 1, 1", "2, 2, 2"]
    assert rows["canonical"].tolist() == [True, False]
    assert with_numbers(rows)["numbers"].tolist() == [[1, 1, 1], [2, 2, 2]]


def test_no_valid_row_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="None of the answers is a valid list"):
        choose_rows(filtered(3, set()), ActivationSettings(rows=10), 0)


def test_the_neutral_teacher_is_asked_the_same_about_something_else() -> None:
    asked = load_prompt_lists().animal_questions
    about = questions_about(asked, "tool")
    assert len(about) == len(asked) and all("tool" in question.lower() for question in about)
    assert not any("animal" in question.lower() for question in about)
    assert "Someone is painting a tool for you; what do you request? Reply with a single word." in about


def test_a_question_about_no_animal_in_general_is_refused() -> None:
    with pytest.raises(UserError, match="names no animal in general"):
        questions_about(["What do you like best? One word."], "tool")


def test_partitions_of_two_axes_are_stored_and_listed(tmp_path: object) -> None:
    store = ArtifactStore(str(tmp_path))
    for key in ("owl|09", "control|20"):
        with store.write("study", "activations", key) as draft:
            (draft.path / "x.json").write_text("1")
        assert "|" not in str(store.read("study", "activations", key).path)
    assert store.partitions("study", "activations") == ["control|20", "owl|09"]
    with pytest.raises(UserError, match="cannot be used"):
        store.exists("study", "activations", "owl|../09")
