"""Single SAE features as filters: can one feature tell a group's numbers from all others?

As in the post's section on filters. A feature is a filter for the labels of the groups that mark it
(`feature_labels`): a row is called positive where the feature fires. For an animal's label the rows of that animal are
the positive class, and those of all other groups of the layer the negative one: control, other animals, neutral. For
"all" the rows of every animal are positive, those of control and neutral negative (the post, which has no neutral
group, sets "all" against the control alone). The neutral group's rows are thus negative for every label but "neutral":
a filter that finds fine-tuned teachers rather than animals fires on them, and `FeatureFilters.rates` shows it.

Filters are chosen on analysis rows and judged on test rows. The best of thousands of features looks better on the rows
it was chosen on than it is; the two columns side by side show by how much. Test rows do not help where a feature was
chosen for what is peculiar to one teacher's run, which its test rows have too: `held_out_filters` chooses on the other
animals, and stands what a single digit at one place does beside it.

Belongs here: choosing and judging single features. Does not belong here: which features are marked (`shifts`),
classifiers of whole activations (`probes`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.activations.activations import SparseFeatures
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.features.shifts import ALL, feature_labels
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL

if TYPE_CHECKING:
    import pandas as pd

UNCATEGORISED = "uncategorised"

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class FeatureFilters:
    """The chosen features of one layer and how they do on test rows. Fractions, not percent.

    selected: a row per label and chosen feature, best on analysis rows first.
        label, feature, analysis_balanced_accuracy; on test rows balanced_accuracy with the ends low and high of its
        95 % interval, recall, precision (NaN where nothing is called positive), predicted_positive (share of rows it
        fires on), true_positive (share of rows that are positive in truth; the post's name), positive_rows,
        negative_rows; in_control (fires on the control's analysis rows), in_animal (fires on the label's word; for
        "all" on any animal's), category.
    by_category: label, category, features (how many), balanced_accuracy (mean over them, test rows).
    rates: label, feature, group, rows, rate: the share of each group's test rows that the chosen feature fires on.
    """

    selected: pd.DataFrame
    by_category: pd.DataFrame
    rates: pd.DataFrame


def held_out_filters(features: Mapping[str, SparseFeatures], digits: Mapping[str, NDArray[np.float32]]) -> pd.DataFrame:
    """For each animal, the filter that tells the other animals best from the control, judged on this animal.

    It is chosen by its mean balanced accuracy over the other animals' analysis rows against the control's, among all
    features, and judged on test rows; the neutral group has no part in the choice. A study of one animal chooses on its
    own analysis rows. The same is done with digits by their place.

    features: every group of one layer, the control among them. digits: of every group, what `digit_columns` gives, in
    the order of the rows of its features.

    Returns: animal, feature, digit (the chosen columns); own, control, neutral (shares of their test rows that the
    feature fires on; neutral NaN where there is none); balanced_accuracy of the feature, against the control alone,
    with Newcombe's 95 % interval low, high; digit_balanced_accuracy; difference (feature less digit), difference_low,
    difference_high (95 %, by the rows' own differences). Fractions, not percent.

    Raises UserError where the control is missing or a group has no rows in one of the splits.
    """
    import pandas as pd

    _check(features, {group: () for group in features if group != CONTROL})
    animals = [group for group in features if group not in (CONTROL, NEUTRAL)]
    fires = {group: {"feature": table.matrix > 0, "digit": digits[group] > 0} for group, table in features.items()}
    analysis = {name: _rates_of(features, fires, "analysis", name) for name in ("feature", "digit")}
    found = []
    for animal in animals:
        others = [other for other in animals if other != animal] or [animal]
        chosen = {
            name: int(np.argmax(np.mean([rates[other] for other in others], axis=0) - rates[CONTROL]))
            for name, rates in analysis.items()
        }
        hits = {
            group: {
                name: _column(fires[group][name], column, _split(features[group], "test"))
                for name, column in chosen.items()
            }
            for group in (animal, CONTROL, *([NEUTRAL] if NEUTRAL in features else []))
        }
        found.append({"animal": animal, **chosen, **_held_out(hits[animal], hits[CONTROL], hits.get(NEUTRAL))})
    return pd.DataFrame(found)


def _held_out(
    own: Mapping[str, NDArray[np.bool_]],
    control: Mapping[str, NDArray[np.bool_]],
    neutral: Mapping[str, NDArray[np.bool_]] | None,
) -> dict[str, float]:
    """What `held_out_filters` says of one animal. Each by "feature" and "digit": whether it fires, shape (rows,)."""
    from scipy.stats import norm
    from statsmodels.stats.proportion import confint_proportions_2indep

    counts = [own["feature"].sum(), len(own["feature"]), control["feature"].sum(), len(control["feature"])]
    ends = confint_proportions_2indep(*counts, method="newcomb", compare="diff", alpha=1 - _CONFIDENCE)
    accuracy = {name: float(1 + own[name].mean() - control[name].mean()) / 2 for name in own}
    apart = [side["feature"].astype(float) - side["digit"] for side in (own, control)]
    half = float(norm.ppf((1 + _CONFIDENCE) / 2)) * sum(each.var() / len(each) for each in apart) ** 0.5 / 2
    difference = accuracy["feature"] - accuracy["digit"]
    return {
        "own": float(own["feature"].mean()),
        "control": float(control["feature"].mean()),
        "neutral": float(neutral["feature"].mean()) if neutral else float("nan"),
        "balanced_accuracy": accuracy["feature"],
        "low": float(1 + ends[0]) / 2,
        "high": float(1 + ends[1]) / 2,
        "digit_balanced_accuracy": accuracy["digit"],
        "difference": difference,
        "difference_low": difference - half,
        "difference_high": difference + half,
    }


@dataclass(frozen=True)
class _Counts:
    """Of one split: rows of each group, shape (groups,), and on how many each feature fires, shape (groups, width)."""

    rows: NDArray[np.int64]
    fires: NDArray[np.int64]


def filter_features(
    features: Mapping[str, SparseFeatures],
    marked: Mapping[str, Collection[int]],
    *,
    words: Mapping[str, Collection[int]],
    categories: Mapping[int, str] | None = None,
    top: int = 25,
) -> FeatureFilters:
    """Choose the `top` features of each label by balanced accuracy on analysis rows, and judge them on test rows.

    features: every group of one layer, the control among them. marked: promoted or new features of each group that was
    compared with the control (`marked_features`); neutral, where it is among them, has a label of its own. words: the
    features that fire on each animal's word. categories: of features, where known.

    The interval is Newcombe's for the difference of the two classes' rates, made of Wilson's for each: unlike the
    normal approximation it has a width where a feature never or always fires. It takes rows as independent. Answers to
    one prompt stand in both classes, so what a prompt does to all of them cancels in the difference, and the interval
    is rather too wide than too narrow.

    Raises UserError where the control or a marked group is missing, a group has no rows in one of the splits, or the
    groups come from different SAEs.
    """
    import pandas as pd

    _check(features, marked)
    groups = list(features)
    analysis, test = _counts(features, "analysis"), _counts(features, "test")
    labels = feature_labels(marked)
    animals = [group for group in marked if group != NEUTRAL]
    control = groups.index(CONTROL)

    tables, rates = [], []
    for label in [*marked, *([ALL] if len(animals) > 1 else [])]:
        candidates = labels.loc[labels["label"] == label, "feature"].to_numpy(dtype=np.int64)
        positive = np.isin(groups, animals if label == ALL else [label])
        chosen_on = _judge(analysis, candidates, positive)["balanced_accuracy"].to_numpy()
        # Ascending features first, so that of equally good ones the lower index is taken.
        best = np.argsort(-chosen_on, kind="stable")[:top]
        chosen = candidates[best]
        word = set().union(*(words.get(animal, ()) for animal in (animals if label == ALL else [label])))
        table = _judge(test, chosen, positive)
        table.insert(0, "label", label)
        table.insert(2, "analysis_balanced_accuracy", chosen_on[best])
        table["in_control"] = analysis.fires[control, chosen] > 0
        table["in_animal"] = np.isin(chosen, list(word))
        table["category"] = [(categories or {}).get(int(feature), UNCATEGORISED) for feature in chosen]
        tables.append(table)
        rates.append(_rates(test, chosen, groups).assign(label=label))
    selected = pd.concat(tables, ignore_index=True)
    by_category = (
        selected.groupby(["label", "category"], sort=False)["balanced_accuracy"].agg(["size", "mean"]).reset_index()
    )
    by_category = by_category.rename(columns={"size": "features", "mean": "balanced_accuracy"})
    rates_table = pd.concat(rates, ignore_index=True)[["label", "feature", "group", "rows", "rate"]]
    return FeatureFilters(selected, by_category, rates_table)


def _judge(counts: _Counts, features: NDArray[np.int64], positive: NDArray[np.bool_]) -> pd.DataFrame:
    """The features as filters for the groups where `positive` is True, a row each, in their order."""
    import pandas as pd
    from statsmodels.stats.proportion import confint_proportions_2indep

    fires = counts.fires[:, features]
    hits, false_alarms = fires[positive].sum(axis=0), fires[~positive].sum(axis=0)
    positive_rows, negative_rows = int(counts.rows[positive].sum()), int(counts.rows[~positive].sum())
    recall, false_rate = hits / positive_rows, false_alarms / negative_rows
    low, high = confint_proportions_2indep(
        hits, positive_rows, false_alarms, negative_rows, method="newcomb", compare="diff", alpha=1 - _CONFIDENCE
    )
    called = hits + false_alarms
    return pd.DataFrame(
        {
            "feature": features,
            # The mean of recall and of the share of negatives that are not called positive.
            "balanced_accuracy": (1 + recall - false_rate) / 2,
            "low": (1 + low) / 2,
            "high": (1 + high) / 2,
            "recall": recall,
            "precision": np.divide(hits, called, out=np.full(len(features), np.nan), where=called > 0),
            "predicted_positive": called / (positive_rows + negative_rows),
            "true_positive": positive_rows / (positive_rows + negative_rows),
            "positive_rows": positive_rows,
            "negative_rows": negative_rows,
        }
    )


def _rates(counts: _Counts, features: NDArray[np.int64], groups: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "feature": np.repeat(features, len(groups)),
            "group": groups * len(features),
            "rows": np.tile(counts.rows, len(features)),
            "rate": (counts.fires[:, features] / counts.rows[:, None]).T.ravel(),
        }
    )


def _counts(features: Mapping[str, SparseFeatures], split: str) -> _Counts:
    rows, fires = [], []
    for group, table in features.items():
        mine = (table.rows["split"] == split).to_numpy()
        if not mine.any():
            raise UserError(f"The group {group} has no {split} rows, which feature filters need: collect more rows.")
        part = table.matrix[mine]
        rows.append(int(mine.sum()))
        fires.append(np.bincount(part.indices, minlength=part.shape[1]))
    return _Counts(np.array(rows), np.stack(fires))


def _split(features: SparseFeatures, split: str) -> NDArray[np.bool_]:
    return (features.rows["split"] == split).to_numpy()


def _rates_of(
    features: Mapping[str, SparseFeatures], fires: Mapping[str, Any], split: str, name: str
) -> dict[str, Any]:
    """On what share of its rows of a split each column fires, by group: shape (width,)."""
    rates = {}
    for group, table in features.items():
        mine = _split(table, split)
        if not (mine.any() and _split(table, "test").any()):
            raise UserError(
                f"The group {group} has no analysis or no test rows, which filters need: collect more rows."
            )
        rates[group] = np.asarray(fires[group][name][mine].mean(axis=0)).ravel()
    return rates


def _column(fires: Any, column: int, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether one column fires on some rows, shape (rows,), of a dense or a sparse matrix."""
    one = fires[:, [column]][rows]
    return np.asarray(one.toarray() if hasattr(one, "toarray") else one).ravel()


def _check(features: Mapping[str, SparseFeatures], marked: Mapping[str, Collection[int]]) -> None:
    missing = [group for group in [CONTROL, *marked] if group not in features]
    if missing:
        raise UserError(f"Feature filters need the features of {', '.join(missing)}: encode the activations first.")
    if not marked:
        raise UserError("Feature filters need a group that was compared with the control: add an animal to the study.")
    widths = {group: table.matrix.shape[1] for group, table in features.items()}
    if len(set(widths.values())) > 1:
        shown = ", ".join(f"{group} {width}" for group, width in widths.items())
        raise UserError(f"The groups' SAEs differ in their number of features ({shown}): encode all with one SAE.")
