"""A report as one HTML file that needs nothing else: charts by plotly, tables by DataTables (through itables).

It works without a network, in light and dark, on a phone and on paper; charts show exact values on hover, tables can
be sorted and downloaded as CSV.

Belongs here: how evidence becomes HTML. Does not belong here: what it says (the sections).
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from subliminal_dagster.science.report.evidence import Chart, Claim, Opening, Section, Table
from subliminal_dagster.science.report.published import PUBLISHED, Compared
from subliminal_dagster.science.verdict import Verdict
from subliminal_dagster.science.well_formed import well_formed

if TYPE_CHECKING:
    import pandas as pd

_HERE = Path(__file__).parent
_TEMPLATE, _STYLE = "page.html.j2", "page.css"

PAGE_FILES = (_HERE / _TEMPLATE, _HERE / _STYLE, PUBLISHED)
"""What a page depends on beside code."""

_SEARCHED_FROM_ROWS = 15
_SMALLEST_P = 0.001
_PROSE_FROM_CHARACTERS = 40


@dataclass(frozen=True)
class Page:
    """A whole page: `opening` is its first screen, `facts` one line under the title, `verdict` what the page says in
    all, `commands` those that rebuild each section's artifacts, by the section's name. Where it is `folded`, sections
    show their first sentences until they are opened."""

    title: str
    facts: str
    verdict: str
    claims: Sequence[Claim]
    sections: Sequence[Section]
    commands: dict[str, str]
    opening: Opening
    folded: bool = False


def html(page: Page) -> str:
    """The page as one HTML document. The same page gives the same document. A chart that opens it is not shown again
    where it belongs."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"chart": lambda c: Markup(_chart(c)), "table": lambda t: Markup(_table(t))}
    text = environment.get_template(_TEMPLATE).render(
        page=page,
        style=Markup((_HERE / _STYLE).read_text(encoding="utf-8")),
        libraries=Markup(_libraries()),
        tables_of={section.name: [*section.tables, *_compared_table(section)] for section in page.sections},
        claims_table=Markup(_table(claims_table(page.claims))) if page.claims else "",
        opened={chart.name for chart in page.opening.charts},
        counts={section.name: _counts(section) for section in page.sections},
    )
    return well_formed(text)


def _counts(section: Section) -> str:
    """How many of a section's statements have which verdict: "2 detected, 3 inconclusive"."""
    counts = Counter(claim.verdict for claim in section.claims)
    return ", ".join(f"{counts[word]} {word}" for word in get_args(Verdict) if counts[word])


def write_csv(table: Table, file: Path) -> None:
    """A table as a CSV file (RFC 4180), whatever characters its texts hold."""
    # With the format's own line ends, or pandas leaves a text with "\r" bare, which readers take for the end of a row.
    table.frame.to_csv(file, index=False, lineterminator="\r\n", encoding="utf-8", errors="replace")


def claims_table(claims: Sequence[Claim]) -> Table:
    """All statements with their verdict and evidence."""
    import pandas as pd

    rows = [
        {"statement": c.text, "of": c.source, "in this study": c.verdict, "evidence": c.evidence, "rule": c.rule}
        for c in claims
    ]
    return Table("claims", "The post's statements in this study, and this project's controls", pd.DataFrame(rows))


def compared_frame(compared: Sequence[Compared]) -> pd.DataFrame:
    """Published figures beside measured ones, a row each."""
    import pandas as pd

    def written(value: float | tuple[float, float]) -> str:
        return f"{value[0]:g} to {value[1]:g}" if isinstance(value, tuple) else f"{value:g}"

    return pd.DataFrame(
        [
            {
                "figure": c.what,
                "published": written(c.published),
                "measured": c.measured,
                "low": c.low,
                "high": c.high,
                "unit": c.unit,
                "judgement": c.judgement,
                "published for": c.where,
            }
            for c in compared
        ]
    )


