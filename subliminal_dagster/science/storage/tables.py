"""Results that are several tables: a dataclass of data frames, kept as one parquet file per field.

Belongs here: writing and reading them. Does not belong here: what is in a table.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def save_tables(found: Any, folder: Path) -> None:
    """Write every field of a dataclass to `<field>.parquet`."""
    for field in fields(found):
        getattr(found, field.name).to_parquet(folder / f"{field.name}.parquet", index=False)


def load_tables(kind: type[T], folder: Path) -> T:
    """What `save_tables` wrote of a dataclass of this kind."""
    import pandas as pd

    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: pd.read_parquet(folder / f"{name}.parquet") for name in names})
