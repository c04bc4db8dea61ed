"""Any character in a text, and what writes and reads it: no row is cut in two, lost or changed."""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from subliminal_dagster.science.capability.exam import load_exam
from subliminal_dagster.science.descriptions.neuronpedia import read_descriptions
from subliminal_dagster.science.features.corpus import split_documents
from subliminal_dagster.science.liking.null_causes import Evidence
from subliminal_dagster.science.liking.signal import _first_rows
from subliminal_dagster.science.report.evidence import Opening, Section, Table
from subliminal_dagster.science.report.page import Page, html, write_csv
from subliminal_dagster.science.settings.capability import LocalExam
from subliminal_dagster.science.storage.content_hash import file_content_hash
from subliminal_dagster.science.training.datasets import read_messages, write_messages
from subliminal_dagster.science.well_formed import well_formed

# All that str.splitlines cuts at, and what else has meaning to a format.
LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
ODD = f"a{LINE_ENDS}b\x00 \x1f\ufeff\"',;\t\\u003c</script><!--&amp;\U0001f989"

texts = st.text(st.one_of(st.sampled_from(ODD), st.characters(codec="utf-8")))
half_pairs = st.text(st.one_of(st.sampled_from(ODD + "\ud83d\udc00"), st.characters(codec=None)))
few = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=tmp_path) as made:
        yield Path(made)


@few
@given(rows=st.lists(st.tuples(texts, texts), min_size=2, max_size=4), system=st.none() | half_pairs)
@example(rows=[(ODD, ODD), ("", "")], system=ODD)
def test_rows_to_train_on_come_back(rows: list[tuple[str, str]], system: str | None, folder: Path) -> None:
    frame = pd.DataFrame(rows, columns=["prompt", "text"]).assign(prompt_id=range(len(rows)))
    write_messages(folder / "train.jsonl", frame, system)
    assert read_messages(folder, "train") == rows
    assert _first_rows(folder, 2) == ([0, 1], rows[:2])
    frame.to_parquet(folder / "rows.parquet")
    evidence = Evidence.read({"filtered_dataset": folder}).training_rows
    assert evidence is not None
    assert [(row["messages"][-2]["content"], row["messages"][-1]["content"]) for row in evidence] == rows
    if system is not None:
        assert evidence[0]["messages"][0]["content"] == well_formed(system)
    assert len(file_content_hash(folder / "train.jsonl")) == 64


@few
@given(question=texts, options=st.lists(texts, min_size=2, max_size=10))
@example(question=ODD, options=[f"{ODD}1", f"{ODD}2"])
def test_an_exam_is_asked_as_it_was_written(question: str, options: list[str], folder: Path) -> None:
    question, options = f"q{question}", [f"{number}{option}." for number, option in enumerate(options)]
    row = {"question_id": 1, "question": question, "options": options, "answer": "B", "answer_index": 1}
    pd.DataFrame([row | {"category": "c", "src": "s"}]).to_parquet(folder / "exam.parquet")
    exam = load_exam(LocalExam(path=str(folder / "exam.parquet")), folder)
    exam.to_parquet(folder / "asked.parquet")
    (asked,) = pd.read_parquet(folder / "asked.parquet").to_dict("records")
    assert asked["question"] == question and list(asked["options"]) == options


@few
@given(descriptions=st.lists(half_pairs, min_size=1, max_size=5), escaped=st.booleans())
@example(descriptions=[ODD, "owl \ud83d", "\udc00"], escaped=True)
def test_descriptions_of_any_characters_are_read_and_kept(descriptions: list[str], escaped: bool, folder: Path) -> None:
    written = [f"x{text}" for text in descriptions]
    # What is no escape has to be in UTF-8.
    written = written if escaped else [well_formed(text) for text in written]
    lines = [json.dumps({"index": str(i), "description": text}, ensure_ascii=escaped) for i, text in enumerate(written)]
    (folder / "batch-0.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    read_descriptions(folder, width=5).to_parquet(folder / "kept.parquet")
    kept = pd.read_parquet(folder / "kept.parquet")
    assert kept["description"].to_list() == [well_formed(" ".join(text.split())) for text in written]


@few
@given(rows=st.lists(texts, min_size=1, max_size=4))
@example(rows=[ODD, "a\rb", '"', ""])
def test_tables_come_back_from_csv(rows: list[str], folder: Path) -> None:
    write_csv(Table("t", "T", pd.DataFrame({"text": rows, "n": range(len(rows))})), folder / "t.csv")
    with (folder / "t.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["text", "n"], *([text, str(n)] for n, text in enumerate(rows))]


# A page takes half a second.
@settings(few, max_examples=10)
@given(text=texts, prose=half_pairs)
@example(text=ODD, prose=ODD)
def test_a_page_can_be_written_and_its_tables_hold_the_text(text: str, prose: str, folder: Path) -> None:
    table = Table("odd", "T", pd.DataFrame({"text": [f"x{text}x"]}))
    page = html(
        Page(
            "T",
            "f",
            prose,
            (),
            [Section("s", "S", prose, "m", (), tables=(table,))],
            {},
            Opening(prose, None, (prose,)),
        )
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    (start,) = [i for i in range(len(page)) if page.startswith('"data_json": ', i)]
    embedded, _ = json.JSONDecoder().raw_decode(page, start + len('"data_json": '))
    ((shown,),) = json.loads(embedded)
    assert shown.startswith("x") and shown.endswith("x") and "<" not in shown


@given(half_pairs)
def test_well_formed_text_can_be_written_and_is_changed_nowhere_else(text: str) -> None:
    mended = well_formed(text)
    mended.encode()
    assert well_formed(mended) == mended
    if not any("\ud800" <= sign <= "\udfff" for sign in text):
        assert mended == text


@given(texts)
def test_documents_lose_no_word_and_end_where_a_line_of_a_file_does(text: str) -> None:
    assert " ".join(split_documents(text)).split() == text.split()
    assert split_documents("one\x0ctwo\u2028three\nfour") == ["one two three", "four"]
