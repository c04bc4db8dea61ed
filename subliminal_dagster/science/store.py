"""Where results lie: folders of files under a local path or any fsspec URL, whole or not there at all.

    <root>/<study>/<asset>/<partition or "_">/current.json               the pointer: which version counts
    <root>/<study>/<asset>/<partition or "_">/<version>/manifest.json    every file's size and hashes, and the facts
    <root>/<study>/<asset>/<partition or "_">/<version>/...              the files
    <root>/.drafts, .locks, .work, .cache                                this machine's scratch (local root only)

A version is complete before the pointer names it, and replacing the pointer is one atomic step, so a reader sees the
old result or the new one, whatever kills the writer in between.

Belongs here: writing, finding and verifying artifacts, and scratch folders for resumable work. Does not belong here:
what a file means (`content_hash` knows when two say the same), or when an artifact is out of date.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import filelock
import fsspec
import psutil
from fsspec.implementations.local import LocalFileSystem

from subliminal_dagster.science.content_hash import file_content_hash, is_view, json_hash
from subliminal_dagster.science.errors import UserError

FORMAT = 1
MANIFEST = "manifest.json"
POINTER = "current.json"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_VERSION = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_SETTLED_NS = 2_000_000_000


class MissingArtifact(UserError):  # noqa: N818
    """Nothing was written yet under this study, asset and partition."""


class DamagedArtifact(UserError):  # noqa: N818
    """What lies in the store is not what was written to it."""


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
    """Which artifact; names are checked when it is made, because they become paths."""

    study: str
    asset: str
    partition: str | None

    def __post_init__(self) -> None:
        _check_name("study", self.study)
        _check_name("asset", self.asset)
        if self.partition is not None:
            _check_name("partition", self.partition)

    @property
    def relative(self) -> str:
        return f"{self.study}/{self.asset}/{self.partition or '_'}"

    @property
    def label(self) -> str:
        return f"{self.study}/{self.asset}" + (f" [{self.partition}]" if self.partition else "")

    @property
    def materialize(self) -> str:
        return f"materialize {self.asset}" + (f" for partition {self.partition}" if self.partition else "")


class ArtifactStore:
    """The artifacts under one root.

    `root`: a local folder or an fsspec URL (`memory://x`, `s3://bucket/x`); a local one is made when first written
    to. `cache_dir`: a local folder for copies of remote artifacts and for the record of files already verified;
    by default `<root>/.cache`, or `~/.cache/subliminal-dagster` where the root is remote.

    Every method takes `study`, `asset` and `partition` (None for an asset without partitions) and raises UserError
    where one of them cannot be a folder's name. Raises UserError where the root's kind of URL is not supported.
    """

    def __init__(self, root: str | Path, cache_dir: Path | None = None) -> None:
        # A URL may carry a password, and the root is named in messages.
        self.root = re.sub(r"//[^/@]*@", "//", str(root))
        try:
            self._fs, path = fsspec.core.url_to_fs(str(root))
        except (ValueError, ImportError) as error:
            raise UserError(f"The artifact root {self.root} cannot be opened: {error}.") from error
        self._root_path: str = path.rstrip("/")
        self._local_root = Path(path) if isinstance(self._fs, LocalFileSystem) else None
        if cache_dir is not None:
            cache_dir = Path(cache_dir).expanduser().absolute()
        default_cache = (
            self._local_root / ".cache" if self._local_root else Path.home() / ".cache" / "subliminal-dagster"
        )
        self._cache = cache_dir or default_cache
        # Drafts become versions by a rename, which needs them on the same file system as what they become.
        self._scratch = self._local_root or self._cache
        self._work = (cache_dir or self._scratch) / ".work"
        self._verified = _VerifiedFiles(self._cache / "verified.json")

    # Writing

    @contextmanager
    def write(
        self, study: str, asset: str, partition: str | None = None, info: Mapping[str, Any] | None = None
    ) -> Iterator[Draft]:
        """Make a new version of an artifact: fill `draft.path` in the `with` block, find `draft.artifact` after it.

        `info`: JSON-able facts that are not content (seed, device, wall time, upstream hashes); the block may add
        to `draft.info`. The version before this one is kept, older ones are deleted. Where the block or the writing
        fails, the draft is deleted and what was there before stays. Raises UserError where the disk is full,
        ValueError where the draft is empty, holds a link or an own manifest.json, or holds a file that does not
        parse as what its name says, and TypeError where `info` is not JSON-able.
        """
        key = _Key(study, asset, partition)
        with (
            self._explaining_full_disk(
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
        # Without the lock, one writer could prune the version that another one is about to point to.
        with self._lock(key):
            previous = self._current_version(key)
            created = datetime.now(UTC)
            version = f"{created.strftime('%Y%m%dT%H%M%S.%fZ')}-{content_hash[:8]}"
            manifest_bytes = _manifest_bytes(Manifest(version, content_hash, created, files, draft.info))
            manifest_sha256 = hashlib.sha256(manifest_bytes).hexdigest()
            pointer_bytes = json.dumps(
                {"version": version, "content_hash": content_hash, "manifest_sha256": manifest_sha256}
            ).encode()
            _write_durably(draft.path / MANIFEST, manifest_bytes)
            if self._local_root:
                path = self._publish_locally(self._local_root / key.relative, draft.path, version, pointer_bytes)
            else:
                self._upload(key, draft.path, files, version, pointer_bytes)
                path = self._cached_copy(manifest_sha256)
                os.rename(draft.path, path)
            self._prune(key, version, previous)
        return Artifact(**vars(_parsed_manifest(manifest_bytes)), path=path)

    def _publish_locally(self, folder: Path, draft: Path, version: str, pointer_bytes: bytes) -> Path:
        # Otherwise a power cut could leave a pointer on disk to files that are not.
        for path in [*draft.rglob("*"), draft]:
            _flush_to_disk(path)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / version
        new_pointer = folder / f"{POINTER}.new"
        os.rename(draft, target)
        try:
            _flush_to_disk(folder)
            _write_durably(new_pointer, pointer_bytes)
            os.replace(new_pointer, folder / POINTER)
        except OSError:
            # Only what says for sure that the pointer was not replaced: after an interrupt it may have been, and
            # then a version too many, which a later write prunes, is better than a pointer to nothing.
            shutil.rmtree(target, ignore_errors=True)
            new_pointer.unlink(missing_ok=True)
            raise
        # The new version counts from here on, so this is no failure of the write; should a power cut bring the old
        # pointer back, it names a whole version too.
        with suppress(OSError):
            _flush_to_disk(folder)
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

    def _prune(self, key: _Key, current: str, previous: str | None) -> None:
        """Delete what is older than the previous version. Versions sort by the time they were made."""
        if previous is None:
            return
        # A superseded version that cannot be deleted takes room and does no harm: the new one is already in place.
        with suppress(OSError):
            self._fs.invalidate_cache()
            for path in self._fs.ls(self._remote(key), detail=False):
                version = PurePosixPath(path).name
                if _VERSION.fullmatch(version) and version < previous and version != current:
                    self._fs.rm(self._remote(key, version), recursive=True)

    # Reading

    def read(self, study: str, asset: str, partition: str | None = None) -> Artifact:
        """The current version, every file verified, in a local folder (a remote one is downloaded once).

        Raises MissingArtifact where none was written, DamagedArtifact where a file is missing, added, cut or changed
        since, or the pointer or manifest is, UserError where the disk is too full for the download.
        """
        key = _Key(study, asset, partition)
        while True:
            pointer = self._pointer(key)
            try:
                manifest = self._manifest(key, pointer)
                return Artifact(**vars(manifest), path=self._verified_folder(key, pointer, manifest))
            except DamagedArtifact:
                # Two writes during one read prune the version being read, and then there is a newer one to read.
                if self._pointer(key) == pointer:
                    raise

    def manifest(self, study: str, asset: str, partition: str | None = None) -> Manifest:
        """What the current version holds and how it came to be; the files themselves are not looked at.

        Raises MissingArtifact where none was written, DamagedArtifact where the pointer or manifest was changed.
        """
        key = _Key(study, asset, partition)
        while True:
            pointer = self._pointer(key)
            try:
                return self._manifest(key, pointer)
            except DamagedArtifact:
                if self._pointer(key) == pointer:
                    raise

    def exists(self, study: str, asset: str, partition: str | None = None) -> bool:
        """Whether there is a current version; whether it is sound, `read` finds out."""
        return self._pointer_bytes(_Key(study, asset, partition)) is not None

    def _pointer_bytes(self, key: _Key) -> bytes | None:
        try:
            content: bytes = self._fs.cat_file(self._remote(key, POINTER))
        except FileNotFoundError:
            return None
        return content

    def _pointer(self, key: _Key) -> dict[str, str]:
        content = self._pointer_bytes(key)
        if content is None:
            raise MissingArtifact(f"No artifact {key.label} in {self.root}: {key.materialize} first.")
        try:
            pointer = json.loads(content)
            names = {name: pointer[name] for name in ("version", "content_hash", "manifest_sha256")}
            if _VERSION.fullmatch(names["version"]) and re.fullmatch("[0-9a-f]{64}", names["manifest_sha256"]):
                return names
        except (ValueError, KeyError, TypeError):
            pass
        raise self._damaged(key, f"its pointer {POINTER} is not readable")

    def _current_version(self, key: _Key) -> str | None:
        try:
            return self._pointer(key)["version"]
        except (MissingArtifact, DamagedArtifact):
            return None

    def _manifest(self, key: _Key, pointer: dict[str, str]) -> Manifest:
        try:
            content = self._fs.cat_file(self._remote(key, pointer["version"], MANIFEST))
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
        folder = self._cached_copy(pointer["manifest_sha256"])
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
        remote = self._remote(key, version)
        self._fs.invalidate_cache()
        self._check_names(key, {path[len(remote) + 1 :] for path in self._fs.find(remote)}, manifest)
        with (
            self._explaining_full_disk(f"{key.label} was not downloaded to {self._cache}", key),
            self._scratch_folder() as folder,
        ):
            for file in manifest.files:
                local = folder / file.path
                local.parent.mkdir(parents=True, exist_ok=True)
                try:
                    self._fs.get_file(f"{remote}/{file.path}", str(local))
                except FileNotFoundError:
                    raise self._damaged(key, f"file {_shown(file.path)} is missing") from None
            try:
                os.rename(folder, target)
            except OSError:
                # Someone else downloaded it meanwhile.
                if not target.is_dir():
                    raise

    def _verify(self, key: _Key, folder: Path, manifest: Manifest) -> None:
        try:
            found = set(_files_in(folder))
        except FileNotFoundError:
            # A writer pruned it while it was listed; `read` finds out.
            found = set()
        self._check_names(key, found, manifest)
        self._verified.refresh()
        for file in manifest.files:
            path = folder / file.path
            try:
                size = path.stat().st_size
                changed = size != file.size or self._verified.sha256(path) != file.sha256
            except FileNotFoundError:
                raise self._damaged(key, f"file {_shown(file.path)} is missing") from None
            if size != file.size:
                raise self._damaged(key, f"file {_shown(file.path)} has {size} bytes instead of {file.size}")
            if changed:
                raise self._damaged(key, f"file {_shown(file.path)} was changed after it was written")
        self._verified.save()

    def _check_names(self, key: _Key, found: set[str], manifest: Manifest) -> None:
        expected = {file.path for file in manifest.files}
        for name in sorted(expected - found):
            raise self._damaged(key, f"file {_shown(name)} is missing")
        for name in sorted(found - expected - {MANIFEST}):
            raise self._damaged(key, f"file {_shown(name)} was added after it was written")

    def _damaged(self, key: _Key, problem: str) -> DamagedArtifact:
        return DamagedArtifact(f"Artifact {key.label} in {self.root} is damaged, {problem}: {key.materialize} again.")

    # Scratch

    def workspace(self, study: str, asset: str, partition: str | None, fingerprint: str) -> Path:
        """A local folder for work that can be resumed (training checkpoints); it outlives the process.

        The same `fingerprint` (a hash of everything the work depends on) gives the same folder with what was left in
        it; folders of other fingerprints belong to work nobody will resume and are deleted.
        """
        key = _Key(study, asset, partition)
        _check_name("fingerprint", fingerprint)
        folder = self._work / key.relative / fingerprint[:16]
        folder.mkdir(parents=True, exist_ok=True)
        for sibling in folder.parent.iterdir():
            if sibling != folder:
                shutil.rmtree(sibling, ignore_errors=True)
        return folder

    def clear_workspace(self, study: str, asset: str, partition: str | None = None) -> None:
        """Delete the folders that `workspace` gave for this artifact, if there are any."""
        shutil.rmtree(self._work / _Key(study, asset, partition).relative, ignore_errors=True)

    @contextmanager
    def _scratch_folder(self) -> Iterator[Path]:
        """A new folder that is gone, or renamed to something else, at the end."""
        drafts = self._scratch / ".drafts"
        drafts.mkdir(parents=True, exist_ok=True)
        _delete_abandoned(drafts)
        folder = drafts / f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _explaining_full_disk(self, outcome: str, key: _Key) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not _is_full_disk(error):
                raise
            where = getattr(error, "filename", None) or self._scratch
            raise UserError(
                f"The disk of {where} is full or the quota on it is used up; {outcome}: free some space there and "
                f"{key.materialize} again."
            ) from error

    @contextmanager
    def _lock(self, key: _Key) -> Iterator[None]:
        path = self._scratch / ".locks" / f"{key.relative}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path):
            yield

    def _cached_copy(self, manifest_sha256: str) -> Path:
        return self._cache / manifest_sha256

    def _remote(self, key: _Key, *parts: str) -> str:
        """A path below the artifact's folder as `self._fs` takes it."""
        return "/".join([self._root_path, key.relative, *parts])


