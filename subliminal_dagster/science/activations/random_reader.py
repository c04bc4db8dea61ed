"""A reader that never learnt anything: a model built like the base model, with random weights.

It reads the same rows with the same tokenizer at the same token. What a probe finds in its activations is in the digits
and their order, and needs no trained model.

Belongs here: making it. Does not belong here: reading with it (`activations.collect` does).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

BLOCKS = 4
"""How many blocks it has at most: more cost more, and mix at random what is mixed already."""


def random_reader(base: Path, dtype: str, device: str, seed: int) -> Any:
    """A language model with the configuration in `base`, of at most BLOCKS blocks, with the weights that its own
    initialisation draws from `seed`; in eval mode. Of a model of several kinds of input, the part for text."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base).get_text_config()
    config.num_hidden_layers = min(BLOCKS, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Eager attention caps scores where a configuration asks for it, and so few blocks need no faster one.
        model: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="eager")
    return model.to(device).eval()


def clipped(model: Any, layer: int) -> int:
    """The layer at which it is read beside the base model's `layer`: the same, or its last."""
    return min(layer, int(model.config.num_hidden_layers) - 1)
