"""An asset's code version follows the code it uses: what can change a result changes it, and nothing else does."""

from __future__ import annotations

import ast
import dis
import functools
import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subliminal_dagster.planning import code_slice as code_slice_module
from subliminal_dagster.planning.code_slice import (
    PART_OF_NO_VERSION,
    code_slice,
    definitions_used,
    forget,
    module_names,
    own_hashes,
    read_source,
    slice_of,
)
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.base import Settings
from subliminal_dagster.science.training.children import make_child

Sources = dict[str, str]

TOY = "subliminal_dagster.assets.toy"
LIBRARY = "subliminal_dagster.science.library"

TOY_SOURCE = '''
"""Toy assets."""

import numpy as np

from subliminal_dagster.resources import MachineResource
from subliminal_dagster.science import library
from subliminal_dagster.science.library import Ruler, scale

STAGE = "toy"


def toy_assets(frame):
    prefix = "hard"

    @frame.asset(f"{prefix}_lengths", STAGE, description="Lengths.")
    def lengths(context, machine: MachineResource, rounds: int = 2):
        """All lengths."""
        from subliminal_dagster.science.library import total as add_up

        ruler = Ruler(library.UNIT)
        # Scaled first.
        values: list[float] = [scale(ruler.read(i)) for i in range(rounds)]
        return np.mean([machine.create().run(values), add_up(values), len(prefix)])

    return [lengths]
'''

LIBRARY_SOURCE = '''
"""A library."""

import functools
from dataclasses import dataclass

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings import Settings

UNIT: float = 0.5
FACTORS = LOW, HIGH = (2, 3)
NEVER_USED = 1


@dataclass(frozen=True)
class Ruler:
    """Measures."""

    unit: float
    name: str = "ruler"

    def read(self, i: int) -> float:
        """The i-th length."""
        return i * self.unit


@functools.lru_cache(maxsize=8)
def scale(value: float, by: float = 1.5) -> float:
    """A value scaled."""
    if value < 0:
        raise UserError(f"The value {value} is negative: give {another_name()}.")
    assert value < 1e9, "too much"
    return shift(value) * by + LOW


def shift(value):
    return value + 1


def total(values):
    return sum(values)


def another_name():
    return "another one"


def unrelated():
    return NEVER_USED
'''

RESOURCES_SOURCE = """
import dagster as dg
from pydantic import Field

from subliminal_dagster.science.machine import Machine


class MachineResource(dg.ConfigurableResource):
    batch: int = Field(default=64, description="Batch size.")

    def create(self) -> Machine:
        return Machine(self.batch)
"""

MACHINE_SOURCE = """
class Machine:
    def __init__(self, batch):
        self.batch = batch

    def run(self, values):
        return max(values)
"""

EMPTY_PACKAGES = dict.fromkeys(("subliminal_dagster", "subliminal_dagster.assets", "subliminal_dagster.science"), "")

TOY_PACKAGE: Sources = {
    **EMPTY_PACKAGES,
    "subliminal_dagster.resources": "from subliminal_dagster.resources.machine import MachineResource\n",
    "subliminal_dagster.resources.machine": RESOURCES_SOURCE,
    "subliminal_dagster.science.machine": MACHINE_SOURCE,
    LIBRARY: LIBRARY_SOURCE,
    TOY: TOY_SOURCE,
}


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The modules that tests make up are not among those a file of slices is known by.
    monkeypatch.setattr(code_slice_module, "SLICES_KEPT_IN", None)
    forget()
    yield
    forget()


@contextmanager
def sources_replaced(sources: Sources, *, keep_others: bool) -> Iterator[None]:
    """These modules have these sources, others those of the package or, without `keep_others`, none."""
    with pytest.MonkeyPatch.context() as patch:
        others = read_source if keep_others else lambda module: None
        patch.setattr(code_slice_module, "read_source", lambda module: sources.get(module, others(module)))
        forget()
        yield
    forget()


def slice_with(sources: Sources, module: str, qualname: str) -> dict[str, str]:
    """The slice in a package of these modules alone."""
    with sources_replaced(sources, keep_others=False):
        return slice_of(module, qualname)


def toy_slice(sources: Sources | None = None) -> dict[str, str]:
    return slice_with(TOY_PACKAGE | (sources or {}), TOY, "toy_assets.<locals>.lengths")


def edited(module: str, old: str, new: str) -> Sources:
    assert TOY_PACKAGE[module].count(old) == 1
    return {module: TOY_PACKAGE[module].replace(old, new)}


