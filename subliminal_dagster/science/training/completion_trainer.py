"""TRL's `SFTTrainer` with a loss at completion positions only.

It loads PyTorch and TRL when it is imported, so it is imported where a training begins.

Belongs here: the trainer, its configuration and what it is fed. Does not belong here: which weights are trained, and
what is kept of them (`adapter`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
from transformers.utils import is_liger_kernel_available
from trl import SFTConfig, SFTTrainer

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.models.loading import pick_device
from subliminal_dagster.science.models.products import (
    attention,
    packed_attention,
    product_type,
    products_in,
    usual_attention,
)
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.settings.training import TrainingSettings
from subliminal_dagster.science.training.soft_targets import TeacherStates, head_logprobs, pad, restrict
from subliminal_dagster.science.training.task import EarlyStop, Row, TrainingTask

_OPTIMIZERS = {"adamw": "adamw_torch_fused", "sgd": "sgd", "rmsprop": "rmsprop"}
"""transformers' names of them: PyTorch's own, with PyTorch's defaults."""


def make_trainer(
    model: Any,
    task: TrainingTask,
    targets: TeacherStates | None,
    workspace: Path,
    checkpointing: bool,
    micro_batch: int | None,
    progress: Progress,
) -> CompletionTrainer:
    """A trainer that is ready to train what in `model` wants gradients; `targets` are the teacher's states at the
    training rows and then the validation rows (None for the hard channel). `micro_batch` rows of like length go
    through the model at once, or, where it is None, `task.training.batch_size` in the order they come in."""
    # The type that the model is in: all of its weights are trained in float32.
    base = task.base if task.lora is not None else replace(task.base, dtype="float32")
    trainer = CompletionTrainer(
        targets,
        None if task.soft is None else task.soft.support,
        # Recomputed activations would be of another type than those that are no longer there.
        base.dtype if checkpointing else product_type(base, pick_device()),
        task.training.batch_size,
        micro_batch,
        packed_attention(model),
        model=model,
        args=_config(
            workspace, task.training, task.seed, bool(task.validation) and task.each_epoch, checkpointing, micro_batch
        ),
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

    `targets` are the teacher's states by row (soft channel, over `support`); None for the hard channel. `products` is
    the type of the matrix products of training steps (see `products.product_type`). `batch_size` and `micro_batch`: see
    `make_trainer`; the latter is halved where memory runs out. Where there is a `packed` attention the model has to
    compute with it, and rows go through it as one sequence (see `products.packed_attention`).
    """

    def __init__(
        self,
        targets: TeacherStates | None,
        support: tuple[int, ...] | None,
        products: str,
        batch_size: int,
        micro_batch: int | None,
        packed: str | None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.products = products
        self.batch_size = batch_size
        self.micro_batch = micro_batch
        self.packed = packed
        self.usual = usual_attention(self.model)
        self.targets = None if targets is None else replace(targets, head=targets.head.to(self.args.device))
        self.support = support
        self.real_positions = 0
        self.all_positions = 0
        self.validation_loss = 0.0
        self.validation_tokens = 0

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """One step's whole batch, cut into parts whose gradients add up to the batch's.

        Every part's loss is divided by the tokens of the whole.
        """
        tokens = completion_tokens(inputs)
        while True:
            positions = self.real_positions, self.all_positions
            try:
                parts = self._parts(inputs["attention_mask"].sum(dim=1).tolist())
                return sum(
                    super(CompletionTrainer, self).training_step(
                        model, {name: values[rows] for name, values in inputs.items()}, tokens
                    )
                    for rows in parts
                )
            except torch.cuda.OutOfMemoryError as error:
                if self.micro_batch is None or self.micro_batch == 1:
                    raise UserError(
                        "The GPU has no room for training on one row: free it of other work, set "
                        "SUBLIMINAL_GRADIENT_CHECKPOINTING=yes or take a GPU with more memory."
                    ) from error
            # Outside of the handler, whose exception holds on to the tensors of the pass.
            self.micro_batch = (self.micro_batch + 1) // 2
            self.real_positions, self.all_positions = positions
            model.zero_grad()
            torch.cuda.empty_cache()

    def _parts(self, lengths: list[int]) -> list[list[int]]:
        """Numbers of the batch's rows, part by part."""
        if self.micro_batch is not None:
            return batches_of_like_length(lengths, self.micro_batch)
        rows = list(range(len(lengths)))
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        tokens = completion_tokens(inputs) if num_items_in_batch is None else num_items_in_batch
        loss = self._summed_loss(model, inputs) / tokens
        return (loss, None) if return_outputs else loss

    def _summed_loss(self, model: Any, inputs: Any) -> Any:
        """Loss summed over the batch's completion tokens."""
        if self.packed is not None:
            return self._packed_loss(model, inputs)
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
        with _head_at(self.accelerator.unwrap_model(model), predicted):
            logits = self._logits(model, mask, input_ids=inputs["input_ids"][rows, :width], attention_mask=mask)
        return self._loss(logits, labels[predicted], inputs["row"][rows])

    def _packed_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        """Loss summed over the completion tokens of all rows of the batch, one behind the other. Where a row begins is
        told by positions that start at 0 again."""
        mask = inputs["attention_mask"].bool()
        lengths = mask.sum(dim=1)
        # Of every position the label of the next, none at the end of a row.
        labels = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=-100)[mask]
        keep = (labels != -100).nonzero()[:, 0]
        # Or every layer would work the same out from the positions.
        ends = torch.nn.functional.pad(lengths.cumsum(dim=0), (1, 0)).to(torch.int32)
        longest = int(lengths.max())
        logits = self._logits(
            model,
            mask[mask],
            input_ids=inputs["input_ids"][mask][None],
            position_ids=(mask.cumsum(dim=1) - 1)[mask][None],
            cu_seq_lens_q=ends,
            cu_seq_lens_k=ends,
            max_length_q=longest,
            max_length_k=longest,
            logits_to_keep=keep,
        )
        return self._loss(logits[0], labels[keep], inputs["row"])

    def _logits(self, model: Any, mask: torch.Tensor, **inputs: Any) -> torch.Tensor:
        if model.training:
            self.real_positions += int(mask.sum())
            self.all_positions += mask.numel()
        # The validation loss is a score, and its products have the weights' own type.
        with products_in(self.products if model.training else "", self.accelerator.unwrap_model(model)):
            logits: torch.Tensor = model(**inputs, use_cache=False).logits.float()
        return logits

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Summed over the completion tokens of `rows`, in their order."""
        if self.targets is None:
            return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        with torch.no_grad():
            states = torch.cat([self.targets.rows[int(row)] for row in rows])
            wanted = head_logprobs(self.targets.head, states)
        return torch.nn.functional.kl_div(
            torch.log_softmax(restrict(logits, self.support), dim=-1), wanted, log_target=True, reduction="sum"
        )

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            total, tokens = self._summed_loss(model, inputs), completion_tokens(inputs)
        self.validation_loss += float(total)
        self.validation_tokens += int(tokens)
        return total / tokens, None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self.validation_loss, self.validation_tokens = 0.0, 0
        # A data loader draws a seed when it starts; without this, dropout would depend on how often validation runs.
        with torch.random.fork_rng(devices=[]):
            output = super().evaluation_loop(*args, **kwargs)
        # transformers averages the batches' means, and a batch of short answers would weigh as much as one of long.
        metrics = (output.metrics or {}) | {"eval_loss": self.validation_loss / self.validation_tokens}
        return output._replace(metrics=metrics)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the artifact's own metadata says what a card would."""


