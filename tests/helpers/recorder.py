"""What the assets of a study touch while they run, held against what their versions know.

Belongs here: recording and comparing. Does not belong here: which studies are run (`test_versions_complete`).

Recorded are the study's fields that are read, the functions of this package that run, its data files that are opened
and the environment variables it looks at. Of code that carries results and makes none (`code_slice.PART_OF_NO_VERSION`)
nothing is recorded.
"""

from __future__ import annotations

import ast
import builtins
import gc
import importlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

import subliminal_dagster
from subliminal_dagster.execution.work import Work
from subliminal_dagster.planning import code_slice
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.settings.base import Settings
from subliminal_dagster.science.settings.study import AnyStudy
from subliminal_dagster.science.storage.content_hash import file_content_hash

PACKAGE_FOLDER = Path(subliminal_dagster.__file__).parent

Touched = dict[str, set[str]]
"""Names by asset."""


@dataclass
class Recorder:
    """What was touched, by asset; `asset` is the one at work."""

    study: AnyStudy
    fields: Touched = field(default_factory=lambda: defaultdict(set))
    functions: Touched = field(default_factory=lambda: defaultdict(set))
    files: Touched = field(default_factory=lambda: defaultdict(set))
    variables: Touched = field(default_factory=lambda: defaultdict(set))
    asset: str | None = None

    def __post_init__(self) -> None:
        self._paths: dict[int, set[str]] = defaultdict(set)
        self._name_parts(self.study, "")

    def _name_parts(self, value: Any, path: str) -> None:
        """Note under which dotted paths each settings object of the study stands."""
        if isinstance(value, Settings):
            self._paths[id(value)].add(path)
            for name in type(value).model_fields:
                self._name_parts(getattr(value, name), f"{path}.{name}".lstrip("."))
        elif isinstance(value, dict):
            for name, inner in value.items():
                self._name_parts(inner, f"{path}.{name}")
        elif isinstance(value, tuple):
            for inner in value:
                self._name_parts(inner, path)

    def read_field(self, settings: Settings, name: str, value: Any, reader: FrameType) -> None:
        known = self._paths.get(id(settings))
        if self.asset is None or known is None or not _counts(reader):
            return
        if name in type(settings).model_fields and not _holds_settings(value):
            # One default object may stand at several places; which was meant cannot be told.
            self.fields[self.asset].add(" or ".join(sorted(f"{path}.{name}".lstrip(".") for path in known)))
        elif name in ("model_dump", "model_copy", "model_dump_json"):
            self.fields[self.asset].add(" or ".join(sorted(known)))

    def called(self, name: str, frame: FrameType) -> None:
        if self.asset is None or name in self.functions[self.asset]:
            return
        caller = frame.f_back
        while caller is not None and _module(caller) is None:
            caller = caller.f_back
        # What carries results may call what makes them, to its own ends (which groups there are).
        if caller is None or code_slice.makes_content(_module(caller) or ""):
            self.functions[self.asset].add(name)


def _module(frame: FrameType) -> str | None:
    """The module of this package that a frame runs code of."""
    if not frame.f_code.co_filename.startswith(str(PACKAGE_FOLDER)):
        return None
    return str(frame.f_globals.get("__name__"))


def _counts(frame: FrameType) -> bool:
    module = _module(frame)
    return module is not None and code_slice.makes_content(module)


