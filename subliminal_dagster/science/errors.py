"""Errors a user can cause.

Belongs here: the exception types whose message is shown to a user as it is. Does not belong here: programming
errors (those stay ordinary exceptions with a traceback).

Part of no version: messages to users are not results.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can mend. The message is one sentence or two: what is wrong, where, what to do."""


class GateError(UserError):
    """A result exists but is not good enough for anything downstream to be built on it (a broken teacher, too
    few valid rows). Never retried: the same inputs give the same answer.

    `measured`: what was measured, by name, each value with the one asked for.
    """

    def __init__(self, sentence: str, **measured: tuple[float, float]) -> None:
        super().__init__(sentence)
        self.measured = measured


def meant(name: str, known: Iterable[str]) -> str:
    """For a name that is not among the known ones: the one that was probably meant, as a question to be put behind a
    sentence (" Did you mean owl?"); empty where none is like it."""
    by_lower = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), by_lower, n=1)
    near = near or [each for each in by_lower if len(name) > 2 and each.startswith(name.lower())]
    return f" Did you mean {by_lower[near[0]]}?" if near else ""
