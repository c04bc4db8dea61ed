"""Jobs: one a study and partition family, since a run has one partition key and a job over two families would break
the whole code location.

Belongs here: which assets run together. Does not belong here: what is stale (`planner`).
"""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from subliminal_dagster.partitions import BY_GROUP, BY_GROUP_AND_LAYER, BY_GROUP_AND_REPLICATE, JOBS, job_name
from subliminal_dagster.planning.frame import Frame

ABOUT = {
    "base": "base model, its favourites, what autoencoders learn from",
    "groups": "teacher and numbers of one group",
    "children": "one child of one group, its rows and scores",
    "groups_with_children": "what is made of one group's first child and rows",
    "layers": "one layer: its sparse autoencoder, the animals' words",
    "groups_by_layer": "one group at one layer: activations, features, probes, steering",
    "groups_compared": "one group, all layers together",
    "layers_compared": "one layer, all groups compared",
    "results": "all groups and layers compared",
    "all": "everything",
}


def study_jobs(frame: Frame) -> list[Any]:
    """A study's jobs, in the order in which they can run on a fresh study (see `partitions.JOBS`); for a study without
    partitions `<study>_all`. What is made on request is in none."""
    study = frame.study.name

    def job(part: str, names: Iterable[str]) -> Any:
        selection = dg.AssetSelection.assets(*(frame.key(name) for name in names))
        return dg.define_asset_job(job_name(study, part), selection, description=f"{study}: {ABOUT[part]}")

    usual = [name for name, node in frame.nodes.items() if not node.on_request]
    if not frame.study.groups:
        return [job("all", usual)]
    parts: dict[str, list[str]] = {part: [] for part in JOBS}
    above: dict[str, set[tuple[str, ...]]] = {}
    for name, node in frame.nodes.items():
        above[name] = {frame.nodes[dep].by for dep in node.deps}.union(*(above[dep] for dep in node.deps))
        if name in usual:
            parts[_job_of(node.by, above[name])].append(name)
    return [job(part, names) for part, names in parts.items() if names]


def comparison_job(comparison: dg.AssetKey) -> Any:
    """`comparison`: all studies on one page."""
    return dg.define_asset_job(
        "comparison", dg.AssetSelection.assets(comparison), description="all studies on one page"
    )


def _job_of(by: tuple[str, ...], above: set[tuple[str, ...]]) -> str:
    """The job of an asset with these axes; `above` are those of everything it is made from, directly or not."""
    if not by:
        return "results" if above - {()} else "base"
    if by == BY_GROUP_AND_LAYER:
        return "groups_by_layer"
    if by == BY_GROUP_AND_REPLICATE:
        return "children"
    if by == BY_GROUP and BY_GROUP_AND_REPLICATE in above and BY_GROUP_AND_LAYER not in above:
        return "groups_with_children"
    family = "groups" if by == BY_GROUP else "layers"
    # What brings groups or layers together again cannot run before what it brings together.
    return f"{family}_compared" if BY_GROUP_AND_LAYER in above else family
