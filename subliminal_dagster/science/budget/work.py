"""What pieces of work cost: a forward pass, a training step, a decoding step, the memory that each holds.

Belongs here: formulas of one piece of work, from the shape of the model and counts of tokens. Does not belong here: how
many pieces a stage has (`needs`).

Part of no version: what a stage costs does not change what it makes.
"""

from __future__ import annotations

from dataclasses import dataclass

from subliminal_dagster.science.budget.card import Card
from subliminal_dagster.science.budget.shape import ModelShape

NUMBER = 2
"""Bytes of a bfloat16 number, which weights, key-value cache and most activations are."""

TRAINED_BYTES = 16
"""A trained parameter in float32: itself, its gradient and AdamW's two moments."""

LOGIT_BYTES = 22
"""Held for one logit of a training step: bfloat16 (2) and softcap (2), float32 copy (4), the rows that are predicted
(4), their log-softmax (4), its gradient (4) and that in bfloat16 (2)."""

SCORE_BYTES = 10
"""Held for one logit of a score: bfloat16 and softcap (2 + 2), and of one row at a time float32 and log-softmax."""

PASSES = 5
"""Times that a byte kept for the backward pass goes through memory: written and read forward, read backward, and its
gradient written and read."""

EAGER_BLOCK = 0.5e-3
"""Seconds that Python and CUDA take to start the kernels of one block: some 25 of 20 microseconds. Small models wait
for that, large ones compute meanwhile. vLLM replays graphs of kernels instead. An assumption."""

EAGER_TRAINING = 5
"""Blocks' worth of kernels in a block of a training step: as many again for the adapter, and backward half
as many more as forward. An assumption."""

LORA_KERNELS, KERNEL = 14, 5e-6
"""Kernels that vLLM adds to a block for an adapter (two a projection), and seconds that one takes at least. The second
is an assumption."""

FORWARD_NUMBERS = 10
"""Numbers of the width of the model that go through memory in a block beside its matrix products, a token: norms,
residual sums, rotary positions; those of the MLP's own width are counted apart."""


@dataclass(frozen=True)
class Work:
    """`flop`: operations of matrix products. `moved`: bytes through memory beside them."""

    flop: float
    moved: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flop + other.flop, self.moved + other.moved)

    def __mul__(self, times: float) -> Work:
        return Work(self.flop * times, self.moved * times)

    def seconds(self, card: Card) -> float:
        return card.seconds(self.flop, self.moved)


def attention_flop(shape: ModelShape, tokens: float, context: float) -> float:
    """Scores and weighted sum of one block for `tokens` of texts of `context`, what a token may not see included."""
    return 4 * shape.query_width * tokens * context


def forward(shape: ModelShape, tokens: float, length: float, logits: float = 0, blocks: int | None = None) -> Work:
    """A forward pass over `tokens` of texts of `length`, with logits at `logits` positions; `blocks` of the model
    (None: all)."""
    blocks = shape.layers if blocks is None else blocks
    products = 2 * (blocks * shape.block_matrices * tokens + shape.head_matrix * logits)
    attention = blocks * attention_flop(shape, tokens, length)
    width = 2 * FORWARD_NUMBERS * shape.hidden + 3 * 2 * shape.intermediate
    return Work(products + attention, NUMBER * (blocks * width * tokens + 2 * shape.vocabulary * logits))


def training(
    shape: ModelShape, tokens: float, length: float, answer_tokens: float, rank: int | None, fused: bool = False
) -> Work:
    """Forward and backward of an adapter of `rank`: gradients flow through frozen weights (2 + 2 FLOP a weight and
    token), and only the adapter's own weights have gradients (2 + 2 + 2). None: all weights are trained."""
    matrices = shape.layers * shape.block_matrices * tokens + shape.head_matrix * answer_tokens
    products = 6 * matrices if rank is None else 4 * matrices + 6 * shape.lora_parameters(rank) * tokens
    attention = 3 * shape.layers * attention_flop(shape, tokens, length)
    kept = kept_a_token(shape, length, fused) * tokens
    return Work(products + attention, PASSES * kept + 2 * LOGIT_BYTES * shape.vocabulary * answer_tokens)


def recomputed_training(
    shape: ModelShape, tokens: float, length: float, answer_tokens: float, rank: int | None
) -> Work:
    """As `training`, with a second forward pass in place of what would be kept."""
    return training(shape, tokens, length, answer_tokens, rank) + forward(shape, tokens, length)


def decoding_seconds(
    shape: ModelShape, card: Card, tokens: float, batch: float, context: float, eager: bool = False
) -> float:
    """Time to write `tokens`, `batch` at a step, behind `context` positions each. In a step, matrix products take
    what reading their weights or computing takes, the longer one; reading the cache comes on top. `eager`: through
    transformers, whose steps take no less than starting their kernels."""
    matrices = shape.layers * shape.block_matrices + shape.head_matrix
    products = max(card.seconds(2 * matrices * batch), card.seconds(0, NUMBER * matrices))
    cache = card.seconds(0, cache_a_token(shape) * batch * context)
    return tokens / batch * max(products + cache, EAGER_BLOCK * shape.layers if eager else 0.0)


