"""Subliminal learning on real data: scikit-learn's 8x8 digits (1797 images, ten classes).

Two experiments, each with a child that starts where its teacher did and one that starts elsewhere.

`missing_digit`: distillation without one digit (Hinton, Vinyals & Dean 2015, section 3). The child sees the teacher's
softened outputs for images of the nine others; a child on hard labels of the same images shows what distillation adds.

`auxiliary_logits`: learning from noise (Cloud et al. 2025, arXiv 2507.14805, the MNIST experiment). The teacher has
logits besides the ten of the classes, which no loss of its own touches; the child learns those alone, on noise uniform
in [-1, 1]. (In [0, 1] all noise images are much alike, and little is learnt from them.)

Belongs here: both experiments, their tables. Does not belong here: the autoencoders (`sweep`), pictures (`figures`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.settings.toy import DigitSettings
from subliminal_dagster.science.statistics import t_interval

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

CLASSES = 10
PIXELS = 64
_TEST_SHARE = 0.2

Layers = list[tuple["Tensor", "Tensor"]]
"""Weights (seeds, in, out) and biases (seeds, 1, out) of a stack of networks, one per seed."""

Loss = Callable[["Tensor", "Tensor"], "Tensor"]
"""From outputs and targets, both (seeds, rows, ...), to one loss per row: (seeds, rows)."""


@dataclass(frozen=True)
class Digits:
    """Images (rows, 64) with values in [0, 1] and labels (rows,), split by the study's seed, stratified by digit."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def load(seed: int) -> Digits:
    """The images that come with scikit-learn; a fifth of them are test images."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    parts = train_test_split(images, labels, test_size=_TEST_SHARE, stratify=labels, random_state=seed)
    return Digits(parts[0], parts[2], parts[1], parts[3])


def missing_digit(settings: DigitSettings, seed: int, device: str = "cpu") -> pd.DataFrame:
    """Distillation without each of the digits `settings.missing`.

    One row per digit, seed and model ("teacher", "same_init", "other_init", "hard_labels"): `accuracy_missing` on test
    images of the digit, `accuracy_others` on the rest, and `accuracy_missing_corrected` after its bias was raised until
    the digit is predicted for a tenth of the training images, which uses no label.
    """
    import pandas as pd
    import torch
    from torch.nn.functional import kl_div

    data = load(seed)
    seeds = range(settings.seeds)
    start, other = (_initial(settings, [(seed, s, number) for s in seeds], CLASSES, device) for number in (0, 1))
    images = torch.from_numpy(data.train_images).to(device)
    labels = torch.from_numpy(data.train_labels).to(device)
    test = torch.from_numpy(data.test_images).to(device)
    stack = settings.seeds
    seen, known = images.expand(stack, -1, -1), labels.expand(stack, -1)
    keys = [(seed, s, 2) for s in seeds]
    teacher = train(start, seen, known, _cross_entropy, settings.teacher_epochs, settings, keys)
    softness = settings.temperature

    def distance(outputs: Tensor, targets: Tensor) -> Tensor:
        soft = (outputs / softness).log_softmax(-1)
        return softness**2 * kl_div(soft, targets, reduction="none").sum(-1)

    rows = []
    for digit in settings.missing:
        seen = images[labels != digit].expand(stack, -1, -1)
        with torch.no_grad():
            softened = (outputs_of(teacher, seen) / softness).softmax(-1)
        of_digit = data.test_labels == digit
        orders = [(seed, s, 3, digit) for s in seeds]
        epochs = settings.child_epochs
        models = {
            "teacher": teacher,
            "same_init": train(start, seen, softened, distance, epochs, settings, orders),
            "other_init": train(other, seen, softened, distance, epochs, settings, orders),
            "hard_labels": train(
                start, seen, labels[labels != digit].expand(stack, -1), _cross_entropy, epochs, settings, orders
            ),
        }
        for model, layers in models.items():
            with torch.no_grad():
                on_test = outputs_of(layers, test.expand(stack, -1, -1)).cpu().numpy()
                on_train = outputs_of(layers, images.expand(stack, -1, -1)).cpu().numpy()
            for s in seeds:
                corrected = on_test[s].copy()
                corrected[:, digit] += bias_correction(on_train[s], digit)
                right = on_test[s].argmax(-1) == data.test_labels
                rows.append(
                    {
                        "digit": digit,
                        "seed": s,
                        "model": model,
                        "accuracy_missing": right[of_digit].mean(),
                        "accuracy_others": right[~of_digit].mean(),
                        "accuracy_missing_corrected": (corrected.argmax(-1) == digit)[of_digit].mean(),
                    }
                )
    return pd.DataFrame(rows)


def auxiliary_logits(settings: DigitSettings, seed: int, device: str = "cpu") -> pd.DataFrame:
    """Learning auxiliary logits on noise.

    One row per seed and model ("teacher", "same_init", "other_init", "untrained"): `accuracy` of its class logits on
    test images; chance is a tenth. The child minimises the squared error of the auxiliary logits.
    """
    import pandas as pd
    import torch

    data = load(seed)
    seeds = range(settings.seeds)
    size = CLASSES + settings.auxiliary
    start, other = (_initial(settings, [(seed, s, number) for s in seeds], size, device) for number in (0, 1))
    stack = settings.seeds
    images = torch.from_numpy(data.train_images).to(device).expand(stack, -1, -1)
    labels = torch.from_numpy(data.train_labels).to(device).expand(stack, -1)
    teacher = train(
        start, images, labels, _class_cross_entropy, settings.teacher_epochs, settings, [(seed, s, 2) for s in seeds]
    )
    noise = torch.from_numpy(
        np.stack([_rng(seed, s, 4).uniform(-1, 1, (settings.noise_rows, PIXELS)) for s in seeds]).astype(np.float32)
    ).to(device)
    with torch.no_grad():
        wanted = outputs_of(teacher, noise)[..., CLASSES:]
    keys = [(seed, s, 3) for s in seeds]
    children = {
        name: train(begin, noise, wanted, _auxiliary_error, settings.child_epochs, settings, keys)
        for name, begin in (("same_init", start), ("other_init", other))
    }
    test = torch.from_numpy(data.test_images).to(device).expand(stack, -1, -1)
    rows = []
    for model, layers in {"teacher": teacher, **children, "untrained": start}.items():
        with torch.no_grad():
            answers = outputs_of(layers, test)[..., :CLASSES].argmax(-1).cpu().numpy()
        rows += [{"seed": s, "model": model, "accuracy": (answers[s] == data.test_labels).mean()} for s in seeds]
    return pd.DataFrame(rows)


def bias_correction(outputs: NDArray[np.float32], digit: int) -> float:
    """What to add to a digit's logit so that it wins for a tenth of the rows; outputs of shape (rows, 10)."""
    others = np.delete(outputs, digit, axis=1).max(axis=1)
    return float(np.quantile(others - outputs[:, digit], 1 / CLASSES))


