"""Partitions of a study's assets.

Belongs here: the one partitions object every partitioned asset of a study shares (Dagster infers the mapping between
two assets only where it is the very same object). Does not belong here: which asset uses it.
https://docs.dagster.io/guides/build/partitions-and-backfills
"""

import dagster as dg

from subliminal_dagster.science.study import Study


def group_partitions(study: Study) -> dg.StaticPartitionsDefinition:
    """One partition a group: the study's animals and `control`."""
    return dg.StaticPartitionsDefinition(study.groups)
