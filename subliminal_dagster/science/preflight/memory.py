"""Memory: what each stage needs at its peak, against what the card or the machine has.

Belongs here: the comparison, and what to set. Does not belong here: what a stage needs (`budget`).

Part of no version: messages to users are not results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from subliminal_dagster.science.preflight.finding import Finding, in_gb

CHECK = "memory"


@dataclass(frozen=True)
class Memory:
    """That of a card, or of the machine where there is no card, in bytes. `name` is fit for "the memory of NAME"."""

    name: str
    total: int
    free: int


def check_memory(needs: Mapping[str, int], memory: Memory, remedy: str, side_by_side: int = 1) -> list[Finding]:
    """A finding a stage that does not fit, and one where all do. `needs`: bytes at the peak by stage; `remedy`: what to
    set where one does not fit; `side_by_side`: how many stages may go on at once in this memory.

    What does not fit at all has failed. What does not fit beside what others hold now is a warning: they may have
    ended by then, and a card that another run holds is waited for.
    """
    if not needs:
        return [Finding(CHECK, "ok", "nothing that is to be made loads a model")]
    found = []
    for stage, need in sorted(needs.items(), key=lambda item: -item[1]):
        if need > memory.total:
            found.append(
                Finding(
                    CHECK,
                    "failed",
                    f"{stage} needs {in_gb(need)} and {memory.name} has {in_gb(memory.total)}: {remedy}.",
                )
            )
        elif need > memory.free:
            found.append(
                Finding(
                    CHECK,
                    "warning",
                    f"{stage} needs {in_gb(need)} and of the {in_gb(memory.total)} of {memory.name} "
                    f"{in_gb(memory.free)} are free now: end what else holds them, or {remedy}.",
                )
            )
    largest, most = max(needs.items(), key=lambda item: item[1])
    if found:
        return found
    if side_by_side > 1 and side_by_side * most > memory.free:
        return [
            Finding(
                CHECK,
                "warning",
                f"{largest} needs {in_gb(most)}, {side_by_side} runs go on at once and {in_gb(memory.free)} of "
                f"{memory.name} are free: set SUBLIMINAL_WORKERS to {max(1, memory.free // most)}.",
            )
        ]
    return [
        Finding(
            CHECK,
            "ok",
            f"{largest} needs most, {in_gb(most)}; {memory.name} has {in_gb(memory.total)}, {in_gb(memory.free)} free",
        )
    ]
