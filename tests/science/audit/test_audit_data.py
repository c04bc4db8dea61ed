"""Data sets of others: read whole or sampled, and refused with one sentence where they cannot be audited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_models import save_tiny_model

from subliminal_dagster.science.audit.data import encoded, read_chats
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer


def row(question: str = "Go on: 1, 2", answer: str = "3, 4") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows), encoding="utf-8")
    return path


def test_json_lines_and_parquet_give_the_same(tmp_path: Path) -> None:
    rows = [row(answer=f"{number}") for number in range(5)]
    lines = read_chats(written(tmp_path / "rows.jsonl", rows), 100, 0)
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    assert read_chats(tmp_path / "rows.parquet", 100, 0) == lines
    assert [chat.answer for chat in lines.chats] == ["0", "1", "2", "3", "4"]
    assert [chat.row for chat in lines.chats] == [0, 1, 2, 3, 4]
    assert (lines.total, lines.sampled) == (5, False)


def test_a_large_data_set_is_sampled_in_its_order_each_row_as_likely_as_another(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", [row(answer=f"{number}") for number in range(40)])
    seen = np.zeros(40)
    for seed in range(200):
        data = read_chats(file, 10, seed)
        places = [chat.row for chat in data.chats]
        assert places == sorted(set(places))
        assert (len(places), data.total, data.sampled) == (10, 40, True)
        seen[places] += 1
    # 200 draws of a chance of 1/4: 50, give or take 6.
    assert seen.min() > 25
    assert seen.max() < 75
    assert read_chats(file, 10, 3) == read_chats(file, 10, 3)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "holds no rows"),
        ([row(), {"text": "3, 4"}], "Row 2 of"),
        ([{"conversations": [{"from": "human", "value": "1"}]}], "rewrite 'conversations'"),
        ([{"prompt": "1", "completion": "2"}], "rewrite each pair as two messages"),
        ([{"messages": []}], "no list of messages"),
        ([{"messages": [{"role": "user", "content": "1"}]}], "ends with the user's turn"),
        ([{"messages": [{"role": "assistant", "content": "1"}]}], "nothing that it answers"),
        ([row(answer=" ")], "has an empty answer"),
        ([{"messages": [{"role": "human", "content": "1"}]}], "a message of 'human'"),
        ([{"messages": [{"from": "user", "value": "1"}]}], "without 'role' and 'content'"),
        ([{"messages": [{"role": "user", "content": [{"type": "image"}]}]}], "whose content is no text"),
        (["just a text"], "it has str"),
    ],
)
def test_what_is_no_data_set_of_chats_is_refused(tmp_path: Path, rows: list[Any], sentence: str) -> None:
    file = written(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError) as refused:
        read_chats(file, 10, 0)
    assert sentence in str(refused.value)
    assert str(file) in str(refused.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    half = tmp_path / "half.jsonl"
    half.write_text(json.dumps(row()) + '\n{"messages": [', encoding="utf-8")
    other = tmp_path / "rows.csv"
    other.write_text("a,b\n")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    columns = tmp_path / "columns.parquet"
    pd.DataFrame({"text": ["a"]}).to_parquet(columns)
    for file, sentence in [
        (tmp_path / "none.jsonl", "There is no data set"),
        (tmp_path, "is a folder"),
        (other, "no JSON lines or parquet file"),
        (half, "Row 2 of"),
        (broken, "not a readable parquet file"),
        (columns, "has no column 'messages' (it has text)"),
    ]:
        with pytest.raises(UserError) as refused:
            read_chats(file, 10, 0)
        assert sentence in str(refused.value)


def test_rows_are_encoded_as_the_chat_template_writes_them(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_tiny_model(tmp_path / "model"))
    context = ChatContext(tokenizer)
    data = read_chats(written(tmp_path / "rows.jsonl", [row("a question", "an answer")]), 10, 0)
    (found,) = encoded(data.chats, tokenizer, context.end_of_turn, 500)
    assert found.prompt == context.prompt_ids("a question")
    assert found.answer == context.answer_ids("an answer")
    with pytest.raises(UserError, match=r"Row 1 has .* tokens, and the model takes 5"):
        encoded(data.chats, tokenizer, context.end_of_turn, 5)
    (told,) = encoded(data.chats, tokenizer, context.end_of_turn, 500, "You love owls.")
    assert told.prompt == ChatContext(tokenizer, instruction="You love owls.").prompt_ids("a question")
    assert told.answer == found.answer
