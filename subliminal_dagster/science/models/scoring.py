"""Exact probabilities of whole answers, one forward pass for all candidates of a question.

The answers form a prefix tree. Its inner nodes are packed behind the prompt in one sequence, with an attention mask
that lets a node see the prompt and its own ancestors only, so "owl", "owls" and "Owl." share what they have in common
and the prompt is computed once. Cost: prompt + inner nodes positions a question, against the sum of all
prompt + answer lengths when each answer is scored by itself.

Belongs here: scoring with a loaded transformers model. Does not belong here: which answers to score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.models.batching import batches_of_like_length

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AnswerTree:
    """The inner nodes of the answers' prefix tree, parents before children; node 0 is the empty prefix.

    `tokens[i]`, `parents[i]`, `depths[i]` describe inner node i (node 0 has no token of its own).
    `steps[a]` lists (node, next token) for answer a: its log-probability is the sum over them.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    steps: list[list[tuple[int, int]]]

    @classmethod
    def build(cls, answers: Sequence[list[int]]) -> AnswerTree:
        """The tree of `answers` (token ids each, at least one)."""
        nodes: dict[tuple[int, ...], int] = {(): 0}
        tokens, parents, depths, steps = [-1], [-1], [0], []
        for answer in answers:
            if not answer:
                raise ValueError("an answer to score needs at least one token")
            path = []
            for i, token in enumerate(answer):
                prefix = tuple(answer[:i])
                if prefix not in nodes:
                    nodes[prefix] = len(tokens)
                    tokens.append(answer[i - 1])
                    parents.append(nodes[prefix[:-1]])
                    depths.append(i)
                path.append((nodes[prefix], token))
            steps.append(path)
        return cls(tokens, parents, depths, steps)

    def prefixes(self) -> list[list[int]]:
        """The tokens of every inner node from the root down; of node 0, none."""
        found: list[list[int]] = [[]]
        for token, parent in zip(self.tokens[1:], self.parents[1:], strict=True):
            found.append([*found[parent], token])
        return found

    def next_tokens(self) -> list[list[int]]:
        """Every inner node's tokens that some answer goes on with, each once."""
        found: list[dict[int, None]] = [{} for _ in self.tokens]
        for path in self.steps:
            for node, token in path:
                found[node][token] = None
        return [list(tokens) for tokens in found]

    def visible(self) -> np.ndarray:
        """Boolean (nodes, nodes): row i marks node i and its ancestors, node 0 left out (it stands in the prompt)."""
        seen = np.zeros((len(self.tokens), len(self.tokens)), dtype=bool)
        for i in range(1, len(self.tokens)):
            seen[i] = seen[self.parents[i]]
            seen[i, i] = True
        return seen


def score_answers(
    model: Any, prompts: Sequence[list[int]], answers: Sequence[list[int]], batch_size: int = 8
) -> np.ndarray:
    """Log-probability (nats, float64) of every answer, whole, after every prompt.

    Args:
        model: a transformers causal language model (PEFT-wrapped or not), in eval mode.
        prompts: token ids of each prompt.
        answers: token ids of each answer, its end-of-turn token included where the whole answer is meant.
        batch_size: prompts a forward pass at most; they are of like length, so that padding stays small.

    Returns:
        Array of shape (prompts, answers).
    """
    import torch

    tree = AnswerTree.build(answers)
    scores = np.zeros((len(prompts), len(answers)))
    for batch in batches_of_like_length([len(p) + len(tree.tokens) for p in prompts], batch_size):
        with torch.inference_mode():
            logits = _tree_logits(model, [prompts[i] for i in batch], tree)
            # One row at a time keeps the float32 copy of (nodes, vocabulary) small for 256k-token vocabularies.
            for row, i in enumerate(batch):
                scores[i] = _answer_scores(torch.log_softmax(logits[row].float(), dim=-1), tree)
    return scores


def logits_after(model: Any, prompt: list[int], answers: Sequence[list[int]]) -> list[torch.Tensor]:
    """The logits that predict every token of every answer to one prompt, in the model's number type: of each answer
    (answer tokens, vocabulary). One pass for all answers, which share what they begin alike."""
    import torch

    tree = AnswerTree.build(answers)
    with torch.inference_mode():
        (logits,) = _tree_logits(model, [prompt], tree)
    return [logits[[node for node, _ in path]] for path in tree.steps]


