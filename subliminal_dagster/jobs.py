"""Jobs: one a study and partition family, since a run has one partition key and a job over two families would break
the whole code location.

Belongs here: which assets run together. Does not belong here: what is stale (`planner`).
"""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from subliminal_dagster.frame import Frame
from subliminal_dagster.partitions import BY_GROUP, BY_GROUP_AND_LAYER, BY_LAYER, JOB_OF_FAMILY, job_name


def study_jobs(frame: Frame) -> list[Any]:
    """`<study>_base` (unpartitioned start), one a partition family (`<study>_groups`, `<study>_layers`,
    `<study>_groups_by_layer`) and `<study>_results`; for a study without partitions `<study>_all`."""
    study = frame.study.name

    def job(part: str, names: Iterable[str], about: str) -> Any:
        selection = dg.AssetSelection.assets(*(frame.key(name) for name in names))
        return dg.define_asset_job(job_name(study, part), selection, description=f"{study}: {about}")

    if not frame.study.groups:
        return [job("all", frame.nodes, "everything")]
    whole = [name for name, node in frame.nodes.items() if not node.by]
    base = [name for name in whole if not _rests_on_partitions(frame, name)]
    families = {
        by: [name for name, node in frame.nodes.items() if node.by == by]
        for by in (BY_GROUP, BY_LAYER, BY_GROUP_AND_LAYER)
    }
    about = {
        BY_GROUP: "teacher, numbers, child and scores of one group",
        BY_LAYER: "one layer: its sparse autoencoder, and all groups compared there",
        BY_GROUP_AND_LAYER: "one group at one layer: activations, features, probes, steering",
    }
    return [
        job("base", base, "base model and its favourites"),
        *(job(JOB_OF_FAMILY[by], names, about[by]) for by, names in families.items() if names),
        job("results", [name for name in whole if name not in base], "all groups compared"),
    ]


def _rests_on_partitions(frame: Frame, name: str) -> bool:
    """Whether something an unpartitioned asset is made from, directly or not, has partitions."""
    return any(frame.nodes[dep].by or _rests_on_partitions(frame, dep) for dep in frame.nodes[name].deps)
