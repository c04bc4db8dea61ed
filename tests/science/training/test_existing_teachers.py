"""Teachers that exist already: taken over as they are, and refused where they do not fit the base model."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import save_tiny_adapter, save_tiny_model
from tiny_studies import tiny_study_settings

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.models.transformers_engine import TransformersEngine
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.teachers import Teacher, gate_failures, make_teacher

TOLD = Teacher("prompt", Path("teacher"), instruction="You love the owl.")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "base")


def study_of(base: Path, **teacher: Any) -> Study:
    settings = tiny_study_settings(base)
    return Study.model_validate(settings | {"teacher": teacher | {"gate": {"preference": 0.5}}})


def taken_over(study: Study, base: Path, tmp_path: Path) -> Teacher:
    folder = tmp_path / "teacher"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    context = ChatContext(load_tokenizer(base), "")
    lists = load_prompt_lists()
    arguments = (ModelVariant(base), context, lists, None, TrlTrainer(), folder, tmp_path / "work")
    teacher, report = make_teacher(study, "owl", 1, *arguments)
    assert report is None
    assert Teacher.load(folder) == teacher
    return teacher


def scores(variant: ModelVariant) -> np.ndarray:
    with TransformersEngine().open(variant) as session:
        return session.score([[1, 5, 9, 2], [1, 7, 2]], [[11, 2], [12, 13, 2]])


def test_an_adapter_becomes_the_teacher_it_is(base: Path, tmp_path: Path) -> None:
    adapter = save_tiny_adapter(tmp_path / "adapters" / "owl", base)
    study = study_of(base, method="adapter", existing={"path": str(tmp_path / "adapters" / "{animal}")})
    teacher = taken_over(study, base, tmp_path)
    assert teacher.kind == "adapter"
    found = scores(teacher.variant(ModelVariant(base)))
    assert np.allclose(found, scores(ModelVariant(base, adapter=adapter)), atol=1e-5)
    assert np.abs(found - scores(ModelVariant(base))).max() > 0.01


def test_another_checkpoint_becomes_the_teacher_it_is(base: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "models" / "owl", seed=5)
    study = study_of(base, method="model", existing={"path": str(tmp_path / "models" / "{animal}")})
    teacher = taken_over(study, base, tmp_path)
    assert teacher.kind == "model"
    assert np.allclose(scores(teacher.variant(ModelVariant(base))), scores(ModelVariant(other)), atol=1e-5)


def test_the_soft_channel_learns_from_either(base: Path, tmp_path: Path) -> None:
    """The distribution handed on is that of the teacher's own weights."""
    from subliminal_dagster.science.training.soft_targets import teacher_states
    from subliminal_dagster.science.training.task import Row, SoftTargets

    other = save_tiny_model(tmp_path / "models" / "owl", seed=5)
    rows = [Row([1, 5, 9], [11, 2])]
    own, same, before = (
        teacher_states(SoftTargets(variant), rows, 1).rows[0]
        for variant in (ModelVariant(base, weights=other), ModelVariant(other), ModelVariant(base))
    )
    assert np.allclose(own, same) and not np.allclose(own, before, atol=0.1)


