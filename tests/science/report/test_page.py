"""The page that every report and audit is written as."""

from __future__ import annotations

import re
from collections import Counter

import pandas as pd

from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report.evidence import Chart, Section, Table
from subliminal_dagster.science.report.page import Opening, Page, html


def test_a_chart_that_opens_the_page_stands_there_once() -> None:
    opening, other = (Chart(name, name, charts.new_figure(x="", y=""), "") for name in ("opening", "other"))
    section = Section("first", "First", "It rises.", "By looking.", (), charts=(opening, other))
    text = html(Page("title", "", "", (), [section], {}, Opening("Does it?", None, ("Yes.",), section.charts[:1])))
    # Of two elements of one name the second would stay empty.
    names = Counter(re.findall(r'id="((?:chart|about)-[^"]+)"', text))
    assert names == Counter(["chart-opening", "about-opening", "chart-other", "about-other"])
    assert text.index('id="chart-opening"') < text.index('id="first"') < text.index('id="chart-other"')


def test_a_table_has_its_own_columns_and_no_other() -> None:
    rows = pd.DataFrame({"candidate": ["owl", "owl"], "detector": ["one", "two"], "rank": [1, 2]})
    pivoted = rows.pivot(index="candidate", columns="detector", values="rank").reset_index()
    section = Section("first", "First", "", "", (), tables=(Table("ranks", "Ranks", pivoted),))
    text = html(Page("title", "", "", (), [section], {}, Opening("Does it?", None, ("Yes.",))))
    head = re.search(r"<thead>(.*?)</thead>", text, re.DOTALL)
    assert head is not None
    # Before the first name the library has a link of its own.
    named = [re.sub(r"<sup>.*</sup>", "", name) for name in re.findall(r"<th[^>]*>\s*(.*?)\s*</th>", head[1])]
    assert named == ["candidate", "one", "two"]
