"""Parts of a report's section, for tests: its numbers, a claim by its statement, a table by its name."""

from __future__ import annotations

import re

import pandas as pd

from subliminal_dagster.science.report.evidence import Claim, Opening, Section, Statement
from subliminal_dagster.science.report.page import Page
from subliminal_dagster.science.verdict import Verdict


def numbers(text: str) -> list[float]:
    """The numbers in a text, in order, as precisely as they are written.

    >>> numbers("+0.3 points [-1.2, 4], of 2,500 at layer 9")
    [0.3, -1.2, 4.0, 2500.0, 9.0]
    """
    return [float(found.replace(",", "")) for found in re.findall(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?", text)]


def as_written(value: float, digits: int = 3) -> float:
    """A number rounded to so many significant digits, as sentences have it."""
    return float(f"{value:.{digits}g}")


def claim_of(section: Section, statement: Statement) -> Claim:
    """What the section says of a statement, with the statement's own rule and source."""
    (claim,) = (claim for claim in section.claims if claim.text == statement.text)
    assert (claim.rule, claim.source) == (statement.rule, statement.source)
    return claim


def verdict_on(section: Section, statement: Statement) -> Verdict:
    return claim_of(section, statement).verdict


def table_of(section: Section, name: str) -> pd.DataFrame:
    (table,) = (table for table in section.tables if table.name == name)
    return table.frame


def page_with(section: Section) -> Page:
    """A page of one section."""
    return Page("t", "f", "v", section.claims, [section], {}, Opening("q", None, ()))
