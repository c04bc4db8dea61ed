"""The examples read what a study makes, with public libraries alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from study_runs import StudyRun

EXAMPLES = Path(__file__).parent.parent / "examples"
EXAMPLE, NOTEBOOK = EXAMPLES / "reading_results.py", EXAMPLES / "results.ipynb"


def test_every_artifact_is_read_with_public_libraries(done: StudyRun) -> None:
    said = subprocess.run(
        [sys.executable, str(EXAMPLE), str(done.store.root), "tiny"], capture_output=True, text=True, check=True
    ).stdout
    for asset in done.store.assets("tiny"):
        assert f"{asset} " in said
    assert "adapter_model.safetensors" in said and "log_share" in said


def test_the_notebook_reads_any_study_and_was_executed(done: StudyRun, tmp_path: Path) -> None:
    """Its cells in order, in a process of their own, where this package cannot be imported."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]
    code = "\n".join(["import sys", "sys.modules['subliminal_dagster'] = None", *("".join(c["source"]) for c in cells)])
    places = {"STUDY": "tiny", "SUBLIMINAL_ARTIFACTS": str(done.store.root), "MPLBACKEND": "agg"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | places, cwd=tmp_path, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert "hard channel: " in said.stdout
    names = {file.name for file in (tmp_path / "exported").iterdir()}
    assert names == {"gamma.csv", "liking.csv", "next_words.csv", "tests.csv"}
    live = pd.read_csv(tmp_path / "exported" / "next_words.csv", index_col=0)
    np.testing.assert_allclose(live.sum(), 100, rtol=1e-4)
