"""This machine's scratch: drafts, which a process fills once, and workspaces, which a later one goes on from.

    .drafts/<host>.<process>.<...>                                                      a draft, or a download under way
    .work/<study>/<asset>/<partition or "_">/<fingerprint>/                             a workspace
    .work/.owners/<study>/<asset>/<partition or "_">/<fingerprint>@<host>.<process>     which process took it

They lie below a local root, and in the cache folder of a remote one; workspaces lie in any cache folder that was asked
for.

Belongs here: giving out scratch, and telling whether somebody uses it. Does not belong here: what becomes of a draft
(`writing`, `reading`), and deciding that the scratch of an artifact is garbage (`retention`).

Part of no version: how an artifact is kept does not change it.
"""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from subliminal_dagster.science.storage.claims import Holder
from subliminal_dagster.science.storage.files import folders_in, last_touched, remove_folder
from subliminal_dagster.science.storage.keys import Key, check_name
from subliminal_dagster.science.storage.records import FORGOTTEN_AFTER
from subliminal_dagster.science.storage.root import Root


class Drafts:
    """The drafts beside a root."""

    def __init__(self, root: Root) -> None:
        self._folder = root.scratch / ".drafts"

    @contextmanager
    def new(self) -> Iterator[Path]:
        """A new folder that is gone, or renamed to something else, at the end. Abandoned drafts are deleted first."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for abandoned in self.abandoned():
            shutil.rmtree(abandoned, ignore_errors=True)
        folder = self._folder / f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def abandoned(self) -> list[Path]:
        """The drafts of this host whose writers died; one on another host may live, and only that host can tell."""
        found = []
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            host, _, process = folder.name.rpartition(".")[0].rpartition(".")
            if host == socket.gethostname() and process.isdecimal() and not _is_running(int(process)):
                found.append(folder)
        return found


class Workspaces:
    """The folders beside a root for work that can be resumed."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def take(self, key: Key, fingerprint: str) -> Path:
        """The workspace of a fingerprint, for this process to work in: see `ArtifactStore.workspace`."""
        check_name("fingerprint", fingerprint)
        folder = self._of(key) / fingerprint[:16]
        # Without the lock, another process could find the folder not worked on and delete it at this moment.
        with self._root.explaining_disk(f"there is no workspace for {key.label}", key), self._root.lock(key):
            folder.mkdir(parents=True, exist_ok=True)
            # Loading an old checkpoint changes nothing in there for a while, and what looks forgotten may be deleted.
            os.utime(folder)
            owner = Holder.this_process()
            owners = self._owners(key)
            owners.mkdir(parents=True, exist_ok=True)
            (owners / f"{folder.name}@{owner.host}.{owner.process}").write_bytes(owner.content)
            self._clear(key, keep=folder.name)
        return folder

    def folder(self, key: Key) -> Path | None:
        """The folder of an artifact's workspaces, if there is one."""
        folder = self._of(key)
        return folder if folder.is_dir() else None

    def clear(self, key: Key) -> None:
        """Delete the workspaces that no other process works in. What cannot be deleted takes room and does no harm."""
        if self.folder(key) is not None:
            with suppress(OSError), self._root.lock(key):
                self._clear(key)

    def remove_unused(self, key: Key) -> int:
        """As `clear`, for who holds the lock of the artifact. Returns the bytes freed; raises OSError."""
        unused = [workspace for workspace in folders_in(self._of(key)) if not self._is_worked_in(key, workspace)]
        freed = sum(self._delete(key, workspace) for workspace in unused)
        self._clear(key)
        return freed

    def _of(self, key: Key) -> Path:
        return self._root.work / key.relative

    def _owners(self, key: Key) -> Path:
        """The folder of the records which processes took which workspaces of an artifact."""
        return self._root.work / ".owners" / key.relative

    def _owner_records(self, key: Key, workspace: str) -> list[Path]:
        owners = self._owners(key)
        return [path for path in owners.iterdir() if path.name.split("@")[0] == workspace] if owners.is_dir() else []

    def _clear(self, key: Key, keep: str | None = None) -> None:
        for workspace in folders_in(self._of(key)):
            if workspace != keep and not self._is_worked_in(key, workspace):
                with suppress(OSError):
                    self._delete(key, workspace)
        for each in (self._owners(key), self._of(key)):
            with suppress(OSError):
                each.rmdir()

    def _delete(self, key: Key, workspace: str) -> int:
        """Returns the bytes freed; raises OSError."""
        freed = remove_folder(_set_aside(self._of(key) / workspace))
        for record in self._owner_records(key, workspace):
            record.unlink(missing_ok=True)
        return freed

    def _is_worked_in(self, key: Key, workspace: str) -> bool:
        """Whether a process other than this one may work in a workspace. Of one on another host, nobody can tell as
        long as the folder is not forgotten."""
        for record in self._owner_records(key, workspace):
            owner = Holder.parsed(record.read_bytes())
            if owner is None or (owner.host, owner.process) == (socket.gethostname(), os.getpid()):
                continue
            lives = owner.lives()
            if lives is None:
                lives = last_touched(self._of(key) / workspace) >= datetime.now(UTC) - FORGOTTEN_AFTER
            if lives:
                return True
        return False


def _set_aside(workspace: Path) -> Path:
    """Rename a workspace that is to be deleted to what no fingerprint gives, and return its new name.

    A kill while it is deleted would otherwise leave a checkpoint that lacks a file, for the next attempt to go on from.
    """
    aside = workspace.with_name(f"deleted.{uuid.uuid4().hex}")
    # Another process may be deleting it too.
    with suppress(OSError):
        os.rename(workspace, aside)
    return aside


def _is_running(process: int) -> bool:
    """Whether a process lives; one that was killed and nobody waited for does not."""
    with suppress(psutil.Error):
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    return psutil.pid_exists(process)
