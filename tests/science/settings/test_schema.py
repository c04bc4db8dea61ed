"""The schema that editors check study files by: it is that of the settings, and finds what is misspelt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from subliminal_dagster.science.settings.schema import SCHEMA_FILE, study_schema
from subliminal_dagster.science.settings.study_file import STUDIES, shipped_studies
from subliminal_dagster.science.settings.yaml_text import load_yaml

SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


def content(name: str) -> dict[str, Any]:
    read: dict[str, Any] = load_yaml((STUDIES / f"{name}.yaml").read_text(encoding="utf-8"))
    return read


def complaints(study: dict[str, Any]) -> list[str]:
    return [error.message for error in Draft202012Validator(SCHEMA).iter_errors(study)]


def test_the_schema_is_that_of_the_settings() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert study_schema() == SCHEMA, "run `python scripts/study_schema.py`"


@pytest.mark.parametrize("path", [*sorted(STUDIES.glob("*.yaml")), *EXAMPLES], ids=lambda path: path.stem)
def test_a_study_that_ships_names_the_schema_and_follows_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == SCHEMA_FILE.resolve()
    assert complaints(load_yaml(text)) == []


@pytest.mark.parametrize("study", ["smollm2-135m-instruct", "toy"])
def test_a_misspelt_field_of_either_kind_is_found(study: str) -> None:
    assert study in shipped_studies()
    (said,) = complaints(content(study) | {"sede": 1})
    assert "'sede' was unexpected" in said


def test_nested_fields_types_and_sweeps_are_checked() -> None:
    study = content("smollm2-135m-instruct")
    child = study["child"]
    (said,) = complaints(study | {"child": child | {"training": child["training"] | {"epoch": 3}}})
    assert "'epoch' was unexpected" in said
    assert complaints(study | {"seed": "eleven"}) == ["'eleven' is not of type 'integer'"]
    assert complaints(study | {"sweep": {"child.lora.rank": [2, 8], "replicates": 3}}) == []
    assert complaints(study | {"sweep": {"child.lora.rank": 2}}) != []


def test_fields_have_the_settings_own_words() -> None:
    of_study = SCHEMA["$defs"]["Study"]["properties"]
    assert of_study["replicates"]["description"].startswith("`replicates` is how many children each group has")
    assert "rsLoRA" in SCHEMA["$defs"]["LoraSettings"]["description"]
    # Said in the class that all sources of a base model have in common.
    assert "chat template" in SCHEMA["$defs"]["HubSource"]["properties"]["template"]["description"]
