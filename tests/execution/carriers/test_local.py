"""Runs side by side: the same artifacts as one after the other, and no process left of a run that was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import dagster as dg
import psutil
import pytest

from subliminal_dagster.build import definitions_apart
from subliminal_dagster.execution.carriers.local import Workers, worker_count
from subliminal_dagster.execution.carriers.protocol import Carried
from subliminal_dagster.execution.gpu_lease import leased_gpu, usable_gpus
from subliminal_dagster.execution.instance import open_instance
from subliminal_dagster.planning.planner import DueRun, Part
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.settings.study_file import load_study

pytestmark = pytest.mark.slow


def test_how_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBLIMINAL_WORKERS", "3")
    assert worker_count() == 3
    monkeypatch.setenv("SUBLIMINAL_WORKERS", "none")
    with pytest.raises(UserError, match="SUBLIMINAL_WORKERS is 'none'"):
        worker_count()
    monkeypatch.delenv("SUBLIMINAL_WORKERS")
    assert worker_count() == (len(usable_gpus()) or min(2, psutil.cpu_count()))


def due(*names: str) -> list[DueRun]:
    return [DueRun("toy", name, (Part("toy", "asset", name, "missing"),)) for name in names]


def carried_out_or_killed(
    run: DueRun, _: dg.Definitions, instance: dg.DagsterInstance, run_id: str | None = None
) -> Carried:
    """Kills its own process in the run "doomed", in "unlucky" the first time; says which process it was."""
    first_time = Path(instance.root_directory) / f"{run.partition} began"
    if run.partition == "doomed" or (run.partition == "unlucky" and not first_time.exists()):
        first_time.touch()
        libraries.append(multiprocessing.get_context("spawn").Lock())
        os.kill(os.getpid(), signal.SIGKILL)
    return Carried([str(os.getpid())], {}, 0.0)


libraries: list[object] = []


def on_one_gpu(run: DueRun, _: dg.Definitions, instance: dg.DagsterInstance, run_id: str | None = None) -> Carried:
    with leased_gpu() if run.partition != "plain" else nullcontext() as gpu:
        return Carried([str(os.getpid()), str(gpu)], {}, 0.0)


def carry_out(workers: Workers, *names: str) -> Iterator[tuple[DueRun, Carried]]:
    """Runs of these partitions in this order; one that is to begin again comes after those that wait."""
    queue = due(*names)
    for run, carried in workers.carry_out(lambda: queue.pop(0) if queue else None):
        if carried.begin_again:
            queue.append(run)
        else:
            yield run, carried


def what_became_of(count: int, *names: str) -> dict[str | None, Carried]:
    with Workers(load_study("toy"), count, definitions_apart, carried_out_or_killed) as workers:
        return {run.partition: carried for run, carried in carry_out(workers, *names)}


def test_a_killed_process_takes_no_run_but_its_own_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    before = set(psutil.Process().children())
    became = what_became_of(2, "doomed", "unlucky", "one", "two", "three")
    assert {name: carried.errors for name, carried in became.items()} == {
        "doomed": {
            "asset": "its process was killed from outside (SIGKILL), twice; with SUBLIMINAL_WORKERS=1 a study takes "
            "less memory"
        },
        **{name: {} for name in ("unlucky", "one", "two", "three")},
    }
    # A process goes on to the next run, and is gone in the end.
    assert len({*became["one"].made, *became["two"].made, *became["three"].made}) <= 2
    left = [child for child in set(psutil.Process().children()) - before if "spawn_main" in " ".join(child.cmdline())]
    assert left == []


def asleep(run: DueRun, _: dg.Definitions, instance: dg.DagsterInstance, run_id: str | None = None) -> Carried:
    Path(instance.root_directory, f"{run.partition}.pid").write_text(str(os.getpid()))
    time.sleep(600)
    return Carried([], {}, 0.0)


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = (
        "from test_local import *\n"
        "with Workers(load_study('toy'), 2, definitions_apart, asleep) as workers:\n"
        "    list(carry_out(workers, 'one', 'two'))"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"DAGSTER_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    told = [tmp_path / f"{name}.pid" for name in ("one", "two")]
    while not all(file.exists() and file.read_text() for file in told):
        assert command.poll() is None
        time.sleep(0.05)
    workers = [psutil.Process(int(file.read_text())) for file in told]
    command.kill()
    command.wait()
    assert psutil.wait_procs(workers, timeout=30)[1] == []


def test_nothing_is_said_of_what_a_killed_process_left(tmp_path: Path) -> None:
    script = "from test_local import what_became_of\nwhat_became_of(1, 'doomed')\nprint('the last line')"
    said = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"DAGSTER_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout
    assert said.endswith("the last line\n")


def threads(run: DueRun, _: dg.Definitions, instance: dg.DagsterInstance, run_id: str | None = None) -> Carried:
    import torch

    return Carried([str(torch.get_num_threads())], {}, 0.0)


def test_processes_share_the_cores_though_the_main_module_has_computed(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import torch\ntorch.get_num_threads()\n"
        "from test_local import *\n"
        "if __name__ == '__main__':\n"
        "    with Workers(load_study('toy'), os.cpu_count(), definitions_apart, threads) as workers:\n"
        "        ((_, carried),) = carry_out(workers, 'one')\n"
        "    print(carried.made, [name for name in os.environ if name == 'OMP_NUM_THREADS'])\n"
    )
    given = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    said = subprocess.run(
        [sys.executable, script],
        env=given | {"DAGSTER_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    # Their share is no business of the process that started them, nor of those that it starts next.
    assert said == "['1'] []\n"


def test_every_run_that_takes_a_gpu_has_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setenv("SUBLIMINAL_GPU_LOCKS", str(tmp_path / "locks"))
    with Workers(load_study("toy"), 1, definitions_apart, on_one_gpu) as workers:
        assert workers.needed_for(1)
        made = [carried.made for _, carried in carry_out(workers, "one", "two", "plain", "plain", "three", "plain")]
    processes, gpus = zip(*made, strict=True)
    first, second, plain, again, third, last = processes
    assert str(os.getpid()) not in processes
    # What takes none leaves its process to the next; what took one does not.
    assert plain == again == third and len({first, second, third, last}) == 4
    assert gpus == (gpus[0], gpus[0], "None", "None", gpus[0], "None") and gpus[0] != "None"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with Workers(load_study("toy"), 2, definitions_apart, on_one_gpu) as workers:
        assert not workers.needed_for(1) and workers.needed_for(2)


def with_an_engine(run: DueRun, _: dg.Definitions, instance: dg.DagsterInstance, run_id: str | None = None) -> Carried:
    """Takes a GPU, and leaves what stands for an engine open where the run says so and the worker allows it."""
    from subliminal_dagster.science.models import vllm_engine
    from subliminal_dagster.science.models.left_open import may_stay_open

    with leased_gpu() as gpu:
        found = [str(os.getpid()), str(gpu), str(len(vllm_engine._left_open))]
        if run.parts[0].asset == "child":
            vllm_engine.shut_down_left_open()
        elif may_stay_open():
            vllm_engine._left_open[ModelVariant(Path("base")), 0.5, ""] = NoEngine(
                Path(instance.root_directory) / f"{os.getpid()} closed"
            )
    return Carried(found, {}, 0.0)


class NoEngine:
    """Notes in a file that it was shut down."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.llm_engine = self.engine_core = self

    def shutdown(self, timeout: float) -> None:
        self.file.touch()


