"""Which code of this package an asset uses, so that a change of that code, and of no other, makes the asset stale.

Found by reading syntax trees: nothing that is analysed is imported. What cannot be seen this way: side effects of
importing a module, and names that are put together at run time.

Belongs here: from a function to the hashes of the definitions it uses, and which modules count. Does not belong here:
what an asset depends on besides code (`recipe`, `frame`), and what follows from a change (`planner`).
"""

from __future__ import annotations

import ast
import atexit
import copy
import functools
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from subliminal_dagster.science.errors import UserError

PACKAGE = "subliminal_dagster"

_ROOT = Path(__file__).parents[1]

RESOURCES = f"{PACKAGE}.resources"
"""Followed to what they make (engines, trainers) and not hashed: their fields are settings of the machine."""

SETTINGS = "Settings"
"""The base of all settings classes. What a study says counts as values (`recipe`), so such a class is hashed only where
code makes one itself. Its methods count wherever an attribute of their name is read: whose it is cannot be seen."""

PART_OF_NO_VERSION = "Part of no version:"
"""What the docstring of a module says, with the reason, that cannot change what an artifact says: it is neither hashed
nor followed. Besides, only `assets`, `science` and `resources` make content; the other modules carry it."""

RESHAPED = Path(__file__).with_name("reshaped.json")
"""Asset functions whose code was given another shape and makes the same, byte for byte: artifacts made with the old
shape stay fresh. `scripts/versions.py` writes it."""

_MAKE_CONTENT = tuple(f"{PACKAGE}.{name}" for name in ("assets", "science", "resources"))

# Fields of syntax trees that are about types, or repeat what the place in the tree says.
_NOT_READ = {"returns", "type_comment", "type_params", "ctx", "kind"}

# A statement that calls one of these tells how far it is, and progress texts are not results.
_TELLING = {"progress", "_progress"}

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class _Definition(NamedTuple):
    """A function, class or assignment: `name` is dotted where it stands inside of a function or class.

    Hashes know it by this name and not by its module, which may move.
    """

    module: str
    name: str

    @property
    def is_resource(self) -> bool:
        return self.module == RESOURCES or self.module.startswith(f"{RESOURCES}.")


class _Local:
    """A variable of a function. Its name does not count, only which one it is."""


_Target = str | _Definition | _Local


class _Scope(NamedTuple):
    """Where code stands. `names` are those of the functions around it: an imported name leads to paths, a definition
    beside an asset function to itself, a variable to a `_Local`, any other to nothing. In a class body, annotated names
    are `fields`."""

    names: Mapping[str, tuple[_Target, ...]]
    fields: bool = False


def code_slice(function: Callable[..., Any]) -> dict[str, str]:
    """Every definition of this package that an asset function uses, itself or through others, the function included.

    Name (without a module: a file may move) to a hash, sorted by name; of several of one name, their hashes joined by
    "+". A class is one definition with all its methods. The hash is "<own>.<used>": 10 hex digits of the definition's
    own syntax tree, and 6 of the trees of what it mentions, so that two things of one name are not taken for each
    other. Not hashed: comments, docstrings, annotations other than a class's fields, names of variables, where a name
    is imported from, what an error or a progress message says, the decorator that makes the function an asset, values
    taken from the function around it, `SETTINGS`, `RESOURCES` and what is `PART_OF_NO_VERSION`. Raises UserError where
    the source of the function cannot be found.
    """
    return slice_of(function.__module__, function.__qualname__)


def slice_of(module: str, qualname: str) -> dict[str, str]:
    """`code_slice` of the function with this `__module__` and `__qualname__`; kept on disk (`kept_slices`)."""
    kept = kept_slices()
    name = f"{module}:{qualname}"
    if name not in kept.slices:
        kept.add(name, _slice_of(module, qualname))
    return as_before(name, kept.slices[name])


def as_before(name: str, found: Mapping[str, str]) -> dict[str, str]:
    """The slice of a function ("module:qualname") under the hashes that it had before it was given another shape, where
    `RESHAPED` says that it then made the same. What was edited since has its own hash, and only that."""
    entry = reshaped().get(name)
    if entry is None:
        return dict(found)
    old, new = entry["old"], entry["new"]
    unedited = {n: each for n, each in old.items() if found.get(n) == new.get(n)}
    before = dict(sorted(({n: each for n, each in found.items() if new.get(n) != each} | unedited).items()))
    # What only lost a definition must not look as it did before either.
    edited = _slice_hash(found) != entry["is"]
    return dict(found) if edited and _slice_hash(before) == entry["was"] else before


