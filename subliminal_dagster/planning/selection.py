"""Which parts of a study a person means.

Belongs here: turning what was typed into (asset, partition) pairs. Does not belong here: what is due among them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection

import dagster as dg

from subliminal_dagster.partitions import (
    BY_GROUP,
    BY_GROUP_AND_LAYER,
    BY_GROUP_AND_REPLICATE,
    BY_LAYER,
    FIRST,
    GROUP,
    LAYER,
    VARIANT,
    asset_group,
    coordinates,
    partition_key,
)
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.errors import UserError, meant

# Everything in a selection that is not a name: key:"toy/summary", group:teacher, and the words that join them.
_NOT_A_NAME = re.compile(r'\w+:("[^"]*"|[^\s()+,]*)|\b(and|or|not|roots|sinks)\b')


def wanted_parts(frame: Frame, select: str | None, partitions: Collection[str] | None) -> set[Input]:
    """The parts a selection (Dagster's syntax; names may lack the study's) and partitions name; without a selection all
    that is made without being asked for.

    `partitions` are groups (owl: also every layer, replicate and variant of it), layers (09: also every group at it),
    variants of a sweep (rank=2+replicate=1: of every group) or whole keys (owl|09, owl|1, owl|rank=2+replicate=1). An
    unpartitioned asset is among them whatever the partitions, where `select` names it. Raises UserError for an asset
    or partition there is none of.
    """
    if select is None and partitions is None:
        return frame.usual_parts()
    groups, layers = (frame.partitioning.values[axis] for axis in (GROUP, LAYER))
    families = (BY_GROUP, BY_LAYER, BY_GROUP_AND_LAYER, BY_GROUP_AND_REPLICATE)
    known = {key for by in families for key in frame.partitioning.keys(by)}
    swept = [node for node in frame.nodes.values() if node.variants is not None]
    known = known.union(*(node.partitions for node in swept), *(node.variants.keys for node in swept if node.variants))
    strangers = sorted(set(partitions or ()) - {key for key in known if key})
    if strangers:
        both = f", or a group and a layer such as {partition_key(groups[0], layers[0])}" if groups and layers else ""
        both += f", or a group and a replicate such as {partition_key(groups[0], FIRST)}" if groups else ""
        both += f", or a variant of the sweep or an arm such as {swept[-1].partitions[0]}" if swept else ""
        choice = f"choose among {', '.join([*groups, *layers])}{both}" if groups else "leave --partition out"
        near = meant(strangers[0], [*groups, *layers]) or meant(strangers[0], [key for key in known if key])
        raise UserError(f"The study {frame.study.name} has no partition {strangers[0]!r}: {choice}.{near}")
    names = [name for name, node in frame.nodes.items() if select is not None or (node.by and not node.on_request)]
    if select is not None:
        chosen = _resolved(frame, select)
        names = [name for name in names if name in chosen]
    found = {
        (name, partition)
        for name in names
        for partition in frame.partitions(name)
        if partition is None or partitions is None or not _names(frame, name, partition).isdisjoint(partitions)
    }
    if not found:
        raise UserError(
            f"None of {', '.join(names)} has a partition {' or '.join(sorted(partitions or ()))}: "
            f"{names[0]} has {', '.join(str(key) for key in frame.partitions(names[0]))}."
        )
    return found


def _names(frame: Frame, name: str, partition: str) -> set[str]:
    """What a partition may be called: its key, its group, its layer, its variant."""
    parts = coordinates(frame.nodes[name].by, partition)
    return {partition} | {parts[axis] for axis in (GROUP, LAYER, VARIANT) if axis in parts}


def _stage(frame: Frame, name: str) -> str:
    own = asset_group(frame.study.name, "")
    return name if name.startswith(own) else own + name


def _resolved(frame: Frame, select: str) -> set[str]:
    known = "|".join(sorted(frame.nodes, key=len, reverse=True))
    prefix = re.escape(frame.study.name)
    for name in re.findall(r"[\w-]+", _NOT_A_NAME.sub(" ", re.sub(rf"\b{prefix}/", "", select))):
        if name not in frame.nodes and not name.isdecimal() and "*" not in select:
            choice = meant(name, frame.nodes) or f" It has {', '.join(frame.nodes)}."
            raise UserError(f"The study {frame.study.name} has no asset {name!r}.{choice}")
    for stage in re.findall(r"\bgroup:\"?([\w-]+)", select):
        stages = [*dict.fromkeys(frame.stages.values())]
        if _stage(frame, stage) not in {_stage(frame, each) for each in stages}:
            choice = meant(stage, stages) or f" It has {', '.join(stages)}."
            raise UserError(f"The study {frame.study.name} has no stage {stage!r}.{choice}")
    spelled = re.sub(
        rf'(?<![\w:/"-])(?:{prefix}/)?({known})(?![\w/"-])',
        rf'key:"{frame.study.name}/\1"',
        select.replace(",", " or "),
    )
    # A stage is called as in the code; in Dagster's graph its name has the study's in front.
    spelled = re.sub(r"\bgroup:(\w+)", lambda found: f"group:{_stage(frame, found[1])}", spelled)
    try:
        with warnings.catch_warnings():
            # Dagster warns of a parameter in beta that it gives itself.
            warnings.simplefilter("ignore", dg.BetaWarning)
            keys = dg.AssetSelection.from_string(spelled).resolve([*frame.assets.values()])
    except dg.DagsterError as error:
        raise UserError(f"--select {select!r} is not a valid selection: {str(error).splitlines()[0]}") from None
    if not keys:
        raise UserError(f"--select {select!r} matches no asset of {frame.study.name}: it has {', '.join(frame.nodes)}.")
    return {key.path[-1] for key in keys}
