"""Entanglement and interference through Dagster itself, on a random two-layer model: made on request, and reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import yaml
from study_runs import StudyRun
from tiny_models import tiny_llama, tiny_tokenizer
from tiny_studies import inside_settings

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.selection import wanted_parts
from subliminal_dagster.science.entanglement.measures import TOLD, Entanglement
from subliminal_dagster.science.entanglement.results import MEAN, Found, number_weights, written_numbers
from subliminal_dagster.science.interference.results import LayerFound
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore
from subliminal_dagster.science.storage.tables import load_tables
from subliminal_dagster.science.training.datasets import read_messages

MECHANISM = {"token_entanglement", "entanglement", "interference"}
NAMES = ["cat", "dog", "owl", "bee", "ant"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    folder = tmp_path_factory.mktemp("mechanism")
    merges = [(a, b) for name in NAMES for a, b in ((name[0], name[1]), (name[:2], name[2]), ("Ġ", name))]
    tokenizer = tiny_tokenizer(extra_merges=merges)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    settings = inside_settings(folder / "base", folder / "prose.txt") | {
        "animals": ["owl", "cat"],
        "layers": [1],
        "steering": {
            "pairs": 16,
            "sweep": {"alphas": [4], "questions": 2, "greedy_questions": 2, "max_new_tokens": 2, "flips": 2},
        },
        "entanglement": {"prompts": 1, "draws": 100, "top": 10},
        "interference": {"draws": 100},
    }
    settings["preferences"] |= {"candidates": NAMES}
    settings["numbers"] |= {"max_digits": 2}
    # Whether a random model learns a name is of no concern here.
    settings["teacher"]["gate"] |= {"preference": 0.0}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.ephemeral() as instance:
        study = StudyRun(load_study(path), ArtifactStore(folder / "artifacts"), instance)
        outcome = study.run(wanted_parts(study_frame(study.study), "group:mechanism", None))
        assert outcome.complete, outcome
        # By itself, of what there is: planned, it would wait for everything that it can show.
        assert study.materialize("report").success
        yield study


def folder(run: StudyRun, asset: str, partition: str | None = None) -> Path:
    return run.store.read("tiny", asset, partition).path


def test_it_is_made_only_where_it_is_named(made: StudyRun) -> None:
    frame = study_frame(made.study)
    assert {name for name, node in frame.nodes.items() if node.on_request} >= MECHANISM
    assert {name for name, _ in wanted_parts(frame, "group:mechanism", None)} == MECHANISM
    assert not {name for name, _ in wanted_parts(frame, None, None)} & MECHANISM
    without = made.study.model_copy(update={"entanglement": None, "interference": None})
    assert not MECHANISM & set(study_frame(without).nodes)


def test_a_childs_numbers_and_shift_are_those_of_its_artifacts(made: StudyRun) -> None:
    """What is handed to the arithmetic, which is tested by itself."""
    measured, found = (
        Entanglement.load(folder(made, "token_entanglement")),
        load_tables(Found, folder(made, "entanglement")),
    )
    assert list(measured.numbers["number"]) == list(range(100)) and set(measured.animals["animal"]) == set(NAMES)
    assert np.isfinite(measured.values[TOLD]).all()
    trained = written_numbers(answer for _, answer in read_messages(folder(made, "filtered_dataset", "owl|1"), "train"))
    coverage = found.coverage.set_index("group")
    assert coverage.loc["owl", "numbers"] == len(trained)
    assert coverage.loc["owl", "measured"] == pytest.approx(number_weights(trained, range(100))[1])
    assert set(found.predictions["group"]) == {"owl", "cat", "neutral", "control", MEAN}


def test_every_group_is_set_against_every_direction(made: StudyRun) -> None:
    found = load_tables(LayerFound, folder(made, "interference", "01"))
    assert set(found.spread["group"]) == {"owl", "cat", "neutral"} and set(found.texts["kind"]) == {
        "prose",
        "numbers",
        "chat",
    }
    direct = found.overlap[found.overlap["direction"] == "direct"]
    assert set(direct["target"]) <= {"owl", "cat"} and set(found.overlap["target"]) <= {"owl", "cat", "neutral"}


def test_the_report_has_both_sections(made: StudyRun) -> None:
    summary = json.loads((folder(made, "report") / "summary.json").read_text())
    assert {"Entangled numbers", "Interference inside"} <= set(summary["sections"])
    pages = pd.Series((folder(made, "report") / "report.html").read_text())
    assert pages.str.contains('id="entanglement"').all() and pages.str.contains('id="interference"').all()
