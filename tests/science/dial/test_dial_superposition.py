"""Measures of superposition against arrangements whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from subliminal_dagster.science.dial.language import Language
from subliminal_dagster.science.dial.stack import EMBEDDING, UNEMBEDDING, new_stack
from subliminal_dagster.science.dial.superposition import (
    PLACES,
    added_by,
    cross_interference,
    dimensionalities,
    features_per_dimension,
    measure,
    readability,
)


def test_dimensionalities_of_known_arrangements() -> None:
    orthogonal = np.diag([1.0, 2.0, 0.5])
    np.testing.assert_allclose(dimensionalities(orthogonal), 1)
    pair = np.array([[1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(dimensionalities(pair), 0.5)
    angles = 2 * np.pi * np.arange(5) / 5
    pentagon = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(dimensionalities(pentagon), 2 / 5)
    assert features_per_dimension(pentagon) == pytest.approx(5 / 2)
    assert dimensionalities(np.array([[1.0, 0.0], [0.0, 0.0]])).tolist() == [1, 0]
    assert np.isnan(features_per_dimension(np.zeros((3, 2))))


def test_features_per_dimension_does_not_depend_on_length_and_grows_as_dimensions_go() -> None:
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((50, 400))
    assert features_per_dimension(3 * wide) == pytest.approx(features_per_dimension(wide))
    found = [features_per_dimension(rng.standard_normal((50, width))) for width in (400, 50, 10)]
    assert found == sorted(found)
    assert found[0] < 1.2
    assert found[2] == pytest.approx(50 / 10, rel=0.25)


def test_interference_is_one_for_random_directions_and_none_for_orthogonal_ones() -> None:
    rng = np.random.default_rng(0)
    assert cross_interference(rng.standard_normal((200, 30)), rng.standard_normal((300, 30))) == pytest.approx(
        1, rel=0.05
    )
    assert cross_interference(np.eye(6)[:3], np.eye(6)[3:]) == 0
    assert cross_interference(np.eye(6)[:1], np.eye(6)[:1]) == 6


def test_what_a_feature_adds_is_found_again() -> None:
    rng = np.random.default_rng(0)
    directions, presence = rng.standard_normal((5, 12)), (rng.random((400, 5)) < 0.3).astype(float)
    vectors = presence @ directions + 7 + 0.01 * rng.standard_normal((400, 12))
    np.testing.assert_allclose(added_by(presence, vectors), directions, atol=0.01)


def test_features_are_readable_where_they_have_room() -> None:
    rng = np.random.default_rng(0)
    presence = (rng.random((2000, 20)) < 0.1).astype(float)
    roomy = presence @ rng.standard_normal((20, 60))
    crowded = presence @ rng.standard_normal((20, 5))
    assert readability(presence, roomy) > 0.95
    assert 0 < readability(presence, crowded) < 0.5
    assert readability(presence, rng.standard_normal((2000, 60))) < 0.01


def test_a_stack_is_measured_model_by_model() -> None:
    """Words that are made orthogonal in the second model only are one feature per dimension there."""
    language = Language(1, 0.1, 3)
    stack = new_stack(len(language.words), 192, [1, 2])
    orthogonal = np.zeros((len(language.words), 192), dtype=np.float32)
    for place, token in enumerate([*language.number_tokens, *language.thing_tokens]):
        orthogonal[token, place] = 1
    for name in (EMBEDDING, UNEMBEDDING):
        stack.weights[name][1] = stack.weights[name].new_tensor(orthogonal)
    found = measure(stack, language, 0)
    assert list(found["place"]) == [*PLACES, *PLACES]
    words = found[found["place"] == "unembedding"].set_index("model")
    # Each kind of word is taken about its mean, which costs the 52 features three of their dimensions.
    assert words["features_per_dimension"][1] == pytest.approx(1, abs=0.07)
    assert words["interference"][1] == pytest.approx(0, abs=1e-9)
    assert words["interference"][0] == pytest.approx(1, abs=0.3)
    assert found.loc[found["place"] == "embedding", "readability"].isna().all()
