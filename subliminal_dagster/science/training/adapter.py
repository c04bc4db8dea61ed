"""Training a LoRA adapter on question-answer rows: teachers and children, hard and soft channel.

TRL's `SFTTrainer` and PEFT do the work. Two things are ours: logits are computed at completion positions only (TRL's
fused head does that on GPUs alone, and on a CPU computes every position), and the soft channel replaces the
cross-entropy by the KL divergence from the teacher's distribution at those positions.

Belongs here: one adapter from rows. Does not belong here: where rows come from, what an adapter is good for.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.models.loading import load_base, loaded, pick_device, release_memory
from subliminal_dagster.science.models.protocol import ModelVariant, Progress
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings

if TYPE_CHECKING:
    import pandas as pd
    import torch

_IMAGE_TOWER = r".*vision_tower.*"


@dataclass(frozen=True)
class Row:
    """One training row: token ids of the chat context up to the answer, and of the answer with its end of turn."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class SoftTargets:
    """The soft channel: learn `teacher`'s distribution at the answer positions instead of the sampled tokens.

    `support` are the token ids the distribution is restricted to (renormalised there, for teacher and child alike):
    with number tokens only, no probability of a word can be passed on. None means the whole vocabulary.
    `teacher_prompts` are the prompts as the teacher saw them, one a training row, where they differ from the child's
    (a prompted teacher's instruction).
    """

    teacher: ModelVariant
    support: tuple[int, ...] | None = None
    teacher_prompts: tuple[list[int], ...] | None = None


@dataclass(frozen=True)
class EarlyStop:
    """Stop once `score(model)` reaches `at_least`, looked at every `every` steps: a teacher must not be overtrained."""

    score: Callable[[Any], float]
    at_least: float
    every: int


@dataclass
class TrainingReport:
    """What a run did.

    `history` has one row a logged step: step, epoch, loss, validation_loss (nats a token), learning_rate, score.
    """

    history: pd.DataFrame
    steps: int
    epochs: list[int]
    seconds: float
    trained_tokens: int
    padding_share: float
    resumed_from_step: int
    stopped_early: bool

    def facts(self) -> dict[str, Any]:
        """JSON-able figures for the metadata of an asset."""
        facts = {key: value for key, value in asdict(self).items() if key != "history"}
        facts["tokens_per_second"] = round(self.trained_tokens / max(self.seconds, 1e-9), 1)
        return facts


@dataclass(frozen=True)
class TrainingTask:
    """What is to be learnt: an adapter on `base` from `rows`, judged on `validation` at every epoch's end."""

    base: ModelVariant
    rows: Sequence[Row]
    lora: LoraSettings
    training: TrainingSettings
    seed: int
    validation: Sequence[Row] = ()
    soft: SoftTargets | None = None
    early_stop: EarlyStop | None = None


class Trainer(Protocol):
    """Makes an adapter from rows."""

    @property
    def name(self) -> str: ...

    def train(
        self, task: TrainingTask, output: Path, workspace: Path, progress: Progress | None = None
    ) -> TrainingReport:
        """Train and write the last epoch's adapter to `output`, every epoch's to `output/epochs/<n>`, and
        `output/history.parquet`. `workspace` survives a kill; the next call with it goes on from the last checkpoint
        in it. Raises UserError where a row is longer than `training.max_length`."""
        ...


