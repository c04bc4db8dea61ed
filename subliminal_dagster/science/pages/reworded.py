"""A report's sections on animals as sections on the names of another category.

The sections say "animal" wherever a study's groups are named after what their teachers like. One place puts the study's
own word there, in sentences, titles, names of columns and charts; what models wrote stays as it is.

Belongs here: which parts of a section are this project's words. Does not belong here: the words (`settings.category`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.report.evidence import Chart, Claim, Opening, Section, Table
from subliminal_dagster.science.settings.category import ANIMALS, Category

if TYPE_CHECKING:
    from subliminal_dagster.science.report.published import Compared


def section_about(section: Section, category: Category, *, cells: bool) -> Section:
    """The section in the category's words; `cells`: the texts in its tables too, where no model wrote any of them."""
    if category == ANIMALS:
        return section
    return replace(
        section,
        title=category.about(section.title),
        shows=category.about(section.shows),
        method=category.about(section.method),
        charts=tuple(_chart(chart, category) for chart in section.charts),
        tables=tuple(_table(table, category, cells) for table in section.tables),
        compared=tuple(_compared(figure, category) for figure in section.compared),
        claims=tuple(_claim(claim, category) for claim in section.claims),
        missing=category.about(section.missing) if section.missing else None,
    )


def opening_about(opening: Opening, category: Category) -> Opening:
    """The first screen in the category's words, but for what models wrote."""
    if category == ANIMALS:
        return opening
    return replace(
        opening,
        question=category.about(opening.question),
        lines=tuple(category.about(line) for line in opening.lines),
        charts=tuple(_chart(chart, category) for chart in opening.charts),
        tables=tuple(_table(table, category, cells=False) for table in opening.tables),
    )


def _chart(chart: Chart, category: Category) -> Chart:
    from plotly.graph_objects import Figure

    figure = Figure(_texts_in(chart.figure.to_dict(), category))
    return replace(chart, title=category.about(chart.title), alt=category.about(chart.alt), figure=figure)


def _texts_in(value: Any, category: Category) -> Any:
    """The same with every text in it in the category's words."""
    if isinstance(value, str):
        return category.about(value)
    if isinstance(value, Mapping):
        return {name: _texts_in(inner, category) for name, inner in value.items()}
    # Of arrays those of objects hold texts.
    if isinstance(value, list | tuple) or str(getattr(value, "dtype", "")) == "object":
        return [_texts_in(inner, category) for inner in value]
    return value


def _table(table: Table, category: Category, cells: bool) -> Table:
    frame = table.frame.rename(columns=lambda name: category.about(name) if isinstance(name, str) else name)
    if cells:
        frame = frame.map(lambda value: category.about(value) if isinstance(value, str) else value)
    return replace(table, title=category.about(table.title), note=category.about(table.note), frame=frame)


def _compared(figure: Compared, category: Category) -> Compared:
    return replace(figure, what=category.about(figure.what))


def _claim(claim: Claim, category: Category) -> Claim:
    text, evidence, rule = (category.about(said) for said in (claim.text, claim.evidence, claim.rule))
    return replace(claim, text=text, evidence=evidence, rule=rule)