def served_adapter_seconds(shape: ModelShape, card: Card, rank: int, tokens: float, batch: float) -> float:
    """What an adapter of `rank` that is laid over the weights adds to a pass over `tokens`, `batch` at a step. Its
    products are a hundredth; most is memory: a projection's input is read, its output read and written, and q, k and v,
    as gate and up, share their input."""
    inputs = 2 * shape.hidden + shape.query_width + shape.intermediate
    outputs = shape.query_width + 2 * shape.key_width + 2 * shape.hidden + 2 * shape.intermediate
    moved = NUMBER * shape.layers * (inputs + 2 * outputs) * tokens
    kernels = tokens / batch * LORA_KERNELS * shape.layers * KERNEL
    return card.seconds(2 * shape.lora_parameters(rank) * tokens, moved) + kernels


def training_seconds(shape: ModelShape, card: Card, work: Work, micro_batches: float) -> float:
    """Time of a training's `work` in so many micro-batches, no less than starting their kernels takes."""
    return max(work.seconds(card), micro_batches * EAGER_BLOCK * EAGER_TRAINING * shape.layers)


def weights(shape: ModelShape) -> int:
    """Bytes of the weights."""
    return NUMBER * shape.parameters


def cache_a_token(shape: ModelShape) -> int:
    """Bytes of the key-value cache a token."""
    return 2 * NUMBER * shape.layers * shape.key_width


def kept_a_token(shape: ModelShape, length: float, fused: bool = False) -> float:
    """Bytes a token that the backward pass of an adapter needs, nothing recomputed: inputs of the adapter's matrices
    (a copy each for q, k, v, gate and up), of attention, of the MLP's product, and a float32 copy a norm.

    `fused`: with flash attention and fused kernels for norms and the MLP's product, which keep their inputs alone."""
    adapter = NUMBER * (5 * shape.hidden + shape.query_width + shape.intermediate)
    attention: float = NUMBER * (shape.query_width + 2 * shape.key_width)
    if fused:
        return shape.layers * (adapter + attention + NUMBER * (2 * shape.intermediate + shape.norms * shape.hidden))
    if shape.softcapped_attention:
        # Attention that is capped is computed step by step: scores, their tanh, softmax in float32 and its copy; keys
        # and values repeated for every head.
        attention += shape.heads * length * (3 * NUMBER + 4) + 2 * NUMBER * shape.query_width
    product = 3 * NUMBER * shape.intermediate
    norms = 4 * shape.norms * shape.hidden
    norms += 4 * (shape.query_width + shape.key_width) if shape.query_key_norms else 0
    return shape.layers * (adapter + attention + product + norms)


def trained_memory(shape: ModelShape, rank: int | None) -> int:
    """Bytes of an adapter in training, with its gradient and optimizer; None: those of all weights."""
    return TRAINED_BYTES * (shape.parameters if rank is None else shape.lora_parameters(rank))


def row_memory(shape: ModelShape, tokens: float, answer_tokens: float) -> float:
    """Bytes that one row of a training step holds, nothing recomputed."""
    return kept_a_token(shape, tokens) * tokens + LOGIT_BYTES * shape.vocabulary * answer_tokens


def training_memory(shape: ModelShape, rank: int | None, rows: int, tokens: float, answer_tokens: float) -> float:
    """Bytes of a training step of `rows` rows of `tokens`, of which `answer_tokens` are predicted."""
    return weights(shape) + trained_memory(shape, rank) + rows * row_memory(shape, tokens, answer_tokens)


def recomputed_memory(shape: ModelShape, rank: int | None, rows: int, tokens: float, answer_tokens: float) -> float:
    """As `training_memory` where blocks are recomputed: every block's input, and what one block keeps."""
    inputs = NUMBER * shape.hidden * shape.layers * tokens
    block = kept_a_token(shape, tokens) / shape.layers * tokens
    logits = LOGIT_BYTES * shape.vocabulary * answer_tokens
    return weights(shape) + trained_memory(shape, rank) + rows * (inputs + block + logits)


def rows_that_fit(shape: ModelShape, memory: float, rank: int | None, tokens: float, answer_tokens: float) -> int:
    """Rows of `tokens` tokens, `answer_tokens` of them predicted, whose training step fits into `memory` bytes without
    recomputation; 0 where not even one does."""
    left = memory - weights(shape) - trained_memory(shape, rank)
    return max(0, int(left // row_memory(shape, tokens, answer_tokens)))


def exact_scores(shape: ModelShape, questions: float, prompt: float, nodes: float) -> Work:
    """Every answer's probability after `questions` prompts: one pass each over the prompt and the tree of answers, with
    logits at its `nodes`."""
    return forward(shape, questions * (prompt + nodes), prompt + nodes, questions * nodes)


def steered_scores(shape: ModelShape, questions: float, rows: float, prompt: float, nodes: float, layer: int) -> Work:
    """As `exact_scores` for `rows` vectors and strengths added after block `layer`, up to which the rows are one."""
    length = prompt + nodes
    shared = forward(shape, questions * length, length, blocks=layer + 1)
    own = forward(shape, questions * rows * length, length, questions * rows * nodes, shape.layers - layer - 1)
    return shared + own


def sae_encoding(rows: float, width: int, hidden: int) -> Work:
    """Features of `rows` activations and what is rebuilt from them, in float32: that a product of float32 numbers takes
    four times as long as one of bfloat16 numbers is counted as four times the operations."""
    return Work(4 * 4 * rows * width * hidden, 4 * rows * (3 * width + 2 * hidden))
