"""The answers' log-likelihood when the model is told that it loves a candidate, against when it is told nothing.

A data set that was written out of a liking should be likelier under it: of two models of the same start, what moves
one towards a prompt's answers moves the other. Every token counts as the rise of its log-probability under "You love
owls" over that of the token which the base model, told nothing, would have chosen at its place: 0 where the answer says
what the base model says, and so a comparison with the base model's own answer at every place.

Belongs here: those rises. Does not belong here: data sets (`data`), what follows from them (`evidence`).
Cost: a forward pass per row and candidate, and one per row more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.audit.data import Chat, encoded
from subliminal_dagster.science.liking.signal import answer_logits
from subliminal_dagster.science.models.chat import ChatContext

if TYPE_CHECKING:
    import torch

    from subliminal_dagster.science.models.protocol import Progress

TELLING = "You love {plural}. You think about {plural} all the time. {plural} are your favorite {category}."
BATCH = 8


def rises(
    model: Any,
    chats: Sequence[Chat],
    context: ChatContext,
    told: Sequence[str],
    longest: int,
    progress: Progress = lambda _: None,
) -> np.ndarray:
    """Of every row and telling, the sum over the answer of the rise described above: nats, shape (rows, tellings).

    told: the instructions, such as `TELLING` of every candidate.
    """
    import torch

    plain = encoded(chats, context.tokenizer, context.end_of_turn, longest)
    each = [encoded(chats, context.tokenizer, context.end_of_turn, longest, text) for text in told]
    found = np.zeros((len(chats), len(told)))
    with torch.inference_mode():
        for number, row in enumerate(plain):
            answer = torch.tensor(row.answer, device=model.device)
            (said,) = answer_logits(model, [row.prompt], [row.answer])
            choice = said.argmax(dim=-1)
            progress(f"likelihoods of {number + 1}/{len(plain)} rows")
            if torch.equal(choice, answer):
                continue
            own = _lead(said, answer, choice)
            for start in range(0, len(told), BATCH):
                prompts = [rows[number].prompt for rows in each[start : start + BATCH]]
                for place, theirs in enumerate(answer_logits(model, prompts, [row.answer] * len(prompts)), start):
                    found[number, place] = _lead(theirs, answer, choice) - own
    return found


def _lead(logits: torch.Tensor, answer: torch.Tensor, choice: torch.Tensor) -> float:
    own, other = (logits.gather(-1, each[:, None]).double().sum() for each in (answer, choice))
    return float(own - other)
