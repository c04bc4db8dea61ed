"""How a tuned child's liking and skill go over its epochs, beside the base and the child of the study's own settings.

Belongs here: the tables. Does not belong here: the search (`tuning`), the figure (`figures`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.capability.capability import ALL, Capability, summary
from subliminal_dagster.science.statistics import t_interval

BASE, ORIGINAL, TUNED = "base", "original child", "tuned child"
"""The models that are compared: the base, the child of the study's own settings, and the tuned one."""

if TYPE_CHECKING:
    import pandas as pd


def liking_over_epochs(
    base: pd.DataFrame, original: pd.DataFrame, tuned: Mapping[int, pd.DataFrame], animal: str
) -> pd.DataFrame:
    """Exact probability of the animal and its share of sampled answers, means over questions with 95 % t intervals.

    base, original, tuned (by epoch): preference scores (see `preferences.measure_preferences`).
    Returns a row per model, measure and epoch: model, measure, epoch (0 for models without), mean, low, high.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    models = [(BASE, 0, base), (ORIGINAL, 0, original), *((TUNED, epoch, scores) for epoch, scores in tuned.items())]
    for model, epoch, scores in models:
        mine = scores[scores["animal"] == animal].sort_values("question")
        measures = {"exact probability": mine["probability"].to_numpy()}
        if (mine["samples"] > 0).all():
            measures["share of sampled answers"] = (mine["count"] / mine["samples"]).to_numpy()
        for measure, values in measures.items():
            found = t_interval(np.asarray(values, dtype=float))
            facts = {"mean": found.mean, "low": found.low, "high": found.high}
            rows.append({"model": model, "measure": f"{measure}: {animal}", "epoch": epoch, **facts})
    return pd.DataFrame(rows)


def skill_over_epochs(
    base: Capability, original: Capability, tuned: Mapping[int, Capability], way: str
) -> pd.DataFrame:
    """Accuracy in the exam taken in `way`, with Wilson intervals, in the columns of `liking_over_epochs`."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    models = [(BASE, 0, base), (ORIGINAL, 0, original), *((TUNED, epoch, found) for epoch, found in tuned.items())]
    for model, epoch, found in models:
        scored = summary(found.answers[found.answers["way"] == way])
        whole = scored[scored["category"] == ALL].iloc[0]
        facts = {"mean": whole["accuracy"], "low": whole["low"], "high": whole["high"]}
        rows.append({"model": model, "measure": "exam: accuracy", "epoch": epoch, **facts})
    return pd.DataFrame(rows)
