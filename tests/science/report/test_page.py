"""The page that every report and audit is written as."""

from __future__ import annotations

import re
from collections import Counter

from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report.evidence import Chart, Section
from subliminal_dagster.science.report.page import Opening, Page, html


def test_a_chart_that_opens_the_page_stands_there_once() -> None:
    opening, other = (Chart(name, name, charts.new_figure(x="", y=""), "") for name in ("opening", "other"))
    section = Section("first", "First", "It rises.", "By looking.", (), charts=(opening, other))
    text = html(Page("title", "", "", (), [section], {}, Opening("Does it?", None, ("Yes.",), section.charts[:1])))
    # Of two elements of one name the second would stay empty.
    names = Counter(re.findall(r'id="((?:chart|about)-[^"]+)"', text))
    assert names == Counter(["chart-opening", "about-opening", "chart-other", "about-other"])
    assert text.index('id="chart-opening"') < text.index('id="first"') < text.index('id="chart-other"')
