"""The dial: small transformers and their lessons, a grid of them per setting, and what they come to."""

import shutil

import dagster as dg

from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import show_figures, table
from subliminal_dagster.execution.work import Work
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.processes import cores_here
from subliminal_dagster.science.settings.dial import DialGrid, DialStudy

STAGE = "dial"
_CELLS, _OF_BASES = ("widths", "densities"), ("penalty", "confined_to", "shared")
"""The fields of a grid that say which cells there are, and those that only base models depend on."""


def dial_assets(frame: Frame[DialStudy]) -> list[dg.AssetsDefinition]:
    """`bases_<name>` of every grid with base models of its own, `grid_<name>` of every grid, and `summary`."""
    bases = [_bases_asset(frame, name) for name, grid in frame.study.grids.items() if grid.bases is None]
    grids = [_grid_asset(frame, name) for name in frame.study.grids]
    return [*bases, *grids, _summary_asset(frame, [grid.key.path[-1] for grid in grids])]


def _bases_asset(frame: Frame[DialStudy], name: str) -> dg.AssetsDefinition:
    study, grid = frame.study, frame.study.grids[name]

    @asset(
        frame,
        STAGE,
        name=f"bases_{name}",
        reads=["seed", "seeds", "choices", "base", *(f"grids.{name}.{field}" for field in (*_CELLS, *_OF_BASES))],
        deps=[],
        kinds={"pytorch", "huggingface", "safetensors"},
        gpu=True,
        description=f"Transformers of {len(grid.widths)} widths at {len(grid.densities)} densities, {study.seeds} "
        "seeds each, trained from nothing, and their superposition.",
    )
    def bases(work: Work[DialStudy]) -> None:
        from subliminal_dagster.science.dial.grid import run_bases
        from subliminal_dagster.science.models.loading import pick_device

        kept = work.workspace() / "cells"
        made = run_bases(name, study, kept, device=pick_device(), processes=cores_here(), progress=work.progress())
        with work.writing() as folder:
            shutil.copytree(kept, folder / "cells", ignore=shutil.ignore_patterns("*.new"))
            for title, rows in made.items():
                rows.to_parquet(folder / f"{title}.parquet", index=False)
            means = made["bases"].drop(columns="seed").groupby(["width", "density"], as_index=False)
            work.metadata |= {"cells": table(means.mean(numeric_only=True))}

    return bases


def _grid_asset(frame: Frame[DialStudy], name: str) -> dg.AssetsDefinition:
    study, grid = frame.study, frame.study.grids[name]
    bases = f"bases_{grid.bases or name}"

    @asset(
        frame,
        STAGE,
        name=f"grid_{name}",
        reads=[
            *("seed", "animals", "neutral", "choices", "teacher", "child"),
            *(f"grids.{name}.{field}" for field in DialGrid.model_fields if field not in _OF_BASES),
        ],
        deps=[bases],
        kinds={"pytorch", "huggingface", "parquet"},
        gpu=True,
        description=f"What teachers that start as the models of `{bases}` pass on to their children.",
    )
    def one_grid(work: Work[DialStudy]) -> None:
        from subliminal_dagster.science.dial.curve import effects
        from subliminal_dagster.science.dial.grid import run_grid
        from subliminal_dagster.science.models.loading import pick_device

        kept, of = work.workspace() / "cells", work.read(bases) / "cells"
        made = run_grid(name, study, of, kept, device=pick_device(), processes=cores_here(), progress=work.progress())
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
