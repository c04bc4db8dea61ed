"""Killing a study at a chosen moment and looking at what is left of it.

Belongs here: a user's folder with a small study, the command in a process of its own, SIGKILL when something is seen
on disk, and the state after it. Does not belong here: which kills (`test_kills`, `benchmarks/kills.py`), tests.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import yaml
from tiny_studies import tiny_study_settings

from subliminal_dagster.build import study_frame
from subliminal_dagster.cli import main
from subliminal_dagster.execution.live_runs import IN_PROGRESS
from subliminal_dagster.planning.frame import Frame, shown
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.content_hash import folder_content_hash
from subliminal_dagster.science.storage.records import MANIFEST, POINTER, Manifest
from subliminal_dagster.science.storage.store import ArtifactStore

BATCH = 4
"""Answers a chunk: few, so that there is something between the first chunk and the last."""

_PROJECT = Path(__file__).parents[2]
_NEXT_LOOK_SECONDS = 0.004
# Far longer than anything here takes: what is not over by then hangs.
_HANGS_AFTER_SECONDS = 300


def study_to_kill(base: Path) -> dict[str, Any]:
    """Settings of the smallest study with everything in it: 16 artifacts, a teacher that stops early in its fourth
    epoch, a child of four epochs, number sets of six chunks."""
    settings: dict[str, Any] = tiny_study_settings(base)
    settings["animals"] = ["owl"]
    settings["teacher"]["training"]["learning_rate"] = 0.002
    settings["teacher"]["stop"]["preference"] = 0.35
    settings["child"]["channels"] = ["hard"]
    settings["child"]["training"]["epochs"] = 4
    return settings


@dataclass(frozen=True)
class Home:
    """A user's DAGSTER_HOME: the project's dagster.yaml, a study file, its artifacts."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, study: dict[str, Any]) -> Home:
        """A new one with a study of these settings, and nothing made yet."""
        folder.mkdir(parents=True)
        shutil.copyfile(_PROJECT / "dagster.yaml", folder / "dagster.yaml")
        home = cls(folder)
        home.study_file.write_text(yaml.safe_dump(study))
        return home

    def copy(self, folder: Path) -> Home:
        """The same in another folder, with everything made so far."""
        shutil.copytree(self.folder, folder)
        return Home(folder)

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.artifacts)

    @property
    def study_file(self) -> Path:
        return self.folder / "tiny.yaml"

    @cached_property
    def frame(self) -> Frame:
        return study_frame(load_study(str(self.study_file)))

    @property
    def environment(self) -> dict[str, str]:
        """What every process gets, whatever the test's own environment says of the project."""
        outer = {name: value for name, value in os.environ.items() if not name.startswith("SUBLIMINAL_")}
        return outer | {
            "DAGSTER_HOME": str(self.folder),
            "SUBLIMINAL_STUDIES": str(self.study_file),
            "SUBLIMINAL_BATCH": str(BATCH),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "SUBLIMINAL_WORKERS": "1",
        }

    # Running

    def start(self, **environment: str) -> Launch:
        """`subliminal-dagster run` in a process of its own, with more environment variables."""
        command = [str(Path(sys.executable).with_name("subliminal-dagster")), "run"]
        return self.launch([*command, "--study", str(self.study_file)], **environment)

    def start_quickly(
        self, dies_at_the_pointer: bool = False, ignores_ctrl_c: bool = False, **environment: str
    ) -> Launch:
        """The same from a process that has imported everything, which most of a short run goes into otherwise.

        If asked to, it kills itself at a moment too short to be seen from outside: a version is whole, and the pointer
        to it is about to be. Or it begins as what a script of a shell puts into the background, which ignores Ctrl-C.
        """
        arguments = ["run", "--study", str(self.study_file)]
        command = _die_at_the_pointer if dies_at_the_pointer else _in_the_background if ignores_ctrl_c else main
        return self._fork(command, arguments, environment)

    def materialize(self, asset: str, partition: str, **environment: str) -> Launch:
        """`dagster asset materialize`, a process a step, with more environment variables; it is started as quickly."""
        arguments = ["asset", "materialize", "-m", "subliminal_dagster.definitions", "--select", f"tiny/{asset}"]
        return self._fork(_dagster, [*arguments, "--partition", partition], environment)

    def _fork(self, command: Callable[[list[str]], int], arguments: list[str], environment: dict[str, str]) -> Launch:
        log = self._next_log()
        child = _FORKS.Process(
            target=_be_the_command, args=(command, arguments, self.environment | environment, self.folder, log)
        )
        begun = time.time()
        child.start()
        return Launch(Forked(child), log, begun)

    def launch(self, command: list[str], **environment: str) -> Launch:
        """Any command in this place, with more environment variables."""
        log = self._next_log()
        begun = time.time()
        with log.open("w") as out:
            process = psutil.Popen(
                command,
                env=self.environment | environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return Launch(process, log, begun)

    def _next_log(self) -> Path:
        log = self.folder / f"launch-{len(list(self.folder.glob('launch-*.log')))}.log"
        log.touch()
        return log

    # What is left

    def contents(self) -> dict[Input, str]:
        """The content hash of every artifact there is, computed anew from its files, but for the report, which tells
        how long everything took.

        Raises DamagedArtifact where one that the store says is there is not what was written.
        """
        store, frame = self.store, self.frame
        hashes = {}
        for name in set(frame.nodes) - {"report"}:
            for partition in frame.partitions(name):
                if store.exists("tiny", name, partition):
                    folder = store.read("tiny", name, partition).path
                    hashes[name, partition] = folder_content_hash(folder, ignore=[MANIFEST])
        return hashes

    def manifest(self, asset: str, partition: str | None) -> Manifest:
        return self.store.manifest("tiny", asset, partition)

    def made(self, asset: str, partition: str | None = None) -> bool:
        return self.store.exists("tiny", asset, partition)

    def checkpoints(self, asset: str, partition: str | None) -> list[int]:
        """The steps of the whole checkpoints that are kept of an unfinished training."""
        states = found(self._workspace(asset, partition), "*/checkpoint-*/trainer_state.json")
        return sorted(int(state.parent.name.rpartition("-")[2]) for state in states if _is_json(state))

    def chunks(self, asset: str, partition: str | None) -> int:
        """How many chunks of answers are kept of an unfinished generation."""
        return len(found(self._workspace(asset, partition), "*/answers/*/*.parquet"))

    def last_opened(self, asset: str, partition: str | None) -> float | None:
        """When a process last opened the workspace of an unfinished artifact (seconds since 1970)."""
        return max((folder.stat().st_mtime for folder in found(self._workspace(asset, partition), "*")), default=None)

    def _workspace(self, asset: str, partition: str | None) -> Path:
        return self.artifacts / ".work" / "tiny" / asset / (partition or "_").replace("|", "@")

    def in_drafts(self, name: str = "*") -> list[Path]:
        """Files and folders of that name in drafts, which are artifacts not written to their end."""
        return found(self.artifacts / ".drafts", f"*/{name}")

    def without_pointer(self) -> list[Path]:
        """Versions of artifacts that have none before, whole and not yet pointed to."""
        whole = found(self.artifacts / "tiny", "*/*/*Z-*")
        return [version for version in whole if not version.with_name(POINTER).exists()]

    def unfinished(self) -> list[str]:
        """The Dagster runs that count as in progress, by id."""
        with dg.DagsterInstance.from_config(str(self.folder)) as instance:
            return [run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS))]

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        with dg.DagsterInstance.from_config(str(self.folder)) as instance:
            run = instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def pool_holders(self) -> list[str]:
        """The runs that hold a place in the GPU pool, by id."""
        with dg.DagsterInstance.from_config(str(self.folder)) as instance:
            pool = instance.event_log_storage.get_concurrency_info("gpu")
        return [slot.run_id for slot in pool.claimed_slots]

    def step_in_progress(self) -> Input | None:
        """What the unfinished run was making, by Dagster's log; None where it was between two steps."""
        steps = [dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS]
        with dg.DagsterInstance.from_config(str(self.folder)) as instance:
            for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS)):
                events = [entry.get_dagster_event() for entry in instance.all_logs(run.run_id, of_type={*steps})]
                if events and events[-1].event_type == dg.DagsterEventType.STEP_START:
                    assert events[-1].step_key is not None
                    return events[-1].step_key.rpartition("__")[2], run.tags.get("dagster/partition")
        return None


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("peft", "trl.trainer.sft_trainer", "sklearn.linear_model", "statsmodels.api", "matplotlib.figure", "numba"),
        *("dagster._cli", "subliminal_dagster.build"),
    ]
)


