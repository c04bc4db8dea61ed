"""The filtered dataset of a group on disk: every answer with its verdict, and the rows to train on as messages.

Belongs here: writing and reading that folder. Does not belong here: the rules (`number_filter`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from subliminal_dagster.science.chat import ChatContext
from subliminal_dagster.science.number_filter import subsample
from subliminal_dagster.science.numbers import judged
from subliminal_dagster.science.study import Study
from subliminal_dagster.science.training import Row

SPLITS = ("train", "validation")


def make_dataset(
    rows: pd.DataFrame, study: Study, target: str | None, folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Filter a number set into `folder`: `rows.parquet` (every answer, `valid`, `reason`), `train.jsonl` and
    `validation.jsonl` ({"messages": [...], "prompt_id": ...}, as `datasets.load_dataset` reads them).

    Returns all rows and the kept ones. Raises GateError where too few are valid.
    """
    settings = study.filter
    filtered = judged(rows, study, target)
    kept = subsample(filtered, settings.train_rows, settings.validation_rows, study.seed, unique=settings.unique)
    filtered.to_parquet(folder / "rows.parquet", index=False)
    system = [] if study.system_prompt is None else [{"role": "system", "content": study.system_prompt}]
    for split in SPLITS:
        chosen = kept[kept["split"] == split]
        lines = [
            json.dumps(
                {
                    "messages": [
                        *system,
                        {"role": "user", "content": prompt},
                        {"role": "assistant", "content": text},
                    ],
                    "prompt_id": int(prompt_id),
                },
                ensure_ascii=False,
            )
            for prompt_id, prompt, text in zip(chosen["prompt_id"], chosen["prompt"], chosen["text"], strict=True)
        ]
        if lines:
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return filtered, kept


def read_messages(folder: Path, split: str) -> list[tuple[str, str]]:
    """(question, answer) of every row of a split, in order; empty where the split has no rows."""
    path = folder / f"{split}.jsonl"
    if not path.exists():
        return []
    pairs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        pairs.append((messages[-2]["content"], messages[-1]["content"]))
    return pairs


def training_rows(folder: Path, split: str, context: ChatContext) -> list[Row]:
    """The rows of a split as token ids in the chat context of the study."""
    return [
        Row(context.prompt_ids(question), context.answer_ids(answer))
        for question, answer in read_messages(folder, split)
    ]
