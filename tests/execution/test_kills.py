"""A study that is killed at any moment and run again ends as one that was left alone, and makes nothing twice."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.utils import make_new_run_id
from kills import BATCH, Home, found, made_again, study_to_kill, versions

from subliminal_dagster.execution.live_runs import PROCESS_TAG, bury_dead_runs, signature
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.storage.root import Root
from subliminal_dagster.science.storage.scratch import Drafts

pytestmark = pytest.mark.slow


class Ordeal:
    """Kills of one study in a row, with the checks that hold after every one of them."""

    def __init__(self, home: Home, undisturbed: Home) -> None:
        self.home = home
        self.expected = undisturbed.contents()
        self.made: dict[Input, str] = {}
        self.dead: list[str] = []

    def kill_when(self, seen: Callable[[], Any]) -> None:
        launch = self.home.start_quickly()
        assert launch.kill_when(seen), f"it ended before the moment came: {launch.output[-3000:]}"
        self.look()

    def kill_after_level(self, seconds: float) -> None:
        """Whatever is made then; on a fast machine all may be made before."""
        self.home.start_quickly().kill_after_level(seconds)
        self.look()

    def look(self) -> None:
        assert self.home.contents().items() <= self.expected.items()
        assert made_again(self.made, self.home) == []
        # The run killed before this one was buried by the command that was killed now.
        assert {self.home.status(run_id) for run_id in self.dead} <= {dg.DagsterRunStatus.FAILURE}
        self.dead += self.home.unfinished()
        self.made = versions(self.home)


def test_kills_lose_nothing_and_make_nothing_twice(undisturbed: Home, tiny_base: Path, tmp_path: Path) -> None:
    home = Home.make(tmp_path / "home", study_to_kill(tiny_base))
    ordeal = Ordeal(home, undisturbed)

    ordeal.kill_when(lambda: home.checkpoints("teacher_lora", "owl"))
    first_epoch = home.checkpoints("teacher_lora", "owl")[0]
    assert not home.made("teacher_lora", "owl")
    assert home.pool_holders() == home.unfinished() != []

    # This training has stopped early: what goes on from its last checkpoint would go on past the stop.
    ordeal.kill_when(lambda: home.in_drafts("epochs") and home.checkpoints("teacher_lora", "owl"))
    assert not home.made("teacher_lora", "owl")

    ordeal.kill_when(lambda: home.chunks("number_set", "owl"))
    assert not home.made("number_set", "owl")
    chunks = home.chunks("number_set", "owl")

    ordeal.kill_when(lambda: home.checkpoints("child_lora", "owl|1"))
    assert not home.made("child_lora", "owl|1")

    launch = home.start_quickly(dies_at_the_pointer=True)
    assert launch.finish() == -signal.SIGKILL, launch.output[-3000:]
    assert home.without_pointer() != []
    ordeal.look()

    moments = random.Random(0)
    ordeal.kill_after_level(moments.uniform(0, 6))

    launch = home.start_quickly()
    assert launch.finish() == 0, launch.output[-3000:]
    assert home.contents() == ordeal.expected
    assert made_again(ordeal.made, home) == []
    assert {home.status(run_id) for run_id in ordeal.dead} == {dg.DagsterRunStatus.FAILURE}
    assert home.unfinished() == home.pool_holders() == []

    # What was done before a kill was not done again.
    assert home.manifest("teacher_lora", "owl").info["host"]["resumed_from_step"] >= first_epoch
    assert home.manifest("child_lora", "owl|1").info["host"]["resumed_from_step"] > 0
    logs = "".join(log.read_text() for log in home.folder.glob("logs/run-*.log"))
    assert f"{chunks * BATCH}/24 answers taken over from before the interruption" in logs
    tokens, all_tokens = (
        of.manifest("number_set", "owl").info["host"]["generated_tokens"] for of in (home, undisturbed)
    )
    assert 0 < tokens < all_tokens


@pytest.fixture
def home(undisturbed: Home, tmp_path: Path) -> Home:
    """The finished study in a folder of the test's own."""
    return undisturbed.copy(tmp_path / "home")


def test_a_killed_step_is_tried_once_more(home: Home, undisturbed: Home) -> None:
    shutil.rmtree(home.artifacts / "tiny" / "teacher_lora" / "owl")
    launch = home.materialize("teacher_lora", "owl")
    killed = launch.kill_when(lambda: home.checkpoints("teacher_lora", "owl"), victim=lambda: launch.steps[0])
    assert killed, launch.output[-3000:]
    assert launch.finish() == 0, launch.output[-3000:]
    assert launch.output.count("STEP_UP_FOR_RETRY") == 1
    assert home.contents() == undisturbed.contents()
    assert home.manifest("teacher_lora", "owl").info["host"]["resumed_from_step"] > 0
    assert home.pool_holders() == []


