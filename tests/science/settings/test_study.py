"""Study files: what ships is valid, and what is wrong is said with file, field and what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_studies import inside_settings, tiny_study_settings

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.base import user_files
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.settings.study_file import STUDIES, load_study, shipped_studies
from subliminal_dagster.science.settings.yaml_text import load_yaml


def write(folder: Path, settings: dict[str, object]) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_study_is_valid_and_named_like_its_file(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert study.groups[-1:] == ([] if name in ("toy", "dial") else ["control"])


def test_the_studies_that_were_promised_ship() -> None:
    sizes = ("270m", "1b", "4b", "12b", "27b")
    promised = {"toy", "dial", "gemma-2-9b-it", "gemma-2-2b-it", "qwen2.5-7b-instruct", "smollm2-135m-instruct"}
    promised |= {"llama-3.2-1b-instruct", "qwen3-4b"}
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


def read(folder: Path, text: str, *overrides: str) -> AnyStudy:
    (folder / "s.yaml").write_text(text, encoding="utf-8")
    return load_study(folder / "s.yaml", overrides)


def bundled() -> str:
    return (STUDIES / "smollm2-135m-instruct.yaml").read_text(encoding="utf-8")


def test_a_key_given_twice_is_named_with_its_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the key 'seed' stands in line \d+ and again in line \d+"):
        read(tmp_path, bundled() + "\nseed: 2\n")
    with pytest.raises(UserError, match="the key 'train_rows' stands"):
        read(tmp_path, bundled().replace("filter:\n", "filter:\n  train_rows: 8\n"))
    assert load_yaml("a: &x {b: 1}\nc:\n  <<: *x\n  b: 2") == {"a": {"b": 1}, "c": {"b": 2}}


def test_yaml_reads_numbers_and_truth_values_as_they_are_meant() -> None:
    read_as = {"1e-4": 1e-4, "-2.5e3": -2500.0, "1.": 1.0, "12": 12, "true": True, "~": None, ".inf": float("inf")}
    texts = ["010", "1_000", "12:30", "no", "on", "0x1F", "2026-01-01"]
    assert {text: load_yaml(text) for text in [*read_as, *texts]} == read_as | {text: text for text in texts}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed=true", "seed is True, not a whole number"),
        ("child.training.epochs=2.5", "epochs is 2.5, not a whole number"),
        ("child.training.epochs=2.0", "epochs is 2.0, not a whole number"),
        ("child.training.epochs=010", "epochs is '010', not a whole number"),
        ("child.training.learning_rate='1'", "learning_rate is '1', not a number"),
        ("layers=[true]", "layers is True, not a whole number"),
        ("preferences.candidates=[cat, owl, cat]", "preferences: candidates names cat twice: leave out the second$"),
    ],
)
def test_a_number_is_a_number_and_a_candidate_stands_once(setting: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_study("smollm2-135m-instruct", [setting])


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-2-9b-it", "toy"])
def test_no_list_of_a_study_holds_a_value_twice(name: str) -> None:
    study = load_study(name)
    lists = dict(_lists(study.model_dump(), ""))
    assert len(lists) >= 4
    for field, values in lists.items():
        doubled = json.dumps([*values, values[0]])
        with pytest.raises(UserError, match=rf"names {re.escape(str(values[0]))}(\.0)? twice: leave out the second"):
            load_study(name, [f"{field}={doubled}"])


def _lists(content: dict[str, Any], path: str) -> Iterator[tuple[str, list[Any]]]:
    """Every list of a study that may have any length, by its field."""
    for field, value in content.items():
        if isinstance(value, dict):
            yield from _lists(value, f"{path}{field}.")
        elif isinstance(value, tuple) and value and f"{path}{field}" not in RANGES:
            yield f"{path}{field}", list(value)


RANGES = {f"tuning.search.{name}" for name in ("learning_rate", "dropout", "rank")}


@pytest.mark.parametrize("escape", ["\\0", "\\ud800"])
def test_a_text_that_cannot_be_written_is_refused(escape: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 2 holds .* no text may hold|line 2, column \d+ found invalid"):
        read(tmp_path, f'name: tiny\nsystem_prompt: "be {escape} brief"\n')


def test_a_number_may_be_written_with_an_exponent() -> None:
    study = load_study("smollm2-135m-instruct", ["child.training.learning_rate=1e-4"])
    assert isinstance(study, Study) and study.child.training.learning_rate == 1e-4


def test_a_path_is_one_beside_the_study_s_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists.yaml").touch()
    monkeypatch.chdir("/")
    study = read(tmp_path, bundled() + "\nprompts: lists.yaml\n")
    assert isinstance(study, Study) and study.prompts == str(tmp_path / "lists.yaml")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "other.yaml").touch()
    monkeypatch.chdir(tmp_path / "here")
    study = read(tmp_path, bundled(), "prompts=other.yaml")
    assert isinstance(study, Study) and study.prompts == str(tmp_path / "here" / "other.yaml")


def test_the_files_that_a_study_names_are_known(tmp_path: Path) -> None:
    (tmp_path / "lists.yaml").write_text("")
    settings = inside_settings(tmp_path / "model", tmp_path / "prose.txt")
    settings |= {"prompts": "lists.yaml", "system_prompt": "/no_think", "description": "/home/me"}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert user_files(load_study(path)) == {
        "base_model.path": str(tmp_path / "model"),
        "prompts": str(tmp_path / "lists.yaml"),
        "sae.corpus.path": str(tmp_path / "prose.txt"),
    }
    assert not any(user_files(load_study(name)) for name in shipped_studies())


def test_another_seed_is_a_study_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(bundled())
    own = load_study(path)
    name, seed = own.name, own.seed
    for study in (
        load_study(path, seed=seed + 6),
        load_study(tmp_path / f"mine-seed{seed + 6}.yaml"),
        load_study(path, ["seed=99"], seed=seed + 6),
    ):
        assert (study.name, study.seed) == (f"{name}-seed{seed + 6}", seed + 6)
        assert study.model_dump(exclude={"name", "seed"}) == own.model_dump(exclude={"name", "seed"})
    assert load_study(path, seed=seed) == load_study(tmp_path / f"mine-seed{seed}.yaml") == own
    assert load_study("toy-seed7").name == "toy-seed7" and load_study("toy-seed7").seed == 7
    # A setting for the study counts for it with any seed, one for this seed for it alone.
    for scope, epochs in ((name, 7), (f"{name}-seed8", 7), (f"{name}-seed9", own.child.training.epochs)):  # type: ignore[union-attr]
        study = load_study(path, [f"{scope}:child.training.epochs=7"], seed=8)
        assert isinstance(study, Study) and study.child.training.epochs == epochs
    # A file of that very name is what it says.
    (tmp_path / "mine-seed7.yaml").write_text(bundled())
    assert load_study(tmp_path / "mine-seed7.yaml") == own
    for missing in ("gnu-seed7", str(tmp_path / "other-seed7.yaml")):
        with pytest.raises(UserError, match=f"There is no study .*{missing}"):
            load_study(missing)
