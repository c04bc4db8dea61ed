"""A study's artifacts as one file, for those who want its tables and have no GPU to make them.

    study.json                                    what each artifact is: its facts, its files and their hashes, refusals
    study.yaml                                    the study's settings
    artifacts/<asset>/<partition or "_">/<file>   the files

It is a zip file with the same bytes whenever the same artifacts are packed. An archive comes from anybody: what is in
it is compared and copied, and nothing of it is run or unpickled.

Belongs here: packing artifacts, and putting packed ones into a store. Does not belong here: which artifacts a study
has and what its settings mean (`execution.sharing`), the hub (`hub`).

Part of no version: how an artifact travels does not change it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.keys import Key, shown
from subliminal_dagster.science.storage.records import (
    MANIFEST,
    Artifact,
    Manifest,
    MissingArtifact,
    Refusal,
    StoredFile,
    parsed_manifest,
    parsed_refusal,
)
from subliminal_dagster.science.storage.store import ArtifactStore

FORMAT = "subliminal-dagster study 1"
INDEX = "study.json"
SETTINGS = "study.yaml"

LARGEST_RECORD = 1 << 28
"""Bytes of an index or of settings; a zip file of a megabyte can claim any number."""

_CHUNK_BYTES = 1 << 20
_LONGEST_NAME = 200
_TEXTS = {".csv", ".html", ".json", ".jsonl", ".md", ".svg", ".txt", ".yaml"}
# What the time of a zip file's entries begins with; the time of packing would make each archive another one.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_ADAPTER = "adapter_config.json"
_MADE_FROM = ("code_version", "upstream", "refused")

State = Literal["new", "there", "different"]


@dataclass(frozen=True)
class Entry:
    """One artifact in an archive: what it is, why nothing may be built on it, or both."""

    key: Key
    manifest: Manifest | None
    refusal: Refusal | None

    @property
    def folder(self) -> str:
        """Where its files lie in the archive."""
        return f"artifacts/{self.key.relative.partition('/')[2]}"

    @property
    def is_refused(self) -> bool:
        return bool(self.refusal or (self.manifest and self.manifest.info.get("refused")))

    def as_json(self) -> dict[str, Any]:
        return {
            "asset": self.key.asset,
            "partition": self.key.partition,
            "manifest": self.manifest and json.loads(self.manifest.as_bytes()),
            "refusal": self.refusal and json.loads(self.refusal.as_bytes(None)),
        }


@dataclass(frozen=True)
class Contents:
    """What an archive holds. `study` is the name, `settings` the study's YAML; sorted by asset and partition."""

    study: str
    settings: str
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """The bytes of the files, unpacked."""
        return sum(file.size for entry in self.entries if entry.manifest for file in entry.manifest.files_here)

    @property
    def left_out(self) -> list[Entry]:
        """The artifacts without their files."""
        return [entry for entry in self.entries if entry.manifest and entry.manifest.left_out]

    @property
    def refused(self) -> list[Entry]:
        """The artifacts that a gate refused, whether or not there is something to look at."""
        return [entry for entry in self.entries if entry.is_refused]


# Packing


