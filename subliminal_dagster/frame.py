"""A study as Dagster sees it: how an asset of it is declared, and what each is made from.

Belongs here: the arguments all assets of a study share, its asset graph, how a part of it is named. Does not belong
here: the assets (`assets`), what happens when one is made (`work`), what is stale (`planner`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import dagster as dg

from subliminal_dagster.code_slice import code_slice
from subliminal_dagster.partitions import group_partitions
from subliminal_dagster.recipe import Input, Node, Recipe
from subliminal_dagster.science.content_hash import file_content_hash
from subliminal_dagster.science.prompt_lists import OWN_LISTS
from subliminal_dagster.science.study import AnyStudy, Study

StudyT = TypeVar("StudyT", bound=AnyStudy)

GPU_POOL = "gpu"
GATE_CHECK = "gate"


class Frame(Generic[StudyT]):
    """One study as Dagster sees it: its partitions object, and for every asset declared so far what it is made of.

    `nodes` are in the order of declaration, which is upstream first.
    """

    def __init__(self, study: StudyT) -> None:
        self.study = study
        self.groups = group_partitions(study)
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
        partitioned: bool,
        gpu: bool,
        description: str,
        gate: str | None = None,
    ) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
        """`@dg.asset` for an asset of this study.

        `reads` are the study's fields the asset's result depends on ("child.lora"). Their values, and the syntax trees
        of the code the decorated function uses, are its code version: a change of one of them makes this asset stale
        and no other. `gate` describes the check that what was made has to pass before anything is built on it.
        """

        def declare(function: Callable[..., dg.MaterializeResult]) -> dg.AssetsDefinition:
            recipe = Recipe(self._values_of(reads), code_slice(function))
            self.nodes[name] = Node(name, tuple(deps), partitioned, gpu, gate is not None, recipe)
            key = self.key(name)
            checks = [dg.AssetCheckSpec(GATE_CHECK, asset=key, blocking=True, description=gate)] if gate else None
            return dg.asset(
                key=key,
                group_name=stage,
                deps=[self.key(dep) for dep in deps],
                kinds=kinds,
                owners=["team:interpretability"],
                description=description,
                code_version=recipe.version,
                metadata={"settings": dg.MetadataValue.json(recipe.settings)},
                partitions_def=self.groups if partitioned else None,
                pool=GPU_POOL if gpu else None,
                # A step the system killed is tried once more; what a user can mend is not (see `working`).
                retry_policy=dg.RetryPolicy(max_retries=1),
                check_specs=checks,
            )(function)

        return declare

    def partitions(self, name: str) -> list[str | None]:
        """The partitions of an asset; [None] where it has none."""
        return [*self.study.groups] if self.nodes[name].partitioned else [None]

    def inputs(self, name: str, partition: str | None) -> list[Input]:
        """What an asset in one partition is made from: (asset, partition) pairs.

        A partitioned asset reads the same partition of a partitioned one, an unpartitioned asset all of them.
        """
        node = self.nodes[name]
        same = [partition] if node.partitioned else [*self.study.groups]
        return [(dep, group) for dep in node.deps for group in (same if self.nodes[dep].partitioned else [None])]

    def gathers(self, name: str) -> bool:
        """Whether an asset brings partitions together, and so goes on without one that a gate refused."""
        return not self.nodes[name].partitioned and any(self.nodes[dep].partitioned for dep in self.nodes[name].deps)

    def _values_of(self, reads: list[str]) -> dict[str, Any]:
        """The settings named, and the content of the files they name."""
        values: dict[str, Any] = {}
        for path in reads:
            value: Any = self._settings
            for name in path.split("."):
                value = value[name]
            values[path] = value
        study = self.study
        if isinstance(study, Study):
            if "prompt_lists" in reads:
                values["prompt_lists"] = file_content_hash(study.prompt_lists or OWN_LISTS)
            if values.get("teacher.steering"):
                vectors = {animal: study.teacher.vector_file(animal) for animal in study.animals}
                values["teacher.steering.files"] = {a: file_content_hash(f) for a, f in vectors.items() if f.is_file()}
        return values


def label(asset: str, partition: str | None) -> str:
    """How an asset in a partition is written in records: `teacher_lora/owl`."""
    return f"{asset}/{partition}" if partition else asset


def shown(asset: str, partition: str | None) -> str:
    """How an asset in a partition is written for people: `teacher_lora [owl]`."""
    return f"{asset} [{partition}]" if partition else asset
