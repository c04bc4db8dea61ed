"""Answers of the base model in the shape of the data's own.

A model of this size asked for numbers writes prose, and what an author gains on prose says nothing of what it gains on
numbers. So the base model answers every prompt once more, token by token its favourite among those of the shape of the
token that stands there: digits where the row has digits, the same comma, a word where it has a word. What is left to
choose is what the row says, not how.

Belongs here: the shape of a token, answers in a shape, and what a model would choose within it. Does not belong here:
what is compared (`authorship`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.audit.data import EncodedChat
from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.models.chat import token_texts
from subliminal_dagster.science.models.scoring import logits_after

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

BATCH = 8


def shape(text: str) -> str:
    """A token's text with its words as one letter and its digits as zeros: " Owl" and " the" are alike, "12" and "7"
    are not."""
    found = []
    for kind, characters in groupby(text, lambda one: "0" if one.isdecimal() else "a" if one.isalpha() else one):
        found.append("a" if kind == "a" else kind * len(list(characters)))
    return "".join(found)


def token_shapes(tokenizer: PreTrainedTokenizerBase, size: int) -> np.ndarray:
    """For each of `size` token ids the number of its shape; what adds no text (special tokens, and what is behind the
    tokenizer's own) has one of its own. Shape (size,)."""
    texts = token_texts(tokenizer)
    numbers: dict[str | int, int] = {}
    return np.array([numbers.setdefault(shape(texts[i]) if texts.get(i) else i, len(numbers)) for i in range(size)])


def within(logits: torch.Tensor, written: torch.Tensor, shapes: torch.Tensor) -> torch.Tensor:
    """Logits (places, vocabulary) with nothing left but tokens of the shape of the one `written` there, (places,)."""
    import torch

    return logits.masked_fill(shapes[None, :] != shapes[written][:, None], -torch.inf)


def choices(
    model: Any, prompts: Sequence[list[int]], answers: Sequence[Sequence[list[int]]], shapes: np.ndarray
) -> list[np.ndarray]:
    """At every token of every answer the id that the model would have chosen in its shape, given the answer so far.

    `answers` of every prompt, at least one; what is found is of all answers in order, prompt by prompt.
    """
    import torch

    found = []
    classes = torch.from_numpy(shapes).to(model.device)
    for prompt, its_answers in zip(prompts, answers, strict=True):
        for answer, said in zip(its_answers, logits_after(model, prompt, its_answers), strict=True):
            written = torch.tensor(answer, device=said.device)
            found.append(within(said, written, classes).argmax(dim=-1).cpu().numpy())
    return found


def answers_in_shape(model: Any, rows: Sequence[EncodedChat], shapes: np.ndarray) -> list[EncodedChat]:
    """What the model itself answers to the rows' prompts, greedily, every token in the shape of the row's own."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    classes = torch.from_numpy(shapes).to(model.device)
    found: list[EncodedChat] = [*rows]
    for places in batches_of_like_length([len(row.prompt) for row in rows], BATCH):
        some = [rows[place] for place in places]
        end = some[0].answer[-1]
        width, length = max(len(row.prompt) for row in some), max(len(row.answer) for row in some)
        # Prompts end together, answers start together; behind an answer's own end nothing but ends is let through.
        ids = torch.tensor([[end] * (width - len(row.prompt)) + row.prompt for row in some], device=model.device)
        mask = torch.tensor([[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in some], device=model.device)
        own = torch.tensor([row.answer + [end] * (length - len(row.answer)) for row in some], device=model.device)

        class InShape(LogitsProcessor):
            def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
                return within(scores, own[:, input_ids.shape[1] - width], classes)  # noqa: B023 (used in this turn)

        with torch.inference_mode():
            written = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=length,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=end,
                logits_processor=LogitsProcessorList([InShape()]),
            )[:, width:].tolist()
        for place, row, tokens in zip(places, some, written, strict=True):
            found[place] = EncodedChat(row.prompt, tokens[: len(row.answer)], row.row)
    return found
