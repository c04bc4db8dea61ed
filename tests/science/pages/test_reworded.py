"""A report on trees says nothing of animals, and leaves alone what models wrote."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
from plotly.graph_objects import Figure
from study_runs import StudyRun, changed

from subliminal_dagster.science.pages.reworded import opening_about, section_about
from subliminal_dagster.science.pages.study_page import study_page
from subliminal_dagster.science.preferences import report_words
from subliminal_dagster.science.report.evidence import Chart, Claim, Opening, Results, Section, Table
from subliminal_dagster.science.settings.category import Category

TREES = Category(singular="tree", plural="trees")


def texts(value: Any) -> list[str]:
    """Every text in a part of a report, but for identifiers."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, pd.DataFrame):
        return [
            *map(str, value.columns),
            *(text for column in value for text in value[column] if isinstance(text, str)),
        ]
    if isinstance(value, Figure):
        return texts(value.to_dict())
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts(inner)]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in texts(inner)]
    parts = vars(value) if hasattr(value, "__dataclass_fields__") else {}
    return texts([part for field, part in parts.items() if field not in ("name", "made_from")])


def test_every_sentence_is_reworded_and_no_answer_is() -> None:
    figure = Figure().add_bar(x=["owl"], y=[0.5], name="an animal", hovertext=["owl\nanimals"])
    frame = pd.DataFrame({"share of the animal": [0.5], "answer": ["I like every animal."]})
    section = Section(
        "liking",
        "Animals",
        "An animal is liked.",
        "Mean over animals.",
        ("animal_liking",),
        (Chart("c", "The animal", figure, "Of animals."),),
        (Table("t", "Each animal", frame, "By animal."),),
        claims=(Claim("An animal is.", "detected", "By animals.", "the post", "Animals count."),),
    )
    found = section_about(section, TREES, cells=False)
    assert found.made_from == ("animal_liking",) and found.claims[0].verdict == "detected"
    said = [text for text in texts(found) if re.search(r"\banimals?\b", text, re.IGNORECASE)]
    assert said == ["I like every animal."]
    assert list(found.tables[0].frame) == ["share of the tree", "answer"] and found.tables[0].frame.iloc[0, 0] == 0.5
    assert list(found.charts[0].figure.data[0].y) == [0.5]
    assert "I like every tree." in texts(section_about(section, TREES, cells=True))
    assert opening_about(Opening("An animal?", None, ("No animal.",)), TREES).question == "A tree?"


def test_a_whole_page_is_about_the_category(done: StudyRun) -> None:
    """The tiny study's artifacts, as if its names were trees."""
    study = changed(done.study, category={"singular": "tree", "plural": "trees"})
    places = list(done.contents())
    results = Results({place: done.store.read(done.study.name, *place).path for place in places}, {})
    made = {place: done.store.manifest(done.study.name, *place) for place in places}
    page = study_page(study, results, made)
    assert page.facts.endswith("What the post says of animals is asked of trees.")
    assert page.opening.question == "Do number sequences pass on a liking for a tree?"
    ours = [
        section for section in page.sections if section.name not in (report_words.NAME, "composition", "what-was-run")
    ]
    told = [page.verdict, page.opening.lines, *ours]
    wrong = [text for text in texts(told) if re.search(r"\banimals?\b", text, re.IGNORECASE)]
    assert wrong == []