@functools.cache
def reshaped() -> dict[str, Any]:
    """What `RESHAPED` holds: of a function the hashes of the whole slice that `was` and `is`, and of what differs in it
    the `old` and the `new` hashes, by definition."""
    entries: dict[str, Any] = json.loads(RESHAPED.read_bytes())
    return entries


def reshaped_entry(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, Any] | None:
    """An entry of `RESHAPED` for a function whose slice was `old` and is `new`; None where they are the same."""
    if old == new:
        return None
    return {
        "was": _slice_hash(old),
        "is": _slice_hash(new),
        "old": {name: each for name, each in old.items() if new.get(name) != each},
        "new": {name: each for name, each in new.items() if old.get(name) != each},
    }


def _slice_hash(found: Mapping[str, str]) -> str:
    return _sha256(json.dumps(found, sort_keys=True))


def _slice_of(module: str, qualname: str) -> dict[str, str]:
    hashes: dict[str, list[str]] = {}
    found = _definitions_used(module, qualname)
    for definition, (own, mentioned) in found.items():
        if not definition.is_resource:
            used = [(one.name, found[one][0]) for one in mentioned if not one.is_resource]
            hashes.setdefault(definition.name, []).append(f"{own[:10]}.{_sha256(str(sorted(used)))[:6]}")
    return {name: "+".join(sorted(hashes[name])) for name in sorted(hashes)}


def own_hashes(code_hash: str) -> list[str]:
    """What a hash of a slice says of the definitions of that name themselves, and not of what they mention."""
    return [part.partition(".")[0] for part in code_hash.split("+")]


def definitions_used(module: str, qualname: str) -> set[str]:
    """What `slice_of` holds, each as "module.name"."""
    return {f"{one.module}.{one.name}" for one in _definitions_used(module, qualname)}


def _definitions_used(module: str, qualname: str) -> dict[_Definition, tuple[str, frozenset[_Definition]]]:
    root = _Definition(module, qualname.replace(".<locals>", ""))
    if not any(isinstance(statement, _Function) for statement in _locate(root)[0]):
        raise UserError(
            f"The source of {qualname} in module {module} cannot be found, so its code version is unknown: define the "
            f"asset with `def` in a module of the package {PACKAGE}."
        )
    found = {root: _read(root, is_asset=True)}
    to_read = [*found[root][1]]
    while to_read:
        definition = to_read.pop()
        if definition not in found:
            found[definition] = _read(definition)
            to_read.extend(found[definition][1])
    # A function that mentions itself is read as any other where it is mentioned.
    return found


def read_source(module: str) -> str | None:
    """The source of a module of this package (dotted name); None where there is no such module."""
    package, *parts = module.split(".")
    if package != PACKAGE:
        return None
    path = _ROOT.joinpath(*parts)
    for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return None


def module_names() -> list[str]:
    """All modules of this package, by dotted name."""
    root = _ROOT
    parts = (path.relative_to(root).with_suffix("").parts for path in sorted(root.rglob("*.py")))
    return [".".join((PACKAGE, *(names[:-1] if names[-1] == "__init__" else names))) for names in parts]


def forget() -> None:
    """Read all sources anew from now on."""
    for cached in (
        reshaped,
        _source,
        _tree,
        _names_of,
        _meaning,
        _read,
        makes_content,
        _is_settings,
        _settings_methods,
    ):
        cached.cache_clear()
    kept_slices.cache_clear()


# Slices kept on disk

SLICES_KEPT_IN: Path | None = Path.home() / ".cache" / "subliminal-dagster" / "code-slices"
"""Reading all syntax trees takes a second, which every process would pay."""

_KEPT_FILES = 8


