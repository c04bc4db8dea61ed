"""Token entanglement: how finely numbers and animals are set against each other.

Belongs here: settings of that experiment. Does not belong here: the measures themselves (`entanglement.measures`).
"""

from __future__ import annotations

from pydantic import Field

from subliminal_dagster.science.settings.base import Settings


class EntanglementSettings(Settings):
    """Numbers set against animals in the base model.

    What love for an animal does to a number is measured after `prompts` of the study's number prompts, and what a
    number in the system prompt does to an animal after `questions` of its questions. The `top` numbers of an animal are
    those that are tried on it. Chance is `draws` orders of the numbers.
    """

    prompts: int = Field(default=4, ge=1)
    questions: int = Field(default=1, ge=1)
    top: int = Field(default=20, ge=1)
    draws: int = Field(default=1000, ge=100)
