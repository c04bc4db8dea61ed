"""What is written down about an artifact, and what can be wrong with it.

Belongs here: the records as readers get them, how they are written and parsed, the names of their files and of
versions, and the errors that say what was found. Does not belong here: where a record lies and when it is written
(`writing`), whether it is true of the files (`reading`).

Part of no version: how an artifact is kept does not change it.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.keys import Key

FORMAT = 1
MANIFEST = "manifest.json"
POINTER = "current.json"
REFUSAL = "refused.json"

FORGOTTEN_AFTER = timedelta(days=7)
"""After this long without a change, what was in the making is nobody's."""

_VERSION_TIME = "%Y%m%dT%H%M%S.%fZ"
_VERSION = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")
_SHA256 = re.compile("[0-9a-f]{64}")


# What is wrong


class MissingArtifact(UserError):  # noqa: N818
    """Nothing was written yet under this study, asset and partition."""


class LeftOutArtifact(MissingArtifact):
    """What is known of it was copied from elsewhere, its files were not."""


class DamagedArtifact(UserError):  # noqa: N818
    """What lies in the store is not what was written to it."""


class OtherFormat(UserError):  # noqa: N818
    """What lies in the store was written by a version of the software that stores it differently.

    It may well be sound, so it is neither read nor replaced.
    """


def damaged(key: Key, root: str, problem: str) -> DamagedArtifact:
    """The error for an artifact in the root of that name."""
    return DamagedArtifact(f"Artifact {key.label} in {root} is damaged, {problem}: {key.materialize} again.")


# Artifacts


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

    `content_hash` covers what the files say and nothing else; `info` holds the facts about how they came to be. Where
    they are `left_out` they lie only where this was copied from, and `files` tells what they are there.
    """

    version: str
    content_hash: str
    created: datetime
    files: tuple[StoredFile, ...]
    info: dict[str, Any]
    left_out: bool = field(default=False, kw_only=True)

    @property
    def files_here(self) -> tuple[StoredFile, ...]:
        """Those that are stored with it."""
        return () if self.left_out else self.files

    def as_bytes(self) -> bytes:
        """As it is written. Raises TypeError where `info` is not JSON-able."""
        fields = {
            **vars(self),
            "format": FORMAT,
            "created": self.created.isoformat(),
            "files": [vars(file) for file in self.files],
        }
        return json.dumps(fields, indent=1).encode()


@dataclass(frozen=True)
class Artifact(Manifest):
    """A verified artifact; its files lie in the local folder `path` and must not be changed there."""

    path: Path


def parsed_manifest(content: bytes) -> Manifest:
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
        # The first manifests did not say.
        left_out=fields.get("left_out", False),
    )


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

    def become(self, artifact: Artifact) -> None:
        """Be an artifact from now on; for the store, once that is in its place."""
        self._artifact = artifact


# Which version counts


@dataclass(frozen=True)
class Pointer:
    """Which version of an artifact counts, and what tells whether its manifest is the one that was written."""

    version: str
    content_hash: str
    manifest_sha256: str

    def as_bytes(self, superseded: list[str]) -> bytes:
        """As it is written, with the versions that were current before."""
        return json.dumps({"format": FORMAT, **vars(self), "superseded": superseded}).encode()


def parsed_pointer(content: bytes) -> Pointer | None:
    """None where `content` is not what a pointer says."""
    with suppress(ValueError, KeyError, TypeError):
        fields = json.loads(content)
        pointer = Pointer(fields["version"], fields["content_hash"], fields["manifest_sha256"])
        if _VERSION.fullmatch(pointer.version) and _SHA256.fullmatch(pointer.manifest_sha256):
            return pointer
    return None


def format_in(pointer: bytes) -> int:
    """The format that a pointer names. The first ones named none, nor does one that is damaged."""
    try:
        found = json.loads(pointer)["format"]
    except (ValueError, KeyError, TypeError):
        return 1
    return found if isinstance(found, int) else 1


def superseded_in(pointer: bytes) -> list[str]:
    """The versions that a pointer says were current before; [] where it does not say."""
    try:
        return [str(version) for version in json.loads(pointer)["superseded"]]
    except (ValueError, KeyError, TypeError):
        return []


def is_version(name: str) -> bool:
    """Whether a file or folder has the name of a version."""
    return _VERSION.fullmatch(name) is not None


def new_version(content_hash: str, now: datetime, previous: str | None) -> str:
    """The name of a version made now. Versions are sorted by name, so it comes after the previous one though the clock
    was set back since."""
    return f"{_later_than(previous, now).strftime(_VERSION_TIME)}-{content_hash[:8]}"


def before_versions_of(moment: datetime) -> str:
    """What comes after the names of all versions made before a moment, and before all others."""
    return moment.strftime(_VERSION_TIME)


def _later_than(version: str | None, now: datetime) -> datetime:
    if version is None:
        return now
    with suppress(ValueError, OverflowError):
        made = datetime.strptime(version.partition("-")[0], _VERSION_TIME).replace(tzinfo=UTC)
        return max(now, made + timedelta(microseconds=1))
    return now


# Refusals


@dataclass(frozen=True)
class Refusal:
    """Why nothing may be built on an artifact, and a record of what the verdict rests on."""

    reason: str
    made_from: dict[str, Any]
    created: datetime

    def as_bytes(self, version: str | None) -> bytes:
        """As it is written, with the version that it is about. Raises TypeError where a fact is not JSON-able."""
        return json.dumps(vars(self) | {"created": self.created.isoformat(), "version": version}, indent=1).encode()


def parsed_refusal(content: bytes) -> tuple[Refusal, str | None] | None:
    """A refusal and the version that it is about; None where `content` is not what one says."""
    try:
        fields = json.loads(content)
        created = datetime.fromisoformat(fields["created"])
        return Refusal(str(fields["reason"]), dict(fields["made_from"]), created), fields["version"]
    except (ValueError, KeyError, TypeError):
        return None
