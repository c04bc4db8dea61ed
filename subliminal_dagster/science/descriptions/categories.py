"""What the features of a layer are about: their categories, how far the judge is to be believed, what a group's say.

A judge's categories are worth what its agreement with people is. It is first asked about the labelled descriptions
(`labelled_descriptions.yaml`), and one that agrees with them no better than chance, or less than a study asks for, is
refused before it sorts any feature.

A group's composition means nothing by itself: where half of all features are about numbers, half of those that any
numbers promote will be. So it stands beside that of all features of the layer and that of all features which fire on
any group's numbers, and every share is tested against the latter.

Belongs here: categories of features, agreement, composition of groups. Does not belong here: the judges (`judges`),
where descriptions come from (`descriptions`), which features a group marks (`features.shifts`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from subliminal_dagster.science.descriptions.judges import CATEGORIES, Category, Judge
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.statistics import benjamini_hochberg

if TYPE_CHECKING:
    import pandas as pd

LABELLED_DESCRIPTIONS = Path(__file__).with_name("labelled_descriptions.yaml")

ALL_FEATURES = "all features"
FIRED = "features that fire"
"""The two rows of a composition that groups are seen beside."""

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Agreement:
    """A judge against the labels given by hand.

    kappa: Cohen's, 1 for full agreement, 0 for that of chance; low and high: its 95 % interval (normal approximation).
    accuracy: share of descriptions with the category of the label.
    answers: description, style ("plain", "wordy", "mixed" or "contexts"), category (by hand), judged ("unreadable"
        where the judge gave none).
    by_category: category, labelled (how many descriptions), judged, agreed, precision (NaN where it was never given),
        recall.
    by_style: style, labelled, agreed, accuracy.
    """

    judge: str
    kappa: float
    low: float
    high: float
    accuracy: float
    answers: pd.DataFrame
    by_category: pd.DataFrame
    by_style: pd.DataFrame


def load_labelled() -> pd.DataFrame:
    """The descriptions labelled by hand: description, category, style."""
    import pandas as pd

    content = yaml.safe_load(LABELLED_DESCRIPTIONS.read_text(encoding="utf-8"))
    rows = [
        (description, category, style)
        for category, styles in content.items()
        for style, descriptions in styles.items()
        for description in descriptions
    ]
    return pd.DataFrame(rows, columns=["description", "category", "style"])


def agreement(judge: Judge, labelled: pd.DataFrame) -> Agreement:
    """How far the judge's categories are those of `labelled` (see `load_labelled`)."""
    import pandas as pd
    from sklearn.metrics import cohen_kappa_score, confusion_matrix
    from statsmodels.stats.inter_rater import cohens_kappa

    answers = labelled[["description", "style", "category"]].reset_index(drop=True)
    answers["judged"] = [category or UNREADABLE for category in judge.categorise(list(labelled["description"]))]
    agreed = answers["category"] == answers["judged"]
    names = [*CATEGORIES, UNREADABLE]
    table = confusion_matrix(answers["category"], answers["judged"], labels=names)
    kappa = float(cohen_kappa_score(answers["category"], answers["judged"], labels=names))
    # A judge that always says the same has no variance to divide by; its interval is right all the same.
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = cohens_kappa(table)
    by_category = pd.DataFrame(
        {
            "category": CATEGORIES,
            "labelled": table.sum(axis=1)[:-1],
            "judged": table.sum(axis=0)[:-1],
            "agreed": table.diagonal()[:-1],
        }
    )
    by_category["precision"] = by_category["agreed"] / by_category["judged"].where(by_category["judged"] > 0)
    by_category["recall"] = by_category["agreed"] / by_category["labelled"]
    by_style = agreed.groupby(answers["style"], sort=False).agg(labelled="size", agreed="sum", accuracy="mean")
    return Agreement(
        judge=judge.name,
        kappa=kappa,
        low=float(spread.kappa_low),
        high=float(spread.kappa_upp),
        accuracy=float(agreed.mean()),
        answers=answers,
        by_category=by_category,
        by_style=by_style.reset_index(),
    )


