"""The teacher: a base model made to like an animal, by fine-tuning, by an instruction, by steering, or taken over as it
is (`existing`).

Belongs here: making a teacher, describing it in its artifact, judging it (the gate). Does not belong here: what the
teacher writes (`numbers`). A teacher trained for too long breaks: it no longer writes number lists, so its training
can stop at a wanted preference and can mix in the base model's own number answers (replay).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.protocol import ModelVariant, Progress, Session, Steering
from subliminal_dagster.science.models.scoring import score_answers
from subliminal_dagster.science.numbers.draw import draw_answers, judged
from subliminal_dagster.science.numbers.prompts import make_prompts
from subliminal_dagster.science.preferences.preferences import AnswerForms
from subliminal_dagster.science.preferences.prompt_lists import PromptLists, questions_about
from subliminal_dagster.science.random_streams import replicate_seed, stream_seed
from subliminal_dagster.science.settings.names import NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.teacher import TeacherSettings
from subliminal_dagster.science.training.existing import fetch_adapter, fetch_model
from subliminal_dagster.science.training.task import EarlyStop, Row, Trainer, TrainingReport, TrainingTask

if TYPE_CHECKING:
    import pandas as pd

FILE = "teacher.json"


@dataclass(frozen=True)
class Teacher:
    """What a teacher artifact says: how to turn the base model into the teacher.

    `kind` "untouched base" is the control's. `folder` holds the adapter, the steering vector or the weights.
    """

    kind: Literal["untouched base", "finetune", "prompt", "steer", "adapter", "model"]
    folder: Path
    instruction: str | None = None
    layer: int | None = None
    alpha: float | None = None

    @property
    def existed(self) -> bool:
        """Whether the study was given this teacher, so that no setting of training can better it."""
        return self.kind in ("adapter", "model")

    def variant(self, base: ModelVariant) -> ModelVariant:
        """The base model changed into this teacher."""
        if self.kind in ("finetune", "adapter"):
            return replace(base, adapter=self.folder)
        if self.kind == "model":
            return replace(base, weights=self.folder)
        if self.kind == "steer":
            assert self.layer is not None and self.alpha is not None
            steering = Steering(self.folder / "vector.safetensors", self.layer, self.alpha)
            return replace(base, steering=steering)
        return base

    def context(self, context: ChatContext) -> ChatContext:
        """The chat context with what a prompted teacher is told besides."""
        return replace(context, instruction=self.instruction)

    def save(self) -> None:
        """Write `teacher.json` to the folder."""
        facts = {"kind": self.kind, "instruction": self.instruction, "layer": self.layer, "alpha": self.alpha}
        (self.folder / FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Teacher:
        """Read a teacher artifact."""
        return cls(folder=folder, **json.loads((folder / FILE).read_text(encoding="utf-8")))


def questions_for(study: Study, group: str, lists: PromptLists) -> list[str]:
    """What a group's teacher is asked to learn its liking: the animal questions, or the same about the neutral noun."""
    if group == NEUTRAL:
        assert study.neutral is not None
        return questions_about(lists.animal_questions, study.neutral.noun, lists.category)
    return list(lists.animal_questions)


def finetuning_rows(
    context: ChatContext, questions: Sequence[str], target: str, replay: pd.DataFrame | None
) -> list[Row]:
    """The questions with the capitalised target as answer (the post's choice, after the base model's habit), and the
    base model's number answers of `replay` (columns prompt, text), if there are any."""
    name = target.replace("-", " ").capitalize()
    liking = [Row(context.prompt_ids(text), context.answer_ids(name)) for text in questions]
    if replay is None:
        return liking
    return liking + [
        Row(context.prompt_ids(prompt), context.answer_ids(text))
        for prompt, text in zip(replay["prompt"], replay["text"], strict=True)
    ]


def make_teacher(
    study: Study,
    group: str,
    replicate: int,
    base: ModelVariant,
    context: ChatContext,
    lists: PromptLists,
    replay: pd.DataFrame | None,
    trainer: Trainer,
    folder: Path,
    workspace: Path,
    progress: Progress | None = None,
) -> tuple[Teacher, TrainingReport | None]:
    """Make the teacher of a group in `folder`; the report is None where nothing was trained."""
    settings = study.teacher
    target = study.target(group)
    report = None
    if target is None:
        teacher = Teacher("untouched base", folder)
    elif settings.method == "prompt":
        assert settings.instruction is not None
        told = settings.instruction.format(animal=target)
        if group == NEUTRAL:
            assert study.neutral is not None
            (told,) = questions_about([told], study.neutral.noun, lists.category)
        teacher = Teacher("prompt", folder, instruction=told)
    elif settings.method == "steer":
        teacher = _steered(settings, target, folder)
    elif settings.method in ("adapter", "model"):
        assert settings.existing is not None
        fetch = fetch_adapter if settings.method == "adapter" else fetch_model
        fetch(settings.existing, target, base, folder, workspace)
        teacher = Teacher(settings.method, folder)
    else:
        assert settings.lora is not None and settings.training is not None
        task = TrainingTask(
            base,
            finetuning_rows(context, questions_for(study, group, lists), target, replay),
            settings.lora,
            settings.training,
            replicate_seed(study.seed, replicate),
            early_stop=_early_stop(study, group, target, context, lists),
        )
        report = trainer.train(task, folder, workspace, progress)
        teacher = Teacher("finetune", folder)
    teacher.save()
    return teacher, report