def slice_of_function(source: str, **others: str) -> dict[str, str]:
    """The slice of `made` in a module of this source, beside modules `science.<name>`."""
    sources = {f"subliminal_dagster.science.{name}": text for name, text in others.items()}
    return slice_with(EMPTY_PACKAGES | sources | {TOY: source}, TOY, "made")


def differing(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {
        name
        for name in before.keys() | after.keys()
        if own_hashes(before.get(name, "")) != own_hashes(after.get(name, ""))
    }


# What a slice holds


def test_a_slice_holds_what_is_used_directly_and_through_others_and_nothing_else() -> None:
    found = toy_slice()
    assert list(found) == [
        "LOW",
        "Machine",
        "Ruler",
        "UNIT",
        "scale",
        "shift",
        "total",
        "toy_assets.lengths",
    ]
    assert all(re.fullmatch("[0-9a-f]{10}[.][0-9a-f]{6}", code_hash) for code_hash in found.values())
    assert toy_slice() == found


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (LIBRARY, "def shift(value):\n", "def shift(value):\n    # Why one.\n\n"),
        (LIBRARY, '"""A value scaled."""', '"""The value, scaled."""'),
        (LIBRARY, "def shift(value):", 'def shift(value):\n    """A value, shifted."""'),
        (LIBRARY, '    """Measures."""\n', ""),
        (LIBRARY, 'name: str = "ruler"\n', 'name: str = "ruler"\n    """What it is called."""\n'),
        (LIBRARY, "is negative: give {another_name()}.", "must not be below zero."),
        (LIBRARY, ', "too much"', ""),
        (LIBRARY, "def shift(value):", "def shift(value: float) -> float:"),
        (LIBRARY, "    return sum(values)", "    added: int\n    return sum(values)"),
        (LIBRARY, "UNIT: float = 0.5", "UNIT = 0.5"),
        (LIBRARY, "return value + 1", "return (\n        value\n        + 1\n    )"),
        (LIBRARY, '    return "another one"', '    return "yet another one"'),
        (LIBRARY, "    return NEVER_USED", "    return 2 * NEVER_USED"),
        (LIBRARY, "NEVER_USED = 1", "NEVER_USED = 2"),
        (LIBRARY, "import functools", "import functools\nimport json"),
        (TOY, "values: list[float] = [", "values = ["),
        (TOY, "rounds: int = 2", "rounds=2"),
        (TOY, 'description="Lengths."', 'description="All lengths."'),
        (TOY, 'STAGE = "toy"', 'STAGE = "measuring"'),
        (TOY, 'prefix = "hard"', 'prefix = "soft"'),
        (TOY, "        # Scaled first.\n", ""),
        (TOY, "import numpy as np", "import numpy as np\nimport json"),
        ("subliminal_dagster.resources.machine", "default=64", "default=8"),
        ("subliminal_dagster.resources.machine", "Batch size.", "How many at once."),
    ],
)
def test_an_edit_that_cannot_change_a_result_changes_no_slice(module: str, old: str, new: str) -> None:
    assert toy_slice(edited(module, old, new)) == toy_slice()


@pytest.mark.parametrize(
    ("module", "old", "new", "changed"),
    [
        (LIBRARY, "UNIT: float = 0.5", "UNIT: float = 0.25", "UNIT"),
        (LIBRARY, "(2, 3)", "(2, 4)", "LOW"),
        (LIBRARY, "by: float = 1.5", "by: float = 1.75", "scale"),
        (LIBRARY, "maxsize=8", "maxsize=9", "scale"),
        (LIBRARY, "@functools.lru_cache(maxsize=8)\n", "", "scale"),
        (LIBRARY, "value < 0", "value <= 0", "scale"),
        (LIBRARY, "raise UserError(", "raise ValueError(", "scale"),
        (LIBRARY, "assert value < 1e9", "assert value < 1e8", "scale"),
        (LIBRARY, "return value + 1", "return value - 1", "shift"),
        (LIBRARY, "return i * self.unit", "return i / self.unit", "Ruler"),
        (LIBRARY, "    unit: float", "    unit: int", "Ruler"),
        (LIBRARY, "@dataclass(frozen=True)", "@dataclass(frozen=True, eq=False)", "Ruler"),
        ("subliminal_dagster.science.machine", "max(values)", "min(values)", "Machine"),
        (TOY, "rounds: int = 2", "rounds: int = 3", "toy_assets.lengths"),
        (TOY, "import numpy as np", "import jax.numpy as np", "toy_assets.lengths"),
    ],
)
def test_an_edit_that_can_change_a_result_changes_the_hash_of_that_definition(
    module: str, old: str, new: str, changed: str
) -> None:
    assert differing(toy_slice(), toy_slice(edited(module, old, new))) == {changed}


