"""Runs as batch jobs of Slurm, one per run, through submitit. SUBLIMINAL_CARRIER_SETTINGS names a file such as

    partition: gpu
    account: interpretability
    gpus: 1                      # of a run that needs one
    cpus: 8
    memory_gb: 64
    time_minutes: 240
    at_once: 32                  # jobs in the queue or running
    setup: [module load cuda]    # lines of shell before the run
    folder: /shared/jobs         # of jobs' files and output; none: .jobs in the store's folder
    stages: {results: {partition: cpu, memory_gb: 16}}

A job's name says which part of which study it makes, in which store. So a command on whatever host sees in the queue
what an earlier one has sent, and waits for it. Where it shares Dagster's instance with that one as well, it takes over
the runs that were left: Dagster hears how they ended.

Belongs here: jobs and their ends. Does not belong here: how Dagster hears of them (`apart`), which runs (`runner`).
https://slurm.schedmd.com/squeue.html
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import dagster as dg
from pydantic import Field

from subliminal_dagster.execution.carriers.apart import Answer, Order, RunsApart, carry
from subliminal_dagster.execution.carriers.protocol import Carried, NextRun
from subliminal_dagster.execution.live_runs import (
    CARRIER_TAG,
    IN_PROGRESS,
    PROCESS_TAG,
    is_left,
    process_of,
    signature,
)
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.planner import DueRun
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.base import Settings

try:
    from submitit import Job, SlurmExecutor, SlurmJob
    from submitit.core.utils import FailedJobError
except ModuleNotFoundError:
    raise UserError(
        "SUBLIMINAL_CARRIER is 'slurm', and submitit is not installed: install the extra, pip install "
        "'subliminal-dagster[slurm]', in the environment that all nodes see."
    ) from None

_PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
_ASK_AGAIN_SECONDS = 1.0
# What a node wrote is seen by others of a shared file system a little later.
_SEEN_WITHIN_SECONDS = 5.0
_SILENT_FOR_SECONDS = 600.0
_ASKED_WITHIN_SECONDS = 60
_ENDED_BY_PERSON = "CANCELLED"
_NAME = "subliminal"


class Resources(Settings):
    """What one job asks for. None: what the settings for all stages say, or the cluster's own."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int | None = Field(default=None, ge=0)
    cpus: int | None = Field(default=None, ge=1)
    memory_gb: float | None = Field(default=None, gt=0)
    time_minutes: int | None = Field(default=None, ge=1)


class SlurmSettings(Resources):
    """What jobs ask for, and where their files lie.

    `gpus` are for runs of assets that need one (default 1), `time_minutes` is a day unless it is said. `folder` is
    absolute and on a file system that all nodes see. `python` is the interpreter on the nodes (default: this one).
    `stages` says otherwise for the assets of a stage.
    """

    at_once: int = Field(default=32, ge=1)
    attempts: int = Field(default=3, ge=1)
    setup: tuple[str, ...] = ()
    folder: str | None = None
    python: str | None = None
    stages: dict[str, Resources] = Field(default_factory=dict)


@dataclass
class _Job:
    """A job of this command. `gone` is when it was first missed in the queue without an answer."""

    order: Order
    submitted: Job[Answer]
    gone: float | None = None

    @property
    def output(self) -> Path:
        return Path(self.submitted.paths.stdout)


@dataclass
class _LeftRun:
    """A run of another command, which has left it, and its job. `gone` as in `_Job`."""

    run_id: str
    submitted: Job[Answer]
    gone: float | None = None


