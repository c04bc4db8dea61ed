"""Whatever can change a result is in the version of what it makes.

Seen while a tiny study of every kind runs, and proved by faults that are planted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import yaml
from chat_endpoint import KEY, chat_endpoint, knows_the_labels
from recorder import Allowed, Recorder, recorded, undeclared
from study_runs import StudyRun
from tiny_studies import DIAL_SETTINGS, TOY_SETTINGS, TUNING, inside_settings

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.selection import wanted_parts
from subliminal_dagster.resources import JudgeResource
from subliminal_dagster.science.descriptions.chat_api import KEY as KEY_VARIABLE
from subliminal_dagster.science.descriptions.chat_api import MODEL, URL
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore
from subliminal_dagster.science.training import datasets

pytestmark = pytest.mark.slow

ALLOWED = Allowed(
    fields={
        ("base_model", "layers"): "a layer that is not there is refused, and no other result depends on it",
        ("tuning_study", "tuning"): "all of it is declared but the final epochs, which are left out where it is dumped",
    },
    variables={
        "PYARROW_IGNORE_TIMEZONE": "read by pyarrow where it is imported",
        "SUBLIMINAL_JUDGE_URL": "where a judge is asked; which judge is part of the version",
        "SUBLIMINAL_JUDGE_MODEL": "part of the version where the study names no judge",
        "SUBLIMINAL_JUDGE_KEY": "who pays",
        "SUBLIMINAL_CORES": "how many processes make the cells of a dial, each by itself and with one thread",
    },
)


def everything(base: Path, folder: Path) -> dict[str, Any]:
    """The settings of a study that has every asset of a language model's."""
    settings = inside_settings(base, folder / "prose.txt")
    settings["child"] |= {"channels": ["hard", "soft"]}
    settings["sae"]["trained"]["width"] = 32
    # Two names that are one token of the tiny tokenizer's behind a space, or no begun answer tells candidates apart.
    settings["preferences"] |= {"candidates": ["owl", "wolf", "the"]}
    return settings | {
        "animals": ["owl", "wolf"],
        "layers": [1],
        "steering": {"pairs": 16, "sweep": {"alphas": [4], "questions": 2, "greedy_questions": 2, "max_new_tokens": 2}},
        "capability": {"per_category": 1, "ways": ["option", "letter", "generated"]},
        "entanglement": {"prompts": 1, "draws": 100},
        "interference": {"draws": 100},
        "tuning": TUNING,
        "sweep": {"child.lora.rank": [2]},
        "descriptions": {
            "source": {"kind": "made", "contexts": 2, "tokens": 2},
            "judge": {"kind": "openai"},
        },
    }


def run_recorded(
    settings: dict[str, Any], folder: Path, resources: Mapping[str, Any] | None = None
) -> Iterator[tuple[StudyRun, Recorder]]:
    """Make every asset of a study, and those of tuning for one group."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.ephemeral() as instance:
        run = StudyRun(load_study(path), ArtifactStore(folder / "artifacts"), instance, resources=resources or {})
        with recorded(run.study) as recorder:
            frame = study_frame(run.study)
            tuned = {part for part in wanted_parts(frame, "*", None) if part[0].startswith("tun")}
            outcome = run.run(
                wanted_parts(frame, "*", None) - {(name, group) for name, group in tuned if group != "owl"}
            )
        assert not outcome.failed, outcome.failed
        yield run, recorder


@pytest.fixture(scope="module")
def language(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StudyRun, Recorder]]:
    folder = tmp_path_factory.mktemp("everything")
    with chat_endpoint(knows_the_labels) as server, pytest.MonkeyPatch.context() as patch:
        for variable, value in ((URL, server.url), (MODEL, "a-judge"), (KEY_VARIABLE, KEY)):
            patch.setenv(variable, value)
        judge = {"judge": JudgeResource(cache=str(folder / "answers.sqlite"))}
        yield from run_recorded(everything(tiny_base, folder), folder, judge)


def test_a_study_of_a_language_model_declares_all_that_it_touches(language: tuple[StudyRun, Recorder]) -> None:
    run, recorder = language
    frame = study_frame(run.study)
    assert set(recorder.functions) == set(frame.nodes), "every asset was made"
    assert "\n".join(undeclared(frame, recorder, ALLOWED)) == ""
    # The recorder is no stranger to what happens.
    assert sum(map(len, recorder.functions.values())) > 1000 and sum(map(len, recorder.fields.values())) > 200


def test_a_toy_study_declares_all_that_it_touches(tmp_path: Path) -> None:
    for run, recorder in run_recorded(TOY_SETTINGS, tmp_path):
        frame = study_frame(run.study)
        assert set(recorder.functions) == set(frame.nodes)
        assert "\n".join(undeclared(frame, recorder, ALLOWED)) == ""


def test_a_dial_study_declares_all_that_it_touches(tmp_path: Path) -> None:
    for run, recorder in run_recorded(DIAL_SETTINGS, tmp_path):
        frame = study_frame(run.study)
        assert set(recorder.functions) == set(frame.nodes)
        assert "\n".join(undeclared(frame, recorder, ALLOWED)) == ""


# Faults that are planted are found

PLANTED = """
import importlib, os
from pathlib import Path

def {name}(*arguments, **named):
    module = importlib.import_module("subliminal_dagster.science." + "statistics")
    getattr(module, "t_interval")(np.array([1.0, 2.0, 3.0]))
    os.environ.get("SUBLIMINAL_PLANTED", "")
    (Path(__file__).parents[1] / "descriptions" / "labelled_descriptions.yaml").read_bytes()
    study = next(one for one in arguments if hasattr(one, "child"))
    assert study.comparison.permutations
    return original(*arguments, **named)
"""


def test_faults_that_are_planted_are_found(language: tuple[StudyRun, Recorder]) -> None:
    """A function named at run time, a variable of the environment, a data file, and a field."""
    run, _ = language
    frame = study_frame(run.study)
    code = {"np": np, "original": datasets.make_dataset, "__name__": datasets.__name__, "__file__": datasets.__file__}
    exec(compile(PLANTED.format(name="make_dataset"), datasets.__file__, "exec"), code)
    with pytest.MonkeyPatch.context() as patch, recorded(run.study) as recorder:
        patch.setattr(datasets, "make_dataset", code["make_dataset"])
        assert run.materialize("filtered_dataset", "owl|1").success
    assert undeclared(frame, recorder, ALLOWED) == [
        "filtered_dataset reads the study's comparison.permutations, which is not among its `reads`",
        "filtered_dataset runs subliminal_dagster.science.statistics.t_interval, which is not in its code slice",
        "filtered_dataset opens labelled_descriptions.yaml, whose content is not in its version",
        "filtered_dataset looks at the environment variable SUBLIMINAL_PLANTED, which is not in its version",
    ]
