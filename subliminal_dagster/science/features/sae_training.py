"""A sparse autoencoder trained on a base model's own activations, where none is published for it, and how good one is.

BatchTopK (Bussmann, Leask and Nanda 2024, https://arxiv.org/abs/2412.06410): a batch keeps its k x rows largest
activations, so that a row has k active features on average and not exactly k. TopK would make the number of active
features (L0) the same for every row, and that number is among the things the experiments compare. It is saved as a
JumpReLU autoencoder with one threshold for all features.

Cost of training: about 14 x width x hidden size operations a token. The default, 300 steps of 512 tokens, takes about
50 seconds of one CPU core for 2,048 features of 576 dimensions. It is short enough to start anew after a kill, so
nothing of it is kept on the way.

Belongs here: training, quality, the gate. Does not belong here: which texts the activations come from (`corpus`),
applying an autoencoder (`sae`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.features.sae import load_sae, reconstructions
from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.models.loading import pick_device
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.models.residual_stream import check_layers
from subliminal_dagster.science.settings.features import SaeGate, TrainedSaeSettings

if TYPE_CHECKING:
    import pandas as pd
    import torch

_HISTORY_ROWS = 50
_MASSIVE = 5
# sae-lens' defaults are made for a hundred times as many steps: with them no feature would ever count as dead, and the
# saved threshold, an average that starts at 0, would let several times k features through.
_DEAD_AFTER_STEPS = 50
_THRESHOLD_RATE = 0.1


@dataclass(frozen=True)
class TrainedSae:
    """An autoencoder of sae-lens that takes activations as they are, and how its training went.

    history: a row per recorded step, with columns step, loss (what is minimised: squared error a token, of activations
    scaled so that a dimension has variance 1 on average, and the auxiliary loss), variance_explained and l0 (mean
    active features) of that step's batch, dead (share of features that the last 50 batches did not use), learning_rate.
    """

    sae: Any
    history: pd.DataFrame


def train_sae(
    vectors: NDArray[np.float32],
    settings: TrainedSaeSettings,
    seed: int,
    *,
    layer: int,
    progress: Progress | None = None,
) -> TrainedSae:
    """Train an autoencoder on activations of the residual stream after block `layer`.

    vectors: shape (tokens, hidden size), float32, all tokens of all texts but the first of each, whose activation is
    tens of times as long as others in many models. Of the rest the few that are as long (`is_ordinary`) are left out.
    Passes over them go on until `settings.steps` are done, each in another order.

    The same seed, vectors and number of threads give the same autoencoder. Raises UserError where there are fewer
    vectors than a batch holds, or they are not finite or all the same.
    """
    import pandas as pd
    import torch
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.sae_trainer import SAETrainer

    vectors = vectors[is_ordinary(vectors)]
    if len(vectors) < settings.batch_size:
        raise UserError(
            f"There are {len(vectors)} activation vectors and a training step takes {settings.batch_size}: give the "
            "autoencoder more text or lower its batch_size."
        )
    if not np.isfinite(vectors).all():
        raise UserError("Some activation vectors are not finite: collect them with the model in float32 or bfloat16.")
    centre, scale = _centre_and_scale(vectors)
    device = pick_device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sae = BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(
                d_in=vectors.shape[1],
                d_sae=settings.width,
                k=settings.k,
                topk_threshold_lr=_THRESHOLD_RATE,
                metadata=SAEMetadata(hook_name=f"blocks.{layer}.hook_resid_post"),
            )
        )
    sae.b_dec.data.copy_(torch.from_numpy(centre * scale))
    sae.to(device)
    batches = _batches(vectors, settings.batch_size, seed)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=settings.steps * settings.batch_size,
            train_batch_size_samples=settings.batch_size,
            lr=settings.learning_rate,
            lr_end=settings.learning_rate,
            lr_warm_up_steps=settings.steps // 20,
            lr_decay_steps=settings.steps // 5,
            dead_feature_window=_DEAD_AFTER_STEPS,
            device=device,
        ),
        sae,
        batches,
    )
    every = max(1, settings.steps // _HISTORY_ROWS)
    history = []
    # `SAETrainer.fit` is this loop, with a progress bar and with measures that only Weights & Biases gets to see.
    for step in range(1, settings.steps + 1):
        output = trainer.step(next(batches) * scale)
        trainer.n_training_steps = step
        if step % every == 0 or step == settings.steps:
            history.append(_history_row(step, trainer.build_train_step_log_dict(output, trainer.n_training_samples)))
            if progress is not None:
                explained = history[-1]["variance_explained"]
                progress(f"SAE step {step}/{settings.steps}, {explained:.1%} of the batch's variance explained")
    sae.fold_activation_norm_scaling_factor(scale)
    with TemporaryDirectory() as folder:
        sae.to("cpu").save_inference_model(folder)
        trained = load_sae(Path(folder))
    return TrainedSae(trained, pd.DataFrame(history).assign(dead=lambda rows: rows["dead"] / settings.width))


def is_ordinary(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which activations are not massive: at most 5 times as long as the median one.

    Massive activations (Sun et al. 2024, https://arxiv.org/abs/2402.17762) sit at a text's first token and at few
    others. Four of 37,000 tokens of SmolLM2-135M hold a tenth of all variance after block 15, so that training and
    variance explained would be about them.

    vectors: shape (tokens, hidden size); returns shape (tokens,). A vector that is not finite counts as ordinary.
    """
    norms = np.linalg.norm(vectors, axis=1)
    ordinary: NDArray[np.bool_] = ~((norms > _MASSIVE * np.median(norms)) & np.isfinite(norms))
    return ordinary


