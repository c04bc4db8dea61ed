"""Local files and folders: writing that outlasts a power cut, looking, and deleting.

Belongs here: what is true of any file or folder. Does not belong here: anything that knows of artifacts.

Part of no version: how an artifact is kept does not change it.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is on disk when this returns; its name is when `flush_to_disk` of the folder has returned."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Write a file in one atomic step. Raises OSError only where it was not replaced."""
    # A name of its own: two machines may write at once, and each must find its own file to rename.
    new = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
    try:
        write_durably(new, content)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    # The new content counts from here on; should a power cut bring the old one back, that was whole too.
    with suppress(OSError):
        flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Have the content of a file, or the names in a folder, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files_in(folder: Path) -> list[str]:
    """Relative posix paths of everything below `folder` that is not itself a folder, links included."""
    found = []
    for place, folders, files in os.walk(folder):
        inside = place[len(str(folder)) + 1 :]
        names = [*files, *(name for name in folders if os.path.islink(os.path.join(place, name)))]
        found += [os.path.join(inside, name) for name in names]
    return found


def folders_in(path: Path) -> list[str]:
    """The names of the folders in a folder, sorted; none where it does not exist."""
    try:
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def folder_size(path: Path) -> int:
    """The bytes of the files in a folder, or of a file; 0 where there is none. Links are not followed."""
    return sum(status.st_size for status in _statuses(path) if stat.S_ISREG(status.st_mode))


def last_touched(folder: Path) -> datetime:
    """When something in a folder last changed; long ago where there is none."""
    return datetime.fromtimestamp(max((status.st_mtime for status in _statuses(folder)), default=0), UTC)


def remove_folder(folder: Path) -> int:
    """Delete a folder if it is there. Returns the bytes freed; raises OSError."""
    size = folder_size(folder)
    # Another process may be deleting it too.
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    return size


def _statuses(path: Path) -> Iterator[os.stat_result]:
    inside = (Path(folder) / name for folder, folders, files in os.walk(path) for name in [*folders, *files])
    for each in [path, *inside]:
        # What vanishes meanwhile does not count.
        with suppress(FileNotFoundError):
            yield each.lstat()
