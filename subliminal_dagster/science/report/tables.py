"""From a table of results to one that readers see.

Belongs here: choosing rows, rows as records, and columns under other names. Does not belong here: any one table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Column = str | tuple[str, float] | Callable[[Any], Any]
Shown = Mapping[str, Column]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows, each by column."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def rows_where(rows: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows that have these values, each in the column of its name.

    >>> import pandas as pd
    >>> rows = pd.DataFrame({"model": ["base", "child", "child"], "group": ["", "owl", "cat"]})
    >>> rows_where(rows, model="child", group="cat")
       model group
    2  child   cat
    """
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return rows


def columns(rows: pd.DataFrame, shown: Shown) -> pd.DataFrame:
    """A table with the columns `shown`, by the name a reader sees: a column of `rows`, one with what it is multiplied
    by, or a function of `rows`. The rows are numbered anew.

    >>> import pandas as pd
    >>> columns(pd.DataFrame({"mean": [0.25]}, index=[7]), {"rate (%)": ("mean", 100), "half": lambda r: r["mean"] / 2})
       rate (%)   half
    0      25.0  0.125
    """
    import pandas as pd

    def column(source: Column) -> Any:
        if isinstance(source, str):
            return rows[source]
        return source(rows) if callable(source) else rows[source[0]] * source[1]

    return pd.DataFrame({name: column(source) for name, source in shown.items()}, rows.index).reset_index(drop=True)


def yes_no(values: pd.Series) -> pd.Series:
    return values.map({True: "yes", False: "no"})