def _compared_table(section: Section) -> list[Table]:
    if not section.compared:
        return []
    note = (
        "Agrees: the published figure lies in this study's 95 % interval, which excludes no effect. Cannot tell: the "
        "interval holds both, or there is none. Other models and sizes are compared, so a difference is not a failure."
    )
    frame = compared_frame(section.compared)
    return [Table(f"{section.name}-published", "Published beside measured", frame, note)]


def _libraries() -> str:
    """The scripts of both libraries, once per page."""
    from itables.javascript import generate_init_offline_itables_html
    from itables.utils import find_package_file
    from plotly.offline import get_plotlyjs

    tables = generate_init_offline_itables_html(find_package_file("html/dt_bundle.js"))
    return f"<script>{get_plotlyjs()}</script>\n{tables}"


def _chart(chart: Chart) -> str:
    """A chart's element and script."""
    from plotly.io import to_html

    return to_html(
        chart.figure,
        full_html=False,
        include_plotlyjs=False,
        div_id=f"chart-{chart.name}",
        config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    )


def _table(table: Table) -> str:
    """A table's element and script, with a button for its CSV file."""
    import pandas as pd
    from itables import to_html_datatable

    # The columns' own name, which a pivot leaves, would be shown as one more column, with nothing in it.
    frame = table.frame.rename_axis(columns=None)
    for name in frame.columns[frame.dtypes.map(lambda kind: kind.kind != "f")]:
        frame[name] = frame[name].where(frame[name].notna(), "")
    many = len(frame) > _SEARCHED_FROM_ROWS
    tiny = _tiny_p(frame)

    def shown(number: float) -> str:
        return f"< {_SMALLEST_P:g}" if number in tiny else written(number)

    with pd.option_context("display.float_format", shown):
        text = to_html_datatable(
            frame,
            table_id=f"table-{table.name}",
            connected=False,
            classes="display compact",
            style="width:100%",
            showIndex=False,
            maxBytes=0,
            # All rows are there, for the browser's own search and for paper.
            paging=False,
            columnDefs=[{"className": "prose", "targets": _prose(frame)}],
            layout={
                "topStart": {"buttons": [{"extend": "csvHtml5", "text": "CSV", "filename": table.name}]},
                "topEnd": "search" if many else None,
                "bottomStart": None,
                "bottomEnd": None,
            },
        )
    # An empty cell says "none" without a word; the second of the pair is what the column is sorted by.
    return str(text).replace(r"[\"NaN\", \"___NaN___\"]", r"[\"\", \"___NaN___\"]")


def _prose(frame: pd.DataFrame) -> list[int]:
    """The columns that hold sentences, which need room on a phone."""
    return [
        place
        for place, name in enumerate(frame.columns)
        if frame[name].map(lambda value: isinstance(value, str) and len(value) >= _PROSE_FROM_CHARACTERS).any()
    ]


def _tiny_p(frame: pd.DataFrame) -> set[float]:
    """The p values of a table that are too small to be written out. Those that are 0 become the smallest number there
    is, so that no other column holds one of the set."""
    for name in frame.columns:
        if _P_COLUMN.search(name) and frame[name].dtype.kind == "f":
            frame[name] = frame[name].replace(0.0, sys.float_info.min)
    columns = [frame[name] for name in frame.columns if _P_COLUMN.search(name) and frame[name].dtype.kind == "f"]
    return {float(p) for column in columns for p in column if p < _SMALLEST_P}


_P_COLUMN = re.compile(r"(^| )p($|[ ,])")


def written(number: float) -> str:
    """A number as tables show it: three significant digits, all those before the point, and no power of ten where it
    can be done without.

    >>> written(0.012345678), written(12345.6), written(3.0)
    ('0.0123', '12,346', '3')
    """
    return f"{number:,.0f}" if 999.5 <= abs(number) < 1e8 else f"{number:.3g}"
