"""An asset's code version follows the code it uses: what can change a result changes it, and nothing else does."""

from __future__ import annotations

import ast
import dis
import functools
import importlib
import importlib.util
import inspect
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subliminal_dagster import code_slice as code_slice_module
from subliminal_dagster.code_slice import PLUMBING, code_slice, forget, read_source, slice_of
from subliminal_dagster.science.children import make_child
from subliminal_dagster.science.errors import UserError

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
def nothing_remembered() -> Iterator[None]:
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
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


# What a slice holds


def test_a_slice_holds_what_is_used_directly_and_through_others_and_nothing_else() -> None:
    found = toy_slice()
    assert list(found) == [
        "assets.toy.toy_assets.lengths",
        "science.library.LOW",
        "science.library.Ruler",
        "science.library.UNIT",
        "science.library.scale",
        "science.library.shift",
        "science.library.total",
        "science.machine.Machine",
    ]
    assert all(len(code_hash) == 12 and int(code_hash, 16) >= 0 for code_hash in found.values())
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
        (LIBRARY, "UNIT: float = 0.5", "UNIT: float = 0.25", "science.library.UNIT"),
        (LIBRARY, "(2, 3)", "(2, 4)", "science.library.LOW"),
        (LIBRARY, "by: float = 1.5", "by: float = 1.75", "science.library.scale"),
        (LIBRARY, "maxsize=8", "maxsize=9", "science.library.scale"),
        (LIBRARY, "@functools.lru_cache(maxsize=8)\n", "", "science.library.scale"),
        (LIBRARY, "value < 0", "value <= 0", "science.library.scale"),
        (LIBRARY, "raise UserError(", "raise ValueError(", "science.library.scale"),
        (LIBRARY, "assert value < 1e9", "assert value < 1e8", "science.library.scale"),
        (LIBRARY, "return value + 1", "return value - 1", "science.library.shift"),
        (LIBRARY, "return i * self.unit", "return i / self.unit", "science.library.Ruler"),
        (LIBRARY, "    unit: float", "    unit: int", "science.library.Ruler"),
        (LIBRARY, "@dataclass(frozen=True)", "@dataclass(frozen=True, eq=False)", "science.library.Ruler"),
        ("subliminal_dagster.science.machine", "max(values)", "min(values)", "science.machine.Machine"),
        (TOY, "rounds: int = 2", "rounds: int = 3", "assets.toy.toy_assets.lengths"),
        (TOY, "import numpy as np", "import jax.numpy as np", "assets.toy.toy_assets.lengths"),
    ],
)
def test_an_edit_that_can_change_a_result_changes_the_hash_of_that_definition(
    module: str, old: str, new: str, changed: str
) -> None:
    assert differing(toy_slice(), toy_slice(edited(module, old, new))) == {changed}


def test_another_function_imported_under_the_same_name_changes_the_slice() -> None:
    before, after = toy_slice(), toy_slice(edited(TOY, "import total as add_up", "import shift as add_up"))
    assert differing(before, after) == {"assets.toy.toy_assets.lengths", "science.library.total"}


def test_two_imports_that_swap_names_change_the_user_of_them() -> None:
    use = "def made():\n    return first(1), second(1)\n"
    library = "def a(x):\n    return x\n\ndef b(x):\n    return -x\n"
    before = slice_of_function(
        f"from subliminal_dagster.science.lib import a as first, b as second\n{use}", lib=library
    )
    after = slice_of_function(f"from subliminal_dagster.science.lib import b as first, a as second\n{use}", lib=library)
    assert differing(before, after) == {"assets.toy.made"}


def test_the_name_under_which_a_package_is_imported_does_not_count() -> None:
    named = slice_of_function("import numpy as np\ndef made(x):\n    return np.linalg.norm(x)\n")
    assert slice_of_function("from numpy import linalg\ndef made(x):\n    return linalg.norm(x)\n") == named


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
    assert "science.lib.used" in found


def test_what_a_package_passes_on_is_found_where_it_is_defined() -> None:
    sources = EMPTY_PACKAGES | {
        # Beside what it passes on, a package may import its own module under the module's name.
        "subliminal_dagster.science": "from subliminal_dagster.science import lib\n"
        "from subliminal_dagster.science.lib import used as known\n",
        "subliminal_dagster.science.lib": "def used(): ...\ndef other(): ...\n",
        TOY: "from subliminal_dagster import science\ndef made():\n    return science.known(), science.lib.other()\n",
    }
    assert list(slice_with(sources, TOY, "made")) == ["assets.toy.made", "science.lib.other", "science.lib.used"]


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
    assert list(slice_of_function(f"def used(): ...\n{function}")) == ["assets.toy.made"]


