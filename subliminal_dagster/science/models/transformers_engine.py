"""Generation and scoring with transformers: on a CPU, or where vLLM is missing. The exact path.

Sampling is one logits processor on top of `generate`: it picks the token by inverting the distribution at a uniform
number of the request's own stream and leaves the rest to greedy search, so a request draws the same tokens whatever
batch it stands in, and nothing depends on a global generator.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.models.chat import load_tokenizer
from subliminal_dagster.science.models.loading import loaded, pick_device
from subliminal_dagster.science.models.number_grammar import TokenAutomaton
from subliminal_dagster.science.models.products import product_type, products_in
from subliminal_dagster.science.models.protocol import Completion, ModelVariant, Progress, Sampling, Usage
from subliminal_dagster.science.models.scoring import score_answers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


_NUCLEUS_GUESS = 1024
"""Most likely tokens looked at first for top-p; where they hold too little mass the whole vocabulary is sorted."""

_PADDING = 0.5
"""Share of a batch of prompts that may be padding: it costs once, while every step of writing costs the less a row the
more rows there are."""

_BATCHES_ON_GPU = 4
"""Batches' worth of prompts in a chunk on a GPU, so that like lengths come together. On a CPU an interruption would
cost minutes with longer chunks."""


@dataclass(frozen=True)
class TransformersEngine:
    """Settings of the machine, none of which is part of an artifact's version.

    `generate_batch` prompts decode together, `score_batch` questions are scored together. An adapter is merged into
    float32 weights and laid over others, for scores and answers alike: what is drawn is what is scored.
    """

    generate_batch: int = 64
    score_batch: int = 8

    @property
    def name(self) -> str:
        return "transformers"

    @contextmanager
    def open(self, model: ModelVariant, progress: Progress | None = None) -> Iterator[TransformersSession]:
        from transformers import GenerationConfig

        device = pick_device()
        with loaded(model, device, merge=True) as network:
            # Or the model's generation_config.json (Qwen2.5-Instruct: repetition_penalty) would bend every draw.
            network.generation_config = GenerationConfig()
            session = TransformersSession(network, load_tokenizer(model.base), self, progress or (lambda _: None))
            session.usage.generation_products = product_type(model, device)
            yield session

    @contextmanager
    def open_each(
        self, models: Sequence[ModelVariant], progress: Progress | None = None
    ) -> Iterator[Iterator[TransformersSession]]:
        """As `open`, of several models in turn, each loaded by itself."""

        def sessions() -> Generator[TransformersSession]:
            for model in models:
                with self.open(model, progress) as session:
                    yield session

        with closing(sessions()) as each:
            yield each


@dataclass
class TransformersSession:
    """A loaded model that generates and scores (see `protocol.Session`)."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    engine: TransformersEngine
    progress: Progress
    usage: Usage = field(default_factory=Usage)

    @property
    def engine_name(self) -> str:
        return self.engine.name

    @property
    def chunk(self) -> int:
        batches = 1 if self.model.device.type == "cpu" else _BATCHES_ON_GPU
        return batches * self.engine.generate_batch

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        seeds = sampling.request_seeds(len(prompts))
        automaton = None
        if sampling.grammar is not None:
            automaton = TokenAutomaton(sampling.grammar, self.tokenizer, sampling.stop[0])
        answers: dict[int, Completion] = {}
        started = time.perf_counter()
        with products_in(self.usage.generation_products, self.model):
            for batch in batches_of_like_length([len(p) for p in prompts], self.engine.generate_batch, _PADDING):
                completions = self._generate_batch(
                    [prompts[i] for i in batch], _make_chooser([seeds[i] for i in batch], sampling, automaton), sampling
                )
                answers.update(zip(batch, completions, strict=True))
                self.usage.generated_tokens += sum(len(c.logprobs) for c in completions)
        self.usage.generate_seconds += time.perf_counter() - started
        return [answers[i] for i in range(len(prompts))]

    def _generate_batch(self, prompts: list[list[int]], chooser: Any, sampling: Sampling) -> list[Completion]:
        import torch
        from transformers import LogitsProcessorList

        width = max(len(p) for p in prompts)
        self.usage.prompt_positions += sum(len(p) for p in prompts)
        self.usage.padded_positions += sum(width - len(p) for p in prompts)
        ids = torch.full((len(prompts), width), sampling.stop[0], dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=list(sampling.stop),
                pad_token_id=sampling.stop[0],
                do_sample=False,
                logits_processor=LogitsProcessorList([chooser]),
            )
        new = output[:, width:].tolist()
        logprobs = torch.stack(chooser.logprobs, dim=1).cpu().tolist()
        return [_cut(tokens, row, sampling.stop) for tokens, row in zip(new, logprobs, strict=True)]

    def score(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> np.ndarray:
        started = time.perf_counter()
        scores = score_answers(self.model, prompts, answers, self.engine.score_batch)
        self.usage.scored_positions += sum(len(p) for p in prompts)
        self.usage.score_seconds += time.perf_counter() - started
        return scores

    def next_logprobs(self, prompts: Sequence[list[int]], token_ids: Sequence[int]) -> np.ndarray:
        # Answers of one token share a tree without inner nodes: one pass over the prompts, read at their last position.
        return self.score(prompts, [[token] for token in token_ids])


def _cut(tokens: list[int], logprobs: list[float], stop: tuple[int, ...]) -> Completion:
    ends = [i for i, token in enumerate(tokens) if token in stop]
    if not ends:
        return Completion(tokens, logprobs[: len(tokens)], finished=False)
    return Completion(tokens[: ends[0]], logprobs[: ends[0] + 1], finished=True)


def _make_chooser(seeds: list[int], sampling: Sampling, automaton: TokenAutomaton | None) -> Any:
    import torch
    from transformers import LogitsProcessor

    # One row of uniforms a request, drawn at once: step t of request i is the t-th number of its stream.
    uniforms = torch.from_numpy(
        np.stack([np.random.Generator(np.random.Philox(seed)).random(sampling.max_new_tokens) for seed in seeds])
    )

    class Chooser(LogitsProcessor):
        """Leaves finite only the token that was drawn, and keeps that token's log-probability under the model."""

        def __init__(self) -> None:
            self.logprobs: list[torch.Tensor] = []
            self.states = [] if automaton is None else [automaton.grammar.start] * len(seeds)

        def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
            logits = scores.float()
            uniform = uniforms[:, len(self.logprobs)].to(logits.device)
            if automaton is None:
                chosen = _draw(logits, uniform, sampling)
            else:
                chosen = self._draw_allowed(logits, uniform, automaton)
            self.logprobs.append(logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(dim=-1))
            return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)

        def _draw_allowed(self, logits: torch.Tensor, uniform: torch.Tensor, automaton: TokenAutomaton) -> torch.Tensor:
            """Draw among the few tokens the grammar lets through, so that nothing sorts the whole vocabulary."""
            allowed = [set(automaton.allowed(state)) for state in self.states]
            ids = sorted(set().union(*allowed))
            shut = torch.tensor([[i not in row for i in ids] for row in allowed], device=logits.device)
            picked = _draw(logits[:, ids].masked_fill(shut, -torch.inf), uniform, sampling)
            chosen = torch.tensor(ids, device=logits.device)[picked]
            self.states = [automaton.advance(s, t) for s, t in zip(self.states, chosen.tolist(), strict=True)]
            return chosen

    return Chooser()