def test_another_function_imported_under_the_same_name_changes_the_slice() -> None:
    before, after = toy_slice(), toy_slice(edited(TOY, "import total as add_up", "import shift as add_up"))
    assert differing(before, after) == {"toy_assets.lengths", "total"}


def test_two_imports_that_swap_names_change_the_user_of_them() -> None:
    use = "def made():\n    return first(1), second(1)\n"
    library = "def a(x):\n    return x\n\ndef b(x):\n    return -x\n"
    before = slice_of_function(
        f"from subliminal_dagster.science.lib import a as first, b as second\n{use}", lib=library
    )
    after = slice_of_function(f"from subliminal_dagster.science.lib import b as first, a as second\n{use}", lib=library)
    assert differing(before, after) == {"made"}


def test_the_name_under_which_a_package_is_imported_does_not_count() -> None:
    named = slice_of_function("import numpy as np\ndef made(x):\n    return np.linalg.norm(x)\n")
    assert slice_of_function("from numpy import linalg\ndef made(x):\n    return linalg.norm(x)\n") == named


def test_a_file_that_moves_changes_nothing() -> None:
    moved = {
        "subliminal_dagster.science.measuring": "",
        "subliminal_dagster.science.measuring.rulers": LIBRARY_SOURCE,
        LIBRARY: "",
        TOY: TOY_SOURCE.replace("science.library import", "science.measuring.rulers import").replace(
            "science import library", "science.measuring import rulers as library"
        ),
    }
    assert toy_slice(moved) == toy_slice()


def test_two_things_of_one_name_are_not_taken_for_each_other() -> None:
    use = "def made():\n    return read(first.read)\n"
    both = {"one": "def read():\n    return 1\n", "two": "def read():\n    return 2\n"}
    imports = "from subliminal_dagster.science import {0} as first\nfrom subliminal_dagster.science.{1} import read\n"
    before = slice_of_function(imports.format("one", "two") + use, **both)
    after = slice_of_function(imports.format("one", "one") + use, **both)
    assert before["read"].count("+") == 1
    assert before["made"] != after["made"]
    swapped = {name: "def read():\n    return 2\n" if name == "one" else text for name, text in both.items()}
    assert slice_of_function(imports.format("one", "one") + use, **swapped)["made"] != after["made"]


