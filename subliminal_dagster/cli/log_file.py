"""Where everything goes that steps, Dagster and libraries print: a file in DAGSTER_HOME, and not the terminal.

Belongs here: that file, and which of the older ones nobody needs any more. Does not belong here: what a user is shown
(`cli.live`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import datetime, timedelta
from pathlib import Path
from typing import TextIO

from subliminal_dagster.execution.listening import Sentences
from subliminal_dagster.science.errors import UserError

LOGS_KEPT, LOGS_KEPT_FOR = 20, timedelta(days=30)
"""The last ones stay however old they are, and so does what was written to within that time."""


class LogFile(Sentences):
    """A listener that writes all it is told to the end of a file, with the time."""

    def __init__(self, path: Path, file: TextIO) -> None:
        super().__init__(lambda sentence: print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {sentence}", file=file))
        self.path = path


@contextmanager
def printing_to_log(shown: TextIO) -> Iterator[tuple[TextIO, LogFile]]:
    """Have all that this process and those it starts print go to the end of DAGSTER_HOME/logs/run-<date>.log for the
    block. Gives a stream that goes where `shown` went before, and the log.

    Raises UserError where the log cannot be written.
    """
    path = _folder(os.environ["DAGSTER_HOME"]) / f"run-{datetime.now():%Y-%m-%d-%H%M%S}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never closed: handlers that libraries made meanwhile keep it.
        file = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): set DAGSTER_HOME to a folder of yours."
        ) from None
    with _kept(shown) as stream, _descriptors_to(file), redirect_stdout(file), redirect_stderr(file):
        yield stream, LogFile(path, file)
    if path.stat().st_size == 0:
        path.unlink()


def old_logs(home: str) -> list[Path]:
    """The logs in this DAGSTER_HOME that nobody needs any more, oldest first."""
    written = sorted((path.stat().st_mtime, path) for path in _folder(home).glob("run-*.log"))
    long_ago = (datetime.now() - LOGS_KEPT_FOR).timestamp()
    return [path for time, path in written[:-LOGS_KEPT] if time < long_ago]


def _folder(home: str) -> Path:
    return Path(home) / "logs"


@contextmanager
def _kept(stream: TextIO) -> Iterator[TextIO]:
    """The same with a descriptor of its own; the stream itself where it has none, as in a test or a notebook."""
    try:
        number = stream.fileno()
    except OSError:
        yield stream
        return
    stream.flush()
    with os.fdopen(os.dup(number), "w", encoding=stream.encoding, errors="replace") as kept:
        yield kept


@contextmanager
def _descriptors_to(file: TextIO) -> Iterator[None]:
    """Send the output of code outside Python, and of processes started meanwhile, to a file."""
    before = {number: os.dup(number) for number in (1, 2)}
    try:
        for number in before:
            os.dup2(file.fileno(), number)
        yield
    finally:
        for number, kept in before.items():
            os.dup2(kept, number)
            os.close(kept)


@contextmanager
def warnings_said(say: Callable[[str], None]) -> Iterator[None]:
    """Have what this project itself warns of said to the user for the block."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("subliminal_dagster")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