class _KeptSlices:
    """The slices found so far in the package as it is now, of this and other processes."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self.slices: dict[str, dict[str, str]] = {}
        self._is_saved_at_exit = False
        if SLICES_KEPT_IN is not None:
            sources = json.dumps([(module, _source(module)) for module in module_names()])
            self._file = SLICES_KEPT_IN / f"{_sha256(sources)[:32]}.json"
            # What cannot be read is only time lost.
            with suppress(OSError, ValueError):
                self.slices = json.loads(self._file.read_bytes())

    def add(self, name: str, found: dict[str, str]) -> None:
        self.slices[name] = found
        if self._file is not None and not self._is_saved_at_exit:
            self._is_saved_at_exit = True
            atexit.register(self._save, self._file)

    def _save(self, file: Path) -> None:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f"{file.name}.{uuid.uuid4().hex}.new")
            new.write_text(json.dumps(self.slices), encoding="ascii")
            os.replace(new, file)
            by_age = sorted(file.parent.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
            for old in by_age[_KEPT_FILES:]:
                old.unlink()


@functools.cache
def kept_slices() -> _KeptSlices:
    """Those of the sources as they are; read once."""
    return _KeptSlices()


# What a definition says and mentions


@functools.cache
def _read(definition: _Definition, is_asset: bool = False) -> tuple[str, frozenset[_Definition]]:
    """The hash of a definition, and the definitions it mentions."""
    statements, scope = _locate(definition)
    reader = _Reader(definition.module)
    for statement in statements:
        if _does_nothing(statement, scope):
            continue
        if is_asset and isinstance(statement, _Function):
            reader.mentioned |= _resources_asked_for(definition.module, statement, scope)
            # The outermost decorator declares the asset: its name, description, inputs and settings.
            statement = copy.copy(statement)
            statement.decorator_list = statement.decorator_list[1:]
        reader.read(statement, scope)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for name, path in _bound(statement, definition.module):
                if name == definition.name and path is not None:
                    reader.mentioned.update(_meaning(path)[0])
    return _sha256(" ".join(reader.parts)), frozenset(reader.mentioned)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _resources_asked_for(module: str, function: _Function, scope: _Scope) -> set[_Definition]:
    reader = _Reader(module)
    for parameter in _parameters(function.args):
        if parameter.annotation is not None:
            reader.read_annotation(parameter.annotation, scope)
    return {definition for definition in reader.mentioned if definition.is_resource}


class _Reader:
    """Reads code of one module: `parts` is what of it counts, written alike whatever the Python version (`ast.dump` is
    not), and `mentioned` the definitions it names."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.parts: list[str] = []
        self.mentioned: set[_Definition] = set()
        self._variables: dict[_Local, int] = {}

    def read(self, node: ast.AST, scope: _Scope) -> None:
        match node:
            case ast.Name() | ast.Attribute():
                self._read_name(node, scope)
            case ast.Constant(value=value):
                # `ascii`, because what `repr` escapes depends on the Unicode version.
                self.parts.append(f"{type(value).__name__}:{value!a}")
            case ast.arg():
                self.parts.append(f"arg:{node.arg!a}")
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._read_fields(node, scope, body=_Scope({**scope.names, **_local_names(node, self.module)}))
            case ast.ClassDef():
                # A settings class is read only where code makes one, and what it inherits then runs as well.
                for base in node.bases:
                    if isinstance(base, ast.Name | ast.Attribute):
                        self._read_settings_made(base, scope)
                self._read_fields(node, scope, body=_Scope(scope.names, fields=True))
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                targets = {name: (_Local(),) for one in node.generators for name, _ in _bound(one.target, self.module)}
                # Python evaluates the first iterable outside of the comprehension, where its names mean what they
                # mean there; that it is read once more inside adds nothing.
                self.read(node.generators[0].iter, scope)
                self._read_fields(node, _Scope({**scope.names, **targets}))
            case ast.Call(func=ast.Name() | ast.Attribute() as made):
                self._read_fields(node, scope)
                self._read_settings_made(made, scope)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                self._read_fields(node, scope, name=self._variable(name, scope))
            case ast.Import() | ast.ImportFrom():
                paths = [path for _, path in _bound(node, self.module) if path is not None]
                self.parts.extend(f"import:{_meaning(path)[1]!a}" for path in paths)
            case ast.AnnAssign() if scope.fields:
                self._read_fields(node, scope)
                self.read_annotation(node.annotation, scope)
            case ast.AnnAssign(value=ast.expr() as value):
                self._read_fields(ast.Assign(targets=[node.target], value=value), scope)
            case ast.Raise(exc=ast.Call(func=exception)):
                self._read_fields(ast.Raise(exc=exception, cause=node.cause), scope)
            case ast.Assert():
                self._read_fields(ast.Assert(test=node.test), scope)
            case ast.JoinedStr():
                self._read_fields(ast.JoinedStr(values=_joined_texts(node.values)), scope)
            case _:
                self._read_fields(node, scope)

    def read_annotation(self, annotation: ast.expr, scope: _Scope) -> None:
        """Read an annotation, and what is quoted in it too."""
        self.read(annotation, scope)
        for node in ast.walk(annotation):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                with suppress(SyntaxError):  # a text of a Literal
                    self.read(ast.parse(node.value, mode="eval").body, scope)

    def _read_fields(self, node: ast.AST, scope: _Scope, body: _Scope | None = None, **instead: str) -> None:
        self.parts.append(f"{type(node).__name__}(")
        for name, value in ast.iter_fields(node):
            value = instead.get(name, value)
            if value is not None and name not in _NOT_READ:
                inside = body if body is not None and name == "body" else scope
                items = [item for item in value if not _is_left_out(item, inside)] if isinstance(value, list) else None
                if items != []:
                    self.parts.append(f"{name}=")
                    self._read_value(value if items is None else items, inside)
        self.parts.append(")")

    def _read_value(self, value: Any, scope: _Scope) -> None:
        if isinstance(value, list):
            self.parts.append("[")
            for item in value:
                self._read_value(item, scope)
            self.parts.append("]")
        elif isinstance(value, ast.AST):
            self.read(value, scope)
        else:
            self.parts.append(ascii(value))

    def _read_name(self, node: ast.Name | ast.Attribute, scope: _Scope) -> None:
        if isinstance(node, ast.Attribute):
            self.mentioned.update(_settings_methods().get(node.attr, ()))
        attributes, targets = self._meant(node, scope)
        if not targets and isinstance(node, ast.Name):
            self._read_fields(node, scope, id=self._variable(node.id, scope))
        elif not targets:
            self._read_fields(node, scope)
        for target in targets:
            if isinstance(target, _Definition):
                self.mentioned.add(target)
                meaning = ".".join([target.name, *attributes])
            else:
                definitions, meaning = _meaning(".".join([target, *attributes]))
                self.mentioned.update(one for one in definitions if not _is_settings(one))
            # What the name means and not how it is spelt here: another import under the same name is another code.
            self.parts.append(f"name:{meaning!a}")

    def _read_settings_made(self, function: ast.Name | ast.Attribute, scope: _Scope) -> None:
        """Mention a settings class that is called: its defaults are then not a study's values."""
        attributes, targets = self._meant(function, scope)
        paths = [".".join([target, *attributes]) for target in targets if isinstance(target, str)]
        self.mentioned.update(one for path in paths for one in _meaning(path)[0] if _is_settings(one))

    def _meant(self, node: ast.Name | ast.Attribute, scope: _Scope) -> tuple[list[str], tuple[str | _Definition, ...]]:
        """The attributes that are taken of a name, and what the name means; nothing for a variable or a builtin."""
        base: ast.expr = node
        attributes: list[str] = []
        while isinstance(base, ast.Attribute):
            attributes.insert(0, base.attr)
            base = base.value
        if not isinstance(base, ast.Name) or not isinstance(base.ctx, ast.Load):
            return attributes, ()
        if base.id in scope.names:
            return attributes, tuple(one for one in scope.names[base.id] if not isinstance(one, _Local))
        bound = (_names_of(self.module) or {}).get(base.id)
        if bound is None:
            return attributes, ()
        return attributes, (bound if isinstance(bound, str) else f"{self.module}.{base.id}",)

    def _variable(self, name: str, scope: _Scope) -> str:
        """A name as it is, or which variable it is."""
        variable = next((one for one in scope.names.get(name, ()) if isinstance(one, _Local)), None)
        return name if variable is None else f"{self._variables.setdefault(variable, len(self._variables))}"