def test_a_process_with_an_engine_open_goes_on_with_its_asset_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    monkeypatch.setenv("SUBLIMINAL_GPU_LOCKS", str(tmp_path / "locks"))
    numbers, scores = (
        [DueRun("toy", f"{asset} {n}", (Part("toy", asset, str(n), "missing"),)) for n in range(3)]
        for asset in ("number_set", "scores")
    )
    child = DueRun("toy", "child", (Part("toy", "child", None, "missing"),))
    both = DueRun("toy", "both", (*numbers[0].parts, *child.parts))
    queue: list[DueRun | None] = [*numbers, *scores, None, scores[0], child, both, numbers[0]]
    made: dict[int, list[str]] = {}
    with Workers(load_study("toy"), 1, definitions_apart, with_an_engine) as workers:
        while queue:
            for _, carried in workers.carry_out(lambda: queue.pop(0) if queue else None):
                made[len(made)] = carried.made
            # No run for it, and so the GPU is free for others.
            with leased_gpu(wait_message=lambda text: pytest.fail(text)) as gpu:
                assert gpu == made[0][1]
    processes, _, open_before = zip(*made.values(), strict=True)
    of_numbers, of_scores, later = processes[:3], processes[3:6], processes[6:]
    assert len({*of_numbers}) == len({*of_scores}) == 1 and len({of_numbers[0], of_scores[0], *later}) == 6
    assert open_before == ("0", "1", "1", "0", "1", "1", "0", "0", "0", "0")
    closed = {file.name.split()[0] for file in tmp_path.glob("* closed")}
    # The run of two parts left none open; the last one's was closed as all ended.
    assert closed == {of_numbers[0], of_scores[0], later[0], later[3]}


def open_with_others(barrier: threading.Barrier, failed: SimpleQueue[str]) -> None:
    barrier.wait()
    try:
        open_instance().dispose()
    except Exception as error:
        failed.put(repr(error))


def test_processes_that_open_a_new_home_at_once_leave_one_that_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn, count = multiprocessing.get_context("spawn"), 4
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    barrier, failed = spawn.Barrier(count), spawn.SimpleQueue()
    together = [spawn.Process(target=open_with_others, args=(barrier, failed)) for _ in range(count)]
    for process in together:
        process.start()
    for process in together:
        process.join()
    assert failed.empty(), failed.get()
    with open_instance() as instance:
        assert instance.get_runs() == []
