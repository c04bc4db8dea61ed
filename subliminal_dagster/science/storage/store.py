"""Where results lie: folders of files under a local path or any fsspec URL, whole or not there at all.

    <root>/<study>/<asset>/<partition or "_">/current.json               the pointer: which version counts
    <root>/<study>/<asset>/<partition or "_">/<version>/manifest.json    every file's size and hashes, and the facts
    <root>/<study>/<asset>/<partition or "_">/<version>/...              the files
    <root>/<study>/<asset>/<partition or "_">/refused.json               why nothing may be built on it, if so
    <root>/.claims                                                       who is making what (`claims`)
    <root>/.drafts, .locks, .work, .cache                                this machine's scratch (local root only)

A version is complete before the pointer names it, and replacing the pointer is one atomic step, so a reader sees the
old result or the new one, whatever kills the writer in between.

Belongs here: writing, finding, verifying, refusing and deleting artifacts, and scratch folders for resumable work. Does
not belong here: what a file means (`content_hash` knows when two say the same), when an artifact is out of date, or
which of them nobody needs any more (`retention`).

Part of no version: how an artifact is kept does not change it.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import filelock
import fsspec
import psutil
from fsspec.implementations.local import LocalFileSystem

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.claims import ClaimedElsewhere, Claims, Holder
from subliminal_dagster.science.storage.content_hash import file_content_hash, is_view, json_hash
from subliminal_dagster.science.storage.hashed_files import HashedFiles
from subliminal_dagster.science.storage.snapshot import FetchedFiles

FORMAT = 1
MANIFEST = "manifest.json"
POINTER = "current.json"
REFUSAL = "refused.json"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_VERSION_TIME = "%Y%m%dT%H%M%S.%fZ"
_VERSION = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")
_SHA256 = re.compile("[0-9a-f]{64}")
# After this long without a change, scratch is nobody's.
FORGOTTEN_AFTER = timedelta(days=7)

# Also a chain of them (`dir::s3://bucket`).
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_PARTITION = "_"
# What stands between the parts of a partition's key (`owl|09`), and for it in paths, where a shell would see a pipe.
_AXES, _AXES_IN_PATHS = "|", "@"

_Found = TypeVar("_Found")


class MissingArtifact(UserError):  # noqa: N818
    """Nothing was written yet under this study, asset and partition."""


class DamagedArtifact(UserError):  # noqa: N818
    """What lies in the store is not what was written to it."""


class OtherFormat(UserError):  # noqa: N818
    """What lies in the store was written by a version of the software that stores it differently.

    It may well be sound, so it is neither read nor replaced.
    """


@dataclass(frozen=True)
class StoredFile:
    """One file of an artifact.

    `path` is relative (posix), `size` in bytes, `sha256` that of the raw bytes; `content` is the hash of what the
    file says (`content_hash.file_content_hash`), None for a view, which says nothing of its own.
    """

    path: str
    size: int
    sha256: str
    content: str | None


@dataclass(frozen=True)
class Manifest:
    """What is known of an artifact without opening its files.

    `content_hash` covers what the files say and nothing else; `info` holds the facts about how they came to be.
    """

    version: str
    content_hash: str
    created: datetime
    files: tuple[StoredFile, ...]
    info: dict[str, Any]


@dataclass(frozen=True)
class Artifact(Manifest):
    """A verified artifact; its files lie in the local folder `path` and must not be changed there."""

    path: Path


@dataclass(frozen=True)
class Refusal:
    """Why nothing may be built on an artifact, and a record of what the verdict rests on."""

    reason: str
    made_from: dict[str, Any]
    created: datetime


@dataclass
class Draft:
    """An artifact in the making: put files into the folder `path` and JSON-able facts into `info`."""

    path: Path
    info: dict[str, Any]
    _artifact: Artifact | None = None

    @property
    def artifact(self) -> Artifact:
        """What the draft became. Raises RuntimeError before the `with` block was left in good order."""
        if self._artifact is None:
            raise RuntimeError("a draft is an artifact only after its `with` block")
        return self._artifact


@dataclass(frozen=True)
class _Key:
    """Which artifact; names are checked when it is made, because they become paths. A partition of two axes is written
    `owl|09`."""

    study: str
    asset: str
    partition: str | None

    def __post_init__(self) -> None:
        _check_name("study", self.study)
        _check_name("asset", self.asset)
        if self.partition is not None:
            for part in self.partition.split(_AXES):
                _check_name("partition", part)

    @property
    def relative(self) -> str:
        return f"{self.study}/{self.asset}/{(self.partition or _NO_PARTITION).replace(_AXES, _AXES_IN_PATHS)}"

    @property
    def label(self) -> str:
        return f"{self.study}/{self.asset}" + (f" [{self.partition}]" if self.partition else "")

    @property
    def materialize(self) -> str:
        return f"materialize {self.asset}" + (f" for partition {self.partition}" if self.partition else "")


class ArtifactStore:
    """The artifacts under one root.

    `root`: a local folder or an fsspec URL (`memory://x`, `s3://bucket/x`; whatever begins in another way is the path
    of a folder, `~` being the home folder). A local one is made when first written to. `cache_dir`: a local folder for
    copies of remote artifacts and for the record of files already verified; by default `<root>/.cache`, or
    `~/.cache/subliminal-dagster` where the root is remote.

    Every method takes `study`, `asset` and `partition` (None for an asset without partitions) and raises UserError
    where one of them cannot be a folder's name, and OtherFormat where it looks at an artifact that another version of
    the software stored differently. Raises UserError where the root is blank or its kind of URL is not supported.
    """

    def __init__(self, root: str | Path, cache_dir: Path | None = None) -> None:
        if not str(root).strip() or "\0" in str(root):
            raise UserError(
                "The artifact root is blank or holds a null character: set SUBLIMINAL_ARTIFACTS to a folder or to the "
                "URL of one."
            )
        url = str(root).strip()
        if _URL.match(url):
            # A URL may carry a password, and the root is named in messages.
            self.root = re.sub(r"//[^/@]*@", "//", url)
            caching = re.search(r"\b(\w*cache)::", url)
            if caching:
                # A cached pointer hides new results, and a claim that such a layer answers for is given to two.
                raise UserError(
                    f"The artifact root {self.root} goes through {caching[1]}: leave that out, the store keeps copies "
                    "of its own."
                )
            try:
                self._fs, path = fsspec.core.url_to_fs(url)
            except (ValueError, ImportError) as error:
                raise UserError(f"The artifact root {self.root} cannot be opened: {error}.") from error
        else:
            # Not by fsspec, which reads "a::b" and "file:x" as more than names.
            self.root = path = os.path.abspath(os.path.expanduser(root))
            self._fs = LocalFileSystem()
        self._root_path: str = path.rstrip("/")
        self._local_root = Path(path) if isinstance(self._fs, LocalFileSystem) else None
        if cache_dir is not None:
            cache_dir = Path(cache_dir).expanduser().absolute()
        default_cache = (
            self._local_root / ".cache" if self._local_root else Path.home() / ".cache" / "subliminal-dagster"
        )
        self._cache = cache_dir or default_cache
        # A folder that serves several roots must not mix up what two of them call by the same name.
        of_this_root = default_cache
        if cache_dir is not None or self._local_root is None:
            name = str(self._local_root or self.root.rstrip("/"))
            of_this_root = self._cache / hashlib.sha256(name.encode()).hexdigest()[:16]
        self._copies = of_this_root / "copies"
        self._verified = HashedFiles(of_this_root / "verified")
        # Drafts become versions by a rename, which needs them on the same file system as what they become.
        self._scratch = self._local_root or self._cache
        self._work = (cache_dir or self._scratch) / ".work"
        self._claims = Claims(self._fs, f"{self._root_path}/.claims", local=self._local_root is not None)

    # Claiming

    @contextmanager
    def claim(self, study: str, asset: str, partition: str | None = None) -> Iterator[None]:
        """Be the only process that makes this artifact during the `with` block, on whatever machine the others run.

        Raises ClaimedElsewhere where a living process holds the claim, this one included. That of a process killed on
        this machine is taken over at once, that of one on another machine when two looks through this store, two
        minutes apart, saw no sign of life of it. Raises UserError where the disk is full or may not be written to.
        """
        key = _Key(study, asset, partition)
        with ExitStack() as stack:
            # Only the claiming: the block has its own errors.
            with self._explaining_disk(f"{key.label} was not claimed in {self.root}", key):
                other = stack.enter_context(self._claims.held(f"{key.relative}.json"))
            if other is not None:
                raise ClaimedElsewhere(
                    f"{key.label} in {self.root} is being made by {other.shown}: wait until that has ended, or end it, "
                    f"and {key.materialize} again.",
                    other,
                )
            yield

    def claims(self, study: str) -> dict[tuple[str, str | None], Holder]:
        """What living processes are making of a study: asset and partition -> who makes it."""
        _check_name("study", study)
        found = {}
        for name, holder in self._claims.all(study).items():
            asset, _, folder = name.removeprefix(f"{study}/").removesuffix(".json").partition("/")
            found.update({(asset, partition): holder for partition in _as_partitions([folder]) if _is_name(asset)})
        return found

    def claim_leftovers(self) -> list[str]:
        """Paths of what killed processes left of their claims and nobody takes over."""
        return [f"{self._root_path}/.claims/{name}" for name in self._claims.leftovers()]

    def remove_claim_leftover(self, path: str) -> int:
        """Delete one if it is one still. Returns the bytes freed; raises OSError."""
        return self._claims.remove_leftover(path.removeprefix(f"{self._root_path}/.claims/"))

    # Writing

    @contextmanager
    def write(
        self, study: str, asset: str, partition: str | None = None, info: Mapping[str, Any] | None = None
    ) -> Iterator[Draft]:
        """Make a new version of an artifact: fill `draft.path` in the `with` block, find `draft.artifact` after it.

        `info`: JSON-able facts that are not content (seed, device, wall time, upstream hashes); the block may add
        to `draft.info`. The version before this one is kept, older ones are deleted, and so is a refusal: this is a new
        result. Where the block or the writing fails, the draft is deleted and what was there before stays. Raises
        UserError where the disk is full or may not be written to, ValueError where the draft is empty, holds a link or
        an own manifest.json, or holds a file that does not parse as what its name says, and TypeError where `info` is
        not JSON-able.
        """
        key = _Key(study, asset, partition)
        with (
            self._explaining_disk(
                f"{key.label} was not written to {self.root} and the artifact that was there before, if any, is intact",
                key,
            ),
            self._scratch_folder() as folder,
        ):
            draft = Draft(folder, dict(info or {}))
            yield draft
            draft._artifact = self._publish(key, draft)

    def _publish(self, key: _Key, draft: Draft) -> Artifact:
        files = tuple(_describe(draft.path))
        content_hash = json_hash({file.path: file.content for file in files if file.content is not None})
        with self._lock(key):
            previous = self._current_version(key)
            created = datetime.now(UTC)
            version = f"{_later_than(previous, created).strftime(_VERSION_TIME)}-{content_hash[:8]}"
            manifest_bytes = _manifest_bytes(Manifest(version, content_hash, created, files, draft.info))
            manifest_sha256 = hashlib.sha256(manifest_bytes).hexdigest()
            # Where the pointer was lost, a version that is whole is taken for one that it named.
            before = [previous, *self._once_current(key)] if previous else self._whole_versions(key)
            superseded = self._deletable(key, before)
            pointer = {
                "format": FORMAT,
                "version": version,
                "content_hash": content_hash,
                "manifest_sha256": manifest_sha256,
            }
            pointer_bytes = json.dumps(pointer | {"superseded": superseded}).encode()
            _write_durably(draft.path / MANIFEST, manifest_bytes)
            if self._local_root:
                path = self._publish_locally(self._local_root / key.relative, draft.path, version, pointer_bytes)
            else:
                path = self._cached_copy(key, manifest_sha256)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._upload(key, draft.path, files, version, pointer_bytes)
                os.rename(draft.path, path)
            # One that cannot be deleted no longer counts: it names the version it was about.
            with suppress(OSError):
                self._fs.rm_file(self._remote(key, REFUSAL))
            self._prune(key, superseded, previous)
        return Artifact(**vars(_parsed_manifest(manifest_bytes)), path=path)

    def _publish_locally(self, folder: Path, draft: Path, version: str, pointer_bytes: bytes) -> Path:
        # Otherwise a power cut could leave a pointer on disk to files that are not.
        for path in [*draft.rglob("*"), draft]:
            _flush_to_disk(path)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / version
        os.rename(draft, target)
        try:
            _flush_to_disk(folder)
            _replace_durably(folder / POINTER, pointer_bytes)
        except OSError:
            # Only what says for sure that the pointer was not replaced: after an interrupt it may have been, and
            # then a version too many, which a later write prunes, is better than a pointer to nothing.
            shutil.rmtree(target, ignore_errors=True)
            raise
        return target

    def _upload(
        self, key: _Key, draft: Path, files: tuple[StoredFile, ...], version: str, pointer_bytes: bytes
    ) -> None:
        target = self._remote(key, version)
        try:
            for name in [*(file.path for file in files), MANIFEST]:
                self._fs.put_file(str(draft / name), f"{target}/{name}")
        except BaseException:
            # What hinders the upload may hinder this too, and the first error is the one to see.
            with suppress(Exception):
                self._fs.rm(target, recursive=True)
            raise
        self._fs.pipe_file(self._remote(key, POINTER), pointer_bytes)

    def _prune(self, key: _Key, superseded: Collection[str], previous: str | None) -> None:
        if previous is None:
            return
        # A superseded version that cannot be deleted takes room and does no harm: the new one is already in place.
        with suppress(OSError):
            for version in superseded:
                if version != previous:
                    self._fs.rm(self._remote(key, version), recursive=True)

    def _deletable(self, key: _Key, once_current: Collection[str]) -> list[str]:
        """The stored versions that nobody is about to point to: the pointer named them once, or they are so old that
        whoever wrote them has ended. Oldest first; the current one may be among them.

        Another machine may be uploading a version that is older than the current one, and not hold this one's lock.
        """
        long_ago = (datetime.now(UTC) - FORGOTTEN_AFTER).strftime(_VERSION_TIME)
        stored = self.versions(key.study, key.asset, key.partition)
        return [version for version in stored if version in once_current or version < long_ago]

    def _whole_versions(self, key: _Key) -> list[str]:
        stored = self.versions(key.study, key.asset, key.partition)
        return [version for version in stored if self._fs.exists(self._remote(key, version, MANIFEST))]

    def _once_current(self, key: _Key) -> list[str]:
        """The versions that the pointer says were current before; [] where there is no pointer that can be read."""
        try:
            return [str(version) for version in json.loads(self._pointer_bytes(key) or b"")["superseded"]]
        except (ValueError, KeyError, TypeError):
            return []

    # Reading

    def read(self, study: str, asset: str, partition: str | None = None) -> Artifact:
        """The current version, every file verified, in a local folder (a remote one is downloaded once).

        Raises MissingArtifact where none was written, DamagedArtifact where a file is missing, added, cut or changed
        since, or the pointer or manifest is, UserError where the disk is too full for the download.
        """
        key = _Key(study, asset, partition)

        def look(pointer: dict[str, str]) -> Artifact:
            manifest = self._manifest(key, pointer)
            return Artifact(**vars(manifest), path=self._verified_folder(key, pointer, manifest))

        return self._look_at_current(key, look)

    def check(self, study: str, asset: str, partition: str | None = None) -> Manifest:
        """What the current version holds, verified as far as that takes no download.

        Under a local root every file is verified as by `read`; of a remote artifact the pointer, the manifest and the
        names and sizes of its files are. Raises as `manifest` does, and DamagedArtifact where that finds a fault.
        """
        key = _Key(study, asset, partition)

        def look(pointer: dict[str, str]) -> Manifest:
            manifest = self._manifest(key, pointer)
            if self._local_root:
                self._verify(key, self._local_root / key.relative / pointer["version"], manifest)
            else:
                self._check_remote(key, pointer["version"], manifest)
            return manifest

        return self._look_at_current(key, look)

    def manifest(self, study: str, asset: str, partition: str | None = None) -> Manifest:
        """What the current version holds and how it came to be; the files themselves are not looked at.

        Raises MissingArtifact where none was written, DamagedArtifact where the pointer or manifest was changed.
        """
        key = _Key(study, asset, partition)
        return self._look_at_current(key, lambda pointer: self._manifest(key, pointer))

    def snapshot(self, study: str) -> ArtifactStore | StoreSnapshot:
        """What `check`, `manifest` and `refusal` are to be asked of for many artifacts of a study.

        A remote root is looked at now, in three rounds of requests however many artifacts there are, where each would
        take several one after another; a local one whenever it is asked. Raises UserError where the study's name
        cannot be a folder's.
        """
        _check_name("study", study)
        if self._local_root:
            return self
        files = FetchedFiles(self._fs, f"{self._root_path}/{study}")
        records = files.fetch(files.named(POINTER, REFUSAL, depth=2))
        pointers = {path: pointer for path, content in records.items() if (pointer := _parsed_pointer(content))}
        files.fetch(f"{path.rpartition('/')[0]}/{pointer['version']}/{MANIFEST}" for path, pointer in pointers.items())
        as_it_was = copy.copy(self)
        as_it_was._fs = files
        return StoreSnapshot(study, as_it_was, self)

    def _look_at_current(self, key: _Key, look: Callable[[dict[str, str]], _Found]) -> _Found:
        while True:
            pointer = self._pointer(key)
            try:
                return look(pointer)
            except DamagedArtifact:
                # Two writes during one look prune the version looked at, and then there is a newer one to look at.
                if self._pointer(key) == pointer:
                    raise

    def exists(self, study: str, asset: str, partition: str | None = None) -> bool:
        """Whether there is a current version; whether it is sound, `read` finds out."""
        return self._pointer_bytes(_Key(study, asset, partition)) is not None

    def _pointer_bytes(self, key: _Key) -> bytes | None:
        try:
            content = self._content(key, POINTER)
        except FileNotFoundError:
            return None
        found = _format_of(content)
        if found != FORMAT:
            raise OtherFormat(
                f"Artifact {key.label} in {self.root} is stored in format {found} and this version of the software "
                f"knows format {FORMAT} only: use the version that wrote it, or set SUBLIMINAL_ARTIFACTS to another "
                "folder."
            )
        return content

    def _pointer(self, key: _Key) -> dict[str, str]:
        content = self._pointer_bytes(key)
        if content is None:
            raise MissingArtifact(f"No artifact {key.label} in {self.root}: {key.materialize} first.")
        pointer = _parsed_pointer(content)
        if pointer is None:
            raise self._damaged(key, f"its pointer {POINTER} is not readable")
        return pointer

    def _current_version(self, key: _Key) -> str | None:
        try:
            return self._pointer(key)["version"]
        except (MissingArtifact, DamagedArtifact):
            return None

    def _manifest(self, key: _Key, pointer: dict[str, str]) -> Manifest:
        try:
            content = self._content(key, pointer["version"], MANIFEST)
        except FileNotFoundError:
            raise self._damaged(key, f"file {MANIFEST} is missing") from None
        if hashlib.sha256(content).hexdigest() != pointer["manifest_sha256"]:
            raise self._damaged(key, f"file {MANIFEST} or the pointer {POINTER} was changed after it was written")
        try:
            manifest = _parsed_manifest(content)
        except (ValueError, KeyError, TypeError):
            raise self._damaged(key, f"file {MANIFEST} is not one that this version of the software can read") from None
        if manifest.content_hash != pointer["content_hash"]:
            raise self._damaged(key, f"its pointer {POINTER} was changed after it was written")
        return manifest

    def _verified_folder(self, key: _Key, pointer: dict[str, str], manifest: Manifest) -> Path:
        if self._local_root:
            folder = self._local_root / key.relative / pointer["version"]
            self._verify(key, folder, manifest)
            return folder
        folder = self._cached_copy(key, pointer["manifest_sha256"])
        if folder.is_dir():
            try:
                self._verify(key, folder, manifest)
                return folder
            except DamagedArtifact:
                # Only this machine's copy is known to be damaged.
                shutil.rmtree(folder)
        self._download(key, pointer["version"], manifest, folder)
        self._verify(key, folder, manifest)
        return folder

    def _download(self, key: _Key, version: str, manifest: Manifest, target: Path) -> None:
        self._check_remote(key, version, manifest)
        with (
            self._explaining_disk(f"{key.label} was not downloaded to {self._cache}", key),
            self._scratch_folder() as folder,
        ):
            for file in manifest.files:
                local = folder / file.path
                local.parent.mkdir(parents=True, exist_ok=True)
                try:
                    self._fs.get_file(self._remote(key, version, file.path), str(local))
                except FileNotFoundError:
                    raise self._damaged(key, f"file {_shown(file.path)} is missing") from None
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(folder, target)
            except OSError:
                # Someone else downloaded it meanwhile.
                if not target.is_dir():
                    raise

    def _verify(self, key: _Key, folder: Path, manifest: Manifest) -> None:
        self._check_names(key, set(_files_in(folder)), manifest)
        paths = [folder / file.path for file in manifest.files]
        for file, path in zip(manifest.files, paths, strict=True):
            try:
                self._check_size(key, file, path.stat().st_size)
            except FileNotFoundError:
                raise self._damaged(key, f"file {_shown(file.path)} is missing") from None
        try:
            hashes = self._verified.sha256s(key.relative, paths)
        except FileNotFoundError as error:
            name = Path(error.filename).relative_to(folder).as_posix()
            raise self._damaged(key, f"file {_shown(name)} is missing") from None
        for file, sha256 in zip(manifest.files, hashes, strict=True):
            if sha256 != file.sha256:
                raise self._damaged(key, f"file {_shown(file.path)} was changed after it was written")

    def _check_remote(self, key: _Key, version: str, manifest: Manifest) -> None:
        """Names and sizes, which is all that can be known of files far away without fetching them."""
        folder = self._remote(key, version)
        self._fs.invalidate_cache()
        found = {path[len(folder) + 1 :]: info["size"] for path, info in self._fs.find(folder, detail=True).items()}
        self._check_names(key, set(found), manifest)
        for file in manifest.files:
            self._check_size(key, file, found[file.path])

    def _check_size(self, key: _Key, file: StoredFile, size: int) -> None:
        if size != file.size:
            raise self._damaged(key, f"file {_shown(file.path)} has {size} bytes instead of {file.size}")

    def _check_names(self, key: _Key, found: set[str], manifest: Manifest) -> None:
        expected = {file.path for file in manifest.files}
        for name in sorted(expected - found):
            raise self._damaged(key, f"file {_shown(name)} is missing")
        for name in sorted(found - expected - {MANIFEST}):
            raise self._damaged(key, f"file {_shown(name)} was added after it was written")

    def _damaged(self, key: _Key, problem: str) -> DamagedArtifact:
        return DamagedArtifact(f"Artifact {key.label} in {self.root} is damaged, {problem}: {key.materialize} again.")

    # Refusing

    def refuse(self, study: str, asset: str, partition: str | None, reason: str, made_from: dict[str, Any]) -> None:
        """Record that nothing may be built on what is stored here, or on nothing where nothing is.

        It holds until the next `write` or `withdraw_refusal`; another one replaces it. `made_from`: JSON-able facts
        that the verdict rests on. Raises TypeError where they are not JSON-able, UserError where the disk is full or
        may not be written to.
        """
        key = _Key(study, asset, partition)
        with (
            self._explaining_disk(f"that {key.label} is refused was not recorded in {self.root}", key),
            self._lock(key),
        ):
            fields = {
                "reason": reason,
                "made_from": made_from,
                "created": datetime.now(UTC).isoformat(),
                "version": self._current_version(key),
            }
            content = json.dumps(fields, indent=1).encode()
            if self._local_root:
                folder = self._local_root / key.relative
                folder.mkdir(parents=True, exist_ok=True)
                _replace_durably(folder / REFUSAL, content)
            else:
                self._fs.pipe_file(self._remote(key, REFUSAL), content)

    def refusal(self, study: str, asset: str, partition: str | None = None) -> Refusal | None:
        """Why nothing may be built on this artifact; None where it was not refused or the record is not readable."""
        key = _Key(study, asset, partition)
        try:
            fields = json.loads(self._content(key, REFUSAL))
            refusal = Refusal(
                str(fields["reason"]), dict(fields["made_from"]), datetime.fromisoformat(fields["created"])
            )
            refused_version = fields["version"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        # A writer killed between the new pointer and the end of the refusal leaves one of an earlier version.
        current = self._current_version(key)
        return refusal if current is None or current == refused_version else None

    def withdraw_refusal(self, study: str, asset: str, partition: str | None = None) -> None:
        """Let others build on this artifact again, whether or not it was refused.

        Raises UserError where the record may not be deleted.
        """
        key = _Key(study, asset, partition)
        outcome = f"the refusal of {key.label} was not withdrawn in {self.root}"
        with self._explaining_disk(outcome, key), suppress(FileNotFoundError):
            self._fs.rm_file(self._remote(key, REFUSAL))

    # Listing

    def studies(self) -> list[str]:
        """Every study that something is stored of, sorted."""
        return _names_among(self._stored_folders(self._root_path))

    def assets(self, study: str) -> list[str]:
        """Every asset of a study that something is stored of, sorted."""
        _check_name("study", study)
        return _names_among(self._stored_folders(f"{self._root_path}/{study}"))

    def partitions(self, study: str, asset: str) -> list[str | None]:
        """Every partition of an asset that something is stored of, if only a refusal; None first, the others sorted."""
        _check_name("study", study)
        _check_name("asset", asset)
        return _as_partitions(self._stored_folders(f"{self._root_path}/{study}/{asset}"))

    def versions(self, study: str, asset: str, partition: str | None = None) -> list[str]:
        """The versions of an artifact, oldest first, whole or not."""
        folder = self._remote(_Key(study, asset, partition))
        return [name for name in self._stored_folders(folder) if _VERSION.fullmatch(name)]

    def current_version(self, study: str, asset: str, partition: str | None = None) -> str | None:
        """The version that the pointer names; None where there is no pointer, or none that can be read."""
        return self._current_version(_Key(study, asset, partition))

    def locally_kept(self, study: str) -> list[tuple[str, str | None]]:
        """The assets and partitions of which this machine keeps cached copies or scratch."""
        _check_name("study", study)
        return sorted(
            {
                (asset, partition)
                for base in (self._copies / study, self._work / study)
                for asset in _names_among(_folders(base))
                for partition in _as_partitions(_folders(base / asset))
            },
            key=lambda place: (place[0], place[1] or ""),
        )

    def _stored_folders(self, path: str) -> list[str]:
        """The names of the folders in a folder, sorted; none where it does not exist."""
        if self._local_root:
            return _folders(Path(path))
        self._fs.invalidate_cache()
        try:
            entries = self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        folders = [entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory"]
        return sorted(PurePosixPath(folder).name for folder in folders if folder != path)

    # Deleting (what may go, `retention` decides)

    def location(self, study: str, asset: str, partition: str | None = None, name: str | None = None) -> str:
        """Where an artifact, or something in its folder, lies: fit to be shown."""
        parts = [self.root.rstrip("/"), _Key(study, asset, partition).relative, *([name] if name else [])]
        return "/".join(parts)

    def size(self, study: str, asset: str, partition: str | None = None, name: str | None = None) -> int:
        """The bytes of everything stored in an artifact's folder, or of the file or version `name` in it."""
        return self._size(_Key(study, asset, partition), *([name] if name else []))

    def superseded(self, study: str, asset: str, partition: str | None = None) -> list[str]:
        """The versions that were current before, and older ones that never were and are older than FORGOTTEN_AFTER;
        oldest first, [] where the current one is not sound (`check`).

        Then the last good one may be among them. A version that never was current may be in the making on another
        machine.
        """
        key = _Key(study, asset, partition)
        deletable = self._deletable(key, self._once_current(key))
        if not deletable:
            return []
        try:
            current = self.check(study, asset, partition).version
        except (UserError, OSError):
            return []
        return [version for version in deletable if version < current]

    def remove_superseded(self, study: str, asset: str, partition: str | None, version: str) -> int:
        """Delete a version if it is superseded still. Returns the bytes freed; raises OSError."""
        key = _Key(study, asset, partition)
        with self._lock(key):
            return self._remove(key, version) if version in self.superseded(study, asset, partition) else 0

    def remove_artifact(self, study: str, asset: str, partition: str | None, seen: Collection[str | None]) -> int:
        """Delete everything stored of an artifact, the pointer first so that it never points to nothing.

        A version not in `seen` was written after the caller looked. It is kept, and everything is where the pointer
        names it, or where a process claims the artifact. Returns the bytes freed; raises OSError.
        """
        key = _Key(study, asset, partition)
        with self._lock(key):
            if self._current_version(key) not in (None, *seen) or (asset, partition) in self.claims(study):
                return 0
            freed = self._remove(key, POINTER)
            if freed and self._local_root:
                _flush_to_disk(self._local_root / key.relative)
            names = self._names_in(key)
            written_since = {name for name in names if _VERSION.fullmatch(name) and name not in seen}
            freed += sum(self._remove(key, name) for name in names if name not in written_since)
            if not written_since:
                self._verified.forget(key.relative)
                with suppress(OSError):
                    self._fs.rmdir(self._remote(key))
                # Only a local file system is sure to keep a folder that is not empty.
                if self._local_root:
                    with suppress(OSError):
                        (self._local_root / study / asset).rmdir()
            return freed

    def copies(self, study: str, asset: str, partition: str | None = None) -> list[Path]:
        """The copies of a remote artifact that this machine keeps."""
        folder = self._copies / _Key(study, asset, partition).relative
        return [folder / name for name in _folders(folder)]

    def unused_copies(self, study: str, asset: str, partition: str | None = None) -> list[Path]:
        """Those of `copies` that the pointer does not refer to; none where it cannot be read, so nobody can tell."""
        copies = self.copies(study, asset, partition)
        try:
            used = self._pointer(_Key(study, asset, partition))["manifest_sha256"] if copies else None
        except MissingArtifact:
            used = None
        except DamagedArtifact:
            return []
        return [copy for copy in copies if copy.name != used]

    def remove_copy(self, study: str, asset: str, partition: str | None, copy: Path) -> int:
        """Delete one of `copies` if it is unused still. Returns the bytes freed; raises OSError."""
        with self._lock(_Key(study, asset, partition)):
            return _remove_folder(copy) if copy in self.unused_copies(study, asset, partition) else 0

    def refusal_is_stale(self, study: str, asset: str, partition: str | None = None) -> bool:
        """Whether there is a record of a refusal that does not count: not readable, or of an earlier version."""
        names = self._names_in(_Key(study, asset, partition))
        return REFUSAL in names and self.refusal(study, asset, partition) is None

    def remove_stale_refusal(self, study: str, asset: str, partition: str | None = None) -> int:
        """Delete the record of a refusal that does not count. Returns the bytes freed; raises OSError."""
        key = _Key(study, asset, partition)
        with self._lock(key):
            return self._remove(key, REFUSAL) if self.refusal_is_stale(study, asset, partition) else 0

    def scratch(self, study: str, asset: str, partition: str | None = None) -> Path | None:
        """The folder of an artifact's workspaces, if there is one."""
        folder = self._work / _Key(study, asset, partition).relative
        return folder if folder.is_dir() else None

    def remove_scratch(self, study: str, asset: str, partition: str | None, untouched_since: datetime | None) -> int:
        """Delete an artifact's workspaces, unless something in them changed since (None: whenever it did), except one
        that another process works in.

        Returns the bytes freed; raises OSError.
        """
        key = _Key(study, asset, partition)
        with self._lock(key):
            folder = self.scratch(study, asset, partition)
            if folder is None or (untouched_since is not None and last_touched(folder) >= untouched_since):
                return 0
            unused = [workspace for workspace in _folders(folder) if not self._is_worked_in(key, workspace)]
            freed = sum(self._delete_workspace(key, workspace) for workspace in unused)
            self._delete_workspaces(key)
            return freed

    def abandoned_drafts(self) -> list[Path]:
        """The drafts of this host whose writers died; one on another host may live, and only that host can tell."""
        drafts = self._scratch / ".drafts"
        return _abandoned(drafts) if drafts.is_dir() else []

    def remove_draft(self, draft: Path) -> int:
        """Delete a draft if it is abandoned. Returns the bytes freed; raises OSError."""
        return _remove_folder(draft) if draft in self.abandoned_drafts() else 0

    def _names_in(self, key: _Key) -> list[str]:
        self._fs.invalidate_cache()
        try:
            paths = self._fs.ls(self._remote(key), detail=False)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(path).name for path in paths if path.rstrip("/") != self._remote(key))

    def _size(self, key: _Key, *parts: str) -> int:
        if self._local_root:
            return folder_size(self._local_root.joinpath(key.relative, *parts))
        self._fs.invalidate_cache()
        return int(self._fs.du(self._remote(key, *parts)))

    def _remove(self, key: _Key, name: str) -> int:
        size = self._size(key, name)
        try:
            self._fs.rm(self._remote(key, name), recursive=True)
        except FileNotFoundError:
            return 0
        return size

    # Scratch

    def workspace(self, study: str, asset: str, partition: str | None, fingerprint: str) -> Path:
        """A local folder for work that can be resumed (training checkpoints); it outlives the process.

        The same `fingerprint` (a hash of everything the work depends on) gives the same folder with what was left in
        it; folders of other fingerprints belong to work nobody will resume and are deleted once nobody works in them.
        Raises UserError where the disk is full or may not be written to.
        """
        key = _Key(study, asset, partition)
        _check_name("fingerprint", fingerprint)
        folder = self._work / key.relative / fingerprint[:16]
        # Without the lock, another process could find the folder not worked on and delete it at this moment.
        with self._explaining_disk(f"there is no workspace for {key.label}", key), self._lock(key):
            folder.mkdir(parents=True, exist_ok=True)
            # Loading an old checkpoint changes nothing in there for a while, and what looks forgotten may be deleted.
            os.utime(folder)
            owner = Holder.this_process()
            owners = self._owners(key)
            owners.mkdir(parents=True, exist_ok=True)
            (owners / f"{folder.name}@{owner.host}.{owner.process}").write_bytes(owner.content)
            self._delete_workspaces(key, keep=folder.name)
        return folder

    def clear_workspace(self, study: str, asset: str, partition: str | None = None) -> None:
        """Delete the folders that `workspace` gave for this artifact, except one that another process works in."""
        key = _Key(study, asset, partition)
        if self.scratch(study, asset, partition) is not None:
            with suppress(OSError), self._lock(key):
                self._delete_workspaces(key)

    def _owners(self, key: _Key) -> Path:
        """The folder of the records which processes took which workspaces of an artifact."""
        return self._work / ".owners" / key.relative

    def _delete_workspaces(self, key: _Key, keep: str | None = None) -> None:
        """Delete the workspaces that no other process works in. What cannot be deleted takes room and does no harm."""
        folder = self._work / key.relative
        for workspace in _folders(folder):
            if workspace != keep and not self._is_worked_in(key, workspace):
                with suppress(OSError):
                    self._delete_workspace(key, workspace)
        for each in (self._owners(key), folder):
            with suppress(OSError):
                each.rmdir()

    def _delete_workspace(self, key: _Key, workspace: str) -> int:
        """Returns the bytes freed; raises OSError."""
        freed = _remove_folder(_set_aside(self._work / key.relative / workspace))
        for record in self._owner_records(key, workspace):
            record.unlink(missing_ok=True)
        return freed

    def _owner_records(self, key: _Key, workspace: str) -> list[Path]:
        owners = self._owners(key)
        return [path for path in owners.iterdir() if path.name.split("@")[0] == workspace] if owners.is_dir() else []

    def _is_worked_in(self, key: _Key, workspace: str) -> bool:
        """Whether a process other than this one may work in a workspace. Of one on another host, nobody can tell as
        long as the folder is not forgotten."""
        for record in self._owner_records(key, workspace):
            owner = Holder.parsed(record.read_bytes())
            if owner is None or (owner.host, owner.process) == (socket.gethostname(), os.getpid()):
                continue
            lives = owner.lives()
            if lives is None:
                lives = last_touched(self._work / key.relative / workspace) >= datetime.now(UTC) - FORGOTTEN_AFTER
            if lives:
                return True
        return False

    @contextmanager
    def _scratch_folder(self) -> Iterator[Path]:
        """A new folder that is gone, or renamed to something else, at the end."""
        drafts = self._scratch / ".drafts"
        drafts.mkdir(parents=True, exist_ok=True)
        for abandoned in _abandoned(drafts):
            shutil.rmtree(abandoned, ignore_errors=True)
        folder = drafts / f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _explaining_disk(self, outcome: str, key: _Key) -> Iterator[None]:
        """Turn what only the user can mend, a disk that is full or may not be written to, into a UserError."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            where = getattr(error, "filename", None)
            again = f"and {key.materialize} again"
            if _is_full_disk(error):
                raise UserError(
                    f"The disk of {where or self._scratch} is full or the quota on it is used up; {outcome}: free some "
                    f"space there {again}."
                ) from error
            if self._is_unwritable(error):
                raise UserError(
                    f"This process may not write to {where or self.root} ({_reason(error)}); {outcome}: get the right "
                    f"to write there or set SUBLIMINAL_ARTIFACTS to another folder, {again}."
                ) from error
            raise

    def _is_unwritable(self, error: Exception) -> bool:
        """Whether an error says that the store may not be written to; one about a file elsewhere says nothing."""
        if not isinstance(error, OSError):
            return False
        own = [folder for folder in (self._local_root, self._scratch, self._cache, self._work) if folder is not None]
        if isinstance(error, FileExistsError | NotADirectoryError):
            return any(path.is_file() for folder in own for path in (folder, *folder.parents))
        if error.errno not in _UNWRITABLE and not isinstance(error, PermissionError):
            return False
        if error.filename is None:
            return self._local_root is None
        path = Path(os.fsdecode(error.filename))
        return any(path.is_relative_to(folder) or folder.is_relative_to(path) for folder in own)

    @contextmanager
    def _lock(self, key: _Key) -> Iterator[None]:
        path = self._scratch / ".locks" / f"{key.relative}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path):
            yield

    def _cached_copy(self, key: _Key, manifest_sha256: str) -> Path:
        return self._copies / key.relative / manifest_sha256

    def _content(self, key: _Key, *parts: str) -> bytes:
        path = self._remote(key, *parts)
        if self._local_root:
            # For files this small, what fsspec does around it takes longer than the reading.
            with open(path, "rb") as file:
                return file.read()
        content: bytes = self._fs.cat_file(path)
        return content

    def _remote(self, key: _Key, *parts: str) -> str:
        """A path below the artifact's folder as `self._fs` takes it."""
        return "/".join([self._root_path, key.relative, *parts])


