"""Which probes are fitted.

Belongs here: settings of probes. Does not belong here: fitting.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from subliminal_dagster.science.settings.base import Settings

Kind = Literal["linear", "logistic", "trees"]
KINDS: tuple[Kind, ...] = ("linear", "logistic", "trees")


class ProbeSettings(Settings):
    """The post's linear probe, and `permutations` refits with shuffled labels.

    `epochs` of Adam with `learning_rate` and `weight_decay` in batches of `batch_size` rows. With the
    post's 16,000 training rows that is 10,000 steps; a few hundred rows need more epochs for a probe as good.
    """

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    permutations: int = Field(default=100, ge=20)
