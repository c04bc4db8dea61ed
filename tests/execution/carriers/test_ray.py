"""Real Ray, with GPUs that Ray believes in: the same artifacts as without, and what is killed loses nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from kills import Home, Launch, study_to_kill

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'subliminal-dagster[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402

from subliminal_dagster.build import build_defs, study_frame  # noqa: E402
from subliminal_dagster.execution.carriers.apart import RunsApart  # noqa: E402
from subliminal_dagster.execution.carriers.choice import settings_of  # noqa: E402
from subliminal_dagster.execution.carriers.protocol import Carried  # noqa: E402
from subliminal_dagster.execution.carriers.ray import Ray, RaySettings  # noqa: E402
from subliminal_dagster.execution.live_runs import CARRIER_TAG  # noqa: E402
from subliminal_dagster.planning.planner import DueRun, Part  # noqa: E402
from subliminal_dagster.science.errors import UserError  # noqa: E402
from subliminal_dagster.science.settings.study import AnyStudy, Study  # noqa: E402

pytestmark = pytest.mark.slow

_HANGS_AFTER_SECONDS = 120


def wait_for(seen: Callable[[], Any], launch: Launch | None = None) -> None:
    deadline = time.monotonic() + _HANGS_AFTER_SECONDS
    while not seen():
        assert time.monotonic() < deadline
        assert launch is None or launch.process.poll() is None, launch.output[-3000:]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One of this machine, whose head has two cores and two GPUs that Ray believes in."""
    with pytest.MonkeyPatch.context() as patch:
        # Nodes find the functions of this file by it.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Ray's own 15 lets tests in other processes have the cores first.
        patch.setenv("RAY_worker_niceness", "0")
        small = {"object_store_memory": 80_000_000, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, **small})
        yield cluster
        cluster.shutdown()


# A whole study