class StoreSnapshot:
    """A study in a remote store as it was when `ArtifactStore.snapshot` was called.

    The methods are those of `ArtifactStore`, for this one study (ValueError for another).
    """

    def __init__(self, study: str, as_it_was: ArtifactStore, store: ArtifactStore) -> None:
        self._study = study
        self._as_it_was = as_it_was
        self._store = store

    def check(self, study: str, asset: str, partition: str | None = None) -> Manifest:
        return self._answer(ArtifactStore.check, study, asset, partition)

    def manifest(self, study: str, asset: str, partition: str | None = None) -> Manifest:
        return self._answer(ArtifactStore.manifest, study, asset, partition)

    def refusal(self, study: str, asset: str, partition: str | None = None) -> Refusal | None:
        return self._answer(ArtifactStore.refusal, study, asset, partition)

    def _answer(self, ask: Callable[..., _Found], study: str, *place: str | None) -> _Found:
        if study != self._study:
            raise ValueError(f"a snapshot of {self._study} was asked about {study}")
        try:
            return ask(self._as_it_was, study, *place)
        except DamagedArtifact:
            # What was written between the listing and the fetching looks damaged.
            return ask(self._store, study, *place)


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and ".." not in name


def _check_name(kind: str, name: str) -> None:
    if not _is_name(name):
        raise UserError(
            f"The {kind} name {_shown(name)!r} cannot be used: it needs 1 to 128 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or digit and without '..'."
        )


