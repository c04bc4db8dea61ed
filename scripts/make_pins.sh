#!/usr/bin/env bash
# Resolve constraints.txt anew: one file for the extras `dev` and `gpu`, for Python 3.11 to 3.13 and every platform listed
# under [tool.uv] in pyproject.toml. Versions that can stay do; arguments go to `uv pip compile`:
#   scripts/make_pins.sh                                what pyproject.toml needs, with as little change as that takes
#   scripts/make_pins.sh --upgrade-package trl          a newer version of one package
#   scripts/make_pins.sh --upgrade                      newer versions of everything
# Afterwards scripts/check_pins.py asks pip itself.
set -euo pipefail
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv packaging

# What uv reads as the present versions, and writes; the real file is replaced once, at the end.
cp constraints.txt "$work/resolved.txt"
"$work/venv/bin/uv" pip compile pyproject.toml --extra dev --extra gpu --universal --python-version 3.11 \
    --no-header --no-annotate --quiet --output-file "$work/resolved.txt" "$@"

# uv spells out every platform on every line. Shorter, and the same for the platforms we support: no marker where all of
# them need the package, one word where all kinds of Linux do.
"$work/venv/bin/python" - "$work/resolved.txt" > "$work/constraints.txt" <<'PYTHON'
import sys
from packaging.requirements import Requirement

PLATFORMS = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]
TARGETS = [(system, machine, python) for system, machine in PLATFORMS for python in ("3.11", "3.12", "3.13")]
LINUX = [target for target in TARGETS if target[0] == "linux"]


def wanted(requirement, system, machine, python):
    return requirement.marker is None or requirement.marker.evaluate(
        {
            "sys_platform": system,
            "platform_system": system.capitalize(),
            "platform_machine": machine,
            "python_version": python,
            "python_full_version": f"{python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }
    )


print("# Exact versions of everything the extras `dev` and `gpu` bring in, on Linux (x86-64, aarch64) and macOS (arm64), on")
print("# Python 3.11 to 3.13. Made by scripts/make_pins.sh; pip takes the file with --constraint, and installs of it only")
print("# what is asked for.")
for line in open(sys.argv[1], encoding="utf-8"):
    if not line.strip() or line.startswith("#"):
        continue
    requirement = Requirement(line.strip())
    targets = [target for target in TARGETS if wanted(requirement, *target)]
    pin = f"{requirement.name}{requirement.specifier}"
    if targets == TARGETS:
        print(pin)
    elif targets == LINUX:
        print(f"{pin} ; sys_platform == 'linux'")
    else:
        print(line.strip())
PYTHON
cp "$work/constraints.txt" constraints.txt
