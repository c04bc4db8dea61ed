"""Runs as jobs of a real Slurm of two nodes: the same artifacts, whatever happens to jobs, nodes and the command."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
import yaml
from slurm_cluster import NODES, Cluster, cluster
from study_runs import StudyRun

from subliminal_dagster.build import build_defs, study_frame
from subliminal_dagster.cli import main
from subliminal_dagster.execution.carriers.apart import RunsApart
from subliminal_dagster.execution.carriers.protocol import Carried
from subliminal_dagster.execution.live_runs import CARRIER_TAG
from subliminal_dagster.planning.planner import DueRun, Part
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study import AnyStudy
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

slurm = pytest.importorskip("subliminal_dagster.execution.carriers.slurm", exc_type=UserError)

pytestmark = pytest.mark.slow

COMMAND = [str(Path(sys.executable).with_name("subliminal-dagster"))]
WITHIN_SECONDS = 300


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(autouse=True)
def on_the_cluster(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in nodes.environment.items():
        monkeypatch.setenv(name, value)
    # Jobs import this file and this package.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WITHIN_SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} within {WITHIN_SECONDS} s"
        time.sleep(0.2)


# The whole way


def environment_of(folder: Path, **more: str) -> dict[str, str]:
    settings = folder / "slurm.yaml"
    settings.write_text(yaml.safe_dump({"gpus": 0, "cpus": 1, "time_minutes": 10}))
    chosen = {"SUBLIMINAL_CARRIER": "slurm", "SUBLIMINAL_CARRIER_SETTINGS": str(settings)}
    places = {"DAGSTER_HOME": str(folder / "home"), "SUBLIMINAL_ARTIFACTS": str(folder / "artifacts")}
    return os.environ | chosen | places | more


def runs_told_of(home: Path) -> int:
    """How many runs Dagster knows there, read beside a command that may be writing."""
    with closing(sqlite3.connect(f"file:{home / 'history' / 'runs.db'}?mode=ro", uri=True)) as database:
        (count,) = database.execute("select count(*) from runs").fetchone()
    return int(count)


def test_a_command_that_is_killed_is_taken_up_by_another_and_all_is_as_on_one_machine(
    done: StudyRun, nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "tiny.yaml"
    study.write_text(yaml.safe_dump(done.study.model_dump(mode="json")))
    run = [*COMMAND, "run", "--study", str(study), "--select", "base_preferences,teacher_lora", "--partition", "owl"]
    first = subprocess.Popen(run, env=environment_of(tmp_path), stdout=subprocess.PIPE, text=True)
    # Two parts need nothing but the base model, so both nodes have one. Killed as soon as a job is sent, the command
    # would not have told Dagster of it yet.
    until(nodes.jobs, "a job")
    until(lambda: runs_told_of(tmp_path / "home") == 3, "three runs")
    until(lambda: list(nodes.jobs().values()).count("RUNNING") == 2, "two jobs at once")
    queued = set(nodes.jobs())
    sent_by_first = {file.name.partition("_")[0] for file in (tmp_path / "artifacts" / ".jobs").glob("*_submitted.pkl")}
    assert queued <= sent_by_first
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert set(nodes.jobs()) == queued, "jobs go on without the command"

    # Another DAGSTER_HOME: another host, which knows of the first command by the queue and the store alone.
    second = subprocess.run(run, env=environment_of(tmp_path, DAGSTER_HOME=str(tmp_path / "other")), **CAPTURED)
    assert second.returncode == 0, second.stdout + second.stderr
    store = ArtifactStore(tmp_path / "artifacts")
    frame = study_frame(done.study)
    made = {(name, key) for name in frame.nodes for key in frame.partitions(name) if store.exists("tiny", name, key)}
    assert {("teacher_lora", "owl"), ("base_preferences", None)} <= made
    for name, key in made:
        assert store.manifest("tiny", name, key).content_hash == done.store.manifest("tiny", name, key).content_hash
    jobs = list((tmp_path / "artifacts" / ".jobs").glob("*_submitted.pkl"))
    assert len(jobs) == len(made), "no part was sent twice"
    with dg.DagsterInstance.from_config(str(tmp_path / "other")) as instance:
        for name, key in made:
            (record,) = instance.fetch_materializations(dg.AssetKey(["tiny", name]), limit=1).records
            assert record.partition_key in (key, None)
        runs = instance.get_runs()
        assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
        (log,) = {
            str(entry.message) for entry in instance.all_logs(runs[0].run_id) if "output in" in str(entry.message)
        }
        assert str(tmp_path / "artifacts" / ".jobs") in log

    # Where the first was started it is heard of how the runs ended that it left.
    for name, value in environment_of(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert main(run[1:]) == 0
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        sent = instance.get_runs()
        assert [run.status for run in sent] == [dg.DagsterRunStatus.SUCCESS] * len(sent_by_first)
        assert {run.tags[CARRIER_TAG] for run in sent} == {f"slurm {job}" for job in sent_by_first}
        for each in sent:
            (key,) = each.asset_selection or ()
            assert instance.fetch_materializations(key, limit=1).records[0].run_id == each.run_id


CAPTURED = {"capture_output": True, "text": True, "timeout": WITHIN_SECONDS}


def test_ctrl_c_ends_the_jobs(done: StudyRun, nodes: Cluster, tmp_path: Path) -> None:
    study = tmp_path / "tiny.yaml"
    study.write_text(yaml.safe_dump(done.study.model_dump(mode="json")))
    # What the test before had made may still be on its way out of the queue.
    until(lambda: not nodes.jobs(), "no jobs of others")
    run = [*COMMAND, "run", "--study", str(study), "--select", "base_model"]
    command = subprocess.Popen(run, env=environment_of(tmp_path), stderr=subprocess.PIPE, text=True)
    until(nodes.jobs, "a job")
    command.send_signal(signal.SIGINT)
    assert "interrupted" in command.communicate(timeout=60)[1] and command.returncode == 130
    until(lambda: not nodes.jobs(), "no jobs")


# Jobs that end badly


def nothing(study: AnyStudy) -> dg.Definitions:
    return dg.Definitions()


def waits(run: DueRun, _: dg.Definitions, __: dg.DagsterInstance, run_id: str | None = None) -> Carried:
    """Goes on until it is told to end; notes each time that it began, on which node, with which GPUs."""
    folder, name = Path(os.environ["SUBLIMINAL_TEST_FOLDER"]), run.parts[0].asset
    with (folder / f"{name} began").open("a") as file:
        file.write(f"{os.environ['SLURMD_NODENAME']} {os.environ.get('CUDA_VISIBLE_DEVICES', 'none')}\n")
    if name == "ablated_no_relu":
        raise RuntimeError("the node's disk is full")
    while not (folder / f"{name} may end").exists():
        time.sleep(0.1)
    return Carried([name], {}, 1.0)


def due(name: str) -> DueRun:
    return DueRun("toy", None, (Part("toy", name, None, "missing"),))


def test_jobs_that_are_cancelled_requeued_preempted_lost_with_their_node_or_fail(
    nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBLIMINAL_TEST_FOLDER", str(tmp_path))
    study = load_study("toy")
    frame = study_frame(study)
    ended: dict[str, Carried] = {}
    attempts: dict[str, int] = {}
    waiting = ["digits", "ablated_n400", "ablated_no_relu"]
    # Of a job and how often it has begun.
    doings: dict[str, Callable[[str, int], object]] = {
        # Cancelled by a person.
        "digits": lambda job, _: nodes.call("scancel", job),
        # Its node goes down; then, on the other, it is put back into the queue by an operator, and by a job before it.
        "ablated_n400": lambda job, begun: [
            lambda: nodes.take_down(nodes.node_of(job)),
            lambda: nodes.call("scontrol", "requeue", job),
            lambda: nodes.call(
                "sbatch", "--partition=urgent", "--gpus-per-node=1", "--output=/dev/null", "--wrap=true"
            ),
        ][begun - 1](),
    }

    def began(name: str) -> int:
        file = tmp_path / f"{name} began"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def next_run() -> DueRun | None:
        """Asked about every second: an operator does what is to be done in between."""
        nodes.start_now()
        for name, doing in doings.items():
            job = next((n for n, other in carrier._at_work.items() if other.order.run.parts[0].asset == name), None)
            begun = began(name)
            if job and nodes.jobs().get(job) == "RUNNING" and attempts.get(name, 0) < begun <= 3:
                attempts[name] = begun
                doing(job, begun)
        if began("ablated_n400") == 4:
            (tmp_path / "ablated_n400 may end").touch()
        return due(waiting.pop(0)) if waiting else None

    with dg.DagsterInstance.ephemeral() as instance:
        runs = RunsApart(study, build_defs(studies=[study]), instance, nothing, waits, str(tmp_path / "artifacts"))
        settings = slurm.SlurmSettings(cpus=1, time_minutes=10, attempts=2)
        with slurm.Slurm(frame, runs, settings) as carrier:
            for run, carried in carrier.carry_out(next_run):
                name = run.parts[0].asset
                if carried.begin_again:
                    waiting.append(name)
                else:
                    ended[name] = carried
        assert carrier.elsewhere() == {}
        statuses = [run.status for run in instance.get_runs()]
    assert "was cancelled" in ended["digits"].errors["digits"] and began("digits") == 1
    assert "the node's disk is full" in ended["ablated_no_relu"].errors["ablated_no_relu"]
    assert "2 times" in ended["ablated_no_relu"].errors["ablated_no_relu"] and began("ablated_no_relu") == 2
    assert ended["ablated_n400"].made == ["ablated_n400"]
    where = [line.split() for line in (tmp_path / "ablated_n400 began").read_text().splitlines()]
    # It asked for a GPU and had one each time; what needs none was given none.
    assert len(where) == 4 and {node for node, _ in where} <= set(NODES) and {gpu for _, gpu in where} == {"0"}
    assert (tmp_path / "digits began").read_text().split()[1] == "none"
    assert dg.DagsterRunStatus.FAILURE in statuses


# What a user can mend


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"partition": "no such"}, "Slurm refused a job: .*Invalid partition name"),
        ({"stages": {"teachers": {}}}, "has no stage 'teachers': name one of toy"),
        ({"folder": "jobs"}, "folder is 'jobs': name it from the root on"),
        ({"folder": "/proc/jobs"}, "Jobs' files cannot lie in /proc/jobs"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, object], said: str, tmp_path: Path) -> None:
    study = load_study("toy")
    with dg.DagsterInstance.ephemeral() as instance:
        runs = RunsApart(study, build_defs(studies=[study]), instance, nothing, waits, str(tmp_path / "artifacts"))
        waiting = [due("digits")]
        with (
            pytest.raises(UserError, match=said),
            slurm.Slurm(study_frame(study), runs, slurm.SlurmSettings.model_validate(settings)) as carrier,
        ):
            list(carrier.carry_out(lambda: waiting.pop() if waiting else None))