def _be_the_command(
    command: Callable[[list[str]], int], arguments: list[str], environment: dict[str, str], folder: Path, log: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with log.open("w") as out:
        os.dup2(out.fileno(), sys.stdout.fileno())
        os.dup2(out.fileno(), sys.stderr.fileno())
    raise SystemExit(command(arguments))


def _in_the_background(arguments: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return main(arguments)


def _dagster(arguments: list[str]) -> int:
    from dagster import _cli

    sys.argv = ["dagster", *arguments]
    _cli.main()
    raise AssertionError("click ends the process by itself")


def _die_at_the_pointer(arguments: list[str]) -> int:
    os.replace = _replace_or_die  # type: ignore[assignment]
    return main(arguments)


_replace = os.replace


def _replace_or_die(source: str, target: str) -> None:
    if os.path.basename(target) == POINTER:
        os.kill(os.getpid(), signal.SIGKILL)
    _replace(source, target)


class Forked(psutil.Process):
    """A process of `multiprocessing` that is looked after as one of `psutil.Popen` is."""

    def __init__(self, child: BaseProcess) -> None:
        assert child.pid is not None
        super().__init__(child.pid)
        self._child = child

    def poll(self) -> int | None:
        return self._child.exitcode

    @property
    def returncode(self) -> int | None:
        return self._child.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._child.join(timeout)
        if self._child.exitcode is None:
            raise psutil.TimeoutExpired(timeout, self.pid)
        return self._child.exitcode


@dataclass(frozen=True)
class Launch:
    """A command at work, and the file its output goes to."""

    process: psutil.Popen | Forked
    log: Path
    begun: float

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def makes_something(self) -> bool:
        """Whether its log says so: what comes before is Python importing Dagster."""
        logs = self.log.parent.glob("logs/run-*.log")
        return any(": begun: " in log.read_text(errors="replace") for log in logs)

    @property
    def steps(self) -> list[psutil.Process]:
        """The processes in which Dagster's multiprocess executor runs steps."""
        found = []
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended since it was listed
                if any("spawn_main" in part for part in child.cmdline()):
                    found.append(child)
        return found

    def kill_when(self, seen: Callable[[], Any], victim: Callable[[], psutil.Process] | None = None) -> bool:
        """SIGKILL the command, or the child of it that `victim` names, when something is seen; False where the command
        ended before.

        The victim is halted first and one looks again, so that what was seen is still so when the kill comes.
        """
        deadline = time.monotonic() + _HANGS_AFTER_SECONDS
        while self.process.poll() is None:
            self._check_in_time(deadline)
            if seen():
                process = victim() if victim else self.process
                if _halted(process):
                    if seen():
                        process.kill()
                        process.wait(_HANGS_AFTER_SECONDS)
                        return True
                    process.resume()
            time.sleep(_NEXT_LOOK_SECONDS)
        return False

    def kill_after_level(self, seconds: float) -> bool:
        """SIGKILL it that long after it began to make something; False where it ended before."""
        begun: list[float] = []

        def time_is_up() -> bool:
            if not begun and self.makes_something:
                begun.append(time.monotonic())
            return bool(begun) and time.monotonic() - begun[0] >= seconds

        return self.kill_when(time_is_up)

    def finish(self) -> int:
        """Wait for its end; returns the exit code."""
        deadline = time.monotonic() + _HANGS_AFTER_SECONDS
        while self.process.poll() is None:
            self._check_in_time(deadline)
            time.sleep(0.05)
        return int(self.process.returncode)

    def _check_in_time(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            raise TimeoutError(f"it hangs: {self.output[-3000:]}")


def found(folder: Path, pattern: str) -> list[Path]:
    """What matches; unlike with Path.glob, folders may vanish meanwhile."""
    return [folder / name for name in glob(pattern, root_dir=folder)]


def _is_json(file: Path) -> bool:
    """Whether it is written to its end: a process may be halted in the midst of it."""
    try:
        json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return True


def _halted(process: psutil.Process) -> bool:
    """Stop a process until it is resumed or killed; False where it has ended."""
    try:
        process.suspend()
        while process.status() != psutil.STATUS_STOPPED:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            time.sleep(_NEXT_LOOK_SECONDS)
    except psutil.NoSuchProcess:
        return False
    return True


def made_again(before: dict[Input, str], home: Home) -> list[str]:
    """Which of the artifacts with these versions have another one by now."""
    return [shown(*place) for place, version in before.items() if home.manifest(*place).version != version]


def versions(home: Home) -> dict[Input, str]:
    """The version of every artifact there is."""
    return {place: home.manifest(*place).version for place in home.contents()}