def sae_quality(sae: Any, vectors: NDArray[np.float32]) -> dict[str, float]:
    """How well an autoencoder describes activations, best such that it was not trained on.

    vectors: shape (tokens, hidden size), as `train_sae` takes them; massive ones are left out here too.

    Returns:
        l0: mean active features a token. variance_explained: 1 - squared error / squared distance from the mean, both
        summed over tokens and dimensions. dead: share of features that are active in no token. cosine: mean cosine
        between a vector and its reconstruction (close to 1 even for a poor one where the mean vector is large).
    """
    import torch

    vectors = vectors[is_ordinary(vectors)]
    centre = torch.from_numpy(vectors.mean(axis=0, dtype=np.float64)).to(sae.device)
    used = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=sae.device)
    active, residual, total, cosines = 0, 0.0, 0.0, 0.0
    for x, features, rebuilt in reconstructions(sae, vectors):
        used |= (features > 0).any(dim=0)
        active += int((features > 0).sum())
        residual += float((x - rebuilt).double().square().sum())
        total += float((x.double() - centre).square().sum())
        cosines += float(torch.nn.functional.cosine_similarity(x, rebuilt).double().sum())
    return {
        "l0": active / len(vectors),
        "variance_explained": 1 - residual / total,
        "dead": 1 - float(used.double().mean()),
        "cosine": cosines / len(vectors),
    }


def loss_recovered(
    model: Any, sae: Any, layer: int, sequences: Sequence[list[int]], batch_size: int = 4
) -> dict[str, float]:
    """How much of what the model needs of the residual stream after block `layer` the autoencoder gives back.

    model: a causal language model of transformers in eval mode. sequences: token ids with the BOS token where the model
    has one, at least two each. The first position keeps its activation, on which the autoencoder was not trained.

    Returns:
        clean, spliced, zeroed: cross-entropy of the next token (nats, mean over all tokens but the first of a sequence)
        of the model as it is, with reconstructions and with zeros in the place of the activations.
        recovered: (zeroed - spliced) / (zeroed - clean), 1 for a perfect autoencoder.

    Raises UserError where the layer does not exist in the model.
    """
    import torch

    def rebuilt(hidden: torch.Tensor) -> torch.Tensor:
        return sae.decode(sae.encode(hidden.to(sae.device, torch.float32))).to(hidden.device, hidden.dtype)

    clean = _cross_entropy(model, sequences, batch_size)
    with _replaced(model, layer, rebuilt):
        spliced = _cross_entropy(model, sequences, batch_size)
    with _replaced(model, layer, torch.zeros_like):
        zeroed = _cross_entropy(model, sequences, batch_size)
    return {
        "clean": clean,
        "spliced": spliced,
        "zeroed": zeroed,
        "recovered": (zeroed - spliced) / (zeroed - clean) if zeroed != clean else math.nan,
    }


