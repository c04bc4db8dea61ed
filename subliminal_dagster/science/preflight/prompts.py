"""The wording that a study asks with: whether it is on this machine.

Belongs here: looking. Does not belong here: importing and reading the lists (`preferences`).

Part of no version: what a user is told is no result.
"""

from __future__ import annotations

from pathlib import Path

from subliminal_dagster.science.preflight.finding import Finding

CHECK = "prompts"
PUBLISHED = "published"


def check_prompts(wording: str | None, imported: Path) -> Finding:
    """`wording`: None for this package's own lists, "published" for those of the original code, which an import puts
    into the file `imported`, or the path of a file of the user's."""
    if wording is None:
        return Finding(CHECK, "ok", "the package's own")
    if wording != PUBLISHED:
        return Finding(CHECK, "ok", f"those of {wording}")
    if imported.is_file():
        return Finding(CHECK, "ok", f"the published ones, in {imported}")
    return Finding(
        CHECK,
        "failed",
        f"The study asks with the published prompts and {imported} is not there: import them from a checkout of the "
        "original code (subliminal-dagster prompts import FOLDER).",
    )
