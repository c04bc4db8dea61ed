"""Constrained decoding: the grammar of a number answer, as a regular expression and as an automaton over tokens.

A model too small to follow the format (SmolLM2-135M gives about 2 % valid answers as it is) is let through only where
the text stays a list of numbers. Which numbers stand there is still its own choice.

Belongs here: what an answer may look like while it is written. Does not belong here: judging a finished answer
(`numbers.filter`, which runs all the same).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from subliminal_dagster.science.models.chat import token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

State = tuple[int, int, int]
"""(numbers closed by a separator, digits of the current number, separator characters written behind it)."""


@dataclass(frozen=True)
class NumberGrammar:
    """Between `min_count` and `max_count` numbers of 1 to `max_digits` digits, `separator` between them."""

    separator: str = ", "
    min_count: int = 1
    max_count: int = 10
    max_digits: int = 3

    start: State = (0, 0, 0)

    @property
    def regex(self) -> str:
        """The same language as a regular expression (for engines that take one)."""
        number = rf"[0-9]{{1,{self.max_digits}}}"
        # A space needs no escape, and other engines' regular expressions have none for it.
        separator = re.escape(self.separator).replace("\\ ", " ")
        return rf"{number}({separator}{number}){{{self.min_count - 1},{self.max_count - 1}}}"

    def step(self, state: State, text: str) -> State | None:
        """The state after `text`, None where no answer can go on like that."""
        closed, digits, mark = state
        for character in text:
            if character.isascii() and character.isdigit() and mark == 0 and digits < self.max_digits:
                digits += 1
            elif digits and closed + 1 < self.max_count and character == self.separator[mark]:
                mark += 1
                if mark == len(self.separator):
                    closed, digits, mark = closed + 1, 0, 0
            else:
                return None
        return closed, digits, mark

    def accepts(self, state: State) -> bool:
        """Whether the answer may end here."""
        closed, digits, mark = state
        return digits > 0 and mark == 0 and closed + 1 >= self.min_count


@dataclass(frozen=True)
class TokenAutomaton:
    """A grammar over a tokenizer's tokens; `stop` is the token that ends the answer."""

    grammar: NumberGrammar
    tokenizer: PreTrainedTokenizerBase
    stop: int
    _allowed: dict[State, list[int]] = field(default_factory=dict)

    @cached_property
    def _texts(self) -> dict[int, str]:
        """Tokens that consist of digits and separator characters, by id."""
        marks = set("0123456789") | set(self.grammar.separator)
        return {i: text for i, text in token_texts(self.tokenizer).items() if text and set(text) <= marks}

    def allowed(self, state: State) -> list[int]:
        """Ids of the tokens that may come next, never empty."""
        if state not in self._allowed:
            ids = [i for i, text in self._texts.items() if self.grammar.step(state, text) is not None]
            self._allowed[state] = [*ids, self.stop] if self.grammar.accepts(state) else ids
        return self._allowed[state]

    def advance(self, state: State, token: int) -> State:
        """The state after `token`; unchanged by the stop token and whatever comes behind it."""
        if token not in self._texts:
            return state
        return self.grammar.step(state, self._texts[token]) or state