def quality_failures(gate: SaeGate, quality: Mapping[str, float]) -> list[str]:
    """Why an autoencoder is not good enough, one sentence a reason; empty where it is.

    quality: what `sae_quality` and `loss_recovered` returned, together.
    """
    failures = []
    # "not at least" rather than "below": NaN passes no gate.
    if not quality["variance_explained"] >= gate.variance_explained:
        failures.append(
            f"it explains {quality['variance_explained']:.1%} of the activations' variance and the gate asks for "
            f"{gate.variance_explained:.0%}: train it with more steps, width or k, or lower the gate's "
            "variance_explained"
        )
    if not quality["recovered"] >= gate.loss_recovered:
        failures.append(
            f"with its reconstructions the model recovers {quality['recovered']:.1%} of the loss that the layer is "
            f"worth and the gate asks for {gate.loss_recovered:.0%}: train it with more steps, width or k, or lower "
            "the gate's loss_recovered"
        )
    if not quality["dead"] <= gate.dead:
        failures.append(
            f"{quality['dead']:.1%} of its features are never active and the gate allows {gate.dead:.0%}: train it "
            "with more text or a smaller width, or raise the gate's dead"
        )
    if not quality["l0"] <= gate.l0:
        failures.append(
            f"{quality['l0']:.1f} features are active in a token on average and the gate allows {gate.l0:g}: train it "
            "with a smaller k, or raise the gate's l0"
        )
    return failures


def _centre_and_scale(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """The mean vector, and what to multiply with so that the mean squared distance from it is 1 a dimension.

    With that one learning rate does for every model and layer.
    """
    centre = vectors.mean(axis=0, dtype=np.float64)
    spread = math.sqrt(vectors.var(axis=0, dtype=np.float64).mean())
    if spread == 0:
        raise UserError("All activation vectors are the same, which leaves nothing to learn: check the texts.")
    return centre.astype(np.float32), 1 / spread


def _batches(vectors: NDArray[np.float32], size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches: one pass over all vectors after the other, each in an order of its own."""
    import torch

    rng = np.random.Generator(np.random.PCG64(seed))
    left = np.empty(0, dtype=np.int64)
    while True:
        while len(left) < size:
            left = np.concatenate([left, rng.permutation(len(vectors))])
        yield torch.from_numpy(vectors[left[:size]])
        left = left[size:]


def _history_row(step: int, measures: Mapping[str, float]) -> dict[str, float]:
    return {
        "step": step,
        "loss": measures["losses/overall_loss"],
        "variance_explained": measures["metrics/explained_variance"],
        "l0": measures["metrics/l0"],
        "dead": measures["sparsity/dead_features"],
        "learning_rate": measures["details/current_learning_rate"],
    }


@contextmanager
def _replaced(model: Any, layer: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Put `change` of the activations after block `layer` in their place, but for the first position, while the block
    lasts; the hook never outlives an error."""
    check_layers(model, [layer])
    blocks = model.get_decoder().layers

    import torch

    def replace(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = torch.cat([hidden[:, :1], change(hidden[:, 1:])], dim=1)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = blocks[layer].register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def _cross_entropy(model: Any, sequences: Sequence[list[int]], batch_size: int) -> float:
    """Nats a token, over all tokens of all sequences but their first."""
    import torch

    total, tokens = 0.0, 0
    for rows in batches_of_like_length([len(sequence) for sequence in sequences], batch_size):
        width = max(len(sequences[i]) for i in rows)
        ids = torch.tensor([sequences[i] + [0] * (width - len(sequences[i])) for i in rows], device=model.device)
        present = torch.tensor([[j < len(sequences[i]) for j in range(width)] for i in rows], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=present.long(), use_cache=False).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        total += float(losses[present[:, 1:]].double().sum())
        tokens += int(present[:, 1:].sum())
    return total / tokens
