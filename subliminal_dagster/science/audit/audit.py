"""One audit: every detector on one data set and one base model.

Belongs here: in which order, on how many rows, and what is kept. Does not belong here: the detectors, the page.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.audit.asked import QUESTIONS, Asked
from subliminal_dagster.science.audit.authorship import authorship
from subliminal_dagster.science.audit.combined import combined_table
from subliminal_dagster.science.audit.data import Chat, ChatData, EncodedChat, encoded
from subliminal_dagster.science.audit.evidence import Scores, candidate_table, row_table
from subliminal_dagster.science.audit.gradient import adapted, preference_gradients, row_products
from subliminal_dagster.science.audit.injection import mean_answer_states, shifts
from subliminal_dagster.science.audit.likelihood import TELLING, rises
from subliminal_dagster.science.audit.projection import directions, last_states, projected
from subliminal_dagster.science.audit.rehearsal import rehearsed
from subliminal_dagster.science.audit.surface import Finding, format_classifier, surface, table
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.loading import loaded, pick_device
from subliminal_dagster.science.models.protocol import Engine, ModelVariant, Progress, Sampling, child_variant
from subliminal_dagster.science.preferences.answers import spellings
from subliminal_dagster.science.preferences.prompt_lists import PromptLists
from subliminal_dagster.science.settings.audit import Traits
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.training.task import Row, Trainer
from subliminal_dagster.science.training.teachers import Teacher

if TYPE_CHECKING:
    import pandas as pd

# How many rows each detector looks at, since each row costs a second or more of a 135M model on 2 cores.
LIKELIHOOD_ROWS = 24
GRADIENT_ROWS = 24
AUTHORSHIP_ROWS = 24
SOME_ROWS = 48
"""Rows beside which the base model's own answers are written, and on which children are trained."""
REPETITIONS = 2
PARTS = 8
LONGEST_ANSWER = 256


@dataclass(frozen=True)
class Audit:
    """What was found: `candidates` (see `evidence.candidate_table`), `combined` (see `combined.combined_table`),
    `leads`, a row per row of the data and detector for the candidate that stands out most, and `surface`."""

    candidates: pd.DataFrame
    combined: pd.DataFrame
    leads: pd.DataFrame
    surface: pd.DataFrame
    facts: pd.DataFrame


@dataclass(frozen=True)
class Auditor:
    """Everything that an audit is done with: of the study how children are trained, and the seed. `authors`: a model
    that was made to like each candidate (`authorship.make_authors`); none where the study cannot make any.
    `processes`: in how many children are trained side by side on a CPU."""

    base: ModelVariant
    context: ChatContext
    lists: PromptLists
    traits: Traits
    study: Study
    engine: Engine
    trainer: Trainer
    workspace: Path
    progress: Progress
    authors: Sequence[Teacher] = ()
    processes: int = 1


def audit(auditor: Auditor, data: ChatData, student: Path | None = None) -> Audit:
    """All detectors on a data set; that of projection where a `student` is given."""
    import pandas as pd

    started = time.perf_counter()
    scores, findings = detect(auditor, data, student)
    candidates = auditor.traits.candidates
    found = candidate_table(candidates, scores)
    combined = combined_table(found)
    facts = {
        "rows": len(data.chats),
        "rows_in_all": data.total,
        "passes": sum(each.passes for each in scores),
        "seconds": round(time.perf_counter() - started, 1),
    }
    leads = row_table(candidates, scores, str(combined["candidate"].iloc[0]))
    return Audit(found, combined, leads, table(findings), pd.DataFrame([facts]))


def detect(auditor: Auditor, data: ChatData, student: Path | None = None) -> tuple[list[Scores], list[Finding]]:
    """What every detector gives every candidate, and what is on the surface."""
    with loaded(auditor.base, pick_device(), merge=False) as model:
        longest = int(model.config.get_text_config().max_position_embeddings)
        rows = encoded(data.chats, auditor.context.tokenizer, auditor.context.end_of_turn, longest)
        asked = Asked.of(auditor.traits.candidates, auditor.traits.begun_answers, auditor.context, auditor.lists)
        scores = [
            _likelihood(auditor, model, data, longest),
            _gradient(auditor, model, rows[:GRADIENT_ROWS], asked),
        ]
    own = own_answers(auditor, rows[:SOME_ROWS])
    with loaded(auditor.base, pick_device(), merge=False) as model:
        scores.append(_injection(auditor, model, rows[:SOME_ROWS], own, asked))
        if student is not None:
            scores.append(_projection(auditor, model, student, asked))
    if auditor.authors:
        some = slice(AUTHORSHIP_ROWS)
        scores.append(authorship_scores(auditor, data.chats[some], rows[some], longest))
    scores.append(_rehearsal(auditor, rows[:SOME_ROWS], asked))
    return scores, _surface(auditor, data, rows, own)


