"""Study files: what ships is valid, and what is wrong is said with file, field and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import tiny_study_settings

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.study import Study, load_study, shipped_studies


def write(folder: Path, settings: dict[str, object]) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_study_is_valid_and_named_like_its_file(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert study.groups[-1:] == ([] if name == "toy" else ["control"])


def test_the_studies_that_were_promised_ship() -> None:
    sizes = ("270m", "1b", "4b", "12b", "27b")
    promised = {"toy", "gemma-2-9b-it", "gemma-2-2b-it", "qwen2.5-7b-instruct", "smollm2-135m-instruct"}
    assert promised | {f"gemma-3-{size}-it" for size in sizes} == set(shipped_studies())


def test_the_post_s_settings() -> None:
    study = load_study("gemma-2-9b-it")
    assert (study.child.lora.rank, study.child.lora.alpha, study.child.lora.rslora) == (16, 32, True)
    assert (study.child.training.batch_size, study.child.training.accumulation) == (24, 3)
    assert study.child.training.learning_rate == 2e-4
    assert study.filter.train_rows == 10_000
    assert study.layers == (9, 20, 31)


def test_the_paper_s_settings() -> None:
    study = load_study("qwen2.5-7b-instruct")
    assert (study.child.lora.rank, study.child.lora.alpha, study.child.lora.dropout) == (8, 8, 0)
    assert (study.child.training.batch_size, study.child.training.accumulation) == (22, 3)
    assert study.child.training.warmup == 5
    assert (study.teacher.method, study.filter.completion, study.numbers.top_p) == ("prompt", "verbatim", 1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"animals": ["../owl"]}, "animals.0"),
        ({"animals": ["<b>owl</b>"]}, "animals.0"),
        ({"animals": ["control"]}, "names a group"),
        ({"animals": ["owl", "owl"]}, "twice"),
        ({"animals": ["gnu"]}, "preferences.candidates"),
        ({"layers": [-1]}, "layers.0"),
        ({"name": "../escape"}, "name"),
        ({"colour": "red"}, "colour: no such field; allowed are name, description"),
        ({"filter": {"train_rows": 1000}}, "raise numbers.prompts or ask for fewer rows"),
        ({"teacher": {"method": "finetune"}}, "needs lora and training"),
        ({"teacher": {"method": "prompt", "instruction": "like it"}}, "{animal}"),
        ({"teacher": {"method": "hypnosis"}}, "teacher.method"),
        ({"child": {"channels": ["soft"], "lora": {"rank": 1, "alpha": 1}, "training": {}}}, "channels"),
        ({"base_model": {"kind": "hub", "repo": "a/b", "revision": "main", "dtype": "float32"}}, "revision"),
        ({"seed": "one"}, "seed"),
    ],
)
def test_a_wrong_study_is_explained(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = write(tmp_path, tiny_study_settings(tmp_path) | change)
    with pytest.raises(UserError) as caught:
        load_study(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_unknown_nested_field_names_the_allowed_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such field; allowed are learning_rate"):
        load_study(write(tmp_path, tiny_study_settings(tmp_path)), ["child.training.epoch=5"])


def test_unknown_study_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match="smollm2-135m-instruct"):
        load_study("gemma-9")
    with pytest.raises(UserError, match="no study file"):
        load_study("nowhere/mine.yaml")


def test_not_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: [")
    with pytest.raises(UserError, match="not a readable YAML"):
        load_study(path)
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="not a readable YAML"):
        load_study(path)


def test_one_setting_is_overridden(tmp_path: Path) -> None:
    path = write(tmp_path, tiny_study_settings(tmp_path))
    study = load_study(path, ["child.training.epochs=7", "animals=[owl]", "tiny:seed=11", "other:seed=12"])
    assert (study.child.training.epochs, study.animals, study.seed) == (7, ("owl",), 11)
    with pytest.raises(UserError, match="field=value"):
        load_study(path, ["epochs 7"])


def test_a_study_is_immutable(tiny_study: Study) -> None:
    with pytest.raises(ValueError, match="frozen"):
        tiny_study.seed = 4  # type: ignore[misc]
