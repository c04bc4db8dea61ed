"""The dial: a grid of small transformers per setting, and what they come to."""

import dagster as dg

from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import show_figures, table
from subliminal_dagster.execution.work import Work
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.settings.dial import DialGrid, DialStudy

STAGE = "dial"


def dial_assets(frame: Frame[DialStudy]) -> list[dg.AssetsDefinition]:
    """`grid_<name>` of every grid, and `summary`."""
    grids = [_grid_asset(frame, name) for name in frame.study.grids]
    return [*grids, _summary_asset(frame, [grid.key.path[-1] for grid in grids])]


def _grid_asset(frame: Frame[DialStudy], name: str) -> dg.AssetsDefinition:
    study, grid = frame.study, frame.study.grids[name]

    @asset(
        frame,
        STAGE,
        name=f"grid_{name}",
        reads=[
            *("seed", "seeds", "animals", "neutral", "choices", "base", "teacher", "child"),
            *(f"grids.{name}.{field}" for field in DialGrid.model_fields),
        ],
        deps=[],
        kinds={"pytorch", "huggingface", "parquet"},
        gpu=True,
        description=f"Transformers of {len(grid.widths)} widths at {len(grid.densities)} densities, {study.seeds} "
        "seeds each, their superposition, and what their children come to like.",
    )
    def one_grid(work: Work[DialStudy]) -> None:
        import torch

        from subliminal_dagster.science.dial.curve import effects
        from subliminal_dagster.science.dial.grid import run_grid

        device = "cuda" if torch.cuda.is_available() else "cpu"
        made = run_grid(name, study, device=device, kept=work.workspace() / "cells", progress=work.progress())
        with work.writing() as folder:
            for title, rows in made.items():
                rows.to_parquet(folder / f"{title}.parquet", index=False)
            found = effects(made, study)
            found.to_parquet(folder / "effects.parquet", index=False)
            means = found.groupby(["width", "density"], as_index=False).mean(numeric_only=True)
            work.metadata |= {"cells": table(means)}

    return one_grid


def _summary_asset(frame: Frame[DialStudy], grids: list[str]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["main", "margin", "grids"],
        deps=grids,
        kinds={"pandas", "statsmodels"},
        gpu=False,
        description="The effect against measured superposition, with what else could explain it, and every statement "
        "with its verdict.",
    )
    def summary(work: Work[DialStudy]) -> None:
        import pandas as pd

        from subliminal_dagster.science.dial.curve import curves, levels, pairs, rivals
        from subliminal_dagster.science.dial.figures import curve_figure
        from subliminal_dagster.science.dial.statements import Findings, markdown, statements
        from subliminal_dagster.science.storage.tables import save_tables

        rows: pd.DataFrame = pd.concat(
            [pd.read_parquet(work.read(grid) / "effects.parquet") for grid in grids], ignore_index=True
        )
        main = rows[rows["grid"] == study.main]
        found = Findings(rows, curves(main, study.margin), rivals(main), levels(main, study.margin), pairs(rows, study))
        said = statements(found, study)
        with work.writing() as folder:
            save_tables(found, folder)
            said.to_parquet(folder / "statements.parquet", index=False)
            (folder / "report.md").write_text(markdown(found, said, study), encoding="utf-8")
            show_figures(work, folder, {"summary": curve_figure(main, f"{study.name}: gamma against superposition")})
            work.metadata |= {"curves": table(found.curves), "statements": table(said)}

    return summary
