"""The report in a browser and through Dagster: whole, offline, at a desk and on a phone, honest about gaps."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import get_args

import dagster as dg
import pytest
from browser import visit
from study_runs import StudyRun, changed

from subliminal_dagster.assets import COMPARISON
from subliminal_dagster.assets.report import SHOWN
from subliminal_dagster.science.pages.study_page import READS
from subliminal_dagster.science.report.evidence import Opening, Section, Table
from subliminal_dagster.science.report.page import Page, html, written
from subliminal_dagster.science.verdict import Verdict

DESK, PHONE = (1280, 900), (390, 844)
SCREENS = 12
"""No report is longer before anything in it is unfolded."""


def page_of(run: StudyRun) -> Path:
    return run.store.read(run.study.name, "report").path / "report.html"


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_a_report_in_a_browser(done: StudyRun, size: tuple[int, int], tmp_path: Path) -> None:
    with visit(*size) as visited:
        page = visited.page
        page.context.set_offline(True)
        page.goto(page_of(done).as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('.chart .js-plotly-plot')].every(chart => chart.querySelector('.main-svg'))"
        )
        page.wait_for_function(
            "[...document.querySelectorAll('.table')].every(t => t.querySelector('table.dataTable tbody td'))"
        )
        assert page.locator("h1").text_content() == "Do number sequences pass on a liking for an animal?"
        assert page.locator("#verdict .badge").text_content() in get_args(Verdict)
        assert page.evaluate("document.documentElement.scrollHeight") <= SCREENS * size[1]
        assert page.locator("details.experiment[open]").count() == 0
        page.goto(f"{page_of(done).as_uri()}#liking")
        page.wait_for_function("document.querySelector('#liking').open")
        # What opens has its charts drawn anew, some time later: wait for that, and for the drawing.
        page.evaluate(
            """async () => {
                document.querySelectorAll("details").forEach(part => { part.open = true; });
                await new Promise(done => setTimeout(done, 100));
                await Promise.all([...document.querySelectorAll(".js-plotly-plot")].map(c => Plotly.Plots.resize(c)));
            }"""
        )
        charts = page.locator(".chart")
        assert charts.count() == page.locator(".chart .js-plotly-plot").count() > 3
        drawn = page.eval_on_selector_all(
            ".chart", "charts => charts.map(c => c.querySelectorAll('.main-svg path, .main-svg image').length)"
        )
        assert all(drawn)
        assert all(text.strip() for text in page.locator("figcaption .alt").all_text_contents())
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        too_wide = page.eval_on_selector_all(
            "main section > *, details > *",
            "(all, width) => all.filter(e => e.getBoundingClientRect().right > width + 1).length",
            size[0],
        )
        assert too_wide == 0
        cut = page.eval_on_selector_all(
            ".chart .main-svg text",
            """all => all.filter(text => {
                const [inner, outer] = [text, text.closest(".chart")].map(e => e.getBoundingClientRect());
                return inner.width && (inner.left < outer.left - 1 || inner.right > outer.right + 1);
            }).map(text => text.textContent)""",
        )
        assert cut == []
        sideways = page.locator(".table .dt-layout-cell").evaluate_all(
            "cells => cells.filter(cell => cell.scrollWidth > cell.clientWidth + 1).length"
        )
        stacked = page.locator("#verdict .stacked td[data-column='base model']").count()
        assert (sideways, stacked) == (0, 5) if size == PHONE else stacked == 0
        visited.picture(f"report_{size[0]}")

        table = page.locator(".table").filter(has=page.locator("#table-settings_wrapper"))
        with page.expect_download() as download:
            table.get_by_role("button", name="CSV").click()
        download.value.save_as(tmp_path / "settings.csv")
        assert ["seed", "3"] in list(csv.reader((tmp_path / "settings.csv").open(encoding="utf-8-sig")))
        page.emulate_media(media="print", color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        widths = page.eval_on_selector_all(".main-svg", "all => all.map(svg => svg.getBoundingClientRect().width)")
        assert max(widths) <= 680
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.wait_for_function("!document.documentElement.classList.contains('dark')")
        assert visited.problems == []


def test_what_is_not_there_says_why(done: StudyRun, tmp_path: Path) -> None:
    summary = json.loads((page_of(done).parent / "summary.json").read_text())
    assert "this study does not have it" in summary["sections"]["Features that the numbers activate"]
    assert {c["verdict"] for c in summary["claims"]} <= set(get_args(Verdict))
    assert summary["gamma"][0]["channel"] == "hard"

    with dg.DagsterInstance.ephemeral() as instance:
        strict = done.copy(tmp_path, instance, changed(done.study, teacher__gate__preference=1.0))
        outcome = strict.run()
    assert ("report", None) in outcome.made and ("null_causes", None) in outcome.made
    assert ("animal_liking", None) in outcome.blocked
    text = page_of(strict).read_text()
    assert "Not shown: animal_liking is not there: teacher_preferences [" in text and "was refused" in text
    causes = json.loads((strict.store.read("tiny", "null_causes").path / "facts.json").read_text())
    assert causes["kind"] == "not measured"


def test_a_report_is_made_though_something_failed_and_again_when_it_is_there(done: StudyRun, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = done.copy(tmp_path, instance)
        plan = run.plan()
        assert not plan.due
        shutil.rmtree(Path(run.store.root) / "tiny" / "preference_scores" / "owl@1")
        plan = run.plan()
        (failed,) = [part.place for part in plan.next_runs()[0].parts]
        assert failed == ("preference_scores", "owl|1")
        assert [part.asset for due in plan.next_runs(failed=[failed]) for part in due.parts] == ["null_causes"]
        assert run.materialize("report").success
        assert "preference_scores/owl|1" not in run.store.manifest("tiny", "report").info["upstream"]
        outcome = run.run()
    assert outcome.complete and ("report", None) in outcome.made
    assert "preference_scores/owl|1" in run.store.manifest("tiny", "report").info["upstream"]


def test_all_studies_on_one_page(done: StudyRun, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = done.copy(tmp_path, instance)
        job = run.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={COMPARISON})
        assert job.execute_in_process(instance=instance).success
    page = (run.store.read("all_studies", "comparison").path / "comparison.html").read_text()
    assert "1 study with a report: tiny" in page and "Specificity contrast" in page


def test_the_same_page_is_the_same_document() -> None:
    import pandas as pd

    table = Table("t", "A table", pd.DataFrame({"a": [0.1, None], "b": ["<b>", None]}))
    opening = Opening("Does it?", "inconclusive", ("A line.",))
    page = Page("T", "f", "v", (), [Section("s", "S", "It <i>.", "m", (), tables=(table,))], {}, opening)
    assert html(page) == html(page)
    assert "It &lt;i&gt;." in html(page)
    assert [written(each) for each in (0.012345678, 12345.6, 999.7)] == ["0.0123", "12,346", "1,000"]


def test_the_verdict_counts_the_post_s_statements_and_our_own_controls_apart(done: StudyRun) -> None:
    summary = json.loads(page_of(done).with_name("summary.json").read_text())
    for source, said in (("the post", "statements of the post"), ("this project", "controls of this project")):
        of = Counter(claim["verdict"] for claim in summary["claims"] if claim["source"] == source)
        assert f"Of {of.total()} {said}" in summary["verdict"]
        assert all(f"{count} {verdict}" in summary["verdict"] for verdict, count in of.items())
    assert all(claim["rule"].endswith(".") for claim in summary["claims"])
    assert summary["facts"].endswith("Prompts and questions in this project's own wording.")


def test_the_report_depends_on_what_its_sections_read() -> None:
    assert set(SHOWN) == READS


def test_a_p_value_that_is_tiny_is_not_written_out() -> None:
    """In its own columns alone: a share of 0 or as small as one is what it is."""
    import pandas as pd

    frame = pd.DataFrame({"p": [0.0, 0.00042, 0.0123], "share (%)": [0.0, 0.00043, 12345.6]})
    section = Section("s", "S", "It.", "m", (), tables=(Table("t", "A table", frame),))
    text = html(Page("T", "f", "v", (), [section], {}, Opening("Does it?", None, ())))
    for shown, value in (("&lt; 0.001", 0.00042), ("0.0123", 0.0123), ("0", 0.0), ("0.00043", 0.00043)):
        assert rf"[\"{shown}\", {value}]" in text, shown
    assert text.count(r"[\"&lt; 0.001\", ") == 2
