"""Names that a study may give to animals, and those it may not.

Belongs here: names of groups and animals. Does not belong here: anything else of a study.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from subliminal_dagster.science.errors import UserError

# Names that other parts of a study use beside the animals: its groups without a target.
_RESERVED_NAMES = ("control", "base", "neutral")
_LONGEST_NAME = 40


def check_animal_name(name: object) -> str:
    """The name itself if it may name an animal throughout a study; it becomes a partition key and part of paths.

    Allowed: 2 to 40 lower-case letters a to z, words joined by single hyphens ("owl", "sea-lion"), and not
    "control", "neutral" or "base", which name groups. Anything else raises UserError.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z]+(-[a-z]+)*", name) or not 2 <= len(name) <= _LONGEST_NAME:
        raise UserError(
            f"{name!r} cannot be an animal's name; use 2 to {_LONGEST_NAME} lower-case letters a to z, with single "
            "hyphens between words, such as 'owl' or 'sea-lion'."
        )
    if name in _RESERVED_NAMES:
        raise UserError(
            f"{name!r} cannot be an animal's name because it names a group of its own; choose another name."
        )
    return name


CONTROL = "control"
"""The group of the untouched base model's numbers."""

NEUTRAL = "neutral"
"""The group of a teacher that was fine-tuned just like the others, on something that is not an animal."""


def _animal(name: str) -> str:
    try:
        return check_animal_name(name)
    except UserError as error:
        raise ValueError(str(error)) from None


Animal = Annotated[str, AfterValidator(_animal)]
