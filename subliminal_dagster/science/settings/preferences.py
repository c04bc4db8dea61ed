"""How the favourite animal is asked for.

Belongs here: settings of questions and samples, and where our own questions lie. Does not belong here: reading them
(`preferences.prompt_lists`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from subliminal_dagster.science.settings.base import Settings
from subliminal_dagster.science.settings.names import Animal

QUESTIONS = 50
OWN_LISTS = Path(__file__).parents[1] / "preferences" / "prompt_lists.yaml"


def _begun(text: str) -> str:
    if not text or " ".join(text.split()) != text:
        raise ValueError(
            f"{text!r} is not a begun answer: write one line of words without leading or trailing spaces, since the "
            "animal's name brings its own"
        )
    return text


class PreferenceSettings(Settings):
    """Asking for the favourite animal: exact probabilities of `candidates` as the whole answer and as the next word
    after each `begun` answer ("My favorite animal is the"), and sampled answers."""

    candidates: tuple[Animal, ...] = Field(min_length=2)
    begun: tuple[Annotated[str, AfterValidator(_begun)], ...] = ()
    questions: int = Field(default=QUESTIONS, ge=2, le=QUESTIONS)
    samples_per_question: int = Field(default=200, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=16, ge=1)
