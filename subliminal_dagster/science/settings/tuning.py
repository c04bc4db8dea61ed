"""What hyperparameters are searched for.

Belongs here: settings of a search. Does not belong here: searching.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from subliminal_dagster.science.settings.base import Settings

_WHOLE = 1e-9


class SearchSpace(Settings):
    """What is tried: lowest and highest value of each, both included. The defaults are the post's.

    The learning rate is drawn on a logarithmic scale; dropout and rank in steps from the lowest value on; alpha is the
    rank times one of `alpha_ratio`.
    """

    learning_rate: tuple[float, float] = (1e-5, 3e-4)
    dropout: tuple[float, float] = (0.0, 0.10)
    dropout_step: float = Field(default=0.01, gt=0, lt=1)
    rank: tuple[int, int] = (8, 64)
    rank_step: int = Field(default=8, ge=1)
    alpha_ratio: tuple[float, ...] = Field(default=(1.0, 1.5, 2.0), min_length=1)

    @model_validator(mode="after")
    def _can_be_drawn_from(self) -> Self:
        limits = {
            "learning_rate": (1e-12, *self.learning_rate, 1.0),
            "dropout": (0.0, *self.dropout, 0.99),
            "rank": (1, *self.rank, 512),
        }
        for name, (lowest, low, high, highest) in limits.items():
            if not lowest <= low <= high <= highest:
                raise ValueError(f"{name} must be [lowest, highest] within {lowest:g} and {highest:g}")
        if (self.rank[1] - self.rank[0]) % self.rank_step:
            raise ValueError("rank's highest value must be a whole number of rank_step above the lowest")
        if not is_whole((self.dropout[1] - self.dropout[0]) / self.dropout_step):
            raise ValueError("dropout's highest value must be a whole number of dropout_step above the lowest")
        if min(self.alpha_ratio) <= 0:
            raise ValueError("alpha_ratio must be numbers above 0")
        if not all(is_whole(rank * ratio) for rank in (self.rank[0], self.rank_step) for ratio in self.alpha_ratio):
            raise ValueError("every rank times every alpha_ratio must be a whole number, as alpha is one")
        return self


class TuningSettings(Settings):
    """`trials` trainings of `epochs` epochs on `train_rows` rows of the dataset, judged on `validation_rows`.

    `pruning` ends a trial after an epoch where its validation loss is above the median of the complete trials' at that
    epoch; none is pruned before five are complete. The best setting is trained for the last of `final_epochs`, and its
    adapter is looked at after each of them.
    """

    trials: int = Field(default=36, ge=1, le=10_000)
    train_rows: int = Field(default=2500, ge=1)
    validation_rows: int = Field(default=250, ge=1)
    epochs: int = Field(default=3, ge=1)
    search: SearchSpace = Field(default_factory=SearchSpace)
    pruning: bool = False
    final_epochs: tuple[int, ...] = Field(default=(3, 5, 7, 10), min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if list(self.final_epochs) != sorted(self.final_epochs) or self.final_epochs[0] < 1:
            raise ValueError("final_epochs must be epochs from 1 on, in ascending order")
        if self.pruning and self.epochs < 2:
            raise ValueError("pruning needs at least 2 epochs: a trial is judged before its last")
        return self


def is_whole(number: float) -> bool:
    return abs(number - round(number)) < _WHOLE
