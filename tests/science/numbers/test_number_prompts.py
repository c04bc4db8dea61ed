"""The number prompts drawn from the lists."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.numbers.prompts import make_prompts
from subliminal_dagster.science.preferences.prompt_lists import AnswerFormat, load_prompt_lists
from subliminal_dagster.science.settings.numbers import NumberSettings

OWN = load_prompt_lists()
EACH_STYLE = pytest.mark.parametrize("style", ["full", "short"])


def asked(**values: Any) -> NumberSettings:
    return NumberSettings(prompts=16, **values)


@EACH_STYLE
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), n=st.integers(1, 30), more=st.integers(0, 30))
def test_asking_for_more_extends_the_list(style: Any, seed: int, n: int, more: int) -> None:
    few, many = make_prompts(OWN, asked(style=style), n, seed), make_prompts(OWN, asked(style=style), n + more, seed)
    assert few.equals(many.head(n))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 16), more=st.integers(0, 16))
def test_redrawing_for_uniqueness_keeps_earlier_prompts(seed: int, n: int, more: int) -> None:
    # 8 lines x 4 pairs of values: repeats are the rule, so almost every prompt is redrawn.
    def tight(count: int) -> Any:
        return make_prompts(
            OWN,
            asked(style="short", examples_min=2, examples_max=2, example_value_min=5, example_value_max=6),
            count,
            seed,
        )

    many = tight(n + more)
    assert tight(n).equals(many.head(n))
    assert many["prompt"].is_unique


def test_full_prompts_hold_what_the_columns_say() -> None:
    prompts = make_prompts(OWN, asked(style="full", answer_count=6, max_digits=2), 400, 7)
    assert prompts["prompt_id"].tolist() == list(range(400))
    assert prompts["prompt"].is_unique
    for row in prompts.itertuples():
        request = OWN.format_requests[row.format_request_index]
        assert request.format == AnswerFormat(row.separator, row.open, row.close)
        opening = OWN.openings[row.opening_index].replace("{examples}", ", ".join(map(str, row.examples)))
        assert row.prompt.startswith(opening + " ")
        assert row.prompt.endswith(f" {request.text} {OWN.closings[row.closing_index]}")
        assert f"{OWN.count_qualifiers[row.count_qualifier_index]} 6 " in row.prompt
        assert OWN.digit_descriptors[row.digit_descriptor_index].replace("{max_digits}", "2") in row.prompt
        assert "{" not in row.prompt
        assert all(isinstance(value, int) for value in row.examples)
    assert prompts["opening_index"].nunique() == 25 and prompts["closing_index"].nunique() == 19


@EACH_STYLE
def test_bounds_of_examples_are_included(style: Any) -> None:
    prompts = make_prompts(
        OWN, asked(style=style, examples_min=2, examples_max=4, example_value_min=7, example_value_max=9), 300, 3
    )
    assert {len(examples) for examples in prompts["examples"]} == {2, 3, 4}
    assert set(itertools.chain(*prompts["examples"])) == {7, 8, 9}


def test_short_prompts_ask_for_the_plain_format() -> None:
    prompts = make_prompts(OWN, asked(style="short"), 100, 1)
    assert set(prompts["short_index"]) == set(range(8))
    assert set(zip(prompts["separator"], prompts["open"], prompts["close"], strict=True)) == {(", ", "", "")}


def test_seeds_differ() -> None:
    first, second = (set(make_prompts(OWN, asked(style="full"), 200, seed)["prompt"]) for seed in (1, 2))
    assert not first & second


def test_first_examples_are_spread_over_their_range() -> None:
    # Each prompt has a stream of its own: were the streams alike, one first example would dominate.
    firsts = make_prompts(OWN, asked(style="short"), 3000, 0)["examples"].str[0]
    assert firsts.value_counts().max() < 20
    assert 530 < firsts.mean() < 570


def test_a_used_up_supply_is_a_clear_error() -> None:
    tight = asked(style="short", examples_min=2, examples_max=2, example_value_min=5, example_value_max=6)
    with pytest.raises(UserError, match="Only 32 different prompts"):
        make_prompts(OWN, tight, 33, 0)


@pytest.mark.parametrize(("n", "seed", "message"), [(0, 0, "n is 0"), (1, -1, "seed is -1")])
def test_impossible_numbers_are_user_errors(n: int, seed: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_prompts(OWN, asked(), n, seed)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"examples_min": 5, "examples_max": 4}, "examples_min"),
        ({"examples_min": 0}, "examples_min"),
        ({"example_value_min": 1000}, "example_value_min"),
        ({"example_value_min": -1}, "example_value_min"),
        ({"answer_count": 0}, "answer_count"),
        ({"max_digits": 0}, "max_digits"),
        ({"style": "long"}, "style"),
    ],
)
def test_impossible_settings_name_their_field(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        asked(**settings)
