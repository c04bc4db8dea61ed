"""A study as Dagster sees it: its partitions, its asset graph, and what each asset is made from.

Belongs here: what all assets of a study share, and how a part of it is named. Does not belong here: the assets
(`assets`), what happens when one is made (`execution.work`), what is stale (`planner`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any, Generic, TypeVar, cast

import dagster as dg

from subliminal_dagster.partitions import FIRST, GROUP, REPLICATE, VARIANT, StudyPartitions, coordinates
from subliminal_dagster.planning.code_slice import code_slice
from subliminal_dagster.planning.recipe import Input, Node, Recipe
from subliminal_dagster.science.settings.base import Settings
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import AnyStudy
from subliminal_dagster.science.settings.sweep import Variants

StudyT = TypeVar("StudyT", bound=AnyStudy)

GPU_POOL = "gpu"
GATE_CHECK = "gate"
WARNINGS_CHECK = "warnings"
FRESH_CHECK = "up_to_date"
"""The one check that no asset makes itself (`execution.freshness`); the UI sorts it behind the gate."""
VARIANT_OF = "variant_"
"""What the name of an asset that is made in the variants of a sweep begins with, before that of the study's own."""
SWEPT = "swept"
"""What stands for the value of a swept setting, where one recipe stands for all variants."""
PLANNED_TAG = ".dagster/subliminal_planned"
"""The tag of a run that makes what is due: it leaves alone what another run made since it was planned. Dagster's UI
shows no tag of such a name."""


LaunchTags = Callable[[str, bool], Mapping[str, str]]
"""What Dagster's launchers are told of an asset by its stage and whether it needs a GPU, such as the pod it gets."""


def no_launch_tags(stage: str, gpu: bool) -> Mapping[str, str]:
    """Where nothing is told to launchers."""
    return {}


