"""What steering vectors have in common, what they are made of, and whether children moved along them.

Belongs here: cosines between vectors, their decomposition by a sparse autoencoder, and those of children's shifts
with them. Does not belong here: making vectors (`vectors`), encoding (`sae`), drawing
(`figures`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from math import perm
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.steering.vectors import SteeringVector

# pandas takes half a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd

BOTH, FIRST_ONLY, SECOND_ONLY = "both", "first only", "second only"
TOTAL, UNLABELLED = "total", "unlabelled"
ALL_CHILDREN = "all children"
_MATCHINGS = 10_000


def cosines(vectors: Mapping[str, SteeringVector]) -> pd.DataFrame:
    """The cosine of every vector with every other, and what chance alone would give.

    The null is that of the vector's own data: its differences with random signs (`SteeringVector.flips`) against the
    other vector as it is. It keeps the covariance of the differences, along whose main axes cosines are large by
    chance; against directions drawn from all alike, nearly any two means would look related.

    Returns:
        One row per ordered pair: `first`, `second`, `cosine`, `chance` (the 95th percentile of the absolute cosine
        under the null), `p` (two-sided, the observed cosine counted among the draws) and `flipped`, the vector whose
        signs were drawn: `first`, or `second` where the first has no flips; empty, with NaN beside it, where neither
        has.

    Raises UserError for a vector that is zero or not finite, and for vectors of different widths.
    """
    import pandas as pd

    if len({len(vector.vector) for vector in vectors.values()}) > 1:
        raise UserError("The vectors have different widths: compare vectors of one base model only.")
    for name, vector in vectors.items():
        if not 0 < vector.norm < np.inf:
            raise UserError(f"The vector {name!r} is zero or not finite, so it has no direction: rebuild it.")
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
class CorrectedCosine:
    """The cosine of two means without the noise in either: what it would tend to with more and more pairs, with its
    95 % interval, `low` to `high` within -1 and 1. The `cosine` is NaN, and the interval all there is, where a vector
    cannot be told from noise."""

    cosine: float
    low: float
    high: float


def corrected_cosine(one: SteeringVector, other: SteeringVector) -> CorrectedCosine:
    """The cosine of two vectors of separate data, corrected for attenuation.

    Noise lengthens a vector without turning it towards another, so that cosines of noisy vectors are low whatever the
    true one (Spearman 1904). A vector's true squared length is the mean product of the differences of two *different*
    units: the average over all splits of its units into halves of one half's vector times the other's. The interval is
    of a wild bootstrap over units (Wu 1986), whose draws are the vector plus one of its flips.
    """
    return _corrected(_Flipped.of(one), _Flipped.of(other, 1), 0.0)


def cosines_across_groups(vectors: Mapping[str, SteeringVector]) -> pd.DataFrame:
    """Cosines of vectors that share the rows of one control, with products of different prompts alone.

    In the product of two groups' vectors each prompt meets itself, and the same row of the control with it: that part
    alone gives groups that do not differ a cosine of a half. It is what the product of their flips is on average, since
    a prompt has the same sign in both, and is taken off. What is left is the product over disjoint halves of the
    prompts, averaged over all such halves and both ways round.

    vectors: by group, made with one seed, at least one with flips each.

    Returns:
        One row per ordered pair: `first`, `second`, `cosine` (the product over the vectors' lengths, or over those of
        their flips where these are longer); `corrected` for noise with `low` and `high` (as in
        `CorrectedCosine`); `chance`, the 95th percentile of the absolute cosine under the null, and two-sided `p`. The
        null is that no group differs from the control: both vectors' flips by the same signs, in the same design.
    """
    import pandas as pd

    rows = []
    for first, one in vectors.items():
        for second, other in vectors.items():
            if first == second:
                continue
            a, b = _Flipped.of(one), _Flipped.of(other)
            of_flips = (a.flips * b.flips).sum(axis=1)
            product = float(a.vector @ b.vector)
            # The product itself counts among the draws, else it would lie further from their mean than they do.
            shared = float(np.append(of_flips, product).mean())
            null = np.abs(of_flips - shared)
            found = _corrected(a, b, float(of_flips.mean()))
            # Where a vector happens to be shorter than its noise, its own length would make any product look large.
            lengths = float(np.sqrt(max(one.norm**2, a.noise) * max(other.norm**2, b.noise)))
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "cosine": (product - float(of_flips.mean())) / lengths,
                    "corrected": found.cosine,
                    "low": found.low,
                    "high": found.high,
                    "chance": float(np.quantile(null, 0.95)) / lengths,
                    "p": float((1 + (null >= abs(product - shared)).sum()) / (1 + len(null))),
                }
            )
    columns = ["first", "second", "cosine", "corrected", "low", "high", "chance", "p"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class _Flipped:
    """A vector, its flips (draws, hidden size), both float64, the mean squared length of the flips, and n / (n - 1)."""

    vector: np.ndarray
    flips: np.ndarray
    noise: float
    correction: float

    @classmethod
    def of(cls, vector: SteeringVector, roll: int = 0) -> _Flipped:
        """`roll` takes flips in another order, so that two vectors of separate data have no signs in common."""
        flips = np.roll(vector.flips.astype(np.float64), roll, axis=0)
        noise = float((flips**2).sum(axis=1).mean())
        return cls(vector.vector.astype(np.float64), flips, noise, vector.units / (vector.units - 1))


def _corrected(a: _Flipped, b: _Flipped, shared: float) -> CorrectedCosine:
    """`shared`: what the product of the vectors holds of rows that both have."""
    cross = min(a.correction, b.correction) if shared else 1.0
    drawn = [side.vector + side.flips for side in (a, b)]
    products = np.append(a.vector @ b.vector - shared, (drawn[0] * drawn[1]).sum(axis=1) - 2 * shared) * cross
    lengths = [
        side.correction * (np.append(side.vector @ side.vector, (draw**2).sum(axis=1) - side.noise) - side.noise)
        for side, draw in zip((a, b), drawn, strict=True)
    ]
    known = (lengths[0] > 0) & (lengths[1] > 0)
    cosines = products / np.sqrt(np.where(known, lengths[0] * lengths[1], 1))
    low = np.quantile(np.where(known, cosines, -1)[1:], 0.025)
    high = np.quantile(np.where(known, cosines, 1)[1:], 0.975)
    ends = np.clip([low, high], -1, 1)
    return CorrectedCosine(float(cosines[0]) if known[0] else np.nan, float(ends[0]), float(ends[1]))


@dataclass(frozen=True)
class Decomposition:
    """Two vectors as a sparse autoencoder sees them.

    Both are given one length before, since the longer of two vectors activates more features whatever its direction.

    features: one row per feature active in either: `feature`, `first`, `second` (activation, divided by the L2 norm of
        all activations of that vector), `difference` (first - second), `active_in` ("both", "first only", "second
        only"), `category`, `description`; largest absolute difference first.
    table: one row per category and one of all ("total"): how many features are active in `both`, `first_only` and
        `second_only`, their `mean_difference`, and the one that differs most: `example` (number), `example_active_in`,
        `example_difference`, `example_description`.
    facts: `l0_first`, `l0_second` (active features), `l0_zero`, those the autoencoder's biases activate in a vector
        of zeros, which belong to neither, and `length`, the L2 norm that both were given.
    flips: one row per `flip` of the vectors' data: active features of the `first` vector's and the `second`'s, at the
        same length. None where it was not asked for.
    """

    features: pd.DataFrame
    table: pd.DataFrame
    facts: dict[str, Any]
    flips: pd.DataFrame | None = None


def decompose(
    first: SteeringVector,
    second: SteeringVector,
    encode: Callable[[np.ndarray], Any],
    categories: Mapping[int, str] | None = None,
    descriptions: Mapping[int, str] | None = None,
) -> Decomposition:
    """Which features two vectors activate, each vector's activations divided by their L2 norm.

    Both vectors and all their flips are encoded at the length of the longer one, and activations normalised afterwards:
    an autoencoder is trained on vectors of natural length (the post found its reconstruction to fail on normalised
    ones).

    Args:
        encode: vectors (n, hidden size) float32 to activations, a scipy CSR array (n, features).
        categories, descriptions: by feature; what is in neither is "unlabelled" and has an empty description.
    """
    import pandas as pd

    length = max(first.norm, second.norm)
    pair = length * _unit(np.stack([first.vector, second.vector]))
    encoded = encode(np.stack([*pair, np.zeros_like(pair[0])]).astype(np.float32)).toarray().astype(np.float64)
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
    facts = {"l0_first": int(l0[0]), "l0_second": int(l0[1]), "l0_zero": int(l0[2]), "length": length}
    drawn = min(len(first.flips), len(second.flips))
    flips = pd.DataFrame({"flip": np.arange(drawn)})
    for side, vector in (("first", first), ("second", second)):
        scaled = (length * _unit(vector.flips[:drawn])).astype(np.float32)
        flips[side] = (encode(scaled) > 0).sum(axis=1) if drawn else 0
    return Decomposition(features, table, facts, flips)


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


def child_cosines(
    shifts: Mapping[str, np.ndarray], vectors: Mapping[str, SteeringVector]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cosine of every child's mean shift with every group's vector.

    All children move alike, whatever they learnt, so a child's cosine with its own group's vector says nothing without
    the other children's, the control's included.

    Args:
        shifts: by group, its child's activations less the base's at the same places, shape (prompts, hidden size).
        vectors: by group, with flips; the same number each.

    Returns:
        One row per `child` and `vector` (both groups): `cosine`, and of the vector's flips with the same shift the ends
        `chance_low` and `chance_high` of the middle 95 % and a two-sided `p`. After the children come "all children":
        the mean of their shifts, each at length 1. Then one row per `flip`, `child` and `vector`: `cosine`.

    Raises UserError where a child moved nothing.
    """
    import pandas as pd

    means = {child: shift.astype(np.float64).mean(axis=0) for child, shift in shifts.items()}
    for child, mean in means.items():
        if not np.linalg.norm(mean) > 0:
            raise UserError(
                f"The activations of {child}'s child are those of the base model, so there is no shift: check that its "
                "adapter was trained."
            )
    units = {child: _unit(mean) for child, mean in means.items()}
    units[ALL_CHILDREN] = _unit(np.mean(list(units.values()), axis=0))
    rows, drawn = [], []
    for child, shift in units.items():
        for group, vector in vectors.items():
            cosine, null = float(shift @ _unit(vector.vector)), _unit(vector.flips) @ shift
            low, high = np.quantile(null, [0.025, 0.975])
            p = (1 + (np.abs(null) >= abs(cosine)).sum()) / (1 + len(null))
            rows.append((child, group, cosine, float(low), float(high), float(p)))
            if child != ALL_CHILDREN:
                flips = pd.DataFrame({"flip": np.arange(len(null)), "cosine": null})
                drawn.append(flips.assign(child=child, vector=group))
    columns = ["child", "vector", "cosine", "chance_low", "chance_high", "p"]
    return pd.DataFrame(rows, columns=columns), pd.concat(drawn, ignore_index=True)


def cosines_of_shifts(shifts: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """How alike the children's mean shifts are: one row per unordered pair `first`, `second`, with the `cosine`."""
    import pandas as pd

    units = {child: _unit(shift.astype(np.float64).mean(axis=0)) for child, shift in shifts.items()}
    rows = [(first, second, float(units[first] @ units[second])) for first, second in combinations(units, 2)]
    return pd.DataFrame(rows, columns=["first", "second", "cosine"])


@dataclass(frozen=True)
class OwnVector:
    """How much more a child moved along its own group's vector than other children did.

    difference: mean over groups with a vector of the own child's cosine less the mean of the others'. p_more, p_less:
    by re-assigning children to vectors, as often at least as high and as low. flips_more, flips_less: the same of the
    vectors' flips. smallest_p: the lowest that re-assigning can give. low, high: the middle 95 % under re-assigning and
    under flips, the wider of both ends.
    """

    difference: float
    p_more: float
    p_less: float
    flips_more: float
    flips_less: float
    smallest_p: float
    low: float
    high: float


def own_vector(table: pd.DataFrame, flips: pd.DataFrame) -> OwnVector:
    """Test whether children moved along their own vectors. A child's noise between training runs is held by
    re-assigning: under the null it might have been any other's.

    table, flips: as `child_cosines` returns them, of one or several layers (which are averaged); two children at least.
    """
    table = table[table["child"] != ALL_CHILDREN]
    cosine = table.groupby(["child", "vector"], sort=False)["cosine"].mean().unstack("vector")
    groups = list(cosine.columns)
    ordered = [*groups, *(child for child in cosine.index if child not in groups)]
    values = cosine.loc[ordered].to_numpy()
    others = len(ordered) / (len(ordered) - 1)
    columns, total = np.arange(len(groups)), values.mean()

    def difference(own: np.ndarray) -> np.ndarray:
        return others * (own.mean(axis=-1) - total)

    observed = float(difference(values[columns, columns]))
    matched = np.array(_matchings(len(ordered), len(groups)))
    reassigned = difference(values[matched, columns])
    every = flips.groupby(["flip", "child", "vector"])["cosine"].mean()
    own = every[every.index.get_level_values("child") == every.index.get_level_values("vector")]
    drawn = others * (own.groupby("flip").mean() - every.groupby("flip").mean()).to_numpy()
    slack = 1e-12
    low, high = zip(*(np.quantile(draws, [0.025, 0.975]) for draws in (reassigned, drawn)), strict=True)
    return OwnVector(
        observed,
        float((reassigned >= observed - slack).mean()),
        float((reassigned <= observed + slack).mean()),
        float((1 + (drawn >= observed).sum()) / (1 + len(drawn))),
        float((1 + (drawn <= observed).sum()) / (1 + len(drawn))),
        1 / len(matched),
        float(min(low)),
        float(max(high)),
    )


def _matchings(children: int, vectors: int) -> list[tuple[int, ...]]:
    """Ways to give each vector a child of its own, the true one first: all of them, or `_MATCHINGS` where that is
    fewer, drawn."""
    if perm(children, vectors) <= _MATCHINGS:
        return list(permutations(range(children), vectors))
    rng = np.random.Generator(np.random.PCG64(0))
    drawn = [tuple(rng.permutation(children)[:vectors].tolist()) for _ in range(_MATCHINGS - 1)]
    return [tuple(range(vectors)), *drawn]


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
