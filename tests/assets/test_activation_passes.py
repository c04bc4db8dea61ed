"""How often the model is loaded for a group's activations, and that it makes no difference to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import yaml
from study_runs import StudyRun
from tiny_models import save_tiny_model
from tiny_studies import inside_settings

from subliminal_dagster.science.models import loading
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

LAYERS = ("00", "01", "02")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    """A study whose rows stand ready, and no activations."""
    folder = tmp_path_factory.mktemp("passes")
    base = save_tiny_model(folder / "base", num_hidden_layers=3)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(inside_settings(base, folder / "prose.txt") | {"layers": [0, 1, 2]}))
    with dg.DagsterInstance.ephemeral() as instance:
        run = StudyRun(load_study(path), ArtifactStore(folder / "artifacts"), instance)
        assert run.materialize("base_model").success
        texts = ["1, 22, 333", "7, 8", "55, 1, 902, 8"]
        rows = pd.DataFrame(
            {
                "row_id": range(3),
                "text": texts,
                "numbers": [[int(number) for number in text.split(", ")] for text in texts],
                "response": texts,
                "split": ["analysis", "test", "analysis"],
                "canonical": True,
            }
        )
        for group in ("owl", "wolf"):
            with run.store.write("tiny", "activation_rows", group) as draft:
                rows.to_parquet(draft.path / "rows.parquet", index=False)
        yield run


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models that were loaded."""
    loaded: list[Path] = []
    load = loading.load_base

    def counted(base: Path, *rest: Any) -> Any:
        loaded.append(base)
        return load(base, *rest)

    monkeypatch.setattr(loading, "load_base", counted)
    return loaded


def make(run: StudyRun, group: str, layers: tuple[str, ...]) -> dict[str, str]:
    """Make a group's layers in this order; their content hashes."""
    hashes = {}
    for layer in layers:
        assert run.materialize("activations", f"{group}|{layer}").success
        hashes[layer] = run.store.read("tiny", "activations", f"{group}|{layer}").content_hash
    return hashes


@pytest.mark.parametrize("order", [LAYERS, LAYERS[::-1]])
def test_three_layers_load_the_model_once(begun: StudyRun, tmp_path: Path, loads: list[Path], order: Any) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = begun.copy(tmp_path, instance)
        together = make(run, "owl", order)
        assert len(loads) == 1
        assert not list(run.store.opened.work.rglob("*.npz")), "what was left is used up"
        # Whoever asks for one that is there gets it rebuilt, alone.
        assert make(run, "owl", order) == together
        assert len(loads) == 4
        # The other group has a pass of its own.
        assert make(run, "wolf", order[:1])[order[0]] == together[order[0]]
        assert len(loads) == 5
        assert len(list(run.store.opened.work.rglob("*.npz"))) == 2


def test_what_was_left_for_other_rows_is_not_taken(begun: StudyRun, tmp_path: Path, loads: list[Path]) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = begun.copy(tmp_path, instance)
        before = make(run, "owl", ("00",))
        rows = pd.read_parquet(run.store.read("tiny", "activation_rows", "owl").path / "rows.parquet")
        with run.store.write("tiny", "activation_rows", "owl") as draft:
            rows.assign(text=rows["text"] + ", 9").to_parquet(draft.path / "rows.parquet", index=False)
        make(run, "owl", ("01",))
        assert len(loads) == 2
        assert make(run, "owl", ("00",)) != before
        assert len(loads) == 2
        stored = run.store.read("tiny", "activations", "owl|01").path / "activations.parquet"
        assert pd.read_parquet(stored, columns=["text"])["text"].str.endswith(", 9").all()
