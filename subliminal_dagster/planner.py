"""What of a study is missing or out of date, read from the artifacts themselves.

An artifact records the code version it was made with and the content hash of everything it read. It is current while
both are still so; a rerun that made the same content again therefore leaves everything downstream current. Dagster's
own staleness says the same a partition (the content hash is the data version), but not at the level of an asset.

Belongs here: that comparison. Does not belong here: running anything (`runner`).
"""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.store import ArtifactStore, MissingArtifact
from subliminal_dagster.science.study import Study


@dataclass(frozen=True)
class Part:
    """One asset in one partition (None where it has none), with the reason to make it, None where it is current."""

    asset: str
    partition: str | None
    reason: str | None


def plan_partition(
    assets: list[dg.AssetsDefinition], store: ArtifactStore, study: Study, partition: str | None
) -> list[Part]:
    """The given assets of a study (upstream first) in one partition, each with its reason to be made.

    What lies downstream of a part that is to be made is to be made as well: whether its content changes is known only
    afterwards.
    """
    parts: list[Part] = []
    for asset in assets:
        name = asset.key.path[-1]
        made = {part.asset for part in parts if part.reason}
        above = [key.path[-1] for key in asset.dependency_keys]
        changed = next((dep for dep in above if dep in made), None)
        reason = f"{changed} is made anew" if changed else _reason(asset, store, study, partition)
        parts.append(Part(name, partition, reason))
    return parts


def _reason(asset: dg.AssetsDefinition, store: ArtifactStore, study: Study, partition: str | None) -> str | None:
    name = asset.key.path[-1]
    try:
        info = store.manifest(study.name, name, partition).info
    except MissingArtifact:
        return "missing"
    except UserError as error:
        return str(error)
    if info["code_version"] != asset.code_versions_by_key[asset.key]:
        return "its settings changed"
    for source, content_hash in info["upstream"].items():
        upstream, _, group = source.partition("/")
        if not store.exists(study.name, upstream, group or None):
            return f"{source} is gone"
        if store.manifest(study.name, upstream, group or None).content_hash != content_hash:
            return f"{source} changed"
    return None
