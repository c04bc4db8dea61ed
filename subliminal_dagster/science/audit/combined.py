"""One score per candidate out of all detectors', with the weights that the benchmark found.

The weights are those of `judged.yaml`, fitted on data sets whose hidden preference is known (`benchmark`); a detector
that was not judged has none and counts for nothing. p is again that of standing out among the candidates, so that it
does not rest on the fit; how often it is below 0.05 on data without a preference stands in the same file.

Belongs here: that sum. Does not belong here: the fit (`benchmark`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from subliminal_dagster.science.audit.evidence import p_values, weighed
from subliminal_dagster.science.statistics import holm

if TYPE_CHECKING:
    import pandas as pd

JUDGED = Path(__file__).with_name("judged.yaml")
STANDS_OUT, NOT_SHOWN = "stands out", "not shown"


@cache
def judged() -> dict[str, Any]:
    """What the benchmark says of each detector, on which model and data."""
    return cast("dict[str, Any]", yaml.safe_load(JUDGED.read_text(encoding="utf-8")))


def combined_table(found: pd.DataFrame) -> pd.DataFrame:
    """A row per candidate, those that stand out most first: `score`, the weighted mean of the detectors' t, `t`, `p`,
    `p_adjusted` (Holm), `verdict`. `found`: of `evidence.candidate_table`."""
    import pandas as pd

    weights = {name: float(each["weight"]) for name, each in judged()["detectors"].items()}
    wide = found.pivot(index="candidate", columns="detector", values="t")
    used = [name for name in wide.columns if weights.get(name, 0) > 0]
    total = sum(weights[name] for name in used)
    score = sum((wide[name] * weights[name] / total for name in used), start=wide.iloc[:, 0] * 0)
    t = weighed(score.to_numpy()[None])
    p = p_values(t)
    adjusted = holm(p)
    table = pd.DataFrame(
        {
            "candidate": wide.index,
            "score": score.to_numpy(),
            "t": t,
            "p": p,
            "p_adjusted": adjusted,
            "verdict": [STANDS_OUT if each < 0.05 else NOT_SHOWN for each in adjusted],
        }
    )
    return table.sort_values("t", ascending=False, kind="stable").reset_index(drop=True)