def judge_failures(kappa: float, found: Agreement) -> list[str]:
    """Why a judge is not believed, one sentence a reason; empty where it is. `kappa`: the least that is asked for."""
    if not found.low > 0:
        return [
            f"the judge {found.judge} agrees with the labelled descriptions no better than chance (kappa "
            f"{found.kappa:.2f}, 95 % interval {found.low:.2f} to {found.high:.2f}): choose another judge"
        ]
    if found.kappa < kappa:
        return [
            f"the judge {found.judge} agrees with the labelled descriptions at kappa {found.kappa:.2f} and {kappa} is "
            "asked for: choose another judge, or lower the judge's kappa"
        ]
    return []


def categorise_features(descriptions: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """The category of every described feature.

    descriptions: feature and description, a row per feature. Returns feature, description, category, in the order
    given; features whose category the judge did not say are left out.
    """
    table = descriptions[["feature", "description"]].reset_index(drop=True)
    table["category"] = judge.categorise(list(table["description"]))
    return table.dropna(subset="category", ignore_index=True)


def group_composition(
    categories: Mapping[int, Category], marked: Mapping[str, Collection[int]], fired: Collection[int]
) -> pd.DataFrame:
    """Which share of each group's features is in each category, beside what is to be expected of any features.

    categories: of all features of the layer that have one; others are left out of every count. marked: the features of
    each group (those it promotes, say; for a control, those that fire on it), all among `fired`. fired: the features
    that fire on the rows of any group.

    A group's features are tested against the other features that fire, category by category: Fisher's exact test,
    two-sided, for it holds however few features there are. p_bh is adjusted by Benjamini-Hochberg over all groups and
    categories. Features are taken as independent draws, which those that always fire together are not.

    Returns:
        A row per set of features and category; the sets are "all features", "features that fire" and then the groups.
        group, category, features (of the set in the category), of (features of the set with any category), share (NaN
        for an empty set), base_share (among all features), fired_share (among those that fire); of groups only, else
        NaN: odds_ratio (to be in the category, against the other features that fire; NaN where either is empty), low,
        high (its 95 % interval), p, p_bh.

    Raises UserError where no feature that fires has a category.
    """
    import pandas as pd

    known = {int(feature) for feature in fired} & categories.keys()
    if not known:
        raise UserError(
            "No feature that fires has a category, so groups cannot be compared: check that the descriptions are those "
            "of this SAE."
        )
    sets = {ALL_FEATURES: set(categories), FIRED: known}
    for group, features in marked.items():
        strangers = {int(feature) for feature in features} - {int(feature) for feature in fired}
        if strangers:
            raise ValueError(f"{group} marks features that fire nowhere, such as {min(strangers)}")
        sets[group] = {int(feature) for feature in features} & known
    rows: list[dict[str, Any]] = []
    for group, features in sets.items():
        for category in CATEGORIES:
            inside = {feature for feature, found in categories.items() if found == category}
            row: dict[str, Any] = {"group": group, "category": category}
            row |= {"features": len(features & inside), "of": len(features)}
            row |= {"share": _share(features, inside), "base_share": _share(sets[ALL_FEATURES], inside)}
            row["fired_share"] = _share(known, inside)
            if group in marked:
                others = known - features
                row |= _fisher(
                    [len(features & inside), len(features - inside)], [len(others & inside), len(others - inside)]
                )
            rows.append(row)
    columns = ["group", "category", "features", "of", "share", "base_share", "fired_share"]
    table = pd.DataFrame(rows).reindex(columns=[*columns, "odds_ratio", "low", "high", "p"])
    tested = table["group"].isin(list(marked))
    table["p_bh"] = np.nan
    if tested.any():
        table.loc[tested, "p_bh"] = benjamini_hochberg(table.loc[tested, "p"])
    return table


def _share(features: set[int], inside: set[int]) -> float:
    return len(features & inside) / len(features) if features else np.nan


def _fisher(own: list[int], others: list[int]) -> dict[str, float]:
    """Counts inside and outside of the category, of a group and of the rest. Nothing to compare gives p = 1."""
    from scipy.stats import fisher_exact
    from scipy.stats.contingency import odds_ratio

    if not sum(own) or not sum(others):
        return {"odds_ratio": np.nan, "low": np.nan, "high": np.nan, "p": 1.0}
    ratio = odds_ratio([own, others])
    low, high = ratio.confidence_interval(0.95)
    p = fisher_exact([own, others]).pvalue
    return {"odds_ratio": float(ratio.statistic), "low": float(low), "high": float(high), "p": float(p)}