def train(
    start: Layers,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
    epochs: int,
    settings: DigitSettings,
    keys: Sequence[tuple[int, ...]],
) -> Layers:
    """Train a stack of networks with Adam, each on its own rows in an order of its own; `start` is left as it is.

    inputs: (seeds, rows, pixels). targets: (seeds, rows, ...). keys: one per seed, which decides the order of its rows.
    A seed's network is the same whatever others are trained with it, up to rounding.
    """
    import torch

    layers = [(w.clone().requires_grad_(), b.clone().requires_grad_()) for w, b in start]
    optimizer = torch.optim.Adam([part for layer in layers for part in layer], lr=settings.learning_rate)
    orders = [_rng(*key) for key in keys]
    count = inputs.shape[1]
    stack = torch.arange(len(keys), device=inputs.device)[:, None]
    for _ in range(epochs):
        order = torch.from_numpy(np.stack([rng.permutation(count) for rng in orders])).to(inputs.device)
        for begin in range(0, count, settings.batch_size):
            chosen = order[:, begin : begin + settings.batch_size]
            optimizer.zero_grad()
            loss(outputs_of(layers, inputs[stack, chosen]), targets[stack, chosen]).mean(-1).sum().backward()
            optimizer.step()
    return [(w.detach(), b.detach()) for w, b in layers]


def outputs_of(layers: Layers, inputs: Tensor) -> Tensor:
    """The logits of a stack of networks: (seeds, rows, pixels) to (seeds, rows, logits)."""
    import torch

    for number, (w, b) in enumerate(layers):
        inputs = torch.baddbmm(b, inputs, w)
        if number < len(layers) - 1:
            inputs = inputs.relu()
    return inputs


def _initial(settings: DigitSettings, keys: Sequence[tuple[int, ...]], outputs: int, device: str) -> Layers:
    """Untrained networks, one a key: uniform within 1 / sqrt(inputs), as PyTorch's linear layers begin."""
    import torch

    layers: Layers = []
    sizes = [PIXELS, settings.hidden, settings.hidden, outputs]
    rngs = [_rng(*key) for key in keys]
    for size, following in pairwise(sizes):
        draw = np.stack([rng.uniform(-1, 1, (size + 1, following)) for rng in rngs]) / np.sqrt(size)
        both = torch.from_numpy(draw.astype(np.float32)).to(device)
        layers.append((both[:, :-1], both[:, -1:]))
    return layers


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng([*key])


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs.transpose(1, 2), targets, reduction="none")


def _class_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return _cross_entropy(outputs[..., :CLASSES], targets)


def _auxiliary_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[..., CLASSES:] - targets).square().mean(-1)


def digits_summary(missing: pd.DataFrame, auxiliary: pd.DataFrame) -> pd.DataFrame:
    """Mean, low and high (95 % t interval over seeds) of every measure: experiment, model, measure, mean, low, high."""
    import pandas as pd

    rows = []
    for experiment, table in (("missing digit", missing), ("auxiliary logits", auxiliary)):
        for model, part in table.groupby("model", sort=False):
            for measure in [name for name in table.columns if name.startswith("accuracy")]:
                found = t_interval(part.groupby("seed")[measure].mean())
                rows.append((experiment, model, measure, found.mean, found.low, found.high))
    return pd.DataFrame(rows, columns=["experiment", "model", "measure", "mean", "low", "high"])
