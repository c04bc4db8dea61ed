"""What the settings of all kinds of studies have in common.

Belongs here: the strict base of every settings class, what counts of the files they name, and what every study file
begins with. Does not belong here: the settings of one kind (`study`, `toy`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from subliminal_dagster.science.storage.content_hash import file_content_hash, folder_content_hash

STUDY_FOLDER = "study folder"
"""The name, in the context of a validation, of the folder that a study's file lies in."""


def beside_study(path: str, info: ValidationInfo) -> str:
    """An absolute path: relative ones are looked for beside the study's file first, then in the working folder."""
    folder = (info.context or {}).get(STUDY_FOLDER)
    given = Path(path).expanduser()
    if folder is None or given.is_absolute():
        return str(given)
    here = Path.cwd() / given
    return str(here if here.exists() and not (folder / given).exists() else folder / given)


IS_PATH = "a file or folder of the user's"
"""What marks a field as such."""

UserPath = Annotated[str, AfterValidator(beside_study), IS_PATH]
"""A file or folder that a study names; `{layer}` and the like may stand in it."""


class Settings(BaseModel):
    """Settings that cannot be changed and know no other fields. A number is a number: no text, truth value or, where an
    integer is asked for, fraction is taken for one. No list holds a value twice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, content: Any) -> Any:
        for name, value in content.items() if isinstance(content, dict) else ():
            types = _leaves(cls.model_fields[name].annotation) if name in cls.model_fields else set()
            if types and types <= {int, float, type(None)}:
                wanted, kind = ((int, float), "a number") if float in types else (int, "a whole number")
                for number in _values(value):
                    if number is not None and (isinstance(number, bool) or not isinstance(number, wanted)):
                        raise ValueError(f"{name} is {number!r}, not {kind}: write it in plain digits, such as 12")
        return content

    @model_validator(mode="after")
    def _each_value_once(self) -> Self:
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, tuple) and Ellipsis in get_args(field.annotation):
                twice = [str(item) for place, item in enumerate(value) if item in value[:place]]
                if twice:
                    raise ValueError(f"{name} names {', '.join(dict.fromkeys(twice))} twice: leave out the second")
        return self

    def file_contents(self, study: Any) -> dict[str, Any]:
        """What counts in the place of a field that names files of the user's: their content. By field; of the whole
        `study`, for paths in which its layers or groups stand."""
        return {}


def user_files(settings: Settings, field: str = "") -> dict[str, str]:
    """The files and folders of the user's that settings name: nested field ("base_model.path") to path."""
    found: dict[str, str] = {}
    for name, described in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            found |= user_files(value, f"{field}{name}.")
        # In such a field, anything that is not a path is a word: `prompts: published`.
        elif (
            isinstance(value, str)
            and Path(value).is_absolute()
            and _is_user_path([described.annotation, *described.metadata])
        ):
            found[f"{field}{name}"] = value
    return found


def _is_user_path(annotations: Iterable[Any]) -> bool:
    return any(each == IS_PATH or _is_user_path(_inside(each)) for each in annotations)


def _inside(annotation: Any) -> tuple[Any, ...]:
    return () if get_origin(annotation) is Literal else get_args(annotation)


def content_by_layer(path: str, layers: tuple[int, ...]) -> dict[str, str]:
    """The content of a file or folder of the user's, or of one per layer; what is not there is left out."""
    found = {}
    for layer in layers or (0,):
        place = Path(path.replace("{layer}", str(layer))).expanduser()
        name = str(layer) if "{layer}" in path else "all"
        if place.is_file():
            found[name] = file_content_hash(place)
        elif place.is_dir():
            found[name] = folder_content_hash(place)
    return found


def _leaves(annotation: Any) -> set[Any]:
    """The types at the bottom of an annotation: {float} of tuple[Annotated[float, ...], ...]."""
    if get_origin(annotation) is Literal:
        return {str}
    inner = [part for part in get_args(annotation) if part is not Ellipsis]
    if get_origin(annotation) is Annotated:
        return _leaves(inner[0])
    if inner:
        return set().union(*(_leaves(part) for part in inner))
    return {annotation}


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _values(inner)
    else:
        yield value


class StudyHeader(Settings):
    """What every study has."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}[a-z0-9]$")
    description: str
    seed: int = Field(ge=0, lt=2**31)

    @property
    def groups(self) -> list[str]:
        """The partitions of its assets; none where a kind of study has none."""
        return []

    @property
    def subjects(self) -> tuple[str, ...]:
        """What it is about, in words for a list of studies."""
        raise NotImplementedError