class _VerifiedFiles:
    """The SHA-256 of files that did not change since they were last hashed, also by another process.

    Without it every process that loads an 18 GB model would read it twice.
    """

    def __init__(self, record: Path) -> None:
        self._record = record
        self._known: dict[str, str] = {}
        self._is_new = False

    def sha256(self, path: Path) -> str:
        """Raises FileNotFoundError."""
        key = _stamp(path)
        known = self._known.get(key)
        if known is not None:
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # Clocks of file systems tick every few milliseconds: a file just written could still change, keep its size,
        # and get the same modification time.
        is_settled = time.time_ns() - path.stat().st_mtime_ns > _SETTLED_NS
        if is_settled and _stamp(path) == key:
            self._known[key] = digest
            self._is_new = True
        return digest

    def refresh(self) -> None:
        """Take over what other processes recorded."""
        with suppress(OSError, ValueError, TypeError):
            self._known = {**json.loads(self._record.read_bytes()), **self._known}

    def save(self) -> None:
        """Record for other processes what this one found; where it may not write, it keeps it to itself."""
        if not self._is_new:
            return
        self._is_new = False
        self.refresh()
        with suppress(OSError):
            self._record.parent.mkdir(parents=True, exist_ok=True)
            new_record = self._record.with_name(f"{self._record.name}.{uuid.uuid4().hex}")
            new_record.write_text(json.dumps({key: sha for key, sha in self._known.items() if _is_current(key)}))
            os.replace(new_record, self._record)


def _stamp(path: Path) -> str:
    """What changes when the file does; the path comes last because it may hold anything."""
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}:{path}"


def _is_current(stamp: str) -> bool:
    try:
        return _stamp(Path(stamp.split(":", 3)[3])) == stamp
    except OSError:
        return False


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"The {kind} name {_shown(name)!r} cannot be used: it needs 1 to 128 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or digit and without '..'."
        )


def _shown(name: str) -> str:
    """A name nobody vouches for, fit for a message in a terminal, a log or a web page."""
    return re.sub(r"[^A-Za-z0-9 ._/\\:-]", "?", name[:80])


def _files_in(folder: Path) -> list[str]:
    """Relative posix paths of everything below `folder` that is not itself a folder, links included."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]


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


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete_abandoned(drafts: Path) -> None:
    """Delete drafts whose writer died. One on another host may well be alive, and only that host can tell."""
    for folder in drafts.iterdir():
        host, _, process = folder.name.rpartition(".")[0].rpartition(".")
        if host == socket.gethostname() and process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_full_disk(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return True
    # safetensors and others wrap the system's error in their own and keep only its text.
    return any(os.strerror(code) in str(error) for code in _FULL_DISK)