def making(asset: str = "") -> list[psutil.Process]:
    """The processes of the cluster in which tasks make something."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            # Idle workers and Ray's own agents have titles of one capitalized word.
            if title.startswith(f"ray::{asset}") and not title.startswith(("ray::IDLE", "ray::Run", "ray::Dash")):
                found.append(process)
    return found


def test_a_worker_and_a_driver_are_killed_and_the_study_is_that_of_one_machine(
    cluster: Cluster, undisturbed: Home, tiny_base: Path, tmp_path: Path
) -> None:
    home = Home.make(tmp_path / "home", study_to_kill(tiny_base))

    def start(address: str | None) -> Launch:
        (tmp_path / "ray.yaml").write_text("gpus: 0\nat_once: 1\n" + (f"address: {address}\n" if address else ""))
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "SUBLIMINAL_CARRIER": "ray"}
        return home.start_quickly(**environment, SUBLIMINAL_CARRIER_SETTINGS=str(tmp_path / "ray.yaml"))

    launch = start(cluster.address)
    wait_for(lambda: home.checkpoints("teacher_lora", "owl"), launch)
    (worker,) = making("teacher_lora")
    worker.kill()
    wait_for(lambda: home.chunks("number_set", "owl"), launch)
    before = making()
    assert before
    launch.process.kill()
    launch.process.wait()
    # Ray ends what nobody waits for any more.
    assert psutil.wait_procs(before, timeout=60)[1] == []

    launch = start(None)
    assert launch.finish() == 0, launch.output[-3000:]
    assert home.contents() == undisturbed.contents()
    assert home.manifest("teacher_lora", "owl").info["host"]["resumed_from_step"] > 0

    with dg.DagsterInstance.from_config(str(home.folder)) as instance:
        runs = [run for run in instance.get_runs() if run.asset_selection == {dg.AssetKey(["tiny", "teacher_lora"])}]
        owls = sorted(run.status.value for run in runs if run.tags["dagster/partition"] == "owl")
        assert owls == ["FAILURE", "SUCCESS"]
        assert all(run.is_finished and run.tags[CARRIER_TAG].startswith("ray ") for run in instance.get_runs())
        (good,) = [r for r in runs if r.status.value == "SUCCESS" and r.tags["dagster/partition"] == "owl"]
        (line,) = [e.message for e in instance.all_logs(good.run_id) if e.message and "output in" in e.message]
    assert "teacher_lora" in Path(line.rpartition("output in ")[2]).read_text()


# Tasks one by one, which compute nothing


NOTES = "SUBLIMINAL_TEST_NOTES"
"""The folder in which tasks note what they see: what begins so goes to other machines."""


def noted(run: DueRun, _: dg.Definitions, instance: dg.DagsterInstance, run_id: str | None = None) -> Carried:
    """Notes its process and what it may use, and ends when there are as many notes as the file `awaited` says."""
    notes = Path(os.environ[NOTES])
    assert run_id is not None
    seen = [os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")]
    (notes / f"{run.partition}-{run_id}.note").write_text(",".join([str(run.partition), str(os.getpid()), *seen]))
    while len([*notes.glob("*.note")]) < int((notes / "awaited").read_text()):
        time.sleep(0.02)
    return Carried([run.parts[0].asset], {}, 0.0)


def no_definitions(study: AnyStudy) -> dg.Definitions:
    return dg.Definitions()


@dataclass
class Sent:
    """Runs of the tiny study on the cluster: what is still to be sent, what became of what, what each noted."""

    runs: RunsApart
    notes: Path
    queue: list[DueRun]
    became: dict[str | None, Carried] = field(default_factory=dict)

    def carry_out(self, carrier: Ray, meanwhile: Callable[[], object] = lambda: None) -> None:
        """`meanwhile` is called about each second."""

        def next_run() -> DueRun | None:
            meanwhile()
            return self.queue.pop(0) if self.queue else None

        with carrier:
            for run, carried in carrier.carry_out(next_run):
                if carried.begin_again:
                    self.queue.append(run)
                else:
                    self.became[run.partition] = carried

    def noted(self) -> list[list[str]]:
        """Of each run that began its partition, process, GPUs and threads."""
        return [note.read_text().split(",") for note in sorted(self.notes.glob("*.note"))]

    def carrier(self, **settings: Any) -> Ray:
        return Ray(study_frame(self.runs.study), self.runs, RaySettings(**settings))


@pytest.fixture
def sent(tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    monkeypatch.setenv(NOTES, str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS")
    queue = [
        DueRun(tiny_study.name, group, (Part(tiny_study.name, asset, group, "missing"),))
        for asset, group in (("teacher_lora", "owl"), ("teacher_lora", "wolf"), ("filtered_dataset", "owl|1"))
    ]
    (tmp_path / "home").mkdir()
    # In files: one in memory bears no threads.
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as instance:
        definitions = build_defs(studies=[tiny_study])
        runs = RunsApart(tiny_study, definitions, instance, no_definitions, noted, str(tmp_path / "artifacts"))
        yield Sent(runs, tmp_path, queue)


def statuses(sent: Sent) -> list[str]:
    return sorted(run.status.value for run in sent.runs.instance.get_runs())


def test_two_at_once_have_a_gpu_and_a_process_each(cluster: Cluster, sent: Sent) -> None:
    (sent.notes / "awaited").write_text("2")
    sent.carry_out(sent.carrier(address=cluster.address, stages={"numbers": {"cpus": 2}}))
    assert all(carried.made for carried in sent.became.values()) and len(sent.became) == 3
    processes = {process for _, process, *_ in sent.noted()}
    assert len(processes) == 3
    # With no word of them in the environment as many threads as the carrier `local` gives on two cores.
    seen = {partition: (gpus, threads) for partition, _, gpus, threads in sent.noted()}
    assert sorted([seen["owl"], seen["wolf"]]) == [("0", "1"), ("1", "1")]
    assert seen["owl|1"] == ("", "2")


def test_a_node_that_goes_takes_no_run_with_it(cluster: Cluster, sent: Sent, caplog: pytest.LogCaptureFixture) -> None:
    (sent.notes / "awaited").write_text("2")
    del sent.queue[:2]
    # More than the head has: there is no place for it at first.
    carrier = sent.carrier(address=cluster.address, cpus=3)
    nodes: list[Any] = []

    def meanwhile() -> None:
        if sent.queue == [] and not nodes:
            nodes.append(cluster.add_node(num_cpus=3, object_store_memory=80_000_000))
        elif len(nodes) == 1 and len(sent.noted()) == 1:
            cluster.remove_node(nodes[0], allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=3, object_store_memory=80_000_000))

    sent.carry_out(carrier, meanwhile)
    cluster.remove_node(nodes[1])
    assert [carried.errors for carried in sent.became.values()] == [{}]
    # What computes nothing has no events by which the second would have ended.
    assert len(sent.noted()) == 2 and statuses(sent) == ["FAILURE", "NOT_STARTED"]
    told = f"The Ray cluster at {cluster.address} has no node with 0 GPUs, 3 cores, which filtered_dataset"
    assert told in caplog.text


def test_what_is_cancelled_stays_so_and_the_end_of_the_command_ends_its_tasks(cluster: Cluster, sent: Sent) -> None:
    (sent.notes / "awaited").write_text("9")
    carrier = sent.carrier(address=cluster.address)

    def meanwhile() -> None:
        if len(sent.noted()) == 2 and not sent.became:
            ray.cancel(next(iter(carrier._at_work)), force=True)
        elif sent.became:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sent.carry_out(carrier, meanwhile)
    assert sent.became["owl"].errors == {"teacher_lora": "it was cancelled in Ray"}
    assert set(statuses(sent)) == {"FAILURE"}
    wait_for(lambda: not making())


def test_what_cannot_be_is_said_in_a_sentence(sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="stages: tiny has no group 'teachers': name one of base, teacher"):
        sent.carrier(stages={"teachers": {"gpus": 2}})
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with pytest.raises(UserError, match=f"Nothing answers at 127.0.0.1:{port} .Connection refused.: see on the"):
            sent.carry_out(sent.carrier(address=f"127.0.0.1:{port}"))
    with pytest.raises(UserError, match="address is 'head': set it to auto, host:port or ray://host:port"):
        sent.carry_out(sent.carrier(address="head"))
    (tmp_path / "ray.yaml").write_text("stages: {child: {gpu: 2}}")
    monkeypatch.setenv("SUBLIMINAL_CARRIER_SETTINGS", str(tmp_path / "ray.yaml"))
    with pytest.raises(UserError, match=r"ray.yaml: stages.child.gpu: Extra inputs are not permitted"):
        settings_of(RaySettings)


def test_nothing_of_ray_is_loaded_where_it_is_not_chosen() -> None:
    script = (
        "import sys, subliminal_dagster.cli, subliminal_dagster.definitions\n"
        "import subliminal_dagster.execution.runner, subliminal_dagster.execution.carriers.choice\n"
        "print('ray' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