def test_a_killed_run_takes_its_step_with_it_and_is_taken_over(home: Home, undisturbed: Home) -> None:
    shutil.rmtree(home.artifacts / "tiny" / "teacher_lora" / "owl")
    launch = home.materialize("teacher_lora", "owl")
    steps: list[psutil.Process] = []

    def in_training() -> bool:
        if not home.checkpoints("teacher_lora", "owl"):
            return False
        steps[:] = launch.steps
        return True

    assert launch.kill_when(in_training), launch.output[-3000:]
    assert steps and psutil.wait_procs(steps, timeout=30)[1] == []
    (killed,) = home.unfinished()
    again = home.start_quickly()
    assert again.finish() == 0, again.output[-3000:]
    assert home.contents() == undisturbed.contents()
    assert home.manifest("teacher_lora", "owl").info["host"]["resumed_from_step"] > 0
    assert home.status(killed) == dg.DagsterRunStatus.FAILURE
    assert home.pool_holders() == []


def test_a_gate_is_not_tried_again(home: Home) -> None:
    launch = home.materialize("teacher_preferences", "owl", SUBLIMINAL_SET="teacher.gate.preference=1.0")
    assert launch.finish() == 1, launch.output[-3000:]
    assert "the gate asks for 1.0" in launch.output
    assert launch.output.count("STEP_START") == 1
    assert "STEP_UP_FOR_RETRY" not in launch.output


def test_nothing_goes_on_from_a_workspace_that_is_half_deleted(tmp_path: Path) -> None:
    home, files = Home(tmp_path), 20_000
    import_store = "import sys; from subliminal_dagster.science.storage.store import ArtifactStore\n"
    # By a process that has ended: what a living one works in is left alone.
    takes = import_store + "ArtifactStore(sys.argv[1]).workspace('tiny', 'child_lora', 'owl', 'fingerprint')"
    subprocess.run([sys.executable, "-c", takes, str(home.artifacts)], check=True)
    (workspace,) = found(home.artifacts, ".work/tiny/child_lora/owl/*")
    for number in range(files):
        (workspace / f"{number}").touch()
    deletes = import_store + "ArtifactStore(sys.argv[1]).clear_workspace('tiny', 'child_lora', 'owl')"
    launch = home.launch([sys.executable, "-c", deletes, str(home.artifacts)])
    assert launch.kill_when(lambda: found(workspace.parent, "deleted.*")), launch.output
    assert found(workspace.parent, "*/*")
    assert list(home.store.workspace("tiny", "child_lora", "owl", "fingerprint").iterdir()) == []


@dg.job
def some_job() -> None:
    """A job for a run that never runs."""


def test_a_killed_process_that_nobody_waited_for_is_dead(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    draft = tmp_path / ".drafts" / f"{socket.gethostname()}.{process.pid}.abc"
    draft.mkdir(parents=True)
    run_id = make_new_run_id()
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(
            some_job,
            run_id=run_id,
            tags={PROCESS_TAG: signature(run_id, process.pid)},
            status=dg.DagsterRunStatus.STARTED,
        )
        drafts = Drafts(Root(tmp_path))
        assert bury_dead_runs(instance) == [] == drafts.abandoned()
        process.kill()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        assert bury_dead_runs(instance) == [run.run_id]
        assert drafts.abandoned() == [draft]
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, None])
def test_a_signal_ends_the_command_in_the_middle_of_a_step(
    home: Home, undisturbed: Home, number: signal.Signals | None
) -> None:
    shutil.rmtree(home.artifacts / "tiny" / "child_lora")
    # None: SIGTERM to what a script of a shell put into the background.
    launch = home.start_quickly(ignores_ctrl_c=number is None)
    children = ["control|1", "owl|1"]
    # The second of them: what Dagster leaves behind of its first run counts, too.
    while not (
        len(left := [child for child in children if not home.made("child_lora", child)]) == 1
        and home.checkpoints("child_lora", left[0])
    ):
        assert launch.process.poll() is None, launch.output[-3000:]
        time.sleep(0.01)
    launch.process.send_signal(number or signal.SIGTERM)
    assert launch.finish() == 130
    assert launch.output.endswith("interrupted; the same command goes on from here.\n")
    assert "Traceback" not in launch.output
    assert not home.made("child_lora", left[0])
    assert home.unfinished() == home.pool_holders() == []

    launch = home.start_quickly()
    assert launch.finish() == 0, launch.output[-3000:]
    assert home.contents() == undisturbed.contents()


def test_two_at_a_time_make_what_one_makes(home: Home, undisturbed: Home) -> None:
    # From here on there are two of everything.
    for asset in ("number_set", "filtered_dataset", "child_lora", "preference_scores"):
        shutil.rmtree(home.artifacts / "tiny" / asset)
    launch = home.start_quickly(SUBLIMINAL_WORKERS="2")
    workers: list[psutil.Process] = []
    while not (len(workers) == 2 and len(home.unfinished()) == 2):
        workers = launch.steps
        assert launch.process.poll() is None, launch.output[-3000:]
        time.sleep(0.1)
    launch.process.send_signal(signal.SIGINT)
    assert launch.finish() == 130
    assert launch.output.endswith("interrupted; the same command goes on from here.\n")
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    # One of the two may have ended in the moment between.
    killed = home.unfinished()
    assert killed

    launch = home.start_quickly(SUBLIMINAL_WORKERS="2")
    assert launch.finish() == 0, launch.output[-3000:]
    assert home.contents() == undisturbed.contents()
    assert home.unfinished() == home.pool_holders() == []
    assert launch.output.count("was killed before its end") == len(killed)
