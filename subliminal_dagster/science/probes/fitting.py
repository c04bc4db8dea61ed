"""Fitting a probe: linear, logistic and boosted trees, with the strength chosen on validation rows.

Belongs here: the numerics of one fit. Does not belong here: which probes are fitted on what (`probes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.probes import Kind, ProbeSettings

# One analysis prompt in so many is for validation.
_VALIDATION = 8
# Inverse strengths of the logistic probe's L2 penalty, of which the validation rows choose one.
_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

# Trees look at each column by itself, so wide inputs are turned onto so many principal components first.
_COMPONENTS = 64
_MOST_TREES = 100


@dataclass(frozen=True)
class Part:
    """values: float32 (rows, width). labels: (rows,), places in `ProbeData.classes`. row_ids: (rows,)."""

    values: np.ndarray
    labels: np.ndarray
    row_ids: np.ndarray


@dataclass(frozen=True)
class ProbeData:
    classes: tuple[str, ...]
    train: Part
    validation: Part
    test: Part


@dataclass(frozen=True)
class Fitted:
    """predict: values (rows, width) to probabilities (rows, classes)."""

    predict: Callable[[np.ndarray], np.ndarray]
    choice: str
    chosen: float
    loss: float


def lots(row_ids: np.ndarray, seed: int) -> np.ndarray:
    """A random number for each row, by its prompt alone: no other row, group or variant has a part in it."""
    return generator(seed, "rows").random(int(row_ids.max()) + 1)[row_ids]


def _stream(seed: int, use: str) -> int:
    return stream_seed(seed, "probes", use)


def generator(seed: int, use: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(_stream(seed, use)))


def for_validation(row_ids: np.ndarray, labels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """True for the validation rows: one prompt in eight among those that the same groups answered."""
    order = np.lexsort((drawn, *answered_by(row_ids, labels)))
    _, first = np.unique(row_ids[order], return_index=True)
    prompts = row_ids[order][np.sort(first)]
    return np.isin(row_ids, prompts[::_VALIDATION])


def answered_by(row_ids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row, which groups answered its prompt: a number for each such set, and minus how many groups are in it
    (so that the prompts of all groups come first)."""
    prompts, place = np.unique(row_ids, return_inverse=True)
    answered = np.zeros((len(prompts), int(labels.max()) + 1), dtype=bool)
    answered[place, labels] = True
    _, pattern = np.unique(answered, axis=0, return_inverse=True)
    return pattern[place], -answered.sum(axis=1)[place]


def standardised(parts: Sequence[Part]) -> list[Part]:
    mean = parts[0].values.mean(axis=0, dtype=np.float64).astype(np.float32)
    sd = parts[0].values.std(axis=0, dtype=np.float64).astype(np.float32)
    # A column that says nothing in training stays 0 there, and as it is elsewhere.
    sd[sd < 1e-6 * (1 + np.abs(mean))] = 1
    return [replace(part, values=(part.values - mean) / sd) for part in parts]


def fit_probe(kind: Kind, data: ProbeData, settings: ProbeSettings, seed: int) -> Fitted:
    if kind == "linear":
        return _fit_linear(data, settings, _stream(seed, kind))
    if kind == "logistic":
        return _fit_logistic(data)
    return _fit_trees(data, _stream(seed, kind))


def _fit_linear(data: ProbeData, settings: ProbeSettings, seed: int) -> Fitted:
    import torch
    from torch.nn.functional import cross_entropy, linear

    generator = torch.Generator().manual_seed(seed)
    values, labels = torch.from_numpy(data.train.values), torch.from_numpy(data.train.labels)
    bound = values.shape[1] ** -0.5
    weight = torch.empty(len(data.classes), values.shape[1]).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(len(data.classes)).uniform_(-bound, bound, generator=generator)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    adam = torch.optim.Adam(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)

    def probabilities(values: np.ndarray, weight: torch.Tensor, bias: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(torch.softmax(linear(torch.from_numpy(values), weight, bias).double(), dim=1).numpy())

    losses: list[float] = []
    kept = (weight, bias)
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(values), generator=generator).split(settings.batch_size):
            adam.zero_grad()
            cross_entropy(linear(values[batch], weight, bias), labels[batch]).backward()
            adam.step()
        loss = _log_loss(data.validation.labels, probabilities(data.validation.values, weight, bias))
        if loss < min(losses, default=np.inf):
            kept = (weight.detach().clone(), bias.detach().clone())
        losses.append(loss)
    best = int(np.argmin(losses))
    return Fitted(lambda values: probabilities(values, *kept), "epoch", best + 1, losses[best])


def _fit_logistic(data: ProbeData) -> Fitted:
    models = [logistic(data.train, data.train.labels, strength) for strength in _STRENGTHS]
    losses = [_log_loss(data.validation.labels, model.predict_proba(data.validation.values)) for model in models]
    best = int(np.argmin(losses))
    return Fitted(models[best].predict_proba, "C", _STRENGTHS[best], losses[best])


def logistic(train: Part, labels: np.ndarray, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000).fit(train.values, labels)


def _fit_trees(data: ProbeData, seed: int) -> Fitted:
    from itertools import islice

    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier

    def narrow(values: np.ndarray) -> np.ndarray:
        return values

    if data.train.values.shape[1] > _COMPONENTS:
        components = min(_COMPONENTS, len(data.train.values))
        narrow = PCA(components, svd_solver="randomized", random_state=seed).fit(data.train.values).transform
    validation = narrow(data.validation.values)
    model = HistGradientBoostingClassifier(max_iter=_MOST_TREES, early_stopping=True, random_state=seed).fit(
        narrow(data.train.values), data.train.labels, X_val=validation, y_val=data.validation.labels
    )
    losses = [_log_loss(data.validation.labels, one) for one in model.staged_predict_proba(validation)]
    best = int(np.argmin(losses))

    def predict(values: np.ndarray) -> np.ndarray:
        return np.asarray(next(islice(model.staged_predict_proba(narrow(values)), best, None)))

    return Fitted(predict, "trees", best + 1, losses[best])


def _log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-probability of the true class, nats per row."""
    from sklearn.metrics import log_loss

    return float(log_loss(labels, probabilities, labels=np.arange(probabilities.shape[1])))
