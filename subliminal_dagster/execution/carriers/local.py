"""Processes that carry out runs of a study side by side, each with its share of the machine's cores.

A model of 100 million parameters keeps one core busy and two not quite: two runs on a core each finish sooner than one
after the other on two. On a node with several GPUs every run takes one for itself, in a process that ends with the run;
one that has left an engine open goes on with the next partition of the same asset, which needs the same engine.

Belongs here: starting and ending the processes. Does not belong here: which runs (`runner`), which GPU (`gpu_lease`),
other machines (the modules beside this one).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import dagster as dg

from subliminal_dagster.execution.carriers.protocol import Carried, DefinitionsOf, Execute, NextRun
from subliminal_dagster.execution.gpu_lease import has_held_gpu, hold_to_the_end, usable_gpus
from subliminal_dagster.execution.instance import open_instance
from subliminal_dagster.planning.planner import DueRun
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.left_open import close_engines, engines_left_open, has_engine_open
from subliminal_dagster.science.processes import SHARED_CORES, end_with_parent
from subliminal_dagster.science.settings.study import AnyStudy

WORKERS = "SUBLIMINAL_WORKERS"
_WITHOUT_GPU = 2
_ENDS_WITHIN_SECONDS = 60
_ASK_AGAIN_SECONDS = 1.0


def worker_count() -> int:
    """SUBLIMINAL_WORKERS; else one per GPU, and without a GPU two, or one where there is one core.

    Raises UserError for anything but a number from 1 on.
    """
    wanted = os.environ.get(WORKERS)
    if wanted is None:
        return len(usable_gpus()) or min(_WITHOUT_GPU, os.cpu_count() or 1)
    if not wanted.isdecimal() or int(wanted) == 0:
        raise UserError(f"{WORKERS} is {wanted!r}: set it to how many runs may go on at once, such as 2.")
    return int(wanted)


@dataclass(frozen=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection


@dataclass
class Workers:
    """Up to `count` processes that make runs of one study by `execute`, each with definitions that it gets from
    `definitions_of` the study (functions of modules) and the instance of DAGSTER_HOME; gone at the end of the block, at
    once where it ends by an error or Ctrl-C: what they were making is gone on with by the next run."""

    study: AnyStudy
    count: int
    definitions_of: DefinitionsOf
    execute: Execute
    _living: list[_Worker] = field(default_factory=list, init=False)
    _resting: list[_Worker] = field(default_factory=list, init=False)
    _with_engine: list[tuple[_Worker, str]] = field(default_factory=list, init=False)
    _interrupted: set[Input] = field(default_factory=set, init=False)

    def needed_for(self, count: int) -> bool:
        """Whether so many parts are for processes of their own: two or more that may go on at once, and any on a
        machine with GPUs, since a process that has computed on one holds it to its end."""
        return self._has_gpu or (self.count > 1 and count > 1)

    def carry_out(self, next_run: NextRun) -> Iterator[tuple[DueRun, Carried]]:
        """Each run with what became of it, as they end.

        `next_run` is asked whenever a process is free: after every end, and each second in between where it had none.
        A process that is killed takes no run but its own with it. That run is handed back to `begin_again`, and has
        failed altogether where that one is killed as well.
        """
        at_work: dict[Connection, tuple[_Worker, DueRun]] = {}
        while True:
            while len(at_work) < self.count and (run := next_run()) is not None:
                worker = self._worker_for(run)
                at_work[worker.pipe] = worker, run
                # One that is dead already is found so below.
                with suppress(OSError):
                    worker.pipe.send(run)
            # No run for them: the GPU is free for another command.
            self._close_engines()
            if not at_work:
                return
            for pipe in wait([*at_work], timeout=_ASK_AGAIN_SECONDS if len(at_work) < self.count else None):
                assert isinstance(pipe, Connection)
                yield self._ended(*at_work.pop(pipe))

    def _worker_for(self, run: DueRun) -> _Worker:
        """One whose engine is open for this asset; else one that holds no GPU, or a new one.

        Engines that are open for another asset are closed first: this run may wait for their GPU.
        """
        for place, (worker, asset) in enumerate(self._with_engine):
            if asset == run.parts[0].asset:
                del self._with_engine[place]
                return worker
        self._close_engines()
        return self._resting.pop() if self._resting else self._start()

    def _close_engines(self) -> None:
        while self._with_engine:
            self._end(self._with_engine.pop()[0])

    def _ended(self, worker: _Worker, run: DueRun) -> tuple[DueRun, Carried]:
        try:
            answer, has_held_gpu, has_engine_open = worker.pipe.recv()
        except (EOFError, OSError):
            self._end(worker)
            return run, self._killed(worker, run)
        if isinstance(answer, Exception):
            raise answer
        if has_engine_open:
            self._with_engine.append((worker, run.parts[0].asset))
        elif has_held_gpu:
            # What a process has once computed on, it computes on for ever: a GPU is chosen anew for every run.
            self._end(worker)
        else:
            self._resting.append(worker)
        return run, answer

    def _killed(self, worker: _Worker, run: DueRun) -> Carried:
        places = {part.place for part in run.parts}
        if self._interrupted.isdisjoint(places):
            self._interrupted |= places
            return Carried([], {}, 0.0, begin_again=True)
        why = f"{_how_it_ended(worker.process)}, twice; with {WORKERS}=1 a study takes less memory"
        return Carried.failed(run, why)

    def elsewhere(self) -> dict[Input, str]:
        """None: processes end with the command that started them."""
        return {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            for worker in self._living:
                worker.process.kill()
        for worker in [*self._living]:
            self._end(worker)

    @cached_property
    def _has_gpu(self) -> bool:
        return bool(usable_gpus())

    def _start(self) -> _Worker:
        # A killed worker leaves semaphores of the libraries it loaded. The tracker removes them, and would say so
        # behind the last line of the command.
        if _NO_WORD_OF_SEMAPHORES not in sys.warnoptions:
            sys.warnoptions.append(_NO_WORD_OF_SEMAPHORES)
        resource_tracker.ensure_running()
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(theirs, self.study, self.definitions_of, self.execute))
        # A terminal sends Ctrl-C to all of its processes. Workers inherit that it is blocked: this process ends them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            with _variables_unless_given(self._shares()):
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # Else this process would hold the worker's end open, and never be told that the worker is gone.
        theirs.close()
        worker = _Worker(process, ours)
        self._living.append(worker)
        return worker

    def _shares(self) -> dict[str, str]:
        """What a worker may use. What starts processes itself may use all cores: its share would leave some without
        work once the runs beside it have ended."""
        cores = os.cpu_count() or 1
        return {"OMP_NUM_THREADS": str(max(1, cores // self.count)), SHARED_CORES: str(cores)}

    def _end(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.join(_ENDS_WITHIN_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        self._living.remove(worker)


_SPAWN = multiprocessing.get_context("spawn")
_NO_WORD_OF_SEMAPHORES = "ignore:resource_tracker"


def _how_it_ended(process: SpawnProcess) -> str:
    code = process.exitcode or 0
    if code >= 0:
        return f"its process ended by itself with exit code {code}"
    with suppress(ValueError):
        return f"its process was killed from outside ({signal.Signals(-code).name})"
    return f"its process was killed from outside (signal {-code})"


@contextmanager
def _variables_unless_given(variables: Mapping[str, str]) -> Iterator[None]:
    """Within the block, processes that are started have these environment variables, where this one has none.

    A process that set them itself would be late where the main module, which it loads first, computes: how many threads
    compute is settled by then.
    """
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _work(pipe: Connection, study: AnyStudy, definitions_of: DefinitionsOf, execute: Execute) -> None:
    """What a worker does until the other end is closed."""
    end_with_parent()
    hold_to_the_end()
    loaded: tuple[dg.Definitions, dg.DagsterInstance] | None = None
    while True:
        try:
            run: DueRun = pipe.recv()
        except EOFError:
            close_engines()
            return
        answer: Carried | Exception
        try:
            loaded = loaded or (definitions_of(study), open_instance())
            # A run of several parts may need the card for the next of them.
            with engines_left_open() if len(run.parts) == 1 else nullcontext():
                answer = execute(run, *loaded)
        except KeyboardInterrupt:
            # As if it were killed, which its run is begun again after.
            return
        except Exception as error:
            answer = error
        pipe.send((answer, has_held_gpu(), has_engine_open()))