def pack(
    store: ArtifactStore,
    study: str,
    parts: Iterable[tuple[str, str | None]],
    settings: str,
    file: Path,
    without: Collection[str],
) -> Contents:
    """Write what there is of some `parts` (asset, partition) of a study into a file.

    Of the assets in `without` everything goes along but their files. What tells of this machine and of no result (which
    GPU it was, where an adapter's base model lay) stays here. Raises UserError where there is nothing to pack, where
    somebody is making a part of the study, where `file` is there already or cannot be written, and as
    `ArtifactStore.read` does.
    """
    busy = store.claims(study)
    if busy:
        place, holder = next(iter(busy.items()))
        raise UserError(f"{Key(study, *place).label} is being made by {holder.shown}: export when that has ended.")
    if file.exists():
        raise UserError(f"{file} is there already: choose another name, or delete it.")
    sources: dict[str, Path | bytes] = {}
    entries = []
    for asset, partition in sorted(parts, key=lambda part: (part[0], part[1] or "")):
        key = Key(study, asset, partition)
        refusal = store.refusal(*astuple(key))
        try:
            manifest = _packed(store, key, asset in without, sources)
        except MissingArtifact:
            # It may have been refused before there was anything to look at.
            manifest = None
        if manifest or refusal:
            entries.append(Entry(key, manifest, refusal))
    if not entries:
        raise UserError(f"{store.root} holds nothing of {study}: run it first, or set SUBLIMINAL_ARTIFACTS.")
    contents = Contents(study, settings, tuple(entries))
    with _written_aside(file) as aside, zipfile.ZipFile(aside, "w") as archive:
        index = {"format": FORMAT, "study": study, "artifacts": [entry.as_json() for entry in entries]}
        _add(archive, INDEX, json.dumps(index, indent=1, sort_keys=True).encode())
        _add(archive, SETTINGS, settings.encode())
        for entry, stored in _files(contents):
            name = f"{entry.folder}/{stored.path}"
            if _add(archive, name, sources[name]) != stored.sha256:
                raise UserError(f"{entry.key.label} changed while it was packed: export when nothing is running.")
    return contents


def _packed(store: ArtifactStore, key: Key, leave_out: bool, sources: dict[str, Path | bytes]) -> Manifest:
    """An artifact's manifest as it goes along; adds to `sources` where its files are found, by their names in the
    archive. Raises as `ArtifactStore.read` does."""
    manifest = store.check(*astuple(key))
    if not leave_out and not manifest.left_out:
        artifact = store.read(*astuple(key))
        manifest = _plain(artifact)
        files = []
        for file in artifact.files:
            name = f"{Entry(key, manifest, None).folder}/{file.path}"
            sources[name] = artifact.path / file.path
            if PurePosixPath(file.path).name == _ADAPTER:
                content = sources[name] = _without_base_model((artifact.path / file.path).read_bytes())
                file = replace(file, size=len(content), sha256=hashlib.sha256(content).hexdigest())
            files.append(file)
        manifest = replace(manifest, files=tuple(files))
    info = dict(manifest.info)
    if "host" in info:
        info["host"] = {name: value for name, value in info["host"].items() if name != "gpu"}
    return replace(manifest, info=info, left_out=leave_out or manifest.left_out)


def _plain(artifact: Artifact) -> Manifest:
    return Manifest(**{field.name: getattr(artifact, field.name) for field in fields(Manifest)})


def _without_base_model(config: bytes) -> bytes:
    # Where the base model lay on this machine; the adapter's content hash leaves it out as well.
    return json.dumps(json.loads(config) | {"base_model_name_or_path": None}, indent=2).encode()


