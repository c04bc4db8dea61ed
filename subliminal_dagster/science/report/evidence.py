"""What a report is put together from: claims, charts, tables and figures set beside published ones, in sections.

Belongs here: their shapes, the usual rule of a verdict, and what a section asks of the study's artifacts. Does not
belong here: any one section, how they become HTML (`page`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from subliminal_dagster.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from subliminal_dagster.science.report.published import Compared

Source = Literal["the post", "another paper", "this project"]
Place = tuple[str, str | None]


class NotThere(Exception):  # noqa: N818
    """A section cannot be put together; its text, one sentence, says why."""


@dataclass(frozen=True)
class Results:
    """The artifacts of a study: the `folders` of those that are there, by (asset, partition), and for those that are
    not the reason, where one is known."""

    folders: Mapping[Place, Path]
    missing: Mapping[Place, str]

    def folder(self, asset: str, partition: str | None = None) -> Path:
        """Where an artifact lies. Raises NotThere with the reason, where it is not there."""
        place = (asset, partition)
        if place not in self.folders:
            name = asset if partition is None else f"{asset} [{partition}]"
            raise NotThere(f"{name} is not there: {self.missing.get(place, 'this study does not have it')}.")
        return self.folders[place]

    def has(self, asset: str, partition: str | None = None) -> bool:
        return (asset, partition) in self.folders

    def of(self, asset: str, group: str) -> Place:
        """Where a group's artifact is: in the first partition that is there, whatever else the asset is partitioned by
        (`owl|1`); in the group's own where there is none."""
        there = [partition for name, partition in self.folders if name == asset and partition is not None]
        own = (partition for partition in there if partition.split("|")[0] == group)
        return asset, min(own, default=group)

    def partitions(self, asset: str) -> list[str]:
        """The partitions of an asset that are there, in order. Raises NotThere where there is none."""
        found = sorted(partition for name, partition in self.folders if name == asset and partition is not None)
        if not found:
            reasons = [why for (name, _), why in self.missing.items() if name == asset]
            raise NotThere(f"{asset} is not there: {reasons[0] if reasons else 'this study does not have it'}.")
        return found


@dataclass(frozen=True)
class Chart:
    """A plotly figure. `name` is its identifier on the page, `title` one line of what is drawn, and `alt` what a person
    who cannot see it needs: what is compared with what, and the main figures."""

    name: str
    title: str
    figure: Figure
    alt: str


@dataclass(frozen=True)
class Table:
    """A table as it is shown: columns under the names a reader sees, numbers unrounded. `note` explains columns whose
    names do not say it, with units."""

    name: str
    title: str
    frame: pd.DataFrame
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A statement, whether it holds in this study, and on what evidence (one sentence, computed).

    `source` says who makes the statement, and `rule` which evidence would decide it, in words for readers.
    """

    text: str
    verdict: Verdict
    evidence: str
    source: Source
    rule: str


@dataclass(frozen=True)
class Statement:
    """What a claim is about, before there is any evidence."""

    text: str
    rule: str
    source: Source = "the post"

    def claim(self, verdict: Verdict, evidence: str) -> Claim:
        return Claim(self.text, verdict, evidence, self.source, self.rule)


@dataclass(frozen=True)
class Section:
    """One experiment of the report.

    `shows` is what the data show, one to three sentences, computed, a
    line a paragraph; `method` says sample sizes, and which interval or
    test. `made_from` are the assets it was read from. `missing` says why there is nothing else, where that is so.
    """

    name: str
    title: str
    shows: str
    method: str
    made_from: tuple[str, ...]
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    compared: tuple[Compared, ...] = ()
    claims: tuple[Claim, ...] = ()
    missing: str | None = None


@dataclass(frozen=True)
class Opening:
    """What a reader sees first: the `question`, its `status` (None where no one verdict answers it), a few `lines` of
    evidence, and the charts and tables that carry them."""

    question: str
    status: Verdict | None
    lines: tuple[str, ...]
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()


def section_or_reason(
    name: str, title: str, make: Callable[[Any, Results], Section], study: Any, results: Results
) -> Section:
    """The section that `make(study, results)` puts together, or one that says why it cannot be."""
    try:
        return make(study, results)
    except NotThere as error:
        return Section(name, title, "", "", (), missing=str(error))
