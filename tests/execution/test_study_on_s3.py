"""A study whose artifacts lie on an object store comes out as one on a disk."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from s3_server import BUCKET, s3_server
from study_runs import StudyRun

from subliminal_dagster.science.storage.store import ArtifactStore


def test_the_same_content_whatever_it_lies_on(done: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = {("teacher_lora", "owl"), ("base_preferences", None)}
    with s3_server(), dg.DagsterInstance.ephemeral() as instance:
        run = StudyRun(done.study, ArtifactStore(f"s3://{BUCKET}/store"), instance)
        outcome = run.run(wanted)
        assert outcome.complete, outcome
        assert set(outcome.made) == {("base_model", None), ("replay_set", None), *wanted}
        for name, partition in outcome.made:
            found = run.store.manifest("tiny", name, partition).content_hash
            assert found == done.store.manifest("tiny", name, partition).content_hash
        assert run.run(wanted).made == []
