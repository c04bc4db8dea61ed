"""Who hears how the making of a study goes on.

Belongs here: what is told, and the same as sentences for a log. Does not belong here: a terminal (`cli.live`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from subliminal_dagster.planning.planner import Part


class Listener(Protocol):
    """What the runner tells, in the order in which it happens, from the thread that runs the study."""

    def planned(self, due: Sequence[Part]) -> None:
        """What is still to be made by a new plan, upstream first, those at work and those that failed among it."""
        ...

    def begun(self, part: Part) -> None:
        """It is at work now."""
        ...

    def ended(self, part: Part, seconds: float, found: bool) -> None:
        """It is there; `found` where another run had made it meanwhile."""
        ...

    def failed(self, part: Part, why: str) -> None:
        """It cannot be made."""
        ...

    def lost(self, part: Part) -> None:
        """What it ran in was killed; it is to be begun again."""
        ...

    def say(self, sentence: str) -> None:
        """Whatever else a user should know."""
        ...


class Sentences:
    """A listener that makes sentences of everything."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def planned(self, due: Sequence[Part]) -> None:
        """Nothing: every part is said when it begins."""

    def begun(self, part: Part) -> None:
        self.say(f"{part.name}: begun: {'; '.join(part.reasons)}")

    def ended(self, part: Part, seconds: float, found: bool) -> None:
        self.say(f"{part.name}: {'found made by another run' if found else 'made'} in {duration(seconds)}")

    def failed(self, part: Part, why: str) -> None:
        self.say(f"{part.name}: FAILED: {why}")

    def lost(self, part: Part) -> None:
        self.say(f"{part.name}: its process was lost; it is begun again")


def duration(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
