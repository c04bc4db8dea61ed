"""Partitions of a study's assets, and the names of the jobs over them.

An asset is made once, once per group, once per layer, once per group and layer (`owl|09`), or once per group and
variant of a sweep (`owl|rank=2+replicate=1`) or arm (`owl|arm=sgd+replicate=1`). Belongs here: the partitions objects
that all assets of a study share (Dagster infers the mapping between two assets only where it is the very same object),
how a key is put together and taken apart, and the names that follow from a run having one partition: a job per
partition family. Does not belong here: which asset uses which, what a job holds (`jobs`).
https://docs.dagster.io/guides/build/partitions-and-backfills
"""

import warnings
from itertools import product

import dagster as dg

from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.settings.sweep import Variants

GROUP, LAYER, REPLICATE, VARIANT = "group", "layer", "replicate", "variant"
"""The axes; Dagster writes a key's parts in the order of their names."""

FIRST = "1"
"""The first replicate, which is looked into: whatever has no partition per replicate is made from it."""

BY_GROUP = (GROUP,)
BY_LAYER = (LAYER,)
BY_GROUP_AND_LAYER = (GROUP, LAYER)
BY_GROUP_AND_REPLICATE = (GROUP, REPLICATE)
BY_GROUP_AND_VARIANT = (GROUP, VARIANT)


def partition_key(group: str, other: str) -> str:
    """The key of a group and a layer, `owl|09`, a replicate, `owl|1`, or a variant, `owl|rank=2`."""
    return f"{group}|{other}"


def layer_key(layer: int) -> str:
    """A layer as a partition key, with a zero in front where that makes keys sort by number."""
    return f"{layer:02}"


def coordinates(by: tuple[str, ...], partition: str | None) -> dict[str, str]:
    """The parts of a partition's key by axis: {"group": "owl", "layer": "09"}."""
    return dict(zip(by, partition.split("|"), strict=True)) if partition is not None else {}


class StudyPartitions:
    """The partitions of one study: its groups (the animals, `control`, `neutral`), its layers, its replicates, and
    groups with either. The variants of a sweep differ from asset to asset, so whoever asks says whose."""

    def __init__(self, study: AnyStudy) -> None:
        self.values = {
            GROUP: list(study.groups),
            LAYER: [layer_key(layer) for layer in study.layers],
            REPLICATE: [str(number + 1) for number in range(study.replicates if isinstance(study, Study) else 1)],
        }
        self._groups = dg.StaticPartitionsDefinition(self.values[GROUP])
        self._layers = dg.StaticPartitionsDefinition(self.values[LAYER])
        replicates = dg.StaticPartitionsDefinition(self.values[REPLICATE])
        self.of_teachers = (
            BY_GROUP_AND_REPLICATE if isinstance(study, Study) and study.replicates_from == "teacher" else BY_GROUP
        )
        """The axes of teachers and of what they write."""
        self._children = dg.MultiPartitionsDefinition({GROUP: self._groups, REPLICATE: replicates})
        self._variants: dict[tuple[str, ...], dg.PartitionsDefinition] = {}
        self._both = dg.MultiPartitionsDefinition({GROUP: self._groups, LAYER: self._layers}) if study.layers else None
        # Only a class in beta says "the same group and control" to Dagster, and it warns of that on each load.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)
            self.with_control = dg.MultiPartitionMapping(
                {
                    GROUP: dg.DimensionPartitionMapping(GROUP, _each_with_control(self.values[GROUP])),
                    LAYER: dg.DimensionPartitionMapping(LAYER, dg.IdentityPartitionMapping()),
                }
            )
            self.own_group = dg.MultiPartitionMapping(
                {GROUP: dg.DimensionPartitionMapping(GROUP, dg.IdentityPartitionMapping())}
            )

    def definition(self, by: tuple[str, ...], variants: Variants | None = None) -> dg.PartitionsDefinition | None:
        """Dagster's object for assets partitioned `by` these axes, with these `variants` where one is theirs."""
        if variants is not None:
            place = (*(variants.groups or ()), *variants.keys)
            if place not in self._variants:
                axes: dict[str, dg.PartitionsDefinition] = {
                    GROUP: dg.StaticPartitionsDefinition(variants.groups) if variants.groups else self._groups,
                    VARIANT: dg.StaticPartitionsDefinition(variants.keys),
                }
                self._variants[place] = dg.MultiPartitionsDefinition(axes)
            return self._variants[place]
        return {
            (): None,
            BY_GROUP: self._groups,
            BY_LAYER: self._layers,
            BY_GROUP_AND_LAYER: self._both,
            BY_GROUP_AND_REPLICATE: self._children,
        }[by]

    def keys(self, by: tuple[str, ...], variants: Variants | None = None) -> list[str | None]:
        """The keys of assets partitioned `by` these axes; [None] where they have no partitions."""
        values = self.values
        if variants is not None:
            values = values | {GROUP: list(variants.groups or values[GROUP]), VARIANT: variants.keys}
        return ["|".join(parts) for parts in product(*(values[axis] for axis in by))] if by else [None]

    def same_group(self, axis: str, read_by: dict[str, list[str]]) -> dg.MultiPartitionMapping:
        """The mapping of a group's partitions to those of the same group by variant: `read_by` says which variants read
        which key of the upstream asset's other `axis`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)
            return dg.MultiPartitionMapping(
                {
                    GROUP: dg.DimensionPartitionMapping(GROUP, dg.IdentityPartitionMapping()),
                    axis: dg.DimensionPartitionMapping(VARIANT, dg.StaticPartitionMapping(read_by)),
                }
            )


def _each_with_control(groups: list[str]) -> dg.StaticPartitionMapping:
    return dg.StaticPartitionMapping({group: groups if group == CONTROL else group for group in groups})


def job_name(study: str, part: str) -> str:
    """A job's name: Dagster allows letters, digits and underscores."""
    return f"{study}_{part}".replace("-", "_").replace(".", "_")


def asset_group(study: str, stage: str) -> str:
    """The name of a group of assets in Dagster's graph: a stage of one study."""
    return job_name(study, stage)


JOBS = (
    "base",
    "groups",
    "children",
    "groups_with_children",
    "layers",
    "groups_by_layer",
    "groups_compared",
    "layers_compared",
    "results",
    "all",
)
"""The jobs a study can have, in the order in which they can run."""


def study_job_names(study: str) -> list[str]:
    """The names a study's jobs can have."""
    return [job_name(study, part) for part in JOBS]