class Frame(Generic[StudyT]):
    """One study as Dagster sees it: its partitions, and for every asset declared so far what it is made of.

    `nodes`, and the `assets` that Dagster knows them by, are in the order of declaration, which is upstream first;
    `stages` says which part of the experiment each belongs to.
    Steps that need a GPU are in the pool `gpu_pool`; None where whoever launches them sees to how many there are at
    once. `launch_tags` are those of steps and runs that Dagster launches.
    """

    def __init__(
        self, study: StudyT, gpu_pool: str | None = GPU_POOL, launch_tags: LaunchTags = no_launch_tags
    ) -> None:
        self.study = study
        self.gpu_pool = gpu_pool
        self.launch_tags = launch_tags
        self.partitioning = StudyPartitions(study)
        self.nodes: dict[str, Node] = {}
        self.assets: dict[str, dg.AssetsDefinition] = {}
        self.stages: dict[str, str] = {}
        self._settings: dict[int, dict[str, Any]] = {}
        self._recipes: dict[tuple[str, str], Recipe] = {}

    def key(self, name: str) -> dg.AssetKey:
        return dg.AssetKey([self.study.name, name])

    def own_checks(self, names: Iterable[str]) -> list[dg.AssetCheckKey]:
        """The checks that these assets make themselves: all but `FRESH_CHECK`."""
        return [
            dg.AssetCheckKey(self.key(name), check)
            for name in names
            for check, there in ((GATE_CHECK, self.nodes[name].gated), (WARNINGS_CHECK, self.nodes[name].warns))
            if there
        ]

    def dependency(self, node: Node, dep: str) -> dg.AssetKey | dg.AssetDep:
        """How Dagster is told of what an asset is made from. Dagster has no "the first replicate": it sees all of the
        group's."""
        if dep in node.control_too:
            return dg.AssetDep(self.key(dep), partition_mapping=self.partitioning.with_control)
        by, of_dep, variants = node.by, self.nodes[dep].by, node.variants
        axis = of_dep[-1] if of_dep else GROUP
        if variants is not None and axis != GROUP and self._defined(dep) is not self._defined(node.name):
            read_by: dict[str, list[str]] = {}
            for key in variants.keys:
                (read,) = self.along(axis, dep, node, {VARIANT: key})
                read_by.setdefault(read, []).append(key)
            return dg.AssetDep(self.key(dep), partition_mapping=self.partitioning.same_group(axis, read_by))
        if len(by) == len(of_dep) == 2 and by != of_dep:
            return dg.AssetDep(self.key(dep), partition_mapping=self.partitioning.own_group)
        return self.key(dep)

    def _defined(self, name: str) -> dg.PartitionsDefinition | None:
        return self.partitioning.definition(self.nodes[name].by, self.nodes[name].variants)

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
        variants: Variants | None = None,
    ) -> Node:
        """Add an asset that `function` makes.

        `reads` are the study's fields that its result depends on ("child.lora"). Their values, and the syntax trees of
        the code the function uses, are its code version: a change of one of them makes this asset stale and no other.
        `also` are further values that count, by a name of their own (the content of a data file of this package). `by`
        are the axes it is partitioned by. Of the `deps` in `control_too`, which are partitioned by group and layer as
        it is, it reads the control's partition beside its own. What is `on_request` is long, and left out of runs and
        schedules that name no asset. What `takes_what_there_is` is made without those of its `deps` that are refused,
        failed or not asked for. What is made from `all_replicates` reads every replicate of a group. `variants` are
        those of a sweep, where that is one of its axes.
        """
        settings = self._values_of(reads, self.study)
        if variants is not None:
            settings = {path: _without(variants.fields, path, value) for path, value in settings.items()}
        recipe = Recipe(settings | dict(also or {}), code_slice(function))
        self.nodes[name] = Node(
            name,
            tuple(deps),
            by,
            tuple(self.partitioning.keys(by, variants)),
            gpu,
            gated,
            warns,
            recipe,
            control_too,
            on_request,
            takes_what_there_is,
            all_replicates,
            f"{function.__module__}:{function.__qualname__}",
            tuple(reads),
            variants,
        )
        return self.nodes[name]

    def partitions(self, name: str) -> list[str | None]:
        """The partitions of an asset; [None] where it has none."""
        return [*self.nodes[name].partitions]

    def study_of(self, name: str, partition: str | None) -> StudyT:
        """The study with the settings that an asset has in this partition: in a variant of its sweep those of that."""
        node = self.nodes[name]
        if node.variants is None:
            return self.study
        return cast(StudyT, node.variants.at(coordinates(node.by, partition)[VARIANT])[0].study)

    def recipe(self, name: str, partition: str | None) -> Recipe:
        """What an asset is made of in this partition: in a variant of a sweep with the settings as that has them."""
        node = self.nodes[name]
        if node.variants is None:
            return node.recipe
        variant = coordinates(node.by, partition)[VARIANT]
        if (name, variant) not in self._recipes:
            values = self._values_of(node.reads, self.study_of(name, partition))
            self._recipes[name, variant] = Recipe(node.recipe.settings | values, node.recipe.code)
        return self._recipes[name, variant]

    def inputs(self, name: str, partition: str | None) -> list[Input]:
        """What an asset in one partition is made from: (asset, partition) pairs.

        Along an axis that both are partitioned by it reads its own group, layer or replicate (and control, where it
        says so), along any other all of them; but of replicates the first, unless it says that it reads all. A variant
        of a sweep reads the one that it agrees with, and its own replicate.
        """
        node = self.nodes[name]
        own = coordinates(node.by, partition)
        found: list[Input] = []
        for dep in node.deps:
            parts = [self.along(axis, dep, node, own) for axis in self.nodes[dep].by]
            if dep in node.control_too and own[GROUP] != CONTROL:
                parts[0] = [own[GROUP], CONTROL]
            found += [(dep, "|".join(key) or None) for key in product(*parts)]
        return found

    def along(self, axis: str, dep: str, node: Node, own: Mapping[str, str]) -> list[str]:
        """What an asset reads of another along one of the other's axes, in the partition with the coordinates `own`."""
        if VARIANT in own and axis in (VARIANT, REPLICATE):
            assert node.variants is not None
            cell, replicate = node.variants.at(own[VARIANT])
            theirs = self.nodes[dep].variants
            return [str(replicate) if theirs is None else theirs.key(cell, replicate)]
        if axis in own:
            return [own[axis]]
        of_dep = self.nodes[dep].variants
        if axis == VARIANT:
            return of_dep.keys if of_dep is not None else []
        if axis == GROUP and of_dep is not None and of_dep.groups is not None:
            return [*of_dep.groups]
        return [FIRST] if axis == REPLICATE and not node.all_replicates else self.partitioning.values[axis]

    def awaited(self, name: str, partition: str | None) -> list[Input]:
        """The inputs that have to be made before an asset: for one that takes what there is, not those on request,
        unless it is on request itself."""
        patient = not self.nodes[name].takes_what_there_is or self.nodes[name].on_request
        return [i for i in self.inputs(name, partition) if patient or not self.nodes[i[0]].on_request]

    def launch_tags_of(self, names: Iterable[str]) -> dict[str, str]:
        """The tags of a run that makes these assets: where they differ, those of what needs a GPU."""
        found = dict(self.launch_tags("", False))
        for name in sorted(names, key=lambda name: self.nodes[name].gpu):
            found |= self.launch_tags(self.stages[name], self.nodes[name].gpu)
        return found

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

    def _values_of(self, reads: Sequence[str], study: AnyStudy) -> dict[str, Any]:
        return {path: self._value(path, study) for path in reads}

    def _value(self, path: str, study: AnyStudy) -> Any:
        """A setting; where it names files, their content in the place of the path."""
        if id(study) not in self._settings:
            self._settings[id(study)] = study.model_dump(mode="json")
        value: Any = self._settings[id(study)]
        settings: Any = study
        for name in path.split("."):
            value = value[name]
            settings = settings[name] if isinstance(settings, Mapping) else getattr(settings, name)
        if isinstance(settings, Settings):
            return value | settings.file_contents(study)
        return self._own_files.get(path, value)

    @cached_property
    def _own_files(self) -> dict[str, Any]:
        return self.study.file_contents(self.study)


def _without(swept: Collection[str], path: str, value: Any) -> Any:
    """A setting without what of it a sweep varies: the one version that Dagster knows of all variants."""
    if path in swept or any(path.startswith(f"{field}.") for field in swept):
        return SWEPT
    if not isinstance(value, Mapping):
        return value
    return {name: _without(swept, f"{path}.{name}", inner) for name, inner in value.items()}


def label(asset: str, partition: str | None) -> str:
    """How an asset in a partition is written in records: `teacher_lora/owl`."""
    return f"{asset}/{partition}" if partition else asset


def shown(asset: str, partition: str | None) -> str:
    """How an asset in a partition is written for people: `teacher_lora [owl]`."""
    return f"{asset} [{partition}]" if partition else asset