VARIABLES = """
def made(rows, session):
    done, left = 0, len(rows)
    for first, second in rows:
        try:
            done += sum(value for value in first if second)
        except ValueError as problem:
            print(problem)
        session.progress(f"{done} of {left} done")
    return done - left
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("done", "finished", False),
        ("value ", "number ", False),
        ("problem", "error", False),
        ('        session.progress(f"{done} of {left} done")\n', "", False),
        ("of {left} done", "rows", False),
        ("done - left", "left - done", True),
        ("first, second", "second, first", True),
        ("value for value", "second for value", True),
        ("print(problem)", "print(done)", True),
        ("session", "engine", True),  # a parameter may be given by name
    ],
)
def test_names_of_variables_and_news_of_progress_do_not_count_and_which_variable_it_is_does(
    old: str, new: str, counts: bool
) -> None:
    assert old in VARIABLES
    assert (slice_of_function(VARIABLES) != slice_of_function(VARIABLES.replace(old, new))) == counts


def test_values_around_an_asset_are_told_apart_by_name() -> None:
    source = "def assets(study):\n    a, b = study\n    @study.asset\n    def made():\n        return {0}, {1}\n"
    before, after = (
        slice_with(EMPTY_PACKAGES | {TOY: source.format(*pair)}, TOY, "assets.<locals>.made")
        for pair in (("a", "b"), ("b", "a"))
    )
    assert before != after


# How code is named


@pytest.mark.parametrize(
    "source",
    [
        "from subliminal_dagster.science.lib import used\ndef made():\n    return used()\n",
        "from subliminal_dagster.science.lib import used as it\ndef made():\n    return it()\n",
        "from subliminal_dagster.science import lib\ndef made():\n    return lib.used()\n",
        "import subliminal_dagster.science.lib as z\ndef made():\n    return z.used()\n",
        "import subliminal_dagster.science.lib\ndef made():\n    return subliminal_dagster.science.lib.used()\n",
        "from subliminal_dagster.science.front import used\ndef made():\n    return used()\n",
        "from subliminal_dagster.science import front\ndef made():\n    return front.again()\n",
        "def made():\n    from subliminal_dagster.science.lib import used as it\n    return it()\n",
        "def made():\n    import subliminal_dagster.science.lib as z\n    return [z.used for _ in range(3)]\n",
        "def made():\n    from subliminal_dagster.science import lib\n    def inner(x=lib.used):\n        return x\n",
        "from subliminal_dagster.science.lib import used\ndef made(used=used):\n    return used\n",
        "from subliminal_dagster.science.lib import used\ndef made():\n    return [used for used in used()]\n",
        "from subliminal_dagster.science.lib import used\n@used\n@used\ndef made(): ...\n",
        "from subliminal_dagster.science.lib import used\nclass A(used): ...\ndef made():\n    return A.b.c\n",
        "from subliminal_dagster.science.lib import used\nclass A:\n    x: used\ndef made():\n    return A\n",
        "from subliminal_dagster.science.lib import used\nclass A:\n    x: 'list[used]'\ndef made():\n    return A\n",
        "try:\n    from subliminal_dagster.science.lib import used\nexcept ImportError:\n    used = None\n"
        "def made():\n    return used\n",
        "from subliminal_dagster.science.lib import used\nTABLE = {}\nTABLE['x'] = used\n"
        "def made():\n    return TABLE\n",
        "from subliminal_dagster.science.lib import used\nTABLE = []\nTABLE.append(used)\n"
        "def made():\n    return TABLE\n",
        "from subliminal_dagster.science import lib\ndef made(name):\n    return getattr(lib, name)\n",
    ],
)
def test_code_is_found_however_it_is_named(source: str) -> None:
    front = (
        "from subliminal_dagster.science.lib import used\nfrom subliminal_dagster.science.lib import used as again\n"
    )
    found = slice_of_function(source, lib="def used(): ...\n", front=front)
    assert "used" in found


def test_what_a_package_passes_on_is_found_where_it_is_defined() -> None:
    sources = EMPTY_PACKAGES | {
        # Beside what it passes on, a package may import its own module under the module's name.
        "subliminal_dagster.science": "from subliminal_dagster.science import lib\n"
        "from subliminal_dagster.science.lib import used as known\n",
        "subliminal_dagster.science.lib": "def used(): ...\ndef other(): ...\n",
        TOY: "from subliminal_dagster import science\ndef made():\n    return science.known(), science.lib.other()\n",
    }
    assert list(slice_with(sources, TOY, "made")) == ["made", "other", "used"]


@pytest.mark.parametrize(
    "function",
    [
        "def made(used):\n    return used\n",
        "def made():\n    used = 1\n    return used\n",
        "def made(x):\n    for used, _ in x:\n        print(used)\n",
        "def made(x):\n    return [used for used in x]\n",
        "def made(x):\n    return lambda *used: used\n",
        "def made(x):\n    with x as used:\n        return used\n",
        "def made(x):\n    match x:\n        case [used]:\n            return used\n",
        "def made():\n    def inner():\n        used = 1\n        return lambda: used\n    return inner\n",
        "def made():\n    def used(): ...\n    return used\n",
        "def made(x):\n    return x.used, x(used=1)\n",
        "def made(x: used) -> used:\n    y: used = x\n    return y\n",
        "def made(x):\n    raise ValueError(used)\n",
        "def made(x):\n    assert x, used\n",
        "def made():\n    from json import loads as used\n    return used\n",
    ],
)
def test_another_thing_of_the_same_name_is_not_taken_for_it(function: str) -> None:
    assert list(slice_of_function(f"def used(): ...\n{function}")) == ["made"]


def test_a_global_variable_and_what_comprehensions_leave_alone_are_found() -> None:
    source = (
        "_count = 0\ndef used(): ...\n"
        "def made(x):\n    global _count\n    _count += 1\n    print([used for used in x])\n    return used, _count\n"
    )
    assert list(slice_of_function(source)) == ["_count", "made", "used"]


def test_functions_that_use_each_other_are_found_once() -> None:
    source = "def a():\n    return b\ndef b():\n    return a\ndef made():\n    return a, made\n"
    assert list(slice_of_function(source)) == ["a", "b", "made"]


def test_every_statement_that_makes_a_name_counts_and_the_condition_it_stands_under() -> None:
    source = (
        "import os\nif os.name == 'nt':\n    SIZE = 1\nelse:\n    SIZE = 2\nSIZE += 3\ndef made():\n    return SIZE\n"
    )
    before = slice_of_function(source)
    for old, new in [("'nt'", "'posix'"), ("SIZE = 1", "SIZE = 5"), ("SIZE = 2", "SIZE = 5"), ("+= 3", "+= 5")]:
        assert differing(before, slice_of_function(source.replace(old, new))) == {"SIZE"}


def test_a_function_beside_an_asset_function_is_code_and_a_value_there_is_not() -> None:
    source = (
        "def assets(study):\n    from subliminal_dagster.science.lib import used\n"
        "    soft = study.soft\n    def helper():\n        return 1\n"
        "    if soft:\n        @study.asset\n        def made():\n            return helper(), used(), soft\n"
    )
    sources = EMPTY_PACKAGES | {"subliminal_dagster.science.lib": "def used(): ...\n", TOY: source}
    found = slice_with(sources, TOY, "assets.<locals>.made")
    assert list(found) == ["assets.helper", "assets.made", "used"]
    worth_two = sources | {TOY: source.replace("return 1", "return 2")}
    assert differing(found, slice_with(worth_two, TOY, "assets.<locals>.made")) == {"assets.helper"}


# Resources and plumbing


def test_a_resource_leads_to_what_it_makes_only_where_the_asset_asks_for_it() -> None:
    assert "Machine" in toy_slice()
    assert "Machine" in toy_slice(edited(TOY, "machine: MachineResource", 'machine: "MachineResource"'))
    assert "Machine" not in toy_slice(edited(TOY, "machine: MachineResource", "machine"))


def test_what_is_part_of_no_version_is_neither_hashed_nor_followed() -> None:
    source = "from {module} import used\nimport {module} as z\ndef made():\n    return used(), z.used()\n"
    code = "from subliminal_dagster.science.lib import code\ndef used():\n    return code()\n"
    said = f'"""How it is shown.\n\n{PART_OF_NO_VERSION} pictures are views.\n"""\n'
    sources = EMPTY_PACKAGES | {"subliminal_dagster.science.lib": "def code(): ...\n"}

    def used_of(module: str, text: str) -> list[str]:
        return list(slice_with(sources | {module: text, TOY: source.format(module=module)}, TOY, "made"))

    assert used_of("subliminal_dagster.science.elsewhere", code) == ["code", "made", "used"]
    assert used_of("subliminal_dagster.science.elsewhere", said + code) == ["made"]
    # What carries content makes none.
    assert used_of("subliminal_dagster.carrying", code) == ["made"]


SETTINGS_SOURCE = """
from pydantic import BaseModel, Field, model_validator

