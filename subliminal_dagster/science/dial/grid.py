"""All cells of a grid: base models, how they hold their features, teachers, children.

A cell is a width and a density, with all its seeds trained at once; cells are independent, and made side by side. Base
models and their lessons are kept apart, since several grids may teach the same ones.

Belongs here: which models are made, their tables, going on after an interruption. Does not belong here: a training
(`stack`, `lessons`), what the tables mean (`curve`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.processes import side_by_side
from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.dial import DialGrid, DialStudy

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from subliminal_dagster.science.dial.language import Language
    from subliminal_dagster.science.dial.stack import Stack, Weights

BASE_TABLES, LESSON_TABLES = ("bases", "superposition"), ("scores", "teachers", "losses")
TABLES = (*BASE_TABLES, *LESSON_TABLES)
BASE_WEIGHTS = "bases.safetensors"
KEYS = ["grid", "width", "density"]
_VALIDATION_ROWS = 512
_LOOK_EVERY = 25
_WARMUP = 50
_PULL = 10.0
"""Weight of the squared distance from a shared cosine: at it words come within a few hundredths."""

Progress = Callable[[str], None]
Tables = dict[str, "pd.DataFrame"]


@dataclass(frozen=True)
class Cell:
    """One width and density of a grid."""

    width: int
    density: float

    @property
    def name(self) -> str:
        return f"{self.width}-{self.density!r}"


def cells(grid: DialGrid) -> list[Cell]:
    """All of a grid, the widest first: they take longest."""
    return [Cell(width, density) for width in sorted(grid.widths, reverse=True) for density in grid.densities]


def run_bases(
    name: str,
    study: DialStudy,
    folder: Path,
    *,
    device: str = "cpu",
    processes: int = 1,
    progress: Progress = lambda _: None,
) -> Tables:
    """Trains the base models of a grid, each cell's into a folder of its name in `folder`: `BASE_WEIGHTS` and
    `BASE_TABLES`. Returns those tables of all cells, each of which begins with `KEYS`.

    Cells that are there are not made again, so the folder's path has to depend on all settings. On a CPU cells are made
    in `processes` processes.
    """
    grid = study.grids[name]
    make = partial(_keep_bases, study, grid, device, folder)
    return _together(name, _each_cell(grid, BASE_TABLES, make, folder, device, processes, progress))


def run_grid(
    name: str,
    study: DialStudy,
    bases: Path,
    folder: Path,
    *,
    device: str = "cpu",
    processes: int = 1,
    progress: Progress = lambda _: None,
) -> Tables:
    """The tables of a grid (`TABLES`), each of which begins with `KEYS`: teachers and children of the base models that
    `run_bases` left in `bases`, cell by cell as there. Raises OSError where a cell's are not."""
    grid = study.grids[name]
    make = partial(_keep_lessons, study, grid, device, bases, folder)
    lessons = _each_cell(grid, LESSON_TABLES, make, folder, device, processes, progress)
    return _together(name, {cell: _read(bases / cell.name, BASE_TABLES) | lessons[cell] for cell in lessons})


def _each_cell(
    grid: DialGrid,
    tables: Sequence[str],
    make: Callable[[Cell], Tables],
    folder: Path,
    device: str,
    processes: int,
    progress: Progress,
) -> dict[Cell, Tables]:
    """The tables of all cells, in order: those in `folder`, and of the others what `make` gives, which keeps them."""
    wanted, done = cells(grid), {}
    for cell in wanted:
        # Of a cell that is not there, or damaged, nothing is taken.
        with suppress(OSError, ValueError):
            done[cell] = _read(folder / cell.name, tables)
    if done:
        progress(f"{len(done)}/{len(wanted)} cells taken over from before the interruption")
    missing = {cell: partial(make, cell) for cell in wanted if cell not in done}
    for cell, found in side_by_side(missing, processes if device == "cpu" else 1):
        done[cell] = found
        progress(f"{len(done)}/{len(wanted)} cells")
    return {cell: done[cell] for cell in wanted}


def _keep_bases(study: DialStudy, grid: DialGrid, device: str, folder: Path, cell: Cell) -> Tables:
    from subliminal_dagster.science.dial.stack import save_stack

    bases, tables = make_bases(study, grid, cell, device)
    with _aside(folder / cell.name) as aside:
        save_stack(bases, aside / BASE_WEIGHTS)
        _write(tables, aside)
    return tables


