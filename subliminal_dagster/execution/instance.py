"""The Dagster instance of DAGSTER_HOME, for commands and their workers.

Belongs here: opening it. Does not belong here: what is asked of it.
"""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
from filelock import FileLock
from yaml import YAMLError

from subliminal_dagster.science.errors import UserError

_LONGEST_REASON = 300
_OPENS_WITHIN_SECONDS = 120


def open_instance() -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME, whose folder and settings are made where they are missing.

    Raises UserError where the folder cannot be made or its settings cannot be used.
    """
    home = Path(os.environ["DAGSTER_HOME"])
    settings = home / "dagster.yaml"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not settings.exists():
            settings.write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"DAGSTER_HOME is {str(home)!r} and cannot be made ({error.strerror}): set it to a folder."
        ) from None
    try:
        # Two processes that find no databases would both make them and mark them with two versions, and Dagster never
        # opens such a database again.
        with FileLock(home / ".opening.lock", timeout=_OPENS_WITHIN_SECONDS):
            return dg.DagsterInstance.get()
    except OSError as error:
        raise UserError(
            f"DAGSTER_HOME is {str(home)!r} and cannot be opened ({error.strerror or error}): set it to a folder that "
            "this process may write to and that no other process keeps locked."
        ) from None
    except (YAMLError, dg.DagsterError) as error:
        why = " ".join(str(error).split())[:_LONGEST_REASON]
        raise UserError(f"{settings} cannot be used; mend it or remove it: {why}") from None
