"""How an asset of a study is declared.

Belongs here: from a function that fills a folder to a Dagster asset. Does not belong here: what an asset is made of
(`planning.frame`), what happens when it is made (`execution.work`), any one asset.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from inspect import signature
from typing import Any

import dagster as dg

from subliminal_dagster.execution.work import Work, carry_out
from subliminal_dagster.partitions import asset_group
from subliminal_dagster.planning.frame import GATE_CHECK, WARNINGS_CHECK, Frame, StudyT
from subliminal_dagster.science.settings.sweep import Variants


def asset(
    frame: Frame[StudyT],
    stage: str,
    *,
    name: str | None = None,
    reads: list[str],
    deps: list[str],
    kinds: set[str],
    by: tuple[str, ...] = (),
    gpu: bool,
    description: str,
    gate: str | None = None,
    warnings: str | None = None,
    control_too: tuple[str, ...] = (),
    on_request: bool = False,
    takes_what_there_is: bool = False,
    all_replicates: bool = False,
    also: Mapping[str, Any] | None = None,
    variants: Variants | None = None,
) -> Callable[[Callable[..., None]], dg.AssetsDefinition]:
    """`@dg.asset` for an asset of a study, called as the function is unless it has a `name`.

    The function is handed a `Work` to read from and write with, a GPU to itself where it says `gpu`, and the resources
    that its other parameters are called after. `gate` describes the check that what was made has to pass before
    anything is built on it, `warnings` one that holds nothing back. For the other arguments see `Frame.declare`.
    """

    def declare(function: Callable[..., None]) -> dg.AssetsDefinition:
        resources = [parameter for parameter in signature(function).parameters if parameter != "work"]
        node = frame.declare(
            name or function.__name__,
            function,
            reads=reads,
            deps=deps,
            by=by,
            gpu=gpu,
            gated=gate is not None,
            warns=warnings is not None,
            control_too=control_too,
            on_request=on_request,
            takes_what_there_is=takes_what_there_is,
            all_replicates=all_replicates,
            also=also,
            variants=variants,
        )

        def make(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            given = {resource: getattr(context.resources, resource) for resource in resources}
            lease = context.resources.gpu.lease(context.log.info) if gpu else nullcontext()
            work = Work(context, context.resources.store.create(), frame)
            return carry_out(work, lambda work: function(work, **given), lease)

        key = frame.key(node.name)
        said = [frame.study.category.about(text) if text else None for text in (description, gate, warnings)]
        frame.stages[node.name] = stage
        checks = [dg.AssetCheckSpec(GATE_CHECK, asset=key, blocking=True, description=said[1])] if gate else []
        checks += [dg.AssetCheckSpec(WARNINGS_CHECK, asset=key, description=said[2])] if warnings else []
        frame.assets[node.name] = dg.asset(
            key=key,
            group_name=asset_group(frame.study.name, stage),
            deps=[frame.dependency(node, dep) for dep in deps],
            kinds=kinds,
            owners=["team:interpretability"],
            description=said[0],
            code_version=node.recipe.version,
            metadata={
                "settings": dg.MetadataValue.json(node.recipe.settings),
                "code": f"{function.__module__}:{function.__code__.co_firstlineno}",
            },
            partitions_def=frame.partitioning.definition(by, variants),
            pool=frame.gpu_pool if gpu else None,
            required_resource_keys={"store", *resources, *(["gpu"] if gpu else [])},
            # A step the system killed is tried once more; what a user can mend is not (see `carry_out`).
            retry_policy=dg.RetryPolicy(max_retries=1),
            check_specs=checks or None,
        )(make)
        return frame.assets[node.name]

    return declare
