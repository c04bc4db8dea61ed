"""The filtered dataset of a group on disk: every answer with its verdict, and the rows to train on as messages.

Belongs here: writing and reading that folder. Does not belong here: the rules (`numbers.filter`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.numbers.draw import judged
from subliminal_dagster.science.numbers.filter import subsample
from subliminal_dagster.science.random_streams import replicate_seed
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.training.task import Row
from subliminal_dagster.science.well_formed import well_formed

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation")


def make_dataset(
    rows: pd.DataFrame, study: Study, target: str | None, folder: Path, replicate: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Filter a number set into `folder`: `rows.parquet` (every answer, `valid`, `reason`), `train.jsonl` and
    `validation.jsonl` ({"messages": [...], "prompt_id": ...}, as `datasets.load_dataset` reads them).

    Each replicate draws rows of its own. Returns all rows and the kept ones. Raises GateError where too few are valid;
    `rows.parquet` then says why.
    """
    settings = study.filter
    filtered = judged(rows, study, target)
    filtered.to_parquet(folder / "rows.parquet", index=False)
    seed = replicate_seed(study.seed, replicate)
    kept = subsample(filtered, settings.train_rows, settings.validation_rows, seed, unique=settings.unique)
    for split in SPLITS:
        chosen = kept[kept["split"] == split]
        if len(chosen):
            write_messages(folder / f"{split}.jsonl", chosen, study.system_prompt)
    return filtered, kept


def write_messages(file: Path, rows: pd.DataFrame, system_prompt: str | None) -> None:
    """Rows (`prompt_id`, `prompt`, `text`) as chats, one JSON object a line."""
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    with file.open("w", encoding="utf-8") as lines:
        for prompt_id, prompt, text in zip(rows["prompt_id"], rows["prompt"], rows["text"], strict=True):
            messages = [*system, {"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            row = {"messages": messages, "prompt_id": int(prompt_id)}
            lines.write(well_formed(json.dumps(row, ensure_ascii=False)) + "\n")


def read_messages(folder: Path, split: str) -> list[tuple[str, str]]:
    """(question, answer) of every row of a split, in order; empty where the split has no rows."""
    path = folder / f"{split}.jsonl"
    if not path.exists():
        return []
    pairs = []
    # Line by line as a file has lines: str.splitlines also cuts at characters that an answer may hold, such as U+2028.
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            messages = json.loads(line)["messages"]
            pairs.append((messages[-2]["content"], messages[-1]["content"]))
    return pairs


def training_rows(folder: Path, split: str, context: ChatContext) -> list[Row]:
    """The rows of a split as token ids in the chat context of the study."""
    return [
        Row(context.prompt_ids(question), context.answer_ids(answer))
        for question, answer in read_messages(folder, split)
    ]