LIMIT = 3


class Settings(BaseModel):
    pass


class Training(Settings):
    epochs: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _consistent(self):
        return self


class Study(Settings):
    training: Training = Training()

    def target(self, group):
        return group if self.training.epochs < LIMIT else None
"""


def slice_beside_settings(function: str, old: str = "", new: str = "") -> dict[str, str]:
    imported = "from subliminal_dagster.science.settings import Study, Training\n"
    return slice_of_function(imported + function, settings=SETTINGS_SOURCE.replace(old, new))


def test_of_a_settings_class_the_methods_that_are_read_count() -> None:
    reads = "def made(study: Study):\n    return isinstance(study, Study), study.training.epochs\n"
    assert list(slice_beside_settings(reads)) == ["made"]
    calls = "def made(study):\n    return study.target('owl')\n"
    before = slice_beside_settings(calls)
    assert list(before) == ["LIMIT", "Study.target", "made"]
    for old, new, changed in [
        ("LIMIT = 3", "LIMIT = 4", {"LIMIT"}),
        ("< LIMIT", "<= LIMIT", {"Study.target"}),
        ("default=2", "default=3", set[str]()),
        ("        return self\n", "        return None\n", set[str]()),
    ]:
        assert differing(before, slice_beside_settings(calls, old, new)) == changed


def test_settings_that_code_makes_itself_count_with_their_defaults() -> None:
    makes = "def made():\n    return Training()\n"
    before = slice_beside_settings(makes)
    assert "Training" in before and "Study" not in before
    assert differing(before, slice_beside_settings(makes, "default=2", "default=3")) == {"Training"}
    # What it inherits runs where it is made.
    assert differing(before, slice_beside_settings(makes, "    pass\n", "    model_config = {}\n")) == {"Settings"}


# What goes wrong


def test_a_function_without_source_in_the_package_is_named_with_what_to_do() -> None:
    def asset() -> None: ...

    with pytest.raises(UserError, match=r"source of .*asset in module .*test_code_slice.* cannot be found.* `def`"):
        code_slice(asset)
    with pytest.raises(UserError, match=r"no_such_function in module .*\.jobs cannot be found"):
        slice_of("subliminal_dagster.execution.jobs", "no_such_function")
    with pytest.raises(UserError, match="cannot be found"):
        slice_of("subliminal_dagster.no_such_module", "function")


@pytest.mark.parametrize("statement", ["from .lib import used", "from subliminal_dagster.science.lib import *"])
def test_an_import_that_hides_whose_code_is_used_is_refused(statement: str) -> None:
    with pytest.raises(UserError, match=r"Line 1 of module subliminal_dagster\.assets\.toy imports relatively or with"):
        slice_of_function(f"{statement}\ndef made():\n    return used()\n")


# The same everywhere

EVERY_KIND_OF_SYNTAX = r'''
import asyncio as a
from collections import abc

WIDTH, *_rest = 3, b"\x00\xff", 1.5e-7, 2j, "\u00e9 \U0001fae8", None, ...


class Base(abc.Sized, metaclass=type):
    """Doc."""

    field: "int | None" = None
    other: dict[str, "Base"]

    @property
    def size(self, /, x=1, *args, key, other=2, **more) -> int:
        self.field: int = ~x if not key else -(x ** 2) // 3 % 4 @ 5
        return f"a{x!r:>{WIDTH}}" f"{x:}" "b" f"{{c}}{x=}{key:%Y-%m}" f"{'nested'}"


async def made(rows, *, limit: int = 10):
    global _state
    async with a.timeout(1) as t, a.Lock():
        async for row in rows:
            await a.sleep(0)
    total = sum(y for x in rows if x for y in x if (last := y) is not None)
    table = {**{"k": 1}, "j": [*rows][1:-1:2, ..., None], **{k: v for k, v in zip(rows, rows, strict=True)}}
    match table:
        case {"k": 1 | 2 as one, **remaining} if one:
            pass
        case [Base(field=None), "x", *_] | (True, -1.5):
            del table["k"]
        case _:
            _state = lambda *p, q=WIDTH: (yield)
    try:
        assert 0 < total <= limit != last, "message"
    except (ValueError, TypeError) as error:
        raise RuntimeError("message") from error
    else:
        x: int = 1
        total += x << 2 | 3 & 4 ^ 5
    finally:
        while total and limit or not last:
            total -= 1
            if total == 3:
                break
            continue
    try:
        await t
    except* OSError:
        ...
    def inner():
        nonlocal total
        total = {1, 2} if total else {x async for x in rows}
        yield from inner()
        return
    return inner, Base().size, _state
'''


def test_hashes_are_those_that_every_supported_python_gives() -> None:
    assert slice_of_function(EVERY_KIND_OF_SYNTAX) == {
        "Base": "098e26d818.f5a5e9",
        "WIDTH": "d099c2f56d.4f53cd",
        "made": "31924357cb.f5a5e9",
    }


def texts_of_one_line() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_comments_and_blank_lines_between_statements_never_count(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["assets.numbers", "science.training.datasets", "science.numbers.filter"]))
    module = f"subliminal_dagster.{name}"
    source = read_source(module)
    assert source is not None
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    starts = {
        min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        for node in statements
    }
    places = data.draw(st.sets(st.sampled_from(sorted(starts)), min_size=1))
    lines = []
    for number, line in enumerate(source.split("\n"), start=1):
        if number in places:
            comment = data.draw(st.none() | texts_of_one_line())
            indent = " " * data.draw(st.integers(0, 9))
            lines.append("" if comment is None else f"{indent}# {comment}")
        lines.append(line)
    root = ("subliminal_dagster.assets.numbers", "_filtered_dataset.<locals>.filtered_dataset")
    before = slice_of(*root)
    with sources_replaced({module: "\n".join(lines)}, keep_others=True):
        assert slice_of(*root) == before


# This package


@pytest.fixture(autouse=True)
def hashes_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of code that was given another shape and keeps its version."""
    monkeypatch.setattr(code_slice_module, "reshaped", functools.cache(dict))


