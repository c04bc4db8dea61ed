"""What `run` shows while it goes on: on a terminal one live block, else a short line for every part that has ended.

`Board` holds what is known and says what to show; it knows no terminal and no clock but the one it is given. `display`
puts it on one.

Belongs here: those two. Does not belong here: what is to be made (`execution.runner`), where the steps' own logs go
(`cli.log_file`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TextIO

import dagster as dg
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from subliminal_dagster.cli.log_file import LogFile
from subliminal_dagster.execution.cost import expected_seconds, reckoned_seconds, seconds_at_least
from subliminal_dagster.execution.listening import Listener, duration
from subliminal_dagster.execution.live_runs import last_words
from subliminal_dagster.partitions import GROUP, VARIANT, coordinates
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.planner import Part
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.budget.card import Card

_ASK_AGAIN_SECONDS = 2.0
_PICTURES_A_SECOND = 4
_BAR_COLUMNS = 24
_SPARE_LINES = 3
"""Lines of the terminal that the running steps leave to the bar, and to what scrolls above."""

Write = Callable[[str, str], None]
"""Puts a line where it stays; the second is its style."""


@dataclass(frozen=True)
class Step:
    """A running step, as it is shown: its asset, where in the study it is, for how long, and what it last logged."""

    asset: str
    where: str
    time: str
    words: str


@dataclass
class Board:
    """What is known of a run of a study while it goes on: of `known` parts, some are `left`, some `failed`.

    `card` is the one that parts take which need a GPU, None without one; `slots` are the parts that can be at work at
    once, as far as this machine knows: where more are, that many. `now` gives seconds.
    """

    frame: Frame
    card: Card | None
    slots: int
    now: Callable[[], float] = time.monotonic
    known: set[Input] = field(default_factory=set)
    left: dict[Input, Part] = field(default_factory=dict)
    failed: set[Input] = field(default_factory=set)
    at_work: dict[Input, float] = field(default_factory=dict)
    words: dict[Input, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._started = self.now()
        self._expected: dict[Input, float] = {}
        self._reckoned = reckoned_seconds(self.frame, self.card)

    @property
    def done(self) -> int:
        """The parts that are there now, made here or elsewhere, or that turned out to be as they should."""
        return len(self.known) - len(self.left) - len(self.failed)

    # What the runner tells

    def planned(self, due: Sequence[Part]) -> None:
        """See `Listener`."""
        self.known |= {part.place for part in due}
        self.failed &= {part.place for part in due}
        self.left = {part.place: part for part in due if part.place not in self.failed}
        self._expected = expected_seconds(self.frame, due, self.card, self._reckoned)

    def begun(self, part: Part) -> None:
        """See `Listener`."""
        self.at_work[part.place] = self.now()
        self.slots = max(self.slots, len(self.at_work))

    def lost(self, part: Part) -> None:
        """See `Listener`."""
        self.at_work.pop(part.place, None)
        self.words.pop(part.place, None)

    def ended(self, part: Part, seconds: float, found: bool) -> str:
        """See `Listener`; gives the line that says so."""
        self.lost(part)
        self.left.pop(part.place, None)
        how = "made by another run" if found else duration(seconds)
        return f"{self.done}/{len(self.known)} {part.name} {how}"

    def fail(self, part: Part, why: str) -> str:
        """See `Listener`; gives the line that says so."""
        self.lost(part)
        self.left.pop(part.place, None)
        self.failed.add(part.place)
        return f"{self.done}/{len(self.known)} {part.name} FAILED: {why}"

    def heard(self, words: Mapping[Input, str]) -> None:
        """Note what steps have logged."""
        self.words |= {place: said for place, said in words.items() if place in self.at_work}

    # What is to be shown

    def headline(self) -> str:
        """How far it is."""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        so_far = clock(self.now() - self._started)
        return f"{self.done} of {len(self.known)} parts{failed}, {so_far} so far, {self._time_left()}"

    def steps(self) -> list[Step]:
        """The running ones, in the order in which they began."""
        return [
            Step(place[0], self._where(place), self._time(place), self.words.get(place, ""))
            for place in [*self.at_work]
        ]

    def _time_left(self) -> str:
        expected = {place: seconds for place, seconds in self._expected.items() if place in self.left}
        never_timed = len(self.left) - len(expected)
        if not self.left:
            return "nothing left"
        for place, begun in self.at_work.items():
            if place in expected:
                # One that takes longer than expected is over any moment, or not.
                expected[place] = max(0.0, expected[place] - (self.now() - begun))
        seconds = seconds_at_least([*self.left.values()], expected, self.slots)
        if seconds == 0:
            return "time left unknown"
        if never_timed:
            return f"at least {duration(seconds)} left ({never_timed} parts never timed)"
        sure = all(expected.values())
        return f"{'about' if sure else 'at least'} {duration(seconds)} left"

    def _time(self, place: Input) -> str:
        taken, expected = self.now() - self.at_work[place], self._expected.get(place, 0.0)
        # One that takes longer has shown that the expectation is wrong.
        return f"{clock(taken)} of about {clock(expected)}" if taken < expected else clock(taken)

    def _where(self, place: Input) -> str:
        """Its partition in words: "owl, layer 09"."""
        along = coordinates(self.frame.nodes[place[0]].by, place[1])
        return ", ".join(key if axis in (GROUP, VARIANT) else f"{axis} {key}" for axis, key in along.items())


class _Display:
    """A listener that keeps a board, writes what has happened, and logs all of it."""

    def __init__(self, board: Board, lock: threading.Lock, write: Write, log: LogFile) -> None:
        self._board, self._lock, self._write, self._log = board, lock, write, log

    def planned(self, due: Sequence[Part]) -> None:
        if due and not self._board.known:
            self._write(f"log: {self._log.path}", "dim")
        with self._lock:
            self._board.planned(due)

    def begun(self, part: Part) -> None:
        self._log.begun(part)
        with self._lock:
            self._board.begun(part)

    def ended(self, part: Part, seconds: float, found: bool) -> None:
        self._log.ended(part, seconds, found)
        with self._lock:
            line = self._board.ended(part, seconds, found)
        self._write(line, "dim")

    def failed(self, part: Part, why: str) -> None:
        self._log.failed(part, why)
        with self._lock:
            line = self._board.fail(part, why)
        self._write(line, "red")

    def lost(self, part: Part) -> None:
        self._log.lost(part)
        with self._lock:
            self._board.lost(part)
        self._write(f"{part.name}: its process was lost; it is begun again", "yellow")

    def say(self, sentence: str) -> None:
        self._log.say(sentence)
        self._write(sentence, "")


def clock(seconds: float) -> str:
    """A time that goes on: 0:42, 12:03, 1:02:03."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


