"""Asking a model for its favourite animal: in samples (Cloud et al. 2025, arXiv 2507.14805), exactly, and as the next
word of a begun answer.

Belongs here: one model's scores for every question and candidate. Does not belong here: comparing models
(`comparison`), how answers are counted (`answers`), what each measure is able to see (`measures`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.protocol import Sampling, Session
from subliminal_dagster.science.models.resumable import generate
from subliminal_dagster.science.preferences.answers import classify_answers, spellings
from subliminal_dagster.science.preferences.begun import NextWords
from subliminal_dagster.science.preferences.prompt_lists import PromptLists
from subliminal_dagster.science.settings.preferences import PreferenceSettings

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class AnswerForms:
    """Every way a candidate's name can stand as the whole answer: with and without leading space, in the spellings of
    `answers.spellings`, closed by the end of the turn. `owner[i]` is the candidate that `tokens[i]` belongs to."""

    tokens: list[list[int]]
    owner: np.ndarray

    @classmethod
    def of(cls, candidates: Sequence[str], context: ChatContext, lists: PromptLists) -> AnswerForms:
        """All forms of all candidates; forms that a tokenizer writes alike count once."""
        found: dict[tuple[int, ...], int] = {}
        for index, animal in enumerate(candidates):
            for spelling in spellings(animal, lists.animal_aliases):
                for lead in ("", " "):
                    found.setdefault(tuple(context.answer_ids(lead + spelling)), index)
        return cls([list(tokens) for tokens in found], np.array(list(found.values())))

    def probabilities(self, logprobs: np.ndarray, candidates: int) -> np.ndarray:
        """Sum over the forms: log-probabilities (questions, forms) to probabilities (questions, candidates)."""
        total = np.zeros((logprobs.shape[0], candidates))
        np.add.at(total.T, self.owner, np.exp(logprobs).T)
        return total


def measure_preferences(
    session: Session,
    context: ChatContext,
    lists: PromptLists,
    settings: PreferenceSettings,
    seed: int,
    *,
    kept: Path | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of one model, and the answers sampled for them.

    `kept`: a workspace whose name depends on everything that goes in; the sampling of a call after an interruption
    goes on from there (see `resumable.generate`).

    Returns:
        scores: a row per question and candidate: `question` (number), `animal`, `probability` (of its spellings as
            the whole answer, summed), `share` (among the candidates, per question), `begun` (probability of its
            one-token spellings as the next word of a begun answer, mean over these) and `begun_share` (among the
            candidates measured so), both NaN where not measured (see `begun`), `count` and `samples` (sampled answers
            naming it by whole word, and all sampled answers of the question).
        answers: a row per sampled answer: `question`, `answer`, `animal`, `outcome`, `finished`.
    """
    import pandas as pd

    candidates = settings.candidates
    prompts = [context.prompt_ids(text) for text in lists.animal_questions[: settings.questions]]
    forms = AnswerForms.of(candidates, context, lists)
    probability = forms.probabilities(session.score(prompts, forms.tokens), len(candidates))
    answers = _sample(session, context, lists, settings, prompts, seed, kept / "answers" if kept else None)
    counts = (
        answers.groupby(["question", "animal"]).size().unstack(fill_value=0)
        if len(answers)
        else pd.DataFrame(index=range(len(prompts)))
    )
    counts = counts.reindex(index=range(len(prompts)), columns=list(candidates), fill_value=0)
    begun = NextWords.of(candidates, settings.begun, context, lists).probabilities(session, prompts, len(candidates))
    scores = pd.DataFrame(
        {
            "question": np.repeat(np.arange(len(prompts)), len(candidates)),
            "animal": np.tile(list(candidates), len(prompts)),
            "probability": probability.ravel(),
            "share": (probability / probability.sum(axis=1, keepdims=True)).ravel(),
            "begun": begun.ravel(),
            "begun_share": (begun / np.nansum(begun, axis=1, keepdims=True)).ravel(),
            "count": counts.to_numpy(dtype=np.int64).ravel(),
            "samples": settings.samples_per_question,
        }
    )
    return scores, answers


def _sample(
    session: Session,
    context: ChatContext,
    lists: PromptLists,
    settings: PreferenceSettings,
    prompts: list[list[int]],
    seed: int,
    kept: Path | None,
) -> pd.DataFrame:
    question = np.repeat(np.arange(len(prompts)), settings.samples_per_question)
    sampling = Sampling(
        max_new_tokens=settings.max_new_tokens,
        stop=(context.end_of_turn,),
        seed=seed,
        temperature=settings.temperature,
        top_p=settings.top_p,
    )
    completions = generate(session, [prompts[q] for q in question], sampling, kept)
    texts = [str(context.tokenizer.decode(c.token_ids, skip_special_tokens=True)) for c in completions]
    answers = classify_answers(texts, settings.candidates, lists.animal_aliases)
    answers.insert(0, "question", question)
    answers["finished"] = [c.finished for c in completions]
    return answers


def mean_probability(scores: pd.DataFrame, animal: str) -> float:
    """An animal's exact probability, mean over the questions."""
    return float(scores.loc[scores["animal"] == animal, "probability"].mean())


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per candidate, most probable first: `animal`, means of `probability`, `share`, `begun` and `begun_share`,
    and `sampled_rate`; NaN where not measured."""
    grouped = scores.groupby("animal", sort=False).agg(
        probability=("probability", "mean"),
        share=("share", "mean"),
        begun=("begun", "mean"),
        begun_share=("begun_share", "mean"),
        count=("count", "sum"),
        samples=("samples", "sum"),
    )
    grouped["sampled_rate"] = grouped["count"] / grouped["samples"].where(grouped["samples"] > 0)
    return grouped.drop(columns=["count", "samples"]).sort_values("probability", ascending=False).reset_index()