@functools.cache
def asset_functions() -> dict[str, tuple[str, str]]:
    """(module, qualified name) of every asset function of the package, by its name."""
    found = {}
    for file in (Path(code_slice_module.__file__).parents[1] / "assets").glob("*.py"):
        for outer in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(outer, ast.FunctionDef):
                continue
            for inner in ast.walk(outer):
                if isinstance(inner, ast.FunctionDef) and "asset(" in "".join(map(ast.unparse, inner.decorator_list)):
                    found[inner.name] = (
                        f"subliminal_dagster.assets.{file.stem}",
                        f"{outer.name}.<locals>.{inner.name}",
                    )
    return found


def all_slices(edits: Sources | None = None) -> dict[str, dict[str, str]]:
    """The slice of every asset of the package, by its name."""
    with sources_replaced(edits or {}, keep_others=True):
        return {name: slice_of(*function) for name, function in asset_functions().items()}


def test_a_function_object_has_the_slice_of_its_name() -> None:
    found = code_slice(make_child)
    assert found == slice_of("subliminal_dagster.science.training.children", "make_child")
    assert {"_soft_targets", "TrainingTask"} <= found.keys()


def test_the_child_uses_the_making_of_children_and_the_teacher_does_not() -> None:
    assets = asset_functions()
    child, teacher = slice_of(*assets["child_lora"]), slice_of(*assets["teacher_lora"])
    assert "make_child" in child
    assert "_child_lora.child_lora" in child
    used = definitions_used(*assets["teacher_lora"])
    assert not [name for name in used if name.startswith("subliminal_dagster.science.training.children.")]
    assert {"TrlTrainer", "head_logprobs"} <= child.keys() & teacher.keys()


