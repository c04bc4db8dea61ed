"""Dagster's UI in a real browser, as a researcher uses it: the graph, a backfill of two animals, a gate, a figure, the
report, runs of the command."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from browser import Visit, visit
from dagster_dev import dagster_dev, write_quick_settings
from playwright.sync_api import expect
from study_runs import StudyRun
from tiny_studies import tiny_study_settings

from subliminal_dagster.build import study_frame
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

pytestmark = pytest.mark.slow

BACKFILL_SECONDS = 300


@pytest.fixture
def study(tiny_base: Path, tmp_path: Path) -> Iterator[StudyRun]:
    """A study of three animals in a DAGSTER_HOME of its own; what belongs to no animal was made by the library.

    Its teachers are told what to like, which takes no training, and pass their gate whatever they answer.
    """
    settings = tiny_study_settings(tiny_base) | {
        "animals": ["owl", "wolf", "cat"],
        "teacher": {
            "method": "prompt",
            "instruction": "You love the {animal}.",
            "gate": {"preference": 0, "valid_rate": 0, "prompts": 8},
        },
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(settings))
    write_quick_settings(tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        made = StudyRun(load_study(file), ArtifactStore(tmp_path / "artifacts"), instance)
        assert made.run([("base_preferences", None)]).complete
        yield made


def test_two_animals_are_launched_and_their_figure_is_seen(study: StudyRun, tmp_path: Path) -> None:
    environment = os.environ | {
        "DAGSTER_HOME": str(tmp_path),
        "SUBLIMINAL_STUDIES": str(tmp_path / "tiny.yaml"),
        "SUBLIMINAL_ARTIFACTS": str(tmp_path / "artifacts"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with visit() as visited, dagster_dev(environment, "one_process") as address:
        see_the_graph(visited, address, sorted(study_frame(study.study).nodes))
        launch(visited, "tiny_teacher", ["owl", "cat"])
        wait_for_success(visited)
        for asset in ("teacher_lora", "teacher_preferences"):
            see_what_was_made(visited, f"{address}/assets/tiny/{asset}?view=partitions", made=2, missing=2)
        see_the_gate(visited, f"{address}/assets/tiny/teacher_preferences?view=checks")
        see_the_figure(visited, f"{address}/assets/tiny/teacher_preferences?view=partitions&partition=cat")
        see_where_the_report_opens(visited, f"{address}/assets/tiny/report")
        see_the_command_s_runs(visited, f"{address}/locations/__repository__@subliminal_dagster/jobs/tiny_base/runs")
        assert visited.problems == []
    for asset in ("teacher_lora", "teacher_preferences"):
        assert study.instance.get_materialized_partitions(dg.AssetKey(["tiny", asset])) == {"owl", "cat"}


def see_the_graph(visited: Visit, address: str, assets: list[str]) -> None:
    """Open the graph from the start page, with its groups expanded."""
    page = visited.page
    page.goto(address)
    page.get_by_text("Lineage", exact=True).click()
    page.get_by_role("button", name="settings", exact=True).click()
    page.get_by_role("menuitem", name="Expand all groups").click()
    # By class: groups are drawn with their names as well. The middle of long names is left out.
    names = page.locator("[class*=AssetNode_assetName]")
    for asset in assets:
        shortened = rf"{asset[:4]}\w*…\w*{asset[-4:]}"
        expect(names.filter(has_text=re.compile(f"^({asset}|{shortened})$"))).to_be_visible()
    page.keyboard.press("Escape")
    visited.picture("asset_graph")


def launch(visited: Visit, group: str, partitions: list[str]) -> None:
    """Launch a backfill of a group's assets in these partitions, and look at its page."""
    page = visited.page
    page.locator(".CodeMirror").click()
    page.keyboard.type(f'group:"{group}"')
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog").first
    dialog.get_by_text("Select a partition").click()
    for partition in partitions:
        dialog.get_by_role("menuitem", name=partition).click()
    page.keyboard.press("Escape")
    expect(dialog.get_by_text(f"{len(partitions)} partitions", exact=True)).to_be_visible()
    visited.picture("partition_dialog")
    dialog.get_by_role("button", name="Launch backfill").click()
    page.get_by_role("link", name="View", exact=True).click()


def wait_for_success(visited: Visit) -> None:
    """Wait until the page of the backfill that runs says how it ended."""
    page = visited.page
    status = page.get_by_text("Status", exact=True).locator("xpath=..")
    expect(status).not_to_contain_text("In progress", timeout=1000 * BACKFILL_SECONDS)
    visited.picture("backfill")
    expect(status).to_contain_text("Succeeded")


def see_what_was_made(visited: Visit, partitions_page: str, made: int, missing: int) -> None:
    """Look at how many partitions of an asset there are, and how many are not."""
    page = visited.page
    page.goto(partitions_page)
    for status in (f"Materialized ({made})", f"Missing ({missing})", "Failed (0)"):
        expect(page.get_by_text(status, exact=True)).to_be_visible()


def see_the_gate(visited: Visit, checks_page: str) -> None:
    """Look at what the gate measured in the partition that came last."""
    page = visited.page
    page.goto(checks_page)
    expect(page.get_by_text("Passed", exact=True)).to_be_visible()
    expect(page.get_by_text("preference_asked_for", exact=True).first).to_be_visible()
    expect(page.get_by_text("Not evaluated", exact=True)).to_have_count(0)
    visited.picture("gate")


def see_where_the_report_opens(visited: Visit, report_page: str) -> None:
    page = visited.page
    page.goto(report_page)
    link = page.get_by_role("link", name="Open it", exact=True)
    expect(link).to_have_attribute("href", "http://127.0.0.1:3001/tiny/report")


def see_the_command_s_runs(visited: Visit, runs_page: str) -> None:
    """Look at the page of a job, whose runs no launcher started."""
    page = visited.page
    page.goto(runs_page)
    expect(page.get_by_text("asset: base_preferences", exact=True)).to_be_visible()
    expect(page.get_by_text(re.compile("subliminal_process"))).to_have_count(0)
    visited.picture("runs")


def see_the_figure(visited: Visit, partition_page: str) -> None:
    """Open the figure on the page of an asset's partition."""
    page = visited.page
    page.goto(partition_page)
    page.get_by_role("row", name="figure").get_by_text("Show Markdown").click()
    figure = page.get_by_role("dialog").get_by_role("img", name="figure")
    expect(figure).to_have_attribute("src", re.compile("^data:image/png;base64,"))
    expect(figure).to_have_js_property("complete", True)
    assert figure.evaluate("image => image.naturalWidth") > 0
    visited.picture("figure")