def _draw(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One column per row of `logits` (rows, columns): the distribution, after temperature and top-p, inverted at
    `uniform` (rows,), or the largest logit at temperature 0."""
    import torch

    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    # float64: a float32 sum over 256k tokens loses the tail.
    probs = torch.softmax(logits / sampling.temperature, dim=-1).double()
    if sampling.top_p >= 1:
        return _invert(probs, uniform)
    likely, tokens = probs.topk(min(_NUCLEUS_GUESS, probs.shape[-1]), dim=-1)
    if tokens.shape[-1] < probs.shape[-1] and bool((likely.sum(dim=-1) < sampling.top_p).any()):
        likely, tokens = probs.sort(dim=-1, descending=True)
    # The smallest set of most likely tokens whose mass reaches top_p, as in transformers and vLLM.
    inside = likely.cumsum(dim=-1) - likely < sampling.top_p
    return tokens.gather(1, _invert(likely * inside, uniform)[:, None])[:, 0]


def _invert(probs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The column at which the running sum of `probs` (rows, columns; any total) passes `uniform` of the total."""
    import torch

    mass = probs.cumsum(dim=-1)
    wanted = uniform[:, None] * mass[:, -1:]
    column = torch.searchsorted(mass, wanted, right=True)
    # A uniform within rounding of 1 must not fall behind the last token that has any mass.
    last = (probs > 0).cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    return column.minimum(last)[:, 0]
