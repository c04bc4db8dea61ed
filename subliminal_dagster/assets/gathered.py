"""What an asset that brings groups together writes beside its result.

Belongs here: content that at least two such assets write alike. Does not belong here: how it is shown (`shared`).
"""

import json
from pathlib import Path
from typing import Any

from subliminal_dagster.execution.work import Work


def write_left_out(work: Work[Any], folder: Path) -> None:
    """Write, and show, which groups a gate refused, and why."""
    (folder / "left_out.json").write_text(json.dumps(work.left_out, indent=2) + "\n", encoding="utf-8")
    work.metadata["left_out"] = work.left_out
