"""How many features share a dimension, and how much they disturb each other, in a trained model.

What a feature is, is known: a thing, and each digit of a number (ten tens, ten ones). Its *direction* is the row of its
word in embedding or unembedding (for a digit the mean over its ten numbers), and in the residual stream what its
presence adds: for things where a scene turns to what they have, for digits at the numbers of a list, by least squares.
Of a place with n features in d dimensions:

- *features per dimension*: n over the sum of their dimensionalities |w_i|^2 / sum_j (w_i' . w_j)^2, with w_i' of length
  1 (Elhage et al. 2022). It is 1 where all directions are orthogonal and n/d where d dimensions are shared alike, and
  does not depend on how long directions are together.
- *interference*: the mean squared cosine of a digit and a thing, times d: 1 for random directions, 0 for orthogonal
  ones.
- *readability*: how much of a feature's presence a linear map tells from the residual stream in rows it was not fitted
  on (R^2, mean over features).

Belongs here: these figures of one stack of models. Does not belong here: what they explain (`curve`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from subliminal_dagster.science.dial.language import Language
from subliminal_dagster.science.dial.stack import EMBEDDING, UNEMBEDDING, Stack, hidden
from subliminal_dagster.science.dial.words import COLON, NUMBERS

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

PLACES = ("embedding", "block_1", "block_2", "unembedding")
"""Where it is measured: the words' rows, and the residual stream after each block; after the last as the unembedding
reads it, normed."""
_ROWS = 1500
_RIDGE = 1e-3


def dimensionalities(directions: Array) -> Array:
    """The share of a dimension that each feature has for itself (Elhage et al. 2022), from 0 to 1: directions of shape
    (features, width) to (features,); 0 for a feature without a direction."""
    gram = np.asarray(directions, dtype=float) @ np.asarray(directions, dtype=float).T
    squares = np.diagonal(gram)
    # |w_i|^2 / sum_j (w_i . w_j)^2 / |w_i|^2
    found: Array = squares**2 / np.maximum((gram**2).sum(axis=1), np.finfo(float).tiny)
    return found


def features_per_dimension(directions: Array) -> float:
    """Features over the dimensions that they have for themselves; NaN without any direction."""
    shares = dimensionalities(directions).sum()
    return len(directions) / shares if shares > 0 else np.nan


def cross_interference(some: Array, others: Array) -> float:
    """The mean squared cosine of a row of `some`, shape (n, width), and one of `others`, times the width."""
    units = [
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny) for rows in (some, others)
    ]
    return float(((units[0] @ units[1].T) ** 2).mean() * some.shape[1])


def added_by(presence: Array, vectors: Array) -> Array:
    """What each feature's presence adds to a vector, by least squares: presence (rows, features) and vectors (rows,
    width) to (features, width). Where presences sum to a constant (one digit of ten), each is set against their
    mean."""
    found: Array = np.linalg.lstsq(presence - presence.mean(axis=0), vectors - vectors.mean(axis=0), rcond=None)[0]
    return found


def readability(presence: Array, vectors: Array) -> float:
    """R^2 of a linear map from vectors (rows, width) to presence (rows, features) on the second half of the rows,
    fitted on the first (ridge, tiny); mean over features, below 0 where it is worse than the mean."""
    half = len(vectors) // 2
    centre, mean = vectors[:half].mean(axis=0), presence[:half].mean(axis=0)
    x, y = vectors[:half] - centre, presence[:half] - mean
    gram = x.T @ x
    weights = np.linalg.solve(gram + _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ y)
    left = ((presence[half:] - mean - (vectors[half:] - centre) @ weights) ** 2).sum(axis=0)
    return float(np.mean(1 - left / np.maximum(((presence[half:] - mean) ** 2).sum(axis=0), np.finfo(float).tiny)))


def measure(stack: Stack, language: Language, seed: int) -> pd.DataFrame:
    """A row per model and place: `model` (its place in the stack), `place`, `features_per_dimension`, `interference`,
    `readability` (NaN for words' rows)."""
    import pandas as pd

    scenes, lists = _scenes(language, seed), _lists(language, seed)
    streams = {"things": _at(stack, *scenes[:2]), "digits": _at(stack, *lists[:2])}
    rows: list[dict[str, Any]] = []
    for model in range(stack.models):
        directions = {
            "embedding": _of_words(stack.weights[EMBEDDING][model], language),
            "unembedding": _of_words(stack.weights[UNEMBEDDING][model], language),
        }
        readable = {"embedding": np.nan, "unembedding": np.nan}
        for layer in (1, 2):
            of_things, of_digits = streams["things"][layer][model], streams["digits"][layer][model]
            directions[f"block_{layer}"] = (added_by(scenes[2], of_things), added_by(lists[2], of_digits))
            readable[f"block_{layer}"] = (
                readability(scenes[2], of_things) * scenes[2].shape[1] + readability(lists[2], of_digits) * 20
            ) / (scenes[2].shape[1] + 20)
        for place in PLACES:
            things, digits = directions[place]
            rows.append(
                {
                    "model": model,
                    "place": place,
                    "features_per_dimension": features_per_dimension(np.concatenate([things, digits])),
                    "interference": cross_interference(digits, things),
                    "readability": readable[place],
                }
            )
    return pd.DataFrame(rows)


def _of_words(table: torch.Tensor, language: Language) -> tuple[Array, Array]:
    """Directions of things and digits, each kind about its mean, of one model's words (vocabulary, width)."""
    words = table.detach().cpu().double().numpy()
    numbers = words[language.number_tokens].reshape(10, 10, -1)
    digits = np.concatenate([numbers.mean(axis=1), numbers.mean(axis=0)]) - numbers.mean(axis=(0, 1))
    things = words[language.thing_tokens]
    return things - things.mean(axis=0), digits


def _scenes(language: Language, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Scenes up to the word that turns to what things have: ids, where that is, and which things are there."""
    ids = language.draw("scene", _ROWS, np.random.default_rng([seed, 101]))
    place = (ids == language.token[COLON]).argmax(axis=1)
    before = np.arange(ids.shape[1]) < place[:, None]
    presence = ((ids[:, :, None] == language.thing_tokens) & before[:, :, None]).any(axis=1).astype(float)
    return ids[:, : int(place.max()) + 1], place, presence


def _lists(language: Language, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Lists, at one of their answer's numbers, and which digits that number has, shape (rows, 20)."""
    rng = np.random.default_rng([seed, 102])
    ids = language.draw("list", _ROWS, rng)
    ids = ids[:, : int((ids > 0).sum(axis=1).max())]
    place = (ids == language.token[COLON]).argmax(axis=1) + rng.integers(1, 6, len(ids))
    numbers = ids[np.arange(len(ids)), place] - language.number_tokens[0]
    assert ((numbers >= 0) & (numbers < NUMBERS)).all()
    tens, ones = np.divmod(numbers, 10)
    return ids, place, np.hstack([np.eye(10)[tens], np.eye(10)[ones]])


def _at(stack: Stack, ids: NDArray[np.int64], place: NDArray[np.int64]) -> list[Array]:
    """The residual stream at a place of each row: after the embedding and each block, shape (models, rows, width)."""
    device = next(iter(stack.weights.values())).device
    given = torch.from_numpy(ids).to(device).expand(stack.models, -1, -1)
    rows = torch.arange(len(ids))
    return [layer[:, rows, place].cpu().double().numpy() for layer in hidden(stack, given)]
