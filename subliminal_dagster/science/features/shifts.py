"""Which SAE features do a group's numbers activate more than the control's, and how many would do so by chance?

Words: a feature *fires* on a row where its activation is above zero; L0 is the number of features that fire on a row.
Against the control's rows a feature is *promoted* where its mean activation is significantly higher (Welch's t test,
one-sided, 5 %), *new* where it fires on none of the control's rows and on some of the group's, and an *animal* feature
where it fires on the animal's own word. A group *marks* a feature that is promoted or new there. Of many thousand
features one in twenty is promoted by chance, so every count stands beside its Benjamini-Hochberg correction and beside
what shuffled labels give.

Only rows of the analysis split are read: the test rows are for filters and probes that were chosen on the others.

Cost: matrices stay sparse, and a few passes over their entries test all features. Shuffled labels take three sparse
products per permutation, in blocks: besides a byte per row and permutation, their memory is that of the entries (about
40 bytes each) and of a block (about 50 MB), however many permutations there are. See `benchmarks/features.py`.

Belongs here: the comparison of one group with the control at one layer, and the tables of top features. Does not belong
here: making features (`activations`, the SAE), features as filters (`filters`), drawing (`figures`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.activations.activations import SparseFeatures
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.names import NEUTRAL
from subliminal_dagster.science.statistics import benjamini_hochberg

# scipy and pandas take over a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array

Array = NDArray[np.float64]

ALL = "all"
"""The label of a feature that every animal marks."""

# Numbers in one array of the shuffled labels' arithmetic, 8 bytes each; larger blocks are no faster.
_BLOCK = 2**18

_FILES = ("features.parquet", "summary.parquet", "per_row.parquet", "null.parquet")

_NULLS = ("promoted", "promoted_bh", "new", "promoted_per_row", "new_per_row")


@dataclass(frozen=True)
class FeatureShifts:
    """One group against the control at one layer; analysis rows only.

    features: a row per feature that fires on some row of either: feature (index in the SAE), t, p (Welch, one-sided),
        p_bh (p adjusted by Benjamini-Hochberg over exactly these features), mean_own, mean_control (mean activation
        over all rows, zeros included), rate_own, rate_control (share of rows it fires on), and the marks promoted
        (p < level), promoted_bh (p_bh < level), new, animal.
    summary: one row.
        rows_own, rows_control; features: how many were tested; animal_features: how many of those fire on the animal's
        word (the base rate for promoted_animal and new_animal).
        l0_mean, l0_median, l0_skew (NaN where L0 never varies), error_mean (mean over rows of the reconstruction error,
        the mean squared error over the hidden dimension), each with `_own` and `_control`; l0_p, error_p (Welch,
        two-sided); l0_differs, error_differs (p < level_strict).
        promoted, promoted_bh, new, promoted_animal, new_animal: numbers of features.
        The post's table, over the group's rows: promoted_per_row, new_per_row, animal_per_row (mean number of such
        features that fire on a row; animal here: promoted or new, and on the word); promoted_rows, new_rows,
        animal_rows (share of rows with at least one).
        The null from shuffled labels, for x in promoted, promoted_bh, new, promoted_per_row, new_per_row: x_null_mean,
        x_null_q95 (95 % quantile), x_null_p (share of labellings with at least as many, the observed one counted in).
        permutations, level, level_strict.
    per_row: a row per row of the group: row_id, l0, error, and how many promoted, new and animal features fire.
    null: a row per shuffled labelling, columns promoted, promoted_bh, new, promoted_per_row, new_per_row.
    """

    features: pd.DataFrame
    summary: pd.DataFrame
    per_row: pd.DataFrame
    null: pd.DataFrame

    def save(self, folder: Path) -> None:
        """Write the tables to features.parquet, summary.parquet, per_row.parquet and null.parquet in the folder."""
        for file, table in zip(_FILES, (self.features, self.summary, self.per_row, self.null), strict=True):
            table.to_parquet(folder / file, index=False)

    @classmethod
    def load(cls, folder: Path) -> FeatureShifts:
        """What `save` wrote."""
        import pandas as pd

        return cls(*(pd.read_parquet(folder / file) for file in _FILES))


class _Moments(NamedTuple):
    """Mean and unbiased variance over `rows` rows, arrays of one shape."""

    mean: Array
    variance: Array
    rows: Array | int


def compare_groups(
    own: SparseFeatures,
    control: SparseFeatures,
    word: Collection[int],
    *,
    level: float = 0.05,
    level_strict: float = 0.01,
    permutations: int,
    seed: int,
) -> FeatureShifts:
    """A group's features against the control's (see `FeatureShifts`), as in the post's section on features.

    word: the features that fire on the group's animal word; empty for a group without one.
    level: for promoted features, below 0.5; the post's 5 %. level_strict: for L0 and reconstruction error; the post's
    1 %. permutations: shuffled labellings, at least 1.

    Own and control rows with one row_id answered the same prompt. Labels are shuffled over all rows all the same, and
    not within pairs: Welch's test, whose count is judged, knows no pairs; a prompt whose answer was valid in one group
    alone has no partner; and answers to one prompt resemble each other, which makes the two groups only more alike than
    shuffled ones are. The null is thus, if anything, too large, and its p values err on the safe side.

    Raises UserError where either group has fewer than two analysis rows, the two come from different SAEs, or no
    feature fires at all.
    """
    import pandas as pd
    from scipy.sparse import csr_array, vstack

    rows, matrix = _analysis(own, "group")
    rows_control, matrix_control = _analysis(control, "control")
    _check_width(matrix, matrix_control)
    pooled = csr_array(vstack([matrix, matrix_control], format="csr"))
    fired = np.flatnonzero(_fires(pooled))
    if not len(fired):
        raise UserError("No feature fires on any analysis row of the group or the control: check the SAE.")
    pooled = pooled[:, fired]
    matrix, matrix_control = pooled[: len(rows)], pooled[len(rows) :]

    moments, moments_control = _moments(matrix), _moments(matrix_control)
    t, df, _ = _welch_t(moments, moments_control)
    p = _upper_tail(t, df)
    p_bh = benjamini_hochberg(p)
    fires, fires_control = _fires(matrix), _fires(matrix_control)
    promoted, new, on_word = p < level, fires_control == 0, np.isin(fired, list(word))
    features = pd.DataFrame(
        {
            "feature": fired,
            "t": t,
            "p": p,
            "p_bh": p_bh,
            "mean_own": moments.mean,
            "mean_control": moments_control.mean,
            "rate_own": fires / len(rows),
            "rate_control": fires_control / len(rows_control),
            "promoted": promoted,
            "promoted_bh": p_bh < level,
            "new": new,
            "animal": on_word,
        }
    )

    per_row = rows[["row_id"]].assign(l0=_l0(matrix), error=rows["error"])
    firing = csr_array((np.ones(matrix.nnz, dtype=np.int64), matrix.indices, matrix.indptr), shape=matrix.shape)
    for mark, marked in {"promoted": promoted, "new": new, "animal": (promoted | new) & on_word}.items():
        per_row[mark] = firing @ marked.astype(np.int64)

    null = counts_under_labels(pooled, shuffled_labels(len(rows), len(rows_control), permutations, seed), level=level)
    summary: dict[str, Any] = {
        "rows_own": len(rows),
        "rows_control": len(rows_control),
        "features": len(features),
        "animal_features": int(on_word.sum()),
    }
    for name, of_own, of_control in (
        ("l0", per_row["l0"].to_numpy(), _l0(matrix_control)),
        ("error", rows["error"].to_numpy(), rows_control["error"].to_numpy()),
    ):
        summary |= _described(name, of_own, of_control, level_strict)
    summary |= _counts(features, per_row, null)
    summary |= {"permutations": permutations, "level": level, "level_strict": level_strict}
    return FeatureShifts(features, pd.DataFrame([summary]), per_row, null)


def _counts(features: pd.DataFrame, per_row: pd.DataFrame, null: pd.DataFrame) -> dict[str, Any]:
    """The part of `FeatureShifts.summary` that counts marked features, by name and by row, beside the null."""
    counts: dict[str, Any] = {mark: int(features[mark].sum()) for mark in ("promoted", "promoted_bh", "new")}
    for mark in ("promoted", "new"):
        counts[f"{mark}_animal"] = int((features[mark] & features["animal"]).sum())
    for mark in ("promoted", "new", "animal"):
        counts[f"{mark}_per_row"] = float(per_row[mark].mean())
        counts[f"{mark}_rows"] = float((per_row[mark] > 0).mean())
    for name in _NULLS:
        counts[f"{name}_null_mean"] = float(null[name].mean())
        counts[f"{name}_null_q95"] = float(null[name].quantile(0.95))
        as_large = int((null[name] >= counts[name]).sum())
        counts[f"{name}_null_p"] = (1 + as_large) / (1 + len(null))
    return counts


def welch(own: csr_array, control: csr_array) -> tuple[Array, Array, Array]:
    """Welch's t test of every column at once: is its mean higher in `own` than in `control`?

    own, control: float32, shapes (rows, width) and (other rows, width), two rows or more, no entry stored twice.
    Returns t, the one-sided p value and the difference of the means, float64 of shape (width,): those of
    `scipy.stats.ttest_ind(equal_var=False, alternative="greater")` on dense columns. Where neither side of a column has
    any variance, equal means give t = nan (as in scipy) and p = 1 (scipy: nan; two equal constants are not evidence),
    unequal ones t = inf with p = 0, or t = -inf with p = 1. Time and memory go with the number of stored entries.
    Raises UserError for fewer than two rows, or different widths.
    """
    _check_width(own, control)
    _check_rows(own.shape[0], "group")
    _check_rows(control.shape[0], "control")
    t, df, difference = _welch_t(_moments(own), _moments(control))
    return t, _upper_tail(t, df), difference


def shuffled_labels(own_rows: int, control_rows: int, permutations: int, seed: int) -> NDArray[np.bool_]:
    """Random labellings of the pooled rows, shape (permutations, own_rows + control_rows): True stands for "own", in
    each as often as there are own rows. A byte a label."""
    observed = np.arange(own_rows + control_rows) < own_rows
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.permuted(np.broadcast_to(observed, (permutations, len(observed))), axis=1)


def counts_under_labels(pooled: csr_array, labels: NDArray[np.bool_], *, level: float = 0.05) -> pd.DataFrame:
    """How many features are promoted and new where the rows labelled True are set against the others?

    pooled: shape (rows, features); what is stored is above zero, and every feature fires somewhere. labels: shape
    (labellings, rows), two rows or more of either kind in each. level: below 0.5.
    Returns a row per labelling: promoted, promoted_bh (corrected over all features of `pooled`), new, and
    promoted_per_row, new_per_row: how many of those fire on a row labelled True, on average.
    """
    import pandas as pd
    from scipy.sparse import csr_array
    from scipy.stats import norm

    rows, width = pooled.shape
    by_feature = csr_array(pooled.T)
    # Around the pooled mean, which every labelling's own mean is near, sums of squares lose no digits.
    centre = _moments(pooled).mean
    apart = by_feature.data - np.repeat(centre, np.diff(by_feature.indptr))
    stored = [
        csr_array((values, by_feature.indices, by_feature.indptr), shape=by_feature.shape)
        for values in (np.ones(by_feature.nnz), apart, apart**2)
    ]
    centre = centre[:, None]
    everywhere = _sums(stored, np.ones((rows, 1)), centre)
    # The tail of a t distribution is heavier than the normal one: below this t, no p value is below the level.
    least = float(norm.isf(level))

    found = []
    step = max(1, _BLOCK // max(rows, width))
    for start in range(0, len(labels), step):
        chosen = labels[start : start + step].T.astype(np.float64)
        n = chosen.sum(axis=0)
        own = _sums(stored, chosen, centre)
        others = [total - part for total, part in zip(everywhere, own, strict=True)]
        t, df, _ = _welch_t(_from_sums(own, n, centre), _from_sums(others, rows - n, centre))
        p = np.ones_like(t)
        likely = t > least
        p[likely] = _upper_tail(t[likely], df[likely])
        fires = own[0]
        promoted, new = p < level, fires == everywhere[0]
        # The p values that are set to 1 are at or above the level before and after adjusting, so no count changes.
        adjusted = [int((benjamini_hochberg(column) < level).sum()) for column in p.T]
        found.append(
            {
                "promoted": promoted.sum(axis=0),
                "promoted_bh": adjusted,
                "new": new.sum(axis=0),
                "promoted_per_row": (fires * promoted).sum(axis=0) / n,
                "new_per_row": (fires * new).sum(axis=0) / n,
            }
        )
    return pd.concat([pd.DataFrame(block) for block in found], ignore_index=True)


def halves(control: SparseFeatures, seed: int) -> tuple[SparseFeatures, SparseFeatures]:
    """The control's analysis rows, at random in two: what a comparison shows where there is nothing to find. Of an odd
    number of rows the second half has one more."""
    rows, matrix = _analysis(control, "control")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))
    first, second = np.sort(order[: len(rows) // 2]), np.sort(order[len(rows) // 2 :])
    return (
        SparseFeatures(rows.iloc[first].reset_index(drop=True), matrix[first]),
        SparseFeatures(rows.iloc[second].reset_index(drop=True), matrix[second]),
    )


def l0_counts(features: SparseFeatures) -> NDArray[np.int64]:
    """L0 of every analysis row, shape (rows,)."""
    return _l0(_analysis(features, "group")[1])


def firing_features(features: SparseFeatures) -> NDArray[np.int64]:
    """The features that fire on some analysis row, ascending."""
    _, matrix = _analysis(features, "group")
    return np.flatnonzero(_fires(matrix))


def marked_features(shifts: FeatureShifts) -> NDArray[np.int64]:
    """The features that are promoted or new in a group, ascending."""
    return _marked(shifts)["feature"].to_numpy(dtype=np.int64)


def feature_labels(marked: Mapping[str, Collection[int]]) -> pd.DataFrame:
    """The labels of every feature that some group marks.

    marked: the features that each group marks (`marked_features`), the control left out. A feature that every animal
    marks, of two animals or more, is labelled "all" instead of each; any other has one label per animal that marks it.
    The neutral group is not an animal: "all" does not ask for it, and what it marks is labelled "neutral" besides.
    Returns feature and label, a row per pair.
    """
    import pandas as pd

    sets = {group: {int(feature) for feature in features} for group, features in marked.items()}
    animals = [group for group in sets if group != NEUTRAL]
    everywhere = set.intersection(*(sets[animal] for animal in animals)) if len(animals) > 1 else set()
    labels = {ALL: everywhere}
    for group, features in sets.items():
        labels[group] = features if group == NEUTRAL else features - everywhere
    pairs = [(feature, label) for label, features in labels.items() for feature in sorted(features)]
    return pd.DataFrame(pairs, columns=["feature", "label"]).astype({"feature": "int64", "label": "str"})


def top_features(shifts: FeatureShifts, n: int = 15, kind: Literal["promoted", "new"] = "promoted") -> pd.DataFrame:
    """The n promoted or new features of one group with the largest t: rows of `FeatureShifts.features`. A new feature
    that is significant is promoted too."""
    return _largest(shifts.features[shifts.features[kind]], "t").head(n)


def labelled_features(shifts: Sequence[tuple[str, FeatureShifts]]) -> pd.DataFrame:
    """Every feature that some group marks, the largest mean t first: the post's tables of top features over all groups
    are the first rows that are new, and the first that are promoted.

    shifts: pairs of group and its comparison at one layer. Returns feature, labels (see `feature_labels`, joined by
    ", "), groups (how many mark it), mean_t (over those), promoted, new (in any of those), in_control (fires on the
    control's analysis rows), animal (fires on the word of any of those).
    """
    import pandas as pd

    by_feature = pd.concat([_marked(table) for _, table in shifts]).groupby("feature")
    labels = feature_labels({group: marked_features(table) for group, table in shifts})
    found = pd.DataFrame(
        {
            "labels": labels.groupby("feature")["label"].agg(", ".join),
            "groups": by_feature.size(),
            "mean_t": by_feature["t"].mean(),
            "promoted": by_feature["promoted"].any(),
            "new": by_feature["new"].any(),
            "in_control": by_feature["rate_control"].max() > 0,
            "animal": by_feature["animal"].any(),
        }
    )
    return _largest(found.reset_index(), "mean_t")


def unique_features(shifts: Sequence[tuple[str, FeatureShifts]], n: int = 15) -> pd.DataFrame:
    """Of each group the n features with the largest t among those that no other group marks.

    shifts: as in `labelled_features`. Returns group, then the columns of `FeatureShifts.features`.
    """
    import pandas as pd

    every = labelled_features(shifts)
    alone = every.loc[every["groups"] == 1, "feature"]
    tables = []
    for group, table in shifts:
        marked = _marked(table)
        unique = _largest(marked[marked["feature"].isin(alone)], "t").head(n)
        unique.insert(0, "group", group)
        tables.append(unique)
    return pd.concat(tables, ignore_index=True)


def _marked(shifts: FeatureShifts) -> pd.DataFrame:
    return shifts.features[shifts.features["promoted"] | shifts.features["new"]]


def _largest(table: pd.DataFrame, by: str) -> pd.DataFrame:
    return table.sort_values([by, "feature"], ascending=[False, True]).reset_index(drop=True)


def _analysis(features: SparseFeatures, name: str) -> tuple[pd.DataFrame, csr_array]:
    """Rows of the analysis split, with their matrix."""
    mine = (features.rows["split"] == "analysis").to_numpy()
    _check_rows(int(mine.sum()), name)
    return features.rows[mine].reset_index(drop=True), features.matrix[mine]


def _check_rows(rows: int, name: str) -> None:
    if rows < 2:
        raise UserError(
            f"A comparison of features needs two analysis rows or more of the {name}, and there are {rows}: collect "
            "the activations of more rows."
        )


def _check_width(own: csr_array, control: csr_array) -> None:
    if own.shape[1] != control.shape[1]:
        raise UserError(
            f"The group's SAE has {own.shape[1]} features and the control's {control.shape[1]}: encode both with the "
            "same SAE."
        )


def _fires(matrix: csr_array) -> NDArray[np.int64]:
    """On how many rows each feature fires, shape (width,)."""
    return np.bincount(matrix.indices, minlength=matrix.shape[1])


def _l0(matrix: csr_array) -> NDArray[np.int64]:
    return np.diff(matrix.indptr).astype(np.int64)


def _moments(matrix: csr_array) -> _Moments:
    """Of every column, zeros included. Deviations are taken from the mean before they are squared: the difference of
    two large sums of squares would lose the digits that the variance is made of. Sums of equal float32 values are exact
    in float64, so a column that never varies has a variance of exactly 0."""
    rows, width = matrix.shape
    values, columns = matrix.data.astype(np.float64), matrix.indices
    zeros = rows - np.bincount(columns, minlength=width)
    mean = np.bincount(columns, values, width) / rows
    squares = np.bincount(columns, (values - mean[columns]) ** 2, width) + zeros * mean**2
    return _Moments(mean, squares / (rows - 1), rows)


def _sums(stored: list[csr_array], chosen: Array, centre: Array) -> list[Array]:
    """Over the chosen rows, each shape (features, labellings): how many fire, and the sum of the deviations from
    `centre` and of their squares, zeros included.

    stored: ones, deviations and squares of what is stored, each shape (features, rows). chosen: 0 or 1, shape (rows,
    labellings).
    """
    fires, first, second = (matrix @ chosen for matrix in stored)
    zeros = chosen.sum(axis=0) - fires
    return [fires, first - zeros * centre, second + zeros * centre**2]


def _from_sums(sums: list[Array], rows: Array, centre: Array) -> _Moments:
    _, first, second = sums
    # Rounding can leave less than nothing where all chosen rows are the same.
    return _Moments(centre + first / rows, np.maximum(0, second - first**2 / rows) / (rows - 1), rows)


def _welch_t(own: _Moments, control: _Moments) -> tuple[Array, Array, Array]:
    """t, degrees of freedom (1 where there is no variance: any would do) and the difference of the means."""
    of_own, of_control = own.variance / own.rows, control.variance / control.rows
    variance = of_own + of_control
    difference = own.mean - control.mean
    with np.errstate(divide="ignore", invalid="ignore"):
        t = difference / np.sqrt(variance)
        df = variance**2 / (of_own**2 / (own.rows - 1) + of_control**2 / (control.rows - 1))
    return t, np.where(np.isnan(df), 1.0, df), difference


def _upper_tail(t: Array, df: Array) -> Array:
    """P(T >= t); 1 where t is nan."""
    from scipy.special import stdtr

    return np.where(np.isnan(t), 1.0, stdtr(df, -t))


def _described(name: str, own: NDArray[Any], control: NDArray[Any], level: float) -> dict[str, Any]:
    """A value per row of both: means (of L0 median and skew as well), and whether the means differ (two-sided)."""
    from scipy.stats import skew

    described: dict[str, Any] = {}
    moments = []
    for side, raw in (("own", own), ("control", control)):
        values = raw.astype(np.float64)
        moments.append(_Moments(values.mean(), values.var(ddof=1), len(values)))
        described[f"{name}_mean_{side}"] = float(values.mean())
        if name == "l0":
            described[f"{name}_median_{side}"] = float(np.median(values))
            described[f"{name}_skew_{side}"] = skew(values) if np.ptp(values) else np.nan
    t, df, _ = _welch_t(*moments)
    described[f"{name}_p"] = float(np.minimum(1, 2 * _upper_tail(np.abs(t), df)))
    described[f"{name}_differs"] = described[f"{name}_p"] < level
    return described