def _shown(name: str) -> str:
    """A name nobody vouches for, fit for a message in a terminal, a log or a web page."""
    return re.sub(r"[^A-Za-z0-9 ._/\\:-]", "?", name[:80])


def _files_in(folder: Path) -> list[str]:
    """Relative posix paths of everything below `folder` that is not itself a folder, links included."""
    found = []
    for place, folders, files in os.walk(folder):
        inside = place[len(str(folder)) + 1 :]
        names = [*files, *(name for name in folders if os.path.islink(os.path.join(place, name)))]
        found += [os.path.join(inside, name) for name in names]
    return found


def _describe(draft: Path) -> Iterator[StoredFile]:
    names = sorted(_files_in(draft))
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


def _manifest_bytes(manifest: Manifest) -> bytes:
    fields = {
        **vars(manifest),
        "format": FORMAT,
        "created": manifest.created.isoformat(),
        "files": [vars(file) for file in manifest.files],
    }
    return json.dumps(fields, indent=1).encode()


def _format_of(pointer: bytes) -> int:
    """The format that a pointer names. The first ones named none, nor does one that is damaged."""
    try:
        found = json.loads(pointer)["format"]
    except (ValueError, KeyError, TypeError):
        return 1
    return found if isinstance(found, int) else 1


def _later_than(version: str | None, now: datetime) -> datetime:
    """Now, or the moment after a version's where the clock was set back since: versions are sorted by name."""
    if version is None:
        return now
    with suppress(ValueError, OverflowError):
        made = datetime.strptime(version.partition("-")[0], _VERSION_TIME).replace(tzinfo=UTC)
        return max(now, made + timedelta(microseconds=1))
    return now


