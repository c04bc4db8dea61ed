"""The artifact store: whether it can be written to.

Belongs here: a trial of it. Does not belong here: what is in it (`storage`).

Part of no version: messages to users are not results.
"""

from __future__ import annotations

import errno
import tempfile
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from subliminal_dagster.science.preflight.finding import Finding
from subliminal_dagster.science.storage.root import Root

CHECK = "store"


def check_store(root: Root) -> tuple[Finding, timedelta | None]:
    """Write a small file into the store and into this machine's scratch beside it, and delete it; also how far this
    machine's clock is ahead of the store's, where that tells when a file was written."""
    name = f".trial-{uuid.uuid4().hex}"
    place = root.name
    try:
        before = datetime.now(UTC)
        root.replace(b"trial", name)
        try:
            content, written = root.read(name), _written(root, name)
        finally:
            root.remove_file(name)
        for folder in (root.scratch, root.work):
            place = str(folder)
            _try_folder(folder, name)
    # Whatever a remote file system raises: each kind has errors of its own.
    except Exception as error:
        return Finding(CHECK, "failed", _unwritable(place, error)), None
    if content != b"trial":
        return Finding(
            CHECK, "failed", f"{root.name} gives back other bytes than were written: use another store."
        ), None
    return Finding(CHECK, "ok", f"{root.name} can be written to"), None if written is None else before - written


def _written(root: Root, name: str) -> datetime | None:
    if root.local is not None:
        return datetime.fromtimestamp((root.local / name).stat().st_mtime, UTC)
    # Many kinds of file systems do not say.
    with suppress(NotImplementedError, OSError, KeyError, AttributeError):
        written: Any = root.fs.modified(root.path(name))
        return written if written.tzinfo else written.replace(tzinfo=UTC)
    return None


def _try_folder(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=name) as file:
        file.write(b"trial")


def _unwritable(place: str, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {place} is full or the quota on it is used up: free some space there."
    reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return (
        f"{place} cannot be written to ({reason}): get the right to write there, or set SUBLIMINAL_ARTIFACTS to "
        "another folder or URL."
    )
