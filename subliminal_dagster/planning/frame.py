"""A study as Dagster sees it: how an asset of it is declared, and what each is made from.

Belongs here: the arguments all assets of a study share, its asset graph, how a part of it is named. Does not belong
here: the assets (`assets`), what happens when one is made (`work`), what is stale (`planner`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import wraps
from itertools import product
from pathlib import Path
from typing import Any, Generic, TypeVar

import dagster as dg

from subliminal_dagster.partitions import GROUP, StudyPartitions, coordinates
from subliminal_dagster.planning.code_slice import code_slice
from subliminal_dagster.planning.recipe import Input, Node, Recipe
from subliminal_dagster.science.capability.exam import OWN_EXAM, OWN_TEXTS
from subliminal_dagster.science.descriptions.categories import LABELLED_DESCRIPTIONS
from subliminal_dagster.science.descriptions.chat_api import MODEL as JUDGE_MODEL
from subliminal_dagster.science.descriptions.judges import JUDGE_PROMPT
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.base_model import model_files
from subliminal_dagster.science.preferences.prompt_lists import OWN_LISTS
from subliminal_dagster.science.settings.base_model import LocalSource
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.storage.content_hash import file_content_hash, folder_content_hash
from subliminal_dagster.science.storage.hashed_files import HashedFiles

StudyT = TypeVar("StudyT", bound=AnyStudy)

GPU_POOL = "gpu"
GATE_CHECK = "gate"
PLANNED_TAG = "subliminal/planned"
"""The tag of a run that makes what is due: it leaves alone what another run made since it was planned."""


class MadeMeanwhile(Exception):  # noqa: N818
    """Another run made what this one was about to make; `result` is what Dagster is told of it."""

    def __init__(self, result: dg.MaterializeResult) -> None:
        super().__init__("made meanwhile")
        self.result = result


class Frame(Generic[StudyT]):
    """One study as Dagster sees it: its partitions, and for every asset declared so far what it is made of.

    `nodes` are in the order of declaration, which is upstream first. Steps that need a GPU are in the pool `gpu_pool`;
    None where whoever launches them sees to how many there are at once.
    """

    def __init__(self, study: StudyT, gpu_pool: str | None = GPU_POOL) -> None:
        self.study = study
        self.gpu_pool = gpu_pool
        self.partitioning = StudyPartitions(study)
        self.nodes: dict[str, Node] = {}
        self._settings = study.model_dump(mode="json")

    def key(self, name: str) -> dg.AssetKey:
        return dg.AssetKey([self.study.name, name])

    def asset(
        self,
        name: str,
        stage: str,
        *,
        reads: list[str],
        deps: list[str],
        kinds: set[str],
        by: tuple[str, ...] = (),
        gpu: bool,
        description: str,
        control_too: tuple[str, ...] = (),
        on_request: bool = False,
        takes_what_there_is: bool = False,
        gate: str | None = None,
        files: tuple[Path, ...] = (),
    ) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
        """`@dg.asset` for an asset of this study.

        `reads` are the study's fields the asset's result depends on ("child.lora"). Their values, and the syntax trees
        of the code the decorated function uses, are its code version: a change of one of them makes this asset stale
        and no other. `by` are the axes it is partitioned by. Of the `deps` in `control_too`, which are partitioned by
        group and layer as it is, it reads the control's partition beside its own. What is `on_request` is long, and
        left out of runs and schedules that name no asset. What `takes_what_there_is` is made without those of its
        `deps` that are refused, failed or not asked for (a report, which says so). `gate` describes the check that what
        was made has to pass before anything is built on it. `files` of this package are part of its version as code is.
        """

        def declare(function: Callable[..., dg.MaterializeResult]) -> dg.AssetsDefinition:
            contents = {"files": {file.name: file_content_hash(file) for file in files}} if files else {}
            recipe = Recipe(self._values_of(reads) | contents, code_slice(function))
            partitions = tuple(self.partitioning.keys(by))
            self.nodes[name] = Node(
                name,
                tuple(deps),
                by,
                partitions,
                gpu,
                gate is not None,
                recipe,
                control_too,
                on_request,
                takes_what_there_is,
            )

            @wraps(function)
            def make(*arguments: Any, **named: Any) -> dg.MaterializeResult:
                try:
                    return function(*arguments, **named)
                except MadeMeanwhile as found:
                    return found.result

            key = self.key(name)
            checks = [dg.AssetCheckSpec(GATE_CHECK, asset=key, blocking=True, description=gate)] if gate else None
            return dg.asset(
                key=key,
                group_name=stage,
                deps=[self._dependency(dep, dep in control_too) for dep in deps],
                kinds=kinds,
                owners=["team:interpretability"],
                description=description,
                code_version=recipe.version,
                metadata={"settings": dg.MetadataValue.json(recipe.settings)},
                partitions_def=self.partitioning.definition(by),
                pool=self.gpu_pool if gpu else None,
                # A step the system killed is tried once more; what a user can mend is not (see `working`).
                retry_policy=dg.RetryPolicy(max_retries=1),
                check_specs=checks,
            )(make)

        return declare

    def _dependency(self, dep: str, control_too: bool) -> dg.AssetKey | dg.AssetDep:
        mapping = self.partitioning.with_control
        return dg.AssetDep(self.key(dep), partition_mapping=mapping) if control_too else self.key(dep)

    def partitions(self, name: str) -> list[str | None]:
        """The partitions of an asset; [None] where it has none."""
        return [*self.nodes[name].partitions]

    def inputs(self, name: str, partition: str | None) -> list[Input]:
        """What an asset in one partition is made from: (asset, partition) pairs.

        Along an axis that both are partitioned by it reads its own group or layer (and control, where it says so),
        along any other all of them.
        """
        node = self.nodes[name]
        own = coordinates(node.by, partition)
        found: list[Input] = []
        for dep in node.deps:
            parts = [[own[axis]] if axis in own else self.partitioning.values[axis] for axis in self.nodes[dep].by]
            if dep in node.control_too and own[GROUP] != CONTROL:
                parts[0] = [own[GROUP], CONTROL]
            found += [(dep, "|".join(key) or None) for key in product(*parts)]
        return found

    def awaited(self, name: str, partition: str | None) -> list[Input]:
        """The inputs that have to be made before an asset: for one that takes what there is, not those on request."""
        patient = not self.nodes[name].takes_what_there_is
        return [i for i in self.inputs(name, partition) if patient or not self.nodes[i[0]].on_request]

    def usual_parts(self) -> set[Input]:
        """What is made without being asked for by name."""
        usual = [name for name, node in self.nodes.items() if not node.on_request]
        return {(name, partition) for name in usual for partition in self.partitions(name)}

    def group_of(self, name: str, partition: str | None) -> str | None:
        """The group of an asset's partition; None for an asset that is not partitioned by group."""
        return coordinates(self.nodes[name].by, partition).get(GROUP)

    def gathers(self, name: str) -> bool:
        """Whether an asset brings groups together, and so goes on without one that a gate refused."""
        node = self.nodes[name]
        if node.takes_what_there_is:
            return False
        return GROUP not in node.by and any(GROUP in self.nodes[dep].by for dep in node.deps)

    def _values_of(self, reads: list[str]) -> dict[str, Any]:
        """The settings named; where they name a file, its content in the place of its path."""
        values: dict[str, Any] = {}
        for path in reads:
            value: Any = self._settings
            for name in path.split("."):
                value = value[name]
            values[path] = value
        study = self.study
        if isinstance(study, Study):
            if "prompt_lists" in reads:
                values["prompt_lists"] = _prompt_lists(study.prompt_lists)
            if "base_model" in reads and isinstance(study.base_model, LocalSource):
                values["base_model"] = values["base_model"] | {"path": _model_content(study.base_model.path)}
            for path in ("sae.corpus", "capability.exam", "descriptions.source"):
                if path in reads and values[path]["kind"] == "local":
                    values[path] = values[path] | {"path": _contents(values[path]["path"], study.layers)}
            if "capability.exam" in reads:
                own = (OWN_EXAM, OWN_TEXTS) if values["capability.exam"]["kind"] == "own" else (OWN_TEXTS,)
                values["capability.own_files"] = {file.name: file_content_hash(file) for file in own}
            if "descriptions.judge" in reads:
                if values["descriptions.judge"]["kind"] == "openai" and values["descriptions.judge"]["model"] is None:
                    values["descriptions.judge.model"] = os.environ.get(JUDGE_MODEL)
                values["descriptions.judge.files"] = {
                    f.name: file_content_hash(f) for f in (JUDGE_PROMPT, LABELLED_DESCRIPTIONS)
                }
            if values.get("teacher.steering"):
                targets = [target for target in map(study.target, study.groups) if target is not None]
                vectors = {target: study.teacher.vector_file(target) for target in targets}
                contents = {a: file_content_hash(f) for a, f in vectors.items() if f.is_file()}
                values["teacher.steering"] = values["teacher.steering"] | {"vector": contents}
        return values


