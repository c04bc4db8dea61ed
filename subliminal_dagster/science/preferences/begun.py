"""An animal as the next word of an answer that is begun for the model ("My favorite animal is the").

A model that hardly ever answers with one bare word still names animals there, so the measure sees more of it than the
exact whole answer does. It is the probability of one token, whatever follows: a bear that would have become a bearded
dragon counts.

Belongs here: which token stands for which animal, and their probabilities. Does not belong here: whole answers
(`preferences`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.protocol import Session
from subliminal_dagster.science.preferences.answers import spellings
from subliminal_dagster.science.preferences.prompt_lists import PromptLists


@dataclass(frozen=True)
class NextWords:
    """Begun answers as token ids, and the tokens that name a candidate after them: `owner[i]` is the number of the
    candidate whose name `tokens[i]` is. `left_out` says why a candidate has none, by its name."""

    begun: list[list[int]]
    tokens: list[int]
    owner: list[int]
    left_out: dict[str, str]

    @classmethod
    def of(cls, candidates: Sequence[str], begun: Sequence[str], context: ChatContext, lists: PromptLists) -> NextWords:
        """The spellings of `answers.spellings` that are one token behind a begun answer and a space.

        A candidate is left out where no spelling is one token, and where such a token also begins another candidate's
        name ("cat" and "catfish"), since it would count for both.
        """
        if not begun:
            return cls([], [], [], {})
        # Encoded by itself, as every answer is that a model is trained on or scored with.
        starts = [context.tokenizer.encode(text, add_special_tokens=False) for text in begun]
        first: list[set[int]] = []
        whole: list[set[int]] = []
        for animal in candidates:
            written = spellings(animal, lists.animal_aliases)
            names = [_behind(text, spelling, context) for text in begun for spelling in written]
            first.append({name[0] for name in names if name})
            whole.append({name[0] for name in names if len(name) == 1})
        left_out = {}
        for index, animal in enumerate(candidates):
            alike = [other for i, other in enumerate(candidates) if i != index and whole[index] & first[i]]
            if not whole[index]:
                left_out[animal] = "no spelling of its name is a single token"
            elif alike:
                left_out[animal] = f"a token of its name also begins {' and '.join(alike)}"
        kept = [(t, i) for i, animal in enumerate(candidates) if animal not in left_out for t in sorted(whole[i])]
        return cls(starts, [token for token, _ in kept], [owner for _, owner in kept], left_out)

    def probabilities(self, session: Session, prompts: Sequence[list[int]], candidates: int) -> np.ndarray:
        """The probability of each candidate's tokens, summed, mean over the begun answers: (prompts, candidates), NaN
        for a candidate that is left out, and everywhere where no answer is begun."""
        total = np.full((len(prompts), candidates), np.nan)
        if self.tokens:
            begun = [[*prompt, *text] for prompt in prompts for text in self.begun]
            logprobs = session.next_logprobs(begun, self.tokens)
            mean = np.exp(logprobs).reshape(len(prompts), len(self.begun), len(self.tokens)).mean(axis=1)
            for owner in set(self.owner):
                total[:, owner] = mean[:, np.equal(self.owner, owner)].sum(axis=1)
        return total


def _behind(text: str, word: str, context: ChatContext) -> list[int]:
    """The tokens of a word that follows a text; none where the word changes how the text itself is written."""
    start, both = (context.tokenizer.encode(part, add_special_tokens=False) for part in (text, f"{text} {word}"))
    return both[len(start) :] if both[: len(start)] == start else []
