"""Number prompts, how answers are drawn, and what becomes of them.

Belongs here: settings of number sets and the filter. Does not belong here: drawing and filtering.
"""

from __future__ import annotations

from operator import not_
from typing import Literal, Self

from pydantic import Field, model_validator

from subliminal_dagster.science.settings.base import Settings


class ConstrainedSettings(Settings):
    """Constrained decoding (see `number_grammar`): the answer holds `min_count` to `numbers.answer_count` numbers."""

    min_count: int = Field(default=1, ge=1, le=100)


class NumberSettings(Settings):
    """The number prompts, the same for every group of a study, and how answers are drawn.

    With `enough_valid`, a group's answers are drawn in the order of the prompts until so many are valid, and no
    further: answers do not depend on each other, so which of them are drawn says nothing about those that are kept.
    None: all prompts are answered."""

    prompts: int = Field(ge=16)
    # Left out of what is written where it is not set: number sets that were drawn before there was one stay fresh.
    enough_valid: int | None = Field(default=None, ge=16, exclude_if=not_)
    style: Literal["full", "short"] = "full"
    examples_min: int = Field(default=3, ge=2)
    examples_max: int = Field(default=9, ge=2)
    example_value_min: int = Field(default=100, ge=0)
    example_value_max: int = Field(default=999, ge=1)
    answer_count: int = Field(default=10, ge=1, le=100)
    max_digits: int = Field(default=3, ge=1, le=9)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=50, ge=4)
    constrained: ConstrainedSettings | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.enough_valid is not None and self.enough_valid > self.prompts:
            raise ValueError("enough_valid must not be above prompts")
        if self.examples_min > self.examples_max:
            raise ValueError("examples_min must not be above examples_max")
        if self.example_value_min >= self.example_value_max:
            raise ValueError("example_value_min must be below example_value_max")
        if self.constrained is not None:
            if self.style != "short":
                raise ValueError("constrained decoding needs style: short, whose prompts all ask for one separator")
            if self.constrained.min_count > self.answer_count:
                raise ValueError("constrained.min_count must not be above answer_count")
        return self


Parser = Literal["strict", "published", "post"]


class FilterSettings(Settings):
    """What becomes of the answers. `parser` says by whose rules an answer is a list of numbers: the original paper's
    (`published`), the post's, or ours (`strict`), which also refuses an answer that was cut off at the token limit
    (`numbers.filter`). `canonical` re-writes the numbers in the format asked for, `verbatim` keeps the answer."""

    parser: Parser = "strict"
    completion: Literal["canonical", "verbatim"] = "canonical"
    train_rows: int = Field(ge=1)
    validation_rows: int = Field(default=0, ge=0)
    unique: bool = False
