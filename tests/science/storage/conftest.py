"""Stores to write to: `<tmp_path>/root` is the root of a local one, `<tmp_path>/cache` the cache of a remote one."""

from __future__ import annotations

import hashlib
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from subliminal_dagster.science.storage.store import ArtifactStore


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest) -> ArtifactStore:
    """One of each kind."""
    found: ArtifactStore = request.getfixturevalue("local_store" if request.param == "local" else "remote_store")
    return found


@pytest.fixture
def local_store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "root"))


@pytest.fixture
def remote_store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"memory://{uuid.uuid4().hex}/root", cache_dir=tmp_path / "cache")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 1 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed."""
    names: list[str] = []
    digest: Any = hashlib.file_digest

    def note(file: Any, kind: str) -> Any:
        names.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", note)
    return names
