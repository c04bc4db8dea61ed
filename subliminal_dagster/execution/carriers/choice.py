"""Which carrier the environment names.

    SUBLIMINAL_CARRIER           local (the default), slurm, ray or dagster
    SUBLIMINAL_CARRIER_SETTINGS  a YAML file with that carrier's settings (see its module)

Belongs here: the choice. Does not belong here: any one carrier.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from subliminal_dagster.execution.carriers.apart import RunsApart
from subliminal_dagster.execution.carriers.local import Workers, worker_count
from subliminal_dagster.execution.carriers.protocol import Carrier
from subliminal_dagster.planning.frame import Frame, LaunchTags, no_launch_tags
from subliminal_dagster.science.errors import UserError, meant

CARRIER = "SUBLIMINAL_CARRIER"
SETTINGS = "SUBLIMINAL_CARRIER_SETTINGS"
KNOWN = ("local", "slurm", "ray", "dagster")

SettingsT = TypeVar("SettingsT", bound=BaseModel)


def carrier_name() -> str:
    """The carrier that the environment names. Raises UserError where there is none of that name."""
    name = os.environ.get(CARRIER) or "local"
    if name not in KNOWN:
        raise UserError(f"{CARRIER} is {name!r}: set it to {', '.join(KNOWN[:-1])} or {KNOWN[-1]}.{meant(name, KNOWN)}")
    return name


def chosen_carrier(frame: Frame, runs: RunsApart) -> Carrier:
    """The carrier that the environment names, with its settings.

    Raises UserError where its settings cannot be used or what it needs is not installed.
    """
    name = carrier_name()
    if name == "slurm":
        from subliminal_dagster.execution.carriers.slurm import Slurm, SlurmSettings

        return Slurm(frame, runs, settings_of(SlurmSettings))
    if name == "ray":
        from subliminal_dagster.execution.carriers.ray import Ray, RaySettings

        return Ray(frame, runs, settings_of(RaySettings))
    if name == "dagster":
        from subliminal_dagster.execution.carriers.launcher import Launcher
        from subliminal_dagster.execution.carriers.launcher_settings import LauncherSettings

        return Launcher(frame, runs, settings_of(LauncherSettings))
    return Workers(frame.study, worker_count(), runs.definitions_of, runs.execute)


def launch_tags() -> LaunchTags:
    """What launchers are told of assets that are launched in Dagster's UI: nothing, unless the carrier is `dagster`.

    Raises UserError where its settings cannot be used.
    """
    from subliminal_dagster.execution.carriers.launcher_settings import LauncherSettings

    return settings_of(LauncherSettings).tags_of if carrier_name() == "dagster" else no_launch_tags


def settings_of(kind: type[SettingsT]) -> SettingsT:
    """The settings in the file that SUBLIMINAL_CARRIER_SETTINGS names; without, the carrier's own defaults.

    Raises UserError, with the file and the field, for what cannot be used.
    """
    file = os.environ.get(SETTINGS)
    content: Any = {}
    if file:
        try:
            content = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{SETTINGS} is {file!r}, which cannot be read ({why}): name a YAML file.") from None
        except yaml.YAMLError as error:
            raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return kind.model_validate(content or {})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{file}: {field}" if field else str(file or f"{SETTINGS}, which is not set")
        raise UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}.") from None
