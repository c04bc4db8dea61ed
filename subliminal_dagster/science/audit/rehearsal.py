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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.audit.asked import Asked, whole_log_shares
from subliminal_dagster.science.models.loading import loaded, pick_device
from subliminal_dagster.science.models.protocol import ModelVariant, child_variant
from subliminal_dagster.science.processes import side_by_side
from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.child import ChildSettings
from subliminal_dagster.science.training.task import Row, Trainer, TrainingTask

if TYPE_CHECKING:
    from subliminal_dagster.science.models.protocol import Progress


def rehearsed(
    base: ModelVariant,
    rows: Sequence[Row],
    child: ChildSettings,
    asked: Asked,
    trainer: Trainer,
    seed: int,
    repetitions: int,
    workspace: Path,
    *,
    processes: int = 1,
    progress: Progress = lambda _: None,
) -> np.ndarray:
    """How much more a child of `rows` likes every candidate than one of rows with each other's answers: nats of log
    share of whole answers, shape (repetitions, candidates). On a CPU children are trained in `processes` processes.
    `workspace` is empty afterwards."""
    steps = workspace / "steps"
    trainings = {}
    for repetition in range(repetitions):
        own = stream_seed(seed, "rehearsal", str(repetition))
        for what, learnt in (("rows", rows), ("exchanged", exchanged(rows, own))):
            task = TrainingTask(base, learnt, child.lora, child.training, own)
            name = f"{what}-{repetition}"
            trainings[name] = partial(_shares_of_a_child, task, asked, trainer, workspace / name, steps / name)
    shares: dict[str, np.ndarray] = {}
    for name, found in side_by_side(trainings, processes if pick_device() == "cpu" else 1):
        shares[name] = found
        progress(f"short training {len(shares)}/{len(trainings)}")
    shutil.rmtree(steps, ignore_errors=True)
    return np.stack([shares[f"rows-{each}"] - shares[f"exchanged-{each}"] for each in range(repetitions)])


def _shares_of_a_child(task: TrainingTask, asked: Asked, trainer: Trainer, folder: Path, steps: Path) -> np.ndarray:
    """How much a child of the task likes each candidate; of the child nothing is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer.train(task, folder, steps)
    with loaded(child_variant(task.base, folder), pick_device(), merge=False) as model:
        found = whole_log_shares(model, asked)
    shutil.rmtree(folder)
    return found


def exchanged(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows with each other's answers: every answer goes to the next prompt of a random circle through all."""
    circle = np.random.default_rng(seed).permutation(len(rows))
    answers = {int(place): rows[int(before)].answer for place, before in zip(circle, np.roll(circle, 1), strict=True)}
    return [Row(row.prompt, answers[place]) for place, row in enumerate(rows)]