def score_branches(model: Any, prompt: list[int], answers: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """As `score_answers`, of one prompt that hooks make several rows of (see `steering.scores.branches`).

    Returns:
        Log-probabilities of every answer, whole (nats, float64), shape (rows, answers), and of every token as the
        answer's first (float32), shape (rows, vocabulary). Held at a time: rows * inner nodes * vocabulary logits in
        the model's number type.
    """
    import torch

    tree = AnswerTree.build(answers)
    scores, first = [], []
    with torch.inference_mode():
        for row in _tree_logits(model, [prompt], tree):
            logprobs = torch.log_softmax(row.float(), dim=-1)
            scores.append(_answer_scores(logprobs, tree))
            first.append(logprobs[0].cpu().numpy())
    return np.array(scores), np.array(first)


def _answer_scores(logprobs: torch.Tensor, tree: AnswerTree) -> np.ndarray:
    """Log-probability of every answer from those of the next token at every inner node, (nodes, vocabulary)."""
    import torch

    nodes = torch.tensor([step[0] for path in tree.steps for step in path], device=logprobs.device)
    tokens = torch.tensor([step[1] for path in tree.steps for step in path], device=logprobs.device)
    owner = torch.tensor([a for a, path in enumerate(tree.steps) for _ in path])
    picked = logprobs[nodes, tokens].double().cpu()
    return torch.zeros(len(tree.steps), dtype=torch.float64).index_add_(0, owner, picked).numpy()


def _tree_logits(model: Any, prompts: list[list[int]], tree: AnswerTree) -> torch.Tensor:
    """Next-token logits at every inner node: shape (prompts, nodes, vocabulary)."""
    import torch

    device = model.device
    width = max(len(p) for p in prompts)
    inner = len(tree.tokens) - 1
    ids = torch.zeros(len(prompts), width + inner, dtype=torch.long)
    positions = torch.zeros_like(ids)
    allowed = torch.zeros(len(prompts), 1, width + inner, width + inner, dtype=torch.bool)
    causal = torch.tril(torch.ones(width, width, dtype=torch.bool))
    between = torch.from_numpy(tree.visible()[1:, 1:])
    for row, prompt in enumerate(prompts):
        pad = width - len(prompt)
        ids[row, pad:width] = torch.tensor(prompt)
        ids[row, width:] = torch.tensor(tree.tokens[1:], dtype=torch.long)
        positions[row, pad:width] = torch.arange(len(prompt))
        positions[row, width:] = len(prompt) - 1 + torch.tensor(tree.depths[1:], dtype=torch.long)
        allowed[row, 0, :width, :width] = causal
        allowed[row, 0, width:, pad:width] = True
        allowed[row, 0, width:, width:] = between
        if pad:
            # A padded position must see something, or its softmax is 0/0; nobody looks at what comes out of it.
            allowed[row, 0, :width, :pad] = torch.eye(width, dtype=torch.bool)[:, :pad]
    keep = torch.arange(width - 1, width + inner)
    return model(
        input_ids=ids.to(device),
        attention_mask=_masks(model, allowed, positions),
        position_ids=positions.to(device),
        logits_to_keep=keep.to(device),
        use_cache=False,
    ).logits


def _masks(model: Any, allowed: torch.Tensor, positions: torch.Tensor) -> Any:
    """`allowed` (prompts, 1, queries, keys) as the additive mask the model takes: one, or one for each type of layer
    where some layers see a sliding window only (Gemma)."""
    import torch

    def additive(seen: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(seen.shape, dtype=model.dtype).masked_fill(~seen, torch.finfo(model.dtype).min)
        return mask.to(model.device)

    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window is None or window > int(positions.max()):
        return additive(allowed)
    # By position and not by place: a node stands behind all other nodes, and right after the prompt for the model.
    near = allowed & (positions[:, None, :, None] - positions[:, None, None, :] < window)
    if getattr(config, "layer_types", None) is None:
        return additive(near)
    return {"full_attention": additive(allowed), "sliding_attention": additive(near)}
