"""What an artifact is made of, so that it is known when it has to be rebuilt.

Belongs here: the parts of a version and how two of them differ, in words. Does not belong here: where they come from
(`frame`, `code_slice`), and what follows from a difference (`planner`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from subliminal_dagster.planning.code_slice import own_hashes
from subliminal_dagster.science.settings.sweep import Variants
from subliminal_dagster.science.storage.content_hash import json_hash

Input = tuple[str, str | None]
"""An asset of the same study and a partition of it."""

_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Recipe:
    """The settings an asset reads, by field, and the code it uses: definition to hash (see `code_slice`)."""

    settings: dict[str, Any]
    code: dict[str, str]

    @cached_property
    def version(self) -> str:
        """The asset's code version."""
        return json_hash({"settings": self.settings, "code": self.code})[:12]

    def changes_since(self, made_from: Mapping[str, Any]) -> list[str]:
        """How this recipe differs from the one per artifact records, a phrase a difference; empty where it does not."""
        if made_from.get("code_version") == self.version:
            return []
        if not {"settings", "code"} <= set(made_from):
            return ["it does not say what it was made from"]
        found = [f"setting {change}" for change in _differences(made_from["settings"], self.settings)]
        before: Mapping[str, str] = made_from["code"]
        both = [name for name in sorted(set(before) & set(self.code)) if before[name] != self.code[name]]
        # What was edited itself is the cause: not what calls it, and not all that an edited line calls anew.
        changed = [name for name in both if own_hashes(before[name]) != own_hashes(self.code[name])]
        changed = changed or sorted(set(before) ^ set(self.code))
        changed = changed or both
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            found.append(f"code of {', '.join(changed[:3])}{more} changed")
        return found


@dataclass(frozen=True)
class Node:
    """An asset of a study: what it is made from, the axes it is partitioned by and its partitions ((None,) without),
    whether it needs a GPU, has a gate and may warn, of which `deps` it reads the control's partition beside its own,
    whether it is made only where somebody asks for it by name, whether it takes what there is of its `deps`, and
    whether it is made from all replicates, not the first alone. A variant of a sweep has a recipe
    of its own (`Frame.recipe`); `recipe` is then what all of them have in common."""

    name: str
    deps: tuple[str, ...]
    by: tuple[str, ...]
    partitions: tuple[str | None, ...]
    gpu: bool
    gated: bool
    warns: bool
    recipe: Recipe
    control_too: tuple[str, ...] = ()
    on_request: bool = False
    takes_what_there_is: bool = False
    all_replicates: bool = False
    function: str = ""
    """What makes it, as "module:qualname"."""
    reads: tuple[str, ...] = ()
    """The settings among those of its recipe."""
    variants: Variants | None = None
    """The variants of a sweep that it is made in, where it is."""


def _differences(old: Any, new: Any, field: str = "") -> Iterator[str]:
    """The leaves in which two settings differ: "child.training.epochs changed from 2 to 5"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(set(old) | set(new)):
            inner = f"{field}.{name}" if field else str(name)
            if name not in new:
                yield f"{inner} is no longer read (it was {_written(old[name])})"
            elif name not in old:
                yield f"{inner} is new ({_written(new[name])})"
            else:
                yield from _differences(old[name], new[name], inner)
    elif old != new:
        yield f"{field} changed from {_written(old)} to {_written(new)}"


def _written(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
