"""One materialization at work, from looking upstream to the artifact's last byte.

Belongs here: what every asset does alike: refusing to build on what a gate refused, holding a GPU, writing to the
store, recording what was made from what, explaining errors. Does not belong here: anything about one experiment
(`assets`), how results are shown (`assets.shared`).
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic

import dagster as dg

from subliminal_dagster.execution.live_runs import CARRIER_TAG, HERE, PROCESS_TAG, process_of, signature
from subliminal_dagster.partitions import FIRST, GROUP, LAYER, REPLICATE, VARIANT, coordinates
from subliminal_dagster.planning.frame import (
    GATE_CHECK,
    PLANNED_TAG,
    VARIANT_OF,
    WARNINGS_CHECK,
    Frame,
    StudyT,
    label,
    shown,
)
from subliminal_dagster.planning.gates import nothing_to_compare, refusal_above
from subliminal_dagster.planning.recipe import Input, Recipe
from subliminal_dagster.science.errors import GateError, UserError
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.processes import end_with_parent
from subliminal_dagster.science.storage.claims import ClaimedElsewhere
from subliminal_dagster.science.storage.content_hash import json_hash
from subliminal_dagster.science.storage.records import Artifact, DamagedArtifact, MissingArtifact
from subliminal_dagster.science.storage.root import OutOfReach
from subliminal_dagster.science.storage.store import ArtifactStore

_REPORT_EVERY_SECONDS = 10
_LOOK_AGAIN_SECONDS = 1

MADE_MEANWHILE = "made_meanwhile"
"""Metadata of a materialization for which another run had done the work."""


@dataclass
class Work(Generic[StudyT]):
    """One materialization at work: read upstream artifacts, fill the folder of `writing`, add metadata.

    `upstream` holds the content hash of everything this asset is declared to be made from. `left_out` are groups that
    a gate refused, for an asset that gathers groups; `not_there` says why an input is missing, for one that takes what
    there is. `refused` says why nothing may be built on the artifact itself, `measured` what its gate saw and asked
    for, `warnings` what its reader should know, and `written` where it lies once it is whole.
    """

    context: dg.AssetExecutionContext
    store: ArtifactStore
    frame: Frame[StudyT]
    metadata: dict[str, Any] = field(default_factory=dict)
    upstream: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    not_there: dict[Input, str] = field(default_factory=dict)
    refused: str | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    written: Path | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def study(self) -> StudyT:
        """The study; for a variant of its sweep with the settings of that."""
        return self.frame.study_of(self.asset, self.partition)

    @property
    def _coordinates(self) -> dict[str, str]:
        return coordinates(self.frame.nodes[self.asset].by, self.partition)

    @property
    def recipe(self) -> Recipe:
        """What it is made of, beside what is upstream."""
        return self.frame.recipe(self.asset, self.partition)

    @property
    def asset(self) -> str:
        return self.context.asset_key.path[-1]

    @property
    def partition(self) -> str | None:
        return self.context.partition_key if self.context.has_partition_key else None

    @property
    def group(self) -> str | None:
        return self.frame.group_of(self.asset, self.partition)

    @property
    def layer(self) -> str:
        """The layer's key. Raises KeyError for an asset that is not partitioned by layer."""
        return self._coordinates[LAYER]

    @property
    def replicate(self) -> int:
        """The replicate's number, from 1; 1 for an asset that is not partitioned by replicate."""
        variants, own = self.frame.nodes[self.asset].variants, self._coordinates
        return variants.at(own[VARIANT])[1] if variants is not None else int(own.get(REPLICATE, FIRST))

    def look_upstream(self) -> None:
        """Note what there is to build on. Raises UserError where a gate refused some of it."""
        seen: dict[Input, str | None] = {}
        if self.frame.nodes[self.asset].takes_what_there_is:
            self._look_at_what_there_is(seen)
            return
        for asset, partition in self.frame.inputs(self.asset, self.partition):
            refused = refusal_above(self.frame, self.store, asset, partition, seen)
            if refused is None:
                manifest = self.store.manifest(self.study.name, asset, partition)
                self.upstream[label(asset, partition)] = manifest.content_hash
            elif self.frame.gathers(self.asset) and (group := self.frame.group_of(asset, partition)) is not None:
                self.left_out[group] = refused
            else:
                raise UserError(f"{shown(self.asset, self.partition)} is not made, because {refused}")
        if nothing_to_compare(self.left_out, self.study):
            reason = next(iter(self.left_out.values()))
            raise UserError(f"{shown(self.asset, self.partition)} is not made, because {reason}")

    def _look_at_what_there_is(self, seen: dict[Input, str | None]) -> None:
        for asset, partition in self.frame.inputs(self.asset, self.partition):
            reason = refusal_above(self.frame, self.store, asset, partition, seen)
            if reason is None:
                try:
                    manifest = self.store.manifest(self.study.name, asset, partition)
                    self.upstream[label(asset, partition)] = manifest.content_hash
                    continue
                except (MissingArtifact, DamagedArtifact):
                    on_request = self.frame.nodes[asset].on_request
                    reason = "it is made only on request" if on_request else "it failed, or was not made yet"
            self.not_there[asset, partition] = reason

    def has(self, asset: str, partition: str | None = None) -> bool:
        """Whether this upstream artifact is there to be read; in what gathers groups a gate may have refused it."""
        return label(asset, partition) in self.upstream

    def read(self, asset: str, partition: str | None = None) -> Path:
        """The verified folder of an upstream artifact."""
        if label(asset, partition) not in self.upstream:
            raise KeyError(f"{self.asset} reads {shown(asset, partition)}, which is not among its declared inputs")
        found = self.store.read(self.study.name, asset, partition)
        self.upstream[label(asset, partition)] = found.content_hash
        return found.path

    def own(self, asset: str, group: str | None = None) -> Path:
        """The verified folder of an upstream artifact in this work's own partition of it: its group (or the one given),
        its layer, and its replicate, or else the first. A variant of a sweep reads the variant of it that it agrees
        with, where it has variants."""
        return self.read(*self.place(asset, group))

    def own_partition(self, asset: str, group: str | None = None) -> str | None:
        """See `own`."""
        return self.place(asset, group)[1]

    def place(self, asset: str, group: str | None = None) -> Input:
        """What `own` reads: the asset, or the one that is made in variants in its place, and the partition."""
        node = self.frame.nodes[self.asset]
        name = f"{VARIANT_OF}{asset}" if f"{VARIANT_OF}{asset}" in node.deps else asset
        own = self._coordinates | ({GROUP: group} if group else {})
        return name, "|".join(self.frame.along(axis, name, node, own)[0] for axis in self.frame.nodes[name].by) or None

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Claim this part for the block, and wait for a run that has claimed it. Gives whether it had to wait."""
        waited = False
        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(self.store.claim(self.study.name, self.asset, self.partition))
                    break
                except ClaimedElsewhere as claimed:
                    if not waited:
                        self.context.log.info(f"{claimed.holder.shown} is making it; waiting for that")
                    waited = True
                    time.sleep(_LOOK_AGAIN_SECONDS)
            yield waited

    def find(self) -> bool:
        """Take what is stored for the result, if it was made by this recipe of what is upstream now."""
        try:
            found = self.store.read(self.study.name, self.asset, self.partition)
        except (MissingArtifact, DamagedArtifact):
            return False
        if self.store.refusal(self.study.name, self.asset, self.partition) or self.recipe.changes_since(found.info):
            return False
        if found.info["upstream"] != self.upstream:
            return False
        self.refused, self.written = found.info["refused"], found.path
        self.warnings = found.info.get("warnings", [])
        self._record(found, found.info["wall_seconds"])
        self.metadata[MADE_MEANWHILE] = True
        return True

    @property
    def made_from(self) -> dict[str, Any]:
        """What this materialization depends on: settings, code and the content of everything upstream."""
        recipe = self.recipe
        return {
            "code_version": recipe.version,
            "settings": recipe.settings,
            "code": recipe.code,
            "upstream": dict(sorted(self.upstream.items())),
        }

    def kept(self) -> Path:
        """Where answers generated so far are kept until the artifact is whole."""
        folder = self.workspace() / "answers"
        folder.mkdir(exist_ok=True)
        return folder

    def workspace(self, *, whatever: tuple[str, ...] = ()) -> Path:
        """A folder that survives a kill; the next attempt with the same inputs finds it again, `whatever` the value of
        these settings."""
        made_from = self.made_from
        if whatever:
            settings = {name: value for name, value in made_from["settings"].items() if name not in whatever}
            made_from |= {"settings": settings, "code_version": None}
        return self.store.workspace(self.study.name, self.asset, self.partition, json_hash(made_from))

    def others_to_make(self, axis: str) -> dict[str, Path]:
        """The workspaces of this asset's other partitions along an axis that are not made yet of the very inputs of
        this one, by their keys on the axis: what is computed of them on the way is left there."""
        by = self.frame.nodes[self.asset].by
        own, inputs = coordinates(by, self.partition), self.frame.inputs(self.asset, self.partition)
        found = {}
        for partition in self.frame.partitions(self.asset):
            other = coordinates(by, partition)
            beside = other[axis] != own[axis] and other | {axis: own[axis]} == own
            if beside and self.frame.inputs(self.asset, partition) == inputs and not self._is_made(partition):
                fingerprint = json_hash(self.made_from)
                found[other[axis]] = self.store.workspace(self.study.name, self.asset, partition, fingerprint)
        return found

    def _is_made(self, partition: str | None) -> bool:
        """Whether another partition of this asset is there as this recipe makes it of what this one is made from."""
        try:
            made_from = self.store.manifest(self.study.name, self.asset, partition).info
        except (MissingArtifact, DamagedArtifact):
            return False
        recipe = self.frame.recipe(self.asset, partition)
        return not recipe.changes_since(made_from) and made_from["upstream"] == self.upstream

    def earlier(self) -> Path | None:
        """The folder of this artifact as it was made before; None where there is none, or it is damaged."""
        with suppress(MissingArtifact, DamagedArtifact):
            return self.store.read(self.study.name, self.asset, self.partition).path
        return None

    def progress(self) -> Progress:
        """Passes messages on to Dagster's log, one every ten seconds at most."""
        last = 0.0

        def report(message: str) -> None:
            nonlocal last
            if time.monotonic() - last >= _REPORT_EVERY_SECONDS:
                last = time.monotonic()
                self.context.log.info(message)

        return report

    def judge(self, failures: Sequence[str], **measured: tuple[float, float]) -> None:
        """Say what the gate measured, each value with the one asked for, and refuse the artifact where there are
        failures."""
        self.refused = "; ".join(failures) or None
        for name, (value, wanted) in measured.items():
            self.measured |= {name: value, f"{name}_asked_for": wanted}

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A folder to fill; at the end of the block it becomes the artifact, whole.

        A GateError that ends the block refuses what was written so far: it shows why, and nothing is built on it.
        """
        with self.store.write(self.study.name, self.asset, self.partition) as draft:
            try:
                yield draft.path
            except GateError as error:
                if not any(draft.path.iterdir()):
                    raise
                self.judge([str(error)], **error.measured)
            seconds = round(time.perf_counter() - self.started, 1)
            draft.info.update(
                {
                    **self.made_from,
                    "refused": self.refused,
                    "warnings": self.warnings,
                    "seed": self.study.seed,
                    "wall_seconds": seconds,
                    "device": device_name(self.frame.nodes[self.asset].gpu),
                    "host": {"python": platform.python_version(), "torch": version("torch"), **self._plain_metadata()},
                }
            )
        artifact = draft.artifact
        self.written = artifact.path
        self.store.clear_workspace(self.study.name, self.asset, self.partition)
        self._record(artifact, seconds)

    def _record(self, artifact: Artifact, seconds: float) -> None:
        made_from = self.made_from
        self.metadata |= {
            "path": dg.MetadataValue.path(artifact.path),
            "dagster/uri": self.store.uri(self.study.name, self.asset, self.partition, artifact),
            "content_hash": artifact.content_hash,
            "seed": self.study.seed,
            "wall_seconds": seconds,
            "device": artifact.info["device"],
            "made_from": {name: made_from[name] for name in ("code_version", "upstream")},
        }
        self._data_version = dg.DataVersion(artifact.content_hash)

    def _plain_metadata(self) -> dict[str, Any]:
        return {k: v for k, v in self.metadata.items() if isinstance(v, str | int | float | bool)}

    def result(self) -> dg.MaterializeResult:
        """What Dagster records: the materialization, what its gate found, and what it warns of.

        A refusal is a blocking check that failed: it ends the run, is not tried again, and stays on the asset's page.
        """
        node, checks = self.frame.nodes[self.asset], []
        if node.gated:
            checks.append(
                dg.AssetCheckResult(
                    passed=self.refused is None,
                    check_name=GATE_CHECK,
                    description=self.refused,
                    metadata={"partition": self.partition or "none", **self.measured},
                )
            )
        if node.warns:
            checks.append(
                dg.AssetCheckResult(
                    passed=not self.warnings,
                    check_name=WARNINGS_CHECK,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=" ".join(self.warnings) or None,
                )
            )
        return dg.MaterializeResult(metadata=self.metadata, data_version=self._data_version, check_results=checks)


class Interrupted(BaseException):
    """Somebody wants this process to end (Ctrl-C, SIGTERM). Dagster's own error for that would have the step tried once
    more, which is right where a node goes away and another takes over, and not here."""


def carry_out(
    work: Work[StudyT], fill: Callable[[Work[StudyT]], None], lease: AbstractContextManager[str | None]
) -> dg.MaterializeResult:
    """Let `fill` make the artifact of `work`, with the GPU of `lease` alone to be seen.

    The part is claimed for as long as it takes, so that no other run makes it too. What a user can mend ends the step
    as one sentence and is not tried again, but for a store that does not answer, which may the next time; a gate's
    refusal is kept besides, so that nothing is built on it, whoever launches what.
    """
    _sign_run(work.context)
    try:
        with work.claimed() as waited:
            work.look_upstream()
            # A person who asks for what is fresh gets it rebuilt; a plan wants it to be there.
            if (waited or PLANNED_TAG in work.context.run.tags) and work.find():
                return work.result()
            with lease as gpu:
                work.metadata |= {"gpu": gpu} if gpu else {}
                fill(work)
            return work.result()
    except dg.DagsterExecutionInterruptedError:
        if work.context.run.tags.get(CARRIER_TAG) == HERE:
            raise Interrupted from None
        raise
    except OutOfReach as error:
        raise dg.Failure(description=str(error), metadata=work.metadata) from None
    except UserError as error:
        if isinstance(error, GateError) and work.refused is None:
            work.store.refuse(work.study.name, work.asset, work.partition, str(error), work.made_from)
        raise dg.Failure(description=str(error), metadata=work.metadata, allow_retries=False) from None


def device_name(gpu: bool) -> str:
    """What computes here, for the record: the GPU's name, or "cpu" and its cores.

    A step without a GPU of its own must not ask CUDA, which then could not be pointed at the next step's.
    """
    torch = sys.modules.get("torch")
    if gpu and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu ({os.cpu_count()} cores)"


def _sign_run(context: dg.AssetExecutionContext) -> None:
    """Let the run say which process it runs in, where this step is a process of Dagster's multiprocess executor: nobody
    else tells, after a power cut, that a run the daemon launched is dead. And end the step with the run's process."""
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return
    end_with_parent()
    if process_of(context.run) is None:
        context.instance.add_run_tags(context.run_id, {PROCESS_TAG: signature(context.run_id, parent.pid)})
