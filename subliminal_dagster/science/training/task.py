"""What a model is to learn, and what a training did.

Belongs here: the shapes that who asks for a training and who does it share. Does not belong here: training (`adapter`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from subliminal_dagster.science.models.protocol import ModelVariant, Progress
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """One training row: token ids of the chat context up to the answer, and of the answer with its end of turn.

    `learnt` says of every token of the answer whether it counts in the loss; None: all do.
    """

    prompt: list[int]
    answer: list[int]
    learnt: Sequence[bool] | None = None


@dataclass(frozen=True)
class SoftTargets:
    """The soft channel: learn `teacher`'s distribution at the answer positions instead of the sampled tokens.

    `support` are the token ids the distribution is restricted to (renormalised there, for teacher and child alike):
    with number tokens only, no probability of a word can be passed on. None means the whole vocabulary.
    `teacher_prompts` are the prompts as the teacher saw them, one a training row, where they differ from the child's
    (a prompted teacher's instruction).
    """

    teacher: ModelVariant
    support: tuple[int, ...] | None = None
    teacher_prompts: tuple[list[int], ...] | None = None


@dataclass(frozen=True)
class EarlyStop:
    """Stop once `score(model)` reaches `at_least`, looked at every `every` steps: a teacher must not be overtrained."""

    score: Callable[[Any], float]
    at_least: float
    every: int


@dataclass
class TrainingReport:
    """What a run did.

    `history` has one row a logged step: step, epoch, loss, validation_loss (nats per token), learning_rate, score.
    `products` is the type that the matrix products of training steps had.
    """

    history: pd.DataFrame
    steps: int
    epochs: list[int]
    seconds: float
    trained_tokens: int
    padding_share: float
    resumed_from_step: int
    stopped_early: bool
    products: str

    def facts(self) -> dict[str, Any]:
        """JSON-able figures for the metadata of an asset."""
        facts = {key: value for key, value in asdict(self).items() if key != "history"}
        facts["tokens_per_second"] = round(self.trained_tokens / max(self.seconds, 1e-9), 1)
        return facts


@dataclass(frozen=True)
class TrainingTask:
    """What is to be learnt: an adapter on `base` from `rows` (all weights where `lora` is None), judged on `validation`
    and kept at the end of every epoch or, without `each_epoch`, of the whole training.

    `seed` gives the order of the rows and the dropout, and the adapter's random initialisation as well unless that has
    an `initialisation_seed` of its own. `layers` are the blocks, from 0, that get an adapter; None: all. `without` is a
    safetensors file as `projection.projected_out` takes it: what lies in its subspaces is taken out of the residual
    stream throughout the training, and there alone.
    """

    base: ModelVariant
    rows: Sequence[Row]
    lora: LoraSettings | None
    training: TrainingSettings
    seed: int
    validation: Sequence[Row] = ()
    soft: SoftTargets | None = None
    early_stop: EarlyStop | None = None
    initialisation_seed: int | None = None
    layers: tuple[int, ...] | None = None
    without: Path | None = None
    each_epoch: bool = True


class Trainer(Protocol):
    """Makes an adapter, or a whole model, from rows."""

    @property
    def name(self) -> str: ...

    def train(
        self, task: TrainingTask, output: Path, workspace: Path, progress: Progress | None = None
    ) -> TrainingReport:
        """Train and write the last epoch's adapter or model to `output`, with the task's `each_epoch` every epoch's to
        `output/epochs/<n>`, and `output/history.parquet`. `workspace` survives a kill; the next call with it goes on
        from the last checkpoint in it. Raises UserError where a row is longer than `training.max_length`."""
        ...
