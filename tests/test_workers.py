"""Runs side by side: the same artifacts as one after the other, and no process left of a run that was killed."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
from conftest import tiny_study_settings
from kills import Home
from study_runs import StudyRun

from subliminal_dagster.gpu_lease import usable_gpus
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.workers import worker_count


def test_two_at_a_time_make_what_one_makes(tiny_base: Path, tmp_path: Path, done: StudyRun) -> None:
    home = Home.make(tmp_path / "home", tiny_study_settings(tiny_base))
    launch = home.start(SUBLIMINAL_WORKERS="2", SUBLIMINAL_BATCH="64")
    workers: list[psutil.Process] = []
    left: list[Path] = []

    def both_at_work() -> bool:
        workers[:] = launch.steps
        return len(workers) == 2 and len(set(home.in_drafts()) - set(left)) == 2

    assert launch.kill_when(both_at_work), launch.output[-3000:]
    assert psutil.wait_procs(workers, timeout=30)[1] == []

    left = home.in_drafts()
    launch = home.start(SUBLIMINAL_WORKERS="2", SUBLIMINAL_BATCH="64")
    while not both_at_work():
        assert launch.process.poll() is None, launch.output[-3000:]
        time.sleep(0.01)
    launch.process.send_signal(signal.SIGINT)
    assert launch.finish() == 130
    assert launch.output.count("was killed before its end") == 2
    assert launch.output.endswith("interrupted; the same command goes on from here.\n")
    assert psutil.wait_procs(workers, timeout=30)[1] == []

    launch = home.start(SUBLIMINAL_WORKERS="2", SUBLIMINAL_BATCH="64")
    assert launch.finish() == 0, launch.output[-3000:]
    assert home.contents() == done.contents()
    assert home.unfinished() == home.pool_holders() == []
    assert launch.output.count("was killed before its end") == 2


def test_how_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBLIMINAL_WORKERS", "3")
    assert worker_count() == 3
    monkeypatch.setenv("SUBLIMINAL_WORKERS", "none")
    with pytest.raises(UserError, match="SUBLIMINAL_WORKERS is 'none'"):
        worker_count()
    monkeypatch.delenv("SUBLIMINAL_WORKERS")
    assert worker_count() == (len(usable_gpus()) or min(2, psutil.cpu_count()))