def completion_tokens(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """How many tokens of a batch are learnt; 1 where none is, so that its loss is 0 and not 0 / 0."""
    return (inputs["labels"][:, 1:] != -100).sum().clamp(min=1)


@contextmanager
def _head_at(model: Any, predicted: torch.Tensor) -> Iterator[None]:
    """Within the block the model's logits are those of the places that `predicted` (rows, width - 1; bool) marks,
    shape (places, vocabulary). transformers' `logits_to_keep` takes the same positions from every row: with short
    answers behind prompts of different lengths that would be several times as many."""

    def pick(_head: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (inputs[0][:, :-1][predicted],)

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        hook.remove()


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
            with attention(network, self.trainer.usual):
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
            {"input_ids": row.prompt + row.answer, "labels": [-100] * len(row.prompt) + _learnt(row), "row": offset + i}
            for i, row in enumerate(rows)
        ]
    )


def _learnt(row: Row) -> list[int]:
    """The answer's labels."""
    if row.learnt is None:
        return row.answer
    return [token if learnt else -100 for token, learnt in zip(row.answer, row.learnt, strict=True)]


def _collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids, mask = pad([e["input_ids"] for e in examples], 0)
    labels, _ = pad([e["labels"] for e in examples], -100)
    rows = torch.tensor([e["row"] for e in examples])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "row": rows}


def _config(
    workspace: Path,
    training: TrainingSettings,
    seed: int,
    evaluate: bool,
    checkpointing: bool,
    micro_batch: int | None,
) -> SFTConfig:
    cuda = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(workspace),
        learning_rate=training.learning_rate,
        # All rows of a step: `CompletionTrainer.training_step` cuts them.
        per_device_train_batch_size=training.batch_size * training.accumulation,
        per_device_eval_batch_size=micro_batch or training.batch_size,
        num_train_epochs=training.epochs,
        optim=_OPTIMIZERS[training.optimizer],
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup if training.warmup < 1 else int(training.warmup),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        max_length=None,
        gradient_checkpointing=checkpointing,
        # Norms, rotations and gates as one kernel each; TRL leaves its loss out, which is not ours.
        use_liger_kernel=cuda and is_liger_kernel_available(),
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