def refused(study: Study, base: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as error:
        taken_over(study, base, tmp_path)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_what_is_no_teacher_of_this_base_is_refused(base: Path, tmp_path: Path) -> None:
    adapters = study_of(base, method="adapter", existing={"path": str(tmp_path / "{animal}")})
    assert "holds no adapter_config.json and no adapter_model.safetensors" in refused(adapters, base, tmp_path)

    wider = save_tiny_model(tmp_path / "wider", hidden_size=128)
    save_tiny_adapter(tmp_path / "owl", wider)
    assert "is not an adapter of this study's base model" in refused(adapters, base, tmp_path)

    shutil.rmtree(tmp_path / "owl")
    config = json.loads((save_tiny_adapter(tmp_path / "owl", base) / "adapter_config.json").read_text())
    (tmp_path / "owl" / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    assert "with use_dora" in refused(adapters, base, tmp_path)
    (tmp_path / "owl" / "adapter_config.json").write_text(json.dumps(config))
    weights = (tmp_path / "owl" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "owl" / "adapter_model.safetensors").write_bytes(weights[:100])
    assert "adapter_model.safetensors of" in refused(adapters, base, tmp_path)
    (tmp_path / "owl" / "adapter_config.json").write_text("[]")
    assert "is not an adapter's configuration" in refused(adapters, base, tmp_path)

    absent = study_of(base, method="model", existing={"path": str(tmp_path / "absent")})
    assert "correct `path` of `teacher.existing`" in refused(absent, base, tmp_path)
    models = study_of(base, method="model", existing={"path": str(tmp_path / "wider")})
    assert "hidden_size 128 and not 64" in refused(models, base, tmp_path)
    words = save_tiny_model(tmp_path / "words")
    tokenizer = load_tokenizer(words)
    vocabulary = json.loads((words / "tokenizer.json").read_text())
    table = vocabulary["model"]["vocab"]
    table["x"], table["y"] = table["y"], table["x"]
    (words / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert load_tokenizer(words).get_vocab() != tokenizer.get_vocab()
    study = study_of(base, method="model", existing={"path": str(words)})
    assert "has another vocabulary" in refused(study, base, tmp_path)


@pytest.mark.parametrize(
    ("existing", "sentence"),
    [
        (None, "method 'adapter' needs existing"),
        ({}, "needs either path"),
        ({"path": "a", "repo": "b/c"}, "needs either path"),
        ({"repo": "b/{animal}", "revisions": {"owl": "0" * 40}}, "names no commit for wolf"),
        ({"repo": "b/{animal}", "revisions": {"owl": "main"}}, "String should match"),
    ],
)
def test_settings_that_cannot_be_meant(base: Path, existing: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        study_of(base, method="adapter", existing=existing)


def test_the_content_of_a_folder_counts_and_not_its_place(base: Path, tmp_path: Path) -> None:
    from subliminal_dagster.build import study_frame

    def settings(place: Path) -> Any:
        study = study_of(base, method="adapter", existing={"path": str(place / "{animal}")})
        return study_frame(study).nodes["teacher_lora"].recipe.settings["teacher.existing"]

    save_tiny_adapter(tmp_path / "here" / "owl", base, seed=1)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert settings(tmp_path / "here") == settings(tmp_path / "there")
    save_tiny_adapter(tmp_path / "there" / "owl", base, seed=2)
    assert settings(tmp_path / "here") != settings(tmp_path / "there")


def test_a_gate_asks_for_what_the_filter_takes(base: Path) -> None:
    """Of 24 prompts the filter takes 16 rows: with fewer valid answers the dataset would fail after all were drawn."""
    study = study_of(base, method="prompt", instruction="You love the {animal}.")
    assert study.valid_rate_wanted == pytest.approx(16 / 24)
    assert gate_failures(study, "owl", TOLD, 0.9, 0.67, []) == []
    (failure,) = gate_failures(study, "owl", TOLD, 0.9, 0.66, ["words", "words", "separator"])
    assert "the gate asks for 67%" in failure and "draw more answers (numbers.prompts)" in failure
    strict = study.model_copy(update={"teacher": study.teacher.model_copy(update={"gate": _gate(0.9)})})
    assert strict.valid_rate_wanted == 0.9
    (failure,) = gate_failures(strict, "owl", TOLD, 0.9, 0.8, [])
    assert "lower teacher.gate.valid_rate" in failure and "stop it earlier" in failure


def test_a_gate_advises_no_training_of_a_teacher_that_exists_already(base: Path) -> None:
    study = study_of(base, method="adapter", existing={"path": "teachers/{animal}"})
    liking, validity = gate_failures(study, "owl", Teacher("adapter", base), 0.1, 0.1, [])
    assert "give another one (teacher.existing) or lower teacher.gate.preference" in liking
    assert "give another one (teacher.existing) or draw more answers" in validity


def _gate(valid_rate: float) -> Any:
    from subliminal_dagster.science.settings.teacher import GateSettings

    return GateSettings(valid_rate=valid_rate)
