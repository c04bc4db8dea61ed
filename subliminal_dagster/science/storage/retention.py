"""What of the stored results nobody needs any more, and its removal.

Belongs here: which versions, artifacts, copies and scratch are garbage, given what the current definitions have, and
how each is deleted while others write. Does not belong here: what goes by itself when a version is written (`writing`)
or a workspace taken (`scratch`), asking the user, or knowing which definitions are current. A study that the caller
does not name is never looked at.

Part of no version: what nobody needs is in no result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.claims import Claims
from subliminal_dagster.science.storage.files import (
    flush_to_disk,
    folder_size,
    folders_in,
    last_touched,
    remove_folder,
)
from subliminal_dagster.science.storage.hashed_files import HashedFiles
from subliminal_dagster.science.storage.keys import Key, check_name, names_among, partitions_among
from subliminal_dagster.science.storage.records import (
    FORGOTTEN_AFTER,
    POINTER,
    REFUSAL,
    DamagedArtifact,
    MissingArtifact,
    is_version,
)
from subliminal_dagster.science.storage.root import Root
from subliminal_dagster.science.storage.scratch import Drafts, Workspaces
from subliminal_dagster.science.storage.store import ArtifactStore
from subliminal_dagster.science.storage.versions import Versions


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
        for asset, partition in dict.fromkeys([*stored, *_locally_kept(store.opened, study)]):
            key = Key(study, asset, partition)
            reason = _why_unexpected(partitions_of, asset, partition)
            if reason is None:
                found += _outdated(store, key)
            else:
                found += _unexpected(store, key, reason)
    found += [
        Garbage("abandoned draft", str(draft), folder_size(draft), partial(_remove_draft, draft=draft))
        for draft in Drafts(store.opened).abandoned()
    ]
    claims = Claims(store.opened)
    found += [
        Garbage("claim of an ended process", claims.path(name), 0, partial(_remove_claim_leftover, name=name))
        for name in claims.leftovers()
    ]
    return found


def remove(store: ArtifactStore, garbage: Iterable[Garbage]) -> int:
    """Remove what `find_garbage` found in this store, except what is needed again since. Returns the bytes freed.

    May be repeated: what is already gone is not an error. Where something cannot be removed, the rest still is, and
    then UserError names what was left.
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


# Finding


def _locally_kept(root: Root, study: str) -> list[tuple[str, str | None]]:
    """The assets and partitions of which this machine keeps cached copies or scratch."""
    check_name("study", study)
    return sorted(
        {
            (asset, partition)
            for base in (root.copies / study, root.work / study)
            for asset in names_among(folders_in(base))
            for partition in partitions_among(folders_in(base / asset))
        },
        key=lambda place: (place[0], place[1] or ""),
    )


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


def _unexpected(store: ArtifactStore, key: Key, reason: str) -> Iterator[Garbage]:
    """Everything there is of it, what is stored first: a copy that a pointer refers to is not removed."""
    root, versions = store.opened, Versions(store.opened)
    if key.partition in store.partitions(key.study, key.asset):
        seen = {*versions.stored(key), versions.current(key)}
        yield Garbage(
            reason,
            root.location(key.relative),
            root.size(key.relative),
            partial(_remove_artifact, key=key, seen=seen),
            outside=True,
        )
    for copy in _copies(root, key):
        yield Garbage(
            f"cached copy, {reason}",
            str(copy),
            folder_size(copy),
            partial(_remove_copy, key=key, copy=copy),
            outside=True,
        )
    folder = Workspaces(root).folder(key)
    if folder is not None:
        yield Garbage(
            f"scratch, {reason}",
            str(folder),
            folder_size(folder),
            partial(_remove_workspaces, key=key, untouched_since=None),
            outside=True,
        )


def _outdated(store: ArtifactStore, key: Key) -> Iterator[Garbage]:
    """What there is of it beside the current version."""
    root = store.opened
    for version in _superseded(store, key):
        yield Garbage(
            "superseded version",
            root.location(key.relative, version),
            root.size(key.relative, version),
            partial(_remove_superseded, key=key, version=version),
        )
    for copy in _unused_copies(root, key):
        yield Garbage(
            "cached copy of a superseded version",
            str(copy),
            folder_size(copy),
            partial(_remove_copy, key=key, copy=copy),
        )
    if _has_stale_refusal(store, key):
        yield Garbage(
            "stale refusal",
            root.location(key.relative, REFUSAL),
            root.size(key.relative, REFUSAL),
            partial(_remove_stale_refusal, key=key),
        )
    folder = Workspaces(root).folder(key)
    long_ago = datetime.now(UTC) - FORGOTTEN_AFTER
    if folder is not None and last_touched(folder) < long_ago:
        yield Garbage(
            f"scratch untouched for {FORGOTTEN_AFTER.days} days",
            str(folder),
            folder_size(folder),
            partial(_remove_workspaces, key=key, untouched_since=long_ago),
        )


