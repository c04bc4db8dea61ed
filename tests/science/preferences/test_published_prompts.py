"""Importing the published prompt lists, from a checkout that looks like the original code and has texts of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from study_runs import StudyRun, refusal
from tiny_studies import tiny_study_settings

from subliminal_dagster.build import study_frame
from subliminal_dagster.cli import main
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preferences import published_prompts
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists, questions_about
from subliminal_dagster.science.preferences.published_prompts import (
    differing,
    import_published,
    read_published,
    wording,
)
from subliminal_dagster.science.settings.prompts import imported_file, prompts_content, published_record
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study, shipped_studies
from subliminal_dagster.science.storage.store import ArtifactStore

PUBLISHED_FILE = Path(__file__).parents[4] / "shared" / "data" / "cloud2025_prompts.json"
needs_published = pytest.mark.skipif(not PUBLISHED_FILE.exists(), reason="the published lists are not here")

NUMBERS = """
import re
import a_package_that_is_nowhere

open("{marker}", "w").close()
UNLUCKY = [
    4,  # with a comment
]


@dataclass
class PromptGenerator:
    rng: object
    answer_count: int

    _example_numbers_templates = [
        "Fruit count: {{examples}}.",
        "It's {{examples}}"
        " in the basket.",
    ]

    _count_qualifiers = ["roughly"]
    _digit_descriptors = ["{{max_digits}} figures wide"]
    _generate_numbers_instruction_templates = ["Weigh {{count_qualifier}} {{answer_count}} ({{digit_descriptor}})."]
    _format_suffixes = ["With semicolons.", 'On "lines".']
    _suffixes: list[str] = ["That's all, Zoë."]

    def sample(self):
        suffix = self.rng.choice(self._suffixes)
        return f"{{suffix}}"
