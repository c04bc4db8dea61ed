"""Room on the disks that a study writes to.

Belongs here: measuring the room, and comparing it with what is still to be written there. Does not belong here: how
much that is.

Part of no version: messages to users are not results.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from subliminal_dagster.science.preflight.finding import Finding, in_gb

CHECK = "disk"


@dataclass(frozen=True)
class Written:
    """What is still to be written into a folder: `what` in words, `size` in bytes, and the variable `moved_by` that
    puts it elsewhere."""

    what: str
    folder: Path
    size: int
    moved_by: str


def check_disk(to_write: Sequence[Written], store: Path) -> list[Finding]:
    """A finding a disk: folders that lie on the same one share its room. `store`: the folder whose room is told where
    nothing large is known of that is `to_write`."""
    if not to_write:
        free = shutil.disk_usage(existing(store)).free
        return [Finding(CHECK, "ok", f"{store}: {in_gb(free)} free; nothing large is known of that is to be written")]
    by_disk: dict[int, list[Written]] = {}
    for each in to_write:
        by_disk.setdefault(os.stat(existing(each.folder)).st_dev, []).append(each)
    return [_of_disk(each) for each in by_disk.values()]


def _of_disk(to_write: Sequence[Written]) -> Finding:
    folder = to_write[0].folder
    free = shutil.disk_usage(existing(folder)).free
    need = sum(each.size for each in to_write)
    parts = ", ".join(f"{each.what} {in_gb(each.size)}" for each in to_write)
    if need <= free:
        return Finding(CHECK, "ok", f"{folder}: {in_gb(free)} free, about {in_gb(need)} to be written")
    variables = " or ".join(dict.fromkeys(each.moved_by for each in to_write))
    return Finding(
        CHECK,
        "failed",
        f"The disk of {folder} has {in_gb(free)} free and about {in_gb(need)} are to be written ({parts}): free some "
        f"space there, or set {variables} to a folder on another disk.",
    )


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())