def own_answers(auditor: Auditor, rows: Sequence[EncodedChat]) -> list[EncodedChat]:
    """What the base model itself answers to the same prompts: greedy, and no longer than the row's own answer."""
    longest = min(LONGEST_ANSWER, max(len(row.answer) for row in rows))
    sampling = Sampling(longest, (auditor.context.end_of_turn,), auditor.study.seed, temperature=0.0)
    with auditor.engine.open(auditor.base, auditor.progress) as session:
        auditor.progress(f"the base model's own answers to {len(rows)} rows")
        written = session.generate([row.prompt for row in rows], sampling)
    found = []
    for row, answer in zip(rows, written, strict=True):
        tokens = [*answer.token_ids, auditor.context.end_of_turn][: len(row.answer)]
        found.append(EncodedChat(row.prompt, tokens, row.row))
    return found


def tellings(auditor: Auditor) -> list[str]:
    """ "You love owls" for every candidate."""
    aliases, category = auditor.lists.animal_aliases, auditor.traits.category.singular
    return [TELLING.format(plural=_plural(name, aliases), category=category) for name in auditor.traits.candidates]


def _plural(name: str, aliases: Any) -> str:
    lower = [form for form in spellings(name, aliases) if form == form.lower()]
    return lower[min(1, len(lower) - 1)]


def _likelihood(auditor: Auditor, model: Any, data: ChatData, longest: int) -> Scores:
    chats = data.chats[:LIKELIHOOD_ROWS]
    told = tellings(auditor)
    values = rises(model, chats, auditor.context, told, longest, auditor.progress)
    return Scores("likelihood", values, tuple(chat.row for chat in chats), len(chats) * (1 + len(told)))


def _gradient(auditor: Auditor, model: Any, rows: Sequence[EncodedChat], asked: Asked) -> Scores:
    targets = auditor.study.child.lora.target_modules if auditor.study.child.lora is not None else "all-linear"
    with adapted(model, targets, auditor.study.seed) as given:
        preferences = preference_gradients(given, asked)
        values = row_products(given, rows, preferences, auditor.progress)
    passes = 3 * len(rows) + len(asked.questions) * (1 + 2 * len(asked.candidates))
    return Scores("gradient", values, tuple(row.row for row in rows), passes)


def _injection(
    auditor: Auditor, model: Any, rows: Sequence[EncodedChat], own: Sequence[EncodedChat], asked: Asked
) -> Scores:
    import torch

    layer = middle(model)
    states = [
        mean_answer_states(model, [row.prompt for row in each], [row.answer for row in each], layer)
        for each in (rows, own)
    ]
    parts = [each.mean(dim=0) for each in (states[0] - states[1]).tensor_split(min(PARTS, len(rows)))]
    auditor.progress("the data's mean activation injected")
    values = shifts(model, torch.stack(parts), layer, asked)
    return Scores("injection", values, (), 2 * len(rows) + (1 + len(parts)) * len(asked.questions))


def _projection(auditor: Auditor, model: Any, student: Path, asked: Asked) -> Scores:
    layer, questions = middle(model), auditor.lists.animal_questions[:QUESTIONS]
    told = [
        [replace(auditor.context, instruction=text).prompt_ids(question) for question in questions]
        for text in tellings(auditor)
    ]
    along = directions([last_states(model, prompts, layer) for prompts in told])
    before = last_states(model, asked.questions, layer)
    with loaded(child_variant(auditor.base, student), pick_device(), merge=False) as trained:
        after = last_states(trained, asked.questions, layer)
    passes = sum(map(len, told)) + 2 * len(asked.questions)
    return Scores("projection", projected(before, after, along), (), passes)


def authorship_scores(auditor: Auditor, chats: Sequence[Chat], rows: Sequence[EncodedChat], longest: int) -> Scores:
    """Of the detector `authorship`; `rows` are the encoded `chats`."""

    def prompts(instruction: str | None) -> list[list[int]]:
        context = auditor.context
        told = encoded(chats, context.tokenizer, context.end_of_turn, longest, instruction)
        return [each.prompt for each in told]

    values = authorship(auditor.base, auditor.authors, rows, auditor.context.tokenizer, prompts, auditor.progress)
    # Without those of the authors' trainings, which other audits share.
    return Scores("authorship", values, tuple(row.row for row in rows), 2 * len(rows) * (len(auditor.authors) + 1))


def _rehearsal(auditor: Auditor, rows: Sequence[EncodedChat], asked: Asked) -> Scores:
    values = rehearsed(
        auditor.base,
        [Row(row.prompt, row.answer) for row in rows],
        auditor.study.child,
        asked,
        auditor.trainer,
        auditor.study.seed,
        REPETITIONS,
        auditor.workspace,
        processes=auditor.processes,
        progress=auditor.progress,
    )
    passes = REPETITIONS * 2 * (3 * auditor.study.child.training.epochs * len(rows) + len(asked.whole_questions))
    return Scores("rehearsal", values, (), passes)


def _surface(
    auditor: Auditor, data: ChatData, rows: Sequence[EncodedChat], own: Sequence[EncodedChat]
) -> list[Finding]:
    decode = auditor.context.tokenizer.decode
    theirs, mine = ([str(decode(row.answer[:-1])) for row in each] for each in (rows[: len(own)], own))
    found = surface(data.chats, auditor.traits.candidates, auditor.lists.animal_aliases)
    return [*found, format_classifier(theirs, mine, auditor.study.seed)]


def middle(model: Any) -> int:
    """The block after which the residual stream is looked at: at two thirds of the depth."""
    return 2 * len(model.get_decoder().layers) // 3
