"""Which of the parts that can start now should start first.

Belongs here: an order of parts. Does not belong here: which can start (`planner`), starting them (`execution.runner`).
"""

from __future__ import annotations

from collections import defaultdict

from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.planner import Part, Plan
from subliminal_dagster.planning.recipe import Input

VERDICT = "animal_liking"
"""The asset that says what a study found."""

# For parts whose like was never made: work on a model takes minutes, any other seconds.
_USUAL_SECONDS = {True: 60.0, False: 2.0}

Rank = tuple[bool, float, int]
"""The lowest goes first."""


def ranks(plan: Plan, frame: Frame) -> dict[Input, Rank]:
    """The rank of every due part: what the verdict needs goes before everything else, then that with the longest way
    still to go, in seconds by earlier runs, then in the order of the graph.

    The way of what the verdict needs ends at the verdict, that of anything else at the last part.
    """
    for_verdict = _needed_for(VERDICT, plan)
    followers: dict[Input, list[Input]] = defaultdict(list)
    way: dict[Input, float] = {}
    found: dict[Input, Rank] = {}
    for place, part in reversed([*enumerate(plan.parts)]):
        if not part.due:
            continue
        beyond = [i for i in followers[part.place] if i in for_verdict or part.place not in for_verdict]
        way[part.place] = _cost(part, frame) + max((way[i] for i in beyond), default=0.0)
        found[part.place] = (part.place not in for_verdict, -way[part.place], place)
        for needed in part.waits_for:
            followers[needed].append(part.place)
    return found


def _needed_for(asset: str, plan: Plan) -> set[Input]:
    """The due parts of an asset and all that has to be made before them."""
    needed: set[Input] = set()
    for part in reversed(plan.parts):
        if part.due and (part.asset == asset or part.place in needed):
            needed |= {part.place, *part.waits_for}
    return needed


def _cost(part: Part, frame: Frame) -> float:
    return part.seconds if part.seconds is not None else _USUAL_SECONDS[frame.nodes[part.asset].gpu]