def test_a_global_variable_and_what_comprehensions_leave_alone_are_found() -> None:
    source = (
        "_count = 0\ndef used(): ...\n"
        "def made(x):\n    global _count\n    _count += 1\n    print([used for used in x])\n    return used, _count\n"
    )
    assert list(slice_of_function(source)) == ["assets.toy._count", "assets.toy.made", "assets.toy.used"]


def test_functions_that_use_each_other_are_found_once() -> None:
    source = "def a():\n    return b\ndef b():\n    return a\ndef made():\n    return a, made\n"
    assert list(slice_of_function(source)) == ["assets.toy.a", "assets.toy.b", "assets.toy.made"]


def test_every_statement_that_makes_a_name_counts_and_the_condition_it_stands_under() -> None:
    source = (
        "import os\nif os.name == 'nt':\n    SIZE = 1\nelse:\n    SIZE = 2\nSIZE += 3\ndef made():\n    return SIZE\n"
    )
    before = slice_of_function(source)
    for old, new in [("'nt'", "'posix'"), ("SIZE = 1", "SIZE = 5"), ("SIZE = 2", "SIZE = 5"), ("+= 3", "+= 5")]:
        assert differing(before, slice_of_function(source.replace(old, new))) == {"assets.toy.SIZE"}


def test_a_function_beside_an_asset_function_is_code_and_a_value_there_is_not() -> None:
    source = (
        "def assets(study):\n    from subliminal_dagster.science.lib import used\n"
        "    soft = study.soft\n    def helper():\n        return 1\n"
        "    if soft:\n        @study.asset\n        def made():\n            return helper(), used(), soft\n"
    )
    sources = EMPTY_PACKAGES | {"subliminal_dagster.science.lib": "def used(): ...\n", TOY: source}
    found = slice_with(sources, TOY, "assets.<locals>.made")
    assert list(found) == ["assets.toy.assets.helper", "assets.toy.assets.made", "science.lib.used"]
    worth_two = sources | {TOY: source.replace("return 1", "return 2")}
    assert differing(found, slice_with(worth_two, TOY, "assets.<locals>.made")) == {"assets.toy.assets.helper"}


# Resources and plumbing


def test_a_resource_leads_to_what_it_makes_only_where_the_asset_asks_for_it() -> None:
    assert "science.machine.Machine" in toy_slice()
    assert "science.machine.Machine" in toy_slice(edited(TOY, "machine: MachineResource", 'machine: "MachineResource"'))
    assert "science.machine.Machine" not in toy_slice(edited(TOY, "machine: MachineResource", "machine"))


def test_plumbing_is_neither_hashed_nor_followed() -> None:
    source = "from {module} import used\nimport {module} as z\ndef made():\n    return used(), z.used()\n"
    plumbing = "from subliminal_dagster.science.lib import code\ndef used():\n    return code()\n"
    sources = EMPTY_PACKAGES | {"subliminal_dagster.science.lib": "def code(): ...\n"}
    for module in PLUMBING:
        found = slice_with(sources | {module: plumbing, TOY: source.format(module=module)}, TOY, "made")
        assert list(found) == ["assets.toy.made"]
    elsewhere = "subliminal_dagster.science.elsewhere"
    found = slice_with(sources | {elsewhere: plumbing, TOY: source.format(module=elsewhere)}, TOY, "made")
    assert list(found) == ["assets.toy.made", "science.elsewhere.used", "science.lib.code"]


# What goes wrong


def test_a_function_without_source_in_the_package_is_named_with_what_to_do() -> None:
    def asset() -> None: ...

    with pytest.raises(UserError, match=r"source of .*asset in module .*test_code_slice.* cannot be found.* `def`"):
        code_slice(asset)
    with pytest.raises(UserError, match=r"no_such_function in module subliminal_dagster\.jobs cannot be found"):
        slice_of("subliminal_dagster.jobs", "no_such_function")
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
        "assets.toy.Base": "dbf15fab096a",
        "assets.toy.WIDTH": "d099c2f56dec",
        "assets.toy.made": "90d54013a376",
    }


def texts_of_one_line() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_comments_and_blank_lines_between_statements_never_count(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["assets.numbers", "science.datasets", "science.number_filter"]))
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
    root = ("subliminal_dagster.assets.numbers", "number_assets.<locals>.filtered_dataset")
    before = slice_of(*root)
    with sources_replaced({module: "\n".join(lines)}, keep_others=True):
        assert slice_of(*root) == before


