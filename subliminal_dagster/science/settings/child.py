"""The child and its comparison.

Belongs here: settings of channels, children and statistics. Does not belong here: training and testing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from subliminal_dagster.science.settings.base import Settings
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings

Channel = Literal["hard", "soft"]


class SoftSettings(Settings):
    """The soft channel: whether the teacher's distribution is handed on over number tokens only or over the whole
    vocabulary, and how its child trains (None: like the hard channel's)."""

    support: Literal["numbers", "vocabulary"] = "numbers"
    training: TrainingSettings | None = None


class ChildSettings(Settings):
    """The child: an adapter on the untouched base.

    `initialisation` "shared": the child's adapter starts from the seed that its replicate's teacher's started from, and
    so, where both have the same rank and target modules, from the same random matrices A (the matrices B start at
    zero). The post has it so, and the theory of subliminal learning is about teachers and students that start alike.
    "own": from another seed. Either way all children of a replicate start alike, and see their rows in the same order.
    """

    channels: tuple[Channel, ...] = Field(default=("hard",), min_length=1)
    lora: LoraSettings
    initialisation: Literal["shared", "own"] = "shared"
    training: TrainingSettings
    soft: SoftSettings = SoftSettings()

    @field_validator("channels")
    @classmethod
    def _hard_is_there(cls, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        if "hard" not in channels:
            raise ValueError("channels must be [hard] or [hard, soft]")
        return channels


class ComparisonSettings(Settings):
    """The statistics of the comparison. An effect of `margin` nats of log share, a tenth more or less of an animal's
    share where it is 0.1, is what is said to be excluded where nothing is detected."""

    margin: float = Field(default=0.1, gt=0)
    permutations: int = Field(default=10_000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
