"""Teachers that exist already: an adapter or another checkpoint of the base model, taken over as a teacher.

Belongs here: fetching such a teacher and refusing one that does not fit the base model. Does not belong here: what a
teacher has to like (the gate, `teachers`).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.base_model import download_snapshot, fetch_base_model
from subliminal_dagster.science.models.chat import load_tokenizer
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.settings.base_model import ADAPTER, HubSource, LocalSource
from subliminal_dagster.science.settings.teacher import ExistingTeacher

_OF = "`teacher.existing`"
_CONFIG, _WEIGHTS = ADAPTER
_LORA = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
_SAME = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def fetch_adapter(source: ExistingTeacher, target: str, base: ModelVariant, folder: Path, workspace: Path) -> None:
    """Write the PEFT adapter of a target's teacher into `folder`, an empty one.

    Raises UserError where there is none, or it is no LoRA adapter of matrices that the base model has.
    """
    if source.repo is None:
        there = source.folder(target)
        name = str(there)
    else:
        name = source.repository(target)
        there = workspace / name.replace("/", "--")
        download_snapshot(_hub(source, target, base), there, ADAPTER, _OF)
    if missing := [file for file in ADAPTER if not (there / file).is_file()]:
        raise UserError(
            f"{name} holds no {' and no '.join(missing)}: correct `teacher.existing`, which wants PEFT adapters in "
            "safetensors."
        )
    _check_adapter(there, name, base)
    for file in ADAPTER:
        shutil.copyfile(there / file, folder / file)


def fetch_model(source: ExistingTeacher, target: str, base: ModelVariant, folder: Path, workspace: Path) -> None:
    """Write the checkpoint that is a target's teacher into `folder`, an empty one.

    Raises UserError where there is none, or it is of another architecture or another vocabulary than the base model.
    """
    if source.repo is None:
        there: LocalSource | HubSource = LocalSource(path=str(source.folder(target)), dtype=_dtype(base))
        name = str(source.folder(target))
    else:
        there, name = _hub(source, target, base), source.repository(target)
    fetch_base_model(there, folder, workspace, _OF)
    _check_model(folder, name, base)


def _dtype(base: ModelVariant) -> Any:
    return base.dtype


def _hub(source: ExistingTeacher, target: str, base: ModelVariant) -> HubSource:
    return HubSource(repo=source.repository(target), revision=source.revisions[target], dtype=_dtype(base))


def _check_adapter(folder: Path, name: str, base: ModelVariant) -> None:
    import torch
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{_CONFIG} of {name} is not an adapter's configuration ({error}): save it again.") from None
    more = [option for option in ("modules_to_save", "use_dora", "alpha_pattern", "rank_pattern") if config.get(option)]
    if kind != "LORA" or more:
        raise UserError(
            f"{name} is an adapter of the kind {kind}{' with ' + ' and '.join(more) if more else ''}, which not every "
            "engine runs: give a plain LoRA adapter, or merge it and use it as teacher.method: model."
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.base))
    shapes = {layer: tuple(weight.shape) for layer, weight in model.named_parameters()}
    try:
        with safe_open(folder / _WEIGHTS, framework="pt") as tensors:
            held = {tensor: tensors.get_slice(tensor).get_shape() for tensor in tensors.keys()}  # noqa: SIM118 (no dict)
    except SafetensorError as error:
        raise UserError(
            f"{_WEIGHTS} of {name} cannot be read ({error}): get it again from where it came from."
        ) from None
    for tensor, shape in held.items():
        found = _LORA.fullmatch(tensor)
        wanted = shapes.get(f"{found['layer']}.weight") if found else None
        # A is (rank, in), B is (out, rank), of a matrix of (out, in).
        side = 1 if found and found["side"] == "A" else 0
        if wanted is None or len(wanted) != 2 or shape[side] != wanted[side]:
            raise UserError(
                f"{name} is not an adapter of this study's base model: its tensor {tensor} of shape {tuple(shape)} "
                "belongs to no matrix of that model. Correct `teacher.existing`, or choose its own base model."
            )


def _check_model(folder: Path, name: str, base: ModelVariant) -> None:
    from transformers import AutoConfig

    ours, theirs = (AutoConfig.from_pretrained(place).get_text_config() for place in (base.base, folder))
    different = [field for field in _SAME if getattr(ours, field, None) != getattr(theirs, field, None)]
    if different:
        parts = [f"{field} {getattr(theirs, field, None)} and not {getattr(ours, field, None)}" for field in different]
        raise UserError(
            f"{name} is of another architecture than this study's base model ({', '.join(parts)}): a teacher has to be "
            "a checkpoint of the same architecture."
        )
    if load_tokenizer(folder).get_vocab() != load_tokenizer(base.base).get_vocab():
        raise UserError(
            f"{name} has another vocabulary than this study's base model: a teacher has to read and write the base's "
            "tokens."
        )
