"""What the models of a study wrote, word for word: numbers, and favourite animals.

Belongs here: gathering a few of a study's texts, and showing them in a terminal. Does not belong here: the report's
section (`report_words`), counting what the texts name (`answers`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.report.evidence import NotThere, Results
from subliminal_dagster.science.settings.category import ANIMALS, Category
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 5
"""Prompts, and questions."""

_ANSWERS_EACH = 3
_BASE = "base model"
_COLUMNS = 100


@dataclass(frozen=True)
class Exchange:
    """A text that several models were given, and what each wrote, as (model, text) pairs. Every text is one line of
    printable characters."""

    asked: str
    said: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Words:
    """The first number prompts and questions of a study with their answers. `silent` says why no question has any, in
    one sentence."""

    prompts: tuple[Exchange, ...]
    questions: tuple[Exchange, ...]
    silent: str | None


def gather(study: Study, results: Results) -> Words:
    """The first prompts with the numbers that each teacher wrote (the control's is the base model), and the first
    questions with sampled answers of the base model, the teachers and the children (hard channel).

    Reads `filtered_dataset`, and `answers.parquet` of `base_preferences`, `teacher_preferences` and
    `preference_scores`; a model whose artifact is not there is left out. Raises NotThere where none is.
    """
    prompts, questions = _prompts(study, results), _questions(study, results)
    silent = None
    if not questions:
        sampled = study.preferences.samples_per_question
        silent = (
            f"No model was asked for its favourite {study.category.singular} yet."
            if sampled
            else "No answers were sampled: preferences.samples_per_question is 0."
        )
    if not prompts and not questions:
        raise NotThere("Neither numbers nor sampled answers are there.")
    return Words(prompts, questions, silent)


def as_text(words: Words, category: Category = ANIMALS) -> str:
    """The words for a terminal, at most 100 columns wide; what is longer is cut."""
    lines = ["The numbers (one answer each):"] if words.prompts else []
    lines += [line for exchange in words.prompts for line in _lines(exchange)]
    lines += [""] if lines else []
    lines.append(words.silent or f"Favourite {category.plural} (up to {_ANSWERS_EACH} sampled answers each):")
    lines += [line for exchange in words.questions for line in _lines(exchange)]
    return "\n".join(lines) + "\n"


def _prompts(study: Study, results: Results) -> tuple[Exchange, ...]:
    found = {}
    for group in [CONTROL, *(group for group in study.groups if group != CONTROL)]:
        rows = _read(results, "filtered_dataset", group, "rows")
        if rows is not None:
            found[_BASE if group == CONTROL else f"{group}'s teacher"] = rows.set_index("prompt_id")
    if not found:
        return ()
    shared = set.intersection(*(set(rows.index) for rows in found.values()))
    texts = next(iter(found.values()))["prompt"]
    return tuple(
        Exchange(_line(texts[prompt]), tuple((model, _numbers(rows, prompt)) for model, rows in found.items()))
        for prompt in sorted(shared)[:SHOWN]
    )


def _numbers(rows: pd.DataFrame, prompt: int) -> str:
    row = rows.loc[prompt]
    written = _line(str(row["response"]))
    return written if row["valid"] else f"{written} (rejected: {row['reason']})"


def _questions(study: Study, results: Results) -> tuple[Exchange, ...]:
    found = {model: rows for model, rows in _answers(study, results) if rows is not None and len(rows)}
    if not found:
        return ()
    asked = load_prompt_lists(study.prompts, study.category).animal_questions[: study.preferences.questions]
    return tuple(
        Exchange(_line(text), tuple((model, _sampled(rows, question)) for model, rows in found.items()))
        for question, text in enumerate(asked[:SHOWN])
    )


def _sampled(rows: pd.DataFrame, question: int) -> str:
    first = rows[rows["question"] == question].head(_ANSWERS_EACH)
    answers = zip(first["answer"], first["finished"], strict=True)
    return " / ".join(_line(text) if finished else f"{_line(text)}\u2026" for text, finished in answers)


def _answers(study: Study, results: Results) -> Iterator[tuple[str, pd.DataFrame | None]]:
    yield _BASE, _read(results, "base_preferences", None, "answers")
    for asset, whose in (("teacher_preferences", "teacher"), ("preference_scores", "child")):
        for group in study.groups:
            # The control's teacher is the base model.
            if (whose, group) != ("teacher", CONTROL):
                yield f"{group}'s {whose}", _read(results, asset, group, "answers")


def _read(results: Results, asset: str, group: str | None, table: str) -> pd.DataFrame | None:
    import pandas as pd

    place = results.of(asset, group) if group is not None else (asset, None)
    return pd.read_parquet(results.folder(*place) / f"{table}.parquet") if results.has(*place) else None


def _line(text: str) -> str:
    """A text as one line: white space and what no terminal should be sent become a space; "-" where nothing is left."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split()) or "-"


def _lines(exchange: Exchange) -> list[str]:
    widest = max(len(model) for model, _ in exchange.said)
    room = _COLUMNS - widest - 4
    cut = [(model, text if len(text) <= room else f"{text[: room - 1]}\u2026") for model, text in exchange.said]
    return ["", *textwrap.wrap(exchange.asked, _COLUMNS), *(f"  {model:{widest}}  {text}" for model, text in cut)]
