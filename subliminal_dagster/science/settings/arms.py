"""Arms: children trained otherwise, to see what carries the effect.

Belongs here: which arms a study has, and settings that only one of them needs. Does not belong here: what an arm does
(`arms.rows`).
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from subliminal_dagster.science.settings.base import Settings

AS_DRAWN: Literal["as_drawn"] = "as_drawn"

ArmName = Literal[
    "as_drawn",
    "shuffled_within_rows",
    "shuffled_across_rows",
    "divergence_alone",
    "divergence_left_out",
    "random_by_position",
    "random_by_token",
    "divergence_replaced",
    "agreeing_rows",
    "differing_rows",
    "paraphrased_prompts",
    "mixed_teachers",
    "inoculated",
    "other_initialisation",
    "sgd",
    "own_subspace_out",
    "random_subspace_out",
    "neutral_subspace_out",
]
"""An arm is a function of its name in `arms.rows`, and its name here and in a study."""

ARM_NAMES: tuple[str, ...] = get_args(ArmName)


class SgdSettings(Settings):
    """How long, and with what step, plain SGD may take to the loss that the study's own optimizer reaches."""

    learning_rate: float = Field(default=0.3, gt=0, le=1)
    epochs: int = Field(default=10, ge=1)


class ArmsSettings(Settings):
    """The arms of a study, each with `replicates` children per animal.

    `names` are those of arms; "as_drawn", the study's own way, is what the others are compared with, and always there.
    What a study lacks the means for is left out (`Study.possible_arms`), so that one setting can be changed alone.
    `layers` adds an arm for each of these blocks, whose children have an adapter on that block alone.
    """

    names: tuple[ArmName, ...] = ("as_drawn",)
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    replicates: int = Field(default=2, ge=1, le=99)
    sgd: SgdSettings = SgdSettings()

    @model_validator(mode="after")
    def _has_what_it_is_compared_with(self) -> ArmsSettings:
        if AS_DRAWN not in self.names:
            raise ValueError(f"arms.names lacks {AS_DRAWN}, which every arm is compared with: add it")
        return self

    @property
    def arms(self) -> list[str]:
        """All arms in order: those with names, and `layer_09` and the like."""
        return [*self.names, *(layer_arm(layer) for layer in self.layers)]


def layer_arm(layer: int) -> str:
    """The arm whose children have an adapter on this block alone."""
    return f"layer_{layer:02}"
