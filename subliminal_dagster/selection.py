"""Which parts of a study a person means.

Belongs here: turning what was typed into (asset, partition) pairs. Does not belong here: what is due among them.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import dagster as dg

from subliminal_dagster.build import study_assets
from subliminal_dagster.frame import Frame
from subliminal_dagster.recipe import Input
from subliminal_dagster.science.errors import UserError


def wanted_parts(frame: Frame, select: str | None, groups: Collection[str] | None) -> set[Input] | None:
    """The parts a selection (Dagster's syntax; names may lack the study's) and partitions name; None for all.

    An unpartitioned asset is among them whatever the groups, where `select` names it. Raises UserError for an asset
    or group there is none of.
    """
    if select is None and groups is None:
        return None
    strangers = sorted(set(groups or ()) - set(frame.study.groups))
    if strangers:
        raise UserError(
            f"The study {frame.study.name} has no partition {strangers[0]!r}: choose among "
            f"{', '.join(frame.study.groups)}."
        )
    names = [name for name in frame.nodes if select is not None or frame.nodes[name].partitioned]
    if select is not None:
        chosen = _resolved(frame, select)
        names = [name for name in names if name in chosen]
    return {
        (name, partition)
        for name in names
        for partition in frame.partitions(name)
        if partition is None or groups is None or partition in groups
    }


def _resolved(frame: Frame, select: str) -> set[str]:
    known = "|".join(sorted(frame.nodes, key=len, reverse=True))
    prefix = re.escape(frame.study.name)
    spelled = re.sub(
        rf'(?<![\w:/"-])(?:{prefix}/)?({known})(?![\w/"-])',
        rf'key:"{frame.study.name}/\1"',
        select.replace(",", " or "),
    )
    try:
        keys = dg.AssetSelection.from_string(spelled).resolve(study_assets(Frame(frame.study)))
    except dg.DagsterError as error:
        raise UserError(f"--select {select!r} is no selection: {str(error).splitlines()[0]}") from None
    if not keys:
        raise UserError(f"--select {select!r} matches no asset of {frame.study.name}: it has {', '.join(frame.nodes)}.")
    return {key.path[-1] for key in keys}
