"""Set-up as a user has it: the pins, and the scripts from any folder. Nothing is installed here; scripts/check_pins.py
asks pip."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import subliminal_dagster

PROJECT = Path(subliminal_dagster.__file__).parent.parent
LINUX = {"sys_platform": "linux"}


def pins() -> list[Requirement]:
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("extra", ["dev", "docs", "gpu", "node"])
def test_every_requirement_has_one_pin_that_it_allows(extra: str) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins()}
    for line in project["dependencies"] + project["optional-dependencies"][extra]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)], prereleases=True), line


def test_pins_are_exact_and_name_no_address() -> None:
    for pin in pins():
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin
        assert pin.url is None
    assert "://" not in (PROJECT / "constraints.txt").read_text(encoding="utf-8")


def test_what_only_linux_has_is_asked_of_linux_alone() -> None:
    for pin in pins():
        if pin.name.startswith("nvidia-") or pin.name in ("triton", "vllm"):
            assert pin.marker is not None and pin.marker.evaluate(LINUX), pin
            assert not pin.marker.evaluate({"sys_platform": "darwin"}), pin


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The scripts of a clone whose path has blanks, with an environment that is installed already: this one."""
    clone = tmp_path / "a clone"
    shutil.copytree(PROJECT / "scripts", clone / "scripts")
    for name in ("pyproject.toml", "constraints.txt", "dagster.yaml", "workspace.yaml"):
        shutil.copy(PROJECT / name, clone)
    (clone / ".venv").mkdir()
    (clone / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    wanted = subprocess.run("cat pyproject.toml constraints.txt | cksum", shell=True, cwd=clone, capture_output=True)
    (clone / ".venv" / ".installed").write_text(f"{wanted.stdout.decode().strip()} dev\n")
    return clone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's own folder."""
    folder = tmp_path / "my studies"
    folder.mkdir()
    return folder


def bash(folder: Path, *command: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = (
        name for name in os.environ if not name.startswith("SUBLIMINAL_") and name not in ("DAGSTER_HOME", "PYTHON")
    )
    environment = {name: os.environ[name] for name in kept}
    environment |= {"PYTHONPATH": str(PROJECT), **settings}
    return subprocess.run(["bash", *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)


SHOW = 'set -euo pipefail; source "$0"; pwd; echo "$DAGSTER_HOME"; command -v subliminal-dagster'


def test_env_leaves_the_user_where_they_are(clone: Path, folder: Path) -> None:
    run = bash(folder, "-c", SHOW, "../a clone/scripts/env.sh", CDPATH=str(clone.parent))
    assert run.stdout.splitlines() == [
        str(folder),
        str(clone / ".dagster_home"),
        str(clone / ".venv" / "bin" / "subliminal-dagster"),
    ], run.stderr
    assert (clone / ".dagster_home" / "dagster.yaml").read_text() == (clone / "dagster.yaml").read_text()


def test_a_relative_dagster_home_is_one_beside_the_user(clone: Path, folder: Path) -> None:
    run = bash(folder, "-c", SHOW, clone / "scripts/env.sh", DAGSTER_HOME="my home")
    assert run.stdout.splitlines()[1] == str(folder / "my home"), run.stderr
    assert (folder / "my home" / "dagster.yaml").exists()


def test_a_dagster_home_that_cannot_be_is_named(clone: Path, folder: Path) -> None:
    (folder / "file").write_text("")
    run = bash(folder, "-c", SHOW, clone / "scripts/env.sh", DAGSTER_HOME="file/home")
    assert run.returncode == 2
    assert "DAGSTER_HOME is file/home" in run.stderr


def test_another_python_is_refused_with_what_to_do(clone: Path, folder: Path) -> None:
    (clone / ".venv" / ".installed").unlink()
    run = bash(folder, "-c", SHOW, clone / "scripts/env.sh", PYTHON="false")
    assert run.returncode == 2
    assert "set PYTHON" in run.stderr


def test_a_study_file_is_looked_for_beside_the_user(clone: Path, folder: Path) -> None:
    """A file that says too little: its own faults are named, so it was found."""
    (folder / "mine.yaml").write_text("name: mine\n")
    run = bash(folder, clone / "scripts/study.sh", "--study", "mine.yaml")
    assert run.returncode == 2
    assert "mine.yaml" in run.stderr and "base_model" in run.stderr, run.stderr
    assert bash(folder, clone / "scripts/study.sh", "--study", "other.yaml").returncode == 2
