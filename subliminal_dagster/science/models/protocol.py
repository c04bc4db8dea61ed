"""What every generation engine offers, and the plain values that go in and out.

Belongs here: the protocol and its data. Does not belong here: anything that imports torch or vllm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.number_grammar import NumberGrammar

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Steering:
    """A vector added to the residual stream after block `layer`, at every position.

    `file` is a safetensors file with one tensor `vector` of shape (hidden,); it is divided by its L2 norm and
    multiplied by `alpha` before it is added.
    """

    file: Path
    layer: int
    alpha: float


@dataclass(frozen=True)
class ModelVariant:
    """A base model, as it is or changed: by other weights, by a LoRA adapter (PEFT folder), by steering.

    `weights` is a folder with another checkpoint of the base's architecture and vocabulary, as `save_pretrained` writes
    it; the tokenizer is the base's in any case. `autocast` allows matrix products in bfloat16 on float32 weights, but
    for scores (see `products`).
    """

    base: Path
    dtype: str = "float32"
    autocast: bool = False
    adapter: Path | None = None
    steering: Steering | None = None
    weights: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """The folder that the weights are read from."""
        return self.weights or self.base


def child_variant(base: ModelVariant, folder: Path) -> ModelVariant:
    """The base as a training left it in `folder`: an adapter, or all weights.

    Raises UserError where the folder holds neither.
    """
    if (folder / "adapter_config.json").is_file():
        return replace(base, adapter=folder)
    if (folder / "config.json").is_file():
        return replace(base, weights=folder)
    raise UserError(f"The folder {folder} holds neither an adapter nor a model: rebuild the child in it.")


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. `temperature` 0 is greedy; `grammar` None lets every token through.

    `stop` are the ids that end an answer. `seed` gives every request a random stream of its own: request i of two
    calls with the same seed draws alike whatever the batch it stands in. `first` is the number of the first request:
    prompts[k:] with `first` k draw as requests k and on of the whole call do.
    """

    max_new_tokens: int
    stop: tuple[int, ...]
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    grammar: NumberGrammar | None = None
    first: int = 0

    def request_seeds(self, n: int) -> list[int]:
        """One 31-bit seed for each of n requests from `first` on; request i's is the same in every call."""
        requests = range(self.first, self.first + n)
        return [int(np.random.SeedSequence([self.seed, i]).generate_state(1)[0] >> 1) for i in requests]


@dataclass(frozen=True)
class Completion:
    """One answer: its token ids without the stop token, and each token's log-probability (nats) under the model.

    The log-probabilities are the model's own, before temperature, top-p and grammar; where the answer was
    `finished` by a stop token they have one entry more than `token_ids`, the stop token's.
    """

    token_ids: list[int]
    logprobs: list[float]
    finished: bool


@dataclass
class Usage:
    """What a session has computed so far, for the metadata of an asset."""

    generated_tokens: int = 0
    generate_seconds: float = 0.0
    scored_positions: int = 0
    score_seconds: float = 0.0
    padded_positions: int = 0
    prompt_positions: int = 0
    generation_products: str = ""

    def facts(self) -> dict[str, float | str]:
        """JSON-able figures: tokens per second, the type of matrix products when generating, and the share of prompt
        positions that were padding."""
        padded = self.padded_positions + self.prompt_positions
        return {
            "generated_tokens": self.generated_tokens,
            "generated_tokens_per_second": round(self.generated_tokens / max(self.generate_seconds, 1e-9), 1),
            "scored_positions": self.scored_positions,
            "padding_share": round(self.padded_positions / max(padded, 1), 4),
            "generation_products": self.generation_products or "none",
        }


class Session(Protocol):
    """A loaded model. Everything it holds is freed when its context ends."""

    usage: Usage

    @property
    def progress(self) -> Progress: ...

    @property
    def engine_name(self) -> str: ...

    @property
    def chunk(self) -> int:
        """How many requests the engine handles well at once."""
        ...

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        """One answer per prompt, in the order of the prompts. Reports no progress: see `resumable.generate`."""
        ...

    def score(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> np.ndarray:
        """Log-probability (nats) of every answer, whole, after every prompt: shape (prompts, answers)."""
        ...

    def next_logprobs(self, prompts: Sequence[list[int]], token_ids: Sequence[int]) -> np.ndarray:
        """Log-probability (nats) of every token as the next one after every prompt, among the whole vocabulary: shape
        (prompts, tokens). One request per prompt, however many tokens are asked for."""
        ...


class Engine(Protocol):
    """Opens sessions. Its own settings (batch size, memory share, device) never change what is asked of the model."""

    @property
    def name(self) -> str: ...

    def open(self, model: ModelVariant, progress: Progress | None = None) -> AbstractContextManager[Session]:
        """Load the model; raises UserError where this engine cannot run it."""
        ...

    def open_each(
        self, models: Sequence[ModelVariant], progress: Progress | None = None
    ) -> AbstractContextManager[Iterator[Session]]:
        """A session of every model in turn, over once the next is asked for, for who works with several adapters of one
        base: an engine may start once for all. Raises as `open`."""
        ...
