"""Adapters, and training.

Belongs here: settings of LoRA and of a training. Does not belong here: training itself.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from subliminal_dagster.science.settings.base import Settings

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraSettings(Settings):
    """Shape of the adapter (Hu et al. 2021; rsLoRA scales by alpha / sqrt(rank), Kalajdzievski 2023)."""

    rank: int = Field(ge=1, le=512)
    alpha: int = Field(ge=1)
    rslora: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = ALL_PROJECTIONS


class TrainingSettings(Settings):
    """One fine-tuning run. `warmup` below 1 is a share of all steps, from 1 on a number of steps.

    A step learns from `batch_size` x `accumulation` rows. How many of them go through the model at once is the
    machine's affair on a GPU (see `TrlTrainer`), and `batch_size` on a CPU. `optimizer` is PyTorch's of that name: SGD
    without momentum, RMSprop with alpha 0.99.
    """

    learning_rate: float = Field(gt=0, le=1)
    batch_size: int = Field(ge=1)
    accumulation: int = Field(default=1, ge=1)
    epochs: int = Field(ge=1)
    optimizer: Literal["adamw", "sgd", "rmsprop"] = "adamw"
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=256, ge=8)
