"""Interference at one layer of a study: its numbers' features against its animals' directions, as tables.

Belongs here: which of a study's data is set against which. Does not belong here: the arithmetic (`overlap`,
`superposition`), sentences (`report`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.interference.overlap import (
    FeatureUse,
    Pushed,
    animal_subspace,
    matched_features,
    number_features,
    overlap_rows,
    overlaps,
)
from subliminal_dagster.science.interference.superposition import Encode, at_one_norm, layer_superposition
from subliminal_dagster.science.settings.names import CONTROL

# pandas takes half a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array

Array = NDArray[np.float64]
Vectors = NDArray[np.float32]

DIRECT, WORD = "direct", "word"
AS_IT_IS, PROJECTED_OUT = "as it is", "projected out"

_OVERLAP = ["target", "direction", "subspace", "group", "overlap", "matched", "log_ratio", "drawn"]


@dataclass(frozen=True)
class Target:
    """The directions of what a teacher was made to like, shape (hidden size,): its `word`'s activation, that less the
    mean of the others' (`centred`), and the `direct` vector; None for what has none. `features` fire on the word."""

    word: Vectors
    centred: Vectors
    direct: Vectors | None
    features: NDArray[np.int64]


@dataclass(frozen=True)
class LayerFound:
    """Tables of a layer.

    overlap: a row per `group` of numbers, `target`, `direction` (direct, word: less the other words) and `subspace` (as
        it is; projected out: the target's), with the columns of `overlap.overlap_rows`.
    spread: a row per `group` but the control and a `measure` (l0, error: relative), at the norm of the control's median
        row: `mean`, `control`, and `difference` with its 95 % interval `low` to `high` (Welch) in per cent of the
        control's. Analysis rows.
    superposition: one row, see `superposition.layer_superposition`; besides, how many features of numbers there are
        (`number_features`) and how many of those are matched (`matched`), with the mean absolute difference of the
        logarithms of rate and length between them and what is drawn (`rate_off`, `length_off`).
    texts: a row per `kind` of text: `tokens`, `l0` and relative `error` at the norm of all texts' median token.
    """

    overlap: pd.DataFrame
    spread: pd.DataFrame
    superposition: pd.DataFrame
    texts: pd.DataFrame


def layer_interference(
    decoder: Array,
    encode: Encode,
    texts: Mapping[str, Vectors],
    features: Mapping[str, csr_array],
    activations: Mapping[str, Vectors],
    targets: Mapping[str, Target],
    draws: int,
    seed: int,
) -> LayerFound:
    """All tables of a layer.

    decoder: columns, shape (features, hidden size). texts: activations on tokens, by kind of text, massive ones left
    out. features, activations: by group, of its analysis rows. targets: by group, without the control.
    """
    import pandas as pd

    every = np.concatenate(list(texts.values()))
    on_text, _ = encode(every)
    use = FeatureUse.of(on_text, decoder)
    own = {group: number_features(matrix) for group, matrix in features.items()}
    union = np.unique(np.concatenate([found for found, _ in own.values()]))
    known, matched = matched_features(union, use, draws, seed)
    pushed = {group: Pushed.of(found, mean, known, decoder) for group, (found, mean) in own.items()}
    rows = []
    for name, target in targets.items():
        basis = animal_subspace([target.word, target.centred], decoder[target.features])
        for direction, vector in ((DIRECT, target.direct), (WORD, target.centred)):
            if vector is None:
                continue
            for subspace in (AS_IT_IS, PROJECTED_OUT):
                if (direction, subspace) == (WORD, PROJECTED_OUT):
                    continue
                out = subspace == PROJECTED_OUT
                overlap = overlaps(decoder, vector, basis if out else None)
                found = overlap_rows(pushed, known, matched, overlap, target.features if out else None)
                about = {"target": name, "direction": direction, "subspace": subspace}
                rows += [about | row for row in found]
    figures = layer_superposition(decoder, use.rate > 0, every, on_text.nnz / len(every), seed)
    figures |= _matching(union, known, matched, use)
    return LayerFound(
        pd.DataFrame(rows, columns=_OVERLAP),
        _spread(activations, encode),
        pd.DataFrame([figures]),
        _of_texts(texts, encode),
    )


def _matching(
    union: NDArray[np.int64], known: NDArray[np.int64], matched: NDArray[np.int64], use: FeatureUse
) -> dict[str, float]:
    found = {"number_features": float(len(union)), "matched": float(len(known))}
    for name, of in (("rate", use.rate), ("length", use.length)):
        off = np.abs(np.log(of[matched]) - np.log(of[known])) if matched.size else np.array([np.nan])
        found[f"{name}_off"] = float(off.mean())
    return found


def _spread(activations: Mapping[str, Vectors], encode: Encode) -> pd.DataFrame:
    import pandas as pd
    from scipy.stats import ttest_ind

    norm = float(np.median(np.linalg.norm(activations[CONTROL], axis=1)))
    control = dict(zip(("l0", "error"), at_one_norm(activations[CONTROL], norm, encode), strict=True))
    rows = []
    for group, vectors in activations.items():
        if group == CONTROL:
            continue
        for measure, values in zip(("l0", "error"), at_one_norm(vectors, norm, encode), strict=True):
            other = control[measure]
            interval = ttest_ind(values, other, equal_var=False).confidence_interval(0.95)
            ends = {"difference": values.mean() - other.mean(), "low": interval.low, "high": interval.high}
            percent = {name: float(100 * end / other.mean()) for name, end in ends.items()}
            means = {"mean": float(values.mean()), "control": float(other.mean())}
            rows.append({"group": group, "measure": measure, **means, **percent})
    return pd.DataFrame(rows, columns=["group", "measure", "mean", "control", "difference", "low", "high"])


def _of_texts(texts: Mapping[str, Vectors], encode: Encode) -> pd.DataFrame:
    import pandas as pd

    norm = float(np.median(np.linalg.norm(np.concatenate(list(texts.values())), axis=1)))
    rows = []
    for kind, vectors in texts.items():
        l0, error = at_one_norm(vectors, norm, encode)
        rows.append({"kind": kind, "tokens": len(vectors), "l0": float(l0.mean()), "error": float(error.mean())})
    return pd.DataFrame(rows)
