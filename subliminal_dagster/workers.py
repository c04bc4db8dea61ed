"""Processes that carry out runs of a study side by side, each with its share of the machine's cores.

A model of 100 million parameters keeps one core busy and two not quite: two runs on a core each finish sooner than one
after the other on two. On a node with several GPUs every run takes one for itself.

Belongs here: starting and ending the processes. Does not belong here: which runs (`runner`), which GPU (`gpu_lease`).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache

import dagster as dg

from subliminal_dagster.gpu_lease import usable_gpus
from subliminal_dagster.planner import DueRun
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.processes import end_with_parent
from subliminal_dagster.science.study import AnyStudy

WORKERS = "SUBLIMINAL_WORKERS"
_WITHOUT_GPU = 2
_TRACKER_SAYS = "ignore:resource_tracker:UserWarning"


@dataclass(frozen=True)
class Carried:
    """What became of a run: the assets it `made`, in order, the `errors` of those that failed, by asset, and those it
    `found` made by another run meanwhile."""

    made: list[str]
    errors: dict[str, str]
    seconds: float
    found: list[str] = field(default_factory=list)


Execute = Callable[[DueRun, dg.Definitions, dg.DagsterInstance], Carried]


def worker_count() -> int:
    """SUBLIMINAL_WORKERS; else one a GPU, and without a GPU two, or one where there is one core.

    Raises UserError for what is no number from 1 on.
    """
    wanted = os.environ.get(WORKERS)
    if wanted is None:
        return len(usable_gpus()) or min(_WITHOUT_GPU, os.cpu_count() or 1)
    if not wanted.isdecimal() or int(wanted) == 0:
        raise UserError(f"{WORKERS} is {wanted!r}: set it to how many runs may go on at once, such as 2.")
    return int(wanted)


@dataclass
class Workers:
    """`count` processes that make runs of one study by `execute`, a function of a module; gone at the end of the block,
    at once where it ends by an error or Ctrl-C: what they were making is gone on with by the next run."""

    study: AnyStudy
    count: int
    execute: Execute
    _pool: ProcessPoolExecutor | None = field(default=None, init=False)

    def carry_out(self, runs: Sequence[DueRun]) -> Iterator[tuple[DueRun, Carried]]:
        """Each run with what became of it, as they end. One whose process was killed has failed altogether."""
        pool = self._pool = self._pool or self._new_pool()
        futures: dict[Future[Carried], DueRun] = {pool.submit(_carry_out_here, self.execute, run): run for run in runs}
        for future in as_completed(futures):
            run = futures[future]
            try:
                yield run, future.result()
            except BrokenProcessPool:
                self._pool = None
                why = f"a process at work was killed from outside; with {WORKERS}=1 a run takes less memory"
                yield run, Carried([], {part.asset: why for part in run.parts}, 0.0)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            for process in multiprocessing.active_children():
                process.kill()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _new_pool(self) -> ProcessPoolExecutor:
        # Of what a killed worker leaves, Python's tracker of resources takes care, and would say so behind the
        # command's own last line. It is started with the first pool, and takes the options of this process.
        if _TRACKER_SAYS not in sys.warnoptions:
            sys.warnoptions.append(_TRACKER_SAYS)
        gpus = len(usable_gpus())
        cores = max(1, (os.cpu_count() or 1) // self.count)
        return ProcessPoolExecutor(
            self.count,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(self.study, cores),
            # What a process has once computed on, it computes on for ever: a GPU is chosen anew for every run.
            max_tasks_per_child=1 if gpus else None,
        )


_study: AnyStudy | None = None


def _begin(study: AnyStudy, cores: int) -> None:
    global _study
    _study = study
    # Before anything loads torch.
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    end_with_parent()


def _carry_out_here(execute: Execute, run: DueRun) -> Carried:
    definitions, instance = _loaded()
    return execute(run, definitions, instance)


@lru_cache
def _loaded() -> tuple[dg.Definitions, dg.DagsterInstance]:
    from subliminal_dagster.build import build_defs

    assert _study is not None
    # Without the pool: its limit is for runs that do not know of each other, and a step that waits for it takes a core.
    return build_defs(studies=[_study], gpu_pool=None), dg.DagsterInstance.get()
