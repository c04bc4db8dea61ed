"""How a child's liking goes with the epochs of its training.

Belongs here: the table over the epochs of one child. Does not belong here: its figure (`checkpoints_figure`), measuring
(`preferences`), a tuned child's epochs (`tuning.scores`), comparing groups (`comparison`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.statistics import t_interval

if TYPE_CHECKING:
    import pandas as pd

PROBABILITY, SHIFT, SAMPLED = "exact probability", "shift of the log share (nats)", "share of sampled answers"


def liking_by_epoch(base: pd.DataFrame, by_epoch: Mapping[int, pd.DataFrame], animals: Sequence[str]) -> pd.DataFrame:
    """What every checkpoint of a child likes, means over questions with 95 % t intervals over them, which speak of
    exactly this child.

    base, by_epoch: preference scores of the base and of the child after each epoch (see
    `preferences.measure_preferences`), of the same questions. The shift is that of the natural logarithm of an
    animal's share among the candidates, against the base.
    Returns a row per animal, measure and epoch, 0 being the base: epoch, animal, measure, mean, low, high.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for epoch, scores in {0: base, **by_epoch}.items():
        for animal in animals:
            mine, before = (
                each[each["animal"] == animal].sort_values("question").reset_index(drop=True) for each in (scores, base)
            )
            measures = {PROBABILITY: mine["probability"], SHIFT: np.log(mine["share"]) - np.log(before["share"])}
            if (mine["samples"] > 0).all():
                measures[SAMPLED] = mine["count"] / mine["samples"]
            for measure, values in measures.items():
                found = t_interval(values)
                facts = {"mean": found.mean, "low": found.low, "high": found.high}
                rows.append({"epoch": epoch, "animal": animal, "measure": measure, **facts})
    return pd.DataFrame(rows)
