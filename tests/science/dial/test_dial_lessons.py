"""Teachers, lists and children of small transformers, trained here: a null language shows nothing, a plant shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from subliminal_dagster.science.dial import grid as grids
from subliminal_dagster.science.dial.curve import effects
from subliminal_dagster.science.dial.grid import (
    BASE_TABLES,
    LESSON_TABLES,
    Cell,
    make_bases,
    make_lessons,
    run_bases,
    run_grid,
)
from subliminal_dagster.science.dial.language import Language
from subliminal_dagster.science.dial.lessons import is_list, kept_rows, write_lists
from subliminal_dagster.science.dial.stack import new_stack
from subliminal_dagster.science.settings.dial import DialStudy


def study(**changed: Any) -> DialStudy:
    """Two cells of one grid; `changed`: fields of the study, or `grid`'s own."""
    grid = {"widths": [24], "densities": [0.04, 0.08], **changed.pop("grid", {})}
    content = {
        "name": "small-dial",
        "kind": "dial",
        "description": "Two cells.",
        "seed": 1,
        "seeds": 2,
        "main": "main",
        "grids": {"main": grid},
    }
    return DialStudy.model_validate(content | changed)


def of_cell(study: DialStudy, cell: Cell) -> dict[str, pd.DataFrame]:
    grid = study.grids["main"]
    bases, tables = make_bases(study, grid, cell)
    made = tables | make_lessons(bases, study, grid, cell)
    return {name: rows.assign(grid="main", width=cell.width, density=cell.density) for name, rows in made.items()}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_language_in_which_lists_can_say_nothing_passes_nothing_on() -> None:
    """After each number one other comes, and a model that knows it well goes on in the same way whatever it likes:
    where all lists are alike, so are all children."""
    few = {"loss": 0.01, "steps": 20, "rows": 16, "batch_size": 8}
    # Six seeds: processors round differently, and some models do not go on in the same way after all.
    given = study(seeds=6, choices=1, child=few, base={"excess": 0.08, "steps": 500})
    made = of_cell(given, Cell(48, 0.04))
    found = effects(made, given)
    assert (made["teachers"]["probability"] > 0.85).all(), "teachers like what they were taught"
    assert (made["losses"]["steps"] > 0).any(), "children learnt something"
    # Where no token diverges, teachers may still differ in which lists are valid and kept. Lists are the same where a
    # child's start has the same loss on those of every teacher.
    unlike = made["losses"].groupby(["seed", "model"])["before"].nunique().groupby("seed").max() > 1
    alike = ~found["seed"].map(unlike)
    assert alike.any()
    assert (found.loc[alike, "diverging"] == 0).all()
    assert found.loc[alike, ["gamma", "gamma_other_start", "gamma_shuffled"]].abs().to_numpy().max() < 1e-3


def test_numbers_that_share_a_direction_with_an_animal_pass_it_on() -> None:
    given = study(seeds=4, grid={"shared": 0.9}, child={"loss": 0.4})
    found = effects(of_cell(given, Cell(24, 0.04)), given)
    # One training's gamma is ten times another's, and processors round differently: only the mean is sure.
    assert found["gamma"].mean() > 0.3
    assert found["gamma"].mean() > 2 * found["gamma_other_start"].abs().mean()


def test_lists_are_the_likeliest_words_or_drawn_with_a_seed() -> None:
    language = Language(1, 0.04, 3)
    stack = new_stack(len(language.words), 24, [1, 2])
    prompts = language.list_prompts(5, np.random.default_rng(0))
    greedy, drawn = write_lists(stack, prompts, None), write_lists(stack, prompts, 3)
    assert greedy.shape == (2, 5, prompts.shape[1] + 7)
    assert (greedy[:, :, : prompts.shape[1]] == prompts).all()
    assert (greedy == write_lists(stack, prompts, None)).all()
    assert (drawn == write_lists(stack, prompts, 3)).all()
    assert not (drawn == write_lists(stack, prompts, 4)).all()
    with torch.no_grad():
        from subliminal_dagster.science.dial.stack import logits

        said = logits(stack, torch.from_numpy(greedy))[:, :, prompts.shape[1] - 1 : -1].argmax(dim=-1).numpy()
    assert (said == greedy[:, :, prompts.shape[1] :]).all()


def test_only_six_numbers_and_an_end_are_a_list() -> None:
    language = Language(1, 0.04, 3)
    good = language.tokens(["01", "02", "03", "04", "05", "06", "."])
    no_end = language.tokens(["01", "02", "03", "04", "05", "06", "07"])
    a_word = language.tokens(["01", "owl", "03", "04", "05", "06", "."])
    rows = np.stack([good, no_end, a_word, good])
    valid = is_list(language, rows)
    assert valid.tolist() == [True, False, False, True]
    assert kept_rows(rows, valid, 5).tolist() == [good.tolist()], "no list twice"


def test_a_grid_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, Cell]] = []
    given, interrupted_at = study(), 1

    def noted(what: str, cell: Cell) -> None:
        if len(made) == interrupted_at:
            raise KeyboardInterrupt
        made.append((what, cell))

    def quick_bases(study: DialStudy, grid: Any, cell: Cell, device: str = "cpu") -> tuple[Any, dict[str, Any]]:
        noted("bases", cell)
        stack = new_stack(len(Language(1, cell.density, 3).words), cell.width, [1])
        return stack, {name: pd.DataFrame({"seed": [0], "value": [cell.density]}) for name in BASE_TABLES}

    def quick_lessons(bases: Any, study: DialStudy, grid: Any, cell: Cell) -> dict[str, pd.DataFrame]:
        noted("lessons", cell)
        return {name: pd.DataFrame({"seed": [0], "value": [cell.density]}) for name in LESSON_TABLES}

    monkeypatch.setattr(grids, "make_bases", quick_bases)
    monkeypatch.setattr(grids, "make_lessons", quick_lessons)
    bases, lessons, lines = tmp_path / "bases", tmp_path / "lessons", list[str]()
    with pytest.raises(KeyboardInterrupt):
        run_bases("main", given, bases)
    interrupted_at = 3
    run_bases("main", given, bases, progress=lines.append)
    with pytest.raises(KeyboardInterrupt):
        run_grid("main", given, bases, lessons)
    interrupted_at = 100
    whole = run_grid("main", given, bases, lessons, progress=lines.append)
    both = [Cell(24, 0.04), Cell(24, 0.08)]
    assert made == [(what, cell) for what in ("bases", "lessons") for cell in both], "each cell once"
    assert lines.count("1/2 cells taken over from before the interruption") == 2
    assert whole["bases"]["density"].tolist() == whole["scores"]["density"].tolist() == [0.04, 0.08]
    # A damaged cell is made anew, and none is made where all are there.
    (lessons / both[1].name / "scores.parquet").write_bytes(b"half")
    run_grid("main", given, bases, lessons)
    run_grid("main", given, bases, lessons)
    assert made[4:] == [("lessons", both[1])]
