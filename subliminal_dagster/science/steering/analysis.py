"""What steering vectors have in common, what they are made of, and how much of a child's change they explain.

Belongs here: cosines between vectors, their decomposition by a sparse autoencoder, and the projection of a child's
shift on them. Does not belong here: making vectors (`vectors`), encoding (`sae`), drawing
(`figures`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.steering.vectors import SteeringVector

# pandas takes half a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd

BOTH, FIRST_ONLY, SECOND_ONLY = "both", "first only", "second only"
TOTAL, UNLABELLED = "total", "unlabelled"
TOGETHER = "all together"


def cosines(vectors: Mapping[str, SteeringVector]) -> pd.DataFrame:
    """The cosine of every vector with every other, and what chance alone would give.

    The null is that of the vector's own data: its differences with random signs (`SteeringVector.flips`) against the
    other vector as it is. It keeps the covariance of the differences, along whose main axes cosines are large by
    chance; against directions drawn from all alike, nearly any two means would look related.

    Returns:
        A row an ordered pair: `first`, `second`, `cosine`, `chance` (the 95th percentile of the absolute cosine under
        the null), `p` (two-sided, the observed cosine counted among the draws) and `flipped`, the vector whose signs
        were drawn: `first`, or `second` where the first has no flips; empty, with NaN beside it, where neither has.

    Raises UserError for a vector that is zero or not finite, and for vectors of different widths.
    """
    import pandas as pd

    if len({len(vector.vector) for vector in vectors.values()}) > 1:
        raise UserError("The vectors have different widths: compare vectors of one base model only.")
    for name, vector in vectors.items():
        if not 0 < vector.norm < np.inf:
            raise UserError(f"The vector {name!r} is zero or not finite, so it has no direction: make it again.")
    rows = []
    for first, one in vectors.items():
        for second, other in vectors.items():
            if first == second:
                continue
            observed = float(_unit(one.vector) @ _unit(other.vector))
            flipped = first if len(one.flips) else second if len(other.flips) else ""
            chance, p = np.nan, np.nan
            if flipped:
                flips, fixed = (one.flips, other) if flipped == first else (other.flips, one)
                null = np.abs(_unit(flips) @ _unit(fixed.vector))
                chance = float(np.quantile(null, 0.95))
                p = float((1 + (null >= abs(observed)).sum()) / (1 + len(null)))
            rows.append((first, second, observed, chance, p, flipped))
    return pd.DataFrame(rows, columns=["first", "second", "cosine", "chance", "p", "flipped"])


@dataclass(frozen=True)
class Decomposition:
    """Two vectors as a sparse autoencoder sees them.

    features: a row a feature active in either: `feature`, `first`, `second` (activation, divided by the L2 norm of all
        activations of that vector), `difference` (first - second), `active_in` ("both", "first only", "second only"),
        `category`, `description`; largest absolute difference first.
    table: a row a category and one of all ("total"): how many features are active in `both`, `first_only` and
        `second_only`, their `mean_difference`, and the one that differs most: `example` (number), `example_active_in`,
        `example_difference`, `example_description`.
    facts: `l0_first`, `l0_second` (active features), and `l0_zero`, those the autoencoder's biases activate in a vector
        of zeros, which belong to neither.
    """

    features: pd.DataFrame
    table: pd.DataFrame
    facts: dict[str, Any]


def decompose(
    first: np.ndarray,
    second: np.ndarray,
    encode: Callable[[np.ndarray], Any],
    categories: Mapping[int, str] | None = None,
    descriptions: Mapping[int, str] | None = None,
) -> Decomposition:
    """Which features two vectors activate, each vector's activations divided by their L2 norm.

    The vectors are encoded as they are and activations normalised afterwards: an autoencoder is trained on vectors of
    natural length (the post found its reconstruction to fail on normalised ones).

    Args:
        first, second: shape (hidden size,).
        encode: vectors (n, hidden size) float32 to activations, a scipy CSR array (n, features).
        categories, descriptions: by feature; what is in neither is "unlabelled" and has an empty description.
    """
    import pandas as pd

    encoded = encode(np.stack([first, second, np.zeros_like(first)]).astype(np.float32)).toarray().astype(np.float64)
    l0 = (encoded > 0).sum(axis=1)
    norms = np.linalg.norm(encoded, axis=1, keepdims=True)
    one, other = (encoded / np.where(norms > 0, norms, 1))[:2]
    numbers = np.flatnonzero((one > 0) | (other > 0))
    features = pd.DataFrame(
        {
            "feature": numbers,
            "first": one[numbers],
            "second": other[numbers],
            "difference": one[numbers] - other[numbers],
            "active_in": np.select([other[numbers] == 0, one[numbers] == 0], [FIRST_ONLY, SECOND_ONLY], default=BOTH),
            "category": [(categories or {}).get(int(number), UNLABELLED) for number in numbers],
            "description": [(descriptions or {}).get(int(number), "") for number in numbers],
        }
    )
    features = features.sort_values("difference", key=np.abs, ascending=False, kind="stable", ignore_index=True)
    table = table_by_category(features)
    facts = {"l0_first": int(l0[0]), "l0_second": int(l0[1]), "l0_zero": int(l0[2])}
    return Decomposition(features, table, facts)


def table_by_category(features: pd.DataFrame) -> pd.DataFrame:
    """`Decomposition.table` of `Decomposition.features`, whose categories may have become known since."""
    import pandas as pd

    parts = [*features.groupby("category"), (TOTAL, features)]
    return pd.DataFrame([_category_row(name, part) for name, part in parts if len(part)])


def categorised(features: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """`Decomposition.features` with the category and description of every feature of `known` (columns feature,
    category, description)."""
    found = features[["feature"]].merge(known, on="feature", how="left")
    return features.assign(
        category=found["category"].fillna(UNLABELLED).to_numpy(), description=found["description"].fillna("").to_numpy()
    )


def explained_shift(shift: np.ndarray, directions: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """How much of a child's shift lies along each direction, and in the space of all of them together.

    Args:
        shift: the child's activations less the base's at the same places, shape (n, hidden size), a row an independent
            prompt. Prompts without any shift are left out.
        directions: shape (hidden size,) each, of any norm.

    Returns:
        A row a direction and, for several, one "all together": `cosine` (mean over rows) with its 95 % t interval `low`
        to `high` (NaN for all together, which has no sign), `explained` (share of the rows' summed squared norm that
        the projection holds), `explained_mean` (the same of the mean shift), and `chance`, the share that so many
        directions drawn from all alike would hold.

    Raises UserError where fewer than two rows differ from zero, or a direction is zero.
    """
    import pandas as pd
    from scipy.linalg import orth

    shift = shift.astype(np.float64)
    moved = shift[np.linalg.norm(shift, axis=1) > 0]
    if len(moved) < 2:
        raise UserError("The child's activations are those of the base model, so there is no shift to explain.")
    for name, direction in directions.items():
        if not np.linalg.norm(direction) > 0:
            raise UserError(f"The direction {name!r} is zero: make it again.")
    bases = {name: _unit(direction)[:, None] for name, direction in directions.items()}
    if len(bases) > 1:
        bases[TOGETHER] = orth(np.concatenate(list(bases.values()), axis=1))
    mean = moved.mean(axis=0)
    rows = []
    for name, basis in bases.items():
        along = moved @ basis
        row = {"direction": name, "cosine": np.nan, "low": np.nan, "high": np.nan}
        if name != TOGETHER:
            found = t_interval(along[:, 0] / np.linalg.norm(moved, axis=1))
            row |= {"cosine": found.mean, "low": found.low, "high": found.high}
        row["explained"] = float((along**2).sum() / (moved**2).sum())
        row["explained_mean"] = float(((mean @ basis) ** 2).sum() / (mean**2).sum())
        rows.append(row | {"chance": basis.shape[1] / moved.shape[1]})
    return pd.DataFrame(rows)


def _category_row(name: Any, part: pd.DataFrame) -> dict[str, Any]:
    counts = part["active_in"].value_counts()
    example = part.iloc[0]
    return {
        "category": name,
        "both": int(counts.get(BOTH, 0)),
        "first_only": int(counts.get(FIRST_ONLY, 0)),
        "second_only": int(counts.get(SECOND_ONLY, 0)),
        "mean_difference": float(part["difference"].mean()),
        "example": int(example["feature"]),
        "example_active_in": example["active_in"],
        "example_difference": float(example["difference"]),
        "example_description": example["description"],
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., hidden size) divided by their L2 norm, in float64; zero stays zero."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return wide / np.where(norms > 0, norms, 1)