@contextmanager
def display(board: Board, stream: TextIO, log: LogFile, instance: dg.DagsterInstance) -> Iterator[Listener]:
    """A listener that shows a board on `stream` for as long as the block lasts, and tells `log` everything.

    On a terminal the block is drawn anew and gone in the end; else, or where TERM is "dumb", there are lines alone,
    without escape codes. `instance` is asked what running steps log.
    """
    lock = threading.Lock()
    if not _draws(stream):
        yield _Display(board, lock, lambda line, _: print(line, file=stream, flush=True), log)
        return
    console = Console(file=stream, force_terminal=True)

    def write(line: str, style: str) -> None:
        console.print(Text(line, style), soft_wrap=True)

    def picture() -> RenderableType:
        with lock:
            return _picture(board, console.height)

    live = Live(
        get_renderable=picture,
        console=console,
        refresh_per_second=_PICTURES_A_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with _hearing(board, lock, instance), live:
        yield _Display(board, lock, write, log)


def _draws(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _picture(board: Board, height: int) -> RenderableType:
    head = Table.grid(padding=(0, 1))
    total = max(1, len(board.known))
    bar = ProgressBar(total, board.done, _BAR_COLUMNS, complete_style="cyan", finished_style="cyan")
    head.add_row(bar, Text(board.headline()))
    steps, room = board.steps(), max(1, height - _SPARE_LINES)
    rows = Table.grid(padding=(0, 2))
    for style in ("bold", "", "cyan"):
        rows.add_column(no_wrap=True, style=style)
    rows.add_column(no_wrap=True, overflow="ellipsis", style="dim")
    for step in steps[:room]:
        rows.add_row(*(Text(cell) for cell in (step.asset, step.where, step.time, step.words)))
    if len(steps) > room:
        rows.add_row(Text(f"and {len(steps) - room} more"))
    return Group(head, rows)


@contextmanager
def _hearing(board: Board, lock: threading.Lock, instance: dg.DagsterInstance) -> Iterator[None]:
    """Ask beside the block what the running steps log."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(_ASK_AGAIN_SECONDS):
            # It is there to be looked at: a database that is locked for once must not end a run of days.
            with suppress(Exception):
                words = last_words(instance, board.frame.study.name, board.frame.nodes)
                with lock:
                    board.heard(words)

    thread = threading.Thread(target=ask, name="what steps log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
