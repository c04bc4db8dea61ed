"""Processes of one machine never compute on the same GPU, unless they are told to share it.

No GPU is needed: to the lease a GPU is an entry of CUDA_VISIBLE_DEVICES or a line of nvidia-smi's.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

HOLD = """
import json, os, sys
from subliminal_dagster.execution.gpu_lease import leased_gpu

def seen():
    return [os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER")]

def say(*what):
    print(json.dumps(what), flush=True)

before = seen()
with leased_gpu(int(os.environ.get("SHARE", "1")), lambda text: say("waits", text)) as gpu:
    say("holds", gpu, *seen())
    sys.stdin.readline()
assert seen() == before
say("left")
sys.stdin.readline()
"""


class Machine:
    """Processes on a machine with the given environment; all are killed at the end."""

    def __init__(self, environment: dict[str, str], stack: ExitStack) -> None:
        self.environment = environment
        self._stack = stack

    def start(self, script: str = HOLD, **changes: str) -> Process:
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            env=self.environment | changes,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return Process(process)


class Process:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def says(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def goes_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def is_killed(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Two GPUs; no nvidia-smi."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    environment |= {
        "CUDA_VISIBLE_DEVICES": "GPU-aaa,GPU-bbb",
        "SUBLIMINAL_GPU_LOCKS": str(tmp_path / "locks"),
        "PATH": str(tmp_path / "programs"),
    }
    with ExitStack() as stack:
        yield Machine(environment, stack)


def fake_nvidia_smi(machine: Machine, output: str, exit_code: int = 0) -> None:
    program = Path(machine.environment["PATH"]) / "nvidia-smi"
    program.parent.mkdir()
    asked = "--query-gpu=index,uuid --format=csv,noheader"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = '{asked}' ] || exit 2\nprintf '{output}'\nexit {exit_code}\n")
    program.chmod(0o755)


def test_two_processes_see_different_gpus_and_a_third_waits(machine: Machine) -> None:
    first, second = machine.start(), machine.start()
    held = {process.says()[1]: process for process in (first, second)}
    assert set(held) == {"GPU-aaa", "GPU-bbb"}
    third = machine.start()
    kind, text = third.says()
    assert kind == "waits" and "GPU-aaa" in text and "GPU-bbb" in text
    # However it dies.
    held["GPU-bbb"].is_killed()
    assert third.says() == ["holds", "GPU-bbb", "GPU-bbb", None]
    held["GPU-aaa"].goes_on()
    assert held["GPU-aaa"].says() == ["left"]
    # It left the block and lives on.
    assert machine.start().says()[1] == "GPU-aaa"


def test_processes_share_only_when_told_and_spread_first(machine: Machine) -> None:
    sharing = [machine.start(SHARE="2") for _ in range(2)]
    assert {process.says()[1] for process in sharing} == {"GPU-aaa", "GPU-bbb"}
    sharing = [machine.start(SHARE="2") for _ in range(2)]
    assert {process.says()[1] for process in sharing} == {"GPU-aaa", "GPU-bbb"}
    assert machine.start(SHARE="2").says()[0] == "waits"


@pytest.mark.parametrize("visible", [None, "", " ", "-1", "NoDevFiles"])
def test_no_gpu_is_nothing_to_wait_for(machine: Machine, visible: str | None) -> None:
    del machine.environment["CUDA_VISIBLE_DEVICES"]
    changes = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert machine.start(**changes).says() == ["holds", None, visible, None]
    assert not Path(machine.environment["SUBLIMINAL_GPU_LOCKS"]).exists()


def test_nvidia_smi_says_which_gpus_there_are(machine: Machine) -> None:
    fake_nvidia_smi(machine, r"0, GPU-aaa\n1, GPU-bbb\n")
    del machine.environment["CUDA_VISIBLE_DEVICES"]
    assert {machine.start().says()[1] for _ in range(2)} == {"GPU-aaa", "GPU-bbb"}


def test_one_gpu_under_several_names_is_one(machine: Machine) -> None:
    fake_nvidia_smi(machine, r"0, GPU-aaa1\n1, GPU-bbb1\n")
    assert machine.start(CUDA_VISIBLE_DEVICES="1").says() == ["holds", "GPU-bbb1", "1", "PCI_BUS_ID"]
    for other_name in ("GPU-bbb1", "GPU-bbb", "1,GPU-bbb1"):
        assert machine.start(CUDA_VISIBLE_DEVICES=other_name).says()[0] == "waits"
    # As CUDA has it: what follows an unknown index does not count.
    assert machine.start(CUDA_VISIBLE_DEVICES="7,0").says() == ["holds", None, "7,0", None]


def test_a_lost_gpu_does_not_hide_the_others(machine: Machine) -> None:
    fake_nvidia_smi(machine, r"0, GPU-aaa\nUnable to determine the device handle for GPU1: GPU is lost\n", 15)
    del machine.environment["CUDA_VISIBLE_DEVICES"]
    assert machine.start().says()[1] == "GPU-aaa"


def test_a_driver_that_does_not_run_is_no_gpu(machine: Machine) -> None:
    fake_nvidia_smi(machine, r"NVIDIA-SMI has failed because it could not communicate with the driver.\n", 9)
    del machine.environment["CUDA_VISIBLE_DEVICES"]
    assert machine.start().says() == ["holds", None, None, None]


def test_indices_are_counted_by_slot(machine: Machine) -> None:
    assert machine.start(CUDA_VISIBLE_DEVICES="2,3").says() == ["holds", "2", "2", "PCI_BUS_ID"]
    assert machine.start(CUDA_VISIBLE_DEVICES="3,2").says()[1] == "3"


def test_a_slice_of_a_gpu_is_a_gpu(machine: Machine) -> None:
    slices = "MIG-GPU-aaa/1/0,MIG-0c5c"
    assert {machine.start(CUDA_VISIBLE_DEVICES=slices).says()[1] for _ in range(2)} == set(slices.split(","))


def test_blocks_in_blocks_get_the_same_gpu(machine: Machine) -> None:
    script = """
import os
from subliminal_dagster.execution.gpu_lease import leased_gpu
with leased_gpu() as outer:
    for _ in range(2):
        with leased_gpu() as inner:
            assert inner == outer == os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aaa"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aaa"
assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aaa,GPU-bbb"
print('"done"', flush=True)
"""
    assert machine.start(script).says() == "done"


CUDA_STARTS = """
import json, sys
from types import ModuleType, SimpleNamespace
from subliminal_dagster.execution.gpu_lease import leased_gpu
started = False
# Torch as far as the lease knows it; a machine without a GPU cannot start CUDA.
sys.modules["torch"] = ModuleType("torch")
sys.modules["torch"].cuda = SimpleNamespace(is_initialized=lambda: started)
with leased_gpu() as first:
    started = True
print(json.dumps(first), flush=True)
sys.stdin.readline()
with leased_gpu() as second:
    print(json.dumps(second), flush=True)
"""


def test_a_process_that_started_cuda_keeps_its_gpu_until_it_ends(machine: Machine) -> None:
    process = machine.start(CUDA_STARTS, CUDA_VISIBLE_DEVICES="GPU-aaa")
    assert process.says() == "GPU-aaa"
    waiting = machine.start(CUDA_VISIBLE_DEVICES="GPU-aaa")
    assert waiting.says()[0] == "waits"
    process.goes_on()
    assert process.says() == "GPU-aaa"
    assert waiting.says()[:2] == ["holds", "GPU-aaa"]


def test_a_process_takes_its_first_gpu_again(machine: Machine) -> None:
    script = HOLD + HOLD.partition("leased_gpu\n")[2]
    process = machine.start(script)
    assert process.says()[1] == "GPU-aaa"
    process.goes_on()
    assert process.says() == ["left"]
    other = machine.start()
    assert other.says()[1] == "GPU-aaa"
    process.goes_on()
    assert process.says()[0] == "waits"
    other.is_killed()
    assert process.says()[1] == "GPU-aaa"


# The interpreter may lie where only root can read.
AS_NOBODY = """
import json, os
from subliminal_dagster.execution.gpu_lease import leased_gpu
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_other_users_of_the_machine_take_part(machine: Machine) -> None:
    # Not tmp_path, which no other user may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        machine.environment["SUBLIMINAL_GPU_LOCKS"] = f"{folder}/locks"
        holder = machine.start(CUDA_VISIBLE_DEVICES="GPU-aaa")
        assert holder.says()[0] == "holds"
        assert stat.S_IMODE(Path(folder, "locks").stat().st_mode) == 0o1777
        assert [stat.S_IMODE(path.stat().st_mode) for path in Path(folder, "locks").iterdir()] == [0o666]
        assert machine.start(AS_NOBODY + HOLD).says()[:2] == ["holds", "GPU-bbb"]
        waiting = machine.start(AS_NOBODY + HOLD)
        assert waiting.says()[0] == "waits"
        # The lock of GPU-bbb is nobody's own file, and root respects it.
        assert machine.start(CUDA_VISIBLE_DEVICES="GPU-bbb").says()[0] == "waits"
        holder.is_killed()
        assert waiting.says()[:2] == ["holds", "GPU-aaa"]


def test_a_folder_of_locks_that_cannot_be_used_is_named(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    script = """
import json
from subliminal_dagster.execution.gpu_lease import leased_gpu
from subliminal_dagster.science.errors import UserError
try:
    with leased_gpu():
        pass
except UserError as error:
    print(json.dumps(str(error)), flush=True)
"""
    said = machine.start(script, SUBLIMINAL_GPU_LOCKS=str(tmp_path / "file")).says()
    assert str(tmp_path / "file") in said and "SUBLIMINAL_GPU_LOCKS" in said
