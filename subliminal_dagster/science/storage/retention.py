"""What of the stored results nobody needs any more, and its removal.

Belongs here: which versions, artifacts, copies and scratch are garbage, given what the current definitions have. Does
not belong here: where they lie and how one is deleted while others write (`store`), asking the user, or knowing which
definitions are current. A study that the caller does not name is never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.store import FORGOTTEN_AFTER, REFUSAL, ArtifactStore, folder_size, last_touched


@dataclass(frozen=True)
class Garbage:
    """Something that can be removed.

    `what` says why in one phrase, `path` where it lies; `size` is in bytes. `removal` deletes it from the store it was
    found in, unless somebody needs it again, and returns the bytes freed. What is `outside` of the definitions is
    garbage only to who has no others: somebody may have made it with other settings of the study.
    """

    what: str
    path: str
    size: int
    removal: Callable[[ArtifactStore], int] = field(repr=False, compare=False)
    outside: bool = False


def find_garbage(store: ArtifactStore, expected: Mapping[str, Mapping[str, Collection[str | None]]]) -> list[Garbage]:
    """Everything in the store and on this machine that nobody needs any more; none of it is changed.

    `expected`: study -> asset -> the partitions that the current definitions have (None for an asset without). Of
    studies that are not in it nothing is found. Finding older versions may take hashing the current ones.

    Raises UserError where a study's name cannot be one, OSError where the store cannot be looked at.
    """
    found: list[Garbage] = []
    for study, partitions_of in expected.items():
        stored = [(asset, partition) for asset in store.assets(study) for partition in store.partitions(study, asset)]
        # Of what was deleted from the store, by another machine maybe, this one may still have copies and scratch.
        for asset, partition in dict.fromkeys([*stored, *store.locally_kept(study)]):
            reason = _why_unexpected(partitions_of, asset, partition)
            if reason is None:
                found += _outdated(store, study, asset, partition)
            else:
                found += _unexpected(store, study, asset, partition, reason)
    found += [
        Garbage("abandoned draft", str(draft), folder_size(draft), partial(ArtifactStore.remove_draft, draft=draft))
        for draft in store.abandoned_drafts()
    ]
    found += [
        Garbage("claim of an ended process", path, 0, partial(ArtifactStore.remove_claim_leftover, path=path))
        for path in store.claim_leftovers()
    ]
    return found


def remove(store: ArtifactStore, garbage: Iterable[Garbage]) -> int:
    """Remove what `find_garbage` found in this store, except what is needed again since. Returns the bytes freed.

    May be repeated: what is gone is no error. Where something cannot be removed the rest still is, and then UserError
    names what was left.
    """
    freed = 0
    failures: list[str] = []
    for item in garbage:
        try:
            freed += item.removal(store)
        except OSError as error:
            failures.append(f"{item.path} ({error.strerror or error})")
    if failures:
        raise UserError(
            f"Not everything could be removed ({freed} bytes were freed): mend what hinders the removal of "
            f"{', '.join(failures)} and try again."
        )
    return freed


def _why_unexpected(
    partitions_of: Mapping[str, Collection[str | None]], asset: str, partition: str | None
) -> str | None:
    if asset not in partitions_of:
        return "asset no longer exists"
    if partition in partitions_of[asset]:
        return None
    if partition is None:
        return "asset is divided into partitions now"
    return f"partition '{partition}' is no longer part of the study"


def _unexpected(store: ArtifactStore, study: str, asset: str, partition: str | None, reason: str) -> Iterator[Garbage]:
    """Everything there is of it, what is stored first: a copy that a pointer refers to is not removed."""
    if partition in store.partitions(study, asset):
        seen = {*store.versions(study, asset, partition), store.current_version(study, asset, partition)}
        yield Garbage(
            reason,
            store.location(study, asset, partition),
            store.size(study, asset, partition),
            partial(ArtifactStore.remove_artifact, study=study, asset=asset, partition=partition, seen=seen),
            outside=True,
        )
    for copy in store.copies(study, asset, partition):
        yield Garbage(
            f"cached copy, {reason}",
            str(copy),
            folder_size(copy),
            partial(ArtifactStore.remove_copy, study=study, asset=asset, partition=partition, copy=copy),
            outside=True,
        )
    folder = store.scratch(study, asset, partition)
    if folder is not None:
        yield Garbage(
            f"scratch, {reason}",
            str(folder),
            folder_size(folder),
            partial(ArtifactStore.remove_scratch, study=study, asset=asset, partition=partition, untouched_since=None),
            outside=True,
        )


def _outdated(store: ArtifactStore, study: str, asset: str, partition: str | None) -> Iterator[Garbage]:
    """What there is of it beside the current version."""
    for version in store.superseded(study, asset, partition):
        yield Garbage(
            "superseded version",
            store.location(study, asset, partition, version),
            store.size(study, asset, partition, version),
            partial(ArtifactStore.remove_superseded, study=study, asset=asset, partition=partition, version=version),
        )
    for copy in store.unused_copies(study, asset, partition):
        yield Garbage(
            "cached copy of a superseded version",
            str(copy),
            folder_size(copy),
            partial(ArtifactStore.remove_copy, study=study, asset=asset, partition=partition, copy=copy),
        )
    if store.refusal_is_stale(study, asset, partition):
        yield Garbage(
            "stale refusal",
            store.location(study, asset, partition, REFUSAL),
            store.size(study, asset, partition, REFUSAL),
            partial(ArtifactStore.remove_stale_refusal, study=study, asset=asset, partition=partition),
        )
    folder = store.scratch(study, asset, partition)
    long_ago = datetime.now(UTC) - FORGOTTEN_AFTER
    if folder is not None and last_touched(folder) < long_ago:
        yield Garbage(
            f"scratch untouched for {FORGOTTEN_AFTER.days} days",
            str(folder),
            folder_size(folder),
            partial(
                ArtifactStore.remove_scratch, study=study, asset=asset, partition=partition, untouched_since=long_ago
            ),
        )
