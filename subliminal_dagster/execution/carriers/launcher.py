"""Runs started by Dagster itself: by the run launcher of its instance, whatever that is.

With dagster-k8s a run is a pod, with dagster-docker a container, with Dagster's own launcher a process beside the code
server. Such runs have the instance, so Dagster hears of them without this project. The settings (`launcher_settings`)
say what each stage gets, such as the GPU of its pod.

Belongs here: sending runs to the code location, and watching them. Does not belong here: what a launcher does with
them, carriers whose machines do not see the instance (`apart`).
https://docs.dagster.io/deployment/execution/run-launchers
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from dagster._core.definitions.selector import JobSubsetSelector
from dagster._core.errors import DagsterCodeLocationLoadError, DagsterUserCodeUnreachableError
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.launcher.base import WorkerStatus
from dagster._core.remote_representation.code_location import CodeLocation
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget
from dagster._daemon.controller import get_daemon_statuses

from subliminal_dagster.execution.carriers.apart import RunsApart
from subliminal_dagster.execution.carriers.launcher_settings import LauncherSettings
from subliminal_dagster.execution.carriers.protocol import Carried, NextRun
from subliminal_dagster.execution.live_runs import CARRIER_TAG, being_made, process_of
from subliminal_dagster.execution.runner import what_became_of
from subliminal_dagster.execution.shown_runs import ASSET_TAG, job_of
from subliminal_dagster.planning.frame import PLANNED_TAG, Frame
from subliminal_dagster.planning.planner import DueRun
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.errors import UserError

_QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"
_LOOK_AGAIN_SECONDS = 1.0
_HEALTH_SECONDS = 30.0
_UNKNOWN_LOOKS = 10
_ENDS_WITHIN_SECONDS = 60.0
_LONGEST_REASON = 300

# What Dagster calls a step whose process or pod was ended from outside: nothing is wrong with what it makes.
_ENDED_FROM_OUTSIDE = ("ChildProcessCrashException", "DagsterExecutionInterruptedError")


@dataclass
class Launcher:
    """Runs of one study by the instance's run launcher, up to `settings.at_once` at a time.

    Where the daemon that works off Dagster's queue is at work, runs go through the queue with its limits; otherwise
    they are launched from here. The end of the block cancels what has not ended.
    """

    frame: Frame
    runs: RunsApart
    settings: LauncherSettings
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _at_work: dict[str, tuple[DueRun, float]] = field(default_factory=dict, init=False)
    _lost: Counter[Input] = field(default_factory=Counter, init=False)
    _unknown: Counter[str] = field(default_factory=Counter, init=False)
    _checked: float = field(default=0.0, init=False)

    def needed_for(self, count: int) -> bool:
        """Any number: what a run needs, such as a GPU, is where the launcher puts it."""
        return count > 0

    def carry_out(self, next_run: NextRun) -> Iterator[tuple[DueRun, Carried]]:
        """Each run with what became of it, as they end (see `Carrier.carry_out`)."""
        while True:
            while len(self._at_work) < self.settings.at_once and (run := next_run()) is not None:
                self._send(run)
            if not self._at_work:
                return
            time.sleep(_LOOK_AGAIN_SECONDS)
            self._check_health()
            for ended in self._instance.get_runs(dg.RunsFilter(run_ids=[*self._at_work])):
                if ended.is_finished:
                    run, began = self._at_work.pop(ended.run_id)
                    yield run, self._became(run, ended, time.monotonic() - began)
            # A person who deletes a run in the UI leaves nothing to wait for.
            for run_id in [*self._at_work]:
                if not self._instance.has_run(run_id):
                    run, _ = self._at_work.pop(run_id)
                    yield run, Carried.failed(run, f"its run {run_id[:8]} was deleted")

    def elsewhere(self) -> dict[Input, str]:
        """What runs in progress in the instance are to make, whoever had them launched: they are waited for as long as
        they are queued, and as long as what they run in is alive."""
        self._check_health()
        return being_made(self._instance, self.frame.study.name, self.frame.nodes)

    def __enter__(self) -> Launcher:
        """Opens the code location. Raises UserError where it cannot be loaded or is not of this study's settings."""
        target = _workspace_target(self.settings.workspace)
        try:
            self._context = self._stack.enter_context(WorkspaceProcessContext(self._instance, target))
            self._location = self._matching_location()
            self._queued = isinstance(self._instance.run_coordinator, QueuedRunCoordinator) and (
                get_daemon_statuses(self._instance, [_QUEUE_DAEMON])[_QUEUE_DAEMON].healthy is True
            )
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            self._cancel_all()
        finally:
            self._stack.close()

    @property
    def _instance(self) -> dg.DagsterInstance:
        return self.runs.instance

    def _matching_location(self) -> CodeLocation:
        workspace, study, where = self._context.create_request_context(), self.frame.study.name, self.settings.workspace
        for name in workspace.code_location_names:
            if (failed := workspace.get_code_location_error(name)) is not None:
                why = " ".join(failed.message.split())[:_LONGEST_REASON]
                raise UserError(f"{where}: the code location {name} cannot be loaded: {why}")
        keys = {self.frame.key(name): node for name, node in self.frame.nodes.items()}
        known = workspace.asset_graph.get_all_asset_keys()
        if not known & keys.keys():
            raise UserError(f"{where} has no study {study}: name it in SUBLIMINAL_STUDIES where the code is loaded.")
        for key, node in keys.items():
            remote = workspace.asset_graph.get(key) if key in known else None
            if remote is None or remote.code_version != node.recipe.version:
                raise UserError(
                    f"{where} has {study} with other settings or other code, by its {key.path[-1]}: start this command "
                    "with the same SUBLIMINAL_SET, study file and version of the software as the code location, "
                    "without --set and --seed."
                )
        stages = {*self.frame.stages.values()}
        if strange := sorted(self.settings.stages.keys() - stages):
            raise UserError(f"stages.{strange[0]}: there is no such stage: name one of {_listed(stages)}.")
        handle = workspace.asset_graph.get_repository_handle(next(iter(keys)))
        self._repository = handle.repository_name
        return workspace.get_code_location(handle.location_name)

    def _send(self, run: DueRun) -> None:
        """Create a run of the code location and have it started."""
        keys = frozenset(self.frame.key(part.asset) for part in run.parts)
        own_job = job_of(self.runs.definitions, keys)
        checks = frozenset(self.frame.own_checks(part.asset for part in run.parts))
        selector = JobSubsetSelector(
            location_name=self._location.name,
            repository_name=self._repository,
            job_name=own_job.name,
            op_selection=None,
            asset_selection=keys,
            asset_check_selection=checks,
        )
        try:
            job = self._location.get_job(selector)
            plan = self._location.get_execution_plan(job, {}, None, None, self._instance).execution_plan_snapshot
            workspace = self._context.create_request_context()
        except (DagsterUserCodeUnreachableError, DagsterCodeLocationLoadError) as error:
            raise UserError(f"{self.settings.workspace}: the code server does not answer ({_line(error)}).") from None
        assets = ", ".join(part.asset for part in run.parts)
        tags = {PLANNED_TAG: "yes", CARRIER_TAG: "dagster", ASSET_TAG: assets}
        for part in run.parts:
            gpu = self.frame.nodes[part.asset].gpu
            tags |= self.settings.tags_of(self.frame.stages[part.asset], gpu)
        if run.partition is not None:
            tags |= own_job.get_tags_for_partition_key(run.partition, selected_asset_keys=keys)
        created = self._instance.create_run(
            job_name=job.name,
            run_id=None,
            run_config={},
            status=dg.DagsterRunStatus.NOT_STARTED,
            tags=tags,
            root_run_id=None,
            parent_run_id=None,
            step_keys_to_execute=None,
            execution_plan_snapshot=plan,
            job_snapshot=job.job_snapshot,
            parent_job_snapshot=job.parent_job_snapshot,
            asset_selection=keys,
            asset_check_selection=checks,
            resolved_op_selection=None,
            op_selection=None,
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            asset_graph=workspace.asset_graph,
        )
        self._at_work[created.run_id] = run, time.monotonic()
        try:
            if self._queued:
                self._instance.submit_run(created.run_id, workspace)
            else:
                self._instance.launch_run(created.run_id, workspace)
        except Exception as error:
            # A launcher raises whatever its system does; the run then begins again like one that was lost.
            left = self._instance.get_run_by_id(created.run_id)
            if left is not None and not left.is_finished:
                self._instance.report_run_failed(left, f"it could not be launched: {_line(error)}")

    def _became(self, run: DueRun, ended: dg.DagsterRun, seconds: float) -> Carried:
        """What became of a run that has ended, by its log."""
        entries = self._instance.all_logs(ended.run_id)
        events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
        carried = what_became_of(events, ended.run_id, seconds)
        done = {*carried.made, *carried.found}
        if ended.status is dg.DagsterRunStatus.CANCELED:
            left = {part.asset: f"its run {ended.run_id[:8]} was cancelled" for part in run.parts}
        elif ended.status is dg.DagsterRunStatus.FAILURE and (not carried.errors or _ended_from_outside(events)):
            self._lost.update(part.place for part in run.parts)
            tries = max(self._lost[part.place] for part in run.parts)
            if tries < self.settings.attempts:
                return Carried([], {}, 0.0, begin_again=True)
            why = f"{_why_it_failed(events)}, {tries} times (see the log of run {ended.run_id})"
            left = {part.asset: why for part in run.parts}
        else:
            return carried
        errors = {asset: why for asset, why in left.items() if asset not in done}
        return Carried(carried.made, errors, seconds, carried.found)

    def _check_health(self) -> None:
        """Mark runs as failed whose pod or container is gone and that nobody else marks, as after an eviction.

        `run_monitoring` in dagster.yaml does the same, and goes on when this command has ended.
        """
        launcher = self._instance.run_launcher
        if not launcher.supports_check_run_worker_health or time.monotonic() - self._checked < _HEALTH_SECONDS:
            return
        self._checked = time.monotonic()
        for run in self._instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            # Those with a process of their own were not launched (see `bury_dead_runs`).
            if process_of(run) is not None:
                continue
            health = launcher.check_run_worker_health(run)
            # A Kubernetes job that was deleted, or an API that does not answer for a while: launchers call both so.
            self._unknown[run.run_id] = self._unknown[run.run_id] + 1 if health.status is WorkerStatus.UNKNOWN else 0
            gone = health.status in (WorkerStatus.FAILED, WorkerStatus.NOT_FOUND) and not health.transient
            gone = gone or self._unknown[run.run_id] >= _UNKNOWN_LOOKS
            current = self._instance.get_run_by_id(run.run_id) if gone else None
            if current is not None and not current.is_finished:
                self._instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
                self._instance.report_run_failed(
                    current, f"what it ran in is gone: {health.msg or health.status.value}"
                )

    def _cancel_all(self) -> None:
        for run_id in self._at_work:
            # One may end in between, or a launcher know no way; what is left is gone on with by the next command.
            with suppress(Exception):
                self._instance.run_coordinator.cancel_run(run_id)
        until = time.monotonic() + _ENDS_WITHIN_SECONDS
        while self._at_work and time.monotonic() < until:
            left = self._instance.get_runs(dg.RunsFilter(run_ids=[*self._at_work]))
            self._at_work = {run.run_id: self._at_work[run.run_id] for run in left if not run.is_finished}
            time.sleep(_LOOK_AGAIN_SECONDS if self._at_work else 0.0)


def _workspace_target(workspace: str) -> ModuleTarget | WorkspaceFileTarget:
    if not workspace.endswith((".yaml", ".yml")):
        return ModuleTarget(workspace, None, None, None)
    if not Path(workspace).expanduser().is_file():
        raise UserError(f"workspace is {workspace!r}, which is not a file: name a workspace.yaml, or a module.")
    return WorkspaceFileTarget([str(Path(workspace).expanduser())])


def _ended_from_outside(events: list[DagsterEvent]) -> bool:
    """Whether all steps that failed did so because something ended their process."""
    errors = [event.step_failure_data.error for event in events if event.event_type is DagsterEventType.STEP_FAILURE]
    return bool(errors) and all(error is not None and error.cls_name in _ENDED_FROM_OUTSIDE for error in errors)


def _why_it_failed(events: list[DagsterEvent]) -> str:
    failed = [event for event in events if event.event_type is DagsterEventType.RUN_FAILURE]
    return _line(failed[-1].message) if failed and failed[-1].message else "it ended without a word"


def _line(error: object) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:_LONGEST_REASON].rstrip(".")


def _listed(names: Collection[str | None]) -> str:
    return ", ".join(sorted(name for name in names if name))
