"""The job that makes a whole study: what is due, whatever its partitions, in one launch."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest
from study_runs import StudyRun, changed

from subliminal_dagster.partitions import job_name


def test_it_makes_what_is_due_and_says_what_it_could_not(
    done: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = done.copy(tmp_path, instance)
        monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(run.store.root))
        shutil.rmtree(Path(run.store.root) / "tiny" / "report")
        shutil.rmtree(Path(run.store.root) / "tiny" / "preference_scores" / "owl@1")
        before = run.contents()
        made = run.definitions.resolve_job_def(job_name("tiny", "make")).execute_in_process(instance=instance)
        assert made.success and not run.plan().due
        assert {**run.contents(), **before} == run.contents()
        # The job's own run, the child's scores and the report.
        assert len(instance.get_runs()) == 3

        strict = done.copy(tmp_path / "strict", instance, changed(done.study, teacher__gate__preference=1.0))
        monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(strict.store.root))
        job = strict.definitions.resolve_job_def(job_name("tiny", "make"))
        failed = job.execute_in_process(instance=instance, raise_on_error=False)
        (step,) = failed.get_step_failure_events()
        assert "was refused" in str(step.step_failure_data)
