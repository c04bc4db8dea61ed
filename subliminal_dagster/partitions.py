"""Partitions of a study's assets, and the names of the jobs over them.

Belongs here: the one partitions object every partitioned asset of a study shares (Dagster infers the mapping between
two assets only where it is the very same object), and the names that follow from a run having one partition: a job a
partition family. Does not belong here: which asset uses it, what a job holds (`jobs`).
https://docs.dagster.io/guides/build/partitions-and-backfills
"""

import dagster as dg

from subliminal_dagster.science.study import AnyStudy


def group_partitions(study: AnyStudy) -> dg.StaticPartitionsDefinition:
    """One partition a group: the study's animals and `control`."""
    return dg.StaticPartitionsDefinition(study.groups)


def job_name(study: str, part: str) -> str:
    """A job's name: Dagster allows letters, digits and underscores."""
    return f"{study}_{part}".replace("-", "_").replace(".", "_")


def study_job_names(study: str) -> list[str]:
    """The names a study's jobs can have."""
    return [job_name(study, part) for part in ("base", "groups", "results", "all")]