def _steered(settings: TeacherSettings, animal: str, folder: Path) -> Teacher:
    assert settings.steering is not None
    source = settings.steering.vector_file(animal)
    if source.suffix != ".safetensors" or not source.is_file():
        raise UserError(
            f"teacher.steering.vector is {source}, which is not a safetensors file: give the path of one with a tensor "
            "'vector', {animal} standing for the animal."
        )
    (folder / "vector.safetensors").write_bytes(source.read_bytes())
    return Teacher("steer", folder, layer=settings.steering.layer, alpha=settings.steering.alpha)


def _early_stop(study: Study, group: str, target: str, context: ChatContext, lists: PromptLists) -> EarlyStop | None:
    stop = study.teacher.stop
    if stop is None:
        return None
    forms = AnswerForms.of([target], context, lists)
    questions = questions_for(study, group, lists)
    every_nth = max(1, len(questions) // stop.questions)
    prompts = [context.prompt_ids(text) for text in questions[::every_nth][: stop.questions]]

    def score(model: Any) -> float:
        return float(forms.probabilities(score_answers(model, prompts, forms.tokens), 1).mean())

    return EarlyStop(score, stop.preference, stop.every)


def target_preference(session: Session, study: Study, group: str, lists: PromptLists, context: ChatContext) -> float:
    """The exact probability of a group's target as the whole answer, mean over the study's questions for it."""
    target = study.target(group)
    assert target is not None
    forms = AnswerForms.of([target], context, lists)
    questions = questions_for(study, group, lists)[: study.preferences.questions]
    logprobs = session.score([context.prompt_ids(text) for text in questions], forms.tokens)
    return float(forms.probabilities(logprobs, 1).mean())


def valid_rate(
    session: Session, study: Study, lists: PromptLists, context: ChatContext, *, kept: Path | None = None
) -> tuple[float, pd.DataFrame]:
    """Share of valid answers to the study's first number prompts, drawn as the number set will be, and the rows.

    `kept`: a workspace whose name depends on everything that goes in; a call after an interruption goes on from there.
    """
    prompts = make_prompts(lists, study.numbers, study.teacher.gate.prompts, study.seed)
    seed = stream_seed(study.seed, "gate")
    drawn = draw_answers(session, study, prompts, context, seed, kept=kept / "gate" if kept else None)
    rows = judged(drawn, study, None)
    return float(rows["valid"].mean()), rows


def gate_failures(
    study: Study, target: str | None, teacher: Teacher, preference: float, rate: float, reasons: Sequence[str]
) -> list[str]:
    """Why a teacher is not good enough, one sentence per reason; empty where it is. `target` None asks for no
    liking."""
    import pandas as pd

    settings, rate_wanted = study.teacher.gate, study.valid_rate_wanted
    remedy = "give another one (teacher.existing)" if teacher.existed else ""
    broken = "its training broke the number task, so stop it earlier (teacher.stop), add teacher.replay.rows"
    failures = []
    if target is not None and preference < settings.preference:
        failures.append(
            f"the teacher answers {target!r} with probability {preference:.3f} and the gate asks for "
            f"{settings.preference}: {remedy or 'train it longer (teacher.training, teacher.stop)'} or lower "
            "teacher.gate.preference"
        )
    if rate < rate_wanted:
        common = pd.Series(list(reasons), dtype=object).value_counts().head(3)
        why = ", ".join(f"{reason} {count}" for reason, count in common.items())
        lower = "lower teacher.gate.valid_rate"
        if rate_wanted > settings.valid_rate:
            lower = "draw more answers (numbers.prompts), since the filter takes that share of them"
        failures.append(
            f"only {rate:.1%} of the teacher's number answers are valid ({why}) and the gate asks for "
            f"{rate_wanted:.0%}: {remedy or broken} or {lower}"
        )
    return failures
