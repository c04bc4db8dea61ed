"""Hashes of files that are remembered while the files stay as they are.

Belongs here: hashing bytes once for all processes. Does not belong here: what a file says (`content_hash`), which files
an artifact has (`records`).

Part of no version: it tells whether a file was changed, and changes none.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_SETTLED_NS = 2_000_000_000


class HashedFiles:
    """The SHA-256 of files that did not change since they were last hashed, also by another process.

    Without it every process that loads an 18 GB model would read it twice. Each artifact or folder has its own small
    record in `folder`, so that looking at many of them costs no more for each.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, dict[str, str]] = {}

    def sha256s(self, artifact: str, paths: Sequence[Path]) -> list[str]:
        """The SHA-256 of each of `paths`, which are all the files of an artifact (its name is a relative path).

        Raises FileNotFoundError.
        """
        stamps = [_stamp(path) for path in paths]
        known = self._known.get(artifact, {})
        if not known.keys() >= set(stamps):
            known = {**self._recorded(artifact), **known}
        hashes: list[str] = []
        settled: dict[str, str] = {}
        for path, stamp in zip(paths, stamps, strict=True):
            sha256, is_settled = (known[stamp], True) if stamp in known else _hashed(path, stamp)
            hashes.append(sha256)
            if is_settled:
                settled[stamp] = sha256
        self._known[artifact] = settled
        if not known.keys() >= settled.keys():
            self._save(artifact, settled)
        return hashes

    def forget(self, artifact: str) -> None:
        """Delete what is recorded of an artifact."""
        self._known.pop(artifact, None)
        with suppress(OSError):
            self._record(artifact).unlink()

    def _record(self, artifact: str) -> Path:
        return self._folder / f"{artifact}.json"

    def _recorded(self, artifact: str) -> dict[str, str]:
        """What this or another process recorded; what is not readable is only a record lost."""
        try:
            return dict(json.loads(self._record(artifact).read_bytes()))
        except (OSError, ValueError, TypeError):
            return {}

    def _save(self, artifact: str, hashes: dict[str, str]) -> None:
        """Record for other processes what this one found; where it may not write, it keeps it to itself."""
        record = self._record(artifact)
        with suppress(OSError):
            record.parent.mkdir(parents=True, exist_ok=True)
            new_record = record.with_name(f"{record.name}.{uuid.uuid4().hex}")
            new_record.write_text(json.dumps(hashes))
            os.replace(new_record, record)


def _hashed(path: Path, stamp: str) -> tuple[str, bool]:
    """The SHA-256 of a file, and whether it is sure to differ in its stamp from any that it can still become."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # Clocks of file systems tick every few milliseconds: a file just written could still change, keep its size,
    # and get the same modification time.
    is_settled = time.time_ns() - path.stat().st_mtime_ns > _SETTLED_NS
    return digest, is_settled and _stamp(path) == stamp


def _stamp(path: Path) -> str:
    """What changes when the file does."""
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}:{path}"
