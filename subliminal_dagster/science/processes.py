"""Ending with the process that started this one.

Belongs here: what every process that multiprocessing starts for this project needs. Does not belong here: what such a
process does.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import Any


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
