"""All studies on one page, from their reports."""

import json
from collections.abc import Sequence

import dagster as dg

from subliminal_dagster.assets.report import STAGE
from subliminal_dagster.planning.code_slice import code_slice
from subliminal_dagster.planning.recipe import Recipe
from subliminal_dagster.resources import StoreResource
from subliminal_dagster.science.report.page import PAGE_FILES
from subliminal_dagster.science.settings.study import AnyStudy
from subliminal_dagster.science.storage.content_hash import file_content_hash
from subliminal_dagster.science.storage.records import DamagedArtifact, MissingArtifact

ALL_STUDIES = "all_studies"
COMPARISON = dg.AssetKey([ALL_STUDIES, "comparison"])


def comparison_asset(studies: Sequence[AnyStudy]) -> dg.AssetsDefinition:
    """`all_studies/comparison`, of the reports there are.

    It belongs to no study, so no plan makes it: `subliminal-dagster compare` or the UI does. Dagster's own status is
    right for it, since neither it nor a report is partitioned.
    """

    def compare(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        from subliminal_dagster.science.pages.comparison_page import comparison_page
        from subliminal_dagster.science.report.page import html

        artifacts = store.create()
        summaries, missing, read = [], {}, {}
        for study in studies:
            try:
                report = artifacts.read(study.name, "report")
            except (MissingArtifact, DamagedArtifact):
                missing[study.name] = "its report was not made yet"
                continue
            summaries.append(json.loads((report.path / "summary.json").read_text(encoding="utf-8")))
            read[study.name] = report.content_hash
        if not summaries:
            raise dg.Failure(
                "There is no report to compare: make one with 'subliminal-dagster run --study NAME'.",
                allow_retries=False,
            )
        with artifacts.write(ALL_STUDIES, "comparison", None) as draft:
            page = html(comparison_page(summaries, missing))
            (draft.path / "comparison.html").write_text(page, encoding="utf-8")
            draft.info["upstream"] = read
        written = draft.artifact
        return dg.MaterializeResult(
            metadata={
                "page": dg.MetadataValue.path(written.path / "comparison.html"),
                "studies": sorted(read),
                "missing": missing,
            },
            data_version=dg.DataVersion(written.content_hash),
        )

    files = {file.name: file_content_hash(file) for file in PAGE_FILES}
    return dg.asset(
        key=COMPARISON,
        group_name=STAGE,
        deps=[dg.AssetKey([study.name, "report"]) for study in studies],
        kinds={"html", "plotly"},
        description="All studies with a report on one HTML page: the specific effect of each, which statements of the "
        "post hold where, published beside measured.",
        code_version=Recipe({"files": files}, code_slice(compare)).version,
    )(compare)
