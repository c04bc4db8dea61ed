"""`dagster`, run as a script, with a daemon that looks for backfills every other second; its own half minute is set
nowhere.

Belongs here: that one number, for `dagster dev` and the daemon it starts. Does not belong here: anything tested.
"""

from __future__ import annotations

import sys
from typing import Any

from dagster import _cli
from dagster._cli import dev
from dagster._daemon import cli as daemon_cli
from dagster._daemon import controller

_SECONDS = 2
_start = dev.open_ipc_subprocess


def _start_quick(command: list[str], **options: Any) -> Any:
    """As `dagster dev` starts its web server and its daemon, but the daemon by this script."""
    if command[1:3] == ["-m", "dagster._daemon"]:
        command = [command[0], __file__, "daemon", *command[3:]]
    return _start(command, **options)


if __name__ == "__main__":
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = _SECONDS
    dev.open_ipc_subprocess = _start_quick
    if sys.argv[1] == "daemon":
        del sys.argv[1]
        daemon_cli.main()
    else:
        _cli.main()
