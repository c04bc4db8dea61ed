"""Whether what was made of a study is still fresh by the plan, as a check on each asset's page.

Dagster's own status of a partitioned asset is always fresh. A check looks at the artifacts when somebody asks:
*Execute* on the asset's page, the job `<study>_check` for all assets in one look, or materializing the asset from the
UI. `subliminal-dagster run` has looked anyway, and reports what it saw of what it made.

Belongs here: what such a check says. Does not belong here: what is fresh (`planning.planner`), gates (`work`).
https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Collection, Iterator
from typing import Any

import dagster as dg

from subliminal_dagster.partitions import job_name
from subliminal_dagster.planning.frame import FRESH_CHECK, Frame
from subliminal_dagster.planning.planner import Plan, make_plan

_MOST_LISTED = 100
"""Partitions whose reasons are written out, so that a large sweep's event stays small."""


def fresh_checks(frame: Frame) -> dg.AssetChecksDefinition:
    """The checks of all of a study's assets, which one look at the artifacts answers."""

    @dg.multi_asset_check(
        name=job_name(frame.study.name, "fresh"),
        specs=[
            dg.AssetCheckSpec(
                FRESH_CHECK,
                asset=frame.key(name),
                description="Settings, code and everything upstream are still what this was made from.",
            )
            for name in frame.nodes
        ],
        can_subset=True,
        required_resource_keys={"store"},
    )
    def fresh(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        plan = make_plan(frame, context.resources.store.create())
        for key in sorted(context.selected_asset_check_keys):
            said = _verdict(plan, key.asset_key.path[-1])
            yield dg.AssetCheckResult(asset_key=key.asset_key, check_name=FRESH_CHECK, **said)

    return fresh


def check_job(study: str, checks: dg.AssetChecksDefinition) -> Any:
    """`<study>_check`: looks at all assets at once, and makes nothing."""
    return dg.define_asset_job(
        job_name(study, "check"),
        dg.AssetSelection.checks(checks),
        description=f"{study}: says on each asset's page whether what was made is still fresh.",
    )


def show_fresh(plan: Plan, instance: dg.DagsterInstance, frame: Frame, made: Collection[str]) -> None:
    """Tell Dagster, without a run, what a plan of the whole study found of the assets of which something was `made`
    since the last time, and of those of which it said something else then."""
    keys = {name: dg.AssetCheckKey(frame.key(name), FRESH_CHECK) for name in frame.nodes}
    known = instance.event_log_storage.get_latest_asset_check_execution_by_key([*keys.values()])
    for name, key in keys.items():
        said = _verdict(plan, name)
        before = known[key].evaluation if key in known else None
        if name in made or (before is not None and before.description != said["description"]):
            told = dg.AssetCheckEvaluation(asset_key=key.asset_key, check_name=key.name, **said)
            instance.report_runless_asset_event(told)


def _verdict(plan: Plan, asset: str) -> dict[str, Any]:
    """What is said of one asset: it passes where no part of it is stale. What was never made is counted apart."""
    parts = [part for part in plan.parts if part.asset == asset]
    stale = [part for part in parts if part.status == "stale"]
    counts = {status: sum(part.status == status for part in parts) for status in ("fresh", "missing", "blocked")}
    reasons = {part.name: "; ".join(part.reasons) for part in stale[:_MOST_LISTED]}
    return {
        "passed": not stale,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": f"{len(stale)} of {len(parts)} parts are out of date." if stale else None,
        "metadata": {"value": len(stale), "threshold": 0, **counts, **({"stale": reasons} if stale else {})},
    }
