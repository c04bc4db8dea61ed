"""A plan as lines for a person: what is to be made, why, and what that takes.

Belongs here: the words and their order. Does not belong here: what is due (`planning.planner`), what it costs
(`execution.cost`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from subliminal_dagster.execution.cost import Cost
from subliminal_dagster.execution.listening import duration
from subliminal_dagster.planning.planner import Part, Plan

_SHOWN_REASONS = 3
_SHOWN_PARTITIONS = 3

# Parts of an asset that are due because of their own parts of another one are due for one reason.
_PARTITION_ABOVE = re.compile(r" \[[^]]*\](?= is to be made: )")

_Why = tuple[tuple[str, ...], bool]
"""The reasons, and whether it is certain that it has to be made."""


def plan_lines(plan: Plan, cost: Cost, costs: Mapping[str, str]) -> Iterator[str]:
    """All of it; `costs` says what parts cost beside time, by their names."""
    for why, assets in _by_reason(plan).items():
        yield from _heading(why)
        yield from (line for parts in assets.values() for line in _asset_lines(parts, costs))
    if plan.due:
        yield from _cost_lines(cost)
    yield summary(plan)


def summary(plan: Plan) -> str:
    """The plan in one line."""
    due = plan.due
    known = [part.seconds for part in due if part.seconds is not None]
    unknown = f", {len(due) - len(known)} of them never made before" if len(known) < len(due) else ""
    if known:
        cost = f"; about {duration(sum(known))}{unknown}"
    else:
        cost = "; none made before, so how long it takes is unknown" if due else ""
    return (
        f"{plan.study}: {len(plan.of('missing'))} missing, {len(plan.of('stale'))} stale, "
        f"{len(plan.of('fresh'))} fresh, {len(plan.of('blocked'))} blocked{cost}"
    )


def _by_reason(plan: Plan) -> dict[_Why, dict[tuple[str, str], list[Part]]]:
    """The parts that are not fresh by why, and then by their asset and status."""
    found: dict[_Why, dict[tuple[str, str], list[Part]]] = {}
    for part in plan.parts:
        if part.status != "fresh":
            found.setdefault(_why(part), {}).setdefault((part.asset, part.status), []).append(part)
    return found


def _why(part: Part) -> _Why:
    reasons = dict.fromkeys(_PARTITION_ABOVE.sub("", reason) for reason in part.reasons)
    return (*reasons,), part.sure or not part.due


def _heading(why: _Why) -> Iterator[str]:
    reasons, sure = why
    yield from reasons[:_SHOWN_REASONS]
    if len(reasons) > _SHOWN_REASONS:
        yield f"and {len(reasons) - _SHOWN_REASONS} more reasons (--json has them all)"
    if not sure:
        yield "(only if that comes out different)"


def _asset_lines(parts: Sequence[Part], costs: Mapping[str, str]) -> Iterator[str]:
    first = parts[0]
    seconds = [part.seconds for part in parts if part.seconds is not None]
    devices = {part.device or "an unknown device" for part in parts if part.seconds is not None}
    time = f", {duration(sum(seconds))} on {' and '.join(sorted(devices))}" if seconds else ""
    yield f"  {first.status:8} {_named(parts)}{time}"
    yield from (f"  {'':8} {costs[part.name]}" for part in parts if part.name in costs)


def _named(parts: Sequence[Part]) -> str:
    if len(parts) == 1:
        return parts[0].name
    shown = ", ".join(str(part.partition) for part in parts[:_SHOWN_PARTITIONS])
    more = ", ..." if len(parts) > _SHOWN_PARTITIONS else ""
    return f"{parts[0].asset}: {len(parts)} parts ({shown}{more})"


def _cost_lines(cost: Cost) -> Iterator[str]:
    def hours(value: float) -> str:
        return duration(3600 * value) if value else "-"

    gpu, cpu, unknown = (
        sum(getattr(stage, name) for stage in cost.stages) for name in ("gpu_hours", "cpu_hours", "unknown")
    )
    yield ""
    if gpu or cpu:
        yield f"{'stage':14} {'parts':>6} {'GPU':>9} {'measured':>9} {'CPU':>9}  not known"
        for stage in cost.stages:
            yield (
                f"{stage.stage:14} {stage.parts:6} {hours(stage.gpu_hours):>9} {hours(stage.measured_gpu_hours):>9} "
                f"{hours(stage.cpu_hours):>9}  {stage.unknown or ''}"
            ).rstrip()
        on = (
            f"{gpu:.1f} GPU-hours on {cost.card}, measured or by arithmetic (docs/gpu-budget.md); " if cost.card else ""
        )
        left_out = f"; {unknown} parts of which nothing is known are not in it" if unknown else ""
        yield f"{on}{cpu:.1f} CPU-hours; at least {hours(cost.hours_at_least)} with {cost.slots} at once{left_out}"
    if unknown and not cost.card:
        yield "What it would take on a GPU: plan --card A6000"
