"""Runs as tasks of Ray: on a cluster that is there, or one of this machine that ends with the command.

    address: 10.0.0.1:6379   # none: a cluster of its own; "auto": the one that this machine is a node of
    gpus: 1                  # of a run that needs one
    cpus: 8                  # and threads; none: as much as the carrier `local` would give it
    memory_gb: 32
    at_once: 32
    attempts: 3
    stages: {child: {gpus: 2}, features: {memory_gb: 64}}

Belongs here: tasks and their ends. Does not belong here: how Dagster hears of them (`apart`), which runs (`runner`).
https://docs.ray.io/en/latest/ray-core/tasks.html
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from subliminal_dagster.execution.carriers.apart import Answer, Order, RunsApart, carry
from subliminal_dagster.execution.carriers.protocol import Carried, NextRun
from subliminal_dagster.execution.carriers.telling import ToldBeside
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.planner import DueRun
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.base import Settings

try:
    import ray
    from ray.exceptions import (
        NodeDiedError,
        OutOfMemoryError,
        RayError,
        RayTaskError,
        TaskCancelledError,
        WorkerCrashedError,
    )
except ModuleNotFoundError:
    raise UserError(
        "SUBLIMINAL_CARRIER is 'ray', and Ray is not installed: install the extra, pip install "
        "'subliminal-dagster[ray]', here and on every node."
    ) from None

_ASK_AGAIN_SECONDS = 1.0
_ANSWERS_WITHIN_SECONDS = 10
# Orders and answers are small, and /dev/shm of a container is as well.
_OBJECT_STORE_BYTES = 80_000_000
# With folders of its own below, a path of a socket: the system takes 107 characters, which a job's TMPDIR may exceed.
_TEMPORARY = "/tmp/ray"
_LOG = logging.getLogger(__name__)


class Resources(Settings):
    """What one run takes. None: as the carrier's settings say for all stages."""

    gpus: int | None = Field(default=None, ge=0)
    cpus: int | None = Field(default=None, ge=1)
    memory_gb: float | None = Field(default=None, gt=0)


class RaySettings(Settings):
    """Where the cluster is and what a run takes of it.

    `address` is "host:port" of the head, from a node of the cluster; "auto" there; "ray://host:port" of Ray's client
    server, from anywhere; None starts a cluster of this machine. `gpus` are for runs of assets that need one. `cpus`
    are the run's threads too. `stages` says otherwise for the assets of a Dagster group.
    """

    address: str | None = None
    gpus: int = Field(default=1, ge=0)
    cpus: int | None = Field(default=None, ge=1)
    memory_gb: float | None = Field(default=None, gt=0)
    at_once: int = Field(default=32, ge=1)
    attempts: int = Field(default=3, ge=1)
    stages: dict[str, Resources] = Field(default_factory=dict)


