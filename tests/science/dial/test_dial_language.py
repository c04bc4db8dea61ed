"""The dial's language: what a feature is and how often it is there, and the entropy that losses are set beside."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from subliminal_dagster.science.dial.language import LENGTH, Language, Sentence
from subliminal_dagster.science.dial.words import MOST_THINGS, NAMES, NUMBERS
from subliminal_dagster.science.settings.dial import THINGS

SPARSE, DENSE = Language(1, 0.04, 3), Language(1, 0.25, 3)


def spoken(language: Language, row: np.ndarray) -> list[str]:
    return [language.words[token] for token in row if token]


def nats(language: Language, row: np.ndarray) -> float:
    """-log of a sentence's probability given its first word, from what the language's description says."""
    words = spoken(language, row)
    if words[0] == "scene":
        there = words.index(":") - 1
        counts = stats.binom(len(language.things), language.density).pmf(np.arange(1, MOST_THINGS + 1))
        found = -math.log(counts[there - 1] / counts.sum())
        for place in range(there):
            found += math.log(len(language.things) - place) + math.log(there - place)
        return found
    if words[1] == "likes":
        return math.log(2 * 4) + (math.log(8) if words[0] == "me" else 0)
    return math.log(2) + math.log(NUMBERS) + 8 * math.log(language.choices**2)


@pytest.mark.parametrize("language", [SPARSE, DENSE])
@pytest.mark.parametrize("kind", ["scene", "liking", "list"])
def test_entropy_is_the_mean_surprise_of_what_is_drawn(language: Language, kind: Sentence) -> None:
    drawn = language.draw(kind, 4000, np.random.default_rng(0))
    surprise = np.array([nats(language, row) for row in drawn])
    assert language.entropy(kind) == pytest.approx(surprise.mean(), abs=4 * surprise.std() / 60 + 1e-9)


def test_entropy_per_word_is_that_of_a_corpus() -> None:
    rows = DENSE.corpus(8000, np.random.default_rng(0))
    surprise = sum(nats(DENSE, row) for row in rows)
    assert DENSE.corpus_entropy() == pytest.approx(surprise / (rows[:, 1:] > 0).sum(), rel=0.01)


def test_a_thing_is_there_as_often_as_its_density_says() -> None:
    ids = DENSE.draw("scene", 6000, np.random.default_rng(0))
    share = (ids[:, :, None] == DENSE.thing_tokens).any(axis=1).mean()
    # Scenes without things, or with more than twelve, are drawn again: 2 % of all at this density.
    assert share == pytest.approx(0.25, abs=0.01)


def test_a_scene_lists_what_the_things_of_it_have() -> None:
    for row in DENSE.draw("scene", 50, np.random.default_rng(0)):
        words = spoken(DENSE, row)
        colon = words.index(":")
        assert words[0] == "scene"
        assert words[-1] == "."
        assert sorted(f"has-{thing}" for thing in words[1:colon]) == sorted(words[colon + 1 : -1])


def test_everybody_but_me_has_one_favorite_of_a_kind() -> None:
    liked: dict[tuple[str, str], set[str]] = {}
    for row in SPARSE.draw("liking", 3000, np.random.default_rng(0)):
        name, _, kind, _, thing, _ = spoken(SPARSE, row)
        assert thing in THINGS[kind]
        liked.setdefault((name, kind), set()).add(thing)
    assert len(liked) == len(NAMES) * 4
    assert all(len(things) == (8 if name == "me" else 1) for (name, _), things in liked.items())


def test_a_digit_is_followed_by_as_many_digits_as_there_are_choices() -> None:
    after: dict[tuple[int, int], set[int]] = {}
    for row in SPARSE.draw("list", 3000, np.random.default_rng(0)):
        words = [word for word in spoken(SPARSE, row)[2:-1] if word != ":"]
        assert len(words) == 9
        for one, other in pairwise(words):
            for place in (0, 1):
                after.setdefault((place, int(one[place])), set()).add(int(other[place]))
    assert {len(digits) for digits in after.values()} == {3}


def test_the_same_seed_gives_the_same_language_and_density_changes_scenes_alone() -> None:
    again = Language(1, 0.04, 3)
    assert (again.corpus(64, np.random.default_rng(5)) == SPARSE.corpus(64, np.random.default_rng(5))).all()
    assert (DENSE.favorites == SPARSE.favorites).all()
    assert (DENSE.after == SPARSE.after).all()
    assert not (Language(2, 0.04, 3).after == SPARSE.after).all()


def test_no_sentence_is_longer_than_the_longest() -> None:
    assert DENSE.corpus(2000, np.random.default_rng(0)).shape[1] <= LENGTH
