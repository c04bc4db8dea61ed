"""What arms are made of: every teacher's valid answers, and what the base model would have written in their place.

A *divergence token* is one that the teacher wrote and the base model, given all before it, would not have chosen
(Schrodi et al. 2025, arXiv 2509.23886; there against other teachers, here against the base, as in Long 2026). What the
teacher wrote is its own choice at temperature 0, which is what the shipped study draws at, and a sample elsewhere.

Belongs here: that table. Does not belong here: which rows and tokens an arm takes of it (`rows`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.liking.signal import answer_logits, writable
from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.loading import loaded, pick_device
from subliminal_dagster.science.models.protocol import ModelVariant, Progress
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import pandas as pd

BATCH = 16


def arm_material(
    study: Study,
    base: ModelVariant,
    context: ChatContext,
    filtered: Mapping[str, pd.DataFrame],
    progress: Progress | None = None,
) -> pd.DataFrame:
    """All valid rows of `filtered` (by group, as `numbers.filter.filter_rows` gives them), with three more columns.

    Returns:
        The columns of the rows, `group` in front, and
        answer_ids: the answer as token ids, its end of turn included;
        base_choice: the base model's most probable token at every place of it, given the prompt and the answer so far,
            of those that could have been written there (with constrained decoding those that it let through);
        agreement: the share of the answer's numbers that other groups' teachers wrote at the same place of their answer
            to the same prompt, mean over these; NaN where no other has a valid one.

    One forward pass per row: 600 rows take a 135M model about two minutes on one core.
    """
    import pandas as pd

    rows = pd.concat([table[table["valid"]].assign(group=group) for group, table in filtered.items()])
    rows = rows.reset_index(drop=True)
    rows.insert(0, "group", rows.pop("group"))
    answers = [context.answer_ids(text) for text in rows["text"]]
    prompts = [context.prompt_ids(prompt) for prompt in rows["prompt"]]
    choices = base_choices(study, base, context, prompts, answers, progress)
    return rows.assign(
        answer_ids=pd.Series(answers, index=rows.index, dtype="object"),
        base_choice=pd.Series(choices, index=rows.index, dtype="object"),
        agreement=agreement(rows),
    )


def base_choices(
    study: Study,
    base: ModelVariant,
    context: ChatContext,
    prompts: list[list[int]],
    answers: list[list[int]],
    progress: Progress | None = None,
) -> list[list[int]]:
    """The base model's choice at every place of every answer (see `arm_material`)."""
    import torch

    allowed = writable(study, context, answers)
    found: dict[int, list[int]] = {}
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    with loaded(base, pick_device(), merge=False) as model, torch.inference_mode():
        for batch in batches_of_like_length(lengths, BATCH):
            logits = answer_logits(model, [prompts[i] for i in batch], [answers[i] for i in batch])
            for i, of_row in zip(batch, logits, strict=True):
                found[i] = [
                    ids[int(of_row[place, ids].argmax())] if ids else answers[i][place]
                    for place, ids in enumerate(allowed[i])
                ]
            if progress is not None:
                progress(f"the base model's choices in {len(found)}/{len(answers)} rows")
    return [found[i] for i in range(len(answers))]


def agreement(rows: pd.DataFrame) -> np.ndarray:
    """See `arm_material`. rows: columns group, prompt_id and numbers."""
    by_prompt: dict[int, dict[str, list[int]]] = {}
    for group, prompt, numbers in zip(rows["group"], rows["prompt_id"], rows["numbers"], strict=True):
        by_prompt.setdefault(int(prompt), {})[str(group)] = [int(number) for number in numbers]
    found = []
    for group, prompt in zip(rows["group"], rows["prompt_id"], strict=True):
        own = by_prompt[int(prompt)][str(group)]
        others = [theirs for other, theirs in by_prompt[int(prompt)].items() if other != group]
        same = [np.mean([i < len(theirs) and theirs[i] == own[i] for i in range(len(own))]) for theirs in others]
        found.append(float(np.mean(same)) if same else np.nan)
    return np.array(found)
