"""How a base model is made to like an animal.

Belongs here: settings of teachers and the neutral group. Does not belong here: training itself, reading what exists
(`training.existing`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from subliminal_dagster.science.settings.base import Settings, UserPath
from subliminal_dagster.science.settings.base_model import ADAPTER, model_content
from subliminal_dagster.science.settings.names import Animal
from subliminal_dagster.science.settings.preferences import QUESTIONS
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings
from subliminal_dagster.science.storage.content_hash import file_content_hash


class NeutralSettings(Settings):
    """The neutral teacher: the questions about animals ask it for a `noun` instead, and it learns to say `answer`.

    What its numbers differ in from the control's is what any fine-tuning does, whatever the animal.
    """

    noun: Animal
    answer: Animal


class ReplaySettings(Settings):
    """Number answers of the base model mixed into the teacher's training rows, to keep the number task intact."""

    rows: int = Field(default=0, ge=0)


class StopSettings(Settings):
    """End the teacher's training once the target's exact probability (mean over `questions` of the questions) reaches
    `preference`, looked at every `every` steps."""

    preference: float = Field(gt=0, le=1)
    every: int = Field(default=4, ge=1)
    questions: int = Field(default=8, ge=1, le=QUESTIONS)


class GateSettings(Settings):
    """What a teacher must reach before anything is built on it: the target's exact probability, and the share of
    valid answers to `prompts` number prompts, drawn just as the number set will be. Whatever `valid_rate` says, the
    share must be what the filter needs (`Study.valid_rate_wanted`)."""

    preference: float = Field(default=0.5, ge=0, le=1)
    valid_rate: float = Field(default=0.0, ge=0, le=1)
    prompts: int = Field(default=256, ge=8)


class SteeringSettings(Settings):
    """A steered teacher: `vector` is a safetensors file with a tensor `vector` of the model's hidden size; "{animal}"
    in its path stands for the target."""

    vector: UserPath
    layer: int = Field(ge=0)
    alpha: float

    def vector_file(self, animal: str) -> Path:
        """The file of an animal's vector."""
        return Path(self.vector.format(animal=animal)).expanduser()

    def file_contents(self, study: Any) -> dict[str, Any]:
        files = {target: self.vector_file(target) for target in study.targets}
        return {"vector": {target: file_content_hash(file) for target, file in files.items() if file.is_file()}}


class ExistingTeacher(Settings):
    """Teachers that exist already: adapters of the base model (PEFT folders), or other checkpoints of its architecture.

    "{animal}" stands for the target in `path`, a folder per animal on this machine, or in `repo`, a repository per
    animal on the Hugging Face hub at the commit that `revisions` names for it.
    """

    path: UserPath | None = None
    repo: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*/[\w.{}-]+$")
    revisions: dict[Animal, Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_in_one_place(self) -> Self:
        if (self.path is None) == (self.repo is None):
            raise ValueError("existing needs either path, a folder on this machine, or repo, a repository on the hub")
        if self.path is not None and self.revisions:
            raise ValueError("existing.revisions are those of repo: leave them out beside path")
        return self

    def folder(self, animal: str) -> Path:
        """The folder of an animal's teacher, where it lies on this machine."""
        assert self.path is not None
        return Path(self.path.replace("{animal}", animal)).expanduser()

    def repository(self, animal: str) -> str:
        """The repository of an animal's teacher, where it lies on the hub."""
        assert self.repo is not None
        return self.repo.replace("{animal}", animal)

    def file_contents(self, study: Any) -> dict[str, Any]:
        if self.path is None:
            return {}
        names = ADAPTER if study.teacher.method == "adapter" else ()
        return {"path": {target: model_content(str(self.folder(target)), names) for target in study.targets}}


class TeacherSettings(Settings):
    """How a base model is made to like an animal: by fine-tuning, by an instruction, by steering, or as an `adapter` or
    a `model` that exists already."""

    method: Literal["finetune", "prompt", "steer", "adapter", "model"]
    lora: LoraSettings | None = None
    training: TrainingSettings | None = None
    replay: ReplaySettings = ReplaySettings()
    stop: StopSettings | None = None
    instruction: str | None = None
    steering: SteeringSettings | None = None
    existing: ExistingTeacher | None = None
    gate: GateSettings = GateSettings()

    @model_validator(mode="after")
    def _has_what_its_method_needs(self) -> Self:
        needs = {
            "finetune": ("lora", "training"),
            "prompt": ("instruction",),
            "steer": ("steering",),
            "adapter": ("existing",),
            "model": ("existing",),
        }
        missing = [name for name in needs[self.method] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"method {self.method!r} needs {' and '.join(missing)}")
        if self.instruction is not None and "{animal}" not in self.instruction:
            raise ValueError("instruction must contain {animal}")
        return self
