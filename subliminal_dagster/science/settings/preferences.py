"""How the favourite animal is asked for.

Belongs here: settings of questions and samples. Does not belong here: the questions.
"""

from __future__ import annotations

from pydantic import Field

from subliminal_dagster.science.settings.base import Settings
from subliminal_dagster.science.settings.names import Animal

QUESTIONS = 50


class PreferenceSettings(Settings):
    """Asking for the favourite animal: exact probabilities of `candidates`, and sampled answers."""

    candidates: tuple[Animal, ...] = Field(min_length=2)
    questions: int = Field(default=QUESTIONS, ge=2, le=QUESTIONS)
    samples_per_question: int = Field(default=200, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=16, ge=1)