def _superseded(store: ArtifactStore, key: Key) -> list[str]:
    """The versions that were current before, and older ones that never were and that nobody is about to point to;
    oldest first, [] where the current one is not sound (`check`): then the last good one may be among them."""
    versions = Versions(store.opened)
    deletable = versions.deletable(key, versions.once_current(key))
    if not deletable:
        return []
    try:
        current = store.check(*astuple(key)).version
    except (UserError, OSError):
        return []
    return [version for version in deletable if version < current]


def _copies(root: Root, key: Key) -> list[Path]:
    """The copies of a remote artifact that this machine keeps."""
    folder = root.copies / key.relative
    return [folder / name for name in folders_in(folder)]


def _unused_copies(root: Root, key: Key) -> list[Path]:
    """Those that the pointer does not refer to; none where it cannot be read, so nobody can tell."""
    copies = _copies(root, key)
    try:
        used = Versions(root).pointer(key).manifest_sha256 if copies else None
    except MissingArtifact:
        used = None
    except DamagedArtifact:
        return []
    return [copy for copy in copies if copy.name != used]


def _has_stale_refusal(store: ArtifactStore, key: Key) -> bool:
    """Whether there is a record of a refusal that does not count: not readable, or of an earlier version."""
    return REFUSAL in store.opened.names(key.relative) and store.refusal(*astuple(key)) is None


# Removing: each looks again, since others may have written meanwhile. Each returns the bytes freed and raises OSError.


def _remove_superseded(store: ArtifactStore, key: Key, version: str) -> int:
    with store.opened.lock(key):
        return _delete(store.opened, key, version) if version in _superseded(store, key) else 0


def _remove_artifact(store: ArtifactStore, key: Key, seen: Collection[str | None]) -> int:
    """Delete everything stored of an artifact, the pointer first so that it never points to nothing.

    A version not in `seen` was written after the caller looked. It is kept, and everything is where the pointer names
    it, or where a process claims the artifact.
    """
    root = store.opened
    with root.lock(key):
        if Versions(root).current(key) not in (None, *seen) or (key.asset, key.partition) in store.claims(key.study):
            return 0
        freed = _delete(root, key, POINTER)
        if freed and root.local:
            flush_to_disk(root.local / key.relative)
        names = root.names(key.relative)
        written_since = {name for name in names if is_version(name) and name not in seen}
        freed += sum(_delete(root, key, name) for name in names if name not in written_since)
        if not written_since:
            HashedFiles(root.verified).forget(key.relative)
            with suppress(OSError):
                root.remove_empty_folder(key.relative)
            # Only a local file system is sure to keep a folder that is not empty.
            if root.local:
                with suppress(OSError):
                    root.remove_empty_folder(key.study, key.asset)
        return freed


def _remove_copy(store: ArtifactStore, key: Key, copy: Path) -> int:
    with store.opened.lock(key):
        return remove_folder(copy) if copy in _unused_copies(store.opened, key) else 0


def _remove_stale_refusal(store: ArtifactStore, key: Key) -> int:
    with store.opened.lock(key):
        return _delete(store.opened, key, REFUSAL) if _has_stale_refusal(store, key) else 0


def _remove_workspaces(store: ArtifactStore, key: Key, untouched_since: datetime | None) -> int:
    """Unless something in them changed since (None: whenever it did), and except one that another process works in."""
    with store.opened.lock(key):
        workspaces = Workspaces(store.opened)
        folder = workspaces.folder(key)
        if folder is None or (untouched_since is not None and last_touched(folder) >= untouched_since):
            return 0
        return workspaces.remove_unused(key)


def _remove_draft(store: ArtifactStore, draft: Path) -> int:
    return remove_folder(draft) if draft in Drafts(store.opened).abandoned() else 0


def _remove_claim_leftover(store: ArtifactStore, name: str) -> int:
    return Claims(store.opened).remove_leftover(name)


def _delete(root: Root, key: Key, name: str) -> int:
    """Something in an artifact's folder, if it is there still."""
    size = root.size(key.relative, name)
    try:
        root.remove(key.relative, name)
    except FileNotFoundError:
        return 0
    return size
