"""docs/hyperparameters.md is true of the studies that it is about, and of every setting they have."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.settings.yaml_text import load_yaml

PAGE = (Path(__file__).parents[1] / "docs" / "hyperparameters.md").read_text(encoding="utf-8")
SECTIONS = dict(zip(*[iter(re.split(r"^## (.*)\n", PAGE, flags=re.MULTILINE)[1:])] * 2, strict=True))
STUDIES = {"gemma-2-9b-it": "The post, and", "qwen2.5-7b-instruct": "The original paper's open model, and"}
OURS = re.findall(r"`([a-z_.]+)`", SECTIONS["Settings that neither source has"].rsplit("\n\n", 2)[-3])


def rows(study: str) -> list[list[str]]:
    """The cells of a study's table: setting, published, shipped, source, reason."""
    (text,) = (text for title, text in SECTIONS.items() if title.startswith(STUDIES[study]))
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]


def value(cell: str) -> Any:
    return load_yaml(cell.strip("`"))


def plain(setting: Any) -> Any:
    return list(map(plain, setting)) if isinstance(setting, list | tuple) else setting


def leaves(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in settings.items():
        if isinstance(inner, Mapping) and inner:
            yield from leaves(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}", plain(inner)


@pytest.mark.parametrize("study", STUDIES)
def test_the_table_says_what_the_study_sets(study: str) -> None:
    settings = dict(leaves(load_study(study).model_dump()))
    for setting, _, shipped, _, _ in rows(study):
        assert settings[setting.strip("`")] == value(shipped), setting


@pytest.mark.parametrize("study", STUDIES)
def test_every_difference_has_a_reason_and_every_figure_a_source(study: str) -> None:
    for setting, published, shipped, source, reason in rows(study):
        assert source in ("post", "post's code", "paper", "paper's code"), setting
        assert bool(reason) == (published == "`?`" or value(published) != value(shipped)), setting


def test_no_setting_is_left_out() -> None:
    named = {row[0].strip("`") for row in rows("gemma-2-9b-it")}
    missing = [
        name
        for name, _ in leaves(load_study("gemma-2-9b-it").model_dump())
        if name not in named and not any(name == ours or name.startswith(f"{ours}.") for ours in OURS)
    ]
    assert not missing, "name them in docs/hyperparameters.md, with a source or as this project's own"


def test_nothing_is_called_ours_that_a_source_has() -> None:
    published = {row[0].strip("`") for study in STUDIES for row in rows(study)}
    assert not {name for name in published for ours in OURS if name == ours or name.startswith(f"{ours}.")}
