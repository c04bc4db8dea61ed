"""How an asset of a study is declared.

Belongs here: from a function that fills a folder to a Dagster asset. Does not belong here: what an asset is made of
(`planning.frame`), what happens when it is made (`execution.work`), any one asset.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from inspect import signature
from typing import Any
from warnings import catch_warnings, simplefilter

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
        said = [frame.study.category.about(text) if text else "" for text in (description, gate, warnings)]
        frame.stages[node.name] = stage
        partitions = frame.partitioning.definition(by, variants)
        checks = [_check(GATE_CHECK, key, partitions, said[1], blocking=True)] if said[1] else []
        checks += [_check(WARNINGS_CHECK, key, partitions, said[2])] if said[2] else []
        frame.assets[node.name] = dg.asset(
            key=key,
            group_name=asset_group(frame.study.name, stage),
            deps=[frame.dependency(node, dep) for dep in deps],
            kinds=kinds,
            description=said[0],
            code_version=node.recipe.version,
            metadata={
                "settings": dg.MetadataValue.json(node.recipe.settings),
                "code": f"{function.__module__}:{function.__code__.co_firstlineno}",
                "dagster/code_references": _source(function),
            },
            partitions_def=partitions,
            pool=frame.gpu_pool if gpu else None,
            op_tags=frame.launch_tags(stage, gpu),
            required_resource_keys={"store", *resources, *(["gpu"] if gpu else [])},
            # A step the system killed is tried once more; what a user can mend is not (see `carry_out`).
            retry_policy=dg.RetryPolicy(max_retries=1),
            check_specs=checks or None,
        )(make)
        return frame.assets[node.name]

    return declare


def _source(function: Callable[..., None]) -> dg.CodeReferencesMetadataValue:
    """Where the function of an asset is; the one that Dagster finds by itself is the same for all."""
    code = function.__code__
    with catch_warnings():
        simplefilter("ignore", dg.BetaWarning)
        place = dg.LocalFileCodeReference(file_path=code.co_filename, line_number=code.co_firstlineno)
        return dg.CodeReferencesMetadataValue(code_references=[place])


def _check(
    name: str, key: dg.AssetKey, partitions: dg.PartitionsDefinition | None, description: str, blocking: bool = False
) -> dg.AssetCheckSpec:
    """A check of every partition of an asset: of one without partitions Dagster shows what it found in the partition
    that came last, and "Not evaluated" as soon as another one was made since."""
    with catch_warnings():
        # Partitions of checks are a preview in Dagster 1.13, and it warns of that on each load.
        simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(name, asset=key, description=description, blocking=blocking, partitions_def=partitions)
