"""Audits of data sets: what each would make a child of the study's base model like, and the models made to like each
candidate, which audits share. Made where they are asked for."""

import shutil
from pathlib import Path

import dagster as dg

from subliminal_dagster.assets.base import base_variant, chat_context
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import table
from subliminal_dagster.execution.work import Work
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.resources import EngineResource, TrainerResource
from subliminal_dagster.science.audit.authorship import can_be_made
from subliminal_dagster.science.audit.combined import JUDGED
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.processes import cores_here
from subliminal_dagster.science.report.page import PAGE_FILES
from subliminal_dagster.science.settings.base import content_by_layer
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.storage.content_hash import file_content_hashes

STAGE = "audit"


def audit_assets(frame: Frame[Study]) -> list[dg.AssetsDefinition]:
    """`audit_<name>` of every data set; `authors`, and `authors_<name>` for an audit with traits of its own."""
    study = frame.study
    authors = sorted({_authors_of(study, name) for name in study.audits}) if can_be_made(study) else []
    return [*(_authors(frame, name) for name in authors), *(_audit(frame, name) for name in study.audits)]


AUTHORS = "authors"
"""Names no audit: those begin with audit_."""


def _authors_of(study: Study, audit: str) -> str:
    return AUTHORS if study.audits[audit].traits is None else f"{AUTHORS}_{audit}"


def _authors(frame: Frame[Study], asset_name: str) -> dg.AssetsDefinition:
    audit = asset_name.removeprefix(AUTHORS).removeprefix("_")
    traits = frame.study.audits[audit].traits if audit else None

    @asset(
        frame,
        STAGE,
        name=asset_name,
        reads=[
            *("seed", "system_prompt", "prompts", "category", "teacher"),
            f"audits.{audit}.traits" if audit else "preferences.candidates",
        ],
        deps=["base_model"],
        kinds={"pytorch", "huggingface"},
        gpu=True,
        on_request=True,
        also=None if traits is None else {"traits": content_by_layer(traits, ())},
        description="For every candidate a model that was made to like it, as the study makes its teachers.",
    )
    def authors(work: Work[Study], trainer: TrainerResource) -> None:
        from subliminal_dagster.science.audit.authorship import make_authors
        from subliminal_dagster.science.settings.audit import traits_of

        study, base = work.study, base_variant(work)
        asked = traits_of(study, traits)
        made = work.workspace() / "authors"
        make_authors(
            study,
            asked.candidates,
            base,
            chat_context(work, base),
            load_prompt_lists(study.prompts, asked.category),
            trainer.create(),
            made,
            work.workspace() / "steps",
            processes=cores_here(),
            progress=work.progress(),
        )
        with work.writing() as folder:
            shutil.copytree(made, folder, dirs_exist_ok=True)
            work.metadata["candidates"] = ", ".join(asked.candidates)

    return authors


def _audit(frame: Frame[Study], name: str) -> dg.AssetsDefinition:
    given = frame.study.audits[name]
    authors = [_authors_of(frame.study, name)] if can_be_made(frame.study) else []

    @asset(
        frame,
        STAGE,
        name=f"audit_{name}",
        reads=[
            *("seed", "system_prompt", "prompts", "category", "preferences.candidates", "preferences.begun"),
            *("child.lora", "child.training", f"audits.{name}"),
        ],
        deps=["base_model", *authors],
        kinds={"pytorch", "huggingface", "html"},
        gpu=True,
        on_request=True,
        also={"files": file_content_hashes(JUDGED, *PAGE_FILES)},
        description=f"Which preferences {Path(given.data).name} would pass on to a child of the base model, by every "
        "detector, and the rows that carry most.",
    )
    def audit(work: Work[Study], engine: EngineResource, trainer: TrainerResource) -> None:
        from subliminal_dagster.execution.auditing import fetched
        from subliminal_dagster.science.audit.audit import Auditor
        from subliminal_dagster.science.audit.audit import audit as audited
        from subliminal_dagster.science.audit.authorship import load_authors
        from subliminal_dagster.science.audit.data import read_chats
        from subliminal_dagster.science.audit.page import audit_page, markdown
        from subliminal_dagster.science.report.page import html
        from subliminal_dagster.science.settings.audit import traits_of
        from subliminal_dagster.science.storage.tables import save_tables

        study, base = work.study, base_variant(work)
        settings = study.audits[name]
        data = read_chats(fetched(settings.data), settings.rows, study.seed)
        traits = traits_of(study, settings.traits)
        auditor = Auditor(
            base,
            chat_context(work, base),
            load_prompt_lists(study.prompts, traits.category),
            traits,
            study,
            engine.create(),
            trainer.create(),
            work.workspace(),
            work.progress(),
            [each for asset in authors for each in load_authors(work.read(asset), traits.candidates)],
            processes=cores_here(),
        )
        found = audited(auditor, data, Path(settings.student) if settings.student else None)
        with work.writing() as folder:
            save_tables(found, folder)
            title = f"{Path(settings.data).name}, for {study.name}"
            (folder / "audit.html").write_text(html(audit_page(title, found, data)), encoding="utf-8")
            (folder / "audit.md").write_text(markdown(title, found), encoding="utf-8")
            work.metadata |= {"candidates": table(found.combined), "surface": table(found.surface)}
        assert work.written is not None
        work.metadata["page"] = dg.MetadataValue.path(work.written / "audit.html")

    return audit
