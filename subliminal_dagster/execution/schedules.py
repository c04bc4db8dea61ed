"""What makes a study's due parts by itself: a nightly schedule, and a sensor for those who want it at all hours.

Both request the plan's next runs and nothing else. What follows from their results is requested by a later tick, so a
night has many: a tick that finds nothing due costs one look at the artifacts. A part that failed is tried again the
next day, or once something it is made from has changed; a part that a gate refused only then. A run that was killed is
requested again, a few times.

Belongs here: ticks. Does not belong here: what is due (`planner`).
https://docs.dagster.io/guides/automate/schedules
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dagster as dg

from subliminal_dagster.execution.live_runs import being_made, bury_dead_runs
from subliminal_dagster.partitions import job_name
from subliminal_dagster.planning.frame import PLANNED_TAG, Frame
from subliminal_dagster.planning.planner import make_plan
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.store import ArtifactStore

NIGHT = "*/2 1-5 * * *"
"""Every other minute from one to six: levels follow each other without much waiting."""

DUE_TAG = "subliminal/due"
MOST_ATTEMPTS = 3

# The job Dagster makes of all assets: the one job whose runs may select assets of any partition family.
ALL_ASSETS_JOB = "__ASSET_JOB"


def nightly_cron() -> str | None:
    """SUBLIMINAL_NIGHTLY, a cron expression; None where it is unset, and then schedules are off until switched on."""
    cron = os.environ.get("SUBLIMINAL_NIGHTLY", "").strip()
    if cron:
        try:
            dg.ScheduleDefinition(name="nightly", job_name=ALL_ASSETS_JOB, cron_schedule=cron)
        except dg.DagsterInvalidDefinitionError:
            raise UserError(
                f"SUBLIMINAL_NIGHTLY is {cron!r}, which is no cron expression: set it like {NIGHT!r}."
            ) from None
    return cron or None


def nightly_zone() -> str:
    """SUBLIMINAL_TIMEZONE, the zone the night is counted in; UTC where it is unset."""
    zone = os.environ.get("SUBLIMINAL_TIMEZONE", "").strip() or "UTC"
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UserError(
            f"SUBLIMINAL_TIMEZONE is {zone!r}, which is no time zone: set it to a name such as Europe/Berlin or UTC."
        ) from None
    return zone


def study_schedule(frame: Frame, cron: str | None = None) -> dg.ScheduleDefinition:
    """`<study>_nightly`, running from the start where `cron` is given."""

    @dg.schedule(
        name=job_name(frame.study.name, "nightly"),
        job_name=ALL_ASSETS_JOB,
        cron_schedule=cron or NIGHT,
        execution_timezone=nightly_zone(),
        default_status=dg.DefaultScheduleStatus.RUNNING if cron else dg.DefaultScheduleStatus.STOPPED,
        description=f"{frame.study.name}: makes what is missing or out of date, a level of the plan at a tick.",
        required_resource_keys={"store"},
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        yield from _requests(frame, context.instance, context.resources.store.create())

    return nightly


def study_sensor(frame: Frame) -> dg.SensorDefinition:
    """`<study>_always`: the same at all hours, off until it is switched on."""

    @dg.sensor(
        name=job_name(frame.study.name, "always"),
        asset_selection=dg.AssetSelection.key_prefixes([frame.study.name]),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"{frame.study.name}: makes what is missing or out of date as soon as it is.",
        required_resource_keys={"store"},
    )
    def always(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        yield from _requests(frame, context.instance, context.resources.store.create())

    return always


def _requests(
    frame: Frame, instance: dg.DagsterInstance, store: ArtifactStore
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """A request for every run that can start now and whose outcome is not known since earlier today."""
    bury_dead_runs(instance)
    # Before the plan: a part that others finish in between is busy then, and not due once more.
    claims = store.claims(frame.study.name)
    busy = {*being_made(instance, frame.study.name, frame.nodes), *claims}
    plan = make_plan(frame, store, claims).limited_to(frame.usual_parts(), frame)
    requested = 0
    for run in plan.next_runs(busy):
        key = f"{datetime.now(UTC):%Y-%m-%d}-{run.key}"
        attempt = _next_attempt(instance, key)
        if attempt is not None:
            requested += 1
            yield dg.RunRequest(
                run_key=f"{key}-{attempt}",
                partition_key=run.partition,
                asset_selection=[frame.key(part.asset) for part in run.parts],
                tags={DUE_TAG: key, PLANNED_TAG: "yes"},
            )
    if not requested:
        yield dg.SkipReason(
            f"{len(plan.of('fresh'))} fresh, {len(plan.of('blocked'))} blocked by a gate, {len(plan.due)} due, "
            f"{sum(part.place in busy for part in plan.due)} of them in the making; others wait or failed today."
        )


def _next_attempt(instance: dg.DagsterInstance, key: str) -> int | None:
    """The number of the next run for this work; None where one has ended, or too many were interrupted."""
    earlier = instance.get_runs(dg.RunsFilter(tags={DUE_TAG: key}))
    if len(earlier) >= MOST_ATTEMPTS or not all(_was_interrupted(instance, run) for run in earlier):
        return None
    return len(earlier) + 1


def _was_interrupted(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run ended without one of its steps failing: its process was killed, or the machine went down."""
    return run.status == dg.DagsterRunStatus.FAILURE and not instance.get_run_stats(run.run_id).steps_failed