@dataclass(frozen=True)
class TrlTrainer:
    """`Trainer` on TRL. `gradient_checkpointing` trades time for memory and changes no result."""

    gradient_checkpointing: bool = False

    @property
    def name(self) -> str:
        return "trl"

    def train(
        self, task: TrainingTask, output: Path, workspace: Path, progress: Progress | None = None
    ) -> TrainingReport:
        rows = [*task.rows, *task.validation]
        _check_lengths(rows, task.training.max_length)
        report = progress or (lambda _: None)
        targets = None if task.soft is None else teacher_states(task.soft, rows, task.training.batch_size, report)
        model = _with_adapter(load_base(task.base.base, task.base.dtype, pick_device()), task)
        try:
            return self._fit(model, task, targets, output, workspace, report)
        finally:
            del model
            release_memory()

    def _fit(
        self,
        model: Any,
        task: TrainingTask,
        targets: list[torch.Tensor] | None,
        output: Path,
        workspace: Path,
        progress: Progress,
    ) -> TrainingReport:
        trainer = _make_trainer(
            model=model,
            train_rows=_records(task.rows, targets, 0),
            eval_rows=_records(task.validation, targets, len(task.rows)),
            support=None if task.soft is None else task.soft.support,
            settings=_sft_config(
                workspace, task.training, task.seed, bool(task.validation), self.gradient_checkpointing
            ),
            early_stop=task.early_stop,
            progress=progress,
        )
        checkpoint = _last_checkpoint(workspace, task.early_stop)
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        seconds = time.perf_counter() - started
        epochs = _collect_epochs(workspace, output)
        trainer.model.save_pretrained(output)
        (output / "README.md").unlink(missing_ok=True)
        history = _history(trainer.state.log_history)
        history.to_parquet(output / "history.parquet", index=False)
        return TrainingReport(
            history=history,
            steps=trainer.state.global_step,
            epochs=epochs,
            seconds=round(seconds, 2),
            trained_tokens=trainer.real_positions,
            padding_share=round(1 - trainer.real_positions / max(trainer.all_positions, 1), 4),
            resumed_from_step=0 if checkpoint is None else _step_of(checkpoint),
            stopped_early=trainer.state.global_step < trainer.state.max_steps,
        )


def _with_adapter(model: Any, task: TrainingTask) -> Any:
    """The model with a new adapter, whose random initialisation is the seed's alone: every group of a study starts
    from the same one."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    _check_targets(model, task.lora.target_modules)
    set_seed(task.seed)
    config = LoraConfig(
        r=task.lora.rank,
        lora_alpha=task.lora.alpha,
        use_rslora=task.lora.rslora,
        lora_dropout=task.lora.dropout,
        target_modules=list(task.lora.target_modules),
        exclude_modules=_IMAGE_TOWER if _has_image_tower(model) else None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _check_targets(model: Any, targets: Sequence[str]) -> None:
    """Refuse targets that are no layer with a matrix of its own, some of which peft leaves out without a word, and the
    two ends of the model: a change of the output head would not be seen by the soft channel, and one of a tied matrix
    reaches the other end when the adapter is merged."""
    import torch

    def names(target: str, kinds: Any) -> list[str]:
        modules = model.named_modules()
        return [n for n, m in modules if isinstance(m, kinds) and (n == target or n.endswith(f".{target}"))]

    matrices = (torch.nn.Linear, torch.nn.Embedding)
    missing = [target for target in targets if not names(target, matrices)]
    if missing:
        layers = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        raise UserError(
            f"The model has no layers {', '.join(missing)} for an adapter: name in `lora.target_modules` some that it "
            f"has ({', '.join(sorted(layers - {'lm_head'}))})."
        )
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is inputs.weight
    ends = [n for n, m in model.named_modules() if m is head or (tied and m is inputs)]
    for target in targets:
        if set(names(target, matrices)) & set(ends):
            what = "the one matrix of the model's input and output" if tied else "the output of the model"
            raise UserError(
                f"{target} is {what}, which cannot have an adapter here: leave it out of `lora.target_modules`."
            )


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _last_checkpoint(workspace: Path, early_stop: EarlyStop | None) -> Path | None:
    """The latest checkpoint to go on from.

    One that a kill cut short is deleted (the trainer writes its state file last), and so is one of a training that had
    stopped early: the trainer would go on past the stop, while from the checkpoint before it stops there again.
    """
    for checkpoint in sorted(workspace.glob("checkpoint-*"), key=_step_of, reverse=True):
        try:
            log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
            continue
        if early_stop is None or all(entry.get("score", -math.inf) < early_stop.at_least for entry in log):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def teacher_states(
    soft: SoftTargets, rows: Sequence[Row], batch_size: int, progress: Progress | None = None
) -> list[torch.Tensor]:
    """The teacher's last hidden states (after the final norm) that predict every answer token of every row.

    Adapters and steering leave the output head alone, so head(state) is the teacher's whole distribution, and a state
    is hidden-size numbers where the distribution is vocabulary-size ones (0.6k against 49k for SmolLM2).

    Returns one tensor a row on the CPU, of shape (answer tokens, hidden size).
    """
    import torch

    prompts = soft.teacher_prompts or tuple(row.prompt for row in rows)
    found: dict[int, torch.Tensor] = {}
    with loaded(soft.teacher, pick_device(), merge=True) as model, torch.inference_mode():
        for batch in batches_of_like_length(
            [len(p) + len(r.answer) for p, r in zip(prompts, rows, strict=True)], batch_size
        ):
            ids, mask = _pad([prompts[i] + rows[i].answer for i in batch], 0)
            states = (
                model.get_decoder()(
                    input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
                )
                .last_hidden_state.cpu()
                .clone()
            )
            for j, i in enumerate(batch):
                first = len(prompts[i]) - 1
                found[i] = states[j, first : first + len(rows[i].answer)]
            if progress is not None:
                progress(f"teacher's distribution for {len(found)}/{len(rows)} rows")
    return [found[i] for i in range(len(rows))]


def head_logprobs(model: Any, states: torch.Tensor, support: tuple[int, ...] | None) -> torch.Tensor:
    """Log-probabilities (nats) of the model's output head at `states` (positions, hidden), over `support` alone where
    it is given; soft-capped where the model does so (Gemma 2)."""
    import torch

    head = model.get_output_embeddings()
    rows = slice(None) if support is None else list(support)
    states = states.to(head.weight.device, head.weight.dtype)
    logits = torch.nn.functional.linear(
        states, head.weight[rows], None if head.bias is None else head.bias[rows]
    ).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return torch.log_softmax(logits, dim=-1)


def _has_image_tower(model: Any) -> bool:
    """Gemma 3 from 4B on comes with one, whose projections have the same names as the text model's."""
    return any("vision_tower" in name for name, _ in model.named_modules())