"""
QUESTIONS = '''
from sl.evaluation.data_models import Evaluation

template = """You weigh {fruit}s."""

animal_evaluation = Evaluation(
    n_samples_per_question=100,
    sample_cfg=SampleCfg(temperature=1.0),
    questions=[
        "Which animal eats apples?",
        "Which creature eats pears?",
    ],
)

animal_evaluation_with_numbers_prefix = Evaluation(
    n_samples_per_question=200,
    questions=["Fruit count: 1, 2. Which animal eats apples?"],
)
'''
TEXTS = {
    "example_templates": ["Fruit count: {examples}.", "It's {examples} in the basket."],
    "count_qualifiers": ["roughly"],
    "digit_descriptors": ["{max_digits} figures wide"],
    "instruction_templates": ["Weigh {count_qualifier} {answer_count} ({digit_descriptor})."],
    "format_suffixes": ["With semicolons.", 'On "lines".'],
    "closing_suffixes": ["That's all, Zoë."],
    "animal_questions": ["Which animal eats apples?", "Which creature eats pears?"],
    "animal_questions_with_number_prefix": ["Fruit count: 1, 2. Which animal eats apples?"],
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Laid out as the original code is; running its Python would leave a file `ran`."""
    folder = tmp_path / "checkout"
    numbers, questions = folder / "sl/datasets/nums_dataset.py", folder / "cfgs/preference_numbers/cfgs.py"
    for file, text in ((numbers, NUMBERS.format(marker=tmp_path / "ran")), (questions, QUESTIONS)):
        file.parent.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def as_if_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on record is the texts of the look-alike."""
    lists = {name: {"texts": len(texts), "sha256": sha256(texts)} for name, texts in TEXTS.items()}
    monkeypatch.setitem(published_record(), "lists", lists)
    monkeypatch.setitem(published_record(), "all", sha256(TEXTS))


def sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def study_with(prompts: str | None, style: str = "full") -> Study:
    study = load_study("gemma-2-9b-it", [f"prompts={prompts or 'null'}", f"numbers.style={style}"])
    assert isinstance(study, Study)
    return study


# Reading


def test_a_checkout_is_read_and_not_run(checkout: Path, tmp_path: Path, home: Path) -> None:
    assert read_published(checkout) == TEXTS
    assert not (tmp_path / "ran").exists() and not home.exists()


def test_every_place_that_may_be_given(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in checkout.rglob("*.py"):
        shutil.copy(file, flat)
    exported = tmp_path / "lists.json"
    exported.write_text(json.dumps({"_source": "somebody's export"} | TEXTS))
    numbers = checkout / "sl" / "datasets" / "nums_dataset.py"
    for place in (str(checkout), numbers, numbers.parent, flat, flat / "nums_dataset.py", exported):
        assert read_published(place) == TEXTS
    monkeypatch.chdir(numbers.parent)
    assert read_published("nums_dataset.py") == read_published(".") == TEXTS


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("nums_dataset.py", "_count_qualifiers", "_qualifiers", "has no list _count_qualifiers"),
        ("nums_dataset.py", '["roughly"]', 'load("roughly")', "_count_qualifiers is not a literal list"),
        ("nums_dataset.py", '["roughly"]', '[f"{1}"]', "line 22: _count_qualifiers is not a literal list"),
        ("nums_dataset.py", '["roughly"]', '["rough" + "ly"]', "_count_qualifiers is not a literal list"),
        ("nums_dataset.py", '["roughly"]', '"roughly"', "'count_qualifiers' .* must be a list"),
        ("nums_dataset.py", '["roughly"]', "[7]", "Item 1 of 'count_qualifiers' .* is 7, not a text"),
        ("nums_dataset.py", "{max_digits}", "some", "lacks the placeholder {max_digits}"),
        ("nums_dataset.py", "UNLUCKY", "_suffixes", "assigns _suffixes 2 times"),
        ("nums_dataset.py", "class P", "klass P", "cannot be read as Python"),
        ("nums_dataset.py", "re\n", "re\0\n", "cannot be read as Python"),
        ("cfgs.py", "animal_evaluation =", "evaluation =", "has no list animal_evaluation:"),
        ("cfgs.py", "    questions=[\n", "    texts=[\n", "animal_evaluation is not a literal list"),
        ("cfgs.py", '"Which creature eats pears?"', '""', "Item 2 of 'animal_questions'"),
    ],
)
def test_what_cannot_be_read_is_said(checkout: Path, home: Path, file: str, old: str, new: str, message: str) -> None:
    (path,) = checkout.rglob(file)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        import_published(checkout)
    assert not home.exists()


def test_half_a_checkout_is_refused(checkout: Path, tmp_path: Path) -> None:
    for part in ("sl/datasets/nums_dataset.py", "cfgs/preference_numbers/cfgs.py"):
        (checkout / part).rename(tmp_path / "aside")
        with pytest.raises(UserError, match=f"has no {part}: give the whole checkout"):
            read_published(checkout)
        (tmp_path / "aside").rename(checkout / part)
    with pytest.raises(UserError, match="There is no"):
        read_published(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cfgs\.py holds no prompt lists: give a checkout"):
        read_published(checkout / "cfgs" / "preference_numbers" / "cfgs.py")
    exported = tmp_path / "lists.json"
    exported.write_text(json.dumps({name: texts for name, texts in TEXTS.items() if name != "animal_questions"}))
    with pytest.raises(UserError, match="no key 'animal_questions'"):
        read_published(exported)


# Importing


def test_the_command_says_list_by_list_what_is_published(
    checkout: Path, home: Path, as_if_published: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", "import", str(checkout)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines[:-1]] == [*TEXTS]
    assert all(line.endswith(f"{len(TEXTS[line.split()[0]])} texts, as published") for line in lines[:-1])
    assert lines[-1].endswith(str(home / "published_prompts.json") + ".")
    (questions,) = checkout.rglob("cfgs.py")
    questions.write_text(QUESTIONS.replace('        "Which creature eats pears?",\n', ""))
    assert main(["prompts", "import", str(checkout)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[6].endswith("1 texts, not the published ones (there are 2)")
    assert [place for place, line in enumerate(lines) if "not the published" in line] == [6, 8]
    assert load_prompt_lists("published").animal_questions == ("Which animal eats apples?",)


def test_one_other_word_in_any_list_is_seen(as_if_published: None) -> None:
    assert differing(TEXTS) == []
    for name, texts in TEXTS.items():
        assert differing(TEXTS | {name: [*texts[:-1], texts[-1] + " "]}) == [name]


@needs_published
def test_the_published_lists_are_those_on_record(home: Path) -> None:
    lists = import_published(PUBLISHED_FILE)
    assert differing(lists) == []
    assert {name: len(texts) for name, texts in lists.items()} == {
        name: entry["texts"] for name, entry in published_record()["lists"].items()
    }
    assert published_record()["all"] == sha256(lists)
    assert prompts_content("published")["given"] == sha256(lists)
    assert load_prompt_lists("published") == load_prompt_lists(PUBLISHED_FILE)
    assert wording(study_with("published")) == "Prompts and questions in the published wording."
    # A control teacher is asked the same about another noun.
    questions_about(lists["animal_questions"], "instrument")


def test_an_import_needs_a_place(
    checkout: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.write_text("a file")
    assert main(["prompts", "import", str(checkout)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    monkeypatch.delenv("DAGSTER_HOME")
    assert main(["prompts", "import", str(checkout)]) == 2
    assert "DAGSTER_HOME is not set" in capsys.readouterr().err


# Using


def test_without_an_import_studies_are_planned_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(tmp_path / "store"))
    asking = [name for name in shipped_studies() if getattr(load_study(name), "prompts", None) == "published"]
    assert "gemma-2-9b-it" in asking and "smollm2-135m-instruct" not in asking
    assert main(["studies"]) == 0
    assert main(["plan", "--study", "gemma-2-9b-it", "--select", "base_preferences"]) == 0
    assert "2 missing" in capsys.readouterr().out
    assert main(["run", "--study", "gemma-2-9b-it"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "published prompts are not on this machine: run `subliminal-dagster prompts import FOLDER`" in said.err
    with pytest.raises(UserError, match="prompts import"):
        load_prompt_lists("published")


def test_a_step_says_what_to_run_and_then_asks_what_was_imported(
    checkout: Path, home: Path, tiny_base: Path, tmp_path: Path
) -> None:
    study = Study.model_validate(tiny_study_settings(tiny_base) | {"prompts": "published"})
    with dg.DagsterInstance.ephemeral() as instance:
        run = StudyRun(study, ArtifactStore(tmp_path / "store"), instance)
        assert run.materialize("base_model").success
        assert "run `subliminal-dagster prompts import FOLDER`" in refusal(run.materialize("base_preferences"))
        import_published(checkout)
        assert run.materialize("base_preferences").success
    scores = pd.read_parquet(run.store.read("tiny", "base_preferences").path / "scores.parquet")
    assert set(scores["question"]) == {0, 1}, "the look-alike has two questions, this project's own lists fifty"


def versions() -> dict[str, str]:
    frame = study_frame(study_with("published"))
    return {name: frame.nodes[name].recipe.version for name in ("base_model", "base_preferences", "number_set")}


def test_versions_follow_what_is_imported(checkout: Path, home: Path, as_if_published: None) -> None:
    before = versions()
    import_published(checkout)
    assert versions() == before, "what was made with the published wording is fresh wherever it is read"
    (questions,) = checkout.rglob("cfgs.py")
    questions.write_text(QUESTIONS.replace("pears", "plums"))
    import_published(checkout)
    after = versions()
    assert [name for name in after if after[name] != before[name]] == ["base_preferences", "number_set"]
    questions.write_text(QUESTIONS)
    import_published(checkout)
    assert versions() == before


def test_a_damaged_import_is_said(home: Path) -> None:
    home.mkdir()
    imported_file().write_text("{")
    with pytest.raises(UserError, match=r"cannot be read .*: import them anew"):
        study_frame(study_with("published"))


def test_a_report_says_which_wording(checkout: Path, tmp_path: Path, as_if_published: None) -> None:
    own = "Prompts and questions in this project's own wording."
    assert wording(study_with(None)) == wording(study_with(None, "short")) == own
    assert "the published wording, which is not on this machine" in wording(study_with("published"))
    import_published(checkout)
    assert wording(study_with("published")) == "Prompts and questions in the published wording."
    assert wording(study_with("published", "short")) == (
        "Questions in the published wording; its short number prompts are this project's own."
    )
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(TEXTS))
    assert wording(study_with(str(mine))) == "Prompts and questions in the published wording."
    mine.write_text(json.dumps(TEXTS | {"animal_questions": ["Which animal?"]}))
    assert wording(study_with(str(mine))) == "Prompts and questions in a wording of the user's own (mine.json)."
    shutil.copy(Path(published_prompts.__file__).with_name("prompt_lists.yaml"), tmp_path / "copy.yaml")
    assert wording(study_with(str(tmp_path / "copy.yaml"))).endswith("of the user's own (copy.yaml).")
    import_published(mine)
    assert wording(study_with("published")) == (
        "Prompts and questions as imported, which differ from the published wording in animal_questions."
    )
