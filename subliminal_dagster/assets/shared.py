"""What every asset of a study does alike: its key and version, writing to the store, reporting, explaining errors.

Belongs here: code that at least two asset modules need. Does not belong here: anything about one experiment.
"""

from __future__ import annotations

import base64
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from subliminal_dagster.partitions import group_partitions
from subliminal_dagster.science.content_hash import file_content_hash, json_hash
from subliminal_dagster.science.engines.protocol import Progress
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.prompt_lists import OWN_LISTS
from subliminal_dagster.science.store import Artifact, ArtifactStore
from subliminal_dagster.science.study import Study

if TYPE_CHECKING:
    import pandas as pd

    from subliminal_dagster.science.training import TrainingReport

GPU_POOL = "gpu"
_REPORT_EVERY_SECONDS = 10


@dataclass(frozen=True)
class Frame:
    """One study as Dagster sees it: its partitions object and the arguments all its assets share."""

    study: Study
    groups: dg.StaticPartitionsDefinition = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", group_partitions(self.study))

    def key(self, name: str) -> dg.AssetKey:
        return dg.AssetKey([self.study.name, name])

    def spec(
        self, name: str, stage: str, reads: list[str], deps: list[str], kinds: set[str], *, partitioned: bool, gpu: bool
    ) -> dict[str, Any]:
        """Arguments for `@dg.asset`.

        `reads` are the study's fields the asset's result depends on ("child.lora"): their values are its code version,
        so a change of one of them makes this asset stale and no other.
        """
        return {
            "key": self.key(name),
            "group_name": stage,
            "deps": [self.key(dep) for dep in deps],
            "kinds": kinds,
            "owners": ["team:interpretability"],
            "code_version": settings_version(self.study, reads),
            "partitions_def": self.groups if partitioned else None,
            "pool": GPU_POOL if gpu else None,
            "retry_policy": dg.RetryPolicy(max_retries=1) if gpu else None,
        }


def settings_version(study: Study, reads: list[str]) -> str:
    """A short hash of the settings named, and of the prompt lists' content where those are among them."""
    values: dict[str, Any] = {}
    for path in reads:
        value: Any = study.model_dump(mode="json")
        for name in path.split("."):
            value = value[name]
        values[path] = value
    if "prompt_lists" in reads:
        values["prompt_lists"] = file_content_hash(study.prompt_lists or OWN_LISTS)
    return json_hash(values)[:12]


@dataclass
class Work:
    """One materialization at work: read upstream artifacts, fill `folder`, add metadata, then return `result()`."""

    context: dg.AssetExecutionContext
    store: ArtifactStore
    study: Study
    metadata: dict[str, Any] = field(default_factory=dict)
    upstream: dict[str, Artifact] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def asset(self) -> str:
        return self.context.asset_key.path[-1]

    @property
    def group(self) -> str | None:
        return self.context.partition_key if self.context.has_partition_key else None

    def read(self, asset: str, partition: str | None = None) -> Path:
        """The verified folder of an upstream artifact; what was read is recorded with the result."""
        found = self.store.read(self.study.name, asset, partition)
        self.upstream[f"{asset}/{partition}" if partition else asset] = found
        return found.path

    @property
    def made_from(self) -> dict[str, Any]:
        """What this materialization depends on: its code version and the content of everything read so far."""
        code_version = self.context.assets_def.code_versions_by_key[self.context.asset_key]
        return {"code_version": code_version, "upstream": {k: a.content_hash for k, a in self.upstream.items()}}

    def workspace(self) -> Path:
        """A folder that survives a kill; the next attempt with the same inputs finds it again."""
        return self.store.workspace(self.study.name, self.asset, self.group, json_hash(self.made_from))

    def progress(self) -> Progress:
        """Passes messages on to Dagster's log, one every ten seconds at most."""
        last = 0.0

        def report(message: str) -> None:
            nonlocal last
            if time.monotonic() - last >= _REPORT_EVERY_SECONDS:
                last = time.monotonic()
                self.context.log.info(message)

        return report

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A folder to fill; at the end of the block it becomes the artifact, whole."""
        with self.store.write(self.study.name, self.asset, self.group) as draft:
            yield draft.path
            seconds = round(time.perf_counter() - self.started, 1)
            draft.info.update(
                {
                    **self.made_from,
                    "seed": self.study.seed,
                    "wall_seconds": seconds,
                    "host": {"python": platform.python_version(), "torch": version("torch"), **self._plain_metadata()},
                }
            )
        artifact = draft.artifact
        self.store.clear_workspace(self.study.name, self.asset, self.group)
        self.metadata |= {
            "path": dg.MetadataValue.path(artifact.path),
            "content_hash": artifact.content_hash,
            "seed": self.study.seed,
            "wall_seconds": seconds,
            "made_from": self.made_from,
        }
        self._data_version = dg.DataVersion(artifact.content_hash)

    def _plain_metadata(self) -> dict[str, Any]:
        return {k: v for k, v in self.metadata.items() if isinstance(v, str | int | float | bool)}

    def result(self) -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata=self.metadata, data_version=self._data_version)


@contextmanager
def working(context: dg.AssetExecutionContext, store: ArtifactStore, study: Study) -> Iterator[Work]:
    """A `Work` for the block; what a user can mend ends the step as one sentence and is not tried again."""
    work = Work(context, store, study)
    try:
        yield work
    except UserError as error:
        raise dg.Failure(description=str(error), metadata=work.metadata, allow_retries=False) from None


def table_metadata(frame: pd.DataFrame, rows: int = 10) -> dict[str, Any]:
    """Row count, column schema and the first rows of a table, under the names Dagster's UI knows."""
    sample = table(frame.head(rows))
    return {"dagster/row_count": len(frame), "dagster/column_schema": sample.schema, "sample": sample}


def table(frame: pd.DataFrame) -> dg.TableMetadataValue:
    """A small table as metadata; values that are no plain scalars are written as text."""
    records = [
        dg.TableRecord({str(k): v if isinstance(v, str | int | float | bool) else str(v) for k, v in row.items()})
        for row in frame.to_dict(orient="records")
    ]
    columns = [dg.TableColumn(str(name), str(kind)) for name, kind in frame.dtypes.items()]
    return dg.TableMetadataValue(records=records, schema=dg.TableSchema(columns=columns))


def image(png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG shown on the asset's page."""
    return dg.MetadataValue.md(f"![figure](data:image/png;base64,{base64.b64encode(png).decode()})")


def show_training(work: Work, report: TrainingReport, folder: Path, title: str) -> None:
    """Metadata of a trained adapter: its figures, and its losses as a plot and as a table."""
    from subliminal_dagster.science.figures import history_figure, png

    figure = png(history_figure(report.history, f"{work.study.name}: {title} {work.group}"))
    (folder / "history.png").write_bytes(figure)
    work.metadata |= plain(report.facts()) | {"figure": image(figure), "losses": table(report.history.tail(20))}


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as metadata: None becomes a word, and everything else that is no scalar or container becomes text."""
    ok = str | int | float | bool | list | dict
    return {
        key: "none" if value is None else value if isinstance(value, ok) else str(value) for key, value in facts.items()
    }