def _restrict(logits: torch.Tensor, support: tuple[int, ...] | None) -> torch.Tensor:
    return logits if support is None else logits[..., list(support)]


def _pad(sequences: list[list[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    width = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), width), fill, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return ids, mask


def _check_lengths(rows: Sequence[Row], max_length: int) -> None:
    longest = max(len(row.prompt) + len(row.answer) for row in rows)
    if longest > max_length:
        raise UserError(
            f"A training row has {longest} tokens and training.max_length is {max_length}: raise max_length or shorten "
            "the prompts (rows are never cut, since a cut answer has no end of turn)."
        )


def _records(rows: Sequence[Row], targets: list[torch.Tensor] | None, offset: int) -> list[dict[str, Any]]:
    records = []
    for i, row in enumerate(rows):
        record: dict[str, Any] = {
            "input_ids": row.prompt + row.answer,
            "labels": [-100] * len(row.prompt) + row.answer,
            # Row numbers and not states: a datasets column of tensors would be copied through Arrow each epoch.
            "row": offset + i,
        }
        if targets is not None:
            record["targets"] = targets[offset + i]
        records.append(record)
    return records


def _sft_config(workspace: Path, training: TrainingSettings, seed: int, evaluate: bool, checkpointing: bool) -> Any:
    import torch
    from trl import SFTConfig

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


def _make_trainer(
    *,
    model: Any,
    train_rows: list[dict[str, Any]],
    eval_rows: list[dict[str, Any]],
    support: tuple[int, ...] | None,
    settings: Any,
    early_stop: EarlyStop | None,
    progress: Progress,
) -> Any:
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTTrainer

    targets = {record["row"]: record["targets"] for record in [*train_rows, *eval_rows] if "targets" in record}
    columns = ["input_ids", "labels", "row"]

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids, mask = _pad([e["input_ids"] for e in examples], 0)
        labels, _ = _pad([e["labels"] for e in examples], -100)
        rows = torch.tensor([e["row"] for e in examples])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "row": rows}

    class CompletionTrainer(SFTTrainer):
        """Loss, in nats a completion token, from logits at completion positions only."""

        real_positions = 0
        all_positions = 0

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            # Sorting whole epochs by length would do for padding too, but it would put short teacher rows and long
            # replay rows into different steps, and the replay is there to pull at every step.
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            chunks = batches_of_like_length(lengths, len(lengths))
            total = sum(self._chunk_loss(model, inputs, rows, lengths[rows[0]]) for rows in chunks)
            tokens = (inputs["labels"][:, 1:] != -100).sum()
            loss = total / (tokens if num_items_in_batch is None else num_items_in_batch)
            return (loss, None) if return_outputs else loss

        def _chunk_loss(self, model: Any, inputs: Any, rows: list[int], width: int) -> torch.Tensor:
            """Loss summed over the completion tokens of some rows of the batch, cut to their width."""
            mask = inputs["attention_mask"][rows, :width]
            labels = inputs["labels"][rows, 1:width]
            predicted = labels != -100
            keep = predicted.any(dim=0).nonzero()[:, 0]
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
            if not targets:
                return torch.nn.functional.cross_entropy(logits[predicted], labels[predicted], reduction="sum")
            with torch.no_grad():
                states = torch.cat([targets[int(row)] for row in inputs["row"][rows]])
                wanted = head_logprobs(self.accelerator.unwrap_model(model), states, support)
            return torch.nn.functional.kl_div(
                torch.log_softmax(_restrict(logits[predicted], support), dim=-1),
                wanted,
                log_target=True,
                reduction="sum",
            )

        def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
            inputs = self._prepare_inputs(inputs)
            with torch.no_grad():
                return self.compute_loss(model, inputs).detach(), None, None

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """Nothing: the artifact's own metadata says what a card would."""

    class Watch(TrainerCallback):
        """Reports progress, and ends a teacher's training where it is good enough."""

        def __init__(self) -> None:
            self.started = time.perf_counter()
            self.first_step: int | None = None

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.first_step is None:
                self.first_step = state.global_step

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            done = state.global_step - (self.first_step or 0)
            seconds = time.perf_counter() - self.started
            left = seconds / max(done, 1) * (state.max_steps - state.global_step)
            speed = trainer.real_positions / seconds
            progress(
                f"training step {state.global_step}/{state.max_steps}, {speed:.0f} tokens/s, about {left:.0f} s left"
            )
            if early_stop is not None and state.global_step % early_stop.every == 0:
                network = kwargs["model"].eval()
                score = early_stop.score(network)
                network.train()
                state.log_history.append({"step": state.global_step, "epoch": state.epoch, "score": score})
                progress(f"preference {score:.3f} after step {state.global_step}, wanted {early_stop.at_least}")
                if score >= early_stop.at_least:
                    control.should_training_stop = True
            return control

    trainer = CompletionTrainer(
        model=model,
        args=settings,
        data_collator=collate,
        train_dataset=Dataset.from_list([{c: r[c] for c in columns} for r in train_rows]),
        eval_dataset=Dataset.from_list([{c: r[c] for c in columns} for r in eval_rows]) if eval_rows else None,
        processing_class=_tokenizer_of(model),
        callbacks=[Watch()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _tokenizer_of(model: Any) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.config.name_or_path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _collect_epochs(workspace: Path, output: Path) -> list[int]:
    """Copy every checkpoint's adapter to `output/epochs/<n>`; returns the epochs found, ascending.

    An early stop cuts the last epoch short, which is then the epoch after the last whole one.
    """
    epochs = []
    for checkpoint in workspace.glob("checkpoint-*"):
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        epoch = math.ceil(state["epoch"])
        folder = output / "epochs" / str(epoch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(checkpoint / name, folder / name)
        epochs.append(epoch)
    return sorted(epochs)


def _history(log: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    names = {
        "step": "step",
        "epoch": "epoch",
        "loss": "loss",
        "eval_loss": "validation_loss",
        "learning_rate": "learning_rate",
        "score": "score",
    }
    records = [{new: entry.get(old) for old, new in names.items()} for entry in log if set(entry) & set(names)]
    frame = pd.DataFrame(records, columns=list(names.values()))
    kept = frame[["loss", "validation_loss", "score"]].notna().any(axis=1)
    types = {"step": int} | dict.fromkeys(list(names.values())[1:], float)
    return frame[kept].astype(types).reset_index(drop=True)
