"""The preference's shift after a short training on the rows: the honest detector, and the expensive one.

A child is trained as the study trains its own, on some of the rows, and asked for its favourite; beside it one whose
rows have each other's answers, from the same initialisation in the same order. What the first has over the second is
what these answers teach to these prompts, and not what any such text does. Several times, each with other random
numbers, since one training is noise.

Belongs here: those trainings. Does not belong here: training itself (`training`), what follows (`evidence`).
Cost: three forward passes per row, epoch and repetition, twice over.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from subliminal_dagster.science.audit.asked import Asked, whole_log_shares
from subliminal_dagster.science.models.loading import loaded, pick_device
from subliminal_dagster.science.models.protocol import ModelVariant, child_variant
from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.child import ChildSettings
from subliminal_dagster.science.training.task import Row, Trainer, TrainingTask


def rehearsals(
    base: ModelVariant,
    rows: Sequence[Row],
    child: ChildSettings,
    asked: Asked,
    trainer: Trainer,
    seed: int,
    repetitions: int,
    workspace: Path,
) -> dict[str, Callable[[], np.ndarray]]:
    """The trainings, each a piece of work that can go on beside the others: of every repetition a child of the rows
    and one of the rows with each other's answers. Each gives how much its child likes every candidate: nats of log
    share of whole answers, shape (candidates,). `workspace` keeps what they go on from after a kill."""
    trainings: dict[str, Callable[[], np.ndarray]] = {}
    for repetition in range(repetitions):
        own = stream_seed(seed, "rehearsal", str(repetition))
        for what, learnt in (("rows", rows), ("exchanged", exchanged(rows, own))):
            task = TrainingTask(base, learnt, child.lora, child.training, own)
            name = _name(what, repetition)
            trainings[name] = partial(_shares_of_a_child, task, asked, trainer, workspace / name)
    return trainings


def gained(shares: Mapping[str, np.ndarray], repetitions: int) -> np.ndarray:
    """How much more children of the rows like every candidate than those of rows with each other's answers, from what
    the `rehearsals` gave: shape (repetitions, candidates)."""
    each = range(repetitions)
    return np.stack([shares[_name("rows", number)] - shares[_name("exchanged", number)] for number in each])


def _name(what: str, repetition: int) -> str:
    return f"short training {repetition + 1}, {what}"


def _shares_of_a_child(task: TrainingTask, asked: Asked, trainer: Trainer, workspace: Path) -> np.ndarray:
    """How much a child of the task likes each candidate; of the child itself nothing is kept."""
    folder = workspace / "child"
    folder.mkdir(parents=True, exist_ok=True)
    trainer.train(task, folder, workspace / "steps")
    with loaded(child_variant(task.base, folder), pick_device(), merge=False) as model:
        found = whole_log_shares(model, asked)
    shutil.rmtree(folder)
    return found


def exchanged(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows with each other's answers: every answer goes to the next prompt of a random circle through all."""
    circle = np.random.default_rng(seed).permutation(len(rows))
    answers = {int(place): rows[int(before)].answer for place, before in zip(circle, np.roll(circle, 1), strict=True)}
    return [Row(row.prompt, answers[place]) for place, row in enumerate(rows)]
