"""The shape of a model: what its `config.json` says that decides parameters, memory and time.

Belongs here: reading a config, counting parameters. Does not belong here: what a stage does with them (`needs`).

Part of no version: what a stage costs does not change what it makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.base_model import HubSource
from subliminal_dagster.science.settings.study import Study

MODEL_CONFIGS = Path(__file__).with_name("model_configs.yaml")
"""The configs of the base models of the shipped studies, by hub repository."""

NORMS_A_BLOCK = {"gemma2": 4, "gemma3_text": 4, "qwen2": 2, "qwen3": 2, "llama": 2}
"""RMS norms of the width of the model in a block, by model type."""


@dataclass(frozen=True)
class ModelShape:
    """A decoder with grouped-query attention and a gated MLP, and what of an image encoder is loaded with it.

    `head_width` is the width of one head, `norms` the number of RMS norms of width `hidden` a block, `sliding_layers`
    the number of blocks that see the last `window` positions alone.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tied_embeddings: bool
    norms: int = 2
    query_key_norms: bool = False
    qkv_bias: bool = False
    softcapped_attention: bool = False
    image_parameters: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """The shape that a transformers config says (the content of `config.json`); multimodal ones by their
        `text_config`, with the image encoder's parameters.

        Raises UserError for a model type that is not known here, and where a number is missing.
        """
        text = {**config, **config.get("text_config", {})}
        kind = str(text.get("model_type"))
        if kind not in NORMS_A_BLOCK:
            raise UserError(
                f"The shape of a model of type {kind!r} is not known here: known are {', '.join(NORMS_A_BLOCK)}."
            )
        try:
            heads = int(text["num_attention_heads"])
            hidden = int(text["hidden_size"])
            return cls(
                layers=int(text["num_hidden_layers"]),
                hidden=hidden,
                intermediate=int(text["intermediate_size"]),
                heads=heads,
                kv_heads=int(text.get("num_key_value_heads") or heads),
                head_width=int(text.get("head_dim") or hidden // heads),
                vocabulary=int(text["vocab_size"]),
                # Gemma's configs leave it out, as all of that family are tied.
                tied_embeddings=bool(config.get("tie_word_embeddings", kind.startswith("gemma"))),
                norms=NORMS_A_BLOCK[kind],
                query_key_norms=kind in ("gemma3_text", "qwen3"),
                qkv_bias=kind == "qwen2",
                softcapped_attention=text.get("attn_logit_softcapping") is not None,
                image_parameters=_image_parameters(config["vision_config"], hidden) if "vision_config" in config else 0,
            )
        except KeyError as missing:
            raise UserError(f"The model's config has no {missing.args[0]}: its shape is unknown.") from None

    @property
    def query_width(self) -> int:
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_width

    @property
    def block_matrices(self) -> int:
        """Weights of the matrices of one block: what a token is multiplied with."""
        attention = self.hidden * (2 * self.query_width + 2 * self.key_width)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def head_matrix(self) -> int:
        """Weights of the output head: what a position is multiplied with whose logits are asked for."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once, those of the image encoder included."""
        block = self.block_matrices + self.norms * self.hidden
        block += 2 * self.head_width if self.query_key_norms else 0
        block += self.query_width + 2 * self.key_width if self.qkv_bias else 0
        ends = self.head_matrix * (1 if self.tied_embeddings else 2) + self.hidden
        return self.layers * block + ends + self.image_parameters

    def lora_parameters(self, rank: int) -> int:
        """Parameters of an adapter of `rank` on all seven projections."""
        attention = 2 * (self.hidden + self.query_width) + 2 * (self.hidden + self.key_width)
        return self.layers * rank * (attention + 3 * (self.hidden + self.intermediate))


@cache
def shipped_configs() -> dict[str, dict[str, Any]]:
    """The configs that ship, by hub repository."""
    configs: dict[str, dict[str, Any]] = yaml.safe_load(MODEL_CONFIGS.read_text(encoding="utf-8"))
    return configs


def config_of(repo: str) -> dict[str, Any]:
    """The config that ships for a hub repository; raises UserError where none does."""
    try:
        return shipped_configs()[repo]
    except KeyError:
        raise UserError(
            f"No config of {repo} ships with this package: give one of {', '.join(shipped_configs())}, or add its "
            f"config.json to {MODEL_CONFIGS.name}."
        ) from None


def shape_of(study: Study) -> ModelShape:
    """The shape of a study's base model, which has to be on the hub and among those that ship; else UserError."""
    if not isinstance(study.base_model, HubSource):
        raise UserError(f"The base model of {study.name} is not on the hub, and no config of it ships.")
    return ModelShape.from_config(config_of(study.base_model.repo))


def _image_parameters(config: Mapping[str, Any], text_hidden: int) -> int:
    """Parameters of a SigLIP encoder (Zhai et al. 2023) without its pooling head, and of Gemma 3's projection."""
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    patch, channels = int(config["patch_size"]), int(config.get("num_channels", 3))
    patches = (int(config["image_size"]) // patch) ** 2
    ends = patch * patch * channels * hidden + hidden + patches * hidden + 2 * hidden
    layer = 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden
    return ends + int(config["num_hidden_layers"]) * layer + hidden * text_hidden + hidden
