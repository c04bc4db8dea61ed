"""A sweep: settings of a study that are varied, and the grid that their values make.

A *cell* is the study with one value of each swept setting. What is made for cells is told apart as far as it has to be:
two cells that differ in the child's rank alone share their numbers and rows. A *variant* of an asset stands for all
cells that agree in what the asset depends on, and has a key such as `rank=2+learning_rate=0.004+replicate=1`.

Belongs here: what may be swept, the cells, the keys of variants. Does not belong here: which settings an asset depends
on (`assets.sweep`), what cells say (`science.sweep`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import Field, ValidationError, model_validator

from subliminal_dagster.science.settings.base import Settings, StudyHeader

SWEEPABLE = ("teacher", "numbers", "filter", "child.lora", "child.initialisation", "child.training", "child.soft")
"""The settings that only teachers, numbers, rows and children depend on, which is what a sweep makes anew."""

_NOT_SWEEPABLE = ("teacher.replay",)
_MOST_CELLS = 5_000
_LONGEST_KEY = 128
_LONGEST_VALUE = 24


class Sweep(Settings):
    """Settings that are varied together: `values` of each by its dotted name, all combinations of them, with
    `replicates` children per group and cell (None: as many as the study has).

    A study file has the settings themselves: `sweep: {child.lora.rank: [2, 8], replicates: 3}`.
    """

    values: dict[str, tuple[Any, ...]]
    replicates: int | None = Field(default=None, ge=1, le=999)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, content: Any) -> Any:
        # Once read, it is written with the values under a name of their own.
        if not isinstance(content, dict) or isinstance(content.get("values"), dict):
            return content
        values = {name: value for name, value in content.items() if name != "replicates"}
        if not values:
            raise ValueError("it names no setting: add one with its values, such as child.lora.rank: [2, 8]")
        for name, value in values.items():
            if not isinstance(value, list | tuple) or not value:
                raise ValueError(f"{name} is {value!r}, not a list of values: write it as [2, 8]")
        return {"values": values} | {name: value for name, value in content.items() if name == "replicates"}


@dataclass(frozen=True)
class Cell:
    """One value of every swept setting, by its dotted name in the order of the study, and the study that has them."""

    values: Mapping[str, Any]
    study: StudyHeader


@dataclass(frozen=True)
class Grid:
    """All cells of a study's sweep, with this many replicates each; `fields` are the swept settings in the order of the
    study."""

    fields: tuple[str, ...]
    cells: tuple[Cell, ...]
    replicates: int


def key_of(cell: Cell, fields: Collection[str], replicate: int | None = None) -> str:
    """The key of what stands for a cell, and for this replicate of it, where only these settings tell it from others:
    `rank=2+learning_rate=0.004+replicate=1`."""
    names = short_names([*cell.values])
    parts = [f"{names[field]}={_written(cell.values[field])}" for field in sorted(fields)]
    return "+".join([*parts, *([f"replicate={replicate}"] if replicate is not None else [])])


class Variants:
    """The variants of one asset: what cells and replicates are to it that depends on these `fields`, and on the
    replicate or not.

    keys: in the order of the grid, a variant's replicates together. The key of a variant holds only what tells it from
    others, in the order of the settings' names, so that neither further values nor another order of the settings
    rename it. groups: those that they are made of; None: all of the study.
    """

    def __init__(
        self, grid: Grid, fields: Collection[str], by_replicate: bool, groups: tuple[str, ...] | None = None
    ) -> None:
        self.groups = groups
        self.fields = tuple(sorted(fields))
        self.by_replicate = by_replicate
        numbers = range(1, grid.replicates + 1) if by_replicate else (1,)
        self._of: dict[str, tuple[Cell, int]] = {}
        self._keys: dict[tuple[int, int], str] = {}
        for cell in grid.cells:
            for number in numbers:
                self._of.setdefault(self.key(cell, number), (cell, number))
        self.keys = [*self._of]

    def key(self, cell: Cell, replicate: int) -> str:
        """The key of the variant that stands for this cell and replicate."""
        place = (id(cell), replicate)
        if place not in self._keys:
            self._keys[place] = key_of(cell, self.fields, replicate if self.by_replicate else None)
        return self._keys[place]

    def at(self, key: str) -> tuple[Cell, int]:
        """A cell that the variant stands for (in what the asset depends on they all agree), and its replicate, from 1;
        1 where replicates are not told apart."""
        return self._of[key]


def short_names(fields: Sequence[str]) -> dict[str, str]:
    """What settings are called in keys and tables: by the last part of their names where only one ends so.

    >>> short_names(["child.lora.rank", "child.training.epochs", "teacher.training.epochs"])
    {'child.lora.rank': 'rank', 'child.training.epochs': 'child.training.epochs', \
'teacher.training.epochs': 'teacher.training.epochs'}
    """
    last = [field.rpartition(".")[2] for field in fields]
    return {
        field: name if last.count(name) == 1 and name != "replicate" else field
        for field, name in zip(fields, last, strict=True)
    }


def value_at(settings: Any, field: str) -> Any:
    """The value of a nested setting ("child.lora.rank"). Raises KeyError where there is no such setting."""
    for name in field.split("."):
        if not isinstance(settings, Mapping) or name not in settings:
            raise KeyError(field)
        settings = settings[name]
    return settings


def with_values(content: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a study's content with nested settings set."""
    found = dict(content)
    for field, value in values.items():
        *outer, last = field.split(".")
        place = found
        for name in outer:
            place[name] = dict(place[name])
            place = place[name]
        place[last] = value
    return found


