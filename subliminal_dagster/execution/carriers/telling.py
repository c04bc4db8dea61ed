"""Telling Dagster of runs on other machines beside sending them.

Where Dagster's history is in files, as it is without PostgreSQL, a run takes it a database of its own: a quarter of a
second, more on a slow disk. With many runs at once that is more than there is between two of them, and places on the
cluster would wait for it.

Belongs here: the threads. Does not belong here: what is told (`apart`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from subliminal_dagster.execution.carriers.apart import Answer, Order, RunsApart
from subliminal_dagster.execution.carriers.protocol import Carried

# Most of it is waiting for the disk.
_THREADS = 4
_WORTH_A_WORD = 20
_LOG = logging.getLogger(__name__)


class ToldBeside:
    """Runs apart of which Dagster hears a little later, what is of one run in order. The block's end waits until it has
    heard of everything; raises there what went wrong with that."""

    def __init__(self, runs: RunsApart) -> None:
        self._runs = runs
        self._threads = [ThreadPoolExecutor(1, "telling Dagster") for _ in range(_THREADS)]
        self._told: list[Future[Any]] = []

    def sent(self, order: Order, carried_by: str) -> None:
        """See `RunsApart.sent`."""
        self._tell(order, self._runs.sent, carried_by)

    def answered(self, order: Order, answer: Answer, log: str | None = None) -> Carried:
        """See `RunsApart.answered`."""
        self._tell(order, self._runs.answered, answer, log)
        return answer.carried

    def lost(self, order: Order, why: str, begin_again: bool = True) -> Carried:
        """See `RunsApart.lost`."""
        self._tell(order, self._runs.told_lost, why)
        return self._runs.counted_lost(order, why, begin_again)

    def finish(self) -> None:
        """Wait until Dagster has heard of everything."""
        left = sum(not each.done() for each in self._told)
        if left > _WORTH_A_WORD:
            _LOG.warning("Dagster is told of the last %d sendings and answers", left)
        for thread in self._threads:
            thread.shutdown()
        for each in self._told:
            each.result()

    def _tell(self, order: Order, tell: Callable[..., object], *what: object) -> None:
        self._told.append(self._threads[hash(order.run_id) % _THREADS].submit(tell, order, *what))
