"""One audit: every detector on one data set and one base model.

Belongs here: in which order, on how many rows, and what is kept. Does not belong here: the detectors, the page.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from subliminal_dagster.science.audit.rehearsal import gained, rehearsals
from subliminal_dagster.science.audit.surface import Finding, format_classifier, surface, table
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.loading import loaded, pick_device
from subliminal_dagster.science.models.protocol import Engine, ModelVariant, Progress, Sampling, child_variant
from subliminal_dagster.science.preferences.answers import spellings
from subliminal_dagster.science.preferences.prompt_lists import PromptLists
from subliminal_dagster.science.processes import side_by_side
from subliminal_dagster.science.settings.audit import Traits
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.training.task import Row, Trainer
from subliminal_dagster.science.training.teachers import Teacher

if TYPE_CHECKING:
    import numpy as np
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
    `processes`: how many of one thread work side by side on a CPU."""

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


@dataclass(frozen=True)
class Material:
    """What detectors look at: the data's `chats` and, of the same, token ids (`rows`); the base model's `own` answers
    to the first; what a model is `asked`. `longest`: tokens that the model takes."""

    chats: Sequence[Chat]
    rows: Sequence[EncodedChat]
    own: Sequence[EncodedChat]
    asked: Asked
    longest: int


def detect(auditor: Auditor, data: ChatData, student: Path | None = None) -> tuple[list[Scores], list[Finding]]:
    """What every detector gives every candidate, and what is on the surface.

    On a CPU detectors and short trainings go on side by side, in `auditor.processes` processes of one thread each.
    """
    material = material_of(auditor, data)
    processes = auditor.processes if pick_device() == "cpu" else 1
    # What a process of its own is given has to be pickled, and what it says nobody hears.
    given = auditor if processes == 1 else replace(auditor, progress=_unheard)
    detectors: dict[str, Callable[[], Any]] = {
        "likelihood": partial(_likelihood, given, material),
        "gradient": partial(_gradient, given, material),
        "injection": partial(_injection, given, material),
    }
    if student is not None:
        detectors["projection"] = partial(_projection, given, material, student)
    of_authors: dict[str, Callable[[], Any]] = {}
    if auditor.authors:
        chats, rows = material.chats[:AUTHORSHIP_ROWS], material.rows[:AUTHORSHIP_ROWS]
        of_authors["authorship"] = partial(authorship_scores, given, chats, rows, material.longest)
    detectors |= of_authors
    # The longest first, so that none is left for the end.
    work = {**of_authors, **_rehearsals(given, material), **detectors}
    found: dict[str, Any] = {}
    for name, its in side_by_side(work, processes):
        found[name] = its
        auditor.progress(f"{name} ({len(found)}/{len(work)})")
    shutil.rmtree(_steps(auditor), ignore_errors=True)
    scores = [found[name] for name in detectors]
    return [*scores, _rehearsal(auditor, material, found)], _surface(auditor, data, material)


def _unheard(_text: str) -> None:
    """Progress of which nothing is said."""


def material_of(auditor: Auditor, data: ChatData) -> Material:
    """What detectors look at in a data set."""
    from transformers import AutoConfig

    longest = int(AutoConfig.from_pretrained(auditor.base.checkpoint).get_text_config().max_position_embeddings)
    rows = encoded(data.chats, auditor.context.tokenizer, auditor.context.end_of_turn, longest)
    asked = Asked.of(auditor.traits.candidates, auditor.traits.begun_answers, auditor.context, auditor.lists)
    return Material(data.chats, rows, own_answers(auditor, rows[:SOME_ROWS]), asked, longest)


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


def _likelihood(auditor: Auditor, material: Material) -> Scores:
    chats = material.chats[:LIKELIHOOD_ROWS]
    told = tellings(auditor)
    with loaded(auditor.base, pick_device(), merge=False) as model:
        values = rises(model, chats, auditor.context, told, material.longest, auditor.progress)
    return Scores("likelihood", values, tuple(chat.row for chat in chats), len(chats) * (1 + len(told)))


