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

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.base import STUDY_FOLDER
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.settings.toy import ToyStudy
from subliminal_dagster.science.settings.yaml_text import load_yaml

STUDIES = Path(__file__).parents[2] / "studies"


def shipped_studies() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_study(name_or_path: str | Path, overrides: Iterable[str] = ()) -> AnyStudy:
    """Read a study by the name of a shipped one, or from a YAML file.

    `overrides` are "field=value" texts with dots for nested fields and the value as YAML ("child.training.epochs=5");
    one with a study's name and a colon in front counts for that study alone ("smollm2-135m-instruct:seed=2").

    Raises UserError naming the file, the field and what is allowed.
    """
    path = _find(name_or_path)
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a study: its top level must be fields such as 'name:' and 'animals:'.")
    for override in overrides:
        content = _override(content, override)
    kind = _kind(content)
    try:
        return kind.model_validate(content, context={STUDY_FOLDER: path.absolute().parent})
    except ValidationError as error:
        raise UserError(_explain(path, kind, error)) from None


def _kind(content: Mapping[str, Any]) -> type[Study] | type[ToyStudy]:
    return ToyStudy if content.get("kind") == "toy" else Study


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"There is no study file {path}: give the path of a YAML file or one of {_shipped()}.")
        return path
    if str(name_or_path) not in shipped_studies():
        raise UserError(
            f"There is no study {str(name_or_path)!r}: give the path of a YAML file or one of {_shipped()}."
        )
    return STUDIES / f"{name_or_path}.yaml"


def _shipped() -> str:
    return ", ".join(shipped_studies())


def _override(content: dict[str, Any], override: str) -> dict[str, Any]:
    match = re.fullmatch(r"(?:(?P<study>[^:=]+):)?(?P<field>[A-Za-z_][\w.]*)=(?P<value>.*)", override, re.DOTALL)
    if match is None:
        raise UserError(f"{override!r} is no setting: write field=value, such as child.training.epochs=5.")
    if match["study"] is not None and match["study"] != content.get("name"):
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
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"no such field; allowed are {_allowed_fields(kind, problem['loc'])}"
        elif problem["type"] == "missing":
            message = "is missing"
        elif problem["loc"] and not isinstance(problem["input"], dict):
            message += f" (it is {problem['input']!r:.80})"
        lines.append(f"{where}: {message}")
    return f"{path}: " + "; ".join(lines)


def _allowed_fields(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """The fields that could stand where the unknown one does."""
    model: Any = kind
    named = False
    for part in location[:-1]:
        if named:  # the part is a name that the user chose, in a mapping of settings
            named = False
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return "those of the other study files"
        candidates = _models_in(field.annotation)
        if len(candidates) != 1:
            return "those of the other study files"
        model = candidates[0]
        named = get_origin(field.annotation) is dict
    return ", ".join(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
