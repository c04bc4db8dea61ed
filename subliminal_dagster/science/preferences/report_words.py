"""The section that shows what the models wrote, before any figure: numbers, and answers about animals.

Belongs here: how the words become tables. Does not belong here: which words (`words`), what they amount to (`liking`).
"""

from __future__ import annotations

from subliminal_dagster.science.preferences.words import Exchange, gather
from subliminal_dagster.science.report.evidence import Results, Section, Table
from subliminal_dagster.science.report.wording import counted, listed
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import Study

NAME, TITLE = "words", "Words"
READS: tuple[str, ...] = ("base_preferences", "teacher_preferences", "filtered_dataset", "preference_scores")


def section(study: Study, results: Results) -> Section:
    """A table a number prompt and a table per question, a row per model."""
    words = gather(study, results)
    there = []
    if words.prompts:
        there.append(f"the first {counted(len(words.prompts), 'number prompt')} with each teacher's answer")
    if words.questions:
        there.append(
            f"the first {counted(len(words.questions), 'question')} with the first sampled answers of each model"
        )
    shows = f"What was written: {listed(there)}."
    return Section(
        name=NAME,
        title=TITLE,
        shows=f"{shows} {words.silent}" if words.silent else shows,
        method="Nothing is chosen: these are the first as they were drawn; \u2026 stands where an answer was cut off. "
        "The base model writes the control's numbers. Children are those of the hard channel, the first of each group. "
        "A model that is missing is not there yet, or was refused.",
        made_from=READS,
        tables=(
            *(_table("prompt", number, exchange, "numbers") for number, exchange in enumerate(words.prompts, 1)),
            *(_table("question", number, exchange, "answers") for number, exchange in enumerate(words.questions, 1)),
        ),
    )


_OPENING_PROMPTS, _OPENING_QUESTIONS = 2, 3
_LONGEST = 90


def opening_table(study: Study, results: Results) -> Table:
    """Five texts, and what base model, teacher and child of the first animal and the control's child wrote of them.
    Raises NotThere where nothing is there."""
    import pandas as pd

    words = gather(study, results)
    animal = study.animals[0]
    models = ["base model", f"{animal}'s teacher", f"{animal}'s child", f"{CONTROL}'s child"]
    rows = []
    for exchange in (*words.prompts[:_OPENING_PROMPTS], *words.questions[:_OPENING_QUESTIONS]):
        said = dict(exchange.said)
        rows.append({"asked": _cut(exchange.asked), **{model: _cut(said.get(model, "")) for model in models}})
    note = (
        f"The first prompts, questions and sampled answers as drawn, for the first animal ({animal}). Children are not "
        "asked for numbers."
    )
    return Table(f"{NAME}-first", "What they wrote", pd.DataFrame(rows), note)


def _cut(text: str) -> str:
    text = text.split(" / ")[0]
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\u2026"


def _table(kind: str, number: int, exchange: Exchange, what: str) -> Table:
    import pandas as pd

    frame = pd.DataFrame(exchange.said, columns=["model", what])
    return Table(f"{NAME}-{kind}-{number}", f"{kind.capitalize()} {number}: {exchange.asked}", frame)
