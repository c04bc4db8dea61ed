"""What is stored of an artifact, and whether it is still what was written.

Belongs here: reading the records of the version that counts, holding files against them, and fetching the files of a
remote artifact. Does not belong here: which version counts (`versions`), what the records look like (`records`).

Part of no version: how an artifact is kept does not change it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from subliminal_dagster.science.storage.files import files_in
from subliminal_dagster.science.storage.hashed_files import HashedFiles
from subliminal_dagster.science.storage.keys import Key, shown
from subliminal_dagster.science.storage.records import (
    MANIFEST,
    POINTER,
    REFUSAL,
    Artifact,
    DamagedArtifact,
    LeftOutArtifact,
    Manifest,
    Pointer,
    Refusal,
    StoredFile,
    damaged,
    parsed_manifest,
    parsed_refusal,
)
from subliminal_dagster.science.storage.root import Root
from subliminal_dagster.science.storage.scratch import Drafts
from subliminal_dagster.science.storage.versions import Versions

_Found = TypeVar("_Found")


class Reader:
    """Reads what lies below a root. The methods are those of `ArtifactStore`, and raise as they do."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._versions = Versions(root)
        self._verified = HashedFiles(root.verified)

    def read(self, key: Key) -> Artifact:
        def look(pointer: Pointer) -> Artifact:
            manifest = self._manifest(key, pointer)
            if manifest.left_out:
                raise LeftOutArtifact(
                    f"Artifact {key.label} in {self._root.name} was imported without its files: {key.materialize} to "
                    "have them."
                )
            return Artifact(**vars(manifest), path=self._verified_folder(key, pointer, manifest))

        return self._look_at_current(key, look)

    def check(self, key: Key) -> Manifest:
        def look(pointer: Pointer) -> Manifest:
            manifest = self._manifest(key, pointer)
            if self._root.local:
                self._verify(key, self._root.local / key.relative / pointer.version, manifest)
            else:
                self._check_remote(key, pointer.version, manifest)
            return manifest

        return self._look_at_current(key, look)

    def manifest(self, key: Key) -> Manifest:
        return self._look_at_current(key, lambda pointer: self._manifest(key, pointer))

    def refusal(self, key: Key) -> Refusal | None:
        try:
            found = parsed_refusal(self._root.read(key.relative, REFUSAL))
        except FileNotFoundError:
            return None
        if found is None:
            return None
        refusal, refused_version = found
        # A writer killed between the new pointer and the end of the refusal leaves one of an earlier version.
        current = self._versions.current(key)
        return refusal if current is None or current == refused_version else None

    def _look_at_current(self, key: Key, look: Callable[[Pointer], _Found]) -> _Found:
        while True:
            pointer = self._versions.pointer(key)
            try:
                return look(pointer)
            except DamagedArtifact:
                # Two writes during one look prune the version looked at, and then there is a newer one to look at.
                if self._versions.pointer(key) == pointer:
                    raise

    def _manifest(self, key: Key, pointer: Pointer) -> Manifest:
        try:
            content = self._root.read(key.relative, pointer.version, MANIFEST)
        except FileNotFoundError:
            raise self._damaged(key, f"file {MANIFEST} is missing") from None
        if hashlib.sha256(content).hexdigest() != pointer.manifest_sha256:
            raise self._damaged(key, f"file {MANIFEST} or the pointer {POINTER} was changed after it was written")
        try:
            manifest = parsed_manifest(content)
        except (ValueError, KeyError, TypeError):
            raise self._damaged(key, f"file {MANIFEST} is not one that this version of the software can read") from None
        if manifest.content_hash != pointer.content_hash:
            raise self._damaged(key, f"its pointer {POINTER} was changed after it was written")
        return manifest

    # Files

    def _verified_folder(self, key: Key, pointer: Pointer, manifest: Manifest) -> Path:
        if self._root.local:
            folder = self._root.local / key.relative / pointer.version
            self._verify(key, folder, manifest)
            return folder
        folder = self._root.copies / key.relative / pointer.manifest_sha256
        if folder.is_dir():
            try:
                self._verify(key, folder, manifest)
                return folder
            except DamagedArtifact:
                # Only this machine's copy is known to be damaged.
                shutil.rmtree(folder)
        self._download(key, pointer.version, manifest, folder)
        self._verify(key, folder, manifest)
        return folder

    def _download(self, key: Key, version: str, manifest: Manifest, target: Path) -> None:
        self._check_remote(key, version, manifest)
        with (
            self._root.explaining_disk(f"{key.label} was not downloaded to {self._root.cache}", key),
            Drafts(self._root).new() as folder,
        ):
            for file in manifest.files:
                local = folder / file.path
                local.parent.mkdir(parents=True, exist_ok=True)
                try:
                    self._root.fs.get_file(self._root.path(key.relative, version, file.path), str(local))
                except FileNotFoundError:
                    raise self._missing_file(key, file.path) from None
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(folder, target)
            except OSError:
                # Someone else downloaded it meanwhile.
                if not target.is_dir():
                    raise

    def _verify(self, key: Key, folder: Path, manifest: Manifest) -> None:
        """Everything there is to know of files on this machine."""
        self._check_names(key, set(files_in(folder)), manifest)
        paths = [folder / file.path for file in manifest.files_here]
        for file, path in zip(manifest.files_here, paths, strict=True):
            try:
                self._check_size(key, file, path.stat().st_size)
            except FileNotFoundError:
                raise self._missing_file(key, file.path) from None
        try:
            hashes = self._verified.sha256s(key.relative, paths)
        except FileNotFoundError as error:
            raise self._missing_file(key, Path(error.filename).relative_to(folder).as_posix()) from None
        for file, sha256 in zip(manifest.files_here, hashes, strict=True):
            if sha256 != file.sha256:
                raise self._damaged(key, f"file {shown(file.path)} was changed after it was written")

    def _check_remote(self, key: Key, version: str, manifest: Manifest) -> None:
        """Names and sizes, which is all that can be known of files far away without fetching them."""
        sizes = self._root.sizes(key.relative, version)
        self._check_names(key, set(sizes), manifest)
        for file in manifest.files_here:
            self._check_size(key, file, sizes[file.path])

    def _check_size(self, key: Key, file: StoredFile, size: int) -> None:
        if size != file.size:
            raise self._damaged(key, f"file {shown(file.path)} has {size} bytes instead of {file.size}")

    def _check_names(self, key: Key, found: set[str], manifest: Manifest) -> None:
        expected = {file.path for file in manifest.files_here}
        for name in sorted(expected - found):
            raise self._missing_file(key, name)
        for name in sorted(found - expected - {MANIFEST}):
            raise self._damaged(key, f"file {shown(name)} was added after it was written")

    def _missing_file(self, key: Key, name: str) -> DamagedArtifact:
        return self._damaged(key, f"file {shown(name)} is missing")

    def _damaged(self, key: Key, problem: str) -> DamagedArtifact:
        return damaged(key, self._root.name, problem)