class Ray:
    """Runs of one study as tasks of Ray, up to `at_once` of them; what has no place on the cluster yet waits there.

    A run that computes on a GPU has a process of its own, which CUDA leaves with it; others follow each other in one.
    Tasks end with the command that sent them, however that ends: Ray sees to it.
    """

    def __init__(self, frame: Frame, runs: RunsApart, settings: RaySettings) -> None:
        self.runs, self.settings, self._told_beside = runs, settings, ToldBeside(runs)
        runs.attempts = settings.attempts
        self._stages = frame.stages
        self._on_gpu = {name for name, node in frame.nodes.items() if node.gpu}
        stages = dict.fromkeys(self._stages.values())
        for stage in settings.stages:
            if stage not in stages:
                raise UserError(f"stages: {frame.study.name} has no group {stage!r}: name one of {', '.join(stages)}.")
        self._at_work: dict[Any, Order] = {}
        self._connected = False
        self._told: set[str] = set()

    def needed_for(self, count: int) -> bool:
        return count > 0

    def carry_out(self, next_run: NextRun) -> Iterator[tuple[DueRun, Carried]]:
        """See `Carrier`. Raises UserError where there is no cluster, or one of this machine alone is too small."""
        self._connect()
        while True:
            while len(self._at_work) < self.settings.at_once and (run := next_run()) is not None:
                self._send(run)
            if not self._at_work:
                return
            # One of them each time: in the place of each the most urgent starts, by a plan that knows what it made.
            ended, _ = ray.wait([*self._at_work], timeout=_ASK_AGAIN_SECONDS)
            for task in ended:
                yield self._at_work[task].run, self._ended(task)

    def elsewhere(self) -> dict[Input, str]:
        """None: tasks end with the command that sent them."""
        return {}

    def __enter__(self) -> Ray:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if not self._connected:
            return
        for task, order in self._at_work.items():
            # Of a cluster that is gone there is nothing to cancel.
            with suppress(RayError):
                ray.cancel(task, force=True)
            self._told_beside.lost(order, "the command that sent it was ended", begin_again=False)
        ray.shutdown()
        self._told_beside.finish()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = self.settings.address
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            folder = os.environ.get("RAY_TMPDIR") or _TEMPORARY
            options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES, "_temp_dir": folder}
        else:
            _reach(address)
        try:
            ray.init(address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError, AssertionError, ImportError, RayError) as error:
            raise UserError(f"{_named(address)} cannot be used: {_first_line(error)}") from None
        self._connected = True

    def _send(self, run: DueRun) -> None:
        order = self.runs.order(run)
        on_gpu = any(part.asset in self._on_gpu for part in run.parts)
        gpus, cpus, memory = self._resources(run, on_gpu)
        variables = {"OMP_NUM_THREADS": str(cpus), **order.variables}
        if not gpus:
            # Ray leaves all of a node's to a task that asked for none.
            variables["CUDA_VISIBLE_DEVICES"] = ""
        task = (_in_a_process_of_its_own if gpus else _carried).options(
            name=run.parts[0].name,
            num_gpus=gpus,
            num_cpus=cpus,
            memory=memory,
            max_retries=0,
            runtime_env={"env_vars": variables},
        )
        reference = task.remote(order)
        self._at_work[reference] = order
        self._told_beside.sent(order, f"ray {reference.hex()[:48]}")

    def _resources(self, run: DueRun, on_gpu: bool) -> tuple[int, int, int | None]:
        """GPUs, cores and bytes that a run takes; says so where no node has as much."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        settings, own = self.settings, self.settings.stages.get(self._stages[run.parts[0].asset], Resources())
        gpus = settings.gpus if own.gpus is None else own.gpus
        if not on_gpu or (settings.address is None and not any(node.get("GPU") for node in nodes)):
            # A machine without GPUs computes on its cores, as it does without Ray.
            gpus = 0
        cpus = own.cpus or settings.cpus or _share(nodes)
        gigabytes = own.memory_gb or settings.memory_gb
        memory = None if gigabytes is None else int(gigabytes * 1e9)
        asked = {"GPU": gpus, "CPU": cpus, "memory": memory or 0}
        if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            self._say_too_small(run, gpus, cpus, gigabytes, nodes)
        return gpus, cpus, memory

    def _say_too_small(
        self, run: DueRun, gpus: int, cpus: int, gigabytes: float | None, nodes: list[dict[str, float]]
    ) -> None:
        asked = _in_words(gpus, cpus, gigabytes)
        have = "; ".join(
            _in_words(node.get("GPU", 0), node.get("CPU", 0), node.get("memory", 0) / 1e9) for node in nodes
        )
        sentence = (
            f"{_named(self.settings.address)} has no node with {asked}, which {run.parts[0].name} takes (it has: "
            f"{have or 'no node'}): "
        )
        if self.settings.address is None:
            raise UserError(f"{sentence}set gpus, cpus or memory_gb to less.")
        if asked not in self._told:
            self._told.add(asked)
            _LOG.warning("%sit waits for one; or set gpus, cpus or memory_gb to less.", sentence)

    def _ended(self, task: Any) -> Carried:
        order = self._at_work.pop(task)
        answer: Answer
        try:
            answer, output = ray.get(task)
        except TaskCancelledError:
            return self._told_beside.lost(order, "it was cancelled in Ray", begin_again=False)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            why = f"it could not be carried out ({type(cause).__name__}: {_first_line(cause)})"
            return self._told_beside.lost(order, why, begin_again=False)
        except OutOfMemoryError:
            return self._told_beside.lost(
                order, "its node ran out of memory (memory_gb keeps as much free for each run)"
            )
        except NodeDiedError:
            return self._told_beside.lost(order, "its node is gone")
        except WorkerCrashedError:
            return self._told_beside.lost(order, "its process was killed from outside")
        except RayError as error:
            return self._told_beside.lost(order, f"Ray lost it ({type(error).__name__}: {_first_line(error)})")
        return self._told_beside.answered(order, answer, output)


def _carried_out(order: Order) -> tuple[Answer, str | None]:
    """What a task does: the answer, and the file of its node that its output is in."""
    output = Path("/dev/stderr").resolve()
    return carry(order), str(output) if output.is_file() else None


_carried = ray.remote(_carried_out)
_in_a_process_of_its_own = ray.remote(max_calls=1)(_carried_out)


def _share(nodes: list[dict[str, float]]) -> int:
    """The cores of a run, by the rule of the carrier `local` on the smallest node: how many threads compute decides a
    result's last digit."""
    shares = [1]
    for node in nodes:
        cores = int(node.get("CPU", 0))
        if cores:
            shares.append(max(1, cores // (int(node.get("GPU", 0)) or min(2, cores))))
    return min(shares[1:], default=1)


def _reach(address: str) -> None:
    """Raise UserError where nothing listens at an address: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal():
        raise UserError(f"address is {address!r}: set it to auto, host:port or ray://host:port.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_WITHIN_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"Nothing answers at {address} ({error.strerror or error}): see on the head, by `ray status`, whether the "
            "cluster is up and this its address."
        ) from None


def _named(address: str | None) -> str:
    return f"The Ray cluster at {address}" if address else "The Ray cluster of this machine"


def _in_words(gpus: float, cpus: float, gigabytes: float | None) -> str:
    words = [f"{gpus:.0f} GPU{'' if gpus == 1 else 's'}", f"{cpus:.0f} core{'' if cpus == 1 else 's'}"]
    return ", ".join([*words, f"{gigabytes:.0f} GB"] if gigabytes else words)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
