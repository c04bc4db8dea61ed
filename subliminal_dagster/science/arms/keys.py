"""The partitions of arms: every arm and replicate, of the animals' groups alone.

Belongs here: which there are. Does not belong here: what an arm is (`rows`).

Part of no version: it says which artifacts there are, and not what is in one.
"""

from __future__ import annotations

from subliminal_dagster.science.settings.arms import ArmsSettings
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.sweep import Cell, Grid, Variants

ARM = "arm"


def arm_variants(study: Study, settings: ArmsSettings) -> Variants:
    """Keys such as `arm=sgd+replicate=1`. Every arm is a cell with the study itself, since it changes rows and training
    and no setting. Children of neutral and control numbers are left out: gamma needs none."""
    cells = tuple(Cell({ARM: arm}, study) for arm in study.possible_arms)
    return Variants(Grid((ARM,), cells, settings.replicates), (ARM,), True, study.animals)
