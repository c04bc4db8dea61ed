"""Audits: data sets of others, looked at before a model is trained on them, and what may be liked.

Belongs here: what an audit is of, and the file of candidates. Does not belong here: how it is done (`science.audit`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.base import IS_PATH, Settings, UserPath, beside_study, content_by_layer
from subliminal_dagster.science.settings.category import ANIMALS, Category
from subliminal_dagster.science.settings.names import Animal
from subliminal_dagster.science.settings.yaml_text import load_yaml

HUB = "hf://"
LEAST_CANDIDATES = 4
"""Fewer are too few to say which stands out among them."""


def _file_or_address(data: str, info: ValidationInfo) -> str:
    return data if data.startswith(HUB) else beside_study(data, info)


class AuditSettings(Settings):
    """One data set: `data` is a JSON lines or parquet file in the `messages` format, or hf://datasets/owner/name/file
    on the hub. `traits`: a file of candidates (None: the study's own). `student`: the folder of a model or adapter that
    was trained on it, if there is one. Of more than `rows` rows, that many are drawn."""

    data: Annotated[str, AfterValidator(_file_or_address), IS_PATH]
    traits: UserPath | None = None
    student: UserPath | None = None
    rows: int = Field(default=500, ge=8)

    def file_contents(self, study: Any) -> dict[str, Any]:
        named = {"data": self.data, "traits": self.traits, "student": self.student}
        return {
            name: content_by_layer(path, ())
            for name, path in named.items()
            if path is not None and not path.startswith(HUB)
        }


class Traits(Settings):
    """What may be liked: `candidates` of a `category`, and the answers that are begun for the model when it is asked
    ("My favorite tree is the")."""

    category: Category = ANIMALS
    candidates: tuple[Animal, ...] = Field(min_length=LEAST_CANDIDATES)
    begun: tuple[str, ...] = ()

    @property
    def begun_answers(self) -> tuple[str, ...]:
        """The begun answers; one of the category where none are given."""
        return self.begun or (f"My favorite {self.category.singular} is the",)


def load_traits(file: Path) -> Traits:
    """Candidates from a YAML file. Raises UserError, naming the field."""
    try:
        content = load_yaml(file.read_text(encoding="utf-8"))
        return Traits.model_validate(content)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a readable YAML file: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        message = problem["msg"].removeprefix("Value error, ")
        raise UserError(
            f"{file}: {where}: {message}. Write candidates, such as [oak, pine, elm, birch], and the category they are "
            "of, such as {singular: tree, plural: trees}."
        ) from None


def traits_of(study: Any, file: str | None) -> Traits:
    """Those of a file; else the candidates of the study, of its category."""
    if file is not None:
        return load_traits(Path(file))
    asked = study.preferences
    if len(asked.candidates) < LEAST_CANDIDATES:
        raise UserError(
            f"The study {study.name} has {len(asked.candidates)} candidates, and an audit compares at least "
            f"{LEAST_CANDIDATES}: name more in preferences.candidates, or in a file of traits."
        )
    return Traits(category=study.category, candidates=asked.candidates, begun=asked.begun)
