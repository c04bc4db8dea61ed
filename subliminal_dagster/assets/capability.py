"""What base, teachers and children can still do: an exam, and the loss on plain text."""

from typing import TYPE_CHECKING

import dagster as dg

from subliminal_dagster.assets.base import base_variant, chat_context
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.gathered import write_left_out
from subliminal_dagster.assets.shared import plain, show_figures, table, table_metadata
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_GROUP
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.resources import EngineResource
from subliminal_dagster.science.capability.exam import OWN_EXAM, OWN_TEXTS
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.protocol import ModelVariant, Session, child_variant
from subliminal_dagster.science.settings.capability import CapabilitySettings
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.storage.content_hash import file_content_hashes

if TYPE_CHECKING:
    from pathlib import Path

    from subliminal_dagster.science.capability.capability import Capability

STAGE = "capability"
RESULTS = "results"
TABLES = ("answers", "texts")


def capability_assets(frame: Frame[Study], settings: CapabilitySettings) -> list[dg.AssetsDefinition]:
    """`exam`, `base_capability`, `teacher_capability` and `child_capability` a group, `capability`.

    An exam takes minutes a model, so its assets are made on request.
    """
    return [
        _exam(frame, settings),
        _base_capability(frame, settings),
        _teacher_capability(frame, settings),
        _child_capability(frame, settings),
        _capability(frame, settings),
    ]


def _exam(frame: Frame[Study], settings: CapabilitySettings) -> dg.AssetsDefinition:
    own_files = (OWN_EXAM, OWN_TEXTS) if settings.exam.kind == "own" else (OWN_TEXTS,)

    @asset(
        frame,
        STAGE,
        reads=["capability.exam", "capability.per_category"],
        also={"capability.own_files": file_content_hashes(*own_files)},
        deps=[],
        kinds={"pandas", "parquet"},
        gpu=False,
        on_request=True,
        description="The exam's questions, in MMLU-Pro's schema, and plain paragraphs for the loss.",
    )
    def exam(work: Work[Study]) -> None:
        from subliminal_dagster.science.capability.exam import load_exam, load_texts

        with work.writing() as folder:
            questions = load_exam(settings.exam, work.workspace())
            if settings.per_category is not None:
                questions = questions.groupby("category", sort=False).head(settings.per_category)
            questions.to_parquet(folder / "questions.parquet", index=False)
            load_texts().to_parquet(folder / "texts.parquet", index=False)
            categories = questions["category"].value_counts().rename_axis("category").reset_index(name="questions")
            work.metadata |= table_metadata(questions) | {"categories": table(categories)}

    return exam


def _base_capability(frame: Frame[Study], settings: CapabilitySettings) -> dg.AssetsDefinition:
    reads = ["seed", "system_prompt", "capability.ways"]

    @asset(
        frame,
        STAGE,
        reads=reads,
        deps=["base_model", "exam"],
        kinds={"pytorch", "parquet"},
        gpu=True,
        on_request=True,
        description="The base model's answers to the exam, and its loss on plain text.",
    )
    def base_capability(work: Work[Study], engine: EngineResource) -> None:
        base = base_variant(work)
        _examine(work, settings, engine, base, chat_context(work, base))

    return base_capability


def _teacher_capability(frame: Frame[Study], settings: CapabilitySettings) -> dg.AssetsDefinition:
    reads = ["seed", "system_prompt", "capability.ways"]

    @asset(
        frame,
        STAGE,
        reads=reads,
        deps=["base_model", "exam", "base_capability", "teacher_lora"],
        kinds={"pytorch", "parquet"},
        by=BY_GROUP,
        gpu=True,
        on_request=True,
        description="The teacher's answers to the exam, and its loss on plain text.",
    )
    def teacher_capability(work: Work[Study], engine: EngineResource) -> None:
        from subliminal_dagster.science.training.teachers import Teacher

        base = base_variant(work)
        teacher = Teacher.load(work.own("teacher_lora"))
        if work.group == CONTROL:
            _copy_base(work, "the control's teacher is the untouched base")
        else:
            _examine(work, settings, engine, teacher.variant(base), teacher.context(chat_context(work, base)))

    return teacher_capability