def checked_cells(
    study: StudyHeader, sweep: Sweep, validated: Callable[[dict[str, Any]], StudyHeader]
) -> tuple[Cell, ...]:
    """The cells of a study's sweep, each with its values as the settings have them (0.002 for 2e-3).

    `validated` makes a study of its content. Raises ValueError with one sentence where a setting cannot be swept, a
    value is there twice, or a cell is not a valid study.
    """
    # What a search or a look inside asks of the study's own rows is nothing to its cells.
    content = study.model_dump(mode="json") | {"sweep": None, "tuning": None}
    for field in sweep.values:
        _check_field(content, sweep, field)
    count = 1
    for values in sweep.values.values():
        count *= len(values)
    if count > _MOST_CELLS:
        raise ValueError(f"sweep has {count} cells, and {_MOST_CELLS} are the most: leave out settings or values")
    cells = []
    for combination in product(*sweep.values.values()):
        raw = dict(zip(sweep.values, combination, strict=True))
        try:
            found = validated(with_values(content, raw))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            shown = ", ".join(f"{field}={value}" for field, value in raw.items())
            raise ValueError(
                f"sweep has the cell {shown}, which cannot be: {where + ': ' if where else ''}{message}"
            ) from None
        now = found.model_dump(mode="json")
        cells.append(Cell({field: value_at(now, field) for field in raw}, found))
    seen: set[str] = set()
    for cell in cells:
        key = key_of(cell, sweep.values)
        if key in seen:
            raise ValueError(f"sweep names a value twice, which makes the cell {key} twice: leave out the second")
        if len(key) > _LONGEST_KEY - len("+replicate=999"):
            raise ValueError(f"sweep makes the key {key}, which is too long for a file's name: sweep fewer settings")
        seen.add(key)
    return tuple(cells)


def _check_field(content: Mapping[str, Any], sweep: Sweep, field: str) -> None:
    try:
        value_at(content, field)
    except KeyError:
        raise ValueError(
            f"sweep names {field}, which this study does not have: give the full name of a setting it has, such as "
            "child.lora.rank"
        ) from None
    if not _within(field, SWEEPABLE) or any(_within(field, [no]) or _within(no, [field]) for no in _NOT_SWEEPABLE):
        raise ValueError(
            f"sweep names {field}, which more than teachers, numbers and children depend on: choose settings of "
            f"{', '.join(SWEEPABLE)} (but not {', '.join(_NOT_SWEEPABLE)})"
        )
    if field.startswith("child.soft") and "soft" not in content["child"]["channels"]:
        raise ValueError(f"sweep names {field}, and the study has no soft channel: add it to child.channels")
    inside = [other for other in sweep.values if other.startswith(f"{field}.")]
    if inside:
        raise ValueError(f"sweep names {field} and {inside[0]}, which is a part of it: sweep one of them")


def _within(field: str, groups: Sequence[str]) -> bool:
    return any(field == group or field.startswith(f"{group}.") for group in groups)


def _written(value: Any) -> str:
    """A value as a key has it, which is part of a file's name: text of a-z, 0-9, '.', '_' and '-', with a hash where
    that leaves something out."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        value = int(value)
    text = value if isinstance(value, str) else json.dumps(value)
    plain = re.sub(r"[^a-z0-9_-]+", "-", re.sub(r"\.(?![0-9])", "-", text.lower()).replace("..", "-")).strip("-")
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?|[a-z0-9][a-z0-9_-]*", text) and len(text) <= _LONGEST_VALUE:
        return text
    return f"{plain[:_LONGEST_VALUE]}-{hashlib.sha256(json.dumps(value).encode()).hexdigest()[:6]}".lstrip("-")
