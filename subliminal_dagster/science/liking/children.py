"""What children say about training runs: contrasts of liking with the noise between runs in their intervals.

An interval over questions speaks of exactly these children. Another child of the same animal's numbers, or another
teacher of the same animal, would have drifted elsewhere; only an interval that holds that noise may decide whether
numbers pass an animal on. It can be had from one child per group: how much a child's liking of an animal that is not
its own departs from what the child does to all animals, and all children do to that animal, is what chance does to a
cell.

The model (two-way layout, ordinary least squares of statsmodels), for the mean shift y of child g's liking of animal a,
replicates averaged:

    y[g, a] = child[g] + animal[a] + own[a] * (g is a's own child) + e,    e ~ N(0, s^2)

All children are in it, those of control and neutral numbers included. Averaged replicates make it exact for the mixed
model in which every (group, animal) has a random effect, which the group's teacher and numbers cause, and every child
besides (Searle, Casella and McCulloch 1992, chapter 4, balanced data): replicates narrow the interval as far as the
children differ, and not as far as the number sets do.

Belongs here: those contrasts. Does not belong here: scores of single questions, sentences (`comparison`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.statistics import ROUNDING, benjamini_hochberg, detectable_with
from subliminal_dagster.science.verdict import verdict_or_none_as_large

if TYPE_CHECKING:
    import pandas as pd

Against = Literal["others", "neutral", "control"]
Array = NDArray[np.float64]

MEAN = "mean over animals"


@dataclass(frozen=True)
class RunNoise:
    """What chance does to one cell of the table of shifts, in the unit of the shifts, and what the estimate rests on.

    cell: standard deviation of a child's shift for an animal, beside what it does to all animals; `freedom` its degrees
    of freedom. children: by group, what its child does to all animals. NaN and none where too few children were
    trained to tell.
    """

    cell: float
    freedom: int
    children: dict[str, float]

    def child(self, without: str | None = None) -> tuple[float, int]:
        """Standard deviation between children of what they do to all animals, and its degrees of freedom; without that
        of one group, which is to be judged by the others."""
        kept = [effect for group, effect in self.children.items() if group != without]
        return (float(np.std(kept, ddof=1)), len(kept) - 1) if len(kept) > 1 else (math.nan, 0)


def contrasts(shifts: pd.DataFrame, animals: Sequence[str], *, confidence: float, margin: float) -> pd.DataFrame:
    """Own numbers against other numbers, with intervals that hold the noise between training runs.

    shifts: one row per child and animal, columns group, replicate, animal and shift (nats of log share, or another
    unit). Children of `animals` are needed; those of control and neutral numbers are used where they are there.
    margin: an effect this large, in the unit of the shifts, is what an equivalence test excludes.

    Returns a row per `against` (others, neutral, control: what is there) and animal, `MEAN` last, with columns mean,
    se, df, low, high (at `confidence`), p (two-sided), p_bh (adjusted over the animals; NaN for `MEAN`), inner_low and
    inner_high (twice the error rate, for the equivalence test), smallest_detectable (80 % power), verdict. Against
    others the row `MEAN` is gamma. Where too few children were trained for an interval all but the mean is NaN, and the
    verdict inconclusive.
    """
    import pandas as pd

    table = shifts.groupby(["group", "animal"])["shift"].mean().unstack("animal")[list(animals)]
    noise = run_noise(table, animals)
    rows = []
    for against in ("others", "neutral", "control"):
        if (against == "others" and len(animals) < 2) or (against != "others" and against not in table.index):
            continue
        own = np.diagonal(table.loc[list(animals)].to_numpy())
        differences = own - _reference(table, animals, against)
        tests = [_test(mean, *_one_animal(noise, len(animals), against), confidence, margin) for mean in differences]
        adjusted = benjamini_hochberg([test["p"] for test in tests]) if not math.isnan(tests[0]["p"]) else None
        for place, (animal, test) in enumerate(zip(animals, tests, strict=True)):
            p_bh = math.nan if adjusted is None else float(adjusted[place])
            rows.append({"against": against, "animal": animal} | test | {"p_bh": p_bh})
        mean = _test(float(differences.mean()), *_mean(noise, len(animals), against), confidence, margin)
        rows.append({"against": against, "animal": MEAN} | mean | {"p_bh": math.nan})
    return pd.DataFrame(rows)


def own_moves(shifts: pd.DataFrame, animals: Sequence[str], group: str, *, confidence: float) -> pd.DataFrame:
    """How far the children of one group moved from base for each animal, with the noise between training runs.

    Intervals are simultaneous over the animals (Bonferroni). Columns animal, mean, low, high, inner_low, inner_high (at
    twice the error rate); NaN where too few children were trained.
    """
    import pandas as pd

    table = shifts.groupby(["group", "animal"])["shift"].mean().unstack("animal")[list(animals)]
    noise = run_noise(table, animals)
    of_child, freedom = noise.child(without=group)
    se = math.sqrt(_of_one_child(noise.cell, of_child, len(animals)))
    level = 1 - (1 - confidence) / len(animals)
    moved = zip(animals, table.loc[group].to_numpy(dtype=float), strict=True)
    rows = [{"animal": animal} | _test(float(mean), se, freedom, level, 0) for animal, mean in moved]
    return pd.DataFrame(rows)


def run_noise(table: pd.DataFrame, animals: Sequence[str]) -> RunNoise:
    """The noise between training runs in a table of mean shifts (groups, animals); see the module.

    A group whose row is zero throughout was not trained (the soft channel's control), and has none.
    """
    from statsmodels.regression.linear_model import OLS

    trained = table[(table != 0).any(axis=1)]
    shifts, own = trained.to_numpy(dtype=float), trained.index.to_numpy()[:, None] == np.array(animals)[None, :]
    freedom = (len(trained) - 1) * (len(animals) - 1) - int(own.sum())
    if freedom < 1:
        return RunNoise(math.nan, 0, {})
    # A column per child, one per animal but for the first, and one per child's own cell, which then weighs in nothing
    # else.
    child, animal = np.indices(shifts.shape)
    columns = [child.ravel() == number for number in range(len(trained))]
    columns += [animal.ravel() == number for number in range(1, len(animals))]
    columns += [np.arange(own.size) == cell for cell in np.flatnonzero(own.ravel())]
    fit = OLS(shifts.ravel(), np.stack(columns, axis=1).astype(float)).fit()
    children = dict(zip(map(str, trained.index), map(float, fit.params), strict=False))
    return RunNoise(math.sqrt(max(fit.mse_resid, 0.0)), freedom, children)


def _reference(table: pd.DataFrame, animals: Sequence[str], against: Against) -> Array:
    if against != "others":
        return table.loc[against].to_numpy(dtype=float)
    square = table.loc[list(animals)].to_numpy(dtype=float)
    return (square.sum(axis=0) - np.diagonal(square)) / (len(animals) - 1)


def _mean(noise: RunNoise, animals: int, against: Against) -> tuple[float, int]:
    """Standard error and degrees of freedom of the mean over animals. Against others what a child does to all animals
    falls out; against one control child it does not."""
    if against == "others":
        return noise.cell / math.sqrt(max(animals - 1, 1)), noise.freedom
    child, freedom = noise.child(without=against)
    of_cells = noise.cell**2 * (1 / animals - 1 / animals**2)
    return math.sqrt(child**2 * (1 + 1 / animals) + of_cells), freedom


def _one_animal(noise: RunNoise, animals: int, against: Against) -> tuple[float, int]:
    """As `_mean`, of one animal: what a child does to all animals is in it, whatever it is set against."""
    child, freedom = noise.child(without=None if against == "others" else against)
    children = animals - 1 if against == "others" else 1
    return math.sqrt(_of_one_child(noise.cell, child, animals) * (1 + 1 / children)), freedom


def _of_one_child(cell: float, child: float, animals: int) -> float:
    """Variance of one child's shift for one animal: of the cell, and of what the child does to all animals."""
    return cell**2 + max(child**2 - cell**2 / animals, 0)


def _test(mean: float, se: float, freedom: int, confidence: float, margin: float) -> dict[str, Any]:
    from scipy import stats

    if math.isnan(se) or freedom < 1:
        unknown = ("low", "high", "p", "inner_low", "inner_high", "smallest_detectable")
        return {"mean": mean, "se": math.nan, "df": 0} | dict.fromkeys(unknown, math.nan) | {"verdict": "inconclusive"}
    if se <= ROUNDING and abs(mean) <= ROUNDING:
        mean = se = 0.0
    level = 1 - confidence
    wide, narrow = (float(stats.t.ppf(1 - tail, freedom)) * se for tail in (level / 2, level))
    ends = {"low": mean - wide, "high": mean + wide, "inner_low": mean - narrow, "inner_high": mean + narrow}
    return {
        "mean": mean,
        "se": se,
        "df": freedom,
        "p": float(2 * stats.t.sf(abs(mean) / se, freedom)) if se else float(not mean),
        **ends,
        "smallest_detectable": detectable_with(se, freedom, level=level),
        "verdict": verdict_or_none_as_large(**ends, margin=margin),
    }
