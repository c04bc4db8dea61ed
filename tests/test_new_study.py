"""A study file that the command writes for a user: it loads, it can be planned, and it says what is wrong instead."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hub_server import HEAD, Hub, hub_server
from jsonschema import Draft202012Validator

from subliminal_dagster.cli import main
from subliminal_dagster.science.settings.schema import SCHEMA_FILE
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.settings.yaml_text import load_yaml

Capture = pytest.CaptureFixture[str]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEW = ["new-study", "mine.yaml"]
GIVEN = ["--model", "smollm2-135m-instruct", "--animals", "owl,cat,fox", "--size", "small"]


class Terminal(io.StringIO):
    """What a user types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


def test_a_new_study_can_be_planned_at_once(folder: Path, capsys: Capture) -> None:
    assert main(["new-study", "other.yaml", *GIVEN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["study"] == "other"
    assert main([*NEW, *GIVEN]) == 0
    assert "plan --study mine.yaml" in capsys.readouterr().out
    assert main(["plan", "--study", "mine.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("mine: ")
    study, shipped = load_study("mine.yaml"), load_study("smollm2-135m-instruct")
    assert study.animals == ("owl", "cat", "fox") and study.groups[-2:] == ["neutral", "control"]
    alike = ("base_model", "system_prompt", "teacher", "numbers", "filter", "child", "layers", "sae", "steering")
    assert [name for name in alike if getattr(study, name) != getattr(shipped, name)] == []


@pytest.mark.parametrize("size", ["small", "paper"])
@pytest.mark.parametrize("model", ["google/gemma-2-2b-it", "qwen2.5-7b-instruct", f"acme/a-model@{COMMIT}"])
def test_each_model_and_size_gives_a_file_that_editors_accept(folder: Path, model: str, size: str) -> None:
    assert main([*NEW, "--model", model, "--animals", "owl,hippopotamus", "--size", size]) == 0
    text = (folder / "mine.yaml").read_text()
    assert text.splitlines()[0].endswith(SCHEMA_FILE.as_uri()) and text.count("\n# ") > 5
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert [error.message for error in Draft202012Validator(schema).iter_errors(load_yaml(text))] == []
    study = load_study("mine.yaml")
    assert (study.filter.train_rows == 10_000) == (size == "paper")
    shipped = {"google/gemma-2-2b-it": "gemma-2-2b-it", "qwen2.5-7b-instruct": "qwen2.5-7b-instruct"}.get(model)
    if shipped is None:
        assert (study.base_model.repo, study.base_model.revision, study.layers) == ("acme/a-model", COMMIT, ())
    else:
        assert study.base_model == load_study(shipped).base_model
        # What is looked into inside is known for the sizes that ship.
        assert study.layers == (load_study(shipped).layers if size == "paper" else ())


def test_a_folder_is_a_model(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"torch_dtype": "float16"}')
    assert main([*NEW, "--model", "model", "--animals", "owl,cat", "--size", "small"]) == 0
    source = load_study("mine.yaml").base_model
    assert (source.kind, source.path, source.dtype) == ("local", str(folder / "model"), "float16")


def test_another_category(folder: Path) -> None:
    trees = ["--model", "qwen2.5-7b-instruct", "--animals", "oak,pine", "--size", "paper", "--category", "tree,trees"]
    assert main([*NEW, *trees]) == 0
    study = load_study("mine.yaml")
    assert study.category.plural == "trees" and study.preferences.candidates == ("oak", "pine")
    assert study.preferences.begun[1] == "Of all trees, I like the"
    assert study.teacher.instruction.startswith("The {animal} is the tree you adore")


def test_what_is_not_given_is_asked_for_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("\nowl, cat\nsmall\n"))
    assert main(NEW) == 0
    asked = capsys.readouterr().out
    assert "Base model" in asked and "Animals, with commas" in asked and "Size" in asked
    assert load_study("mine.yaml").animals == ("owl", "cat")


def refused(arguments: list[str], capsys: Capture) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_file_is_never_overwritten(folder: Path, capsys: Capture) -> None:
    (folder / "mine.yaml").write_text("precious")
    assert "mine.yaml is there already" in refused([*NEW, *GIVEN], capsys)
    assert (folder / "mine.yaml").read_text() == "precious"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("mine.txt", {}, "it must end in .yaml"),
        ("My study.yaml", {}, "cannot name a study"),
        ("toy.yaml", {}, "a study that ships"),
        ("mine.yaml", {"--model": "toy"}, "no base model"),
        ("mine.yaml", {"--model": "nowhere"}, "There is no model 'nowhere'"),
        ("mine.yaml", {"--animals": "owl"}, "two names at least"),
        ("mine.yaml", {"--animals": "owl,owl"}, "owl twice"),
        ("mine.yaml", {"--animals": "owl,Snow Leopard"}, "cannot be an animal's name"),
        ("mine.yaml", {"--category": "tree"}, "such as tree,trees"),
        ("none/mine.yaml", {}, "cannot be written"),
    ],
)
def test_what_cannot_be_a_study_is_one_sentence(
    file: str, change: dict[str, str], said: str, folder: Path, capsys: Capture
) -> None:
    given = dict(zip(GIVEN[::2], GIVEN[1::2], strict=True)) | change
    assert said in refused(["new-study", file, *(part for pair in given.items() for part in pair)], capsys)
    assert not (folder / file).exists()


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("owl,cat\n"))
    assert "--animals is not given" in refused([*NEW, *GIVEN[:2]], capsys)


def test_a_repository_is_taken_at_its_newest_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_server(Hub({"acme/a-model": {"main"}}), monkeypatch):
        assert main([*NEW, "--model", "acme/a-model", *GIVEN[2:]]) == 0
    assert load_study("mine.yaml").base_model.revision == HEAD


def test_a_hub_that_does_not_answer_is_no_end(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    with hub_server(Hub({}, status=503), monkeypatch):
        said = refused([*NEW, "--model", "acme/a-model", *GIVEN[2:]], capsys)
    assert "acme/a-model on the Hugging Face hub could not be reached" in said and "acme/a-model@<commit>" in said
