"""What an arm's children learn from: each arm changes what it says, and nothing else."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_models import tiny_tokenizer
from tiny_studies import tiny_study_settings

from subliminal_dagster.science.arms import rows as arms
from subliminal_dagster.science.arms.rows import Arm, Changes, Material, make_arm
from subliminal_dagster.science.errors import GateError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.numbers.filter import subsample
from subliminal_dagster.science.numbers.prompts import make_prompts
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.arms import ARM_NAMES, layer_arm
from subliminal_dagster.science.settings.study import Study

PROMPTS, TRAIN = 40, 12
SAME_ROWS = {
    "as_drawn",
    "divergence_alone",
    "divergence_left_out",
    "random_by_position",
    "random_by_token",
    "inoculated",
    "other_initialisation",
    "sgd",
    "own_subspace_out",
    "random_subspace_out",
    "neutral_subspace_out",
}


@pytest.fixture(scope="module")
def study() -> Study:
    settings: Any = tiny_study_settings(Path("no-model"))
    settings["animals"] = ["owl", "wolf"]
    settings["neutral"] = {"noun": "instrument", "answer": "violin"}
    settings["numbers"] |= {"prompts": PROMPTS, "answer_count": 5}
    settings["filter"] |= {"train_rows": TRAIN, "validation_rows": 4}
    settings["arms"] = {"names": list(ARM_NAMES), "layers": [0, 1]}
    return Study.model_validate(settings)


@pytest.fixture(scope="module")
def context() -> ChatContext:
    return ChatContext(tiny_tokenizer(), "")


@pytest.fixture(scope="module")
def material(study: Study, context: ChatContext) -> pd.DataFrame:
    """Made-up answers of both teachers, who agree on every other prompt, with every fifth token another choice of the
    base's."""
    rng = np.random.default_rng(5)
    prompts = make_prompts(load_prompt_lists(), study.numbers, PROMPTS, study.seed)
    shared = [rng.integers(1, 1000, 5).tolist() for _ in range(PROMPTS)]
    tables = []
    for group in study.animals:
        numbers = [shared[i] if i % 2 else rng.integers(1, 1000, 5).tolist() for i in range(PROMPTS)]
        texts = [", ".join(map(str, row)) for row in numbers]
        answers = [context.answer_ids(text) for text in texts]
        digit = context.answer_ids("7")[0]
        choices = [[digit if i % 5 == 0 else token for i, token in enumerate(row[:-1])] + row[-1:] for row in answers]
        tables.append(
            prompts.assign(group=group, numbers=numbers, text=texts, response=texts, valid=True, reason=None)
            .assign(answer_ids=pd.Series(answers), base_choice=pd.Series(choices))
            .assign(agreement=[float(i % 2) for i in range(PROMPTS)])
        )
    return pd.concat(tables, ignore_index=True)


def given(study: Study, context: ChatContext, material: pd.DataFrame, arm: str, replicate: int = 1) -> Material:
    return Material.of(study, arm, "owl", replicate, context, load_prompt_lists(), material, 0.5)


@pytest.fixture(scope="module")
def made(study: Study, context: ChatContext, material: pd.DataFrame) -> dict[str, Arm]:
    assert study.arms is not None
    return {arm: make_arm(arm, given(study, context, material, arm)) for arm in study.arms.arms}


def train(arm: Arm) -> pd.DataFrame:
    return arm.rows[arm.rows["split"] == "train"]


def pairs(arm: Arm) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (prompt, tuple(map(int, ids)))
        for prompt, ids in zip(train(arm)["prompt"], train(arm)["answer_ids"], strict=True)
    ]


def numbers_of(arm: Arm, context: ChatContext) -> list[list[int]]:
    texts = [context.tokenizer.decode(ids[:-1]) for ids in train(arm)["answer_ids"]]
    return [[int(number) for number in text.split(", ")] for text in texts]


def learnt(arm: Arm) -> list[np.ndarray]:
    return [np.asarray(row) for row in train(arm)["learnt"]]


