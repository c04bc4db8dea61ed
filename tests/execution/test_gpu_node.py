"""A night on a GPU node, with the files of deploy/ and everything real: PostgreSQL, code server, daemon, schedule."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dotenv import dotenv_values
from postgres import free_port, throwaway_postgres
from study_runs import StudyRun
from tiny_studies import tiny_study_settings

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
PROGRAMS = Path(sys.executable).parent
INSTALLED_PROGRAMS = "/opt/subliminal-dagster/.venv/bin"
PROGRAMS_AT_HOME = "%h/subliminal-dagster/.venv/bin"


@pytest.fixture
def node(tiny_base: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a node's services: the example's, with a study, folders and a database of the test's own."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_study_settings(tiny_base)))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").symlink_to(DEPLOY / "dagster.yaml")
    with throwaway_postgres() as database:
        yield {
            **os.environ,
            **{name: value or "" for name, value in dotenv_values(DEPLOY / "subliminal-dagster.env.example").items()},
            "SUBLIMINAL_STUDIES": str(tmp_path / "tiny.yaml"),
            "SUBLIMINAL_NIGHTLY": "* * * * *",
            "SUBLIMINAL_ARTIFACTS": str(tmp_path / "artifacts"),
            "SUBLIMINAL_CODE_SOCKET": str(tmp_path / "code.sock"),
            "DAGSTER_HOME": str(tmp_path / "home"),
            "DAGSTER_COMPUTE_LOGS": str(tmp_path / "logs"),
            "DAGSTER_PG_HOST": database.host,
            "DAGSTER_PG_PORT": str(database.port),
            "DAGSTER_PG_DB": database.name,
            "DAGSTER_PG_USER": database.user,
            "DAGSTER_PG_PASSWORD": database.password,
            "OMP_NUM_THREADS": "1",
        }


@contextmanager
def service(name: str, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """What systemd does with the unit of that name: its command, and SIGTERM to all its processes in the end."""
    unit = (DEPLOY / "systemd" / f"{name}.service").read_text().replace("\\\n", "")
    (command,) = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecStart=")]
    for variable, value in environment.items():
        command = command.replace(f"${{{variable}}}", shlex.quote(value))
    words = shlex.split(command.replace(INSTALLED_PROGRAMS, shlex.quote(str(PROGRAMS))))
    with log.open("w") as out:
        process = subprocess.Popen(
            words, env=environment, cwd=PROJECT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def wait_for(what: Callable[[], bool], logs: list[Path], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        said = "\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in logs)
        assert time.monotonic() < deadline, said
        time.sleep(0.5)


def ticks(instance: dg.DagsterInstance) -> list[InstigatorTick]:
    """Finished ticks of the one schedule, the latest last."""
    states = [state for state in instance.all_instigator_state() if state.name == "tiny_nightly"]
    found = [tick for s in states for tick in instance.get_ticks(s.instigator_origin_id, s.selector_id)]
    return sorted((tick for tick in found if tick.status != TickStatus.STARTED), key=lambda tick: tick.timestamp)


def made_since(instance: dg.DagsterInstance, moment: float) -> list[tuple[str, str | None]]:
    return sorted(
        (key.path[-1], record.partition_key)
        for key in instance.all_asset_keys()
        for record in instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, after_timestamp=moment), limit=100
        ).records
    )


def test_a_night_makes_what_is_stale_and_nothing_else(
    done: StudyRun, node: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shutil.copytree(done.store.root, tmp_path / "artifacts") / "tiny"
    shutil.rmtree(made / "filtered_dataset" / "wolf@1")
    built = subprocess.run(
        [PROGRAMS / "subliminal-dagster", "run", "--study", node["SUBLIMINAL_STUDIES"]],
        env=node,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    assert (made / "filtered_dataset" / "wolf@1").exists()
    stale = [("child_lora", "owl|1")]
    for asset, partition in stale:
        shutil.rmtree(made / asset / partition.replace("|", "@"))

    # This process looks at the instance as the services do.
    for name, value in node.items():
        monkeypatch.setenv(name, value)
    logs = [tmp_path / "code.log", tmp_path / "daemon.log"]
    of_the_night = dg.RunsFilter(tags={"dagster/schedule_name": "tiny_nightly"})
    dusk = time.time()
    with ExitStack() as stack:
        instance = stack.enter_context(dg.DagsterInstance.get())
        # The daemon gets over a code server that is not there yet, but only a minute later.
        stack.enter_context(service("subliminal-code", node, logs[0]))
        wait_for(Path(node["SUBLIMINAL_CODE_SOCKET"]).exists, logs[:1], 120)
        stack.enter_context(service("subliminal-daemon", node, logs[1]))

        def night_is_over() -> bool:
            runs = instance.get_run_records(of_the_night)
            done = ticks(instance)
            if not runs or not done or not all(run.dagster_run.is_finished for run in runs):
                return False
            return done[-1].timestamp > max(run.end_time or 0 for run in runs)

        wait_for(night_is_over, logs, 600)
        at_night = made_since(instance, dusk)
        runs = instance.get_runs(of_the_night)
        night = ticks(instance)
    assert at_night == stale
    assert [(run.job_name, run.status) for run in runs] == [("tiny_make", dg.DagsterRunStatus.SUCCESS)]
    # One tick launched it; those while it was at work and after it found nothing to launch.
    launching = [tick for tick in night if tick.status != TickStatus.SKIPPED]
    assert [(tick.status, len(tick.run_ids)) for tick in launching] == [(TickStatus.SUCCESS, 1)], launching
    assert night[-1].status == TickStatus.SKIPPED
    assert list((tmp_path / "logs").rglob("*.err")), "the steps' output is kept"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("folder", ["systemd", "systemd-user"])
def test_systemd_understands_the_units(folder: str, tmp_path: Path) -> None:
    units = shutil.copytree(DEPLOY / folder, tmp_path / "units")
    # That every command exists is checked too, and here it does elsewhere, maybe in a folder with a blank in its name.
    programs = tmp_path / "programs"
    programs.symlink_to(PROGRAMS)
    for unit in units.glob("*.service"):
        text = unit.read_text()
        for there in (INSTALLED_PROGRAMS, PROGRAMS_AT_HOME):
            text = text.replace(there, str(programs))
        unit.write_text(text)
    names = [path for path in units.iterdir() if path.is_file()]
    checked = subprocess.run(
        ["systemd-analyze", *(["--user"] if folder == "systemd-user" else []), "verify", "--man=no", *names],
        # The colon: systemd's own units as well.
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:", "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_person_s_own_unit_serves_reports(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd-user" / "subliminal-pages.service").read_text()
    (command,) = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecStart=")]
    port = free_port()
    words = shlex.split(command.replace(PROGRAMS_AT_HOME, shlex.quote(str(PROGRAMS))).replace("3001", str(port)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SUBLIMINAL_")}
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(words, env=environment | {"DAGSTER_HOME": str(tmp_path)}, stdout=out, stderr=out)
    try:
        wait_for(lambda: "reports: " in log.read_text() or process.poll() is not None, [log], 60)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert b"<title>subliminal-dagster</title>" in answer.read()
    finally:
        process.terminate()
    assert process.wait(timeout=10) == -signal.SIGTERM, "which systemd takes for a clean end"
