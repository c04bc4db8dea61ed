"""A study as Dagster sees it: its partitions, its asset graph, and what each asset is made from.

Belongs here: what all assets of a study share, and how a part of it is named. Does not belong here: the assets
(`assets`), what happens when one is made (`execution.work`), what is stale (`planner`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any, Generic, TypeVar

import dagster as dg

from subliminal_dagster.partitions import FIRST, GROUP, REPLICATE, StudyPartitions, coordinates
from subliminal_dagster.planning.code_slice import code_slice
from subliminal_dagster.planning.recipe import Input, Node, Recipe
from subliminal_dagster.science.settings.base import Settings
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import AnyStudy

StudyT = TypeVar("StudyT", bound=AnyStudy)

GPU_POOL = "gpu"
GATE_CHECK = "gate"
WARNINGS_CHECK = "warnings"
PLANNED_TAG = "subliminal/planned"
"""The tag of a run that makes what is due: it leaves alone what another run made since it was planned."""


class Frame(Generic[StudyT]):
    """One study as Dagster sees it: its partitions, and for every asset declared so far what it is made of.

    `nodes`, and the `assets` that Dagster knows them by, are in the order of declaration, which is upstream first;
    `stages` says which part of the experiment each belongs to.
    Steps that need a GPU are in the pool `gpu_pool`; None where whoever launches them sees to how many there are at
    once.
    """

    def __init__(self, study: StudyT, gpu_pool: str | None = GPU_POOL) -> None:
        self.study = study
        self.gpu_pool = gpu_pool
        self.partitioning = StudyPartitions(study)
        self.nodes: dict[str, Node] = {}
        self.assets: dict[str, dg.AssetsDefinition] = {}
        self.stages: dict[str, str] = {}
        self._settings = study.model_dump(mode="json")

    def key(self, name: str) -> dg.AssetKey:
        return dg.AssetKey([self.study.name, name])

    def dependency(self, dep: str, by: tuple[str, ...], control_too: bool) -> dg.AssetKey | dg.AssetDep:
        """How Dagster is told of an upstream asset by one with these axes, which reads the control's partition besides
        or not. Dagster has no "the first replicate": it sees all of the group's."""
        if control_too:
            return dg.AssetDep(self.key(dep), partition_mapping=self.partitioning.with_control)
        of_dep = self.nodes[dep].by
        if len(by) == len(of_dep) == 2 and by != of_dep:
            return dg.AssetDep(self.key(dep), partition_mapping=self.partitioning.own_group)
        return self.key(dep)

    def declare(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        reads: Sequence[str],
        deps: Sequence[str],
        by: tuple[str, ...] = (),
        gpu: bool,
        gated: bool = False,
        warns: bool = False,
        control_too: tuple[str, ...] = (),
        on_request: bool = False,
        takes_what_there_is: bool = False,
        all_replicates: bool = False,
        also: Mapping[str, Any] | None = None,
    ) -> Node:
        """Add an asset that `function` makes.

        `reads` are the study's fields that its result depends on ("child.lora"). Their values, and the syntax trees of
        the code the function uses, are its code version: a change of one of them makes this asset stale and no other.
        `also` are further values that count, by a name of their own (the content of a data file of this package). `by`
        are the axes it is partitioned by. Of the `deps` in `control_too`, which are partitioned by group and layer as
        it is, it reads the control's partition beside its own. What is `on_request` is long, and left out of runs and
        schedules that name no asset. What `takes_what_there_is` is made without those of its `deps` that are refused,
        failed or not asked for. What is made from `all_replicates` reads every replicate of a group.
        """
        recipe = Recipe(self._values_of(reads) | dict(also or {}), code_slice(function))
        self.nodes[name] = Node(
            name,
            tuple(deps),
            by,
            tuple(self.partitioning.keys(by)),
            gpu,
            gated,
            warns,
            recipe,
            control_too,
            on_request,
            takes_what_there_is,
            all_replicates,
            f"{function.__module__}:{function.__qualname__}",
        )
        return self.nodes[name]

    def partitions(self, name: str) -> list[str | None]:
        """The partitions of an asset; [None] where it has none."""
        return [*self.nodes[name].partitions]

    def inputs(self, name: str, partition: str | None) -> list[Input]:
        """What an asset in one partition is made from: (asset, partition) pairs.

        Along an axis that both are partitioned by it reads its own group, layer or replicate (and control, where it
        says so), along any other all of them; but of replicates the first, unless it says that it reads all.
        """
        node = self.nodes[name]
        own = coordinates(node.by, partition)
        found: list[Input] = []
        for dep in node.deps:
            parts = [[own[axis]] if axis in own else self._all(axis, node) for axis in self.nodes[dep].by]
            if dep in node.control_too and own[GROUP] != CONTROL:
                parts[0] = [own[GROUP], CONTROL]
            found += [(dep, "|".join(key) or None) for key in product(*parts)]
        return found

    def _all(self, axis: str, node: Node) -> list[str]:
        return [FIRST] if axis == REPLICATE and not node.all_replicates else self.partitioning.values[axis]

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

    def _values_of(self, reads: Sequence[str]) -> dict[str, Any]:
        return {path: self._value(path) for path in reads}

    def _value(self, path: str) -> Any:
        """A setting; where it names files, their content in the place of the path."""
        value: Any = self._settings
        settings: Any = self.study
        for name in path.split("."):
            value = value[name]
            settings = settings[name] if isinstance(settings, Mapping) else getattr(settings, name)
        if isinstance(settings, Settings):
            return value | settings.file_contents(self.study)
        return self._own_files.get(path, value)

    @cached_property
    def _own_files(self) -> dict[str, Any]:
        return self.study.file_contents(self.study)


def label(asset: str, partition: str | None) -> str:
    """How an asset in a partition is written in records: `teacher_lora/owl`."""
    return f"{asset}/{partition}" if partition else asset


def shown(asset: str, partition: str | None) -> str:
    """How an asset in a partition is written for people: `teacher_lora [owl]`."""
    return f"{asset} [{partition}]" if partition else asset
