"""What a preference is about: animals, unless a study says otherwise.

Belongs here: the words for it, its questions, other forms of its names. Does not belong here: which names a study tries
(`animals`, `preferences.candidates`), asking (`preferences`).
"""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from subliminal_dagster.science.settings.base import Settings
from subliminal_dagster.science.settings.names import Animal

_Text = Annotated[str, Field(pattern=r"\S")]


def _word(text: str) -> str:
    if not text.isalpha() or not text.isascii() or not text.islower() or len(text) < 2:
        raise ValueError(f"{text!r} cannot name a category: use only the lower-case letters a to z, such as tree")
    return text


_Word = Annotated[str, AfterValidator(_word)]


class NameForms(Settings):
    """Other written forms of one name: `plurals` in the place of the regular one (cactus: cacti), and `aliases`, other
    names of the same thing, whose plurals are regular."""

    plurals: tuple[_Text, ...] = ()
    aliases: tuple[_Text, ...] = ()


class Category(Settings):
    """What the names in `animals` are names of, in the singular and the plural: {singular: tree, plural: trees}.

    `questions` ask for the favourite; where there are none, they are those about animals with this word in the animal's
    place. `forms` are the other written forms of names of this category; a name without an entry has a regular plural.
    """

    singular: _Word = "animal"
    plural: _Word = "animals"
    questions: tuple[_Text, ...] = ()
    forms: dict[Animal, NameForms] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.singular == "animal") != (self.plural == "animals"):
            raise ValueError("category needs both words, such as {singular: tree, plural: trees}")
        if self.singular == "animal" and (self.questions or self.forms):
            raise ValueError(
                "questions and forms are for categories other than animals (for animals, `prompts` names a file with "
                "them): name singular and plural too, or leave them out"
            )
        unnamed = [text for text in self.questions if self.singular not in text.lower()]
        if unnamed:
            raise ValueError(f"the question {unnamed[0]!r} does not say {self.singular!r}: word it with that")
        return self

    def about(self, text: str) -> str:
        """One of this project's sentences on animals as one on this category. No text of a model belongs in it.

        >>> Category(singular="tree", plural="trees").about("An animal and other animals' numbers")
        "A tree and other trees' numbers"
        """
        if self == ANIMALS:
            return text

        def put(found: re.Match[str]) -> str:
            word = self.plural if found["word"].lower() == "animals" else self.singular
            article = "" if not found["article"] else "an " if self.singular[0] in "aeiou" else "a "
            return (article + word).capitalize() if found[0][0].isupper() else article + word

        return re.sub(r"\b(?P<article>[Aa]n )?(?P<word>[Aa]nimals?)\b", put, text)


ANIMALS = Category()