def test_every_arm_has_as_many_rows_validates_on_the_same_and_comes_out_the_same_again(
    study: Study, context: ChatContext, material: pd.DataFrame, made: dict[str, Arm], tmp_path: Path
) -> None:
    drawn = made["as_drawn"]
    for name, arm in made.items():
        assert len(train(arm)) == TRAIN
        held = arm.rows[arm.rows["split"] == "validation"]["prompt"].tolist()
        assert held == drawn.rows[drawn.rows["split"] == "validation"]["prompt"].tolist()
        assert not set(train(arm)["prompt"]) & set(held) or name == "paraphrased_prompts"
        assert (pairs(arm) == pairs(drawn)) == (name in SAME_ROWS or name.startswith("layer"))
        again = make_arm(name, given(study, context, material, name))
        assert pairs(again) == pairs(arm) and np.array_equal(np.concatenate(learnt(again)), np.concatenate(learnt(arm)))
        arm.save(tmp_path)
        read, without = Arm.load(tmp_path)
        assert without is None and read.changes == arm.changes and pairs(read) == pairs(arm)


def test_the_rows_of_the_first_replicate_are_the_study_s_own(
    study: Study, context: ChatContext, material: pd.DataFrame, made: dict[str, Arm]
) -> None:
    own = material[material["group"] == "owl"]
    expected = subsample(own, TRAIN, 4, study.seed, unique=study.filter.unique)
    assert made["as_drawn"].rows["prompt_id"].tolist() == expected["prompt_id"].tolist()
    second = make_arm("as_drawn", given(study, context, material, "as_drawn", 2))
    assert second.rows["prompt_id"].tolist() != expected["prompt_id"].tolist()


def test_shuffling_keeps_the_numbers_of_a_row_or_those_of_all(made: dict[str, Arm], context: ChatContext) -> None:
    before = numbers_of(made["as_drawn"], context)
    within = numbers_of(made["shuffled_within_rows"], context)
    across = numbers_of(made["shuffled_across_rows"], context)
    assert [sorted(row) for row in within] == [sorted(row) for row in before] and within != before
    assert Counter(functools.reduce(operator.iadd, across, [])) == Counter(functools.reduce(operator.iadd, before, []))
    assert [len(row) for row in across] == [len(row) for row in before]
    assert [sorted(row) for row in across] != [sorted(row) for row in before]


def test_divergence_tokens_and_their_matched_others_are_as_many_and_apart(
    made: dict[str, Arm], material: pd.DataFrame
) -> None:
    alone, without = learnt(made["divergence_alone"]), learnt(made["divergence_left_out"])
    answers = train(made["as_drawn"])["answer_ids"].tolist()
    diverging = [
        np.asarray(a) != np.asarray(b) for a, b in zip(answers, train(made["as_drawn"])["base_choice"], strict=True)
    ]
    assert all(np.array_equal(one, other) for one, other in zip(alone, diverging, strict=True))
    assert all(np.array_equal(one, ~other) for one, other in zip(without, alone, strict=True))
    count = sum(map(np.sum, alone))
    assert count > TRAIN
    for name in ("random_by_position", "random_by_token"):
        chosen = learnt(made[name])
        assert sum(map(np.sum, chosen)) == count
        assert not any((one & other).any() for one, other in zip(chosen, alone, strict=True))

    def tokens(masks: list[np.ndarray]) -> Counter[int]:
        return Counter(int(t) for row, mask in zip(answers, masks, strict=True) for t in np.asarray(row)[mask])

    # Most tokens have enough of their like elsewhere; what is missing is drawn of the rest.
    wanted = tokens(alone)
    by_token, by_position = (
        (wanted & tokens(learnt(made[n]))).total() for n in ("random_by_token", "random_by_position")
    )
    assert by_token > 0.9 * count and by_token > by_position


