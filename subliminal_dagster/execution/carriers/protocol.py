"""What the runner asks of whatever carries runs out, and what it gets back.

Belongs here: the protocol. Does not belong here: any one carrier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, Self

import dagster as dg

from subliminal_dagster.planning.planner import DueRun
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.settings.study import AnyStudy


@dataclass(frozen=True)
class Carried:
    """What became of a run: the assets it `made`, in order, the `errors` of those that failed, by asset, and those it
    `found` made by another run meanwhile. Where what it ran in was killed for the first time it is to `begin_again`."""

    made: list[str]
    errors: dict[str, str]
    seconds: float
    found: list[str] = field(default_factory=list)
    begin_again: bool = False

    @classmethod
    def failed(cls, run: DueRun, why: str) -> Carried:
        """A run of which nothing was made, for a reason that is all of its parts'."""
        return cls([], {part.asset: why for part in run.parts}, 0.0)


NextRun = Callable[[], DueRun | None]
"""What is to be started now; None where nothing can be."""

DefinitionsOf = Callable[[AnyStudy], dg.Definitions]


class Execute(Protocol):
    """Carries a run out in the process that calls it; `run_id` None gives it a new one."""

    def __call__(
        self, run: DueRun, definitions: dg.Definitions, instance: dg.DagsterInstance, run_id: str | None = None, /
    ) -> Carried: ...


class Carrier(Protocol):
    """Carries out runs of one study, several at once. Used as a context: the end of the block ends what it started, at
    once where an error or Ctrl-C ends it; what was at work then is gone on with by the next run.

    A run is idempotent: what it is to make is claimed in the store while it is made, and left alone where it is there
    by the time the run starts. So a carrier may start one twice, and has to say of each what became of it.
    """

    def needed_for(self, count: int) -> bool:
        """Whether so many parts that may go on at once are for this carrier, and not for the process that asks."""
        ...

    def carry_out(self, next_run: NextRun) -> Iterator[tuple[DueRun, Carried]]:
        """Each run with what became of it, as they end.

        `next_run` is asked for as long as there is room, after every end and about each second in between. It ends
        when nothing is at work and nothing can start. A run whose machine, job or process is lost is handed back to
        `begin_again`, and as failed, with the reason, where that has happened too often.
        """
        ...

    def elsewhere(self) -> dict[Input, str]:
        """The parts of the study that runs of an earlier command, which has ended, are still to make: each with a
        phrase that says what has it. They are waited for, and not started."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None: ...
