"""Whether constraints.txt can be installed from the package index as it is, by every Python here that we support.

For each of Python 3.11 to 3.13 that is on the PATH or under pyenv, and for each of the extras `dev` and `gpu`, pip
resolves the project's requirements in a dry run that installs nothing. This machine's own pip settings are left out: a
folder of wheels or a second index may hide a conflict, as PyTorch's CPU build hides one about triton. How the index is
reached (PIP_INDEX_URL, PIP_CERT, PIP_PROXY) stays. Exit code 0: all hold; 1: one does not, or could not be tried.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
CONSTRAINTS = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PROJECT / "constraints.txt"
EXTRAS = ("dev", "gpu")
VERSIONS = ("3.11", "3.12", "3.13")
# Everything that changes which files pip considers.
LEFT_OUT = {
    "PIP_FIND_LINKS",
    "PIP_EXTRA_INDEX_URL",
    "PIP_NO_INDEX",
    "PIP_CONSTRAINT",
    "PIP_REQUIREMENT",
    "PIP_PRE",
    "PIP_ONLY_BINARY",
    "PIP_NO_BINARY",
    "PIP_PREFER_BINARY",
}


def interpreter(version: str) -> str | None:
    """The first interpreter of this version that runs and can make an environment."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for candidate in (f"python{version}", *sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")))):
        try:
            if subprocess.run([candidate, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0:
                return candidate
        except OSError:
            continue
    return None


def pip(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(python), "-m", "pip", *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def requirements(extra: str) -> list[str]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> set[str]:
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return {normal(line.split("==")[0]) for line in lines if line and not line.startswith("#")}


def conflict(python: Path, extra: str, report: Path) -> str | None:
    """What is wrong with the pins for this extra, None where they hold."""
    run = pip(
        python, "install", "--dry-run", "--ignore-installed", "--no-cache-dir", "--use-feature=fast-deps",
        "--report", str(report), "--constraint", str(CONSTRAINTS), *requirements(extra),
    )  # fmt: skip
    if run.returncode:
        return "\n" + "\n".join(run.stdout.splitlines()[-20:])  # pip ends with what conflicts with what
    names = {normal(item["metadata"]["name"]) for item in json.loads(report.read_text(encoding="utf-8"))["install"]}
    loose = sorted(names - pinned())
    return f"not in {CONSTRAINTS.name}: {', '.join(loose)}; run scripts/make_pins.sh\n" if loose else None


def main() -> int:
    found = {version: path for version in VERSIONS if (path := interpreter(version))}
    print(f"Python {', '.join(found)} here; not here and not tried: {', '.join(set(VERSIONS) - set(found)) or 'none'}")
    failed = not found
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(len(EXTRAS)) as pool:
        for version, path in found.items():
            folder = Path(work, version)
            subprocess.run([path, "-m", "venv", str(folder)], check=True)
            python = folder / "bin" / "python"
            # The pinned pip reads of each file no more than what it needs; older ones would load gigabytes.
            if (
                run := pip(python, "install", "--quiet", "--constraint", str(CONSTRAINTS), "--upgrade", "pip")
            ).returncode:
                print(run.stdout + "The package index cannot be reached (see pip's message above): no pins were tried.")
                return 1
            reports = [folder / f"{extra}.json" for extra in EXTRAS]
            for extra, fault in zip(EXTRAS, pool.map(conflict, [python] * len(EXTRAS), EXTRAS, reports), strict=True):
                print(f"Python {version} [{extra}]: {'the pins hold' if fault is None else fault.rstrip()}", flush=True)
                failed = failed or fault is not None
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
