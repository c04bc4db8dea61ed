"""Jobs: one that makes a whole study, and one per partition family, since a run has one partition key and a job over
two families would break the whole code location.

Belongs here: which assets run together. Does not belong here: what is stale (`planner`).
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import dagster as dg

from subliminal_dagster.execution.carriers.apart import RunsApart
from subliminal_dagster.execution.carriers.choice import chosen_carrier
from subliminal_dagster.execution.listening import Sentences
from subliminal_dagster.execution.live_runs import PROCESS_TAG, signature
from subliminal_dagster.execution.runner import execute, run_study
from subliminal_dagster.partitions import BY_GROUP, BY_GROUP_AND_LAYER, BY_GROUP_AND_REPLICATE, JOBS, job_name
from subliminal_dagster.planning.frame import Frame, shown
from subliminal_dagster.science.settings.study import AnyStudy

_MOST_SECONDS = 30 * 24 * 3600

ABOUT = {
    "base": "base model, its favourites, what autoencoders learn from",
    "groups": "teacher and numbers of one group",
    "children": "one child of one group, its rows and scores",
    "groups_with_children": "what is made of one group's first child and rows",
    "layers": "one layer: its sparse autoencoder, the animals' words",
    "groups_by_layer": "one group at one layer: activations, features, probes, steering",
    "groups_compared": "one group, all layers together",
    "layers_compared": "one layer, all groups compared",
    "results": "all groups and layers compared",
    "all": "everything",
}


def study_jobs(frame: Frame, apart: dg.AssetChecksDefinition | None = None) -> list[Any]:
    """A study's jobs, in the order in which they can run on a fresh study (see `partitions.JOBS`); for a study without
    partitions `<study>_all`. What is made on request is in none, nor are the checks `apart`."""
    study = frame.study.name

    def job(part: str, names: Collection[str]) -> Any:
        selection: dg.AssetSelection = dg.AssetSelection.assets(*(frame.key(name) for name in names))
        if apart is not None:
            selection = selection - dg.AssetSelection.checks(apart)
        return dg.define_asset_job(
            job_name(study, part),
            selection,
            description=f"{study}: {ABOUT[part]}",
            tags=frame.launch_tags_of(names),
        )

    usual = [name for name, node in frame.nodes.items() if not node.on_request]
    if not frame.study.groups:
        return [job("all", usual)]
    parts: dict[str, list[str]] = {part: [] for part in JOBS}
    above: dict[str, set[tuple[str, ...]]] = {}
    for name, node in frame.nodes.items():
        above[name] = {frame.nodes[dep].by for dep in node.deps}.union(*(above[dep] for dep in node.deps))
        if name in usual:
            parts[_job_of(node.by, above[name])].append(name)
    return [job(part, names) for part, names in parts.items() if names]


def make_job(frame: Frame, definitions_of: Callable[[AnyStudy], dg.Definitions]) -> Any:
    """`<study>_make`: everything that is missing or out of date of a study, whatever its partitions, as
    `subliminal-dagster run` makes it, one run per part."""
    study = frame.study

    @dg.op(name=job_name(study.name, "parts"), required_resource_keys={"store"})
    def make(context: dg.OpExecutionContext) -> None:
        # After a power cut nobody else tells that it is dead.
        context.instance.add_run_tags(context.run_id, {PROCESS_TAG: signature(context.run_id)})
        definitions, store = definitions_of(study), context.resources.store.create()
        root = store.root if store.opened.local else context.resources.store.root
        runs = RunsApart(study, definitions, context.instance, definitions_of, execute, root)
        # Other processes know the instance of DAGSTER_HOME, and no other.
        carrier = chosen_carrier(frame, runs) if context.instance.is_persistent else None
        listener, wanted = Sentences(context.log.info), frame.usual_parts()
        outcome = run_study(frame, definitions, store, context.instance, listener, wanted, carrier)
        if not outcome.complete:
            left = {**outcome.failed, **outcome.blocked, **outcome.waiting}
            reasons = "\n".join(f"{shown(*place)}: {why}" for place, why in left.items())
            raise dg.Failure(description=f"{len(left)} parts were not made:\n{reasons}", allow_retries=False)

    @dg.job(
        name=job_name(study.name, "make"),
        executor_def=dg.in_process_executor,
        description=f"{study.name}: makes everything that is missing or out of date.",
        # It lasts as long as all it makes, and an instance's limit is for a single run's step.
        tags={"dagster/max_runtime": str(_MOST_SECONDS), **frame.launch_tags_of([])},
    )
    def made() -> None:
        make()

    return made


def comparison_job(keys: Sequence[dg.AssetKey]) -> Any:
    """`comparison`: what is made of all studies."""
    return dg.define_asset_job(
        "comparison", dg.AssetSelection.assets(*keys), description="all studies on one page, and their superposition"
    )


def _job_of(by: tuple[str, ...], above: set[tuple[str, ...]]) -> str:
    """The job of an asset with these axes; `above` are those of everything it is made from, directly or not."""
    if not by:
        return "results" if above - {()} else "base"
    if by == BY_GROUP_AND_LAYER:
        return "groups_by_layer"
    if by == BY_GROUP_AND_REPLICATE:
        return "children"
    if by == BY_GROUP and BY_GROUP_AND_REPLICATE in above and BY_GROUP_AND_LAYER not in above:
        return "groups_with_children"
    family = "groups" if by == BY_GROUP else "layers"
    # What brings groups or layers together again cannot run before what it brings together.
    return f"{family}_compared" if BY_GROUP_AND_LAYER in above else family
