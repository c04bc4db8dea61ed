"""What processes are told when they start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from subliminal_dagster.science.processes import HUGE_PAGES, SHARED_CORES, cores_here, keep_memory

FAULTS = """
import resource
import torch
def of():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
of()
print(of())
"""


def faults(**environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_what_is_freed_is_kept() -> None:
    """Twenty tensors of 64 MB, one after the other: each page of each comes anew, or none does."""
    assert faults(GLIBC_TUNABLES="") > 20 * 64_000_000 / 4096 / 2
    assert faults(GLIBC_TUNABLES=HUGE_PAGES) < 100


def test_a_user_s_own_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    keep_memory()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1"
    monkeypatch.delenv("GLIBC_TUNABLES")
    keep_memory()
    assert os.environ.get("GLIBC_TUNABLES") == (HUGE_PAGES if sys.platform == "linux" else None)


def test_the_scripts_say_the_same() -> None:
    text = (Path(__file__).parents[2] / "scripts" / "env.sh").read_text()
    assert f'GLIBC_TUNABLES="${{GLIBC_TUNABLES-{HUGE_PAGES}}}"' in text


def test_beside_others_a_process_may_use_what_they_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SHARED_CORES, raising=False)
    assert cores_here() == torch.get_num_threads()
    monkeypatch.setenv(SHARED_CORES, "7")
    assert cores_here() == 7