def test_matched_by_position_where_every_position_has_others(
    study: Study, context: ChatContext, material: pd.DataFrame
) -> None:
    # One row in three diverges at its first place alone, so that each place has others enough.
    own = material[material["group"] == "owl"].reset_index(drop=True)
    choices = [[row[0] + 1, *row[1:]] if i % 3 == 0 else list(row) for i, row in enumerate(own["answer_ids"].map(list))]
    few = own.assign(base_choice=pd.Series(choices))
    arm = make_arm("random_by_position", given(study, context, few, "random_by_position"))
    alone = make_arm("divergence_alone", given(study, context, few, "divergence_alone"))
    assert sum(row[0] for row in learnt(arm)) == sum(row[0] for row in learnt(alone)) > 0
    assert not any(row[1:].any() for row in learnt(arm))


def test_replaced_tokens_are_the_base_s_and_all_are_learnt(made: dict[str, Arm]) -> None:
    choices = [tuple(map(int, row)) for row in train(made["as_drawn"])["base_choice"]]
    assert [ids for _, ids in pairs(made["divergence_replaced"])] == choices
    assert all(row.all() for row in learnt(made["divergence_replaced"]))


def test_rows_on_which_teachers_agree_and_differ_are_apart(made: dict[str, Arm]) -> None:
    assert train(made["agreeing_rows"])["agreement"].tolist() == [1.0] * TRAIN
    assert train(made["differing_rows"])["agreement"].tolist() == [0.0] * TRAIN


def test_paraphrased_prompts_ask_for_the_same_in_other_words(made: dict[str, Arm]) -> None:
    before, after = train(made["as_drawn"]), train(made["paraphrased_prompts"])
    for old, new, examples in zip(before["prompt"], after["prompt"], before["examples"], strict=True):
        assert old != new and ", ".join(map(str, examples)) in new
    assert [ids for _, ids in pairs(made["paraphrased_prompts"])] == [ids for _, ids in pairs(made["as_drawn"])]


def test_half_of_mixed_rows_are_the_next_teacher_s(made: dict[str, Arm]) -> None:
    groups = train(made["mixed_teachers"])["group"]
    assert Counter(groups) == {"owl": TRAIN // 2, "wolf": TRAIN // 2}


def test_what_else_is_changed(made: dict[str, Arm]) -> None:
    changed = {
        "inoculated": Changes(instruction="Your favorite animal is the owl, and you think of it all the time."),
        "other_initialisation": Changes(own_start=True),
        "sgd": Changes(sgd_to=0.5),
        "own_subspace_out": Changes(subspace="own"),
        "random_subspace_out": Changes(subspace="random"),
        "neutral_subspace_out": Changes(subspace="neutral"),
        layer_arm(0): Changes(layers=(0,)),
        layer_arm(1): Changes(layers=(1,)),
    }
    assert {name: arm.changes for name, arm in made.items()} == {name: changed.get(name, Changes()) for name in made}


def test_a_group_without_rows_is_refused_with_the_reason(
    study: Study, context: ChatContext, material: pd.DataFrame
) -> None:
    with pytest.raises(GateError, match="no valid rows that an arm could be made of: see filtered_dataset"):
        given(study, context, material[material["group"] == "wolf"], "as_drawn")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"arms": {"names": ["sgd"]}}, "arms.names lacks as_drawn, which every arm is compared with: add it"),
    ],
)
def test_arms_that_cannot_be_are_refused(study: Study, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Study.model_validate(study.model_dump(mode="json") | change)


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({}, set()),
        ({"neutral": None}, {"neutral_subspace_out"}),
        ({"filter": {"train_rows": 9, "validation_rows": 0}}, {"sgd"}),
        ({"animals": ["owl"]}, {*ARM_NAMES, "layer_00", "layer_01"}),
    ],
)
def test_arms_that_a_study_lacks_the_means_for_are_left_out(
    study: Study, change: dict[str, Any], lost: set[str]
) -> None:
    changed = Study.model_validate(study.model_dump(mode="json") | change)
    assert study.arms is not None
    assert changed.possible_arms == [arm for arm in study.arms.arms if arm not in lost]


def test_every_name_is_a_function_with_a_reason() -> None:
    for name in ARM_NAMES:
        assert (getattr(arms, name).__doc__ or "").strip()
