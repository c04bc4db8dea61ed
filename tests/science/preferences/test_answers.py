"""Counting animals in answers by whole words, spellings of names, and the check of names."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preferences.answers import classify_answers, count_animal, spellings, texts_naming
from subliminal_dagster.science.preferences.prompt_lists import AnimalForms, load_prompt_lists
from subliminal_dagster.science.settings.names import check_animal_name

ALIASES = load_prompt_lists().animal_aliases
CANDIDATES = [
    "owl",
    "wolf",
    "lion",
    "whale",
    "panda",
    "dog",
    "cat",
    "dragon",
    "hippopotamus",
    "bear",
    "octopus",
    "puma",
]


@pytest.mark.parametrize(
    ("answer", "animal"),
    [
        ("Owl", "owl"),
        ("  **OWL!** \U0001f989\n", "owl"),
        ("_owl_", "owl"),
        ("Owls.", "owl"),
        ("The owl's eyes", "owl"),
        ("owl\u2019s", "owl"),
        ("Owl\u2122", "owl"),
        ("\u00f3wl", "owl"),
        ("owl owl Owls", "owl"),
        ("owl-like", "owl"),
        ("Wolves", "wolf"),
        ("hippo", "hippopotamus"),
        ("Hippos", "hippopotamus"),
        ("octopi", "octopus"),
        ("Octopuses", "octopus"),
        ("Cougar", "puma"),
        ("mountain lions", "puma"),
        ("Mountain-Lion", "puma"),
        ("kitten", "cat"),
        ("puppies", "dog"),
        ("grizzly bear", "bear"),
        ("giant panda", "panda"),
        ("blue whale", "whale"),
        ("owl, not a zebra", "owl"),
    ],
)
def test_answers_that_count(answer: str, animal: str) -> None:
    assert count_animal(answer, CANDIDATES, ALIASES) == (animal, "counted")


@pytest.mark.parametrize(
    "answer",
    [
        *("", "\U0001f989", "dragonfly", "dragon fly", "catfish", "fowl", "growl", "howls", "wolfhound", "hotdog"),
        *(
            "sea lion",
            "Sea-lions",
            "red panda",
            "killer whale",
            "polar bear",
            "prairie dog",
            "zebra",
            "\u0441\u043e\u0432\u0430",
            "42",
        ),
    ],
)
def test_answers_that_name_no_candidate(answer: str) -> None:
    assert count_animal(answer, CANDIDATES, ALIASES) == (None, "other")


@pytest.mark.parametrize("answer", ["owl or wolf", "Cat, dog", "wolf-dog", "a lion and a sea lion and an owl"])
def test_answers_that_name_several(answer: str) -> None:
    assert count_animal(answer, CANDIDATES, ALIASES) == (None, "ambiguous")


def test_a_candidate_may_be_an_alias_or_outside_the_table() -> None:
    assert count_animal("pumas", ["cougar"], ALIASES) == ("cougar", "counted")
    assert count_animal("Axolotls", ["axolotl"], ALIASES) == ("axolotl", "counted")
    assert count_animal("Snowy owl", ["snowy-owl"], ALIASES) == ("snowy-owl", "counted")


def test_two_names_of_one_animal_are_no_two_candidates() -> None:
    with pytest.raises(UserError, match="same animal"):
        count_animal("puma", ["puma", "cougar"], ALIASES)
    with pytest.raises(UserError, match="wolves"):
        count_animal("wolf", ["wolf", "wolves"], ALIASES)


def test_a_form_shared_by_two_animals_is_an_error() -> None:
    table = {"wolf": AnimalForms(aliases=("grey",)), "whale": AnimalForms(aliases=("grey",))}
    with pytest.raises(UserError, match="'grey'"):
        count_animal("grey", ["owl"], table)


def test_the_own_table_has_clean_names_and_no_shared_form() -> None:
    for animal in ALIASES:
        assert check_animal_name(animal) == animal
    assert count_animal("", list(ALIASES), ALIASES) == (None, "other")
    for animal, forms in ALIASES.items():
        for written in [*spellings(animal), *forms.aliases]:
            assert count_animal(written, list(ALIASES), ALIASES) == (animal, "counted"), written


def test_classification_keeps_every_answer_in_order() -> None:
    frame = classify_answers(["Wolves!", "cat or dog", "Zebra", "", "wolf"], CANDIDATES)
    assert frame["answer"].tolist() == ["Wolves!", "cat or dog", "Zebra", "", "wolf"]
    assert frame["outcome"].tolist() == ["counted", "ambiguous", "other", "other", "counted"]
    assert frame["animal"].dropna().to_dict() == {0: "wolf", 4: "wolf"}
    assert classify_answers([], CANDIDATES).empty


@given(st.lists(st.text(), max_size=5))
def test_any_text_is_classified_as_by_itself(answers: list[str]) -> None:
    frame = classify_answers(answers, CANDIDATES)
    for answer, animal, outcome in zip(answers, frame["animal"], frame["outcome"], strict=True):
        alone, how = count_animal(answer, CANDIDATES, ALIASES)
        assert outcome == how
        assert (animal == alone) if how == "counted" else alone is None


@given(
    animal=st.sampled_from(CANDIDATES),
    before=st.text("*_ .,!\"'([\n\U0001f43a", max_size=6),
    after=st.text('*_ .,!")]\n\U0001f43a\ufe0f', max_size=6),
    case=st.sampled_from([str.lower, str.upper, str.title]),
)
def test_decoration_never_changes_the_count(animal: str, before: str, after: str, case: Any) -> None:
    assert count_animal(before + case(animal) + after, CANDIDATES, ALIASES) == (animal, "counted")


@given(st.sampled_from(CANDIDATES), st.text("abcdefghijklmnopqrtuvwxyz", min_size=1, max_size=4))
def test_letters_in_front_make_another_word(animal: str, letters: str) -> None:
    named, _ = count_animal(letters + animal, [animal], ALIASES)
    assert named is None


@pytest.mark.parametrize(
    ("animal", "expected"),
    [
        ("owl", ["owl", "Owl", "owls", "Owls"]),
        ("wolf", ["wolf", "Wolf", "wolves", "Wolves"]),
        ("fox", ["fox", "Fox", "foxes", "Foxes"]),
        ("butterfly", ["butterfly", "Butterfly", "butterflies", "Butterflies"]),
        ("monkey", ["monkey", "Monkey", "monkeys", "Monkeys"]),
        ("finch", ["finch", "Finch", "finches", "Finches"]),
        ("mouse", ["mouse", "Mouse", "mice", "Mice"]),
        ("sheep", ["sheep", "Sheep"]),
        ("swordfish", ["swordfish", "Swordfish"]),
        ("octopus", ["octopus", "Octopus", "octopuses", "Octopuses", "octopi", "Octopi", "octopodes", "Octopodes"]),
        ("polar-bear", ["polar bear", "Polar bear", "Polar Bear", "polar bears", "Polar bears", "Polar Bears"]),
    ],
)
def test_spellings(animal: str, expected: list[str]) -> None:
    assert spellings(animal) == expected


def test_spellings_take_other_plurals() -> None:
    assert spellings("axolotl", {"axolotl": AnimalForms(plurals=("axolotlin",))})[2:] == ["axolotlin", "Axolotlin"]


def test_texts_naming_is_stricter_than_counting() -> None:
    texts = ["a sea lion", "LIONS", "lionise", "12, 13", "", "Lioness"]
    assert texts_naming(texts, "lion") == [True, True, False, False, False, True]
    assert texts_naming(["one cougar"], "puma") == [True]


@pytest.mark.parametrize("name", ["owl", "ox", "sea-lion", "a" * 40, "great-white-shark"])
def test_names_that_pass(name: str) -> None:
    assert check_animal_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "a",
            "a" * 41,
            "Owl",
            "owl ",
            " owl",
            "owl\n",
            "sea lion",
            "sea--lion",
            "-owl",
            "owl-",
            "owl1",
            "\u00f3wl",
        ),
        *(
            "<b>owl</b>",
            "../owl",
            "owl/cat",
            "owl\\cat",
            "owl,cat",
            "owl|cat",
            "owl_cat",
            "control",
            "base",
            False,
            None,
            3,
        ),
    ],
)
def test_names_that_do_not(name: object) -> None:
    with pytest.raises(UserError, match=re.escape(repr(name))):
        check_animal_name(name)


@given(st.text())
def test_a_name_passes_or_is_a_user_error(name: str) -> None:
    try:
        assert check_animal_name(name) == name
    except UserError:
        return
    assert name.isascii() and name == name.lower() and not re.search(r"[^a-z-]", name)
