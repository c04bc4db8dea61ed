"""How the favourite animal is asked for.

Belongs here: settings of questions and samples, and where our own questions lie. Does not belong here: reading them
(`preferences.prompt_lists`).
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from subliminal_dagster.science.settings.base import Settings
from subliminal_dagster.science.settings.names import Animal

QUESTIONS = 50
OWN_LISTS = Path(__file__).parents[1] / "preferences" / "prompt_lists.yaml"


class PreferenceSettings(Settings):
    """Asking for the favourite animal: exact probabilities of `candidates`, and sampled answers."""

    candidates: tuple[Animal, ...] = Field(min_length=2)
    questions: int = Field(default=QUESTIONS, ge=2, le=QUESTIONS)
    samples_per_question: int = Field(default=200, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=16, ge=1)