def _keep_lessons(study: DialStudy, grid: DialGrid, device: str, bases: Path, folder: Path, cell: Cell) -> Tables:
    from subliminal_dagster.science.dial.stack import read_stack

    words = len(_language(study, cell).words)
    tables = make_lessons(read_stack(bases / cell.name / BASE_WEIGHTS, words, cell.width, device), study, grid, cell)
    with _aside(folder / cell.name) as aside:
        _write(tables, aside)
    return tables


def make_bases(study: DialStudy, grid: DialGrid, cell: Cell, device: str = "cpu") -> tuple[Stack, Tables]:
    """One cell's base models, and their tables.

    `bases`: a row per base model with `seed`, `steps` (above the most: the loss was not reached), `excess` (nats per
    word above the language's entropy) and `reached`. `superposition`: see `superposition.measure`, with `seed`.
    """
    import pandas as pd

    from subliminal_dagster.science.dial.superposition import measure

    language = _language(study, cell)
    bases, steps, excess = base_models(study, grid, cell, language, device)
    facts = pd.DataFrame(
        {"seed": range(study.seeds), "steps": steps, "excess": excess, "reached": steps <= study.base.steps}
    )
    held = measure(bases, language, stream_seed(study.seed, "superposition")).rename(columns={"model": "seed"})
    return bases, {"bases": facts, "superposition": held}


def make_lessons(bases: Stack, study: DialStudy, grid: DialGrid, cell: Cell) -> Tables:
    """`scores`, `teachers` and `losses` of one cell's base models: see `lessons.Lessons`."""
    from subliminal_dagster.science.dial.lessons import teach

    # Every grid has the same teachers' and children's random numbers, so that what it changes is all that differs.
    seed = stream_seed(study.seed, "lessons", cell.name)
    lessons = teach(bases, _language(study, cell), study, grid, seed)
    return {"scores": lessons.scores, "teachers": lessons.teachers, "losses": lessons.losses}


def _language(study: DialStudy, cell: Cell) -> Language:
    from subliminal_dagster.science.dial.language import Language

    return Language(study.seed, cell.density, study.choices)


def base_models(
    study: DialStudy, grid: DialGrid, cell: Cell, language: Language, device: str = "cpu"
) -> tuple[Stack, np.ndarray, np.ndarray]:
    """The trained base models of a cell, after how many steps each was finished, and its excess loss, both (seeds,)."""
    import torch

    from subliminal_dagster.science.dial.stack import NEAR, Training, answer_losses, new_stack, rate_at, train

    # Of each cell their own, so that cells are independent; those of every grid alike, so that grids can be paired.
    seeds = [stream_seed(study.seed, "base", cell.name, str(number)) for number in range(study.seeds)]
    start = new_stack(len(language.words), cell.width, seeds, device)
    confine = _confinement(grid, cell.width, seeds, device)
    if confine is not None:
        confine(start.weights)
    rngs = [np.random.default_rng([seed, 7]) for seed in seeds]
    validation = _batch(language, [np.random.default_rng([study.seed, 8])], _VALIDATION_ROWS, device)
    validation = tuple(each.expand(study.seeds, -1, -1) for each in validation)
    least = language.corpus_entropy()

    def excess(stack: Stack) -> torch.Tensor:
        return answer_losses(stack, *validation) - least

    trained, steps = train(
        start,
        lambda _: _batch(language, rngs, study.base.batch_size, device),
        Training(rate_at(cell.width, study.base.learning_rate), study.base.steps, _WARMUP),
        extra=_on_words(language, grid),
        confine=confine,
        done=lambda stack: excess(stack) <= study.base.excess,
        every=_LOOK_EVERY,
        near=least + NEAR * study.base.excess,
    )
    with torch.no_grad():
        return trained, steps, excess(trained).cpu().numpy()


def _batch(language: Language, rngs: list[np.random.Generator], rows: int, device: str) -> tuple[torch.Tensor, ...]:
    """`rows` fresh sentences for each model, which of their words are asked (all but each sentence's first), and which
    sentence of its row each belongs to, as `answer_losses` takes them. Half of a row per sentence would be padding:
    they are paired."""
    import torch

    drawn = [paired(language.corpus(rows, rng)) for rng in rngs]
    longest = max(ids.shape[1] for ids, _ in drawn)

    def alike(rows: np.ndarray, beyond: int) -> np.ndarray:
        return np.pad(rows, ((0, 0), (0, longest - rows.shape[1])), constant_values=beyond)

    ids = torch.from_numpy(np.stack([alike(rows, 0) for rows, _ in drawn])).to(device)
    sentence = torch.from_numpy(np.stack([alike(which, 2) for _, which in drawn])).to(device)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[..., 1:] = sentence[..., 1:] != sentence[..., :-1]
    return ids, (ids > 0) & ~first, sentence