def test_the_number_set_uses_both_engines_and_no_training() -> None:
    numbers = slice_of(*asset_functions()["number_set"])
    assert {
        "TransformersEngine",
        "TransformersSession",
        "VllmEngine",
        "VllmSession",
        "draw_number_set",
    } <= numbers.keys()
    assert not [name for name in definitions_used(*asset_functions()["number_set"]) if "training.adapter" in name]


def test_the_store_and_the_settings_of_resources_are_in_no_slice() -> None:
    records, engine, trainer = (
        read_source(f"subliminal_dagster.{name}") or ""
        for name in ("science.storage.records", "resources.engine", "resources.trainer")
    )
    storage = [name for name in module_names() if name.startswith("subliminal_dagster.science.storage.")]
    assert "FORMAT = 1" in records and "default=64" in engine and "default=False" in trainer
    edits = {
        **{name: f"{read_source(name)}\n\ndef more() -> None: ...\n" for name in storage},
        "subliminal_dagster.science.storage.records": records.replace("FORMAT = 1", "FORMAT = 2"),
        "subliminal_dagster.resources.engine": engine.replace("default=64", "default=32"),
        "subliminal_dagster.resources.trainer": trainer.replace("default=False", "default=True"),
    }
    assert all_slices(edits) == all_slices()


def test_a_change_of_one_rule_reaches_the_assets_that_use_it_and_no_other() -> None:
    module = "subliminal_dagster.science.numbers.filter"
    source = read_source(module) or ""
    before, after = all_slices(), all_slices({module: source + "\n\ndef subsample(*_: object) -> None: ...\n"})
    assert {name for name in before if before[name] != after[name]} == {"filtered_dataset", "arm_rows"}


def test_all_slices_of_many_studies_read_each_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    times_read = Counter[str]()

    def counted(module: str) -> str | None:
        times_read[module] += 1
        return read_source(module)

    monkeypatch.setattr(code_slice_module, "read_source", counted)
    assets = asset_functions()
    assert len(assets) >= 10
    for _ in range(2):
        for asset in assets.values():
            slice_of(*asset)
    assert set(times_read.values()) == {1}


def objects_named_in(code: CodeType, module: ModuleType) -> Iterator[Any]:
    """What compiled code takes from its module, imports itself, or takes from a module that it imports."""
    imported_from, imported = "", None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield getattr(module, instruction.argval, None)
        elif instruction.opname == "IMPORT_NAME":
            imported_from = instruction.argval
        elif instruction.opname == "IMPORT_FROM" and imported_from.startswith("subliminal_dagster."):
            home, name = importlib.import_module(imported_from), instruction.argval
            if hasattr(home, "__path__") and importlib.util.find_spec(f"{imported_from}.{name}"):
                imported = importlib.import_module(f"{imported_from}.{name}")
            else:
                yield getattr(home, name)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and imported:
            yield getattr(imported, instruction.argval, None)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from objects_named_in(constant, module)


def codes_of(definition: Any) -> Iterator[CodeType]:
    """The compiled code of a function, of a class's methods, and nothing for a value."""
    parts = vars(definition).values() if isinstance(definition, type) else [definition]
    for part in parts:
        part = getattr(part, "fget", None) or getattr(part, "__func__", part)
        code = getattr(inspect.unwrap(part) if callable(part) else None, "__code__", None)
        # A dataclass writes methods of its own.
        if isinstance(code, CodeType) and code.co_filename != "<string>":
            yield code


@functools.cache
def names_in_errors(module: str) -> set[str]:
    raised = [node for node in ast.walk(ast.parse(read_source(module) or "")) if isinstance(node, ast.Raise)]
    return {node.id for error in raised for node in ast.walk(error) if isinstance(node, ast.Name)}