def _child_capability(frame: Frame[Study], settings: CapabilitySettings) -> dg.AssetsDefinition:
    reads = ["seed", "system_prompt", "capability.ways"]

    @asset(
        frame,
        STAGE,
        reads=reads,
        deps=["base_model", "exam", "child_lora"],
        kinds={"pytorch", "parquet"},
        by=BY_GROUP,
        gpu=True,
        on_request=True,
        description="The child's answers to the exam, and its loss on plain text (hard channel).",
    )
    def child_capability(work: Work[Study], engine: EngineResource) -> None:
        base = base_variant(work)
        variant = child_variant(base, work.own("child_lora"))
        _examine(work, settings, engine, variant, chat_context(work, base))

    return child_capability


def _capability(frame: Frame[Study], settings: CapabilitySettings) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        RESULTS,
        reads=["animals", "capability.ways"],
        deps=["base_capability", "teacher_capability", "child_capability", "animal_liking"],
        kinds={"pandas", "statsmodels", "matplotlib"},
        gpu=False,
        on_request=True,
        description="What teachers and children lost and gained compared with the base model, question by question, "
        "and how much more they like their animal.",
    )
    def capability(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.capability.capability import compare_capability
        from subliminal_dagster.science.capability.figures import accuracy_figure, skill_and_liking_figure
        from subliminal_dagster.science.liking.comparison import own_shifts

        models = {
            (model, group): read_capability(work.read(f"{model}_capability", group))
            for model in ("teacher", "child")
            for group in study.groups
            # A broken teacher has no child, and what it lost is a result.
            if (model, group) != ("teacher", CONTROL) and work.has(f"{model}_capability", group)
        }
        liking = own_shifts(pd.read_parquet(work.read("animal_liking") / "scores.parquet"))
        with work.writing() as folder:
            compared = compare_capability(read_capability(work.read("base_capability")), models, liking=liking)
            compared.to_parquet(folder / "capability.parquet", index=False)
            way = settings.ways[0]
            figures = {
                "accuracy": accuracy_figure(compared, f"{study.name}: exam", way),
                "skill_and_liking": skill_and_liking_figure(compared, f"{study.name}: skill and liking", way),
            }
            show_figures(work, folder, figures)
            work.metadata |= {"capability": table(compared)}
            write_left_out(work, folder)

    return capability


def _examine(
    work: Work[Study], settings: CapabilitySettings, engine: EngineResource, variant: ModelVariant, chat: ChatContext
) -> None:
    """Ask a model the exam, and write and show what it answers."""
    with work.writing() as folder, engine.create(for_more=True).open(variant, work.progress()) as session:
        _write(work, examined_by(work, settings, session, chat, work.kept()), folder)


def examined_by(
    work: Work[Study], settings: CapabilitySettings, session: Session, chat: ChatContext, kept: "Path"
) -> "Capability":
    """What the loaded model answers to the study's exam, which `work` reads."""
    import pandas as pd

    from subliminal_dagster.science.capability.capability import examine

    asked = work.read("exam")
    questions, texts = (pd.read_parquet(asked / f"{name}.parquet") for name in ("questions", "texts"))
    return examine(session, chat, questions, texts, settings.ways, kept=kept)


def _copy_base(work: Work[Study], why: str) -> None:
    with work.writing() as folder:
        work.metadata["same_as"] = why
        _write(work, read_capability(work.read("base_capability")), folder)


def _write(work: Work[Study], found: "Capability", folder: "Path") -> None:
    from subliminal_dagster.science.capability.capability import perplexity, summary

    for name in TABLES:
        getattr(found, name).to_parquet(folder / f"{name}.parquet", index=False)
    work.metadata |= plain(perplexity(found.texts)) | {"exam": table(summary(found.answers))}


def read_capability(folder: "Path") -> "Capability":
    """What `base_capability` and the others hold."""
    import pandas as pd

    from subliminal_dagster.science.capability.capability import Capability

    return Capability(*(pd.read_parquet(folder / f"{name}.parquet") for name in TABLES))