def paired(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The longest sentence and the shortest in one row, the next ones in the next: sentences padded with 0, shape
    (sentences, words), to ids and which sentence each word belongs to (0, 1; 2: padding), (half as many, words)."""
    if len(rows) % 2:
        rows = np.vstack([rows, np.zeros((1, rows.shape[1]), dtype=rows.dtype)])
    lengths = (rows > 0).sum(axis=1)
    order, half = np.argsort(lengths, kind="stable"), len(rows) // 2
    short, long = order[:half], order[::-1][:half]
    ids = np.zeros((half, 2 * rows.shape[1]), dtype=rows.dtype)
    ids[:, : rows.shape[1]] = rows[long]
    behind = lengths[long][:, None] + np.arange(rows.shape[1])
    np.put_along_axis(ids, behind, rows[short], axis=1)
    places, ends = np.arange(ids.shape[1]), lengths[long] + lengths[short]
    sentence = (places >= lengths[long][:, None]).astype(np.int64) + (places >= ends[:, None])
    return ids[:, : ends.max()], sentence[:, : ends.max()]


def _on_words(language: Language, grid: DialGrid) -> Callable[[Weights], torch.Tensor] | None:
    """What a grid adds to each model's loss, shape (models,), for how its words for numbers and things lie: `penalty`
    times their mean squared cosine times the width, or the squared distance of each number's cosine with its animal
    from `shared`; of embedding and unembedding. None where it adds nothing."""
    import torch

    from subliminal_dagster.science.dial.stack import EMBEDDING, UNEMBEDDING

    if not grid.penalty and grid.shared is None:
        return None
    numbers, things = torch.from_numpy(language.number_tokens), torch.from_numpy(language.thing_tokens)
    # Animals are the first things.
    own = torch.from_numpy(language.belongs)

    def loss(weights: Weights) -> torch.Tensor:
        total = torch.zeros(())
        for name in (EMBEDDING, UNEMBEDDING):
            words = weights[name]
            # As they are measured: each kind of word about its own mean.
            some, others = (_units(words[:, of] - words[:, of].mean(dim=1, keepdim=True)) for of in (numbers, things))
            cosines = some @ others.mT
            total = total + grid.penalty * cosines.square().mean(dim=(1, 2)) * words.shape[-1]
            if grid.shared is not None:
                with_own = cosines[:, torch.arange(len(own)), own]
                total = total + _PULL * (with_own - grid.shared).square().mean(dim=1)
        return total

    return loss


def _units(rows: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(rows, dim=-1)


def _confinement(grid: DialGrid, width: int, seeds: list[int], device: str) -> Callable[[Weights], None] | None:
    """Takes all words of each model back to `confined_to` random dimensions of its own."""
    import torch

    from subliminal_dagster.science.dial.stack import EMBEDDING, UNEMBEDDING

    if grid.confined_to is None:
        return None
    found = []
    for seed in seeds:
        basis, _ = np.linalg.qr(np.random.default_rng([seed, 9]).standard_normal((width, grid.confined_to)))
        found.append(torch.from_numpy(basis @ basis.T).float())
    projections = torch.stack(found).to(device)

    def confine(weights: Weights) -> None:
        for name in (EMBEDDING, UNEMBEDDING):
            weights[name].copy_(weights[name] @ projections)

    return confine


def _together(name: str, made: dict[Cell, Tables]) -> Tables:
    import pandas as pd

    def of(table: str) -> pd.DataFrame:
        parts = []
        for cell, found in made.items():
            keys: dict[str, Any] = {"grid": name, "width": cell.width, "density": cell.density}
            rows = found[table]
            parts.append(rows.assign(**keys)[[*KEYS, *rows.columns]])
        return pd.concat(parts, ignore_index=True)

    return {table: of(table) for table in next(iter(made.values()))}


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder that becomes `folder` when the block ends; the process in its name, since two runs may make the same
    cell."""
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


def _write(tables: Tables, folder: Path) -> None:
    for table, rows in tables.items():
        rows.to_parquet(folder / f"{table}.parquet", index=False)


def _read(folder: Path, tables: Sequence[str]) -> Tables:
    """A kept cell. Raises OSError where there is none, and ValueError where it is damaged."""
    import pandas as pd

    return {table: pd.read_parquet(folder / f"{table}.parquet") for table in tables}
