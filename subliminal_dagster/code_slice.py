"""Which code of this package an asset uses, so that a change of that code, and of no other, makes the asset stale.

Found by reading syntax trees: nothing that is analysed is imported. What cannot be seen this way: side effects of
importing a module, and names that are put together at run time.

Belongs here: from a function to the hashes of the definitions it uses. Does not belong here: what an asset depends on
besides code (`recipe`, `frame`), and what follows from a change (`planner`).
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from subliminal_dagster.science.errors import UserError

PACKAGE = "subliminal_dagster"

RESOURCES = f"{PACKAGE}.resources"
"""Followed to what they make (engines, trainers) and not hashed: their fields are settings of the machine."""

PLUMBING = (
    f"{PACKAGE}.work",  # between Dagster and the store: records, logging, where an artifact lies
    f"{PACKAGE}.assets.shared",  # how results are shown
    f"{PACKAGE}.frame",  # how an asset is declared
    f"{PACKAGE}.gpu_lease",  # which GPU a step sees
    f"{PACKAGE}.partitions",  # which groups there are; a study's value
    f"{PACKAGE}.resources.store",  # where artifacts lie
    f"{PACKAGE}.science.store",  # how they are kept there
    f"{PACKAGE}.science.content_hash",  # tells whether two are the same, after they are made
    f"{PACKAGE}.science.errors",  # what a user is told
    f"{PACKAGE}.science.study",  # its values count as settings
    f"{PACKAGE}.science.settings",  # the same
    f"{PACKAGE}.science.steering_settings",  # the same
    f"{PACKAGE}.science.toy.settings",  # the same
    f"{PACKAGE}.science.figures",  # pictures are views, not content
    f"{PACKAGE}.science.feature_figures",  # the same
    f"{PACKAGE}.science.probe_figures",  # the same
    f"{PACKAGE}.science.steering_figures",  # the same
    f"{PACKAGE}.science.toy.figures",  # the same
    f"{PACKAGE}.science.tuning_figures",  # the same
    f"{PACKAGE}.science.capability_figures",  # the same
)
"""Modules that cannot change what an artifact says: neither hashed nor followed."""

# Fields of syntax trees that are about types, or repeat what the place in the tree says.
_NOT_READ = {"returns", "type_comment", "type_params", "ctx", "kind"}

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class _Definition(NamedTuple):
    """A function, class or assignment: `name` is dotted where it stands inside of functions."""

    module: str
    name: str

    @property
    def label(self) -> str:
        return f"{self.module}.{self.name}".removeprefix(f"{PACKAGE}.")

    @property
    def is_resource(self) -> bool:
        return self.module == RESOURCES or self.module.startswith(f"{RESOURCES}.")


class _Scope(NamedTuple):
    """Where code stands. `names` are those of the functions around it: an imported name leads to paths, a definition
    beside an asset function to itself, any other to nothing. In a class body, annotated names are `fields`."""

    names: Mapping[str, tuple[str | _Definition, ...]]
    fields: bool = False


def code_slice(function: Callable[..., Any]) -> dict[str, str]:
    """Every definition of this package that an asset function uses, itself or through others, the function included.

    Qualified name (without the package's) to hash (12 hex digits) of the syntax tree, sorted by name; a class is one
    definition with all its methods. Not hashed: comments, docstrings, annotations other than a class's fields, what an
    error says, the decorator that makes the function an asset, values taken from the function around it, `RESOURCES`
    and `PLUMBING`. Raises UserError where the source of the function cannot be found.
    """
    return slice_of(function.__module__, function.__qualname__)


def slice_of(module: str, qualname: str) -> dict[str, str]:
    """`code_slice` of the function with this `__module__` and `__qualname__`."""
    root = _Definition(module, qualname.replace(".<locals>", ""))
    if not any(isinstance(statement, _Function) for statement in _locate(root)[0]):
        raise UserError(
            f"The source of {qualname} in module {module} cannot be found, so its code version is unknown: define the "
            f"asset with `def` in a module of the package {PACKAGE}."
        )
    code_hash, mentioned = _read(root, is_asset=True)
    found = {root: code_hash}
    to_read = [*mentioned]
    while to_read:
        definition = to_read.pop()
        if definition not in found:
            found[definition], mentioned = _read(definition)
            to_read.extend(mentioned)
    return dict(sorted((one.label, code_hash) for one, code_hash in found.items() if not one.is_resource))


def read_source(module: str) -> str | None:
    """The source of a module of this package (dotted name); None where there is no such module."""
    package, *parts = module.split(".")
    if package != PACKAGE:
        return None
    path = Path(__file__).parent.joinpath(*parts)
    for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return None


def forget() -> None:
    """Read all sources anew from now on."""
    for cached in (_names_of, _meaning, _read):
        cached.cache_clear()


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
    return hashlib.sha256(" ".join(reader.parts).encode("ascii")).hexdigest()[:12], frozenset(reader.mentioned)


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
                self._read_fields(node, scope, body=_Scope(scope.names, fields=True))
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                targets = [name for one in node.generators for name, _ in _bound(one.target, self.module)]
                # Python evaluates the first iterable outside of the comprehension, where its names mean what they
                # mean there; that it is read once more inside adds nothing.
                self.read(node.generators[0].iter, scope)
                self._read_fields(node, _Scope({**scope.names, **dict.fromkeys(targets, ())}))
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

    def _read_fields(self, node: ast.AST, scope: _Scope, body: _Scope | None = None) -> None:
        self.parts.append(f"{type(node).__name__}(")
        for name, value in ast.iter_fields(node):
            if value is not None and name not in _NOT_READ:
                inside = body if body is not None and name == "body" else scope
                items = [item for item in value if not _does_nothing(item, inside)] if isinstance(value, list) else None
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
        base: ast.expr = node
        attributes: list[str] = []
        while isinstance(base, ast.Attribute):
            attributes.insert(0, base.attr)
            base = base.value
        targets = self._targets(base.id, scope) if isinstance(base, ast.Name) and isinstance(base.ctx, ast.Load) else ()
        if not targets:
            self._read_fields(node, scope)
        for target in targets:
            if isinstance(target, _Definition):
                self.mentioned.add(target)
                meaning = ".".join([target.label, *attributes])
            else:
                definitions, meaning = _meaning(".".join([target, *attributes]))
                self.mentioned.update(definitions)
            # What the name means and not how it is spelt here: another import under the same name is another code.
            self.parts.append(f"name:{meaning!a}")

    def _targets(self, name: str, scope: _Scope) -> tuple[str | _Definition, ...]:
        if name in scope.names:
            return scope.names[name]
        bound = (_names_of(self.module) or {}).get(name)
        if bound is None:
            return ()
        return (bound if isinstance(bound, str) else f"{self.module}.{name}",)


def _does_nothing(item: Any, scope: _Scope) -> bool:
    """Whether a statement is a docstring, `...`, `pass`, or a declaration of a type without a value."""
    match item:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return True
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

    A path that ends at a module leads to all of it. What is not hashed is written without its module, so that it may
    move.
    """
    module, *rest = path.split(".")
    if module != PACKAGE:
        return (), path
    while module not in PLUMBING:
        names = _names_of(module)
        if names is None:
            return (), path
        if not rest:
            every = tuple(_Definition(module, name) for name, bound in names.items() if not isinstance(bound, str))
            return every, module
        bound = names.get(rest[0])
        if bound is not None and not isinstance(bound, str):
            definition = _Definition(module, rest[0])
            return (definition,), ".".join(rest if definition.is_resource else [definition.label, *rest[1:]])
        # A package that imports its own submodule binds a name to itself.
        if bound is not None and bound != f"{module}.{rest[0]}":
            return _meaning(".".join([bound, *rest[1:]]))
        module, rest = f"{module}.{rest[0]}", rest[1:]
    return (), ".".join(rest)


@functools.cache
def _names_of(module: str) -> dict[str, str | list[ast.AST]] | None:
    """The names at the top level of a module: an imported one with its path, any other with the statements that make
    it. None where there is no such module."""
    source = read_source(module)
    if source is None:
        return None
    statements: dict[str, list[ast.AST]] = {}
    paths: dict[str, set[str | None]] = {}
    changes: list[tuple[str, ast.stmt]] = []
    for statement, conditions in _unwrapped(ast.parse(source, filename=module).body):
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


def _local_names(function: _Function | ast.Lambda, module: str) -> dict[str, tuple[str, ...]]:
    """The names bound in a function, each with its paths where it is imported there, or global."""
    names: dict[str, tuple[str, ...]] = {parameter.arg: () for parameter in _parameters(function.args)}
    for statement in function.body if isinstance(function.body, list) else [function.body]:
        for name, path in _bound(statement, module):
            names[name] = (*names.get(name, ()), *([] if path is None else [path]))
    return names


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    starred = [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *starred]


def _locate(definition: _Definition) -> tuple[list[ast.AST], _Scope]:
    """The statements that make a definition (none where it is not found), and where they stand."""
    outermost, *path = definition.name.split(".")
    bound = (_names_of(definition.module) or {}).get(outermost, [])
    statements = bound if isinstance(bound, list) else []
    names: dict[str, tuple[str | _Definition, ...]] = {}
    so_far = outermost
    for part in path:
        around = [statement for statement in statements if isinstance(statement, _Function)]
        inner = [found for function in around for found in _definitions_in(function)]
        for function in around:
            names |= _local_names(function, definition.module)
        # Code beside the asset function is code it uses; values there are a study's and count as settings.
        names |= {found.name: (_Definition(definition.module, f"{so_far}.{found.name}"),) for found in inner}
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
