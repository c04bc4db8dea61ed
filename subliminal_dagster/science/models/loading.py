"""Loading a model variant with transformers: weights, LoRA adapter, steering hook.

Belongs here: what the transformers engine and the trainer share. Does not belong here: generation, training.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.protocol import ModelVariant, Steering


def pick_device() -> str:
    """ "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_facts(device: str) -> str:
    """A name for metadata, such as "NVIDIA L40S" or "cpu (2 threads)"."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"cpu ({torch.get_num_threads()} threads)"


def load_base(base: Path, dtype: str, device: str) -> Any:
    """The base model in eval mode, read straight to the device: a 27B model in bfloat16 takes 54 GB there, and never as
    much of the host's memory. Attention is eager where the model soft-caps attention scores (Gemma 2), since
    scaled-dot-product attention would leave the cap out."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    _leave_imports_alone()
    config = AutoConfig.from_pretrained(base).get_text_config()
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    model: Any = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=getattr(torch, dtype),
        attn_implementation="eager" if capped else "sdpa",
        use_safetensors=True,
        device_map=device,
    )
    return model.eval()


@functools.cache
def _leave_imports_alone() -> None:
    """All that was imported stays, and no search for dropped models need look through it, which takes half a second
    each time. Once, before the first model: a later one would stay as well."""
    gc.freeze()


@contextmanager
def loaded(variant: ModelVariant, device: str, *, merge: bool) -> Iterator[Any]:
    """The variant's model in eval mode, freed at the end of the block, an error included.

    With `merge` the adapter is folded into the weights where that changes nothing but rounding in float32 (see
    `merges_exactly`); generation is faster then. Otherwise it is laid over them, as in training.
    """
    model = load_base(variant.checkpoint, variant.dtype, device)
    try:
        if variant.adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, variant.adapter).eval()
            if merge and merges_exactly(variant.dtype):
                model = model.merge_and_unload()
        if variant.steering is None:
            yield model
        else:
            with steered(model, variant.steering):
                yield model
    finally:
        del model
        release_memory()


def merges_exactly(dtype: str) -> bool:
    """Whether an adapter folded into weights of this type gives the model that was trained, up to rounding in float32.

    The sum of a bfloat16 or float16 matrix and an adapter's is rounded to that type again, which loses most of what a
    small adapter says: a child's log-probabilities then move by as much as some of what is to be measured.
    """
    return dtype in ("float32", "float64")


def release_memory() -> None:
    """Give memory of dropped models back, on a GPU to the driver."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def steered(model: Any, steering: Steering) -> Iterator[None]:
    """Add the steering vector after block `steering.layer` while the block lasts; the hook never outlives an error.

    Raises UserError where the layer does not exist, or the vector is missing, of another width than the model, zero or
    not finite.
    """
    from safetensors.torch import load_file

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    blocks = inner.get_decoder().layers
    if not 0 <= steering.layer < len(blocks):
        raise UserError(
            f"Layer {steering.layer} does not exist in {inner.config.name_or_path}: choose 0 to {len(blocks) - 1}."
        )
    tensors = load_file(steering.file)
    if "vector" not in tensors:
        raise UserError(f"The file {steering.file} holds no tensor named 'vector': save the steering vector as that.")
    vector = tensors["vector"].float()
    hidden = inner.config.get_text_config().hidden_size
    if vector.shape != (hidden,):
        raise UserError(
            f"The steering vector in {steering.file} has shape {tuple(vector.shape)} and the model's hidden size is "
            f"{hidden}: make the vector with this base model."
        )
    if not 0 < float(vector.norm()) < float("inf"):
        raise UserError(f"The steering vector in {steering.file} is zero or not finite: rebuild it.")
    push = (vector / vector.norm() * steering.alpha).to(model.device, model.dtype)

    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + push, *output[1:])
        return output + push

    handle = blocks[steering.layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
