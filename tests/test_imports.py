"""Who may import whom: no circle, and nothing from a room above one's own."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import subliminal_dagster

PACKAGE = Path(subliminal_dagster.__file__).parent

ROOMS = """
cli definitions
build
assets
resources
execution
planning
partitions new_study
science.pages science.preflight
science.arms science.audit science.descriptions science.sweep science.interference
science.features science.probes science.liking science.tuning science.entanglement
science.activations science.training
science.numbers science.steering
science.preferences science.capability science.toy science.dial
science.budget science.models science.report
science.settings
science.storage science.statistics science.wheels
science.hub
science.errors science.figures
science.colours science.processes science.random_streams science.verdict science.well_formed
"""
"""From the top down; those on a line do not know of each other."""


def floors() -> dict[str, int]:
    return {room: floor for floor, line in enumerate(ROOMS.strip().splitlines()) for room in line.split()}


def modules() -> dict[str, Path]:
    """Every module by its name without the package's."""
    names = {path: ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of this package that a module imports, wherever in it, if only for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("subliminal_dagster"):
            source = node.module.removeprefix("subliminal_dagster").removeprefix(".")
            for alias in node.names:
                inner = f"{source}.{alias.name}".removeprefix(".")
                found.add(inner if inner in known else source)
    return found - {""}


def room_of(module: str) -> str:
    return ".".join(module.split(".")[: 2 if module.startswith("science.") else 1])


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports from a room to one that is not below it."""
    floor = floors()
    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in sorted(others)
        if room_of(module) != room_of(other) and floor[room_of(module)] >= floor[room_of(other)]
    ]


def import_graph() -> dict[str, set[str]]:
    known = modules()
    named = [name for name in known if name not in ("__init__", "science")]
    return {name: imports(known[name], known) - {name, "science"} for name in named}


def test_no_module_imports_in_a_circle() -> None:
    TopologicalSorter(import_graph()).prepare()


def test_no_room_imports_from_above() -> None:
    graph = import_graph()
    assert len(graph) > 100 and sum(map(len, graph.values())) > 500
    assert {room_of(module) for module in graph} == set(floors())
    assert upward(graph) == []


def test_a_circle_and_an_upward_import_would_be_seen() -> None:
    graph = import_graph()
    assert upward(graph | {"science.storage.store": {"science.liking.signal"}}) == [
        "science.storage.store imports science.liking.signal"
    ]
    with pytest.raises(CycleError):
        TopologicalSorter(graph | {"science.errors": {"science.storage.store"}}).prepare()
