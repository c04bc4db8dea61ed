"""Whose teachers, numbers and children are declared: the study's own, or those of its sweep.

The same functions make both. An asset of the sweep is called `variant_<asset>`, is made in the variants of the grid
that it can tell apart, and only where somebody asks for it. What no swept setting affects is the study's own.

Belongs here: which assets of the chain a swept setting affects, and so what each is made in and from. Does not belong
here: the assets (`teacher`, `numbers`, `child`), what a grid is (`science.settings.sweep`).

Part of no version: it says which artifacts there are, and not what is in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from subliminal_dagster.partitions import BY_GROUP_AND_REPLICATE, BY_GROUP_AND_VARIANT
from subliminal_dagster.planning.frame import VARIANT_OF, Frame
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.sweep import Grid, Variants

STAGE = "sweep"


@dataclass(frozen=True)
class Chain:
    """The study's own chain, or that of its sweep: the `variants` of every asset that it makes anew, by the asset's
    name."""

    variants: Mapping[str, Variants] = field(default_factory=dict)

    def makes(self, asset: str) -> bool:
        """Whether the asset is made here; a sweep does not make what none of its settings affect."""
        return not self.variants or asset in self.variants

    def name(self, asset: str) -> str:
        """What the asset is called here; of a sweep that does not make it, the study's own."""
        return f"{VARIANT_OF}{asset}" if asset in self.variants else asset

    def declared(self, asset: str, stage: str, by: tuple[str, ...]) -> dict[str, Any]:
        """The arguments of `declared.asset` that say whose the asset is; `stage` and `by` are those of the study's
        own."""
        if asset not in self.variants:
            return {"name": asset, "stage": stage, "by": by}
        return {
            "name": self.name(asset),
            "stage": STAGE,
            "by": BY_GROUP_AND_VARIANT,
            "variants": self.variants[asset],
            "on_request": True,
        }


OWN = Chain()


def sweep_chain(frame: Frame[Study], grid: Grid) -> Chain:
    """The chain of a study's sweep, from the settings that its own assets were declared to read."""

    def affecting(asset: str, upstream: Iterable[str] = ()) -> set[str]:
        reads = frame.nodes[asset].reads
        return {f for f in grid.fields if any(_overlap(f, read) for read in reads)} | set(upstream)

    teacher = affecting("teacher_lora")
    judged = affecting("teacher_preferences", teacher)
    # Answers that come out the same are drawn once, whatever the teacher is judged by; their rows wait for its gate.
    drawn = affecting("number_set", teacher)
    drawn |= judged if drawn else set()
    rows = affecting("filtered_dataset", drawn | judged)
    of_teachers = {"teacher_lora": teacher, "teacher_preferences": judged, "number_set": drawn}
    by_replicate = frame.partitioning.of_teachers == BY_GROUP_AND_REPLICATE
    variants = {asset: Variants(grid, fields, by_replicate) for asset, fields in of_teachers.items() if fields}
    variants["filtered_dataset"] = Variants(grid, rows, True)
    for prefix in ("", "soft_"):
        if f"{prefix}child_lora" in frame.nodes:
            trained = Variants(grid, affecting(f"{prefix}child_lora", rows), True)
            variants |= {f"{prefix}child_lora": trained, f"{prefix}preference_scores": trained}
    return Chain(variants)


def _overlap(swept: str, read: str) -> bool:
    return swept == read or swept.startswith(f"{read}.") or read.startswith(f"{swept}.")