@dataclass
class Slurm:
    """Runs of one study as batch jobs, up to `at_once` of them queued or running.

    Raises UserError where Slurm's programs are not here, or the jobs' folder cannot be used.
    """

    frame: Frame
    runs: RunsApart
    settings: SlurmSettings
    _at_work: dict[str, _Job] = field(default_factory=dict, init=False)
    _left: dict[str, _LeftRun] = field(default_factory=dict, init=False)
    _asked: float = field(default_factory=lambda: time.monotonic() - _ASK_AGAIN_SECONDS, init=False)
    _queue: dict[str, str] = field(default_factory=dict, init=False)
    _own: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.runs.attempts = self.settings.attempts
        absent = [program for program in _PROGRAMS if shutil.which(program) is None]
        if absent:
            raise UserError(
                f"SUBLIMINAL_CARRIER is 'slurm' and there is no {absent[0]} on the PATH: run this on a node from "
                "which jobs are submitted."
            )
        stages = dict.fromkeys(self.frame.stages.values())
        for stage in self.settings.stages:
            if stage not in stages:
                raise UserError(
                    f"stages: {self.frame.study.name} has no stage {stage!r}: name one of {', '.join(stages)}."
                )
        self._folder = self._usable_folder()
        self._mark = hashlib.sha256(self.runs.artifacts.encode()).hexdigest()[:8]
        logging.getLogger("submitit").setLevel(logging.ERROR)

    # The protocol

    def needed_for(self, count: int) -> bool:
        return count > 0

    def carry_out(self, next_run: NextRun) -> Iterator[tuple[DueRun, Carried]]:
        """See `Carrier`. Raises UserError where Slurm refuses a job, or does not answer for ten minutes."""
        while True:
            while len(self._at_work) < self.settings.at_once and (run := next_run()) is not None:
                self._send(run)
            if not self._at_work:
                return
            time.sleep(_ASK_AGAIN_SECONDS)
            self._look()
            for number in [*self._at_work]:
                carried = self._become(number)
                if carried is not None:
                    yield self._at_work.pop(number).order.run, carried

    def elsewhere(self) -> dict[Input, str]:
        """What other commands' jobs are to make of this study in this store, by the jobs' names in the queue."""
        self._look()
        found = {}
        for number, name in self._queue.items():
            place = self._place(name)
            # One of our own can be in the queue for a while after its answer was read.
            if place is not None and number not in self._own:
                found[place] = f"job {number} of Slurm has it"
        return found

    def __enter__(self) -> Slurm:
        self._look()
        self._take_over()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None and self._at_work:
            subprocess.run(["scancel", *self._at_work], capture_output=True, timeout=_ASKED_WITHIN_SECONDS)
            for job in self._at_work.values():
                self.runs.lost(job.order, "the command that sent it was ended", begin_again=False)
        self._at_work.clear()
        while error is None and any(number not in self._queue for number in self._left):
            time.sleep(_ASK_AGAIN_SECONDS)
            self._look()

    # Jobs

    def _send(self, run: DueRun) -> None:
        order = self.runs.order(run)
        executor = SlurmExecutor(self._folder, python=self.settings.python)
        executor.update_parameters(**self._asks_for(run))
        try:
            job = executor.submit(carry, order)
        except FailedJobError as error:
            raise UserError(
                f"Slurm refused a job: {_last_line(str(error))}. Correct the settings of the carrier."
            ) from None
        number = str(job.job_id)
        self._at_work[number] = _Job(order, job)
        self._own.add(number)
        self._queue[number] = self._name(run)
        self.runs.sent(order, f"slurm {number}")

    def _asks_for(self, run: DueRun) -> dict[str, Any]:
        asset = run.parts[0].asset
        node = self.frame.nodes[asset]
        own = self.settings.stages.get(self.frame.stages[asset], Resources())

        def value(name: str) -> Any:
            said = getattr(own, name)
            return getattr(self.settings, name) if said is None else said

        gpus = 1 if value("gpus") is None else value("gpus")
        memory = value("memory_gb")
        asked = {
            "job_name": self._name(run),
            "time": value("time_minutes") or 24 * 60,
            "partition": value("partition"),
            "account": value("account"),
            "qos": value("qos"),
            "constraint": value("constraint"),
            "cpus_per_task": value("cpus"),
            "mem": None if memory is None else f"{round(memory * 1024)}MB",
            "gpus_per_node": (gpus or None) if node.gpu else None,
            "setup": [*self.settings.setup] or None,
            "stderr_to_stdout": True,
            "use_srun": False,
            "additional_parameters": {"requeue": True},
        }
        return {name: asking for name, asking in asked.items() if asking is not None}

    def _become(self, number: str) -> Carried | None:
        """What became of a job; None while it goes on."""
        job = self._at_work[number]
        if Path(job.submitted.paths.result_pickle).exists():
            error = job.submitted.exception()
            if error is None:
                return self.runs.answered(job.order, job.submitted.result(), str(job.output))
            why = _root_cause(str(error))
            return self.runs.lost(job.order, f"its job {number} failed: {why} (all of it: {job.output})")
        if number in self._queue:
            job.gone = None
            return None
        if not self._gone_for_good(job):
            return None
        state = _state(number)
        if state.startswith(_ENDED_BY_PERSON):
            return self.runs.lost(job.order, f"its job {number} was cancelled", begin_again=False)
        how = f"ended as {state}" if state else "is no longer known to Slurm"
        return self.runs.lost(job.order, f"its job {number} {how} (output: {job.output})")

    def _look(self) -> None:
        """See what is in the queue, at most every second; what was there a while ago holds where Slurm is silent."""
        now = time.monotonic()
        if now - self._asked < _ASK_AGAIN_SECONDS / 2:
            return
        try:
            lines = _said("squeue", "--me", "--noheader", "--format", "%i %j").splitlines()
        except (subprocess.SubprocessError, OSError) as error:
            if now - self._asked > _SILENT_FOR_SECONDS:
                raise UserError(
                    f"Slurm has not answered for ten minutes ({_last_line(str(error))}); jobs that it has go on. Begin "
                    "again when `squeue` answers."
                ) from None
            return
        self._asked = now
        self._queue = dict(line.split(maxsplit=1) for line in lines)
        self._see_to_left()

    def _name(self, run: DueRun) -> str:
        (part,) = run.parts
        return ":".join(
            [_NAME, self._mark, *(quote(text, safe="") for text in (run.study, part.asset, run.partition or ""))]
        )

    def _place(self, name: str) -> Input | None:
        """The part that a job of this name makes; None for another study's, another store's or anybody else's."""
        parts = name.strip().split(":")
        if parts[:2] != [_NAME, self._mark] or unquote(parts[2]) != self.frame.study.name:
            return None
        return unquote(parts[3]), unquote(parts[4]) or None

    def _take_over(self) -> None:
        """Note the runs that other commands have left without an end: by what is known of their process, or since the
        queue no longer has their job."""
        instance = self.runs.instance
        for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS)):
            carrier, _, number = run.tags.get(CARRIER_TAG, "").partition(" ")
            # One that a person launched again has the tags of the first.
            own_tags = process_of(run) is not None and carrier == "slurm"
            if not own_tags or (number in self._queue and not is_left(run)):
                continue
            if is_left(run):
                instance.add_run_tags(run.run_id, {PROCESS_TAG: signature(run.run_id)})
            self._left[number] = _LeftRun(run.run_id, SlurmJob(self._folder, number))

    def _see_to_left(self) -> None:
        """Tell Dagster how the runs ended that others have left, once the queue no longer has their jobs."""
        for number, left in [*self._left.items()]:
            if number in self._queue or not self._gone_for_good(left):
                continue
            del self._left[number]
            run, paths = self.runs.instance.get_run_by_id(left.run_id), left.submitted.paths
            if run is None or run.is_finished:
                continue
            if paths.result_pickle.exists() and left.submitted.exception() is None:
                self.runs.tell(run, left.submitted.result(), str(paths.stdout))
            else:
                self.runs.instance.report_run_failed(
                    run, f"its job {number} ended without an answer (output: {paths.stdout})"
                )

    def _gone_for_good(self, job: _Job | _LeftRun) -> bool:
        """Whether a job has been missed in the queue for so long that an answer of it would be seen here by now."""
        job.gone = job.gone or time.monotonic()
        return time.monotonic() - job.gone >= _SEEN_WITHIN_SECONDS

    def _usable_folder(self) -> Path:
        said = self.settings.folder
        if said is None and "://" in self.runs.artifacts:
            raise UserError(
                f"The artifacts lie at {self.runs.artifacts}, so jobs' files need a folder that all nodes see: name it "
                "as `folder` in the settings of the carrier."
            )
        folder = Path(said) if said is not None else Path(self.runs.artifacts) / ".jobs"
        if not folder.is_absolute():
            raise UserError(f"folder is {said!r}: name it from the root on, as all nodes see it.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Jobs' files cannot lie in {folder} ({error.strerror}): name another `folder`.") from None
        if not os.access(folder, os.W_OK):
            raise UserError(f"Jobs' files cannot lie in {folder}, which may not be written to: name another `folder`.")
        return folder


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_ASKED_WITHIN_SECONDS).stdout


def _state(number: str) -> str:
    """How a job ended, in Slurm's word; empty where it has forgotten it."""
    try:
        found = re.search(r"\bJobState=(\S+)", _said("scontrol", "--oneliner", "show", "job", number))
    except (subprocess.SubprocessError, OSError):
        return ""
    return found[1] if found else ""


def _root_cause(text: str) -> str:
    """The error in submitit's account of a failed job: the last line of the traceback that stands between two rules."""
    inside = text.split("-" * 22)
    return _last_line(inside[1]) if len(inside) > 2 else _last_line(text)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "without a word"
