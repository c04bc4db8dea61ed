"""Runs by the instance's own run launcher: real runs in processes of their own, beside a real code server."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml
from pydantic import ValidationError
from tiny_studies import TOY_SETTINGS

from subliminal_dagster.build import build_defs, definitions_apart, study_frame
from subliminal_dagster.execution.carriers.apart import RunsApart
from subliminal_dagster.execution.carriers.launcher import Launcher
from subliminal_dagster.execution.carriers.launcher_settings import LauncherSettings
from subliminal_dagster.execution.carriers.protocol import Carried
from subliminal_dagster.execution.listening import Sentences
from subliminal_dagster.execution.live_runs import being_made
from subliminal_dagster.execution.runner import execute, run_study
from subliminal_dagster.planning.planner import DueRun, make_plan
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

pytestmark = pytest.mark.slow

PODS = {"dagster-k8s/config": {"pod_spec_config": {"node_selector": {"pool": "cpu"}}}}
GPUS = {"dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}}


def launcher(folder: Path, instance: dg.DagsterInstance, settings: LauncherSettings, *overrides: str) -> Launcher:
    study = load_study(str(folder / "study.yaml"), list(overrides))
    runs = RunsApart(
        study, build_defs(studies=[study]), instance, definitions_apart, execute, str(folder / "artifacts")
    )
    return Launcher(study_frame(study), runs, settings)


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    settings = deepcopy(TOY_SETTINGS)
    settings["settings"]["large"]["training"]["steps"] = 1_000_000
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("SUBLIMINAL_STUDIES", str(tmp_path / "study.yaml"))
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    recording = {"module": "recording_launcher", "class": "RecordingLauncher"}
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home"), overrides={"run_launcher": recording}) as found:
        yield found


def test_two_at_once_with_the_tags_of_their_stage(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"toy": {"tags": {"dagster/priority": "5"}}}
    settings = LauncherSettings.model_validate(
        {"at_once": 2, "tags": PODS, "gpu_tags": GPUS, "stages": stages, "workspace": "one_process"}
    )
    carrier = launcher(tmp_path, instance, settings)
    wanted: list[tuple[str, str | None]] = [("ablated_small", None), ("ablated_other", None)]
    store, said = ArtifactStore(str(tmp_path / "artifacts")), list[str]()
    outcome = run_study(
        carrier.frame, carrier.runs.definitions, store, instance, Sentences(said.append), wanted, carrier
    )
    assert sorted(outcome.made) == sorted(wanted) and outcome.complete, said
    asked = Path(instance.root_directory, "launched.jsonl")
    first, second = [json.loads(line) for line in asked.read_text().splitlines()]
    for each in (first, second):
        assert each["tags"]["dagster/priority"] == "5"
        assert json.loads(each["tags"]["dagster-k8s/config"]) == PODS["dagster-k8s/config"]
    assert second["time"] < instance.get_run_stats(first["run"]).end_time
    for asset, _ in wanted:
        (record,) = instance.fetch_materializations(carrier.frame.key(asset), limit=1).records
        assert record.run_id in (first["run"], second["run"])
    here = ArtifactStore(str(tmp_path / "here"))
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(tmp_path / "here"))
    definitions = build_defs(studies=[carrier.runs.study])
    run_study(carrier.frame, definitions, here, instance, Sentences(said.append), wanted)
    for asset, _ in wanted:
        made, again = (place.manifest(carrier.runs.study.name, asset).content_hash for place in (store, here))
        assert made == again


def test_a_killed_run_begins_again_a_cancelled_one_does_not_and_ctrl_c_ends_it(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    carrier = launcher(tmp_path, instance, LauncherSettings(at_once=2))
    study, frame = carrier.runs.study.name, carrier.frame
    (part,) = [
        part
        for part in make_plan(frame, ArtifactStore(str(tmp_path / "artifacts"))).due
        if part.asset == "auxiliary_large"
    ]
    run, became = DueRun(study, None, (part,)), list[Carried]()
    ends = [kill, instance.run_launcher.terminate, interrupt]

    def next_run() -> DueRun | None:
        """The run, anew whenever it has ended; what ends it, as soon as its step has begun."""
        runs = instance.get_runs()
        if len(runs) == len(became):
            return run
        assert being_made(instance, study, frame.nodes).keys() == {part.place}
        if not runs[0].is_finished and len(ends) + len(became) == 3 and processes(instance, runs[0].run_id)[1:]:
            end = ends.pop(0)
            end(instance, runs[0].run_id) if end is kill else end(runs[0].run_id)  # type: ignore[operator]
        elif runs[0].status is dg.DagsterRunStatus.CANCELING:
            ask_again(instance, runs[0].run_id)
        return None

    with pytest.raises(KeyboardInterrupt), carrier:
        for _, carried in carrier.carry_out(next_run):
            became.append(carried)
    killed, cancelled = became
    assert killed.begin_again and not cancelled.begin_again
    assert re.fullmatch(r"its run \w{8} was cancelled", cancelled.errors["auxiliary_large"])
    until = time.monotonic() + 60
    while not (last := instance.get_runs()[0]).is_finished and time.monotonic() < until:
        ask_again(instance, last.run_id)
        time.sleep(1)
    statuses = [run.status for run in reversed(instance.get_runs())]
    assert [status.value for status in statuses] == ["FAILURE", "CANCELED", "CANCELED"]
    assert being_made(instance, study, frame.nodes) == {}


def processes(instance: dg.DagsterInstance, run_id: str) -> list[int]:
    """The processes that a run says it has: its own, and its step's once that has begun."""
    told = [re.search(r"[Pp]rocess.*\(pid: (\d+)\)", entry.user_message) for entry in instance.all_logs(run_id)]
    begun = instance.get_run_step_stats(run_id)
    found = list(dict.fromkeys(int(found[1]) for found in told if found))
    return [*found[:1], *(found[-1:] if begun else [])]


def kill(instance: dg.DagsterInstance, run_id: str) -> None:
    process = psutil.Process(processes(instance, run_id)[0])
    for each in (process, *process.children(recursive=True)):
        each.kill()


def ask_again(instance: dg.DagsterInstance, run_id: str) -> None:
    """Interrupt a step once more: one that computes in compiled code at that moment may lose an interrupt."""
    for process in processes(instance, run_id)[1:]:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGINT)


def interrupt(run_id: str) -> None:
    raise KeyboardInterrupt


def test_a_location_of_other_settings_is_refused(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="has tiny-toy with other settings or other code"),
        launcher(tmp_path, instance, LauncherSettings(), "seed=9"),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"workspace is 'none.yaml', which is not a file"),
        launcher(tmp_path, instance, LauncherSettings(workspace="none.yaml")),
    ):
        pass


def test_tags_are_laid_over_each_other() -> None:
    settings = LauncherSettings.model_validate(
        {"tags": PODS, "gpu_tags": GPUS, "stages": {"sae": {"tags": {"a": "b"}}}}
    )
    assert json.loads(settings.tags_of("child", True)["dagster-k8s/config"]) == {
        **PODS["dagster-k8s/config"],
        **GPUS["dagster-k8s/config"],
    }
    assert settings.tags_of("sae", False)["a"] == "b"
    with pytest.raises(ValidationError, match="at_once"):
        LauncherSettings(at_once=0)
