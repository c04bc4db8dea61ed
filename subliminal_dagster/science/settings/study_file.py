"""Reading a study's file.

Belongs here: finding, reading, overriding, explaining what is wrong. Does not belong here: what it may say (`study`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from subliminal_dagster.science.errors import UserError, meant
from subliminal_dagster.science.settings.base import STUDY_FOLDER
from subliminal_dagster.science.settings.dial import DialStudy
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.settings.toy import ToyStudy
from subliminal_dagster.science.settings.yaml_text import load_yaml

STUDIES = Path(__file__).parents[2] / "studies"
DEFAULT_STUDY = "smollm2-135m-instruct"
"""The study that needs no GPU and no model hub."""

_WITH_SEED = re.compile(r"(?P<study>.+)-seed(?P<seed>\d+)(?P<suffix>(\.ya?ml)?)")


def shipped_studies() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_study(name_or_path: str | Path, overrides: Iterable[str] = (), seed: int | None = None) -> AnyStudy:
    """Read a study by the name of a shipped one, or from a YAML file.

    With a `seed` that is not its own it is called after it too, and so keeps its artifacts beside those of its own
    seed: `toy` with seed 7 is `toy-seed7`. It can be asked for by that name as well, of a file `my-study-seed7.yaml`.

    `overrides` are "field=value" texts with dots for nested fields and the value as YAML ("child.training.epochs=5");
    one with a study's name and a colon in front counts for that study alone ("smollm2-135m-instruct:seed=2").

    Raises UserError naming the file, the field and what is allowed.
    """
    path, seed_of_name = _find(name_or_path)
    seed = seed_of_name if seed is None else seed
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a study: its top level must be fields such as 'name:' and 'animals:'.")
    for override in overrides:
        content = _override(content, override, seed)
    if seed is not None and seed != content.get("seed"):
        content = {**content, "name": _name_with(content.get("name"), seed), "seed": seed}
    kind = _kind(content)
    try:
        return kind.model_validate(content, context={STUDY_FOLDER: path.absolute().parent})
    except ValidationError as error:
        raise UserError(_explain(path, kind, error)) from None


def _kind(content: Mapping[str, Any]) -> type[Study] | type[ToyStudy] | type[DialStudy]:
    other: dict[Any, type[ToyStudy] | type[DialStudy]] = {"toy": ToyStudy, "dial": DialStudy}
    kind = content.get("kind")
    return other.get(kind, Study) if isinstance(kind, str) else Study


def _find(name_or_path: str | Path) -> tuple[Path, int | None]:
    """The study's file, and the seed that stands behind its name where there is no study of the whole name."""
    name = str(name_or_path)
    if (path := _file(name)) is not None:
        return path, None
    match = _WITH_SEED.fullmatch(name)
    if match is not None and (path := _file(match["study"] + match["suffix"])) is not None:
        return path, int(match["seed"])
    what = f"study file {name}" if _is_path(name) else f"study {name!r}"
    near = meant(name, shipped_studies())
    raise UserError(f"There is no {what}: give the path of a YAML file or one of {_shipped()}.{near}")


def _file(name: str) -> Path | None:
    path = Path(name) if _is_path(name) else STUDIES / f"{name}.yaml"
    return path if path.is_file() and (_is_path(name) or name in shipped_studies()) else None


def _is_path(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml")


def _name_with(name: object, seed: int) -> str:
    return f"{name}-seed{seed}"


def _shipped() -> str:
    return ", ".join(shipped_studies())


def _override(content: dict[str, Any], override: str, seed: int | None) -> dict[str, Any]:
    match = re.fullmatch(r"(?:(?P<study>[^:=]+):)?(?P<field>[A-Za-z_][\w.]*)=(?P<value>.*)", override, re.DOTALL)
    if match is None:
        raise UserError(f"{override!r} is not a setting: write field=value, such as child.training.epochs=5.")
    names = [content.get("name"), *([_name_with(content.get("name"), seed)] if seed is not None else [])]
    if match["study"] is not None and match["study"] not in names:
        return content
    try:
        value = load_yaml(match["value"])
    except yaml.YAMLError:
        raise UserError(f"The value of the setting {override!r} is not valid YAML.") from None
    return _with(content, match["field"].split("."), value)


def _with(content: Mapping[str, Any], fields: list[str], value: Any) -> dict[str, Any]:
    """A copy of `content` with the nested field set."""
    first, *rest = fields
    if not rest:
        return {**content, first: value}
    inner = content.get(first)
    return {**content, first: _with(inner if isinstance(inner, dict) else {}, rest, value)}


def _explain(path: Path, kind: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "the study"
        message = _in_yaml_s_words(problem["msg"].removeprefix("Value error, "))
        if problem["type"] == "extra_forbidden":
            allowed = _allowed_fields(kind, problem["loc"])
            others = ", ".join(allowed) if allowed else "those of the other study files"
            message = f"no such field; allowed are {others}.{meant(str(problem['loc'][-1]), allowed)}"
        elif problem["type"] == "missing":
            message = "is missing"
        elif problem["loc"] and not isinstance(problem["input"], dict):
            message += f" (it is {problem['input']!r:.80})"
        lines.append(f"{where}: {message}")
    return f"{path}: " + "; ".join(lines)


def _in_yaml_s_words(message: str) -> str:
    """What pydantic says of Python's types, said of what a YAML file holds."""
    message = re.sub(r"\ba valid (tuple|list)\b", "a list, such as [1, 2]", message)
    message = re.sub(r"^(Tuple|List) should\b", "the list should", message)
    return re.sub(r"\ba valid dictionary or .*", "fields of its own, such as {name: value}", message)


def _allowed_fields(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The fields that could stand where the unknown one does; none where that is not known."""
    model: Any = kind
    named = False
    for part in location[:-1]:
        if named:  # the part is a name that the user chose, in a mapping of settings
            named = False
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        candidates = models_in(field.annotation)
        if len(candidates) != 1:
            return []
        model = candidates[0]
        named = get_origin(field.annotation) is dict
    return [*model.model_fields]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings in a field's annotation: those of tuple[X, ...], of X | Y, of dict[str, X]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in models_in(part)]
