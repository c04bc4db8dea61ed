"""What a study file may sweep, how cells are called, and what is said of a sweep that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_studies import tiny_study_settings

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.settings.sweep import Variants, key_of
from subliminal_dagster.science.storage.keys import Key, key_at

RATE = "child.training.learning_rate"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tiny_study_settings(tmp_path / "model")))
    return path


def read(file: Path, sweep: str) -> Study:
    study = load_study(file, [f"sweep={sweep}"])
    assert isinstance(study, Study)
    return study


def test_cells_are_all_combinations_with_values_as_the_settings_have_them(file: Path) -> None:
    study = read(file, f"{{child.lora.rank: [2, 8], {RATE}: [2e-3, 1, 4e-3], replicates: 3}}")
    assert study.grid is not None and study.grid.replicates == 3
    assert [key_of(cell, study.grid.fields) for cell in study.grid.cells] == [
        f"rank={rank}+learning_rate={rate}" for rank in (2, 8) for rate in ("0.002", "1", "0.004")
    ]
    for cell in study.grid.cells:
        alone = load_study(file, [f"{field}={value}" for field, value in cell.values.items()])
        assert cell.study == alone
    assert study.sweep is not None and study.sweep.values == {"child.lora.rank": (2, 8), RATE: (0.002, 1.0, 0.004)}
    assert Study.model_validate(study.model_dump(mode="json")) == study


def test_variants_tell_apart_what_an_asset_depends_on_and_no_more(file: Path) -> None:
    grid = read(file, f"{{child.lora.rank: [2, 8], {RATE}: [0.1, 0.2], replicates: 2}}").grid
    assert grid is not None
    by_rank = Variants(grid, ["child.lora.rank"], by_replicate=True)
    assert by_rank.keys == [f"rank={rank}+replicate={number}" for rank in (2, 8) for number in (1, 2)]
    assert Variants(grid, [], by_replicate=True).keys == ["replicate=1", "replicate=2"]
    assert Variants(grid, [RATE], by_replicate=False).keys == ["learning_rate=0.1", "learning_rate=0.2"]
    for cell in grid.cells:
        key = by_rank.key(cell, 2)
        stands_for, number = by_rank.at(key)
        assert (stands_for.values["child.lora.rank"], number) == (cell.values["child.lora.rank"], 2)


def test_neither_order_nor_further_values_rename_a_variant(file: Path) -> None:
    one = read(file, f"{{child.lora.rank: [2, 8], {RATE}: [0.1]}}").grid
    other = read(file, f"{{{RATE}: [0.3, 0.1], child.lora.rank: [8, 4, 2]}}").grid
    assert one is not None and other is not None
    first, second = (Variants(grid, grid.fields, by_replicate=True).keys for grid in (one, other))
    assert set(first) < set(second)


def test_names_that_end_alike_are_written_out_and_odd_values_can_be_folders(file: Path) -> None:
    sweep = "{child.training.epochs: [1], teacher.training.epochs: [2, 3], child.lora.target_modules: [[q_proj], [V]]}"
    grid = read(file, sweep).grid
    assert grid is not None
    keys = Variants(grid, grid.fields, by_replicate=True).keys
    assert len(set(keys)) == 4 and "+teacher.training.epochs=3+" in keys[-1]
    for key in keys:
        place = Key("tiny", "variant_child_lora", f"owl|{key}")
        assert key_at(place.relative) == place


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ("{}", "names no setting"),
        ("3", "Input should be fields of its own"),
        ("{child.lora.rank: 2}", r"child.lora.rank is 2, not a list of values"),
        ("{child.lora.rank: []}", r"not a list of values"),
        ("{child.lora.ranks: [2]}", "names child.lora.ranks, which this study does not have"),
        ("{animals: [[owl]]}", "names animals, which more than .*: choose settings of teacher, numbers"),
        ("{seed: [1]}", "names seed, which more than"),
        ("{teacher.replay.rows: [1]}", "names teacher.replay.rows, which more than"),
        ("{teacher: [{}]}", "names teacher, which more than"),
        ("{child.lora.rank: [2, 8, 2]}", "names a value twice, which makes the cell rank=2 twice"),
        ("{child.lora.rank: [2, 0]}", "the cell child.lora.rank=0, which cannot be: child.lora.rank: Input should be"),
        ("{child.lora.rank: ['2']}", "not a whole number"),
        (
            "{numbers.prompts: [24, 16], filter.train_rows: [12, 20]}",
            "prompts=16, filter.train_rows=20, which cannot be: filter asks",
        ),
        ("{child.lora: [null], child.lora.rank: [2]}", "names child.lora and child.lora.rank, which is a part of it"),
        ("{child.lora.rank: [2], replicates: 0}", "sweep.replicates: Input should be greater"),
    ],
)
def test_what_cannot_be_swept_is_said_in_a_sentence(file: Path, sweep: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        read(file, sweep)
    assert "\n" not in str(error.value) and "sweep" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "sweep", "sentence"),
    [
        (["child.channels=[hard]"], "{child.soft.support: [numbers]}", "has no soft channel"),
        (["replicates_from=teacher", "replicates=2"], "{child.lora.rank: [2], replicates: 3}", "there are 2 teachers"),
        ([], f"{{child.lora.rank: {[*range(1, 101)]}, numbers.temperature: {[*range(51)]}}}", "5100 cells, and 5000"),
    ],
)
def test_a_sweep_has_to_fit_its_study(file: Path, settings: list[str], sweep: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_study(file, [*settings, f"sweep={sweep}"])
