"""What a gate refused, and what therefore is not made.

Belongs here: reading refusals, and following them downstream. Does not belong here: refusing (`execution.work`).
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from subliminal_dagster.planning.frame import Frame, shown
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import AnyStudy
from subliminal_dagster.science.storage.records import DamagedArtifact, Manifest, MissingArtifact, Refusal
from subliminal_dagster.science.storage.store import ArtifactStore


def refusal_of(store: ArtifactStore, study: str, asset: str, partition: str | None) -> Refusal | None:
    """Why nothing may be built on this artifact, or why there is none; None where no gate refused it."""
    refusal = store.refusal(study, asset, partition)
    if refusal is None:
        with suppress(MissingArtifact, DamagedArtifact):
            return refusal_within(store.manifest(study, asset, partition))
    return refusal


def refusal_within(manifest: Manifest) -> Refusal | None:
    """The refusal that an artifact was written with."""
    reason = manifest.info.get("refused")
    return Refusal(reason, manifest.info, manifest.created) if reason else None


def refusal_above(
    frame: Frame, store: ArtifactStore, asset: str, partition: str | None, seen: dict[Input, str | None]
) -> str | None:
    """The refusal of this artifact, or of one it is built on, as a sentence; None where every gate is open.

    `seen` keeps what was found, so that what many are built on is looked at once.
    """
    place = (asset, partition)
    if place not in seen:
        refusal = refusal_of(store, frame.study.name, asset, partition)
        if refusal is not None:
            seen[place] = f"{shown(asset, partition)} was refused: {refusal.reason}"
        elif frame.nodes[asset].takes_what_there_is:
            seen[place] = None
        elif frame.gathers(asset):
            seen[place] = _refusal_of_gathered(frame, store, place, seen)
        else:
            above = (refusal_above(frame, store, *upstream, seen) for upstream in frame.inputs(asset, partition))
            seen[place] = next((reason for reason in above if reason), None)
    return seen[place]


def _refusal_of_gathered(frame: Frame, store: ArtifactStore, place: Input, seen: dict[Input, str | None]) -> str | None:
    """The refusal that something which gathers groups cannot do without: one of no group, of the control, or of every
    animal."""
    by_group: dict[str | None, str] = {}
    for upstream in frame.inputs(*place):
        reason = refusal_above(frame, store, *upstream, seen)
        if reason is not None:
            by_group.setdefault(frame.group_of(*upstream), reason)
    if None in by_group:
        return by_group[None]
    return next(iter(by_group.values())) if nothing_to_compare(by_group, frame.study) else None


def nothing_to_compare(left_out: Collection[str | None], study: AnyStudy) -> bool:
    """Whether what brings groups together has to do without the control, or without every animal."""
    return CONTROL in left_out or (bool(study.groups) and set(study.subjects) <= set(left_out))
