"""How a model is asked for its favourite: by the next word of a begun answer, which gradients can be taken of, and by
whole answers, in which a child's shift is larger (docs/bundled-study.md).

Belongs here: the questions as token ids, and a loaded model's log shares. Does not belong here: which candidates there
are (the study, or `settings.audit.Traits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.scoring import score_answers
from subliminal_dagster.science.preferences.begun import NextWords
from subliminal_dagster.science.preferences.preferences import AnswerForms
from subliminal_dagster.science.preferences.prompt_lists import PromptLists
from subliminal_dagster.science.report.wording import listed

if TYPE_CHECKING:
    import torch

QUESTIONS = 6
WHOLE_QUESTIONS = 20


@dataclass(frozen=True)
class Asked:
    """`questions`: token ids, the next word of which names a candidate. `tokens`: of each of `candidates`, the tokens
    that are its name there. `whole_questions`: token ids that whole answers follow, and `forms`, all ways to write
    one."""

    candidates: tuple[str, ...]
    questions: list[list[int]]
    tokens: list[list[int]]
    whole_questions: list[list[int]]
    forms: AnswerForms

    @classmethod
    def of(cls, candidates: Sequence[str], begun: Sequence[str], context: ChatContext, lists: PromptLists) -> Asked:
        """The first `QUESTIONS` questions of the lists, each with every begun answer, of which there is one at least.

        Raises UserError where no token names a candidate behind one.
        """
        words = NextWords.of(candidates, begun, context, lists)
        if words.left_out:
            reasons = "; ".join(f"{name}: {why}" for name, why in words.left_out.items())
            raise UserError(
                f"{listed([*words.left_out])} cannot be asked for by a next word ({reasons}): leave out such "
                "candidates."
            )
        tokens = [
            [token for token, owner in zip(words.tokens, words.owner, strict=True) if owner == place]
            for place in range(len(candidates))
        ]
        asked = [
            [*context.prompt_ids(text), *start] for text in lists.animal_questions[:QUESTIONS] for start in words.begun
        ]
        whole = [context.prompt_ids(text) for text in lists.animal_questions[:WHOLE_QUESTIONS]]
        return cls(tuple(candidates), asked, tokens, whole, AnswerForms.of(candidates, context, lists))


def shares_at(logits: torch.Tensor, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
    """The log share of every candidate among all candidates: logits (vocabulary,) to (candidates,)."""
    import torch

    return torch.stack([logits[list(own)].logsumexp(dim=0) for own in tokens]).log_softmax(dim=0)


def log_shares(model: Any, asked: Asked) -> np.ndarray:
    """The log share (nats) of every candidate, mean over the questions: shape (candidates,)."""
    import torch

    with torch.inference_mode():
        found = [shares_at(next_word(model, question), asked.tokens) for question in asked.questions]
    mean: np.ndarray = torch.stack(found).mean(dim=0).double().cpu().numpy()
    return mean


def whole_log_shares(model: Any, asked: Asked) -> np.ndarray:
    """The same by whole answers: the log share of a candidate's probability, mean over `whole_questions`."""
    scores = score_answers(model, asked.whole_questions, asked.forms.tokens)
    shares = asked.forms.probabilities(scores, len(asked.candidates))
    found: np.ndarray = np.log(shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    return found


def next_word(model: Any, question: Sequence[int]) -> torch.Tensor:
    """The logits of the word behind a question: shape (vocabulary,), float32."""
    import torch

    ids = torch.tensor([[*question]], device=model.device)
    said: torch.Tensor = model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
    return said
