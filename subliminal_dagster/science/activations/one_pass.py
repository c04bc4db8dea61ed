"""All layers of a group from one pass over its rows, though each layer is made by itself.

To load a large model takes longer than to run it over the rows, and a pass to the deepest layer goes by all the others.
So whoever makes one layer also reads those that are still to be made, and leaves each where its own making finds it. A
layer comes out the same, bit for bit, whichever pass it is from: a block's output depends on nothing behind it.

Belongs here: reading several layers at once, and leaving and finding them. Does not belong here: reading one
(`activations`), which layers are still to be made and where theirs are left (`execution.work`).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.activations.activations import check_finite, collect_layers
from subliminal_dagster.science.models.protocol import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def collect_with_others(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    layer: int,
    others: Mapping[int, Path],
    *,
    kind: str,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What `activations.collect` gives for `layer`; the same of each other layer is left in its folder.

    Args:
        others: a folder by layer, whose name depends on the model, the texts and the layer: nothing that is left in it
            says what it is of.
        kind: the number type that the model computes in.

    An other layer with a value that is not finite is not left: its own making will say so.
    """
    positions, vectors = collect_layers(model, tokenizer, texts, [layer, *others], progress=progress)
    check_finite(vectors[layer], texts, layer, model)
    for other, folder in others.items():
        if np.isfinite(vectors[other]).all():
            _leave(folder / _name(kind), positions, vectors[other])
    return positions, vectors[layer]


def left_by_another(folder: Path, kind: str) -> tuple[np.ndarray, np.ndarray] | None:
    """What the pass of another layer left here, computed in this number type; None where it left nothing, or what it
    left is damaged."""
    try:
        with np.load(folder / _name(kind)) as left:
            return left["positions"], left["vectors"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _name(kind: str) -> str:
    return f"activations-{kind}.npz"


def _leave(file: Path, positions: np.ndarray, vectors: np.ndarray) -> None:
    # The process in the name: two passes may leave the same layer at the same time.
    aside = file.with_name(f"{os.getpid()}-{file.name}")
    np.savez(aside, positions=positions, vectors=vectors)
    os.replace(aside, file)
