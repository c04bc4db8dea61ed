"""How a base model is made to like an animal.

Belongs here: settings of teachers and the neutral group. Does not belong here: training itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from subliminal_dagster.science.settings.base import Settings, UserPath
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
        targets = [target for target in map(study.target, study.groups) if target is not None]
        files = {target: self.vector_file(target) for target in targets}
        return {"vector": {target: file_content_hash(file) for target, file in files.items() if file.is_file()}}


class TeacherSettings(Settings):
    """How a base model is made to like an animal."""

    method: Literal["finetune", "prompt", "steer"]
    lora: LoraSettings | None = None
    training: TrainingSettings | None = None
    replay: ReplaySettings = ReplaySettings()
    stop: StopSettings | None = None
    instruction: str | None = None
    steering: SteeringSettings | None = None
    gate: GateSettings = GateSettings()

    @model_validator(mode="after")
    def _has_what_its_method_needs(self) -> Self:
        needs = {"finetune": ("lora", "training"), "prompt": ("instruction",), "steer": ("steering",)}
        missing = [name for name in needs[self.method] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"method {self.method!r} needs {' and '.join(missing)}")
        if self.instruction is not None and "{animal}" not in self.instruction:
            raise ValueError("instruction must contain {animal}")
        return self
