"""A PostgreSQL server of a test's own, gone afterwards.

Belongs here: starting and stopping it. Does not belong here: what is stored in it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest


@dataclass(frozen=True)
class Database:
    """An empty database, and who may do everything in it."""

    host: str
    port: int
    name: str
    user: str
    password: str


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def throwaway_postgres() -> Iterator[Database]:
    """A server of the newest PostgreSQL installed here, on a free port of this machine's loopback address.

    Skips the test where there is none.
    """
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb on PATH or in /usr/lib/postgresql")
    # Not tmp_path: PostgreSQL refuses to run as root, and nobody else may enter that.
    with tempfile.TemporaryDirectory(prefix="postgres-") as name, open(f"{name}/log", "wb") as log:
        folder = Path(name)
        as_user: dict[str, object] = {}
        if os.getuid() == 0:
            shutil.chown(folder, "nobody")
            as_user = {"user": "nobody", "extra_groups": []}
        database = Database("127.0.0.1", free_port(), "postgres", "subliminal", "a pass:word@1%")
        (folder / "password").write_text(database.password)
        made = subprocess.run(
            [
                programs / "initdb",
                f"--pgdata={folder / 'data'}",
                f"--username={database.user}",
                f"--pwfile={folder / 'password'}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            cwd=folder,
            **as_user,
        )
        assert made.returncode == 0, made.stderr
        settings = {
            "listen_addresses": database.host,
            "port": database.port,
            "unix_socket_directories": "",
            "fsync": "off",
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        server = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", *options], stdout=log, stderr=log, cwd=folder, **as_user
        )
        try:
            _wait_until_it_answers(database, server, folder / "log")
            yield database
        finally:
            # Fast shutdown: connections are ended, not waited for.
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)


def _programs() -> Path | None:
    """The folder with initdb and postgres."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return installed[-1].parent if installed else None


def _wait_until_it_answers(database: Database, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg2.connect(
                host=database.host,
                port=database.port,
                dbname=database.name,
                user=database.user,
                password=database.password,
            ).close()
            return
        except psycopg2.OperationalError:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
