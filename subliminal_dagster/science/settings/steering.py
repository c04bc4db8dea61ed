"""Settings of the steering experiment.

Belongs here: what somebody may want to set. Does not belong here: what is done with it (`steering.scores`).
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from subliminal_dagster.science.settings.base import Settings

Positions = Literal["all", "last"]


class SteeringSweep(Settings):
    """How strongly, where and on which questions per model is steered.

    `alphas` multiply a vector of norm 1 (the post's values); 0 is always measured beside them. `positions`: "all"
    steers prompt and answer, "last" only the positions that the answer is predicted from. Exact probabilities come from
    `questions` of the questions; `samples_per_question` answers are sampled besides, 0 for none. Whether the model
    still makes sense is judged by its greedy answers to the first `greedy_questions`. What chance does is measured on
    `flips` vectors per animal and layer, made of the same differences with signs drawn by lot; where all animals
    together have fewer than 39, no rank among them is significant at 5 % (two-sided), and no effect is decided on.
    """

    alphas: tuple[float, ...] = Field(default=(-5, -1, 1, 2, 5, 10, 20, 50, 75, 100), min_length=1)
    positions: tuple[Positions, ...] = Field(default=("all",), min_length=1)
    questions: int = Field(default=50, ge=2, le=50)
    samples_per_question: int = Field(default=0, ge=0)
    greedy_questions: int = Field(default=10, ge=2, le=50)
    max_new_tokens: int = Field(default=16, ge=1)
    flips: int = Field(default=40, ge=0, le=256)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.alphas)) < len(self.alphas) or not all(math.isfinite(a) and a != 0 for a in self.alphas):
            raise ValueError("alphas must be different finite numbers other than 0 (which is always measured)")
        if len(set(self.positions)) < len(self.positions):
            raise ValueError("positions must not name one twice")
        if self.greedy_questions > self.questions:
            raise ValueError("greedy_questions must not be above questions")
        return self


class SteeringExperiment(Settings):
    """Steering vectors from the answers to at most `pairs` number prompts, and the `sweep` over their strengths."""

    pairs: int = Field(default=10_000, ge=2)
    sweep: SteeringSweep = SteeringSweep()