@contextmanager
def _written_aside(file: Path) -> Iterator[Path]:
    """A path to write to; at the end of the block the file has its name, and after an error there is none."""
    aside = file.with_name(f"{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(aside, file)
    except OSError as error:
        raise UserError(f"{file} could not be written ({error.strerror or error}): choose another place.") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def _add(archive: zipfile.ZipFile, name: str, content: Path | bytes) -> str:
    """Add a file to an archive; the SHA-256 of its bytes."""
    entry = zipfile.ZipInfo(name, _NO_TIME)
    entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    # Tensors and parquet do not get smaller.
    entry.compress_type = zipfile.ZIP_DEFLATED if PurePosixPath(name).suffix in _TEXTS else zipfile.ZIP_STORED
    entry.file_size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digest = hashlib.sha256()
    with archive.open(entry, "w") as target:
        if isinstance(content, bytes):
            digest.update(content)
            target.write(content)
        else:
            with content.open("rb") as source:
                while chunk := source.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    target.write(chunk)
    return digest.hexdigest()


def _files(contents: Contents) -> Iterator[tuple[Entry, StoredFile]]:
    """The files that lie in an archive, in its order."""
    for entry in contents.entries:
        for file in sorted(entry.manifest.files_here if entry.manifest else (), key=lambda file: file.path):
            yield entry, file


# Unpacking


class Archive:
    """An archive, opened by `opened`. Its methods raise UserError where the file turns out to be cut or changed."""

    def __init__(self, file: Path, members: zipfile.ZipFile) -> None:
        self.file = file
        self._members = members
        self.contents = self._checked_contents()

    def verify(self) -> None:
        """Read every file and hold it against its size and its SHA-256."""
        for entry, file in _files(self.contents):
            for _ in self._chunks(entry, file):
                pass

    def states(self, store: ArtifactStore) -> list[tuple[Entry, State]]:
        """Which of the artifacts are new to a store, and which are there already, the same or different ones."""
        return [(entry, _state(store, entry)) for entry in self.contents.entries]

    def unpack(self, store: ArtifactStore, entry: Entry) -> None:
        """Put an artifact into a store, whole or not at all, whatever is there.

        Raises UserError where the files do not have the content hash that the archive gives.
        """
        study, asset, partition = entry.key.study, entry.key.asset, entry.key.partition
        with store.claim(study, asset, partition):
            if entry.manifest:
                with store.copy(study, asset, partition, entry.manifest) as draft:
                    for file in entry.manifest.files_here:
                        target = draft.path / file.path
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with target.open("xb") as written:
                            for chunk in self._chunks(entry, file):
                                written.write(chunk)
            if entry.refusal:
                store.refuse(study, asset, partition, **vars(entry.refusal))

    def _chunks(self, entry: Entry, file: StoredFile) -> Iterator[bytes]:
        """The bytes of a file; the last ones only where all of them have the SHA-256 that the index gives."""
        digest = hashlib.sha256()
        with self._opened(f"{entry.folder}/{file.path}") as source:
            while chunk := _read(self.file, source):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != file.sha256:
            raise _unusable(self.file, f"{shown(file.path)} of {entry.key.label} does not have the hash given for it")

    def _opened(self, name: str) -> IO[bytes]:
        with _explaining(self.file):
            return self._members.open(name)

    def _bytes(self, name: str) -> bytes:
        if name not in self._members.namelist():
            raise _unusable(self.file, f"it has no {name}")
        if self._members.getinfo(name).file_size > LARGEST_RECORD:
            raise _unusable(self.file, f"its {name} is too big for one")
        with self._opened(name) as source, _explaining(self.file):
            return source.read()

    def _checked_contents(self) -> Contents:
        names = self._members.namelist()
        if len(set(names)) < len(names):
            raise _unusable(self.file, "it holds a file twice")
        for member in self._members.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir() or kind not in (0, stat.S_IFREG):
                raise _unusable(self.file, f"{shown(member.filename)} is a link or folder, not a file")
        index = self._bytes(INDEX)
        try:
            content = json.loads(index)
            found = content["format"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _unusable(self.file, f"its {INDEX} says nothing of a study") from None
        if found != FORMAT:
            raise UserError(
                f"{self.file} is of the format {shown(str(found))!r} and this version of the software knows "
                f"{FORMAT!r} only: import it with the version that wrote it."
            )
        try:
            contents = Contents(
                content["study"],
                self._bytes(SETTINGS).decode(),
                tuple(_entry(content["study"], described) for described in content["artifacts"]),
            )
        except UserError as error:
            raise _unusable(self.file, str(error).rstrip(".")) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _unusable(self.file, f"its {INDEX} or {SETTINGS} is not as it was written") from None
        if not contents.entries:
            raise _unusable(self.file, "it holds nothing of a study")
        self._compare_members(contents)
        return contents

    def _compare_members(self, contents: Contents) -> None:
        if len({entry.key for entry in contents.entries}) < len(contents.entries):
            raise _unusable(self.file, "it holds an artifact twice")
        expected = {f"{entry.folder}/{file.path}": file.size for entry, file in _files(contents)}
        there = {member.filename: member.file_size for member in self._members.infolist()}
        for name in sorted(expected.keys() - there.keys()):
            raise _unusable(self.file, f"{shown(name)} is missing")
        for name in sorted(there.keys() - expected.keys() - {INDEX, SETTINGS}):
            raise _unusable(self.file, f"{shown(name)} does not belong to an artifact")
        for name, size in expected.items():
            if there[name] != size:
                raise _unusable(self.file, f"{shown(name)} has {there[name]} bytes instead of {size}")


@contextmanager
def opened(file: Path) -> Iterator[Archive]:
    """Raises UserError where the file cannot be read, is cut, or is not an archive of this format."""
    with _explaining(file):
        members = zipfile.ZipFile(file)
    with members:
        yield Archive(file, members)


def _entry(study: str, described: dict[str, Any]) -> Entry:
    """Raises ValueError, KeyError, TypeError, AttributeError or UserError where the index does not describe one."""
    key = Key(study, described["asset"], described["partition"])
    manifest, refusal = None, None
    if described["manifest"] is not None:
        manifest = parsed_manifest(json.dumps(described["manifest"]).encode())
        _check_manifest(manifest)
    if described["refusal"] is not None:
        refusal, _ = parsed_refusal(json.dumps(described["refusal"]).encode()) or (None, None)
    if (manifest, refusal) == (None, None):
        raise ValueError("neither an artifact nor a refusal")
    return Entry(key, manifest, refusal)


def _check_manifest(manifest: Manifest) -> None:
    """What of a manifest of this format could still harm a store. Raises ValueError or TypeError."""
    paths = [file.path for file in manifest.files]
    for path in paths:
        # Also as another system than this one reads it.
        if path != PurePosixPath(path).as_posix() or path == "." or any(sign in path for sign in "\\:\0"):
            raise ValueError("the name of a file")
        if max(len(part.encode()) for part in path.split("/")) > _LONGEST_NAME:
            raise ValueError("the name of a file")
    folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
    if not paths or len(set(paths)) < len(paths) or not folders.isdisjoint(paths) or MANIFEST in {*paths, *folders}:
        raise ValueError("the files")
    # A version is named after the time.
    if manifest.created.tzinfo is None or not 2000 <= manifest.created.year < 2100:
        raise ValueError("the time")
    if not isinstance(manifest.info, dict) or not isinstance(manifest.left_out, bool):
        raise TypeError("the facts")


def _state(store: ArtifactStore, entry: Entry) -> State:
    try:
        mine = store.check(*astuple(entry.key))
    except MissingArtifact:
        mine = None
    except UserError:
        return "different"
    my_refusal = store.refusal(*astuple(entry.key))
    if mine is None and my_refusal is None:
        return "new"
    same = mine is None and entry.manifest is None
    if mine and entry.manifest:
        same = _identity(mine) == _identity(entry.manifest)
    if same and mine and entry.manifest and mine.left_out and not entry.manifest.left_out:
        return "new"
    if same and my_refusal is None and entry.refusal:
        # An import that was killed before it recorded the refusal.
        return "new"
    return "there" if same and _reasons(my_refusal) == _reasons(entry.refusal) else "different"


def _identity(manifest: Manifest) -> tuple[Any, ...]:
    return manifest.content_hash, *(manifest.info.get(name) for name in _MADE_FROM)


def _reasons(refusal: Refusal | None) -> tuple[Any, ...]:
    return (refusal.reason, refusal.made_from) if refusal else ()


def _read(file: Path, source: IO[bytes]) -> bytes:
    with _explaining(file):
        return source.read(_CHUNK_BYTES)


@contextmanager
def _explaining(file: Path) -> Iterator[None]:
    """Turn what is wrong with a file that was given into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}): check the path.") from error
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, ValueError, struct.error) as error:
        raise _unusable(file, f"it is not a whole zip file ({error or type(error).__name__})") from error


def _unusable(file: Path, problem: str) -> UserError:
    return UserError(f"{file} cannot be imported, {problem}: get it again from where it came from.")
