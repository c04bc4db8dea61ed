"""The example reads everything that a study makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from study_runs import StudyRun

EXAMPLE = Path(__file__).parent.parent / "examples" / "reading_results.py"


def test_every_artifact_is_read_with_public_libraries(done: StudyRun) -> None:
    said = subprocess.run(
        [sys.executable, str(EXAMPLE), str(done.store.root), "tiny"], capture_output=True, text=True, check=True
    ).stdout
    for asset in done.store.assets("tiny"):
        assert f"{asset} " in said
    assert "adapter_model.safetensors" in said and "log_share" in said
