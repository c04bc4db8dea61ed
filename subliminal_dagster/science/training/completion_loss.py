"""The loss of a model on rows, outside of a training.

Belongs here: measuring. Does not belong here: training (`completion_trainer`), and what a loss is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.training.task import Row

_BATCH = 8


def completion_loss(model: Any, rows: Sequence[Row]) -> float:
    """Cross-entropy of the answers, end of turn included: nats per token, mean over all tokens of all rows.

    model: a transformers model, in eval mode. Whatever `Row.learnt` says, all tokens count.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    total, tokens = 0.0, 0
    with torch.inference_mode():
        for batch in batches_of_like_length([len(row.prompt) + len(row.answer) for row in rows], _BATCH):
            chosen = [rows[i] for i in batch]
            ids = pad_sequence([torch.tensor(row.prompt + row.answer) for row in chosen], batch_first=True)
            mask = pad_sequence([torch.ones(len(row.prompt) + len(row.answer)) for row in chosen], batch_first=True)
            logits = model(
                input_ids=ids.to(model.device), attention_mask=mask.long().to(model.device), use_cache=False
            ).logits
            for place, row in enumerate(chosen):
                start = len(row.prompt) - 1
                predicted = logits[place, start : start + len(row.answer)].float()
                answer = torch.tensor(row.answer, device=model.device)
                total += float(torch.nn.functional.cross_entropy(predicted, answer, reduction="sum"))
                tokens += len(row.answer)
    return total / tokens