def _is_left_out(item: Any, scope: _Scope) -> bool:
    # What an imported name means is read where it is used; from where, and in which order, changes nothing.
    return isinstance(item, ast.Import | ast.ImportFrom) or _does_nothing(item, scope)


def _does_nothing(item: Any, scope: _Scope) -> bool:
    """Whether a statement is a docstring, `...`, `pass`, news of progress or a type declared without a value."""
    match item:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name))):
            return name in _TELLING
        case ast.AnnAssign(value=None):
            return not scope.fields
    return False


def _joined_texts(values: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string with neighbouring texts made one; how they are split depends on the Python version."""
    joined: list[ast.expr] = []
    for value in values:
        last = joined[-1] if joined else None
        match value, last:
            case ast.Constant(value=""), _:
                pass
            case ast.Constant(value=str(text)), ast.Constant(value=str(before)):
                joined[-1] = ast.Constant(value=before + text)
            case _:
                joined.append(value)
    return joined


# What names mean


@functools.cache
def _meaning(path: str) -> tuple[tuple[_Definition, ...], str]:
    """The definitions of this package that a dotted path leads to, and how the path is written in a hash.

    A path that ends at a module leads to all of it. What is hashed is written without its module, so that it may move.
    """
    module, *rest = path.split(".")
    if module != PACKAGE:
        return (), path
    while makes_content(module):
        names = _names_of(module)
        if names is None:
            return (), path
        if not rest:
            every = tuple(_Definition(module, name) for name, bound in names.items() if not isinstance(bound, str))
            return every, module.rpartition(".")[2]
        bound = names.get(rest[0])
        if bound is not None and not isinstance(bound, str):
            return (_Definition(module, rest[0]),), ".".join(rest)
        # A package that imports its own submodule binds a name to itself.
        if bound is not None and bound != f"{module}.{rest[0]}":
            return _meaning(".".join([bound, *rest[1:]]))
        module, rest = f"{module}.{rest[0]}", rest[1:]
    while rest and _names_of(f"{module}.{rest[0]}") is not None:
        module, rest = f"{module}.{rest[0]}", rest[1:]
    return (), ".".join(rest)


@functools.cache
def makes_content(module: str) -> bool:
    """Whether what is in a module can change what an artifact says, or lead to such."""
    if module != PACKAGE and not any(module == one or module.startswith(f"{one}.") for one in _MAKE_CONTENT):
        return False
    tree = _tree(module)
    return tree is None or PART_OF_NO_VERSION not in (ast.get_docstring(tree) or "")


@functools.cache
def _is_settings(definition: _Definition) -> bool:
    """Whether a definition is a class derived from `SETTINGS`, or that class."""
    names = _names_of(definition.module) or {}
    made = names.get(definition.name)
    classes = [statement for statement in made if isinstance(statement, ast.ClassDef)] if isinstance(made, list) else []
    if classes and definition.name == SETTINGS:
        return True
    for base in (base for one in classes for base in one.bases if isinstance(base, ast.Name)):
        bound = names.get(base.id)
        found = _meaning(bound if isinstance(bound, str) else f"{definition.module}.{base.id}")[0] if bound else ()
        if any(_is_settings(one) for one in found):
            return True
    return False


@functools.cache
def _settings_methods() -> dict[str, set[_Definition]]:
    """The methods and properties of all settings classes, by name. What validates is left out: a study's values are
    what it leaves."""
    found: dict[str, set[_Definition]] = {}
    for module in filter(makes_content, module_names()):
        for name, made in (_names_of(module) or {}).items():
            if not isinstance(made, str) and _is_settings(_Definition(module, name)):
                for function in (one for statement in made for one in _definitions_in(statement)):
                    if not any("validator" in ast.unparse(decorator) for decorator in function.decorator_list):
                        found.setdefault(function.name, set()).add(_Definition(module, f"{name}.{function.name}"))
    return found


@functools.cache
def _source(module: str) -> str | None:
    return read_source(module)


@functools.cache
def _tree(module: str) -> ast.Module | None:
    source = _source(module)
    return None if source is None else _parsed(source)


@functools.cache
def _parsed(source: str) -> ast.Module:
    """The tree of a source, which stays what it is when sources are read anew."""
    return ast.parse(source)


@functools.cache
def _names_of(module: str) -> dict[str, str | list[ast.AST]] | None:
    """The names at the top level of a module: an imported one with its path, any other with the statements that make
    it. None where there is no such module."""
    tree = _tree(module)
    if tree is None:
        return None
    statements: dict[str, list[ast.AST]] = {}
    paths: dict[str, set[str | None]] = {}
    changes: list[tuple[str, ast.stmt]] = []
    for statement, conditions in _unwrapped(tree.body):
        for name, path in dict.fromkeys(_bound(statement, module)):
            statements.setdefault(name, []).extend([*conditions, statement])
            paths.setdefault(name, set()).add(path)
        changes += [(name, statement) for name in _changed(statement)]
    names: dict[str, str | list[ast.AST]] = {}
    for name, made_by in statements.items():
        path = next(iter(paths[name])) if len(paths[name]) == 1 else None
        names[name] = made_by if path is None else path
    for name, statement in changes:
        made = names.get(name)
        if isinstance(made, list) and statement not in made:
            made.append(statement)
    return names


def _unwrapped(
    body: list[ast.stmt], conditions: tuple[ast.expr, ...] = ()
) -> Iterator[tuple[ast.stmt, tuple[ast.expr, ...]]]:
    """The statements of a module, those in `if` and `try` blocks too, with the conditions they stand under."""
    for statement in body:
        match statement:
            case ast.If(test=test):
                yield from _unwrapped(statement.body, (*conditions, test))
                yield from _unwrapped(statement.orelse, (*conditions, ast.UnaryOp(op=ast.Not(), operand=test)))
            case ast.Try() | ast.TryStar():
                handlers = [inner for handler in statement.handlers for inner in handler.body]
                yield from _unwrapped([*statement.body, *handlers, *statement.orelse, *statement.finalbody], conditions)
            case _:
                yield statement, conditions


def _bound(statement: ast.AST, module: str) -> list[tuple[str, str | None]]:
    """The names that a statement binds in the scope it stands in, each with its path where it is one of a module."""
    found: list[tuple[str, str | None]] = []
    to_look_at = [statement]
    while to_look_at:
        node = to_look_at.pop()
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                found.append((node.id, None))
        elif isinstance(node, _Function | ast.ClassDef):
            found.append((node.name, None))
        elif isinstance(node, _Comprehension):
            # The targets are its own; only `:=` reaches out of it.
            found += [(inner.target.id, None) for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)]
        elif not isinstance(node, ast.Lambda):
            found += _bound_by_itself(node, module)
            to_look_at.extend(ast.iter_child_nodes(node))
    return found


def _bound_by_itself(node: ast.AST, module: str) -> Iterator[tuple[str, str | None]]:
    """The names that a node says as plain text."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            yield alias.asname or top, alias.name if alias.asname else top
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if node.level or alias.name == "*":
                raise UserError(
                    f"Line {node.lineno} of module {module} imports relatively or with *, which hides whose code is "
                    f"used: name the module in full ({PACKAGE}...) and every name."
                )
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"
    elif isinstance(node, ast.Global):
        for name in node.names:
            yield name, f"{module}.{name}"
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name is not None:
        yield node.name, None
    elif isinstance(node, ast.MatchMapping) and node.rest is not None:
        yield node.rest, None


def _changed(statement: ast.stmt) -> Iterator[str]:
    """Names whose values a top-level statement may change without binding them: `TABLE["x"] = 1`, `TABLE.update(y)`."""
    if isinstance(statement, _Function | ast.ClassDef):
        return
    assigns = isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign)
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute | ast.Subscript) and not (assigns and isinstance(node.ctx, ast.Load)):
            base: ast.expr = node
            while isinstance(base, ast.Attribute | ast.Subscript):
                base = base.value
            if isinstance(base, ast.Name):
                yield base.id


