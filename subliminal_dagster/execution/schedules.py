"""What makes a study's due parts by itself: a nightly schedule, and a sensor for those who want it at all hours.

The schedule requests the job that makes the whole study, once per night and where something is due. The sensor requests
the plan's next runs and nothing else; what follows from their results is requested by a later tick, and a tick that
finds nothing due costs one look at the artifacts. A part that failed is tried again the next day, or for the sensor
once something it is made from has changed; a part that a gate refused only then. A run that was killed is requested
again, a few times.

Belongs here: ticks. Does not belong here: what is due (`planner`).
https://docs.dagster.io/guides/automate/schedules
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dagster as dg

from subliminal_dagster.execution.live_runs import IN_PROGRESS, being_made, bury_dead_runs
from subliminal_dagster.partitions import job_name
from subliminal_dagster.planning.frame import PLANNED_TAG, Frame
from subliminal_dagster.planning.planner import Plan, make_plan
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.store import ArtifactStore

NIGHT = "0 1 * * *"
"""At one, once: the run goes on until there is nothing left to make."""

DUE_TAG = "subliminal/due"
MOST_ATTEMPTS = 3


def nightly_cron() -> str | None:
    """SUBLIMINAL_NIGHTLY, a cron expression; None where it is unset, and then schedules are off until switched on."""
    cron = os.environ.get("SUBLIMINAL_NIGHTLY", "").strip()
    if cron:
        try:
            dg.ScheduleDefinition(name="nightly", job_name="make", cron_schedule=cron)
        except dg.DagsterInvalidDefinitionError:
            raise UserError(
                f"SUBLIMINAL_NIGHTLY is {cron!r}, which is not a cron expression: set it to one such as {NIGHT!r}."
            ) from None
    return cron or None


def nightly_zone() -> str:
    """SUBLIMINAL_TIMEZONE, the zone the night is counted in; UTC where it is unset."""
    zone = os.environ.get("SUBLIMINAL_TIMEZONE", "").strip() or "UTC"
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UserError(
            f"SUBLIMINAL_TIMEZONE is {zone!r}, which is not a time zone: set it to a name such as Europe/Berlin or UTC."
        ) from None
    return zone


def study_schedule(frame: Frame, cron: str | None = None) -> dg.ScheduleDefinition:
    """`<study>_nightly`, running from the start where `cron` is given."""

    @dg.schedule(
        name=job_name(frame.study.name, "nightly"),
        job_name=job_name(frame.study.name, "make"),
        cron_schedule=cron or NIGHT,
        execution_timezone=nightly_zone(),
        default_status=dg.DefaultScheduleStatus.RUNNING if cron else dg.DefaultScheduleStatus.STOPPED,
        description=f"{frame.study.name}: makes all that is missing or out of date, once a night.",
        required_resource_keys={"store"},
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        yield _night(frame, context.instance, context.resources.store.create())

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


def _night(frame: Frame, instance: dg.DagsterInstance, store: ArtifactStore) -> dg.RunRequest | dg.SkipReason:
    """A request for the run that makes everything, where something is due and tonight's has not ended yet."""
    bury_dead_runs(instance)
    job = job_name(frame.study.name, "make")
    at_work = instance.get_runs(dg.RunsFilter(job_name=job, statuses=IN_PROGRESS), limit=1)
    if at_work:
        return dg.SkipReason(f"run {at_work[0].run_id[:8]} of {job} is at work")
    plan = make_plan(frame, store).limited_to(frame.usual_parts(), frame)
    if not plan.due:
        return dg.SkipReason(f"{_counted(plan)}.")
    night = f"{datetime.now(ZoneInfo(nightly_zone())):%Y-%m-%d}-{frame.study.name}"
    attempt = _next_attempt(instance, night)
    if attempt is None:
        return dg.SkipReason(f"{_counted(plan)}; tonight's run has ended, and tomorrow's tries again.")
    return dg.RunRequest(run_key=f"{night}-{attempt}", tags={DUE_TAG: night})


def _counted(plan: Plan) -> str:
    return f"{len(plan.of('fresh'))} fresh, {len(plan.of('blocked'))} blocked by a gate, {len(plan.due)} due"


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
                asset_check_keys=frame.own_checks(part.asset for part in run.parts),
                tags={DUE_TAG: key, PLANNED_TAG: "yes", **frame.launch_tags_of(part.asset for part in run.parts)},
            )
    if not requested:
        yield dg.SkipReason(
            f"{_counted(plan)}, {sum(part.place in busy for part in plan.due)} of them in the making; others wait or "
            "failed today."
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
