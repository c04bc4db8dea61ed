"""How a finished draft becomes the version that counts.

Belongs here: describing what a draft holds, putting it into its place, and the order of the steps, which leaves the old
result or the new one whatever kills the writer in between. Does not belong here: the draft's folder (`scratch`), what
the records look like (`records`).

Part of no version: how an artifact is kept does not change it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.content_hash import file_content_hash, is_view, json_hash
from subliminal_dagster.science.storage.files import files_in, flush_to_disk, write_durably
from subliminal_dagster.science.storage.keys import Key
from subliminal_dagster.science.storage.records import (
    MANIFEST,
    POINTER,
    REFUSAL,
    Artifact,
    Draft,
    Manifest,
    Pointer,
    StoredFile,
    new_version,
    parsed_manifest,
)
from subliminal_dagster.science.storage.root import Root
from subliminal_dagster.science.storage.versions import Versions


def publish(root: Root, key: Key, draft: Draft, original: Manifest | None = None) -> Artifact:
    """Make a draft the current version of an artifact, and delete the versions that were current before the last one.

    `original`: the manifest elsewhere that this one is a copy of, if it is one. Raises as `ArtifactStore.write` and
    `copy` do, but for errors of the disk, which it leaves as they are.
    """
    left_out = original is not None and original.left_out
    files = original.files if original and left_out else tuple(_described(draft.path))
    content_hash = json_hash({file.path: file.content for file in files if file.content is not None})
    if original and content_hash != original.content_hash:
        raise UserError(
            f"The files of {key.label} are not those that its content hash {original.content_hash[:12]} stands for "
            f"(theirs is {content_hash[:12]}): get the copy again from where it came from."
        )
    versions = Versions(root)
    with root.lock(key):
        previous = versions.current(key)
        created = original.created if original else datetime.now(UTC)
        version = new_version(content_hash, created, previous)
        manifest = Manifest(version, content_hash, created, files, draft.info, left_out=left_out).as_bytes()
        manifest_sha256 = hashlib.sha256(manifest).hexdigest()
        # Where the pointer was lost, a version that is whole is taken for one that it named.
        before = [previous, *versions.once_current(key)] if previous else versions.whole(key)
        superseded = versions.deletable(key, before)
        pointer = Pointer(version, content_hash, manifest_sha256).as_bytes(superseded)
        write_durably(draft.path / MANIFEST, manifest)
        if root.local:
            path = root.local / key.relative / version
            _put_locally(root, key, draft.path, path, pointer)
        else:
            path = root.copies / key.relative / manifest_sha256
            path.parent.mkdir(parents=True, exist_ok=True)
            _upload(root, key, draft.path, version, [*([] if left_out else (file.path for file in files)), MANIFEST])
            root.replace(pointer, key.relative, POINTER)
            os.rename(draft.path, path)
        # One that cannot be deleted no longer counts: it names the version it was about.
        with suppress(OSError):
            root.remove_file(key.relative, REFUSAL)
        if previous:
            _prune(root, key, [old for old in superseded if old != previous])
    return Artifact(**vars(parsed_manifest(manifest)), path=path)


def _prune(root: Root, key: Key, versions: list[str]) -> None:
    # One that cannot be deleted takes room and does no harm: the new version is already in place.
    with suppress(OSError):
        for version in versions:
            root.remove(key.relative, version)


def _described(draft: Path) -> Iterator[StoredFile]:
    names = sorted(files_in(draft))
    if not names:
        raise ValueError("nothing was written into the draft")
    if MANIFEST in names:
        raise ValueError(f"{MANIFEST} is the store's own file and cannot be part of a draft")
    for name in names:
        path = draft / name
        if path.is_symlink():
            raise ValueError(f"{name} is a link, and an artifact has to hold its files itself")
        with path.open("rb") as file:
            raw = hashlib.file_digest(file, "sha256").hexdigest()
        yield StoredFile(name, path.stat().st_size, raw, None if is_view(name) else file_content_hash(path))


def _put_locally(root: Root, key: Key, draft: Path, target: Path, pointer: bytes) -> None:
    # Otherwise a power cut could leave a pointer on disk to files that are not.
    for path in [*draft.rglob("*"), draft]:
        flush_to_disk(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(draft, target)
    try:
        flush_to_disk(target.parent)
        root.replace(pointer, key.relative, POINTER)
    except OSError:
        # Only what says for sure that the pointer was not replaced: after an interrupt it may have been, and then a
        # version too many, which a later write prunes, is better than a pointer to nothing.
        shutil.rmtree(target, ignore_errors=True)
        raise


def _upload(root: Root, key: Key, draft: Path, version: str, names: list[str]) -> None:
    try:
        for name in names:
            root.fs.put_file(str(draft / name), root.path(key.relative, version, name))
    except BaseException:
        # What hinders the upload may hinder this too, and the first error is the one to see.
        with suppress(Exception):
            root.remove(key.relative, version)
        raise
