"""What a plan costs before it is begun: hours of GPU and CPU by stage, by earlier runs where there are some, else by
the arithmetic of the budget.

Belongs here: which of the two holds for which part. Does not belong here: the arithmetic (`science.budget`), how it is
printed (`cli`).

Part of no version: what something costs does not change what it makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from subliminal_dagster.planning.frame import VARIANT_OF, Frame
from subliminal_dagster.planning.planner import Part, Plan
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.budget.card import CARDS, Card
from subliminal_dagster.science.budget.needs import needs
from subliminal_dagster.science.budget.shape import shape_of
from subliminal_dagster.science.errors import UserError, meant
from subliminal_dagster.science.preflight.card import cards_here
from subliminal_dagster.science.settings.study import Study

_HOUR = 3600.0


@dataclass
class StageCost:
    """What the due parts of a stage take, in hours; of `unknown` parts nothing is known, and they are in no sum.

    `gpu_hours` are those of parts that need one, on the card that the plan is for; `measured_gpu_hours` is what of them
    earlier runs took. `cpu_hours` are those of all other parts.
    """

    stage: str
    parts: int = 0
    gpu_hours: float = 0.0
    measured_gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    unknown: int = 0


@dataclass(frozen=True)
class Cost:
    """By stage, in the order of the graph; and the hours it takes at least with `slots` runs at a time: the longest
    chain, or all of it shared among them. `card` is None where nothing is to run on a GPU."""

    card: str | None
    stages: tuple[StageCost, ...]
    slots: int
    hours_at_least: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def named_card(name: str) -> Card:
    """The card of a name, whatever its case. Raises UserError for one that the budget does not know."""
    found = next((card for known, card in CARDS.items() if known.lower() == name.lower()), None)
    if found is None:
        raise UserError(f"The budget knows no card {name!r}: name one of {', '.join(CARDS)}.{meant(name, CARDS)}")
    return found


def card_here() -> Card | None:
    """The first of this machine's cards that the budget knows; None without one."""
    names = [card.name.lower() for card in cards_here()]
    return next((card for known, card in CARDS.items() if any(known.lower() in name for name in names)), None)


def cost_of(frame: Frame, plan: Plan, card: Card | None, slots: int) -> Cost:
    """What the due parts of a plan cost on a card; without one, on the CPUs here.

    What was measured on another kind of device says nothing, and is left out. Raises UserError where there is no slot.
    """
    if slots < 1:
        raise UserError(f"--slots is {slots}: give 1 or more.")
    seconds = expected_seconds(frame, plan.due, card, reckoned_seconds(frame, card))
    stages: dict[str, StageCost] = {}
    for part in plan.due:
        stage = stages.setdefault(frame.stages[part.asset], StageCost(frame.stages[part.asset]))
        stage.parts += 1
        known = seconds.get(part.place)
        if known is None:
            stage.unknown += 1
        elif frame.nodes[part.asset].gpu and card is not None:
            stage.gpu_hours += known / _HOUR
            stage.measured_gpu_hours += (_measured(part, card) or 0.0) / _HOUR
        else:
            stage.cpu_hours += known / _HOUR
    least = seconds_at_least(plan.due, seconds, slots)
    return Cost(card.name if card else None, tuple(stages.values()), slots, least / _HOUR)


def expected_seconds(
    frame: Frame, parts: Iterable[Part], card: Card | None, reckoned: Mapping[str, float]
) -> dict[Input, float]:
    """The seconds that due parts take on a card, or without one on the CPUs here: measured, else `reckoned`. Those of
    which nothing is known are not in it."""
    found: dict[Input, float] = {}
    for part in parts:
        on_gpu = frame.nodes[part.asset].gpu and card is not None
        took = _measured(part, card if on_gpu else None)
        known = took if took is not None or not on_gpu else reckoned.get(part.asset)
        if known is not None:
            found[part.place] = known
    return found


def seconds_at_least(parts: Iterable[Part], seconds: Mapping[Input, float], slots: int) -> float:
    """What parts in the order of the graph take with so many at a time: their longest chain, or all shared out."""
    return max(_longest_chain(parts, seconds), sum(seconds.values()) / slots)


def _measured(part: Part, card: Card | None) -> float | None:
    """What it took before, or its like, on this kind of device; None where that is not known."""
    if part.seconds is None or part.device is None:
        return None
    kind = card.name.lower() if card is not None else "cpu"
    return part.seconds if all(kind in device.lower() for device in part.device.split(", ")) else None


def reckoned_seconds(frame: Frame, card: Card | None) -> dict[str, float]:
    """Seconds of one run of each asset by the budget; of a sweep's variant those of the asset it varies."""
    study = frame.study
    if card is None or not isinstance(study, Study) or study.base_model.kind != "hub":
        return {}
    found = {need.stage: need.seconds for need in needs(study, shape_of(study), card)}
    return {name: found[own] for name in frame.nodes if (own := name.removeprefix(VARIANT_OF)) in found}


def _longest_chain(parts: Iterable[Part], seconds: Mapping[Input, float]) -> float:
    """The longest way through parts that wait for each other, which are in the order of the graph."""
    ends: dict[Input, float] = {}
    for part in parts:
        before = max((ends[place] for place in part.waits_for if place in ends), default=0.0)
        ends[part.place] = before + seconds.get(part.place, 0.0)
    return max(ends.values(), default=0.0)
