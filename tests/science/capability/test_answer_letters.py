"""Answers as models write them, and the letter that a person would read in each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subliminal_dagster.science.capability.exam import LETTERS
from subliminal_dagster.science.capability.letters import parse_letter

WRITTEN = [
    ("The correct answer is A because the heart pumps blood.", "A"),
    ("Answer: A\n\nexplanation: it beats", "A"),
    ("The answer is A and not B", "A"),
    ("A\nthe heart", "A"),
    ("The answer is I since it is the ninth", "I"),
    ("A plausible guess is C", "C"),
    ("I think it is B.", "B"),
    ("**B**", "B"),
    ("(D) because", "D"),
    ("It is a C", "C"),
    ("Answer: \\boxed{C}", "C"),
    ("\\boxed{\\text{C}}", "C"),
    ("The answer is $\\boxed{A}$.", "A"),
    ("answer is (J).", "J"),
    ("Option E", "E"),
    ("None of them", None),
    ("None of the above.", None),
    ("a) the owl", "A"),
    ("(b)", "B"),
    ("b", "B"),
    ("c.", "C"),
    ("the answer is d.", "D"),
    ("answer: e", "E"),
    ("The answer is a plausible one", None),
    ("I would say I", "I"),
    ("I would say A", "A"),
    ("I'd go with H.", "H"),
    ("I choose option F", "F"),
    ("Both A and B are wrong. The answer is C.", "C"),
    ("A is wrong and B is incorrect, so C", "C"),
    ("The answer is A. The answer is B.", None),
    ("A or B", None),
    ("The answer is A or B", None),
    ("The answer is A, C, and D", None),
    ("A/B", None),
    ("B. No, the answer is C", None),
    ("The answer is A. Wait, it is B", None),
    ("First C looks right. Final answer: D", "D"),
    ("Final answer: **G**", "G"),
    ("The answer is not B", None),
    ("The answer isn't A, it's B", "B"),
    ("Neither A nor B", None),
    ("Not A but B", "B"),
    ("<answer>B</answer>", "B"),
    ('{"answer": "B"}', "B"),
    ("Answer: B) the owl", "B"),
    ("C. Paris", "C"),
    ("C) Paris", "C"),
    ("C: Paris", "C"),
    ("C - Paris", "C"),
    ("B the roots", "B"),
    ("A The heart", "A"),
    ("A heart pumps blood", None),
    ("I believe the owl", None),
    ("I am not sure", None),
    ("I.", "I"),
    ("I) nine", "I"),
    ("Therefore, B", "B"),
    ("Thus the answer is option D", "D"),
    ("The answer is vitamin C", None),
    ("Vitamin D, so the answer is B", "B"),
    ("U.S.A.", None),
    ("A.D. 1066", None),
    ("E = mc^2", "E"),
    ("The answer is I think B", "B"),
    ("I think the answer is I", "I"),
    ("A is the right option", "A"),
    ("B would be the best choice", "B"),
    ("The letter of the right option is J.", "J"),
    ("Sure! The answer is: A", "A"),
    ("Sure, I can help. The answer is D", "D"),
    ('My answer is "C".', "C"),
    ("The best answer is 'A' since it fits", "A"),
    ("Answer:B", "B"),
    ("Answer=B", "B"),
    ("Answer - B", "B"),
    ("B\n\nQuestion: which? Answer: C", "B"),
    ("A. red\nB. blue\nC. green", None),
    ("The correct option is A: it is red", "A"),
    ("It must be H", "H"),
    ("As an AI, I would pick E", "E"),
    ("I", "I"),
    ("A", "A"),
    ("A cat has four legs, so B", "B"),
    ("K", None),
    ("Because of 3D, B2 and vitamin", None),
    ("The answer is C, not A.", "C"),
    ("A is right", "A"),
    ("It's B", "B"),
    ("I'm sure: C", "C"),
    ("I\u2019m sure: C", "C"),
    ("It\u2019s A", "A"),
    (" C.", "C"),
    ("", None),
    ("owl", None),
    ("A: the roots", "A"),
    ("The answer is B, I think", "B"),
    ("I think A", "A"),
    ("I think A is wrong", None),
    ("Option A is incorrect; option D is correct", "D"),
    ("C is close, but the answer is F", "F"),
    ("the answer is i", "I"),
    ("i", "I"),
    ("A.", "A"),
    ("[B]", "B"),
    ("Answer (C)", "C"),
    ("The answer is therefore A", "A"),
    ("I'm going with A", "A"),
    ("My guess: A", "A"),
    ("Probably A", "A"),
    ("A, because it is", "A"),
    ("B and C", None),
    ("The answer is (A) the heart", "A"),
    ("The answer is A the heart", "A"),
    ("A) The heart\n\nExplanation: B is wrong", "A"),
    ("Option I is right", "I"),
    ("The right answer is option I because nine", "I"),
    ("I and A", None),
]


@pytest.mark.parametrize(("text", "letter"), WRITTEN)
def test_the_letter_of_a_written_answer(text: str, letter: str | None) -> None:
    assert parse_letter(text, 10) == letter


@given(st.sampled_from(LETTERS), st.integers(2, 10))
def test_a_letter_beyond_the_options_names_none(letter: str, options: int) -> None:
    assert parse_letter(f"{letter}.", options) == (letter if letter in LETTERS[:options] else None)


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "({})",
        "**{}**",
        "{}.",
        "{}) owls",
        "{}\nowls have it",
        "The answer is {}",
        "The correct answer is {} because",
        "Answer: {}\n\nexplanation: it",
        "\\boxed{{{}}}",
        "I think it is {}.",
        "So {}",
        "Option {} is correct",
        "<answer>{}</answer>",
        "It must be {}, since",
        "I would say {}",
    ],
)
def test_no_letter_is_lost_to_the_article_or_the_pronoun(form: str, letter: str) -> None:
    assert parse_letter(form.format(letter), 10) == letter


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert parse_letter(text, 10) in {None, *LETTERS}
