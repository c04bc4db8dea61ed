"""Sparse autoencoders (SAEs) of the residual stream: fetch a published one, keep it, read features off activations.

An SAE here is an object of sae-lens (https://github.com/decoderesearch/SAELens), whatever its architecture: it takes
activations as the model has them, one row per position, and gives each row a few active features of many and what can
be rebuilt from those. Its layer is in `sae.cfg.metadata.hook_name`: "blocks.9.hook_resid_post" is the residual stream
after block 9, which is `hidden_states[10]` of transformers.

Cost: importing sae-lens takes about ten seconds. Encoding is two matrix products a row, 4 x width x hidden size
operations: 10,000 rows with 16,384 features of 3,584 dimensions are 2 x 10^12.

Belongs here: getting, storing and applying an SAE. Does not belong here: training one (`sae_training`), collecting
activations, what features mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.errors import UserError

if TYPE_CHECKING:
    import torch
    from scipy import sparse

BATCH = 256
"""Rows encoded at once: with 16,384 features about 50 MB of activations and their copies."""

_RESIDUAL_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_post")


def load_published(release: str, sae_id: str, *, layer: int, hidden_size: int) -> Any:
    """The published SAE `sae_id` of `release` (names as in sae-lens' list), in float32 on the CPU.

    layer: the block (from 0) whose output it is to be applied to; hidden_size: the width of that output. The hub's
    cache keeps the download. sae-lens pins no commit: which weights they were is known from the saved copy alone.

    Raises UserError where the list has no such SAE, it is one of another layer, place or width, it wants activations
    scaled by a factor that is not published, or it cannot be downloaded.
    """
    import requests
    from huggingface_hub import errors
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    if release not in directory:
        raise UserError(f"sae-lens lists no release {release!r} of SAEs{_near(release, directory)}: correct `release`.")
    ids = directory[release].saes_map
    if sae_id not in ids:
        raise UserError(f"The release {release} holds no SAE {sae_id!r}{_near(sae_id, ids)}: correct `sae_id`.")
    name = f"The SAE {sae_id} of {release}"
    where = f"{directory[release].repo_id} on the Hugging Face hub"
    try:
        sae = SAE.from_pretrained(release, sae_id)
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} lies in {where}, which is gated: accept its licence there and set HF_TOKEN to a token of that "
            "account."
        ) from error
    except (
        errors.EntryNotFoundError,
        errors.HTTPError,  # the base of the transport errors, whichever library sends
        errors.XetDownloadError,
        requests.RequestException,
        ConnectionError,
    ) as error:
        raise UserError(
            f"{name} could not be downloaded from {where} ({type(error.__cause__ or error).__name__}): check the "
            "network, that HF_HUB_OFFLINE is not set, and that the hub still has it."
        ) from error
    _check(sae, name, layer, hidden_size)
    return sae.eval()


def sae_layer(sae: Any) -> int | None:
    """The block whose output (`resid_post`) the SAE was trained on, from 0; None for any other place in the model."""
    place = _RESIDUAL_HOOK.fullmatch(str(sae.cfg.metadata.hook_name))
    return int(place[1]) if place else None


def save_sae(sae: Any, folder: Path) -> None:
    """Write the SAE into `folder` as sae-lens does: `sae_weights.safetensors` and `cfg.json`.

    `SAE.load_from_disk(folder)` reads it anywhere. The files depend on the SAE alone, not on the device it is on.
    """
    _, config = sae.save_model(folder)
    facts = json.loads(config.read_text(encoding="utf-8")) | {"device": "cpu"}
    config.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_sae(folder: Path, device: str = "cpu") -> Any:
    """Read an SAE that `save_sae` (or sae-lens) wrote, in float32 whatever type it is stored in.

    Raises UserError where the folder holds none.
    """
    from sae_lens import SAE

    if not (folder / "cfg.json").is_file() or not (folder / "sae_weights.safetensors").is_file():
        raise UserError(
            f"The folder {folder} holds no SAE: cfg.json and sae_weights.safetensors are needed, as sae-lens saves it."
        )
    return SAE.load_from_disk(folder, device=device, dtype="float32").eval()


def encode(sae: Any, vectors: NDArray[np.float32], batch: int = BATCH) -> tuple[sparse.csr_array, NDArray[np.float32]]:
    """The features of each activation vector, and how badly it is rebuilt from them.

    vectors: shape (rows, hidden size), activations as the model has them. At most `batch` rows are dense at a time.

    Returns:
        features: float32 (rows, width), only activations above 0 stored, their columns ascending in each row.
        error: float32 (rows,), the mean squared error over the hidden dimension between a vector and its
        reconstruction, in the squared unit of the vectors whatever scaling the SAE does inside.

    Raises UserError where the vectors have another width than the SAE's, or they or what the SAE makes of them is
    not finite.
    """
    import torch
    from scipy import sparse

    values, columns, counts, errors = [], [], [], []
    for x, features, rebuilt in reconstructions(sae, vectors, batch):
        rows, active = torch.nonzero(features > 0, as_tuple=True)
        values.append(features[rows, active].cpu().numpy())
        columns.append(active.cpu().numpy())
        counts.append(torch.bincount(rows, minlength=len(x)).cpu().numpy())
        errors.append((rebuilt - x).square().mean(dim=1).cpu().numpy())
    shape = (len(vectors), sae.cfg.d_sae)
    if not counts:
        return sparse.csr_array(shape, dtype=np.float32), np.zeros(0, dtype=np.float32)
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    error = np.concatenate(errors)
    if not np.isfinite(error).all():
        raise UserError(
            f"The SAE rebuilds {int((~np.isfinite(error)).sum())} of {len(error)} activation vectors as numbers too "
            "large for float32: check that the activations are of the model and layer that the SAE was made for."
        )
    integers = sparse.get_index_dtype(maxval=max(starts[-1], shape[1]))
    places = (np.concatenate(columns).astype(integers), starts.astype(integers))
    return sparse.csr_array((np.concatenate(values), *places), shape=shape), error


def reconstructions(
    sae: Any, vectors: NDArray[np.float32], batch: int = BATCH
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batch by batch on the SAE's device: vectors (n, hidden size), their features (n, width), the reconstruction.

    Raises UserError as `encode` does for vectors of another width or with numbers that are not finite.
    """
    import torch

    if vectors.ndim != 2 or vectors.shape[1] != sae.cfg.d_in:
        raise UserError(
            f"The SAE takes activations of {sae.cfg.d_in} dimensions and these have shape {vectors.shape}: use the "
            "SAE of this model."
        )
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise UserError(
            f"{int(bad.sum())} of {len(vectors)} activation vectors are not finite, the first in row "
            f"{int(bad.argmax())}: collect them with the model in float32 or bfloat16, float16 overflows."
        )
    for start in range(0, len(vectors), batch):
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(vectors[start : start + batch], dtype=np.float32)).to(sae.device)
            features = sae.encode(x)
            rebuilt = sae.decode(features)
        yield x, features.float(), rebuilt.float()


def _near(name: str, known: Any) -> str:
    """ " (near ones: a, b)": names like `name`, else the first of the known ones."""
    near = get_close_matches(name, list(known), n=5, cutoff=0.5)
    return f" (near ones: {', '.join(near)})" if near else f" (some it has: {', '.join(list(known)[:5])})"


def _check(sae: Any, name: str, layer: int, hidden_size: int) -> None:
    """Refuse an SAE that would give numbers for this model and layer, but meaningless ones."""
    if sae_layer(sae) != layer:
        raise UserError(
            f"{name} was trained at {sae.cfg.metadata.hook_name} and blocks.{layer}.hook_resid_post, the residual "
            f"stream after layer {layer}, is wanted: choose the SAE of that layer."
        )
    if sae.cfg.d_in != hidden_size:
        raise UserError(
            f"{name} takes activations of {sae.cfg.d_in} dimensions and the base model's have {hidden_size}: choose an "
            f"SAE of the base model (this one was made for {sae.cfg.metadata.model_name})."
        )
    if sae.cfg.normalize_activations in ("expected_average_only_in", "covariance_whitening"):
        raise UserError(
            f"{name} wants activations scaled ({sae.cfg.normalize_activations}) by numbers that are not published "
            "with it: choose another SAE."
        )
