"""A `dagster dev` of a test's own, which waits for little, gone afterwards with all that it started.

Belongs here: its settings, starting and stopping it. Does not belong here: what is asked of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from postgres import free_port

_HERE = Path(__file__).parent
_STARTS_WITHIN_SECONDS = 180


def write_quick_settings(home: Path) -> None:
    """The project's dagster.yaml in this DAGSTER_HOME, but for two animals at once and runs that start soon."""
    settings = yaml.safe_load((_HERE.parents[1] / "dagster.yaml").read_text())
    settings["concurrency"]["pools"]["default_limit"] = 2
    soon = {"module": "dagster", "class": "QueuedRunCoordinator", "config": {"dequeue_interval_seconds": 1}}
    settings["run_coordinator"] = soon
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))


@contextmanager
def dagster_dev(environment: Mapping[str, str], module: str = "subliminal_dagster.definitions") -> Iterator[str]:
    """The address of one in this environment, whose DAGSTER_HOME gets its log; it answers, but its code location, which
    has the project's name for it, may still be loading."""
    home = Path(environment["DAGSTER_HOME"])
    port = str(free_port())
    address, log = f"http://127.0.0.1:{port}", home / "dev.log"
    (place,) = yaml.safe_load((_HERE.parents[1] / "workspace.yaml").read_text())["load_from"]
    place["python_module"]["module_name"] = module
    workspace = home / "workspace.yaml"
    workspace.write_text(yaml.safe_dump({"load_from": [place]}))
    command = [sys.executable, str(_HERE / "quick_dagster.py"), "dev", "-w", str(workspace), "-h", "127.0.0.1"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "-p", port], env=environment, cwd=home, stdout=out, stderr=out, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _STARTS_WITHIN_SECONDS
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{address}/server_info", timeout=5):
                break
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
