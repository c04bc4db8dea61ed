"""Training on question-answer rows: teachers and children, hard and soft channel, a LoRA adapter or all weights.

TRL's `SFTTrainer` and PEFT do the work. Two things are ours: logits are computed at completion positions only (TRL's
fused head does that on GPUs alone, and on a CPU computes every position), and the soft channel replaces the
cross-entropy by the KL divergence from the teacher's distribution at those positions.

Belongs here: one adapter or model from rows, and what is kept of its training. Does not belong here: the loss
(`completion_trainer`), where rows come from, what it is good for.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.loading import load_base, pick_device, release_memory
from subliminal_dagster.science.models.products import attention, packed_attention, usual_attention
from subliminal_dagster.science.models.projection import projected_out
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.models.residual_stream import check_layers
from subliminal_dagster.science.settings.base_model import model_files
from subliminal_dagster.science.settings.training import LoraSettings
from subliminal_dagster.science.training.micro_batches import rows_that_fit
from subliminal_dagster.science.training.soft_targets import TeacherStates, teacher_states
from subliminal_dagster.science.training.task import EarlyStop, Row, TrainingReport, TrainingTask

if TYPE_CHECKING:
    import pandas as pd

_IMAGE_TOWER = r".*vision_tower.*"


@dataclass(frozen=True)
class TrlTrainer:
    """`Trainer` on TRL. Its fields are the machine's affair, and change no result but by rounding.

    `gradient_checkpointing` trades time for memory; on a GPU that has no room for one row without, it is done in any
    case. `micro_batch` rows go through the model at once; None: as many as fit a GPU, on a CPU `training.batch_size`.
    """

    gradient_checkpointing: bool = False
    micro_batch: int | None = None

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
        model = _to_train(task)
        try:
            return self._fit(model, task, targets, output, workspace, report)
        finally:
            del model
            release_memory()

    def _fit(
        self,
        model: Any,
        task: TrainingTask,
        targets: TeacherStates | None,
        output: Path,
        workspace: Path,
        progress: Progress,
    ) -> TrainingReport:
        from subliminal_dagster.science.training.completion_trainer import make_trainer

        micro_batch, checkpointing = self._micro_batch(model, task)
        trainer = make_trainer(model, task, targets, workspace, checkpointing, micro_batch, progress)
        checkpoint = _last_checkpoint(workspace, task.early_stop)
        started = time.perf_counter()
        with attention(model, trainer.packed), projected_out(model, task.without):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            if task.validation and not task.each_epoch:
                trainer.evaluate()
        seconds = time.perf_counter() - started
        epochs = _collect_epochs(workspace, output, task) if task.each_epoch else []
        _save(model, task, output)
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
            products=trainer.products,
        )

    def _micro_batch(self, model: Any, task: TrainingTask) -> tuple[int | None, bool]:
        """How many rows go through the model at once (None: as the settings say), and whether activations are computed
        twice."""
        if model.device.type != "cuda" or self.micro_batch is not None:
            return self.micro_batch, self.gradient_checkpointing
        rows = [*task.rows, *task.validation]
        size = max(len(row.prompt) + len(row.answer) for row in rows), max(len(row.answer) for row in rows)
        kind = packed_attention(model) or usual_attention(model)
        fits = rows_that_fit(model, *size, attention=kind, recomputing=self.gradient_checkpointing)
        if fits or self.gradient_checkpointing:
            return max(1, fits), self.gradient_checkpointing
        return max(1, rows_that_fit(model, *size, attention=kind, recomputing=True)), True


def _to_train(task: TrainingTask) -> Any:
    """The base with an adapter or, without `task.lora`, with all weights wanting gradients but an image tower's.

    Those are in float32 whatever the base's type: in bfloat16 a step of the usual size is less than half the distance
    to the next number, and would be lost.
    """
    if task.lora is not None:
        return _with_adapter(load_base(task.base.checkpoint, task.base.dtype, pick_device()), task, task.lora)
    model = load_base(task.base.checkpoint, "float32", pick_device())
    for name, weight in model.named_parameters():
        weight.requires_grad_(not _of_images(name))
    return model


def _save(model: Any, task: TrainingTask, folder: Path) -> None:
    """Write the adapter, or the whole model in the base's type, with the base's tokenizer and licence."""
    if task.lora is None:
        import torch

        model = model.to(getattr(torch, task.base.dtype))
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    if task.lora is None:
        for file in model_files(task.base.base):
            weights = file.suffix == ".safetensors" or file.name.endswith(".safetensors.index.json")
            if not weights and file.name != "README.md" and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)


def _with_adapter(model: Any, task: TrainingTask, lora: LoraSettings) -> Any:
    """The model with a new adapter, whose random initialisation is the seed's alone: of the same seed and shape, every
    adapter on a base starts from the same one."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    _check_targets(model, lora.target_modules)
    check_layers(model, task.layers or ())
    # The order of the rows does not follow from this: the trainer sets `task.seed` when it is made.
    set_seed(task.seed if task.initialisation_seed is None else task.initialisation_seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        use_rslora=lora.rslora,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        exclude_modules=_IMAGE_TOWER if _has_image_tower(model) else None,
        layers_to_transform=None if task.layers is None else list(task.layers),
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


def _has_image_tower(model: Any) -> bool:
    """Gemma 3 from 4B on comes with one, whose projections have the same names as the text model's."""
    return any(_of_images(name) for name, _ in model.named_modules())


def _of_images(name: str) -> bool:
    return "vision_tower" in name or "multi_modal_projector" in name


def _check_lengths(rows: Sequence[Row], max_length: int) -> None:
    longest = max(len(row.prompt) + len(row.answer) for row in rows)
    if longest > max_length:
        raise UserError(
            f"A training row has {longest} tokens and training.max_length is {max_length}: raise max_length or shorten "
            "the prompts (rows are never cut, since a cut answer has no end of turn)."
        )


def _collect_epochs(workspace: Path, output: Path, task: TrainingTask) -> list[int]:
    """Copy every checkpoint's adapter or model to `output/epochs/<n>`; returns the epochs found, ascending.

    An early stop cuts the last epoch short, which is then the epoch after the last whole one.
    """
    epochs = []
    for checkpoint in workspace.glob("checkpoint-*"):
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        epoch = math.ceil(state["epoch"])
        folder = output / "epochs" / str(epoch)
        folder.mkdir(parents=True, exist_ok=True)
        if task.lora is None:
            _save(load_base(checkpoint, task.base.dtype, "cpu"), task, folder)
        else:
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
