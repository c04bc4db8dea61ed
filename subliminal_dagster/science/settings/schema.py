"""The JSON schema of a study file, with which editors complete and check one while it is written.

It says which fields there are, of what type, and what the settings' own docstrings say of them. What two fields have to
do with each other it does not say: a study that it accepts may still be refused where it is read (`study_file`).

Belongs here: the schema, made of the settings. Does not belong here: the settings.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from subliminal_dagster.science.settings.base import Settings
from subliminal_dagster.science.settings.dial import DialStudy
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import STUDIES, models_in
from subliminal_dagster.science.settings.toy import ToyStudy

SCHEMA_FILE = STUDIES / "study.schema.json"

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SWEEP: dict[str, Any] = {
    "properties": {"replicates": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 999}, {"type": "null"}]}},
    "additionalProperties": {"type": "array", "minItems": 1, "description": "The values of this setting."},
    "minProperties": 1,
}
"""What a file says of a sweep, which is read into other fields."""


class _WithoutTitles(GenerateJsonSchema):
    """A title would say a field's name once more."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def study_schema() -> dict[str, Any]:
    """The schema of all kinds of study: with `kind: toy` that of toy models, with `kind: dial` that of a dial, else
    that of a language model."""
    _, schema = models_json_schema(
        [(kind, "validation") for kind in (Study, ToyStudy, DialStudy)],
        schema_generator=_WithoutTitles,
        ref_template="#/$defs/{model}",
    )
    definitions = schema["$defs"]
    for model in {*_models(Study), *_models(ToyStudy), *_models(DialStudy)}:
        _describe(model, definitions[model.__name__])
    definitions["Sweep"] = {"type": "object", "description": definitions["Sweep"]["description"], **_SWEEP}
    return {
        "$schema": _DRAFT,
        "title": "A study of subliminal-dagster",
        "type": "object",
        "if": {"properties": {"kind": {"const": "toy"}}, "required": ["kind"]},
        "then": {"$ref": "#/$defs/ToyStudy"},
        "else": {
            "if": {"properties": {"kind": {"const": "dial"}}, "required": ["kind"]},
            "then": {"$ref": "#/$defs/DialStudy"},
            "else": {"$ref": "#/$defs/Study"},
        },
        "$defs": definitions,
    }


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            yield from _models(inner)


def _describe(model: type[BaseModel], schema: dict[str, Any]) -> None:
    """Give a model's fields the sentences of its docstring, and of those it inherits from, that name them."""
    schema.pop("title", None)
    texts = [inspect.cleandoc(each.__doc__ or "") for each in model.__mro__ if _has_docstring(each)]
    sentences = [" ".join(each.split()) for text in texts for each in re.split(r"(?<=\.)\s+(?=[A-Z`])", text)]
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    for name, field in schema.get("properties", {}).items():
        said = [sentence for sentence in sentences if f"`{name}`" in sentence]
        if said:
            field["description"] = " ".join(said)


def _has_docstring(model: type) -> bool:
    return issubclass(model, Settings) and model is not Settings and bool(model.__dict__.get("__doc__"))
