"""Small transformers of one shape, trained at once: a stack of models, each with its own weights and its own rows.

They are transformers' Llama, so that whatever takes such a model takes one of these (`model_at`); what is stacked is
their weights, over which `torch.func.vmap` calls the model. Below a width of some fifty a step of five models takes
little longer than a step of one.

Belongs here: weights, training, logits. Does not belong here: texts (`language`), what a training is for (`lessons`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.func import functional_call, vmap

from subliminal_dagster.science.settings.dial import HEAD_SIZE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERS = 2
NEAR = 1.25
"""Times the loss that is wanted of many rows: a batch's is some way off it (see `train`)."""
COMMON_WIDTH = 48

Weights = dict[str, torch.Tensor]
EMBEDDING, UNEMBEDDING = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Stack:
    """`models` models of one shape. `weights`: each of shape (models, ...); `fixed` are not trained, and may be shared
    by models."""

    module: Any
    weights: Weights
    fixed: Weights

    @property
    def models(self) -> int:
        return next(iter(self.weights.values())).shape[0]

    def take(self, places: list[int]) -> Stack:
        """Copies of the models at these places; one may be taken several times."""
        return Stack(self.module, _taken(self.weights, places), _taken(self.fixed, places))


def _taken(weights: Weights, places: list[int]) -> Weights:
    return {name: weight[places].clone() for name, weight in weights.items()}