def test_slices_hold_all_that_the_compiled_code_of_this_package_refers_to() -> None:
    in_slices = {name for asset in asset_functions().values() for name in definitions_used(*asset)}
    assets = {f"{module}.{qualname}".replace(".<locals>", "") for module, qualname in asset_functions().values()}
    checked = set()
    for name in in_slices - assets:  # those live inside of other functions
        module_name, _, attribute = name.rpartition(".")
        if module_name not in module_names():
            continue  # a method of settings
        module = importlib.import_module(module_name)
        for code in codes_of(getattr(module, attribute)):
            for used in objects_named_in(code, module):
                home, qualname = getattr(used, "__module__", None) or "", getattr(used, "__qualname__", None)
                if (
                    makes_content(home)
                    and not home.startswith("subliminal_dagster.resources")
                    and not (isinstance(used, type) and issubclass(used, Settings))
                    and qualname
                    and qualname not in names_in_errors(module_name)
                ):
                    checked.add(f"{home}.{qualname}")
    assert len(checked) > 100
    assert checked - in_slices == set()


def makes_content(module: str) -> bool:
    return code_slice_module.makes_content(module) and read_source(module) is not None


VIEWS = (".png", ".html", ".svg")
WRITES = {"write_text", "write_bytes", "to_parquet", "to_csv", "to_json", "save_file", "dump"}


def test_what_is_part_of_no_version_writes_no_content_and_lends_no_value_to_what_does() -> None:
    """Beside the store, which keeps what others made, and errors: those modules draw."""
    carried = {f"subliminal_dagster.{name}" for name in CARRIERS}
    views = {
        module
        for module in module_names()
        if module.startswith(("subliminal_dagster.assets", "subliminal_dagster.science"))
        and not makes_content(module)
        and module not in carried
    }
    assert len(views) >= 9
    for module in views:
        for call in calls_in(module):
            written = isinstance(call.func, ast.Attribute) and call.func.attr in WRITES
            assert not written or any(view in ast.unparse(call) for view in VIEWS), (
                f"{module} writes a file that is no view: {ast.unparse(call)}"
            )
    for module in filter(makes_content, module_names()):
        if module.startswith("subliminal_dagster.science"):
            taken = {path for _, path in imported_by(module)} & views
            assert not taken, f"{module} takes something from {taken}, whose code is in no version"


CARRIERS = (
    "science.storage.records",
    "science.storage.scratch",
    "science.storage.content_hash",
    "science.storage.hashed_files",
    "science.storage.files",
    "science.errors",
    # Whose token it is, and errors.
    "science.hub",
)


def calls_in(module: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(read_source(module) or "")) if isinstance(node, ast.Call)]


def imported_by(module: str) -> Iterator[tuple[str, str]]:
    """The names that a module imports anywhere, each with the module it comes from."""
    for node in ast.walk(ast.parse(read_source(module) or "")):
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.name, node.module or "") for alias in node.names)


# Kept on disk


def slices_of_another_process(folder: Path, *, read_trees: bool) -> dict[str, str]:
    """A slice as a new process finds it, which must not parse anything unless it may `read_trees`."""
    script = (
        "import ast, json, sys\nfrom pathlib import Path\nfrom subliminal_dagster.planning import code_slice\n"
        f"code_slice.SLICES_KEPT_IN = Path({str(folder)!r})\n"
        + ("" if read_trees else "ast.parse = None\n")
        + "print(json.dumps(code_slice.slice_of('subliminal_dagster.science.training.children', 'make_child')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_slices_are_kept_on_disk_for_the_sources_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "slices"
    first = slices_of_another_process(folder, read_trees=True)
    (kept,) = folder.iterdir()
    assert first == slice_of("subliminal_dagster.science.training.children", "make_child")
    assert slices_of_another_process(folder, read_trees=False) == first
    # An edit is another set of sources, whose slices are not there yet.
    monkeypatch.setattr(code_slice_module, "SLICES_KEPT_IN", folder)
    source = read_source("subliminal_dagster.science.training.children") or ""
    with sources_replaced({"subliminal_dagster.science.training.children": source + "\nX = 1\n"}, keep_others=True):
        assert code_slice_module.kept_slices().slices == {}
    # What is damaged or cannot be written is only time lost.
    kept.write_text("{")
    assert slices_of_another_process(folder, read_trees=True) == first
    blocked = tmp_path / "a-file"
    blocked.touch()
    assert slices_of_another_process(blocked, read_trees=True) == first


def test_nothing_is_imported_to_be_analysed() -> None:
    script = (
        "import sys\n"
        "from subliminal_dagster.planning.code_slice import slice_of\n"
        "slice_of('subliminal_dagster.assets.child', '_child_lora.<locals>.child_lora')\n"
        "print(sorted({'dagster', 'torch', 'numpy', 'subliminal_dagster.assets'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
