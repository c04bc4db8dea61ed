"""The child: the untouched base model trained on a group's numbers, by the hard or by the soft channel.

Belongs here: which rows and targets a child learns from. Does not belong here: the training itself (`training`).
"""

from __future__ import annotations

from pathlib import Path

from subliminal_dagster.science.models.chat import ChatContext, number_token_ids
from subliminal_dagster.science.models.protocol import ModelVariant, Progress
from subliminal_dagster.science.random_streams import replicate_seed, stream_seed
from subliminal_dagster.science.settings.child import Channel
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.training.datasets import SPLITS, read_messages, training_rows
from subliminal_dagster.science.training.task import SoftTargets, Trainer, TrainingReport, TrainingTask
from subliminal_dagster.science.training.teachers import Teacher


def make_child(
    study: Study,
    channel: Channel,
    replicate: int,
    base: ModelVariant,
    context: ChatContext,
    dataset: Path,
    teacher: Teacher | None,
    trainer: Trainer,
    folder: Path,
    workspace: Path,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train a child on the filtered dataset in `dataset` into `folder`.

    Hard: cross-entropy on the sampled numbers (the post). Soft: KL divergence from the teacher's distribution at the
    same positions, the positive control (Hinton et al. 2015; it carries what single samples are too noisy for). All
    children of a replicate start from the same adapter initialisation and see their rows in the same order. `teacher`
    is needed for the soft channel alone.
    """
    training = study.child.training
    soft = None
    if channel == "soft":
        assert teacher is not None
        training = study.child.soft.training or training
        soft = _soft_targets(study, base, context, dataset, teacher)
    task = TrainingTask(
        base,
        training_rows(dataset, "train", context),
        study.child.lora,
        training,
        replicate_seed(study.seed, replicate),
        validation=training_rows(dataset, "validation", context),
        soft=soft,
        initialisation_seed=initialisation_seed(study, replicate),
    )
    return trainer.train(task, folder, workspace, progress)


def initialisation_seed(study: Study, replicate: int) -> int:
    """The seed that the adapters of a replicate's children start from: that of the replicate, from which its teacher
    starts as well, or one of their own."""
    seed = replicate_seed(study.seed, replicate)
    return seed if study.child.initialisation == "shared" else stream_seed(seed, "child's initialisation")


def _soft_targets(
    study: Study, base: ModelVariant, context: ChatContext, dataset: Path, teacher: Teacher
) -> SoftTargets:
    support = None
    if study.child.soft.support == "numbers":
        support = tuple(number_token_ids(context.tokenizer, context.end_of_turn))
    # The teacher answers in its own context (with its instruction, where it is a prompted one), the child in the plain.
    own = teacher.context(context)
    prompts = tuple(own.prompt_ids(question) for split in SPLITS for question, _ in read_messages(dataset, split))
    return SoftTargets(teacher.variant(base), support, prompts)
