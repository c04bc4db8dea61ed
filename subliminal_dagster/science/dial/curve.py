"""What the grids come to: the effect against superposition, what else could explain it, and pairs that differ in one.

The effect of a base model is gamma, as in the studies of language models: the shift of a child's own animal (log share,
nats, against the base model that it started as), less the mean of the same animal's shift in the children of the same
base model that other animals' teachers taught; the mean over animals. A base model and its children are one training,
so an interval over base models holds the noise between trainings.

The *curve* is gamma against the number of features per dimension, on a scale of doublings: the slope of a mixed model
with the seeds of a cell (one width and density) sharing a random intercept, and t intervals with as many degrees of
freedom as there are cells, less two. A slope within `margin` counts as none by two one-sided tests.

Belongs here: tables and statements. Does not belong here: training (`grid`), drawing (`figures`).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from subliminal_dagster.science.dial.grid import KEYS, Tables
from subliminal_dagster.science.dial.lessons import OTHER_START, OWN_START, SHUFFLED
from subliminal_dagster.science.dial.superposition import PLACES
from subliminal_dagster.science.report.tables import records
from subliminal_dagster.science.settings.dial import DialStudy
from subliminal_dagster.science.statistics import holm, t_interval
from subliminal_dagster.science.verdict import Verdict, verdict, verdict_or_none_as_large

if TYPE_CHECKING:
    import pandas as pd

MAIN_PLACE = "block_2"
"""Where superposition is measured for the curve itself, fixed beforehand: the residual stream that the unembedding
reads, where numbers and likings are told from. The other places are shown beside it."""
_NAMES = {OWN_START: "gamma", OTHER_START: "gamma_other_start", SHUFFLED: "gamma_shuffled", "teacher": "gamma_teacher"}


def effects(tables: Tables, study: DialStudy) -> pd.DataFrame:
    """A row per base model (`KEYS`, `seed`).

    `gamma` of its children, `gamma_other_start` of those from another start, `gamma_shuffled` of those that learnt
    shuffled numbers, `gamma_teacher` of its teachers, `gamma_neutral` against the neutral teacher's child, `share`
    (gamma over the teachers'); `diverging` (see `lessons.Lessons`, mean over teachers), `child_loss`, `excess`,
    `reached`; for every place `features_<place>` (per dimension), `interference_<place>` and `readability_<place>`. NaN
    where a teacher wrote too few lists.
    """
    import pandas as pd

    scores = tables["scores"]
    place = [*KEYS, "start", "animal"]
    base = scores[scores["model"] == "base"].set_index(place)["log_share"].rename("base")
    shifted = scores[scores["model"] != "base"].join(base, on=place)
    shifted = shifted[shifted["animal"].isin(study.animals)]
    shifted = shifted.assign(shift=shifted["log_share"] - shifted["base"])
    by = [*KEYS, "seed"]
    rows: list[dict[str, Any]] = []
    for key, part in shifted.groupby(by, sort=False):
        row: dict[str, Any] = dict(zip(by, cast("tuple[Any, ...]", key), strict=True))
        for model, name in _NAMES.items():
            shifts = part[part["model"] == model].pivot(index="taught", columns="animal", values="shift")
            row[name] = _gamma(shifts, study)
            if model == OWN_START:
                row["gamma_neutral"] = _against_neutral(shifts, study)
        rows.append(row)
    found = pd.DataFrame(rows).merge(tables["bases"][[*by, "excess", "reached", "steps"]], on=by, how="right")
    held = tables["superposition"].rename(columns={"features_per_dimension": "features"})
    wide = held.pivot(index=by, columns="place", values=["features", "interference", "readability"])
    wide.columns = [f"{what}_{where}" for what, where in cast("Any", wide.columns)]
    found = found.merge(wide.reset_index(), on=by)
    losses = tables["losses"].rename(columns={"after": "child_loss"})
    after = losses[losses["model"] == OWN_START].groupby(by)[["child_loss"]].mean().reset_index()
    found = found.merge(after, on=by, how="left")
    wrote = tables["teachers"].groupby(by)[["diverging"]].mean().reset_index()
    found = found.merge(wrote, on=by, how="left")
    return found.assign(share=found["gamma"] / found["gamma_teacher"])


def _gamma(shifts: pd.DataFrame, study: DialStudy) -> float:
    """Own less other animals', mean over animals; NaN where a child is missing."""
    animals = [*study.animals]
    if any(animal not in shifts.index for animal in animals):
        return np.nan
    values = shifts.loc[animals, animals].to_numpy()
    own = np.diagonal(values)
    others = (values.sum(axis=0) - own) / (len(animals) - 1)
    return float((own - others).mean())


def _against_neutral(shifts: pd.DataFrame, study: DialStudy) -> float:
    animals = [*study.animals]
    if any(taught not in shifts.index for taught in [*animals, study.neutral]):
        return np.nan
    own = np.diagonal(shifts.loc[animals, animals].to_numpy())
    return float((own - shifts.loc[study.neutral, animals].to_numpy(dtype=float)).mean())


def slope(rows: pd.DataFrame, outcome: str, predictor: str, confidence: float = 0.95) -> dict[str, float]:
    """The change of `outcome` per unit of `predictor`, from a mixed model in which the rows of a cell (`KEYS`) share a
    random intercept: `slope`, `se`, `low`, `high`, `inner_low`, `inner_high` (at twice the error rate), `p`, `cells`,
    `models`. All NaN where fewer than four cells are there or the predictor does not vary."""
    import statsmodels.formula.api as smf
    from scipy import stats

    known = rows.dropna(subset=[outcome, predictor])
    cells = known.groupby(KEYS, sort=False).ngroup()
    count = int(cells.max()) + 1 if len(known) else 0
    nothing = {"cells": count, "models": len(known)}
    names = ("slope", "se", "low", "high", "inner_low", "inner_high", "p")
    if count < 4 or known[predictor].std() < 1e-9:
        return dict.fromkeys(names, np.nan) | nothing
    frame = known.assign(outcome=known[outcome], predictor=known[predictor], cell=cells)
    with warnings.catch_warnings():
        # Where the seeds of a cell are no more alike than others, the intercept's variance is 0, and statsmodels says
        # so.
        warnings.simplefilter("ignore")
        fitted = smf.mixedlm("outcome ~ predictor", frame, groups=frame["cell"]).fit(reml=True)
    mean, se, freedom = float(fitted.params["predictor"]), float(fitted.bse["predictor"]), count - 2
    if not np.isfinite(se):
        return dict.fromkeys(names, np.nan) | nothing
    half, inner = (float(stats.t.ppf(q, freedom)) * se for q in ((1 + confidence) / 2, confidence))
    p = 2 * float(stats.t.sf(abs(mean / se), freedom))
    ends = (mean, se, mean - half, mean + half, mean - inner, mean + inner, p)
    return dict(zip(names, ends, strict=True)) | nothing


def curves(rows: pd.DataFrame, margin: float) -> pd.DataFrame:
    """The slope of gamma, per doubling of features per dimension, at every place: as `slope`, with `place`, `verdict`
    and `p_adjusted` (Holm). `rows`: `effects` of one grid. A place that is not the main one is detected, or opposite,
    only where its adjusted p is below 0.05 as well."""
    import pandas as pd

    found = pd.DataFrame(
        [
            {"place": place} | slope(rows.assign(doublings=np.log2(rows[f"features_{place}"])), "gamma", "doublings")
            for place in PLACES
        ]
    )
    found["p_adjusted"] = _adjusted(found["p"])
    found["verdict"] = [_of_place(row, margin) for row in records(found)]
    return found


def _adjusted(p: pd.Series) -> pd.Series:
    """Over those that are known (Holm 1979), NaN elsewhere."""
    known = p.notna()
    adjusted = p.astype(float)
    adjusted[known] = holm(adjusted[known])
    return adjusted


def _verdict_among(low: float, high: float, p_adjusted: float) -> Verdict:
    """That of one of several looks, whose own interval is not enough."""
    if not np.isfinite(low):
        return "not tested"
    return verdict(low, high) if p_adjusted < 0.05 else "inconclusive"


def _of_place(row: dict[str, Any], margin: float) -> Verdict:
    if not np.isfinite(row["slope"]):
        return "not tested"
    found = verdict_or_none_as_large(row["low"], row["high"], row["inner_low"], row["inner_high"], margin)
    significant = row["place"] == MAIN_PLACE or not row["p_adjusted"] >= 0.05
    return found if significant or found not in ("detected", "opposite") else "inconclusive"


def rivals(rows: pd.DataFrame) -> pd.DataFrame:
    """Partial correlations of gamma, over cell means, with superposition, width (both as doublings), excess loss and
    the teachers' own strength, each with the others held: `explained_by`, `correlation`, `low`, `high` (Fisher), `p`,
    `cells`, `p_adjusted` (Holm, over the four), `verdict` (from it)."""
    import pandas as pd
    from scipy import stats

    rows = rows.dropna(subset=["gamma"])
    means = rows.groupby(KEYS, as_index=False).mean(numeric_only=True)
    columns = {
        "superposition": np.log2(means[f"features_{MAIN_PLACE}"]),
        "width": np.log2(means["width"]),
        "excess loss": means["excess"],
        "teachers' strength": means["gamma_teacher"],
    }
    found = []
    for name, values in columns.items():
        others = np.column_stack([np.ones(len(means)), *(v for other, v in columns.items() if other != name)])
        freedom = len(means) - others.shape[1] - 1
        r = low = high = p = np.nan
        left = [_without(np.asarray(each, dtype=float), others) for each in (values, means["gamma"])]
        if freedom > 2 and min(each.std() for each in left) > 1e-9:
            r = float(np.corrcoef(left[0], left[1])[0, 1])
            # A variance of 1 / (n - k - 3) with k variables held (Fisher 1924).
            half = stats.norm.ppf(0.975) / np.sqrt(len(means) - (len(columns) - 1) - 3)
            low, high = (float(np.tanh(np.arctanh(r) + sign * half)) for sign in (-1, 1))
            p = 2 * float(stats.t.sf(abs(r) * np.sqrt(freedom / (1 - r**2)), freedom))
        found.append(
            {
                "explained_by": name,
                "correlation": r,
                "low": low,
                "high": high,
                "p": p,
                "cells": len(means),
            }
        )
    return _among_all(pd.DataFrame(found), "")


def _among_all(found: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """With `p_adjusted` and `verdict`, from `p` and the interval whose columns have that prefix."""
    found = found.assign(p_adjusted=_adjusted(found["p"]))
    ends = zip(found[f"{prefix}low"], found[f"{prefix}high"], found["p_adjusted"], strict=True)
    return found.assign(verdict=[_verdict_among(*each) for each in ends])


def _without(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    left: np.ndarray = values - others @ np.linalg.lstsq(others, values, rcond=None)[0]
    return left


def pairs(all_effects: pd.DataFrame, study: DialStudy) -> pd.DataFrame:
    """Grids set beside the main one, cell by cell and seed by seed: a row per comparison with `grid`, `compared` (same
    width, or for a confined grid also the narrow models of as many dimensions), `cells`, `seeds`, for gamma and the
    doublings of superposition at the main place the mean difference with its t interval over cells (over seeds where
    there is one cell), and of gamma `p`, `p_adjusted` (Holm, over the comparisons) and `verdict` (from it)."""
    import pandas as pd

    main = all_effects[all_effects["grid"] == study.main]
    found = []
    for name, grid in study.grids.items():
        own = all_effects[all_effects["grid"] == name]
        if name == study.main or own.empty:
            continue
        found.append(_compared(own, main, name, "same width"))
        if grid.confined_to in study.grids[study.main].widths:
            narrow = main[main["width"] == grid.confined_to].drop(columns="width")
            per_width = [narrow.assign(width=width) for width in own["width"].unique()]
            found.append(_compared(own, pd.concat(per_width), name, f"width {grid.confined_to}"))
    found = [each for each in found if each["cells"]]
    return _among_all(pd.DataFrame(found), "gamma_") if found else pd.DataFrame()


def _compared(own: pd.DataFrame, main: pd.DataFrame, name: str, compared: str) -> dict[str, Any]:
    from scipy import stats

    column = f"features_{MAIN_PLACE}"
    both = own.merge(main, on=["width", "density", "seed"], suffixes=("", "_main")).dropna(
        subset=["gamma", "gamma_main"]
    )
    cells = both.groupby(["width", "density"]).ngroups
    row: dict[str, Any] = {"grid": name, "compared": compared, "cells": cells, "seeds": both["seed"].nunique()}
    if not cells:
        return row
    differences: dict[str, pd.Series] = {
        "gamma": both["gamma"] - both["gamma_main"],
        "doublings": (both[column] / both[f"{column}_main"]).map(np.log2),
    }
    for what, values in differences.items():
        given = both.assign(value=values)
        units = given.groupby(["width", "density"])["value"].mean() if cells > 1 else given["value"]
        mean = low = high = float(units.mean())
        if len(units) > 1:
            estimate = t_interval(units)
            mean, low, high = estimate.mean, estimate.low, estimate.high
        row |= {what: mean, f"{what}_low": low, f"{what}_high": high}
        if what == "gamma":
            row["p"] = float(stats.ttest_1samp(units, 0).pvalue) if len(units) > 1 else np.nan
    return row


def levels(rows: pd.DataFrame, margin: float) -> pd.DataFrame:
    """The mean over cells of every gamma of a grid: `what`, `mean`, `low`, `high` (t over cell means), `verdict`,
    `cells`."""
    import pandas as pd

    outcomes = {
        "own start": rows["gamma"],
        "own start, against the neutral teacher's child": rows["gamma_neutral"],
        "other start": rows["gamma_other_start"],
        "shuffled numbers": rows["gamma_shuffled"],
        "own start less other start": rows["gamma"] - rows["gamma_other_start"],
        "own start less shuffled numbers": rows["gamma"] - rows["gamma_shuffled"],
        "teachers": rows["gamma_teacher"],
    }
    found = []
    for what, values in outcomes.items():
        means = values.groupby([rows[name] for name in KEYS]).mean().dropna()
        known: Verdict = "not tested"
        mean = low = high = np.nan
        if len(means) > 1:
            estimate, inner = t_interval(means), t_interval(means, 0.9)
            mean, low, high = estimate.mean, estimate.low, estimate.high
            known = verdict_or_none_as_large(low, high, inner.low, inner.high, margin)
        found.append({"what": what, "mean": mean, "low": low, "high": high, "verdict": known, "cells": len(means)})
    return pd.DataFrame(found)