def _parsed_manifest(content: bytes) -> Manifest:
    """Raises ValueError, KeyError or TypeError where `content` is not a manifest of this format."""
    fields = json.loads(content)
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']}, not {FORMAT}")
    files = tuple(StoredFile(**file) for file in fields["files"])
    # A manifest from a shared bucket must not make a download write outside its own folder.
    if any(PurePosixPath(file.path).is_absolute() or ".." in PurePosixPath(file.path).parts for file in files):
        raise ValueError("a file outside the artifact's folder")
    return Manifest(
        version=fields["version"],
        content_hash=fields["content_hash"],
        created=datetime.fromisoformat(fields["created"]),
        files=files,
        info=fields["info"],
    )


def _parsed_pointer(content: bytes) -> dict[str, str] | None:
    """None where `content` is not what a pointer says."""
    try:
        pointer = json.loads(content)
        names = {name: pointer[name] for name in ("version", "content_hash", "manifest_sha256")}
        if _VERSION.fullmatch(names["version"]) and _SHA256.fullmatch(names["manifest_sha256"]):
            return names
    except (ValueError, KeyError, TypeError):
        pass
    return None


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _replace_durably(path: Path, content: bytes) -> None:
    """Raises OSError only where the file was not replaced."""
    new = path.with_name(f"{path.name}.new")
    try:
        _write_durably(new, content)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    # The new content counts from here on; should a power cut bring the old one back, that was whole too.
    with suppress(OSError):
        _flush_to_disk(path.parent)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_size(path: Path) -> int:
    """The bytes of the files in a folder, or of a file; 0 where there is none. Links are not followed."""
    return sum(status.st_size for status in _statuses(path) if stat.S_ISREG(status.st_mode))


