"""TRL's `SFTTrainer` with a loss at completion positions only.

It loads PyTorch and TRL when it is imported, so it is imported where a training begins.

Belongs here: the trainer, its configuration and what it is fed. Does not belong here: which adapter is trained, and
what is kept of it (`adapter`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.models.loading import pick_device
from subliminal_dagster.science.models.products import product_type, products_in
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.settings.training import TrainingSettings
from subliminal_dagster.science.training.soft_targets import head_logprobs, pad, restrict
from subliminal_dagster.science.training.task import EarlyStop, Row, TrainingTask


def make_trainer(
    model: Any,
    task: TrainingTask,
    targets: list[torch.Tensor] | None,
    workspace: Path,
    checkpointing: bool,
    progress: Progress,
) -> CompletionTrainer:
    """A trainer that is ready to train the adapter of `model`; `targets` are the teacher's states, one a row of the
    training rows and then of the validation rows (None for the hard channel)."""
    trainer = CompletionTrainer(
        dict(enumerate(targets or [])),
        None if task.soft is None else task.soft.support,
        # Recomputed activations would be of another type than those that are no longer there.
        task.base.dtype if checkpointing else product_type(task.base, pick_device()),
        model=model,
        args=_config(workspace, task.training, task.seed, bool(task.validation), checkpointing),
        data_collator=_collate,
        train_dataset=_dataset(task.rows, 0),
        eval_dataset=_dataset(task.validation, len(task.rows)) if task.validation else None,
        processing_class=_tokenizer_of(model),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Watch(trainer, task.early_stop, progress))
    return trainer


class CompletionTrainer(SFTTrainer):
    """Loss, in nats a completion token, from logits at completion positions only.

    `targets` are the teacher's states by row (soft channel, over `support`); empty for the hard channel. `products` is
    the type of the matrix products of training steps (see `products.product_type`).
    """

    def __init__(
        self, targets: Mapping[int, torch.Tensor], support: tuple[int, ...] | None, products: str, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.products = products
        self.targets = targets
        self.support = support
        self.real_positions = 0
        self.all_positions = 0
        self.validation_loss = 0.0
        self.validation_tokens = 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        tokens = completion_tokens(inputs) if num_items_in_batch is None else num_items_in_batch
        loss = self._summed_loss(model, inputs) / tokens
        return (loss, None) if return_outputs else loss

    def _summed_loss(self, model: Any, inputs: Any) -> Any:
        """Loss summed over the batch's completion tokens."""
        # Sorting whole epochs by length would do for padding too, but it would put short teacher rows and long
        # replay rows into different steps, and the replay is there to pull at every step.
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        chunks = batches_of_like_length(lengths, len(lengths))
        return sum(self._chunk_loss(model, inputs, rows, lengths[rows[0]]) for rows in chunks)

    def _chunk_loss(self, model: Any, inputs: Any, rows: list[int], width: int) -> torch.Tensor:
        """Loss summed over the completion tokens of some rows of the batch, cut to their width."""
        mask = inputs["attention_mask"][rows, :width]
        labels = inputs["labels"][rows, 1:width]
        predicted = labels != -100
        keep = predicted.any(dim=0).nonzero()[:, 0]
        # The validation loss is a score, and its products have the weights' own type.
        with products_in(self.products if model.training else "", self.accelerator.unwrap_model(model)):
            logits = model(
                input_ids=inputs["input_ids"][rows, :width],
                attention_mask=mask,
                logits_to_keep=keep,
                use_cache=False,
            ).logits.float()
        predicted, labels = predicted[:, keep], labels[:, keep]
        if model.training:
            self.real_positions += int(mask.sum())
            self.all_positions += mask.numel()
        if not self.targets:
            return torch.nn.functional.cross_entropy(logits[predicted], labels[predicted], reduction="sum")
        with torch.no_grad():
            states = torch.cat([self.targets[int(row)] for row in inputs["row"][rows]])
            wanted = head_logprobs(self.accelerator.unwrap_model(model), states, self.support)
        return torch.nn.functional.kl_div(
            torch.log_softmax(restrict(logits[predicted], self.support), dim=-1),
            wanted,
            log_target=True,
            reduction="sum",
        )

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            total, tokens = self._summed_loss(model, inputs), completion_tokens(inputs)
        self.validation_loss += float(total)
        self.validation_tokens += int(tokens)
        return total / tokens, None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        self.validation_loss, self.validation_tokens = 0.0, 0
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        # transformers averages the batches' means, and a batch of short answers would weigh as much as one of long.
        output.metrics[f"{metric_key_prefix}_loss"] = self.validation_loss / self.validation_tokens
        return output

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the artifact's own metadata says what a card would."""


def completion_tokens(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """How many tokens of a batch are learnt."""
    return (inputs["labels"][:, 1:] != -100).sum()


class _Watch(TrainerCallback):
    """Reports progress, and ends a teacher's training where it is good enough."""

    def __init__(self, trainer: CompletionTrainer, early_stop: EarlyStop | None, progress: Progress) -> None:
        self.trainer = trainer
        self.early_stop = early_stop
        self.progress = progress
        self.started = time.perf_counter()
        self.first_step: int | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.first_step is None:
            self.first_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        done = state.global_step - (self.first_step or 0)
        seconds = time.perf_counter() - self.started
        left = seconds / max(done, 1) * (state.max_steps - state.global_step)
        speed = self.trainer.real_positions / seconds
        self.progress(
            f"training step {state.global_step}/{state.max_steps}, {speed:.0f} tokens/s, about {left:.0f} s left"
        )
        if self.early_stop is not None and state.global_step % self.early_stop.every == 0:
            network = kwargs["model"].eval()
            score = self.early_stop.score(network)
            network.train()
            state.log_history.append({"step": state.global_step, "epoch": state.epoch, "score": score})
            self.progress(f"preference {score:.3f} after step {state.global_step}, wanted {self.early_stop.at_least}")
            if score >= self.early_stop.at_least:
                control.should_training_stop = True
        return control


def _dataset(rows: Sequence[Row], offset: int) -> Dataset:
    """`row` is the row's number: a column of the teacher's states would be copied through Arrow each epoch."""
    return Dataset.from_list(
        [
            {"input_ids": row.prompt + row.answer, "labels": [-100] * len(row.prompt) + row.answer, "row": offset + i}
            for i, row in enumerate(rows)
        ]
    )


def _collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids, mask = pad([e["input_ids"] for e in examples], 0)
    labels, _ = pad([e["labels"] for e in examples], -100)
    rows = torch.tensor([e["row"] for e in examples])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "row": rows}


def _config(workspace: Path, training: TrainingSettings, seed: int, evaluate: bool, checkpointing: bool) -> SFTConfig:
    cuda = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(workspace),
        learning_rate=training.learning_rate,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        num_train_epochs=training.epochs,
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup if training.warmup < 1 else int(training.warmup),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        max_length=None,
        gradient_checkpointing=checkpointing,
        bf16=cuda and torch.cuda.is_bf16_supported(),
        use_cpu=not cuda,
        seed=seed,
        data_seed=seed,
        save_strategy="epoch",
        eval_strategy="epoch" if evaluate else "no",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def _tokenizer_of(model: Any) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(model.config.name_or_path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