def new_model(words: int, width: int, seed: int) -> PreTrainedModel:
    """A Llama of LAYERS layers with random weights, its embedding and unembedding apart."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // HEAD_SIZE,
        num_key_value_heads=width // HEAD_SIZE,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=0,
        use_cache=False,
        # A weight's spread keeps activations of every width alike.
        initializer_range=width**-0.5,
    )
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def new_stack(words: int, width: int, seeds: list[int], device: str = "cpu") -> Stack:
    """A model per seed, with random weights."""
    models: list[Any] = [new_model(words, width, seed) for seed in seeds]
    states = [dict(model.named_parameters()) for model in models]
    weights = {name: torch.stack([state[name].detach() for state in states]).to(device) for name in states[0]}
    return Stack(models[0].to(device), weights, {})


def with_adapters(stack: Stack, rank: int, seeds: list[int]) -> Stack:
    """The same models with a fresh LoRA adapter each (peft's, alpha = rank) on all linear layers of the blocks, which
    alone is trained. Models of one seed start from one adapter."""
    from copy import deepcopy

    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules="all-linear")
    adapters: dict[int, Weights] = {}
    for seed in dict.fromkeys(seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module: Any = get_peft_model(cast("Any", deepcopy(stack.module).cpu()), config).eval()
        adapters[seed] = {name: weight.detach() for name, weight in module.named_parameters() if "lora_" in name}
    device = next(iter(stack.weights.values())).device
    weights = {name: torch.stack([adapters[seed][name] for seed in seeds]).to(device) for name in adapters[seeds[0]]}
    placed = {f"base_model.model.{name}": weight for name, weight in stack.weights.items()}
    # Layers that have an adapter are wrapped, under a longer name.
    known = {name for name, _ in module.named_parameters()}
    fixed = {}
    for name, weight in placed.items():
        layer, _, kind = name.rpartition(".")
        wrapped = f"{layer}.base_layer.{kind}"
        fixed[wrapped if wrapped in known else name] = weight
    return Stack(module.to(device), weights, fixed)


def model_at(stack: Stack, place: int) -> PreTrainedModel:
    """One model of a stack without adapters, as transformers has it."""
    from copy import deepcopy

    model: PreTrainedModel = deepcopy(stack.module).cpu()
    model.load_state_dict({name: weight[place].detach().cpu() for name, weight in stack.weights.items()})
    return model


def save_stack(stack: Stack, path: Path) -> None:
    """The weights of a stack without adapters, as safetensors: each of shape (models, ...)."""
    from safetensors.torch import save_file

    save_file({name: weight.detach().cpu().contiguous() for name, weight in stack.weights.items()}, path)


def read_stack(path: Path, words: int, width: int, device: str = "cpu") -> Stack:
    """What `save_stack` wrote. Raises OSError or SafetensorError for a file that is not there or damaged."""
    from safetensors.torch import load_file

    return Stack(cast("Any", new_model(words, width, 0)).to(device), load_file(path, device=device), {})


def logits(stack: Stack, ids: torch.Tensor, sentence: torch.Tensor | None = None) -> torch.Tensor:
    """Of every next word: ids of shape (models, rows, words) to (models, rows, words, vocabulary). sentence: where rows
    hold several sentences, which of them each word belongs to, shape of ids."""
    return _call(stack.module, {**stack.fixed, **stack.weights}, ids, sentence=sentence).logits


def hidden(stack: Stack, ids: torch.Tensor) -> list[torch.Tensor]:
    """The residual stream after the embedding and after each layer but the last, and what the unembedding reads (after
    the final norm): each of shape (models, rows, words, width)."""
    with torch.no_grad():
        found: list[torch.Tensor] = list(
            _call(stack.module, {**stack.fixed, **stack.weights}, ids, hidden=True).hidden_states
        )
    return found


class _Output:
    def __init__(self, logits: torch.Tensor, hidden_states: tuple[torch.Tensor, ...]) -> None:
        self.logits, self.hidden_states = logits, hidden_states


def _call(
    module: Any, weights: Weights, ids: torch.Tensor, hidden: bool = False, sentence: torch.Tensor | None = None
) -> _Output:
    # Given in full, since transformers' own making of a mask cannot be mapped over. Where a row is one sentence it is
    # padded behind, where a causal mask lets nothing look.
    seen = (
        torch.ones(ids.shape[-1], ids.shape[-1], dtype=torch.bool, device=ids.device).tril().expand(len(ids), 1, -1, -1)
    )
    if sentence is not None:
        seen = seen & (sentence[..., :, None] == sentence[..., None, :])
    mask = torch.zeros(seen.shape, device=ids.device).masked_fill(~seen, torch.finfo(torch.float32).min)[:, :, None]
    places = seen.sum(dim=-1) - 1

    def one(weights: Weights, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = {"attention_mask": mask, "position_ids": places, "use_cache": False}
        found = functional_call(module, weights, (), {"input_ids": ids, "output_hidden_states": hidden, **given})
        return (found.logits, *(found.hidden_states if hidden else ()))

    first, *rest = vmap(one)(weights, ids, mask, places)
    return _Output(first, tuple(rest))


def answer_losses(
    stack: Stack, ids: torch.Tensor, asked: torch.Tensor, sentence: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy in nats per asked word, shape (models,). ids: (models, rows, words); asked: the same shape, true
    where a word is to be told from those before it (never the first of its sentence); sentence: see `logits`."""
    said = logits(stack, ids, sentence)[:, :, :-1]
    losses = torch.nn.functional.cross_entropy(
        said.reshape(-1, said.shape[-1]), ids[:, :, 1:].reshape(-1), reduction="none"
    ).reshape(ids.shape[0], ids.shape[1], -1)
    wanted = asked[:, :, 1:]
    return (losses * wanted).sum(dim=(1, 2)) / wanted.sum(dim=(1, 2))


def rate_at(width: int, rate: float) -> float:
    """The learning rate for a width, `rate` being that of width COMMON_WIDTH: a step of Adam moves every weight as far,
    and what a layer says by as much more as it has inputs (Yang et al. 2022)."""
    return rate * COMMON_WIDTH / width


Batches = Callable[[int], tuple[torch.Tensor, ...]]
"""From a step's number to its ids, what of them is asked and, where rows hold several, their sentences, as
`answer_losses` takes them."""


@dataclass(frozen=True)
class Training:
    """AdamW at `learning_rate`, which rises over `warmup` steps and then stays, for at most `steps` steps."""

    learning_rate: float
    steps: int
    warmup: int = 0
    weight_decay: float = 0.0


def train(
    stack: Stack,
    batches: Batches,
    training: Training,
    *,
    extra: Callable[[Weights], torch.Tensor] | None = None,
    confine: Callable[[Weights], None] | None = None,
    done: Callable[[Stack], torch.Tensor] | None = None,
    every: int = 50,
    near: float = float("inf"),
) -> tuple[Stack, np.ndarray]:
    """Train all models of a stack; returns it trained, and after how many steps each of them was finished.

    extra: a loss added to each model's, shape (models,). confine: changes weights in place after each step. done:
    which models have learnt enough, asked before the first step and every `every` steps: such a model stays as it is,
    and where all are done training ends. A model that is never done has the number of steps + 1. near: asked only where
    a model that is not done has a batch's loss (nats per asked word) of at most this, since asking takes as long as a
    few steps.
    """
    weights = {name: weight.clone().requires_grad_() for name, weight in stack.weights.items()}
    current = Stack(stack.module, weights, stack.fixed)
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    finished = torch.full((stack.models,), training.steps + 1)
    losses: torch.Tensor | None = None
    optimizer = torch.optim.AdamW(
        list(weights.values()), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    for step in range(training.steps + 1):
        unfinished = finished > training.steps
        if (
            done is not None
            and step % every == 0
            and (losses is None or bool((losses.cpu()[unfinished] <= near).any()))
        ):
            with torch.no_grad():
                now = done(current).cpu() & unfinished
            _keep(kept, weights, now)
            finished[now] = step
            if bool((finished <= training.steps).all()):
                break
        if step == training.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * min(1.0, (step + 1) / max(1, training.warmup))
        losses = answer_losses(current, *batches(step))
        # The models share no weight, so the gradient of the sum is each one's own.
        (losses if extra is None else losses + extra(weights)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if confine is not None:
            with torch.no_grad():
                confine(weights)
    _keep(kept, weights, finished > training.steps)
    return Stack(stack.module, kept, stack.fixed), finished.numpy()


def _keep(kept: Weights, weights: Mapping[str, torch.Tensor], models: torch.Tensor) -> None:
    for name, weight in weights.items():
        kept[name][models] = weight.detach()[models]
