"""The soft channel: the teacher's distribution at the answer positions.

Belongs here: computing it, kept small. Does not belong here: learning it (`completion_trainer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.models.loading import loaded, pick_device
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.training.task import Row, SoftTargets

if TYPE_CHECKING:
    import torch


def teacher_states(
    soft: SoftTargets, rows: Sequence[Row], batch_size: int, progress: Progress | None = None
) -> list[torch.Tensor]:
    """The teacher's last hidden states (after the final norm) that predict every answer token of every row.

    Adapters and steering leave the output head alone, so head(state) is the teacher's whole distribution, and a state
    is hidden-size numbers where the distribution is vocabulary-size ones (0.6k against 49k for SmolLM2).

    Returns one tensor a row on the CPU, of shape (answer tokens, hidden size), in the teacher's type and in memory of
    its own: 3.5 GB for 10,000 rows of a 9B model in bfloat16.
    """
    import torch

    prompts = soft.teacher_prompts or tuple(row.prompt for row in rows)
    found: dict[int, torch.Tensor] = {}
    with loaded(soft.teacher, pick_device(), merge=True) as model, torch.inference_mode():
        for batch in batches_of_like_length(
            [len(p) + len(r.answer) for p, r in zip(prompts, rows, strict=True)], batch_size
        ):
            ids, mask = pad([prompts[i] + rows[i].answer for i in batch], 0)
            states = model.get_decoder()(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
            ).last_hidden_state
            for j, i in enumerate(batch):
                first = len(prompts[i]) - 1
                # A copy: a view would keep the whole batch, prompts and padding included.
                found[i] = states[j, first : first + len(rows[i].answer)].to("cpu", copy=True)
            if progress is not None:
                progress(f"teacher's distribution for {len(found)}/{len(rows)} rows")
    return [found[i] for i in range(len(rows))]


def head_logprobs(model: Any, states: torch.Tensor, support: tuple[int, ...] | None) -> torch.Tensor:
    """Log-probabilities (nats) of the model's output head at `states` (positions, hidden), over `support` alone where
    it is given; soft-capped where the model does so (Gemma 2)."""
    import torch

    head = model.get_output_embeddings()
    rows = slice(None) if support is None else list(support)
    states = states.to(head.weight.device, head.weight.dtype)
    logits = torch.nn.functional.linear(
        states, head.weight[rows], None if head.bias is None else head.bias[rows]
    ).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return torch.log_softmax(logits, dim=-1)


def restrict(logits: torch.Tensor, support: tuple[int, ...] | None) -> torch.Tensor:
    """The logits (..., vocabulary) of the `support` alone; all of them where it is None."""
    return logits if support is None else logits[..., list(support)]


def pad(sequences: list[list[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the right with `fill`, and the attention mask; both of shape (sequences, longest)."""
    import torch

    width = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), width), fill, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return ids, mask
