"""Jobs: one a study and partition family, since a run has one partition key and a job over two families would break
the whole code location.

Belongs here: which assets run together. Does not belong here: what is stale (`planner`).
"""

from typing import Any

import dagster as dg

from subliminal_dagster.frame import Frame
from subliminal_dagster.partitions import job_name


def study_jobs(frame: Frame) -> list[Any]:
    """`<study>_base` (unpartitioned start), `<study>_groups` (everything a group) and `<study>_results`; for a study
    without partitions `<study>_all`."""
    study = frame.study.name
    everything = dg.AssetSelection.key_prefixes([study])
    if not frame.study.groups:
        return [dg.define_asset_job(job_name(study, "all"), everything, description=f"{study}: everything")]
    base = everything & dg.AssetSelection.groups("base")
    results = everything & dg.AssetSelection.groups("results")
    return [
        dg.define_asset_job(job_name(study, "base"), base, description=f"{study}: base model and its favourites"),
        dg.define_asset_job(
            job_name(study, "groups"),
            everything - base - results,
            description=f"{study}: teacher, numbers, child and scores of one group",
        ),
        dg.define_asset_job(job_name(study, "results"), results, description=f"{study}: comparison of all groups"),
    ]