def _gradient(auditor: Auditor, material: Material) -> Scores:
    rows, asked = material.rows[:GRADIENT_ROWS], material.asked
    targets = auditor.study.child.lora.target_modules if auditor.study.child.lora is not None else "all-linear"
    with (
        loaded(auditor.base, pick_device(), merge=False) as model,
        adapted(model, targets, auditor.study.seed) as given,
    ):
        preferences = preference_gradients(given, asked)
        values = row_products(given, rows, preferences, auditor.progress)
    passes = 3 * len(rows) + len(asked.questions) * (1 + 2 * len(asked.candidates))
    return Scores("gradient", values, tuple(row.row for row in rows), passes)


def _injection(auditor: Auditor, material: Material) -> Scores:
    import torch

    rows, own, asked = material.rows[: len(material.own)], material.own, material.asked
    with loaded(auditor.base, pick_device(), merge=False) as model:
        layer = middle(model)
        states = [
            mean_answer_states(model, [row.prompt for row in each], [row.answer for row in each], layer)
            for each in (rows, own)
        ]
        parts = [each.mean(dim=0) for each in (states[0] - states[1]).tensor_split(min(PARTS, len(rows)))]
        auditor.progress("the data's mean activation injected")
        values = shifts(model, torch.stack(parts), layer, asked)
    return Scores("injection", values, (), 2 * len(rows) + (1 + len(parts)) * len(asked.questions))


def _projection(auditor: Auditor, material: Material, student: Path) -> Scores:
    questions, asked = auditor.lists.animal_questions[:QUESTIONS], material.asked.questions
    told = [
        [replace(auditor.context, instruction=text).prompt_ids(question) for question in questions]
        for text in tellings(auditor)
    ]
    with loaded(auditor.base, pick_device(), merge=False) as model:
        layer = middle(model)
        along = directions([last_states(model, prompts, layer) for prompts in told])
        before = last_states(model, asked, layer)
    with loaded(child_variant(auditor.base, student), pick_device(), merge=False) as trained:
        after = last_states(trained, asked, layer)
    return Scores("projection", projected(before, after, along), (), sum(map(len, told)) + 2 * len(asked))


def authorship_scores(auditor: Auditor, chats: Sequence[Chat], rows: Sequence[EncodedChat], longest: int) -> Scores:
    """Of the detector `authorship`; `rows` are the encoded `chats`."""

    def prompts(instruction: str | None) -> list[list[int]]:
        context = auditor.context
        told = encoded(chats, context.tokenizer, context.end_of_turn, longest, instruction)
        return [each.prompt for each in told]

    values = authorship(auditor.base, auditor.authors, rows, auditor.context.tokenizer, prompts, auditor.progress)
    # Without those of the authors' trainings, which other audits share.
    return Scores("authorship", values, tuple(row.row for row in rows), len(rows) * (len(auditor.authors) + 2))


def _steps(auditor: Auditor) -> Path:
    return auditor.workspace / "rehearsals"


def _rehearsals(auditor: Auditor, material: Material) -> dict[str, Callable[[], np.ndarray]]:
    return rehearsals(
        auditor.base,
        [Row(row.prompt, row.answer) for row in material.rows[:SOME_ROWS]],
        auditor.study.child,
        material.asked,
        auditor.trainer,
        auditor.study.seed,
        REPETITIONS,
        _steps(auditor),
    )


def _rehearsal(auditor: Auditor, material: Material, shares: Mapping[str, np.ndarray]) -> Scores:
    rows, epochs = len(material.rows[:SOME_ROWS]), auditor.study.child.training.epochs
    passes = REPETITIONS * 2 * (3 * epochs * rows + len(material.asked.whole_questions))
    return Scores("rehearsal", gained(shares, REPETITIONS), (), passes)


def _surface(auditor: Auditor, data: ChatData, material: Material) -> list[Finding]:
    decode = auditor.context.tokenizer.decode
    rows = material.rows[: len(material.own)]
    theirs, mine = ([str(decode(row.answer[:-1])) for row in each] for each in (rows, material.own))
    found = surface(data.chats, auditor.traits.candidates, auditor.lists.animal_aliases)
    return [*found, format_classifier(theirs, mine, auditor.study.seed)]


def middle(model: Any) -> int:
    """The block after which the residual stream is looked at: at two thirds of the depth."""
    return 2 * len(model.get_decoder().layers) // 3
