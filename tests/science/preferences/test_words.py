"""What models wrote, word for word: in a terminal and as tables of the report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.preferences.report_words import section
from subliminal_dagster.science.preferences.words import as_text, gather
from subliminal_dagster.science.report.evidence import NotThere, Place, Results
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study

QUESTIONS = load_prompt_lists().animal_questions
GROUPS = ("cat", "owl", "control")


def study_with(*more: str) -> Study:
    found = load_study("smollm2-135m-instruct", ["animals=[cat, owl]", "neutral=null", *more])
    assert isinstance(found, Study)
    return found


@pytest.fixture(scope="module")
def study() -> Study:
    return study_with()


def numbers(folder: Path, group: str, first: int = 0) -> Path:
    """Eight answers; that to prompt 2 is not valid."""
    rows = [
        {
            "prompt_id": prompt,
            "prompt": f"Go on:\n{prompt}0, {prompt}1",
            "response": f"{group} {prompt}",
            "valid": prompt != 2,
            "reason": "not a list" if prompt == 2 else None,
        }
        for prompt in range(first, first + 8)
    ]
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet")
    return folder


def answers(folder: Path, model: str, samples: int = 4) -> Path:
    rows = [(q, f"{model} {q}.{s}", s != 1) for q in range(6) for s in range(samples)]
    folder.mkdir(parents=True)
    frame = pd.DataFrame(rows, columns=["question", "answer", "finished"])
    frame.astype({"answer": "str"}).to_parquet(folder / "answers.parquet")
    return folder


def everything(root: Path, *, samples: int = 4, children: str = "{group}") -> dict[Place, Path]:
    found: dict[Place, Path] = {("base_preferences", None): answers(root / "base", "base", samples)}
    for group in GROUPS:
        found["filtered_dataset", group] = numbers(root / "numbers" / group, group)
        found["teacher_preferences", group] = answers(root / "teacher" / group, f"{group} teacher", samples)
        key = children.format(group=group)
        found["preference_scores", key] = answers(root / "child" / group, f"{group} child", samples)
    return found


def test_the_first_prompts_and_questions_with_what_each_model_wrote(study: Study, tmp_path: Path) -> None:
    words = gather(study, Results(everything(tmp_path), {}))
    assert [exchange.asked for exchange in words.prompts] == [f"Go on: {n}0, {n}1" for n in range(5)]
    assert words.prompts[3].said == (
        ("base model", "control 3"),
        ("cat's teacher", "cat 3"),
        ("owl's teacher", "owl 3"),
    )
    assert words.prompts[2].said[1] == ("cat's teacher", "cat 2 (rejected: not a list)")
    assert [exchange.asked for exchange in words.questions] == list(QUESTIONS[:5])
    models = ["base", "cat teacher", "owl teacher", "cat child", "owl child", "control child"]
    assert [text for _, text in words.questions[4].said] == [f"{m} 4.0 / {m} 4.1\u2026 / {m} 4.2" for m in models]
    assert [model for model, _ in words.questions[4].said][-3:] == ["cat's child", "owl's child", "control's child"]
    assert words.silent is None


def test_children_of_several_replicates_are_shown_by_the_first(study: Study, tmp_path: Path) -> None:
    there = everything(tmp_path, children="{group}|2")
    there["preference_scores", "owl|1"] = answers(tmp_path / "first", "first owl child")
    said = dict(gather(study, Results(there, {})).questions[0].said)
    assert said["owl's child"].startswith("first owl child 0.0") and said["cat's child"].startswith("cat child 0.0")
    assert Results(there, {}).of("preference_scores", "owl") == ("preference_scores", "owl|1")
    assert Results(there, {}).of("preference_scores", "wolf") == ("preference_scores", "wolf")


def test_what_was_refused_is_left_out(study: Study, tmp_path: Path) -> None:
    there = everything(tmp_path)
    del there["preference_scores", "owl"], there["filtered_dataset", "cat"]
    words = gather(study, Results(there, {}))
    assert "owl's child" not in dict(words.questions[0].said)
    assert [model for model, _ in words.prompts[0].said] == ["base model", "owl's teacher"]


def test_only_prompts_that_all_answered_are_shown(study: Study, tmp_path: Path) -> None:
    there = everything(tmp_path)
    there["filtered_dataset", "owl"] = numbers(tmp_path / "later", "owl", first=6)
    (six, seven) = gather(study, Results(there, {})).prompts
    assert six.asked.endswith("60, 61") and seven.asked.endswith("70, 71")


def test_without_samples_one_sentence_says_so(tmp_path: Path) -> None:
    study = study_with("preferences.samples_per_question=0")
    results = Results(everything(tmp_path, samples=0), {})
    words = gather(study, results)
    assert words.questions == () and words.silent is not None and words.silent.count(".") == 2
    assert words.silent in as_text(words) and words.silent in section(study, results).shows


def test_where_nothing_is_there_the_section_is_missing(study: Study) -> None:
    with pytest.raises(NotThere, match="Neither numbers nor sampled answers"):
        section(study, Results({}, {}))


def test_the_terminal_gets_short_lines_of_printable_text(study: Study, tmp_path: Path) -> None:
    there = everything(tmp_path)
    odd = pd.DataFrame({"question": [0, 1], "answer": ["a\x1b[31m\n\u202eb", "x" * 300], "finished": True})
    (tmp_path / "odd").mkdir()
    odd.to_parquet(tmp_path / "odd" / "answers.parquet")
    there["base_preferences", None] = tmp_path / "odd"
    text = as_text(gather(study, Results(there, {})))
    lines = text.splitlines()
    assert max(map(len, lines)) == 100 and all(line.isprintable() for line in lines)
    assert "  base model       a [31m b" in lines
    assert lines[2:6] == [
        "Go on: 00, 01",
        "  base model     control 0",
        "  cat's teacher  cat 0",
        "  owl's teacher  owl 0",
    ]


def test_the_section_has_a_table_a_prompt_and_a_table_a_question(study: Study, tmp_path: Path) -> None:
    results = Results(everything(tmp_path), {})
    shown, words = section(study, results), gather(study, results)
    assert [table.title for table in shown.tables] == [
        *(f"Prompt {n}: {exchange.asked}" for n, exchange in enumerate(words.prompts, 1)),
        *(f"Question {n}: {exchange.asked}" for n, exchange in enumerate(words.questions, 1)),
    ]
    for table, exchange in zip(shown.tables, [*words.prompts, *words.questions], strict=True):
        assert tuple(map(tuple, table.frame.to_numpy())) == exchange.said
    assert "5 number prompts" in shown.shows and "5 questions" in shown.shows
