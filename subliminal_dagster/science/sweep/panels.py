"""How a grid is laid out to be looked at: in panels, with lines in them.

Belongs here: which cells stand together. Does not belong here: drawing them (`figure`, `report`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Panel:
    """A panel of the picture: its title, and by name the lines in it, whose points are rows of the table."""

    title: str
    lines: Mapping[str, pd.DataFrame]


def panels_of(table: pd.DataFrame, names: Mapping[str, str]) -> list[Panel]:
    """A channel's cells as panels with lines: the first setting along the axis, and where there are more a line per
    value of the others; from three settings on a panel per value of the second.

    table: of `table.cells_table`. names: the swept settings in the order of the study, each with its short name.
    """
    _, *others = names
    facet = others[0] if len(others) > 1 else None
    found = []
    for channel, of_channel in table.groupby("channel", sort=False):
        parts = of_channel.groupby(facet, sort=False) if facet else [("", of_channel)]
        for value, rows in parts:
            split = [field for field in others if field != facet]
            lines = {"": rows}
            if split:
                keyed = rows.groupby(split, sort=False)
                lines = {_named(split, of_line, names): points for of_line, points in keyed}
            title = f"{channel} channel" + (f", {names[facet]} {value}" if facet else "")
            found.append(Panel(title, lines))
    return found


def _named(fields: Sequence[str], values: object, names: Mapping[str, str]) -> str:
    each = values if isinstance(values, tuple) else (values,)
    return ", ".join(f"{names[field]} {value}" for field, value in zip(fields, each, strict=True))
