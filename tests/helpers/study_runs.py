"""Running a study in a test: its definitions on a store of the test's own, and what came of it.

Belongs here: what several test files need to run a study. Does not belong here: tests, what a tiny study says
(`tiny_studies`).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from subliminal_dagster.build import build_defs, study_frame
from subliminal_dagster.execution.listening import Sentences
from subliminal_dagster.execution.runner import Outcome, run_study
from subliminal_dagster.planning.planner import Plan, make_plan
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.resources import StoreResource
from subliminal_dagster.science.settings.study import AnyStudy
from subliminal_dagster.science.storage.store import ArtifactStore


def changed(study: AnyStudy, **fields: Any) -> Any:
    """The study with fields set, nested ones with double underscores: child__training__epochs=5."""
    content = study.model_dump(mode="json")
    for path, value in fields.items():
        *outer, last = path.split("__")
        place = content
        for name in outer:
            place = place[name]
        place[last] = value
    return type(study).model_validate(content)


@dataclass
class StudyRun:
    """A study, the store its artifacts lie in and the instance it runs on."""

    study: Any
    store: ArtifactStore
    instance: dg.DagsterInstance
    lines: list[str] = field(default_factory=list)
    resources: Mapping[str, Any] = field(default_factory=dict)
    checked: bool = False

    @property
    def definitions(self) -> dg.Definitions:
        overrides = {"store": StoreResource(root=self.store.root), **self.resources}
        return build_defs(studies=[self.study], resource_overrides=overrides, checked=self.checked)

    def plan(self) -> Plan:
        """Of what is made without being asked for."""
        frame = study_frame(self.study)
        return make_plan(frame, self.store).limited_to(frame.usual_parts(), frame)

    def run(self, wanted: Collection[Input] | None = None) -> Outcome:
        """`wanted`: what is made without being asked for, unless given."""
        frame = study_frame(self.study)
        wanted = frame.usual_parts() if wanted is None else wanted
        return run_study(frame, self.definitions, self.store, self.instance, Sentences(self.lines.append), wanted)

    def materialize(self, asset: str, partition: str | None = None) -> dg.ExecuteInProcessResult:
        """One asset alone, as a person launches it, whatever the plan says."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        key = dg.AssetKey([self.study.name, asset])
        return job.get_subset(asset_selection={key}).execute_in_process(
            instance=self.instance, partition_key=partition, raise_on_error=False
        )

    def contents(self) -> dict[Input, str]:
        """The content hash of every artifact there is, but for the report, which tells how long everything took."""
        frame = study_frame(self.study)
        return {
            (name, partition): self.store.read(self.study.name, name, partition).content_hash
            for name in set(frame.nodes) - {"report"}
            for partition in frame.partitions(name)
            if self.store.exists(self.study.name, name, partition)
        }

    def copy(self, folder: Path, instance: dg.DagsterInstance, study: AnyStudy | None = None) -> StudyRun:
        """The same artifacts in a folder of their own, for a test that changes them."""
        shutil.copytree(Path(self.store.root), folder, dirs_exist_ok=True)
        return StudyRun(study or self.study, ArtifactStore(folder), instance, resources=self.resources)


def refusal(result: dg.ExecuteInProcessResult) -> str:
    """The sentence with which a run's one failed step ended: of a gate its check's."""
    (failure,) = result.get_step_failure_events()
    data = failure.step_failure_data.user_failure_data
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert (data is None) == bool(failed)
    return str(data.description if data else failed[0].description)


def gate_between(run: StudyRun) -> tuple[str, str, float]:
    """The animal whose teacher likes it more, the one whose teacher likes it less, and a preference in between."""
    import pandas as pd

    from subliminal_dagster.science.preferences.preferences import mean_probability

    liking = {}
    for animal in run.study.animals:
        folder = run.store.read(run.study.name, "teacher_preferences", animal).path
        liking[animal] = mean_probability(pd.read_parquet(folder / "scores.parquet"), animal)
    good, bad = sorted(liking, key=lambda animal: -liking[animal])
    return good, bad, (liking[good] + liking[bad]) / 2
