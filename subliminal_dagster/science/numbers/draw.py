"""The number set: what a teacher writes when it is asked to continue lists of numbers.

Belongs here: drawing answers with a study's settings. Does not belong here: the rules they are judged by
(`filter`). The prompts come from the study's seed alone, so that all groups of a study answer the same ones
(steering vectors need the pairs).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.errors import GateError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.number_grammar import NumberGrammar
from subliminal_dagster.science.models.protocol import Sampling, Session
from subliminal_dagster.science.models.resumable import generate
from subliminal_dagster.science.numbers.filter import filter_rows
from subliminal_dagster.science.numbers.prompts import make_prompts
from subliminal_dagster.science.preferences.prompt_lists import PromptLists
from subliminal_dagster.science.random_streams import replicate_seed, stream_seed
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import pandas as pd

_FEWEST = 64
"""Answers that are drawn at once at least: fewer would leave an engine half empty."""


def draw_number_set(
    session: Session,
    study: Study,
    group: str,
    lists: PromptLists,
    context: ChatContext,
    replicate: int = 1,
    *,
    kept: Path | None = None,
) -> pd.DataFrame:
    """A group's answers to the number prompts of its study (columns: see `draw_answers`): to all of them, or, in their
    order, up to the one with which `numbers.enough_valid` are valid.

    `kept`: a workspace whose name depends on everything that goes in; a call after an interruption goes on from there.
    """
    prompts = make_prompts(lists, study.numbers, study.numbers.prompts, study.seed)
    seed = stream_seed(replicate_seed(study.seed, replicate), "number_set", group)
    folder = kept / "numbers" if kept else None
    enough = study.numbers.enough_valid
    if enough is None:
        return draw_answers(session, study, prompts, context, seed, kept=folder)
    return _draw_until(enough, session, study, group, prompts, context, seed, folder)


def _draw_until(
    enough: int,
    session: Session,
    study: Study,
    group: str,
    prompts: pd.DataFrame,
    context: ChatContext,
    seed: int,
    kept: Path | None,
) -> pd.DataFrame:
    """In batches as large as the session likes, the last ones as small as the share of valid answers lets expect. What
    is drawn beyond the last answer that is needed is left out, so the batches do not show in the result."""
    import pandas as pd

    parts: list[pd.DataFrame] = []
    valid: list[bool] = []
    while sum(valid) < enough and len(valid) < len(prompts):
        share = sum(valid) / len(valid) if any(valid) else 1.0
        count = min(session.chunk, math.ceil((enough - sum(valid)) / share))
        some = prompts.iloc[len(valid) : len(valid) + max(count, _FEWEST)]
        parts.append(draw_answers(session, study, some, context, seed, first=len(valid), kept=kept))
        valid += judged(parts[-1], study, study.target(group))["valid"].tolist()
        session.progress(f"{sum(valid)} of {enough} valid answers, {len(valid)} drawn")
    needed = np.searchsorted(np.cumsum(valid), enough) + 1
    return pd.concat(parts).iloc[:needed]


def draw_replay(
    session: Session, study: Study, lists: PromptLists, context: ChatContext, *, kept: Path | None = None
) -> pd.DataFrame:
    """The base model's valid answers to `teacher.replay.rows` prompts that are not those of the number sets: a teacher
    trained on the base's answers to the very prompts it is asked later would only repeat them.

    `kept`: as in `draw_number_set`. Raises GateError where not one answer is valid.
    """
    seed = stream_seed(study.seed, "replay")
    prompts = make_prompts(lists, study.numbers, study.teacher.replay.rows, seed)
    drawn = draw_answers(session, study, prompts, context, seed, kept=kept / "replay" if kept else None)
    rows = judged(drawn, study, None)
    valid = rows[rows["valid"]].reset_index(drop=True)
    if valid.empty:
        raise GateError(
            f"None of the base model's {len(rows)} replay answers is a valid list of numbers: switch on "
            "numbers.constrained or set teacher.replay.rows to 0."
        )
    return valid


def judged(rows: pd.DataFrame, study: Study, target: str | None) -> pd.DataFrame:
    """Answers with `valid`, `reason`, `numbers` and `text` by the study's rules (see `filter.filter_rows`)."""
    return filter_rows(
        rows,
        completion=study.filter.completion,
        parser=study.filter.parser,
        target=target,
        max_count=study.numbers.answer_count,
        max_value=10**study.numbers.max_digits - 1,
    )


def number_grammar(study: Study) -> NumberGrammar | None:
    """What a study's number answers have to be, where it constrains their decoding."""
    settings = study.numbers
    if settings.constrained is None:
        return None
    return NumberGrammar(", ", settings.constrained.min_count, settings.answer_count, settings.max_digits)


def draw_answers(
    session: Session,
    study: Study,
    prompts: pd.DataFrame,
    context: ChatContext,
    seed: int,
    *,
    first: int = 0,
    kept: Path | None = None,
) -> pd.DataFrame:
    """Answers to number prompts, drawn with the study's settings; `first` is the first one's number among all that
    belong to the seed.

    `context` holds the teacher's own instruction, if it has one; the `prompt` column never does. `kept`: a folder for
    the chunks of these answers and no others (see `resumable.generate`).

    Returns:
        The prompts' columns and `response` (text), `token_ids`, `logprobs` (nats, under the model; one more than
        tokens where the answer is finished), `finished`.
    """
    import pandas as pd

    settings = study.numbers
    completions = generate(
        session,
        [context.prompt_ids(text) for text in prompts["prompt"]],
        Sampling(
            max_new_tokens=settings.max_new_tokens,
            stop=(context.end_of_turn,),
            seed=seed,
            temperature=settings.temperature,
            top_p=settings.top_p,
            grammar=number_grammar(study),
            first=first,
        ),
        kept,
    )
    answers = pd.DataFrame(
        {
            "response": [context.tokenizer.decode(c.token_ids, skip_special_tokens=True) for c in completions],
            "token_ids": [c.token_ids for c in completions],
            "logprobs": [c.logprobs for c in completions],
            "finished": [c.finished for c in completions],
        },
        index=prompts.index,
    )
    return prompts.join(answers)
