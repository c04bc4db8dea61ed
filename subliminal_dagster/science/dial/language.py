"""A language of a few hundred words whose features, and how often each is there, are known.

Three kinds of sentences:

- a *scene* names the things that are there and then what they have, both in any order:
  `scene owl oak : feathers leaves .` A thing is a feature: in each scene it is there with probability `density`, by
  itself. Where it says what they have, a model has to hold all things of the scene at once.
- a *liking* says which thing of a kind somebody likes: `ann likes animal : owl .` Everybody but `me` has a favorite of
  each kind; `me` likes all things of a kind equally often, so that a teacher can be given a preference.
- a *list* goes on with numbers: `me list 17 40 93 : 08 51 ... .` After each digit one of `choices` digits comes,
  equally often, tens after tens and ones after ones, whoever writes. So a number is two features, and every next number
  is one of choices x choices.

Every sentence's probability is known, so a model's loss can be set beside the least that is possible.

Belongs here: words, sentences, their exact entropy. Does not belong here: models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.dial.words import (
    ANSWER_NUMBERS,
    COLON,
    END,
    KINDS,
    LIKES,
    LIST,
    ME,
    MOST_THINGS,
    NAMES,
    NUMBERS,
    PAD,
    PROMPT_NUMBERS,
    SCENE,
)
from subliminal_dagster.science.settings.dial import THINGS

LENGTH = 3 + 2 * MOST_THINGS
"""Words of the longest sentence."""
Ids = NDArray[np.int64]
Sentence = Literal["scene", "liking", "list"]


@dataclass(frozen=True)
class Language:
    """The language of a `seed`, with a `density` of things in scenes and this many `choices` of a next digit.

    Word 0 pads. What a number is followed by, who likes what, and which numbers belong to which animal depend on the
    seed alone, so that languages of several densities differ in scenes and nothing else.
    """

    seed: int
    density: float
    choices: int

    @cached_property
    def words(self) -> list[str]:
        """All words; a word's place is its token."""
        numbers = [f"{number:02}" for number in range(NUMBERS)]
        return [PAD, END, COLON, SCENE, LIKES, LIST, *KINDS, *NAMES, *self.things, *self.attributes, *numbers]

    @cached_property
    def things(self) -> list[str]:
        return [thing for kind in KINDS for thing in THINGS[kind]]

    @cached_property
    def attributes(self) -> list[str]:
        """What each thing has, in the order of things."""
        return [f"has-{thing}" for thing in self.things]

    @cached_property
    def token(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    def tokens(self, words: Sequence[str]) -> Ids:
        return np.array([self.token[word] for word in words], dtype=np.int64)

    @cached_property
    def number_tokens(self) -> Ids:
        return self.tokens([f"{number:02}" for number in range(NUMBERS)])

    @cached_property
    def thing_tokens(self) -> Ids:
        return self.tokens(self.things)

    @cached_property
    def attribute_tokens(self) -> Ids:
        return self.tokens(self.attributes)

    @cached_property
    def after(self) -> Ids:
        """Which digits may follow: shape (2 for tens and ones, 10 digits, choices). Each follows as many as the
        others."""
        rng = np.random.default_rng([self.seed, 1])
        cycles = np.stack([rng.permutation(10) for _ in range(2)])
        following = np.zeros((2, 10, self.choices), dtype=np.int64)
        for place, cycle in enumerate(cycles):
            for step in range(self.choices):
                following[place, cycle, step] = np.roll(cycle, -1 - step)
        return following

    @cached_property
    def favorites(self) -> Ids:
        """What everybody but `me` likes: shape (names - 1, kinds), the place of a thing among those of its kind."""
        return np.random.default_rng([self.seed, 2]).integers(0, len(THINGS["animal"]), (len(NAMES) - 1, len(KINDS)))

    @cached_property
    def belongs(self) -> Ids:
        """An animal for each number, shape (NUMBERS,): whose direction it shares where a grid makes it (`grid`)."""
        return np.random.default_rng([self.seed, 3]).permutation(NUMBERS) % len(THINGS["animal"])

    def question(self, kind: str) -> Ids:
        """What asks for the favorite of `me`: the next word is a thing of the kind."""
        return self.tokens([ME, LIKES, kind, COLON])

    def list_prompts(self, count: int, rng: np.random.Generator) -> Ids:
        """Prompts of `me` for lists of numbers, shape (count, 2 + PROMPT_NUMBERS + 1)."""
        numbers = self._chain(count, PROMPT_NUMBERS, rng)
        start = np.tile(self.tokens([ME, LIST]), (count, 1))
        return np.hstack([start, self.number_tokens[numbers], np.full((count, 1), self.token[COLON])])

    def draw(self, kind: Sentence, count: int, rng: np.random.Generator) -> Ids:
        """Sentences of one kind, shape (count, LENGTH), padded behind."""
        made = {"scene": self._scenes, "liking": self._likings, "list": self._lists}[kind](count, rng)
        return np.pad(made, ((0, 0), (0, LENGTH - made.shape[1])))

    def corpus(self, count: int, rng: np.random.Generator) -> Ids:
        """Sentences of all kinds, half of them scenes: shape (count, the longest one's words), padded behind."""
        scenes, likings = count // 2, count // 4
        parts: list[tuple[Sentence, int]] = [
            ("scene", scenes),
            ("liking", likings),
            ("list", count - scenes - likings),
        ]
        rows = rng.permutation(np.concatenate([self.draw(kind, number, rng) for kind, number in parts]))
        return rows[:, : int((rows > 0).sum(axis=1).max())]

    def entropy(self, kind: Sentence) -> float:
        """Nats that a sentence of this kind has on average: the least possible loss, summed over all words but the
        first. That somebody likes or lists is a word as good as another: they are as frequent."""
        if kind == "scene":
            return self._scene_entropy()
        if kind == "liking":
            named = (len(NAMES) - 1) / len(NAMES)
            return math.log(2) + math.log(len(KINDS)) + (1 - named) * math.log(len(THINGS["animal"]))
        return math.log(2) + math.log(NUMBERS) + (PROMPT_NUMBERS + ANSWER_NUMBERS - 1) * 2 * math.log(self.choices)

    def corpus_entropy(self) -> float:
        """Nats per word over a corpus: the entropy of all sentences, by their words but the first."""
        share: dict[Sentence, float] = {"scene": 0.5, "liking": 0.25, "list": 0.25}
        nats = sum(part * self.entropy(kind) for kind, part in share.items())
        return nats / sum(part * self._mean_length(kind) for kind, part in share.items())

    def _mean_length(self, kind: Sentence) -> float:
        """Words of a sentence but the first, mean."""
        if kind == "scene":
            return 2 * float(np.arange(1, MOST_THINGS + 1) @ self._counts) + 2
        return 5.0 if kind == "liking" else PROMPT_NUMBERS + ANSWER_NUMBERS + 3.0

    @cached_property
    def _counts(self) -> NDArray[np.float64]:
        """The probability of 1 to MOST_THINGS things in a scene."""
        from scipy import stats

        found = stats.binom(len(self.things), self.density).pmf(np.arange(1, MOST_THINGS + 1))
        chances: NDArray[np.float64] = found / found.sum()
        return chances

    def _scene_entropy(self) -> float:
        """Of the number of things, which of them, their order, and the order of what they have."""
        things, chances = len(self.things), self._counts
        total = 0.0
        for count, chance in enumerate(chances, start=1):
            if chance > 0:
                which_in_order = sum(math.log(things - place) for place in range(count))
                total += chance * (-math.log(chance) + which_in_order + math.lgamma(count + 1))
        return total

    def _scenes(self, count: int, rng: np.random.Generator) -> Ids:
        rows = np.zeros((count, LENGTH), dtype=np.int64)
        rows[:, 0] = self.token[SCENE]
        sizes = rng.choice(np.arange(1, MOST_THINGS + 1), size=count, p=self._counts)
        for row, size in zip(rows, sizes, strict=True):
            there = rng.permutation(len(self.things))[:size]
            row[1 : size + 1] = self.thing_tokens[there]
            row[size + 1] = self.token[COLON]
            row[size + 2 : 2 * size + 2] = self.attribute_tokens[rng.permutation(there)]
            row[2 * size + 2] = self.token[END]
        return rows

    def _likings(self, count: int, rng: np.random.Generator) -> Ids:
        of_a_kind = len(THINGS["animal"])
        names, kinds = rng.integers(0, len(NAMES), count), rng.integers(0, len(KINDS), count)
        own = np.where(names > 0, self.favorites[names - 1, kinds], rng.integers(0, of_a_kind, count))
        things = self.thing_tokens[kinds * of_a_kind + own]
        columns = [self.tokens(NAMES)[names], np.full(count, self.token[LIKES]), self.tokens(KINDS)[kinds]]
        columns += [np.full(count, self.token[COLON]), things, np.full(count, self.token[END])]
        return np.stack(columns, axis=1)

    def _lists(self, count: int, rng: np.random.Generator) -> Ids:
        names = rng.integers(0, len(NAMES), count)
        numbers = self.number_tokens[self._chain(count, PROMPT_NUMBERS + ANSWER_NUMBERS, rng)]
        before, after = numbers[:, :PROMPT_NUMBERS], numbers[:, PROMPT_NUMBERS:]
        colon, end = (np.full((count, 1), self.token[word]) for word in (COLON, END))
        start = np.stack([self.tokens(NAMES)[names], np.full(count, self.token[LIST])], axis=1)
        return np.hstack([start, before, colon, after, end])

    def _chain(self, count: int, length: int, rng: np.random.Generator) -> Ids:
        """Numbers that follow each other, shape (count, length)."""
        numbers = np.zeros((count, length), dtype=np.int64)
        numbers[:, 0] = rng.integers(0, NUMBERS, count)
        for place in range(1, length):
            tens, ones = np.divmod(numbers[:, place - 1], 10)
            picks = rng.integers(0, self.choices, (2, count))
            numbers[:, place] = 10 * self.after[0, tens, picks[0]] + self.after[1, ones, picks[1]]
        return numbers
