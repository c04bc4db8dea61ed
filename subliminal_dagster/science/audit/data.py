"""A data set of chats, as somebody would train on it: read, checked, and cut to what an audit can look at.

Belongs here: files and rows. Does not belong here: token ids (`encoded`), what the rows say (`surface` and the other
detectors).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant", "tool")
_SHOWN = 60


@dataclass(frozen=True)
class Chat:
    """One row: the messages up to the last answer, that answer, and the row's number in the data set, from 0."""

    before: tuple[dict[str, str], ...]
    answer: str
    row: int


@dataclass(frozen=True)
class ChatData:
    """What is audited: `chats`, of `total` rows in all; fewer where the data set was sampled."""

    chats: tuple[Chat, ...]
    total: int

    @property
    def sampled(self) -> bool:
        return len(self.chats) < self.total


@dataclass(frozen=True)
class EncodedChat:
    """A row as token ids: `prompt` up to where the answer starts, `answer` with its end of turn."""

    prompt: list[int]
    answer: list[int]
    row: int


def read_chats(file: Path, most: int, seed: int) -> ChatData:
    """The rows of a JSON lines or parquet file in the `messages` format; a random `most` of them where there are more,
    in the file's order.

    Rows are read one at a time, and those that are kept are all that is held: memory does not grow with the data set.

    Raises UserError, with the row's number from 1, for a file that is not there, is of another kind, holds no rows, has
    a row without messages, in another chat format, or whose last message is no answer or an empty one.
    """
    if not file.exists():
        raise UserError(f"There is no data set {file}: give the path of a JSON lines (.jsonl) or parquet file.")
    if file.is_dir():
        raise UserError(f"{file} is a folder: give the path of one file in it, such as {file / 'train.jsonl'}.")
    readers = {".jsonl": _json_lines, ".json": _json_lines, ".parquet": _parquet}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"{file} is no JSON lines or parquet file: give one whose name ends in .jsonl or .parquet.")
    rng, total = np.random.default_rng(seed), 0
    kept: list[Chat] = []
    for content in reader(file):
        chat = _chat(content, total, file)
        # Vitter's reservoir: each row is kept with the same chance, however many there are.
        place = total if total < most else int(rng.integers(0, total + 1))
        if place < most:
            if total < most:
                kept.append(chat)
            else:
                kept[place] = chat
        total += 1
    if not total:
        raise UserError(f"{file} holds no rows: there is nothing to audit.")
    return ChatData(tuple(sorted(kept, key=lambda chat: chat.row)), total)


def _json_lines(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"Row {number} of {file} is no JSON ({error.msg}): write one object per line, such as "
                    '{"messages": [...]}.'
                ) from None
            except UnicodeDecodeError:
                raise UserError(f"{file} is not written in UTF-8: save it as UTF-8.") from None


def _parquet(file: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        table = pq.ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise UserError(f"{file} is not a readable parquet file: {str(error).splitlines()[0]}") from None
    if "messages" not in table.schema_arrow.names:
        names = ", ".join(table.schema_arrow.names)
        raise UserError(f"{file} has no column 'messages' (it has {names}): name the column of chats so.")
    for batch in table.iter_batches(batch_size=256, columns=["messages"]):
        yield from batch.to_pylist()


def _chat(content: Any, number: int, file: Path) -> Chat:
    where = f"Row {number + 1} of {file}"
    if not isinstance(content, dict) or "messages" not in content:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        hint = _other_format(content)
        raise UserError(f"{where} has no 'messages' (it has {found[:_SHOWN]}): {hint}")
    messages = content["messages"]
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where} has no list of messages: write [{{'role': 'user', 'content': ...}}, ...].")
    turns = [_message(message, where) for message in messages]
    if turns[-1]["role"] != "assistant":
        raise UserError(f"{where} ends with the {turns[-1]['role']}'s turn: its last message has to be the answer.")
    if not turns[-1]["content"].strip():
        raise UserError(f"{where} has an empty answer: leave such rows out.")
    if len(turns) == 1:
        raise UserError(f"{where} has an answer and nothing that it answers: put the user's message before it.")
    return Chat(tuple(turns[:-1]), turns[-1]["content"], number)


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict) or not {"role", "content"} <= set(message):
        raise UserError(
            f"{where} has a message without 'role' and 'content': write each as {{'role': 'user', 'content': 'text'}}."
        )
    role, text = message["role"], message["content"]
    if role not in ROLES:
        raise UserError(f"{where} has a message of {str(role)[:_SHOWN]!r}: a role is one of {', '.join(ROLES)}.")
    if not isinstance(text, str):
        raise UserError(f"{where} has a message whose content is no text: an audit reads text alone.")
    return {"role": str(role), "content": text}


def _other_format(content: Any) -> str:
    keys = set(content) if isinstance(content, dict) else set()
    if "conversations" in keys:
        return "rewrite 'conversations' with 'from' and 'value' as 'messages' with 'role' and 'content'."
    if {"prompt", "completion"} <= keys or {"instruction", "output"} <= keys:
        return "rewrite each pair as two messages, of the user and of the assistant."
    return "write each row as {'messages': [{'role': 'user', 'content': ...}, {'role': 'assistant', ...}]}."


def encoded(
    chats: Sequence[Chat],
    tokenizer: PreTrainedTokenizerBase,
    end_of_turn: int,
    longest: int,
    instruction: str | None = None,
) -> list[EncodedChat]:
    """Rows as the model's chat template writes them, with an `instruction` in the system message, if there is one.

    Where the template has no system role, the instruction stands in front of the first turn.

    Raises UserError where a row is longer than `longest` tokens, naming it, and where the template refuses the roles.
    """
    found = []
    for chat in chats:
        prompt = tokenizer.encode(_written(chat, tokenizer, instruction), add_special_tokens=False)
        answer = [*tokenizer.encode(chat.answer, add_special_tokens=False), end_of_turn]
        if len(prompt) + len(answer) > longest:
            raise UserError(
                f"Row {chat.row + 1} has {len(prompt) + len(answer):,} tokens, and the model takes {longest:,}: leave "
                "out or cut such rows."
            )
        found.append(EncodedChat(prompt, answer, chat.row))
    return found


def _written(chat: Chat, tokenizer: PreTrainedTokenizerBase, instruction: str | None) -> str:
    from jinja2.exceptions import TemplateError

    def text(messages: Sequence[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template([*messages], tokenize=False, add_generation_prompt=True))

    first, *rest = chat.before
    try:
        if instruction is None:
            return text(chat.before)
        if first["role"] == "system":
            return text([_joined(instruction, first), *rest])
        try:
            return text([{"role": "system", "content": instruction}, *chat.before])
        except TemplateError:
            return text([_joined(instruction, first), *rest])
    except TemplateError as error:
        raise UserError(
            f"Row {chat.row + 1} cannot be written by the model's chat template ({error}): leave out what it does "
            "not take, such as a system message."
        ) from None


def _joined(instruction: str, turn: dict[str, str]) -> dict[str, str]:
    return {**turn, "content": "\n\n".join(part for part in (instruction, turn["content"]) if part)}
