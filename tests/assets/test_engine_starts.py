"""How often an asset loads a model: on a card every start takes minutes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import dagster as dg
import pytest
from study_runs import StudyRun

from subliminal_dagster.resources import EngineResource
from subliminal_dagster.science.models.protocol import ModelVariant, Progress
from subliminal_dagster.science.models.transformers_engine import TransformersEngine, TransformersSession


@dataclass(frozen=True)
class CountedEngine(TransformersEngine):
    """Notes every start."""

    started: ClassVar[list[ModelVariant]] = []

    @contextmanager
    def open(self, model: ModelVariant, progress: Progress | None = None) -> Iterator[TransformersSession]:
        self.started.append(model)
        with super().open(model, progress) as session:
            yield session


class CountedEngineResource(EngineResource):
    """Hands out the engine that counts."""

    def create(self, *, for_more: bool = False) -> CountedEngine:
        return CountedEngine()


@pytest.mark.parametrize(
    ("asset", "partition"),
    [
        ("teacher_preferences", "owl"),
        ("teacher_preferences", "control"),
        ("preference_scores", "owl|1"),
    ],
)
def test_an_asset_starts_its_engine_once(done: StudyRun, tmp_path: Path, asset: str, partition: str | None) -> None:
    before = done.store.read("tiny", asset, partition).content_hash
    CountedEngine.started.clear()
    with dg.DagsterInstance.ephemeral() as instance:
        run = replace(done.copy(tmp_path, instance), resources={"engine": CountedEngineResource()})
        assert run.materialize(asset, partition).success
    assert len(CountedEngine.started) == 1
    assert run.store.read("tiny", asset, partition).content_hash == before
