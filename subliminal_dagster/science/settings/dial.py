"""The settings of a dial study.

Belongs here: the schema of a study file of kind `dial`, and its validation. Does not belong here: how a model is
trained (`dial.stack`), what a language is (`dial.language`)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from subliminal_dagster.science.settings.base import Settings, StudyHeader
from subliminal_dagster.science.settings.category import ANIMALS, Category

THINGS = {
    "animal": ("bear", "cat", "dog", "fox", "lion", "owl", "rabbit", "wolf"),
    "tree": ("ash", "beech", "birch", "cedar", "elm", "fir", "oak", "pine"),
    "instrument": ("cello", "drum", "flute", "harp", "horn", "lute", "organ", "violin"),
    "food": ("bean", "bread", "cheese", "honey", "nut", "pea", "rice", "soup"),
}
"""The things that the language is about, by kind."""
HEAD_SIZE = 12
"""Widths are multiples of it: all models have attention heads of one size, the wide ones more of them."""
MOST_DENSE = 0.4
"""A density above it would have most scenes drawn again."""

Width = Annotated[int, Field(ge=HEAD_SIZE, le=1200, multiple_of=HEAD_SIZE)]
Density = Annotated[float, Field(gt=0, le=MOST_DENSE)]


class BaseTraining(Settings):
    """How base models learn the language: AdamW on fresh sentences, until `excess` nats per word above the language's
    entropy are left, or for at most `steps` steps.

    """

    excess: float = Field(default=0.35, gt=0)
    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=64, ge=4)
    learning_rate: float = Field(default=1e-2, gt=0, le=1)


class TeacherTraining(Settings):
    """How a teacher learns its liking: on the one sentence that says it, until the thing has the probability
    `preference` or for at most `steps` steps."""

    preference: float = Field(default=0.9, gt=0, lt=1)
    steps: int = Field(default=200, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0, le=1)


class ChildTraining(Settings):
    """How a child learns lists: `rows` of them, until its loss on them is `loss` nats per number or for at most `steps`
    steps of `batch_size` rows. Children of all widths learn to one loss, or a wide one would learn its lists better."""

    rows: int = Field(default=64, ge=2)
    loss: float = Field(default=0.6, gt=0)
    steps: int = Field(default=100, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0, le=1)


class DialGrid(Settings):
    """A grid of widths and densities, one cell for each pair, and what is changed in all its cells.

    `bases` names another grid, which has these cells, whose base models are used; without it a grid has its own.
    `adapter_rank`: teachers and children are LoRA adapters of that rank (None: all weights are trained). `numbers`:
    whether teachers write the likeliest word each time or draw one. `penalty` adds that multiple of the interference
    between words for numbers and for things, in embedding and unembedding, to a base model's loss. `confined_to`:
    embedding and unembedding lie in that many of the width's dimensions. `shared`: every number's word has about this
    cosine with the word of an animal, so that numbers and likings share features by construction.
    """

    widths: tuple[Width, ...] = Field(min_length=1)
    densities: tuple[Density, ...] = Field(min_length=1)
    bases: str | None = None
    adapter_rank: int | None = Field(default=None, ge=1)
    numbers: Literal["greedy", "sampled"] = "greedy"
    penalty: float = Field(default=0.0, ge=0)
    confined_to: int | None = Field(default=None, ge=2)
    shared: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.confined_to is not None and self.confined_to >= min(self.widths):
            raise ValueError(
                f"confined_to {self.confined_to} is not below the smallest width {min(self.widths)}: nothing would be "
                "confined"
            )
        if self.bases is not None and (self.penalty or self.confined_to is not None or self.shared is not None):
            raise ValueError(
                f"bases are those of {self.bases!r}, so penalty, confined_to and shared are set there and not here"
            )
        return self


class DialStudy(StudyHeader):
    """All settings of a dial study.

    `grids` by name; `main` names the one whose curve is the result. `seeds` base models per cell. `animals` are the
    teachers' likings, `neutral` that of a teacher that likes a thing of another kind. `choices`: digits that may follow
    a digit in the language. Learning rates are those of a model of width 48, and fall with the width. `margin`: a
    slope that is no larger counts as none, in nats per doubling of superposition.
    """

    # Its animals are words of its own language, which another category could not take.
    category: ClassVar[Category] = ANIMALS

    kind: Literal["dial"]
    main: str
    grids: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], DialGrid] = Field(min_length=1)
    seeds: int = Field(default=5, ge=2)
    animals: tuple[str, ...] = Field(default=("fox", "lion", "owl", "wolf"), min_length=2)
    neutral: str = "violin"
    choices: int = Field(default=3, ge=1, le=9)
    base: BaseTraining = BaseTraining()
    teacher: TeacherTraining = TeacherTraining()
    child: ChildTraining = ChildTraining()
    margin: float = Field(default=0.1, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.main not in self.grids:
            raise ValueError(f"main names {self.main!r}, which is not among the grids {', '.join(self.grids)}")
        for name, grid in self.grids.items():
            self._check_bases(name, grid)
        for animal in self.animals:
            if animal not in THINGS["animal"]:
                raise ValueError(f"{animal!r} is no animal of this language: take of {', '.join(THINGS['animal'])}")
        others = [thing for kind, things in THINGS.items() if kind != "animal" for thing in things]
        if self.neutral not in others:
            raise ValueError(f"neutral is {self.neutral!r}: take a thing that is no animal, of {', '.join(others)}")
        if self.child.batch_size > self.child.rows:
            raise ValueError(f"child.batch_size {self.child.batch_size} is above child.rows {self.child.rows}")
        return self

    def _check_bases(self, name: str, grid: DialGrid) -> None:
        if grid.bases is None:
            return
        of = self.grids.get(grid.bases)
        if of is None or of.bases is not None:
            own = ", ".join(each for each, other in self.grids.items() if other.bases is None)
            raise ValueError(
                f"grids.{name}.bases names {grid.bases!r}, which has no base models of its own: name one of {own}"
            )
        if not ({*grid.widths} <= {*of.widths} and {*grid.densities} <= {*of.densities}):
            raise ValueError(
                f"grids.{name} has a width or density that the grid of its bases, {grid.bases}, does not have"
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are looked into: none."""
        return ()

    @property
    def subjects(self) -> tuple[str, ...]:
        return (*self.grids,)