def last_touched(folder: Path) -> datetime:
    """When something in a folder last changed; long ago where there is none."""
    return datetime.fromtimestamp(max((status.st_mtime for status in _statuses(folder)), default=0), UTC)


def _statuses(path: Path) -> Iterator[os.stat_result]:
    inside = (Path(folder) / name for folder, folders, files in os.walk(path) for name in [*folders, *files])
    for each in [path, *inside]:
        # What vanishes meanwhile does not count.
        with suppress(FileNotFoundError):
            yield each.lstat()


def _folders(path: Path) -> list[str]:
    """The names of the folders in a folder, sorted; none where it does not exist."""
    try:
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _names_among(folders: Iterable[str]) -> list[str]:
    return [name for name in folders if _is_name(name)]


def _as_partitions(folders: Collection[str]) -> list[str | None]:
    partitions = [folder for folder in folders if all(_is_name(part) for part in folder.split(_AXES_IN_PATHS))]
    return [
        *([None] if _NO_PARTITION in folders else []),
        *(name.replace(_AXES_IN_PATHS, _AXES) for name in partitions),
    ]


def _remove_folder(folder: Path) -> int:
    """Delete a folder if it is there. Returns the bytes freed; raises OSError."""
    size = folder_size(folder)
    # Another process may be deleting it too.
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    return size


def _set_aside(workspace: Path) -> Path:
    """Rename a workspace that is to be deleted to what no fingerprint gives, and return its new name.

    A kill while it is deleted would otherwise leave a checkpoint that lacks a file, for the next attempt to go on from.
    """
    aside = workspace.with_name(f"deleted.{uuid.uuid4().hex}")
    # Another process may be deleting it too.
    with suppress(OSError):
        os.rename(workspace, aside)
    return aside


def _abandoned(drafts: Path) -> list[Path]:
    """Drafts whose writer died. One on another host may well be alive, and only that host can tell."""
    found = []
    for folder in drafts.iterdir():
        host, _, process = folder.name.rpartition(".")[0].rpartition(".")
        if host == socket.gethostname() and process.isdecimal() and not _is_running(int(process)):
            found.append(folder)
    return found


def _is_running(process: int) -> bool:
    """Whether a process lives; one that was killed and nobody waited for does not."""
    with suppress(psutil.Error):
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    return psutil.pid_exists(process)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or _shown(str(error))


def _is_full_disk(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return True
    # safetensors and others wrap the system's error in their own and keep only its text.
    return any(os.strerror(code) in str(error) for code in _FULL_DISK)
