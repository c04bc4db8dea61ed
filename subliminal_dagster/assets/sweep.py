"""The cells of a study's sweep, and gamma over the grid. Made where they are asked for by name."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from subliminal_dagster.assets.chain import STAGE, Chain, sweep_chain
from subliminal_dagster.assets.child import PREFIX, child_assets
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.numbers import number_assets
from subliminal_dagster.assets.shared import show_figures, table
from subliminal_dagster.assets.teacher import teacher_assets
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import partition_key
from subliminal_dagster.planning.frame import Frame, shown
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.sweep import Cell, Grid, key_of, short_names

if TYPE_CHECKING:
    from subliminal_dagster.science.sweep.table import CellScores

_SHOWN_REASONS = 3


def sweep_assets(frame: Frame[Study], grid: Grid) -> list[dg.AssetsDefinition]:
    """`variant_...` of what the swept settings affect, and `sweep_liking`. The study's own must be declared before."""
    chain = sweep_chain(frame, grid)
    made = [*teacher_assets(frame, chain), *number_assets(frame, chain), *child_assets(frame, chain)]
    return [*made, _sweep_liking(frame, grid, chain)]


def _sweep_liking(frame: Frame[Study], grid: Grid, chain: Chain) -> dg.AssetsDefinition:
    scored = [f"{PREFIX[channel]}preference_scores" for channel in frame.study.child.channels]

    @asset(
        frame,
        STAGE,
        reads=["seed", "animals", "neutral", "replicates", "child.channels", "comparison", "sweep"],
        deps=["base_preferences", *map(chain.name, scored)],
        kinds={"pandas", "statsmodels"},
        gpu=False,
        on_request=True,
        takes_what_there_is=True,
        description="Gamma of every cell of the sweep with its interval, adjusted for the number of cells, and the "
        "average effect of each setting's values. A cell that a gate refused is listed with the reason.",
    )
    def sweep_liking(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.sweep.figure import sweep_figure
        from subliminal_dagster.science.sweep.report import sweep_sentence
        from subliminal_dagster.science.sweep.table import cells_table, main_effects

        study, settings = work.study, work.study.comparison
        base = pd.read_parquet(work.read("base_preferences") / "scores.parquet")
        base = base.assign(model="base", channel=None, group=None, replicate=1)
        cells = cells_table(
            base,
            _scores(work, grid, chain),
            study.animals,
            study.child.channels,
            seed=study.seed,
            confidence=settings.confidence,
            margin=settings.margin,
        )
        effects = main_effects(cells, grid.fields, confidence=settings.confidence)
        with work.writing() as folder:
            for name, rows in (("cells", cells), ("effects", effects)):
                rows.to_parquet(folder / f"{name}.parquet", index=False)
                rows.to_csv(folder / f"{name}.csv", index=False)
            drawn = sweep_figure(cells, short_names(grid.fields), f"{study.name}: gamma over the sweep")
            show_figures(work, folder, {"gamma": drawn})
            level = 1 - settings.confidence
            found = {str(channel): sweep_sentence(rows, level) for channel, rows in cells.groupby("channel")}
            work.metadata |= {f"found_{channel}": sentence for channel, sentence in found.items()}
            work.metadata |= {"cells": table(cells.head(100)), "effects": table(effects.head(100))}

    return sweep_liking


def _scores(work: Work[Study], grid: Grid, chain: Chain) -> "Iterator[CellScores]":
    """What there is of every cell; a cell at a time, since a thousand of them are large."""
    import pandas as pd

    from subliminal_dagster.science.sweep.table import CellScores

    for cell in grid.cells:
        found, missing = [], {}
        for channel in work.study.child.channels:
            for place, group, replicate in _places(work, grid, chain, cell, f"{PREFIX[channel]}preference_scores"):
                if work.has(*place):
                    rows = pd.read_parquet(work.read(*place) / "scores.parquet")
                    found.append(rows.assign(model="child", channel=channel, group=group, replicate=replicate))
                else:
                    missing[shown(*place)] = work.not_there.get(place, "it was not made")
        reasons = [f"{place}: {why}" for place, why in missing.items()]
        if len(reasons) > _SHOWN_REASONS:
            reasons[_SHOWN_REASONS:] = [f"and {len(reasons) - _SHOWN_REASONS} more"]
        scores = pd.concat(found, ignore_index=True) if found else None
        children = len(work.study.groups) * grid.replicates
        yield CellScores(key_of(cell, grid.fields), cell.values, scores, children, reasons)


def _places(
    work: Work[Study], grid: Grid, chain: Chain, cell: Cell, scored: str
) -> Iterator[tuple[tuple[str, str], str, int]]:
    fields, name = chain.variants[scored].fields, chain.name(scored)
    for group in work.study.groups:
        for replicate in range(1, grid.replicates + 1):
            yield (name, partition_key(group, key_of(cell, fields, replicate))), group, replicate