def _holds_settings(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
    return any(isinstance(one, Settings) for one in inner)


_recording: list[Recorder] = []


def _opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _recording and _recording[0].asset and isinstance(arguments[0], str):
        path = Path(arguments[0])
        is_code = path.suffix in (".py", ".pyc") or "__pycache__" in path.parts
        if path.is_relative_to(PACKAGE_FOLDER) and path.is_file() and not is_code:
            _recording[0].files[_recording[0].asset].add(str(path))


sys.addaudithook(_opened)


@contextmanager
def recorded(study: AnyStudy) -> Iterator[Recorder]:
    """Record what the assets of a study touch in this process during the block."""
    # What runs while a module is imported is followed from what it makes (`code_slice`).
    for module in code_slice.module_names():
        if not module.endswith(("vllm_engine", "definitions")):
            importlib.import_module(module)
    recorder = Recorder(study)
    read_field, look_upstream, result = Settings.__getattribute__, Work.look_upstream, Work.result
    variable = os._Environ.__getitem__

    def field_read(settings: Settings, name: str) -> Any:
        value = read_field(settings, name)
        if recorder.asset is not None and not name.startswith("_"):
            recorder.read_field(settings, name, value, sys._getframe(1))
        return value

    def begin(work: Work[Any]) -> None:
        look_upstream(work)
        _forget_what_was_read()
        recorder.asset = work.asset

    def end(work: Work[Any]) -> Any:
        recorder.asset = None
        return result(work)

    def variable_read(environment: Any, name: Any) -> Any:
        reader: FrameType | None = sys._getframe(1)
        while reader is not None and reader.f_globals.get("__name__") in ("os", "collections.abc", "_collections_abc"):
            reader = reader.f_back
        if recorder.asset is not None and reader is not None and _counts(reader):
            recorder.variables[recorder.asset].add(str(name))
        return variable(environment, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "__getattribute__", field_read)
        patch.setattr(Work, "look_upstream", begin)
        patch.setattr(Work, "result", end)
        patch.setattr(os._Environ, "__getitem__", variable_read)
        _recording.append(recorder)
        with _functions_that_tell(recorder):
            yield recorder
        _recording.clear()


@contextmanager
def _functions_that_tell(recorder: Recorder) -> Iterator[None]:
    """In the block every function of this package that makes content begins by telling the recorder that it runs.

    Their code is replaced in place: a profiler, which Python calls for the functions of all libraries too, makes a
    study several times slower.
    """
    builtins.tell_recorder = lambda name: recorder.called(name, sys._getframe(1))  # type: ignore[attr-defined]
    telling: dict[tuple[str, str, int], CodeType] = {}
    for module in filter(code_slice.makes_content, code_slice.module_names()):
        source, file = code_slice.read_source(module), getattr(sys.modules.get(module), "__file__", None)
        # numba reads the code of its functions, and knows nothing of recorders.
        compiled = "numba.njit" in (source or "")
        if source is not None and file is not None and not compiled and not module.startswith(code_slice.RESOURCES):
            code = compile(_with_telling(ast.parse(source), module), file, "exec", dont_inherit=True)
            telling |= {(file, one.co_qualname, one.co_firstlineno): one for one in _codes_in(code)}
    # What is frozen (`load_base`) is listed by no collector.
    gc.unfreeze()
    replaced: list[tuple[FunctionType, CodeType]] = []
    for function in [one for one in gc.get_objects() if type(one) is FunctionType]:
        code = function.__code__
        new = telling.get((code.co_filename, code.co_qualname, code.co_firstlineno))
        if new is not None and new.co_freevars == code.co_freevars:
            replaced.append((function, code))
            function.__code__ = new
    gc.freeze()
    assert len(replaced) > 500, "the package's functions were not found"
    try:
        yield
    finally:
        for function, code in replaced:
            function.__code__ = code


def _with_telling(tree: ast.Module, module: str) -> ast.Module:
    def visit(node: ast.AST, names: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            inside = names
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inside = (*names, child.name)
                # A compiler reads the code of these, and knows nothing of recorders.
                if not isinstance(child, ast.ClassDef) and not any(
                    "jit" in ast.unparse(d) for d in child.decorator_list
                ):
                    tell = ast.parse(f"tell_recorder({'.'.join((module, *inside))!r})").body[0]
                    for one in ast.walk(tell):
                        ast.copy_location(one, child.body[0])
                    child.body.insert(1 if ast.get_docstring(child) else 0, tell)
            visit(child, inside)

    visit(tree, ())
    return ast.fix_missing_locations(tree)


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes_in(constant)


def _forget_what_was_read() -> None:
    """Empty this package's caches, or a file would be seen opened by the first asset alone."""
    for name, module in list(sys.modules.items()):
        if name.startswith(code_slice.PACKAGE) and module is not None and code_slice.makes_content(name):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


@dataclass
class Allowed:
    """What may be touched and is in no version, with the reason why it changes no result."""

    fields: dict[tuple[str, str], str]
    variables: dict[str, str]


def undeclared(frame: Frame[Any], recorder: Recorder, allowed: Allowed) -> list[str]:
    """What assets touched that can change their result and is not in their version, a sentence each."""
    found = []
    for asset, read in recorder.fields.items():
        declared = frame.nodes[asset].recipe.settings
        for paths in sorted(read):
            known = [*declared, *(name for of, name in allowed.fields if of == asset)]
            if not any(_is_within(path, known, type(frame.study)) for path in paths.split(" or ")):
                found.append(f"{asset} reads the study's {paths}, which is not among its `reads`")
    for asset, called in recorder.functions.items():
        in_slice = code_slice.definitions_used(*frame.nodes[asset].function.split(":"))
        for name in sorted(called):
            parts = name.split(".")
            if not any(".".join(parts[:end]) in in_slice for end in range(2, len(parts) + 1)):
                found.append(f"{asset} runs {name}, which is not in its code slice")
    for asset, opened in recorder.files.items():
        known = json.dumps(frame.nodes[asset].recipe.settings)
        found += [
            f"{asset} opens {Path(file).name}, whose content is not in its version"
            for file in sorted(opened)
            if file_content_hash(file) not in known
        ]
    for asset, looked_at in recorder.variables.items():
        found += [
            f"{asset} looks at the environment variable {name}, which is not in its version"
            for name in sorted(looked_at - set(allowed.variables))
        ]
    return found


def _is_within(path: str, declared: list[str], study: type[Settings]) -> bool:
    """Whether a field is declared, itself or with what holds it; the path of all fields is empty."""
    if path in ("", "name", "description"):
        # The name is part of every key, the description in no result but the report's, which reads all.
        return path != "" or set(study.model_fields) <= set(declared)
    # What a study is about counts with the questions that are asked about it (`Study.file_contents`).
    path = "prompts" if path.startswith("category.") else path
    return any(path == one or path.startswith(f"{one}.") for one in declared)