def _prompt_lists(given: str | None) -> dict[str, str]:
    """The content of our own lists, from which what a user's lacks is taken, and of the user's."""
    files = {"own": OWN_LISTS} | ({"given": Path(given)} if given else {})
    try:
        return {name: file_content_hash(file) for name, file in files.items()}
    except OSError as error:
        raise UserError(
            f"The prompt lists {given} cannot be read ({error.strerror}): correct `prompt_lists` of the study."
        ) from None


def _contents(path: str, layers: tuple[int, ...]) -> dict[str, str]:
    """The content of a file of the user's, or of a folder or one a layer; what is not there is left out."""
    found = {}
    for layer in layers or (0,):
        place = Path(path.replace("{layer}", str(layer))).expanduser()
        name = str(layer) if "{layer}" in path else "all"
        if place.is_file():
            found[name] = file_content_hash(place)
        elif place.is_dir():
            found[name] = folder_content_hash(place)
    return found


MODEL_HASHES = Path.home() / ".cache" / "subliminal-dagster" / "model-files"
"""Where hashes of a user's own models are remembered: weights take a minute to read."""


def _model_content(path: str) -> dict[str, str]:
    """The SHA-256 of the files of a model of the user's that count, by name; none where there is no such folder."""
    folder = Path(path).expanduser().absolute()
    files = model_files(folder) if folder.is_dir() else []
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    return dict(zip((file.name for file in files), HashedFiles(MODEL_HASHES).sha256s(name, files), strict=True))


def label(asset: str, partition: str | None) -> str:
    """How an asset in a partition is written in records: `teacher_lora/owl`."""
    return f"{asset}/{partition}" if partition else asset


def shown(asset: str, partition: str | None) -> str:
    """How an asset in a partition is written for people: `teacher_lora [owl]`."""
    return f"{asset} [{partition}]" if partition else asset
