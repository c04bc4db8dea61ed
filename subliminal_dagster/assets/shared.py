"""How results are shown on an asset's page.

Belongs here: metadata that at least two asset modules show alike. Does not belong here: anything about one experiment,
how an artifact is made (`work`).

Part of no version: it writes pictures and metadata, and no content.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from subliminal_dagster.execution.work import Work

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from subliminal_dagster.science.settings.study import Study
    from subliminal_dagster.science.training.task import TrainingReport

_WIDEST_PIXELS = 1080


def table_metadata(frame: pd.DataFrame, rows: int = 10) -> dict[str, Any]:
    """Row count, column schema and the first rows of a table, under the names Dagster's UI knows."""
    sample = table(frame.head(rows))
    return {"dagster/row_count": len(frame), "dagster/column_schema": sample.schema, "sample": sample}


def table(frame: pd.DataFrame) -> dg.TableMetadataValue:
    """A small table as metadata: numbers to four digits, empty cells where there is none, everything that is not a
    plain scalar as text."""

    def shown(value: Any) -> str | int | float | bool | None:
        if isinstance(value, float):
            # Dagster's page shows nothing of a row with a number that JSON does not have.
            return float(f"{value:.4g}") if math.isfinite(value) else None
        return value if isinstance(value, str | int | bool) else str(value)

    records = [
        dg.TableRecord({str(name): shown(value) for name, value in row.items()})
        for row in frame.to_dict(orient="records")
    ]
    columns = [dg.TableColumn(str(name), str(kind)) for name, kind in frame.dtypes.items()]
    return dg.TableMetadataValue(records=records, schema=dg.TableSchema(columns=columns))


def image(png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG shown on the asset's page, in which Dagster cuts off what is wider than its window."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png))
    if picture.width > _WIDEST_PIXELS:
        height = round(picture.height * _WIDEST_PIXELS / picture.width)
        buffer = io.BytesIO()
        picture.resize((_WIDEST_PIXELS, height), Image.Resampling.LANCZOS).save(buffer, format="png")
        png = buffer.getvalue()
    return dg.MetadataValue.md(f"![figure](data:image/png;base64,{base64.b64encode(png).decode()})")


def show_figures(work: Work[Any], folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write figures as `<name>.png` and show them on the asset's page."""
    from subliminal_dagster.science.figures import png

    for name, figure in figures.items():
        picture = png(figure, work.study.category.about)
        (folder / f"{name}.png").write_bytes(picture)
        work.metadata[f"figure_{name.replace('-', '_')}"] = image(picture)


def show_preferences(work: Work[Study], folder: Path) -> None:
    """Metadata of an asset that holds preferences: favourites as figure and table, sampled answers."""
    import pandas as pd

    from subliminal_dagster.science.figures import favourites_figure, png
    from subliminal_dagster.science.preferences.preferences import summary

    favourites = summary(pd.read_parquet(folder / "scores.parquet"))
    answers = pd.read_parquet(folder / "answers.parquet")
    figure = png(favourites_figure(favourites, f"{work.study.name}: {work.asset} {work.group or ''}".strip()))
    (folder / "favourites.png").write_bytes(figure)
    sampled = answers.head(20)[["question", "answer", "outcome"]]
    work.metadata |= {"favourites": table(favourites), "answers": table(sampled), "figure": image(figure)}


def show_training(work: Work[Study], report: TrainingReport, folder: Path, title: str) -> None:
    """Metadata of a trained adapter: its figures, and its losses as a plot and as a table."""
    from subliminal_dagster.science.figures import history_figure, png

    figure = png(history_figure(report.history, f"{work.study.name}: {title} {work.group}"))
    (folder / "history.png").write_bytes(figure)
    work.metadata |= plain(report.facts()) | {"figure": image(figure), "losses": table(report.history.tail(20))}


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as metadata: None becomes a word, and everything else that is not a scalar or container becomes text."""
    ok = str | int | float | bool | list | dict
    return {
        key: "none" if value is None else value if isinstance(value, ok) else str(value) for key, value in facts.items()
    }
