"""Whether engines may outlive their sessions in this process, for a later session with another adapter.

Belongs here: what a process that works on one thing after the other says of that. Does not belong here: the engine
(`vllm_engine`), which processes those are (`execution.carriers.local`).

Part of no version: whether an engine was started anew does not change what it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_may_stay_open = False


@contextmanager
def engines_left_open() -> Iterator[None]:
    """In this block an engine whose asset has other partitions may outlive its sessions, until `close_engines`."""
    global _may_stay_open
    _may_stay_open = True
    try:
        yield
    finally:
        _may_stay_open = False


def may_stay_open() -> bool:
    """Whether the caller is inside of `engines_left_open`."""
    return _may_stay_open


def has_engine_open() -> bool:
    """Whether an engine was left open in this process."""
    from subliminal_dagster.science.models.vllm_engine import is_left_open

    return is_left_open()


def close_engines() -> None:
    """Close what was left open in this process, and give back its memory."""
    from subliminal_dagster.science.models.vllm_engine import shut_down_left_open

    shut_down_left_open()
