"""One colour, one meaning: every figure takes its colours from `science/colours.py`, by what they mean."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.colors import is_color_like

from subliminal_dagster.science import colours, figures
from subliminal_dagster.science.report import page

SCIENCE = Path(figures.__file__).parent
# Its lines are settings of an experiment, and have hues of their own on pages of their own.
APART = {"toy"}
PALETTES = {SCIENCE / "colours.py", SCIENCE / "report" / "charts.py"}
# Plotly's own words for a colour; shades of one grey are lines of the grid.
_WRITTEN = re.compile(r"(#[0-9a-f]{3,8}|rgba?\([\d., ]+\)|C\d|tab:\w+)", re.IGNORECASE)


def raw_colours(source: str) -> Iterator[str]:
    """Colours that code names itself: any that is written as numbers, and names where a colour is expected."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _WRITTEN.fullmatch(node.value):
            yield node.value
        expected = [node.value] if isinstance(node, ast.keyword) and "color" in (node.arg or "") else []
        if isinstance(node, ast.Dict):
            keys = ((key.value if isinstance(key, ast.Constant) else "") for key in node.keys)
            expected += [value for key, value in zip(keys, node.values, strict=True) if "color" in str(key)]
        for value in expected:
            for named in ast.walk(value):
                if isinstance(named, ast.Constant) and str(named.value) != "none" and is_color_like(named.value):
                    yield str(named.value)


def test_no_figure_names_a_colour_itself() -> None:
    found = {
        str(path.relative_to(SCIENCE)): colours
        for path in SCIENCE.rglob("*.py")
        if path.relative_to(SCIENCE).parts[0] not in APART and path not in PALETTES
        if (colours := sorted(set(raw_colours(path.read_text(encoding="utf-8")))))
    }
    assert not found


@pytest.mark.parametrize(
    "code", ['plot(color="#D55E00")', 'plot(x, color="black")', 'x = {"color": "C1"}', 'Y = "tab:blue"']
)
def test_a_colour_of_its_own_is_seen(code: str) -> None:
    assert list(raw_colours(code))


def test_each_meaning_has_a_colour_of_its_own() -> None:
    alone = [colours.OWN, colours.OTHERS, colours.TEACHER, colours.CHILD, colours.CHANCE, colours.GUIDE]
    animals = colours.group_colours([*"abcdef", "control", "neutral", "base"])
    every = [*alone, *animals.values(), *colours.KINDS, *colours.VERDICTS.values()]
    assert len({colour.lower() for colour in every}) == len(every)
    css = (Path(page.__file__).parent / "page.css").read_text(encoding="utf-8")
    badges = dict(re.findall(r"\.badge\.([\w-]+) \{ background: (#\w+)", css))
    assert {
        name.replace("-", " "): colour.upper() for name, colour in badges.items()
    }.items() <= colours.VERDICTS.items()
