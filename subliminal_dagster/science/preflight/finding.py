"""What a check found.

Belongs here: the record that all checks return, and the words they share. Does not belong here: any check.

Part of no version: messages to users are not results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GB = 10**9


@dataclass(frozen=True)
class Finding:
    """`sentence` says what was found and, unless it is "ok", what it means and what to do.

    A "warning" is something to know before hours are spent; what "failed" would stop the study on its way.
    """

    check: str
    state: Literal["ok", "warning", "failed"]
    sentence: str


def in_gb(size: float) -> str:
    """Bytes for people: "18.5 GB"."""
    return f"{size / GB:.1f} GB"


def in_billions(parameters: int) -> str:
    """A number of parameters for people: "9.2 billion parameters"."""
    return f"{parameters / 1e9:.2g} billion parameters"
