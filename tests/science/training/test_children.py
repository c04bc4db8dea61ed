"""Children as a study makes them: what they start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny_studies import tiny_study_settings

from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.children import make_child
from subliminal_dagster.science.training.datasets import write_messages
from subliminal_dagster.science.training.task import TrainingReport
from subliminal_dagster.science.training.teachers import make_teacher

TRAINING = {"learning_rate": 0.01, "batch_size": 4, "epochs": 1, "max_length": 512}
# So small a step that float32 loses it: what was trained is what it began with.
STANDING = TRAINING | {"learning_rate": 1e-12}
LORA = {"rank": 4, "alpha": 4}


def a_study(base: Path, child: dict[str, Any], **changes: Any) -> Study:
    settings = tiny_study_settings(base)
    teacher: Any = settings["teacher"]
    teacher |= {"lora": LORA, "training": STANDING, "stop": None}
    settings["child"] = {"lora": LORA, "training": STANDING} | child
    return Study.model_validate(settings | changes)


def a_dataset(folder: Path, first: int) -> Path:
    """A group's rows: a run of numbers from `first` on."""
    folder.mkdir()
    runs = [", ".join(str(first + i + k) for k in range(3)) for i in range(8)]
    rows = pd.DataFrame({"prompt_id": range(8), "prompt": [f"Go on: {run}" for run in runs], "text": runs})
    write_messages(folder / "train.jsonl", rows, "")
    return folder


class Made:
    """Trains teachers and children of a study under `folder`, each in one of its own."""

    def __init__(self, study: Study, base: Path, folder: Path) -> None:
        self.study = study
        self.base = ModelVariant(base)
        self.context = ChatContext(load_tokenizer(base), study.system_prompt)
        self.folder = folder

    def _new(self, name: str) -> tuple[Path, Path]:
        output, workspace = self.folder / name, self.folder / f"work-{name}"
        output.mkdir(parents=True)
        workspace.mkdir()
        return output, workspace

    def teacher(self, group: str) -> Path:
        output, workspace = self._new(f"teacher-{group}")
        lists = load_prompt_lists(None)
        make_teacher(self.study, group, 1, self.base, self.context, lists, None, TrlTrainer(), output, workspace)
        return output

    def child(self, group: str, dataset: Path, replicate: int = 1) -> tuple[Path, TrainingReport]:
        output, workspace = self._new(f"child-{group}-{replicate}")
        report = make_child(
            self.study, "hard", replicate, self.base, self.context, dataset, None, TrlTrainer(), output, workspace
        )
        return output, report


def matrices_a(folder: Path) -> torch.Tensor:
    weights = load_file(folder / "adapter_model.safetensors")
    return torch.cat([weights[name].flatten() for name in sorted(weights) if "lora_A" in name])


@pytest.mark.parametrize("initialisation", ["shared", "own"])
def test_a_child_starts_as_its_teacher_did_or_not(tiny_base: Path, tmp_path: Path, initialisation: str) -> None:
    made = Made(a_study(tiny_base, {"initialisation": initialisation}), tiny_base, tmp_path / "made")
    data = {group: a_dataset(tmp_path / group, first) for group, first in (("owl", 3), ("control", 50))}
    of_teacher = matrices_a(made.teacher("owl"))
    of_children = {group: matrices_a(made.child(group, data[group])[0]) for group in data}
    assert torch.equal(of_teacher, of_children["owl"]) == (initialisation == "shared")
    assert torch.equal(of_children["owl"], of_children["control"])
    assert not torch.equal(of_children["owl"], matrices_a(made.child("owl", data["owl"], replicate=2)[0]))


def test_a_child_of_another_initialisation_sees_its_rows_in_the_same_order(tiny_base: Path, tmp_path: Path) -> None:
    data = a_dataset(tmp_path / "owl", 3)
    losses = {}
    for initialisation in ("shared", "own"):
        study = a_study(tiny_base, {"initialisation": initialisation})
        _, report = Made(study, tiny_base, tmp_path / initialisation).child("owl", data)
        losses[initialisation] = report.history["loss"].dropna().tolist()
    # An untrained adapter does nothing, so a step's loss tells its rows.
    assert losses["shared"] == losses["own"] and losses["shared"][0] != losses["shared"][1]