# This package


@functools.cache
def asset_functions() -> dict[str, tuple[str, str]]:
    """(module, qualified name) of every asset function of the package, by its name."""
    found = {}
    for file in (Path(code_slice_module.__file__).parent / "assets").glob("*.py"):
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
    assert found == slice_of("subliminal_dagster.science.children", "make_child")
    assert {"science.children._soft_targets", "science.training.TrainingTask"} <= found.keys()


def test_the_child_uses_the_making_of_children_and_the_teacher_does_not() -> None:
    assets = asset_functions()
    child, teacher = slice_of(*assets["child_lora"]), slice_of(*assets["teacher_lora"])
    assert "science.children.make_child" in child
    assert "assets.child._channel_assets.child_lora" in child
    assert not [name for name in teacher if name.startswith("science.children.")]
    assert {"science.training.TrlTrainer", "science.training.head_logprobs"} <= child.keys() & teacher.keys()


def test_the_number_set_uses_both_engines_and_no_training() -> None:
    numbers = slice_of(*asset_functions()["number_set"])
    assert {
        "science.engines.transformers_engine.TransformersEngine",
        "science.engines.transformers_engine.TransformersSession",
        "science.engines.vllm_engine.VllmEngine",
        "science.engines.vllm_engine.VllmSession",
        "science.numbers.draw_number_set",
    } <= numbers.keys()
    assert not [name for name in numbers if "training" in name]


def test_the_store_and_the_settings_of_resources_are_in_no_slice() -> None:
    store, engine, trainer = (
        read_source(f"subliminal_dagster.{name}") or ""
        for name in ("science.store", "resources.engine", "resources.trainer")
    )
    assert "default=64" in engine and "default=False" in trainer
    edits = {
        "subliminal_dagster.science.store": store + "\n\nFORMAT = 2\n\n\ndef more() -> None: ...\n",
        "subliminal_dagster.resources.engine": engine.replace("default=64", "default=32"),
        "subliminal_dagster.resources.trainer": trainer.replace("default=False", "default=True"),
    }
    assert all_slices(edits) == all_slices()


def test_a_change_of_one_rule_reaches_the_assets_that_use_it_and_no_other() -> None:
    module = "subliminal_dagster.science.number_filter"
    source = read_source(module) or ""
    before, after = all_slices(), all_slices({module: source + "\n\ndef subsample(*_: object) -> None: ...\n"})
    assert {name for name in before if before[name] != after[name]} == {"filtered_dataset"}


def test_all_slices_of_many_studies_take_a_moment_and_read_each_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    times_read = Counter[str]()

    def counted(module: str) -> str | None:
        times_read[module] += 1
        return read_source(module)

    monkeypatch.setattr(code_slice_module, "read_source", counted)
    assets = asset_functions()
    assert len(assets) >= 10
    started = time.process_time()
    for _ in range(8):
        for asset in assets.values():
            slice_of(*asset)
    # A fifth of a second at most on its own; the bound is for slow and busy machines.
    assert time.process_time() - started < 2
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
    in_slices = {name for asset in asset_functions().values() for name in slice_of(*asset)}
    paths = (f"{module}.{qualname}" for module, qualname in asset_functions().values())
    assets = {path.replace(".<locals>", "").removeprefix("subliminal_dagster.") for path in paths}
    checked = set()
    for name in in_slices:
        module_name, _, attribute = f"subliminal_dagster.{name}".rpartition(".")
        if name in assets:
            continue  # it lives inside of another function
        module = importlib.import_module(module_name)
        for code in codes_of(getattr(module, attribute)):
            for used in objects_named_in(code, module):
                home, qualname = getattr(used, "__module__", None) or "", getattr(used, "__qualname__", None)
                plumbing = home in PLUMBING or home.startswith("subliminal_dagster.resources")
                if (
                    home.startswith("subliminal_dagster.")
                    and not plumbing
                    and qualname
                    and qualname not in names_in_errors(module_name)
                ):
                    checked.add(f"{home}.{qualname}".removeprefix("subliminal_dagster."))
    assert len(checked) > 100
    assert checked - in_slices == set()


def test_nothing_is_imported_to_be_analysed() -> None:
    script = (
        "import sys\n"
        "from subliminal_dagster.code_slice import slice_of\n"
        "slice_of('subliminal_dagster.assets.child', '_channel_assets.<locals>.child_lora')\n"
        "print(sorted({'dagster', 'torch', 'numpy', 'subliminal_dagster.assets'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
