"""The whole study on one page."""

import json
from typing import Any

import dagster as dg

from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import table
from subliminal_dagster.execution.work import Work
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.report.page import PAGE_FILES
from subliminal_dagster.science.settings.prompts import PUBLISHED_RECORD
from subliminal_dagster.science.storage.content_hash import file_content_hashes
from subliminal_dagster.science.storage.records import DamagedArtifact, Manifest, MissingArtifact

STAGE = "report"

# What its sections read (their READS, which a test holds against this: importing them all would make the code location
# slow to load); models, data sets and activations are read by what is made from them.
SHOWN = (
    "base_preferences",
    "teacher_preferences",
    "number_set",
    "filtered_dataset",
    "preference_scores",
    "animal_liking",
    "teacher_signal",
    "null_causes",
    "base_capability",
    "teacher_capability",
    "child_capability",
    "capability",
    "tuning_study",
    "tuned_scores",
    "sweep_liking",
    "arm_liking",
    "arm_updates",
    "sae",
    "sae_features",
    "feature_shifts",
    "feature_tables",
    "feature_filters",
    "probe_metrics",
    "probe_comparison",
    "probe_all_layers",
    "steering_vectors",
    "steering_scores",
    "steering_scores_all_layers",
    "steering_decomposition",
    "steering_summary",
    "feature_descriptions",
    "feature_categories",
    "feature_composition",
    "steering_by_category",
    "entanglement",
    "interference",
)


def report_assets(frame: Frame[Any]) -> list[dg.AssetsDefinition]:
    """`report`, of whatever there is."""
    return [_report(frame)]


def _report(frame: Frame[Any]) -> dg.AssetsDefinition:
    study = frame.study
    toy = not study.groups

    @asset(
        frame,
        STAGE,
        reads=[*type(study).model_fields],
        deps=[name for name in frame.nodes if toy or name in SHOWN],
        kinds={"html", "plotly"},
        gpu=False,
        takes_what_there_is=True,
        also={"files": file_content_hashes(*PAGE_FILES, PUBLISHED_RECORD)},
        description="The whole study on one self-contained HTML page: the verdict, which statements of the post "
        "hold, every figure and table, published beside measured, and what was run. Where something is missing, it "
        "says why.",
    )
    def report(work: Work[Any]) -> None:
        from subliminal_dagster.science.pages.study_page import study_page, study_summary
        from subliminal_dagster.science.report.evidence import Results
        from subliminal_dagster.science.report.page import claims_table, html, write_csv

        there = [place for place in frame.inputs("report", None) if place not in work.not_there]
        results = Results({place: work.read(*place) for place in there}, work.not_there)
        with work.writing() as folder:
            page = study_page(study, results, manifests(work))
            (folder / "report.html").write_text(html(page), encoding="utf-8")
            summary = study_summary(study, page, results)
            (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
            for section in page.sections:
                for shown in section.tables:
                    (folder / "tables").mkdir(exist_ok=True)
                    write_csv(shown, folder / "tables" / f"{shown.name}.csv")
            work.metadata |= {
                "verdict": dg.MetadataValue.md(page.verdict),
                "claims": table(claims_table(page.claims).frame),
                "not_there": {section.title: section.missing for section in page.sections if section.missing},
            }
        assert work.written is not None
        work.metadata["page"] = dg.MetadataValue.path(work.written / "report.html")

    return report


def manifests(work: Work[Any]) -> dict[tuple[str, str | None], Manifest]:
    """The manifest of every artifact of the study that is there, but the report itself and the variants of a sweep,
    which may be thousands."""
    found = {}
    for name in (name for name, node in work.frame.nodes.items() if node.variants is None):
        for partition in work.frame.partitions(name):
            try:
                found[name, partition] = work.store.manifest(work.study.name, name, partition)
            except (MissingArtifact, DamagedArtifact):
                continue
    found.pop((work.asset, None), None)
    return found
