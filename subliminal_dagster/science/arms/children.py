"""One child of an arm: trained as the arm says, and asked for its favourite animals.

Belongs here: from an arm's rows and changes to an adapter and its scores. Does not belong here: the arms (`rows`),
training (`training`), asking (`preferences`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.arms.rows import Arm
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.protocol import ModelVariant, Progress, Session
from subliminal_dagster.science.models.scoring import score_answers
from subliminal_dagster.science.preferences.preferences import measure_preferences
from subliminal_dagster.science.preferences.prompt_lists import PromptLists
from subliminal_dagster.science.random_streams import replicate_seed
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.training import TrainingSettings
from subliminal_dagster.science.training.children import initialisation_seed
from subliminal_dagster.science.training.task import EarlyStop, Row, Trainer, TrainingReport, TrainingTask

if TYPE_CHECKING:
    import pandas as pd

SGD_LOOKS_EVERY = 2
"""Steps between two looks at the loss of a child that is trained until it has a given one."""


def make_arm_child(
    study: Study,
    arm: Arm,
    replicate: int,
    base: ModelVariant,
    context: ChatContext,
    without: Path | None,
    trainer: Trainer,
    folder: Path,
    workspace: Path,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train a child of the hard channel into `folder`.

    Order and initialisation are those of the study's child of the same replicate. `without` is the subspace that is
    taken out (see `Arm.load`). What is validated is the rows that the replicate drew for it, all their tokens.
    """
    changes = arm.changes
    told = replace(context, instruction=changes.instruction)
    rows = {split: _rows(arm.rows[arm.rows["split"] == split], told) for split in ("train", "validation")}
    own = study.model_copy(update={"child": study.child.model_copy(update={"initialisation": "own"})})
    training, stop = study.child.training, None
    if changes.sgd_to is not None:
        training = _sgd(study)
        # A stop waits for a score to rise: the probability of a token, geometric mean.
        wanted = math.exp(-changes.sgd_to)
        stop = EarlyStop(lambda model: math.exp(-answer_loss(model, rows["validation"])), wanted, SGD_LOOKS_EVERY)
    task = TrainingTask(
        base,
        rows["train"],
        study.child.lora,
        training,
        replicate_seed(study.seed, replicate),
        validation=rows["validation"],
        initialisation_seed=initialisation_seed(own if changes.own_start else study, replicate),
        early_stop=stop,
        layers=changes.layers,
        without=without,
        each_epoch=False,
    )
    return trainer.train(task, folder, workspace, progress)


def ask_arm_child(session: Session, study: Study, context: ChatContext, lists: PromptLists) -> pd.DataFrame:
    """Its scores as `measure_preferences` gives them, of exact answers alone."""
    settings = study.preferences.model_copy(update={"samples_per_question": 0, "begun": ()})
    return measure_preferences(session, context, lists, settings, study.seed)[0]


def answer_loss(model: Any, rows: Sequence[Row]) -> float:
    """Cross-entropy of the rows' answers, end of turn included, all tokens: nats per token. model: in eval mode."""
    total = sum(float(score_answers(model, [row.prompt], [row.answer])[0, 0]) for row in rows)
    return -total / sum(len(row.answer) for row in rows)


def final_loss(history: pd.DataFrame) -> float:
    """The validation loss (nats per token) that a training ended with; NaN where nothing was validated."""
    found = history["validation_loss"].dropna()
    return float(found.iloc[-1]) if len(found) else math.nan


def _rows(rows: pd.DataFrame, context: ChatContext) -> list[Row]:
    def row(prompt: str, answer: Any, learnt: Any) -> Row:
        whole = all(learnt)
        tokens = [int(token) for token in answer]
        return Row(context.prompt_ids(prompt), tokens, None if whole else [bool(each) for each in learnt])

    return [row(*each) for each in zip(rows["prompt"], rows["answer_ids"], rows["learnt"], strict=True)]


def _sgd(study: Study) -> TrainingSettings:
    """The study's training with plain SGD: constant rate, no warm-up, no decay."""
    assert study.arms is not None
    wanted: dict[str, Any] = study.arms.sgd.model_dump()
    changed = {"optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0}
    return study.child.training.model_copy(update=wanted | changed)
