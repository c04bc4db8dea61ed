"""Why a study sees nothing, where it does: what of a teacher is in its numbers, and the usual reasons in order."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import dagster as dg

from subliminal_dagster.assets.base import base_variant, chat_context
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import plain, table, table_metadata
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_GROUP
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.settings.study import Study

STAGE = "results"

# A group's artifacts that the checks look at.
_LOOKED_AT = ("teacher_preferences", "filtered_dataset", "teacher_signal", "child_lora", "preference_scores")


def null_cause_assets(frame: Frame[Study]) -> list[dg.AssetsDefinition]:
    """`teacher_signal` a group, `null_causes`."""
    return [_teacher_signal(frame), _null_causes(frame)]


def _teacher_signal(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        "numbers",
        reads=["system_prompt", "numbers.constrained", "numbers.answer_count", "numbers.max_digits"],
        deps=["base_model", "teacher_lora", "filtered_dataset"],
        kinds={"pytorch", "parquet"},
        by=BY_GROUP,
        gpu=True,
        description="How far the teacher's distribution lies from the base model's on the numbers it wrote, in nats "
        "per token: all that a child can learn from them.",
    )
    def teacher_signal(work: Work[Study]) -> None:
        from subliminal_dagster.science.liking.signal import teacher_signal as measure
        from subliminal_dagster.science.training.teachers import Teacher

        base = base_variant(work)
        teacher = Teacher.load(work.own("teacher_lora"))
        dataset = work.own("filtered_dataset")
        with work.writing() as folder:
            found = measure(study, base, chat_context(work, base), dataset, teacher, progress=work.progress())
            found.rows.to_parquet(folder / "rows.parquet", index=False)
            found.positions.to_parquet(folder / "positions.parquet", index=False)
            work.metadata |= plain(found.facts) | table_metadata(found.rows) | {"positions": table(found.positions)}

    return teacher_signal


def _null_causes(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study
    looked_at = [name for name in _LOOKED_AT if name == "teacher_signal" or name in frame.nodes]

    @asset(
        frame,
        STAGE,
        reads=["animals", "neutral", "system_prompt", "teacher", "numbers", "filter", "child"],
        deps=["base_preferences", *looked_at, "animal_liking"],
        kinds={"pandas"},
        gpu=False,
        takes_what_there_is=True,
        description="The usual reasons for seeing no effect, checked in order for every animal, and the likely one.",
    )
    def null_causes(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.liking.null_causes import Evidence, likely_cause, signal_by_group
        from subliminal_dagster.science.liking.null_causes import null_causes as check

        base = {"preference_scores": work.read("base_preferences")} if work.has("base_preferences") else {}
        groups = {group: Evidence.read(*_of(work, group)) for group in study.groups}
        liking = work.read("animal_liking") if work.has("animal_liking") else None
        tests, gamma = (pd.read_parquet(liking / f"{n}.parquet") if liking else None for n in ("tests", "gamma"))
        with work.writing() as folder:
            causes = check(study, groups, Evidence.read(base), tests)
            finding = likely_cause(causes, gamma)
            causes.to_parquet(folder / "causes.parquet", index=False)
            signal_by_group(groups).to_parquet(folder / "signal.parquet", index=False)
            (folder / "facts.json").write_text(json.dumps(asdict(finding), indent=2) + "\n", encoding="utf-8")
            said = replace(finding, sentence=study.category.about(finding.sentence))
            work.metadata |= plain(asdict(said)) | {"causes": table(causes)}

    return null_causes


def _of(work: Work[Study], group: str) -> tuple[dict[str, Path], dict[str, str]]:
    """The folders of a group's artifacts by asset, and why others are not there."""
    places = {name: work.own_partition(name, group) for name in _LOOKED_AT if name in work.frame.nodes}
    there = {name: work.read(name, place) for name, place in places.items() if work.has(name, place)}
    return there, {name: why for (name, place), why in work.not_there.items() if places.get(name) == place}
