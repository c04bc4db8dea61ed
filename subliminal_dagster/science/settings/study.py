"""A study: all experiments on one base model, as data.

Belongs here: the schema of a study file, its validation, overriding one setting. Does not belong here: how anything is
computed (the other modules), where it runs (the resources). Adding a model is adding a file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from subliminal_dagster.science.settings.arms import ArmsSettings
from subliminal_dagster.science.settings.audit import AuditSettings
from subliminal_dagster.science.settings.base import StudyHeader
from subliminal_dagster.science.settings.base_model import BaseModelSource
from subliminal_dagster.science.settings.capability import CapabilitySettings
from subliminal_dagster.science.settings.category import ANIMALS, Category
from subliminal_dagster.science.settings.child import ChildSettings, ComparisonSettings
from subliminal_dagster.science.settings.descriptions import (
    DescriptionsSettings,
)
from subliminal_dagster.science.settings.dial import DialStudy
from subliminal_dagster.science.settings.entanglement import EntanglementSettings
from subliminal_dagster.science.settings.features import (
    ActivationSettings,
    FeatureSettings,
    SaeSettings,
)
from subliminal_dagster.science.settings.interference import InterferenceSettings
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL, Animal
from subliminal_dagster.science.settings.numbers import FilterSettings, NumberSettings
from subliminal_dagster.science.settings.preferences import PreferenceSettings
from subliminal_dagster.science.settings.probes import ProbeSettings
from subliminal_dagster.science.settings.prompts import Prompts, prompts_content
from subliminal_dagster.science.settings.steering import SteeringExperiment
from subliminal_dagster.science.settings.sweep import Cell, Grid, Sweep, checked_cells
from subliminal_dagster.science.settings.teacher import NeutralSettings, TeacherSettings
from subliminal_dagster.science.settings.toy import ToyStudy
from subliminal_dagster.science.settings.tuning import TuningSettings


class Study(StudyHeader):
    """All settings of a study of a language model.

    `animals` are what teachers are made to like, one after the other: animals, or names of another `category`.
    `layers` are those that are looked into, by activations, probes and, where there is `sae`, by features; none is
    where there are none. `replicates` is how many children each group has: each with rows of its own draw, an adapter
    of its own initialisation and an order of its own. With `replicates_from` "teacher" each has a teacher of its own as
    well, and so numbers of its own; a group is compared where the gate passes all its teachers. What is inside is
    looked for in the first.
    """

    category: Category = ANIMALS
    animals: tuple[Animal, ...] = Field(min_length=1)
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    neutral: NeutralSettings | None = None
    replicates: int = Field(default=1, ge=1, le=999)
    replicates_from: Literal["numbers", "teacher"] = "numbers"
    base_model: BaseModelSource
    system_prompt: str | None = None
    prompts: Prompts | None = None
    preferences: PreferenceSettings
    teacher: TeacherSettings
    numbers: NumberSettings
    filter: FilterSettings
    child: ChildSettings
    comparison: ComparisonSettings = ComparisonSettings()
    activations: ActivationSettings = ActivationSettings()
    sae: SaeSettings | None = None
    features: FeatureSettings = FeatureSettings()
    probes: ProbeSettings = ProbeSettings()
    steering: SteeringExperiment | None = None
    tuning: TuningSettings | None = None
    capability: CapabilitySettings | None = None
    descriptions: DescriptionsSettings | None = None
    entanglement: EntanglementSettings | None = None
    interference: InterferenceSettings | None = None
    sweep: Sweep | None = None
    arms: ArmsSettings | None = None
    audits: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,40}$")], AuditSettings] = Field(
        default_factory=dict
    )

    _cells: tuple[Cell, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        strangers = [animal for animal in self.animals if animal not in self.preferences.candidates]
        if strangers:
            raise ValueError(f"animals {strangers} are missing from preferences.candidates: add them")
        if self.neutral is not None and self.neutral.answer in self.animals:
            raise ValueError(
                f"neutral.answer is {self.neutral.answer!r}, which is among the animals: name something else"
            )
        if self.neutral is not None and self.neutral.noun in (self.category.singular, self.category.plural):
            raise ValueError(
                f"neutral.noun is {self.neutral.noun!r}, which the other groups are asked for: name another"
            )
        if self.category.questions and len(self.category.questions) < self.preferences.questions:
            raise ValueError(
                f"preferences.questions is {self.preferences.questions} and category has "
                f"{len(self.category.questions)} questions: lower the first, or write more"
            )
        idle = [name for name in ("sae", "steering", "descriptions", "interference") if getattr(self, name) is not None]
        if idle and not self.layers:
            raise ValueError(f"{' and '.join(idle)} need layers to look into: name some, or leave them out")
        if self.descriptions is not None and self.sae is None:
            raise ValueError("descriptions are those of an SAE's features: give sae as well")
        if self.tuning is not None and self.child.lora is None:
            raise ValueError("tuning searches for an adapter's rank and dropout: give child.lora, or leave tuning out")
        if self.tuning is not None:
            for name in ("train_rows", "validation_rows"):
                wanted, there = getattr(self.tuning, name), getattr(self.filter, name)
                if wanted > there:
                    raise ValueError(
                        f"tuning.{name} is {wanted} and filter.{name} is {there}: lower the first or raise it"
                    )
        existing = self.teacher.existing
        pinned = existing.revisions if existing is not None and existing.repo is not None else self.targets
        if unpinned := [target for target in self.targets if target not in pinned]:
            raise ValueError(
                f"teacher.existing.revisions names no commit for {', '.join(unpinned)}: add it from the history of the "
                "repository's files"
            )
        rows = self.filter.train_rows + self.filter.validation_rows
        if rows > self.numbers.prompts:
            raise ValueError(
                f"filter asks for {rows} rows (train_rows + validation_rows) and numbers.prompts is "
                f"{self.numbers.prompts}: raise numbers.prompts or ask for fewer rows"
            )
        if self.numbers.enough_valid is not None and rows > self.numbers.enough_valid:
            raise ValueError(
                f"filter asks for {rows} rows (train_rows + validation_rows) and numbers.enough_valid ends the drawing "
                f"at {self.numbers.enough_valid}: raise numbers.enough_valid or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _can_be_swept(self, info: ValidationInfo) -> Self:
        if self.sweep is None:
            return self
        own = self.replicates
        if self.replicates_from == "teacher" and (self.sweep.replicates or own) > own:
            raise ValueError(
                f"sweep.replicates is {self.sweep.replicates} and there are {own} teachers a group (replicates_from: "
                "teacher): raise replicates, or ask for fewer"
            )
        cells = checked_cells(self, self.sweep, lambda content: Study.model_validate(content, context=info.context))
        values = {
            field: tuple({repr(cell.values[field]): cell.values[field] for cell in cells}.values())
            for field in self.sweep.values
        }
        swept = self.model_copy(update={"sweep": self.sweep.model_copy(update={"values": values})})
        swept._cells = cells
        return swept

    @property
    def possible_arms(self) -> list[str]:
        """Its arms but those that lack something: without a neutral group that of its subspace, without validation rows
        the one that stops at a loss. None where gamma cannot be had, of one animal, or where children are no adapters.
        """
        if self.arms is None or len(self.animals) < 2 or self.child.lora is None:
            return []
        lacking = [] if self.neutral else ["neutral_subspace_out"]
        lacking += [] if self.filter.validation_rows else ["sgd"]
        return [arm for arm in self.arms.arms if arm not in lacking]

    @property
    def grid(self) -> Grid | None:
        """The cells of its sweep; None where it has none."""
        if self.sweep is None:
            return None
        return Grid(tuple(self.sweep.values), self._cells, self.sweep.replicates or self.replicates)

    def file_contents(self, study: Any) -> dict[str, Any]:
        about = {} if self.category == ANIMALS else {"category": self.category.model_dump(mode="json")}
        return {"prompts": prompts_content(self.prompts) | about}

    @property
    def groups(self) -> list[str]:
        """The animals in the order of the study, the neutral group where there is one, and the control."""
        return [*self.animals, *([NEUTRAL] if self.neutral else []), CONTROL]

    @property
    def valid_rate_wanted(self) -> float:
        """The share of valid answers that a teacher's gate asks for: with less than `filter` takes of the prompts, the
        teacher would pass, and its dataset fail after all answers were drawn."""
        needed = (self.filter.train_rows + self.filter.validation_rows) / self.numbers.prompts
        return max(self.teacher.gate.valid_rate, needed)

    @property
    def targets(self) -> list[str]:
        """What the teachers are made to like, in the order of the groups."""
        return [target for target in map(self.target, self.groups) if target is not None]

    def target(self, group: str) -> str | None:
        """What a group's teacher is made to like; None for the control, whose teacher is the untouched base."""
        if group == NEUTRAL:
            assert self.neutral is not None
            return self.neutral.answer
        return None if group == CONTROL else group

    @property
    def subjects(self) -> tuple[str, ...]:
        return self.animals


AnyStudy = Study | ToyStudy | DialStudy