def _local_names(function: _Function | ast.Lambda, module: str) -> dict[str, tuple[str | _Local, ...]]:
    """The names bound in a function: a parameter, which callers may name, with nothing; another with its paths where it
    is imported there or global, else as a variable."""
    names: dict[str, tuple[str | _Local, ...]] = {parameter.arg: () for parameter in _parameters(function.args)}
    for statement in function.body if isinstance(function.body, list) else [function.body]:
        for name, path in _bound(statement, module):
            if path is not None:
                names[name] = (*names.get(name, ()), path)
            elif name not in names:
                names[name] = (_Local(),)
    return names


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    starred = [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *starred]


def _locate(definition: _Definition) -> tuple[list[ast.AST], _Scope]:
    """The statements that make a definition (none where it is not found), and where they stand."""
    outermost, *path = definition.name.split(".")
    bound = (_names_of(definition.module) or {}).get(outermost, [])
    statements = bound if isinstance(bound, list) else []
    names: dict[str, tuple[_Target, ...]] = {}
    so_far = outermost
    for part in path:
        around = [statement for statement in statements if isinstance(statement, _Function | ast.ClassDef)]
        inner = [found for one in around for found in _definitions_in(one)]
        for function in (one for one in around if not isinstance(one, ast.ClassDef)):
            # A value of the function around is known by its name: which one it is cannot be told from here.
            for name, targets in _local_names(function, definition.module).items():
                names[name] = tuple(one for one in targets if not isinstance(one, _Local))
            # Code beside the asset function is code it uses; values there are a study's and count as settings.
            beside = _definitions_in(function)
            names |= {found.name: (_Definition(definition.module, f"{so_far}.{found.name}"),) for found in beside}
        statements = [found for found in inner if found.name == part]
        so_far = f"{so_far}.{part}"
    return statements, _Scope(names)


def _definitions_in(node: ast.AST) -> Iterator[_Function | ast.ClassDef]:
    """The functions and classes defined in a function, in blocks of it too, and not inside of one another."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Function | ast.ClassDef):
            yield child
        else:
            yield from _definitions_in(child)
