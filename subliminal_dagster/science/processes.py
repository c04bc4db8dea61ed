"""Which process this is, whether another one lives, ending with the one that started this, and work in several.

Belongs here: what is asked of the operating system about processes. Does not belong here: what a process does.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import psutil

_Name = TypeVar("_Name")
_Made = TypeVar("_Made")


def start_of(process: int) -> str | None:
    """When a process started, which tells it from a later one of its number; None where there is none, or it ended and
    nobody waited for it.

    In clock ticks since boot, which no change of the clock touches (seconds since 1970 where there is no /proc).
    """
    if Path("/proc/self/stat").exists():
        try:
            # The name, in parentheses, may hold blanks and parentheses itself.
            fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        state, started = fields[0], fields[19]
        return None if state in (b"Z", b"X") else started.decode()
    with suppress(psutil.Error):
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else str(found.create_time())
    return None


def is_hidden(process: int) -> bool:
    """Whether a process exists that says nothing of itself: another user's, on a system that hides those."""
    if Path(f"/proc/{process}/stat").exists() and os.access(f"/proc/{process}/stat", os.R_OK):
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False


@cache
def this_boot() -> str:
    """Which start of this system it is, and which numbering of its processes (containers have their own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = str(int(psutil.boot_time()))
    numbering = ""
    with suppress(OSError):
        numbering = os.readlink("/proc/self/ns/pid")
    return f"{boot}/{numbering}"


def end_with_parent() -> None:
    """End this process with the one that started it, which may be killed at any moment: what goes on without it would
    make the same beside the next run, in the same workspace.

    Does nothing in a process that multiprocessing did not start.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


SHARED_CORES = "SUBLIMINAL_CORES"
"""Names the cores that a process shares with those beside it, where its libraries are told to use fewer."""


def cores_here() -> int:
    """How many processes of one thread a piece of work may start: as many as PyTorch has threads here, or, beside
    others that share the machine's cores with it and may end sooner, as many as there are cores."""
    import torch

    return int(os.environ.get(SHARED_CORES) or torch.get_num_threads())


def side_by_side(work: Mapping[_Name, Callable[[], _Made]], processes: int) -> Iterator[tuple[_Name, _Made]]:
    """What each piece of `work` gives, with its name, as they end: in so many processes, of one thread each, which end
    with this one; with one process in this one, in order. Pieces are pickled where there are more.

    A single piece has a process of its own too: what is left of many after a kill comes out as it would have.
    """
    if processes <= 1 or not work:
        for name, piece in work.items():
            yield name, piece()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(work), processes), mp_context=context, initializer=_in_one_thread) as pool:
        futures = {pool.submit(piece): name for name, piece in work.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _in_one_thread() -> None:
    import torch

    end_with_parent()
    torch.set_num_threads(1)
