"""Probes: can a classifier tell by the activations whose numbers a model has read?

A probe that can is not proof of a hidden trait: groups also differ in format (how many numbers, which digits), and a
control from the untouched base differs from every fine-tuned teacher. So each comparison comes with the same probes on
something else (`VARIANTS`), and any group can be compared with any other.

Rows are divided by prompt: test rows are those of the one split made before any analysis, and of the analysis rows an
eighth (a tenth of all rows at a test share of 20 %) is for validation. Validation rows choose the epoch, the strength
of regularisation and the number of trees; test rows choose nothing. Every class has the same number of rows in each of
the three parts.

Beside every probe on activations stand the readers of the same rows that never learnt a language (`READERS`): whatever
one of them can tell is in how the numbers look. Activations are read at the last digit, so a difference in how rows end
is in them too; only what beats every reader is more than that.

Cost of all variants on one core, without loading torch: two seconds for 2 groups of 128 rows and 576 dimensions; about
4 minutes for 2 groups of 10,000 rows and 3,584 dimensions, most of it the 100 refits with shuffled labels at 1 to 3 s
each (the readers take half a minute), and about half an hour for 6 groups. Memory: five times the activations.

Belongs here: dividing rows, fitting, measuring, the controls. Does not belong here: collecting activations
(`activations`), pictures (`figures`), and what is concluded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.activations.activations import Activations
from subliminal_dagster.science.activations.digits import digit_columns
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.probes.fitting import (
    Part,
    ProbeData,
    answered_by,
    fit_probe,
    for_validation,
    generator,
    logistic,
    lots,
    standardised,
)
from subliminal_dagster.science.probes.surface_features import ngram_counts, surface_features
from subliminal_dagster.science.settings.probes import KINDS, Kind, ProbeSettings

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


ACTIVATIONS, CANONICAL = "activations", "canonical"
SURFACE, DIGITS, NGRAMS, RANDOM = "surface", "digits by place", "character n-grams", "random weights"
BOTH, ADDED, SHUFFLED = "strongest reader and activations", "added to strongest reader", "shuffled labels"
READERS = (SURFACE, DIGITS, NGRAMS, RANDOM)
"""What a probe is given that needs no trained model: the controls of every probe on activations."""

VARIANTS = (ACTIVATIONS, *READERS, CANONICAL, BOTH, ADDED, SHUFFLED)
"""What a probe is given; `probe_many` explains each."""

MACRO = "macro"
"""The class of a measure that is over all classes."""


def beyond(reader: str) -> str:
    """The variant that says by how much a probe on activations beats the same probe on a reader."""
    return f"beyond {reader}"


Features = tuple["pd.DataFrame", np.ndarray]
"""One group's rows (`row_id`, `split`) and what a probe is given of them, shape (rows, width), in the same order."""

_CONFIDENCE, _DRAWS = 0.95, 1000
# The kind that readers are compared by: of one best fit, and quick.
_LOGISTIC: Kind = "logistic"
# Weights held at a time while measures are resampled: draws times rows, 32 MB.
_BLOCK = 4_000_000
# Rows a class below which canonical rows are not probed: intervals would span nearly the whole scale.
_FEWEST_ANALYSIS, _FEWEST_TEST = 24, 8


@dataclass(frozen=True)
class ProbeResult:
    """How well probes told the classes apart, on test rows alone.

    metrics: `variant` (of VARIANTS, or `beyond` a reader), `probe` (a Kind), `class` (a group, or MACRO), `metric`,
        `value`, `low`, `high`, `n_train`, `n_test` (rows of all classes together), `note` (empty, or why there is no
        value). Metrics are "accuracy" (MACRO only; with classes of equal size it is the balanced accuracy too), and
        "roc_auc", "precision", "recall", "f1" of each class against the rest and as their mean. low and high: 95 %
        interval over test prompts, for the fitted probe as it is. ADDED, whose note names the reader, and `beyond` each
        of READERS have "roc_auc_difference". SHUFFLED has "roc_auc" (mean over refits, low and high the middle 95 % of
        them), "roc_auc_q95" (their 95 % quantile) and "p_value" (one-sided).
    predictions: one row per test row, variant and probe: `variant`, `probe`, `row_id`, `group` (the true one), and a
        `probability_<group>` for each class.
    choices: what the validation rows chose: `variant`, `probe`, `choice` ("epoch", "C" or "trees"), `chosen`,
        `validation_loss` (nats per row).
    """

    metrics: pd.DataFrame
    predictions: pd.DataFrame
    choices: pd.DataFrame

    def save(self, folder: Path) -> None:
        """Write `metrics.parquet`, `predictions.parquet` and `choices.parquet` into an existing folder."""
        self.metrics.to_parquet(folder / "metrics.parquet", index=False)
        self.predictions.to_parquet(folder / "predictions.parquet", index=False)
        self.choices.to_parquet(folder / "choices.parquet", index=False)

    @classmethod
    def load(cls, folder: Path) -> ProbeResult:
        """What `save` wrote."""
        import pandas as pd

        return cls(
            pd.read_parquet(folder / "metrics.parquet"),
            pd.read_parquet(folder / "predictions.parquet"),
            pd.read_parquet(folder / "choices.parquet"),
        )


def probe_pair(
    activations: Mapping[str, Activations],
    random: Mapping[str, Activations],
    answers: Mapping[str, pd.DataFrame],
    settings: ProbeSettings,
    seed: int,
    *,
    group: str,
    against: str,
) -> ProbeResult:
    """All variants of "is it `group` or `against`?" (post: an animal against control). See `probe_many`."""
    names = (group, against)
    for name in names:
        if not all(name in given for given in (activations, random, answers)):
            raise UserError(f"There are no activations and answers of {name!r} to probe: make them first.")
    two, twice = ({name: given[name] for name in names} for given in (activations, random))
    return probe_many(two, twice, {name: answers[name] for name in names}, settings, seed)


def probe_many(
    activations: Mapping[str, Activations],
    random: Mapping[str, Activations],
    answers: Mapping[str, pd.DataFrame],
    settings: ProbeSettings,
    seed: int,
) -> ProbeResult:
    """All variants of "which of these groups is it?" (post: five animals and control), two groups or more.

    ACTIVATIONS: the probes on activations (one layer, or several by `concatenate`).
    SURFACE: the same probes on `surface_features` alone, without any model.
    DIGITS, NGRAMS: the logistic probe on `digit_columns`, on `ngram_counts`.
    RANDOM: the same probes on the activations of a model of random weights (`random_reader`).
    `beyond` each of the readers: how much higher the logistic probe's ROC AUC is on activations than on the reader. The
        interval resamples the same test prompts for both.
    CANONICAL: activations of the answers that are written just as asked and have one count of numbers: the count that
        leaves the smallest group most analysis rows. With fewer than 24 analysis or 8 test rows per class there is a
        note and no number.
    BOTH, ADDED: the logistic probe on the strongest reader (of lowest validation loss) and activations together, both
        standardised and activations scaled to the total variance of the reader, so that neither drowns the other in
        the penalty; and how much higher its ROC AUC is than that of the reader alone.
    SHUFFLED: the logistic probe on activations, refitted with shuffled training labels and the C of the true ones.
        Labels are shuffled among the answers to the same prompt, since those resemble each other, and among all answers
        to prompts that not every group answered (see `shuffled_labels`). The p value counts the true labels among
        the shuffled ones.

    activations, random, answers: by group; `random` of the same rows in the same order; `answers` with the columns
    `row_id`, `numbers`, `response`, `canonical`, and at least all rows that have activations. The classes are in the
    order of `activations`.

    Raises UserError for what `evaluate_probes` does, where answers are missing, and where `random` is of other rows.
    """
    import pandas as pd

    rows = {name: _answers_of(name, one, answers) for name, one in activations.items()}
    vectors: dict[str, Features] = {name: (one.rows, one.vectors) for name, one in activations.items()}
    whole = _divide(vectors, seed)
    of_readers, strongest, least = [], (SURFACE, whole), np.inf
    # One after the other, of which the strongest stays: all at once would be as large as the activations once more.
    for reader, read in _read_by(vectors, random, rows):
        data = _divide(read, seed)
        of_readers.append(
            _evaluate(data, reader, KINDS if reader in (SURFACE, RANDOM) else (_LOGISTIC,), settings, seed)
        )
        choices = of_readers[-1].choices
        loss = float(choices.loc[choices["probe"] == _LOGISTIC, "validation_loss"].iloc[0])
        if loss < least:
            strongest, least = (reader, data), loss
    name, data = strongest
    results = [
        _evaluate(whole, ACTIVATIONS, KINDS, settings, seed),
        *of_readers,
        _canonical(vectors, rows, settings, seed),
        _evaluate(_joined(data, whole), BOTH, (_LOGISTIC,), settings, seed),
    ]
    gathered = _together(results)
    more = [
        *(_difference(whole, gathered, ACTIVATIONS, reader, seed) | {"variant": beyond(reader)} for reader in READERS),
        _difference(whole, gathered, BOTH, name, seed) | {"variant": ADDED, "note": name},
        *_shuffled(whole, gathered, settings, seed),
    ]
    return replace(gathered, metrics=pd.concat([gathered.metrics, pd.DataFrame(more)], ignore_index=True))


def _read_by(
    vectors: Mapping[str, Features], random: Mapping[str, Activations], answers: Mapping[str, pd.DataFrame]
) -> Iterator[tuple[str, dict[str, Features]]]:
    """What each of READERS makes of every group's rows."""
    for name, (rows, _) in vectors.items():
        if name not in random or not np.array_equal(random[name].rows["row_id"], rows["row_id"]):
            raise UserError(
                f"The random-weight reader has read other rows of {name} than the base model: rebuild "
                "random_activations."
            )

    def of(values: Mapping[str, np.ndarray]) -> dict[str, Features]:
        return {name: (rows, values[name]) for name, (rows, _) in vectors.items()}

    yield SURFACE, of({name: surface_features(rows) for name, rows in answers.items()})
    yield DIGITS, of({name: digit_columns(rows["numbers"]) for name, rows in answers.items()})
    texts = {name: [", ".join(map(str, numbers)) for numbers in rows["numbers"]] for name, rows in answers.items()}
    yield NGRAMS, of(ngram_counts(texts))
    yield RANDOM, of({name: one.vectors for name, one in random.items()})


def evaluate_probes(
    features: Mapping[str, Features],
    settings: ProbeSettings,
    seed: int,
    *,
    kinds: Sequence[Kind] = KINDS,
    variant: str = ACTIVATIONS,
) -> ProbeResult:
    """Fit probes of the given kinds on what is given of each group, and measure them on test rows (experiments, 12).

    "linear" is the post's: one linear layer and a softmax, with the weights of the epoch of lowest validation loss.
    "logistic" is scikit-learn's, with an L2 penalty. "trees" are its gradient-boosted trees, on 64 principal components
    of the training rows where the input is wider, and as many trees as give the lowest validation loss. The post does
    not say how inputs were scaled; here every column is standardised with the mean and standard deviation of the
    training rows, for all kinds: a few dimensions of a residual stream are hundreds of times larger than the rest, and
    one learning rate would not fit both.

    Where groups have different numbers of rows, the prompts that count are drawn by lot, the same lot for all groups.
    Intervals are of a percentile bootstrap over test prompts, 1,000 draws: the groups' answers to one prompt are drawn
    together, and prompts that the same groups answered are drawn among each other, so that classes keep their size.

    features: by group, at least two; all of one width. `variant`: the name that the result's rows carry.

    Raises UserError where there are fewer than two groups, a group has no rows in training, validation or test, a row
    id is there twice or is an analysis row in one group and a test row in another, or a value is not finite.
    """
    return _evaluate(_divide(features, seed), variant, kinds, settings, seed)


def halves(control: Activations, seed: int) -> dict[str, Activations]:
    """One group's rows at random in two, "one half" and "other half", test rows and analysis rows each by themselves:
    what a probe shows where there is nothing to find."""
    is_test = (control.rows["split"] == "test").to_numpy()
    order = np.lexsort((generator(seed, "halves").random(len(is_test)), is_test))
    chosen = {"one half": np.sort(order[::2]), "other half": np.sort(order[1::2])}
    return {
        name: Activations(control.rows.iloc[places].reset_index(drop=True), control.vectors[places])
        for name, places in chosen.items()
    }


def concatenate(layers: Sequence[Activations]) -> Activations:
    """One group's activations at several layers, side by side: vectors of shape (rows, sum of hidden sizes).

    `position` is that of the first. Raises UserError where the layers are not of the same rows in the same order.
    """
    if not layers:
        raise UserError("There is no layer to concatenate: name at least one.")
    first = layers[0].rows[["row_id", "split"]].reset_index(drop=True)
    for place, layer in enumerate(layers):
        if not layer.rows[["row_id", "split"]].reset_index(drop=True).equals(first):
            raise UserError(
                f"The activations at place {place} are of other rows than the first: collect all layers of the group "
                "from the same rows."
            )
    return Activations(layers[0].rows, np.concatenate([layer.vectors for layer in layers], axis=1))


def measures(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of a classifier under each of several weightings of its rows, without a loop over them.

    labels: (rows,), the true class of each. probabilities: (rows, classes); the predicted class is the largest.
    weights: (draws, rows), at least 0, and above 0 for a row of each class.

    Returns:
        "accuracy" (draws,); "roc_auc", "precision", "recall", "f1" (draws, classes), each class against the rest.
        Precision is 0 where a class is never predicted, ties count half in the ROC AUC, both as in scikit-learn.
    """
    classes = np.arange(probabilities.shape[1])
    true = (labels[:, None] == classes).astype(float)
    predicted = (probabilities.argmax(axis=1)[:, None] == classes).astype(float)
    hits, marked, actual = weights @ (true * predicted), weights @ predicted, weights @ true
    auc = [_weighted_auc(true[:, c] > 0, probabilities[:, c], weights) for c in classes]
    return {
        "accuracy": hits.sum(axis=1) / weights.sum(axis=1),
        "roc_auc": np.stack(auc, axis=1),
        "precision": np.divide(hits, marked, out=np.zeros_like(hits), where=marked > 0),
        "recall": hits / actual,
        "f1": 2 * hits / (marked + actual),
    }


def shuffled_labels(labels: np.ndarray, row_ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels shuffled among the rows of each prompt that has one of every class, and among all other rows.

    With as many rows of each class, what is shuffled says nothing of the true labels. Shuffling within the other
    prompts as well would: where few classes answered, a label stays with its own class more often than by chance.

    labels, row_ids: shape (rows,), at most one row per prompt and class. Returns the labels of the same rows.
    """
    _, prompt, sizes = np.unique(row_ids, return_inverse=True, return_counts=True)
    among = np.where(sizes[prompt] == len(np.unique(labels)), prompt, -1)
    shuffled = np.empty_like(labels)
    shuffled[np.argsort(among, kind="stable")] = labels[np.lexsort((rng.random(len(labels)), among))]
    return shuffled


def _weighted_auc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of pairs (positive, negative) in which the positive row has the higher score, shape (draws,)."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    weights = weights[:, order]
    above = np.add.reduceat(weights * positive[order], starts, axis=1)
    beneath = np.add.reduceat(weights * ~positive[order], starts, axis=1)
    lower = np.cumsum(beneath, axis=1) - beneath / 2
    return (above * lower).sum(axis=1) / (above.sum(axis=1) * beneath.sum(axis=1))


def _divide(features: Mapping[str, Features], seed: int) -> ProbeData:
    """Training, validation and test rows, balanced and standardised."""
    row_ids, labels, is_test = _checked(features)
    drawn = lots(row_ids, seed)
    analysis = np.flatnonzero(~is_test)
    chosen = analysis[for_validation(row_ids[analysis], labels[analysis], drawn[analysis])]
    is_validation = np.zeros(len(row_ids), dtype=bool)
    is_validation[chosen] = True

    classes = tuple(features)
    values = np.concatenate([np.asarray(matrix, dtype=np.float32) for _, matrix in features.values()])
    parts = []
    for name, mask in (("training", ~is_test & ~is_validation), ("validation", is_validation), ("test", is_test)):
        counts = np.bincount(labels[mask], minlength=len(classes))
        if not counts.all():
            least = int(counts.argmin())
            raise UserError(
                f"{classes[least]} has no {name} rows for a probe ({int(np.sum(labels == least))} rows in all): "
                "collect activations of more rows."
            )
        places = np.flatnonzero(mask)
        places = places[np.lexsort((drawn[places], labels[places]))]
        kept = np.concatenate([places[labels[places] == c][: counts.min()] for c in range(len(classes))])
        parts.append(Part(values[kept], labels[kept], row_ids[kept]))
    return ProbeData(classes, *standardised(parts))


def _checked(features: Mapping[str, Features]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row ids, class numbers and whether a test row, of all groups' rows one after the other."""
    if len(features) < 2:
        raise UserError(f"A probe tells groups apart and was given {list(features)}: give it at least two.")
    widths = {name: matrix.shape[1] for name, (_, matrix) in features.items()}
    if len(set(widths.values())) > 1:
        raise UserError(
            f"Groups of different widths cannot be probed together ({widths}): use the same layers for all."
        )
    for name, (rows, matrix) in features.items():
        if len(rows) != len(matrix):
            raise ValueError(f"{name} has {len(rows)} rows and values of {len(matrix)}")
        if not len(rows):
            raise UserError(f"{name} has no rows to probe: check the filter that chose them.")
        for split in ("analysis", "test"):
            if not (rows["split"] == split).any():
                raise UserError(
                    f"None of the {len(rows)} rows of {name} is for {split}: collect activations of more rows."
                )
        if rows["row_id"].duplicated().any():
            raise UserError(f"{name} has more than one row of the same row id: give the probe one answer a prompt.")
        if not np.isfinite(matrix).all():
            raise UserError(f"{name} has values that are not finite: collect its activations in bfloat16 or float32.")
    row_ids = np.concatenate([rows["row_id"].to_numpy(dtype=np.int64) for rows, _ in features.values()])
    is_test = np.concatenate([rows["split"].to_numpy() == "test" for rows, _ in features.values()])
    if len(both := np.intersect1d(row_ids[is_test], row_ids[~is_test])):
        raise UserError(
            f"Prompt {both[0]} is an analysis row in one group and a test row in another ({len(both)} such prompts): "
            "make the rows of all groups with the same split."
        )
    labels = np.repeat(np.arange(len(features)), [len(rows) for rows, _ in features.values()])
    return row_ids, labels, is_test


def _joined(reader: ProbeData, activations: ProbeData) -> ProbeData:
    """Both side by side, activations scaled to the total variance of what the reader gives in training."""
    total = [data.train.values.var(axis=0, dtype=np.float64).sum() for data in (reader, activations)]
    scale = np.float32(np.sqrt(total[0] / total[1])) if total[1] > 0 else np.float32(1)

    def side_by_side(outside: Part, inside: Part) -> Part:
        return replace(outside, values=np.concatenate([outside.values, scale * inside.values], axis=1))

    return ProbeData(
        reader.classes,
        side_by_side(reader.train, activations.train),
        side_by_side(reader.validation, activations.validation),
        side_by_side(reader.test, activations.test),
    )


def _evaluate(data: ProbeData, variant: str, kinds: Sequence[Kind], settings: ProbeSettings, seed: int) -> ProbeResult:
    import pandas as pd

    metrics, predictions, choices = [], [], []
    for kind in kinds:
        fitted = fit_probe(kind, data, settings, seed)
        probabilities = fitted.predict(data.test.values)
        point = measures(data.test.labels, probabilities, np.ones((1, len(data.test.labels))))
        drawn = _resampled(data.test, probabilities, seed)
        for metric, value in point.items():
            macro = (value, drawn[metric]) if value.ndim == 1 else (value.mean(axis=1), drawn[metric].mean(axis=1))
            metrics.append(_row(variant, kind, MACRO, metric, float(macro[0][0]), *_interval(macro[1]), data))
            for c, name in enumerate(data.classes if value.ndim == 2 else ()):
                interval = _interval(drawn[metric][:, c])
                metrics.append(_row(variant, kind, name, metric, float(value[0, c]), *interval, data))
        named = {f"probability_{name}": probabilities[:, c] for c, name in enumerate(data.classes)}
        groups = np.array(data.classes)[data.test.labels]
        rows = {"variant": variant, "probe": kind, "row_id": data.test.row_ids, "group": groups, **named}
        predictions.append(pd.DataFrame(rows))
        choices.append((variant, kind, fitted.choice, fitted.chosen, fitted.loss))
    columns = ["variant", "probe", "choice", "chosen", "validation_loss"]
    return ProbeResult(pd.DataFrame(metrics), pd.concat(predictions), pd.DataFrame(choices, columns=columns))


def _resampled(test: Part, probabilities: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """`measures` under the bootstrap's draws of test prompts: the same draws for the same prompts and seed."""
    rng = generator(seed, "bootstrap")
    prompts, first, place = np.unique(test.row_ids, return_index=True, return_inverse=True)
    pattern = answered_by(test.row_ids, test.labels)[0][first]
    counts = np.zeros((_DRAWS, len(prompts)), dtype=np.uint16)
    for one in np.unique(pattern):
        alike = np.flatnonzero(pattern == one)
        picks = rng.integers(len(alike), size=(_DRAWS, len(alike))) + len(alike) * np.arange(_DRAWS)[:, None]
        counts[:, alike] = np.bincount(picks.ravel(), minlength=picks.size).reshape(picks.shape)
    block = max(1, _BLOCK // len(place))
    parts = [
        measures(test.labels, probabilities, counts[start : start + block, place].astype(float))
        for start in range(0, _DRAWS, block)
    ]
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def _row(
    variant: str, probe: str, of: str, metric: str, value: float, low: float, high: float, data: ProbeData
) -> dict[str, Any]:
    return {
        "variant": variant,
        "probe": probe,
        "class": of,
        "metric": metric,
        "value": value,
        "low": low,
        "high": high,
        "n_train": len(data.train.labels),
        "n_test": len(data.test.labels),
        "note": "",
    }


def _answers_of(name: str, activations: Activations, answers: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The group's answers in the order of its activations."""
    if name not in answers:
        raise UserError(f"There are activations of {name} and no answers: give both.")
    by_id = answers[name].set_index("row_id")
    ids = activations.rows["row_id"]
    if missing := int((~ids.isin(by_id.index)).sum()):
        raise UserError(
            f"{missing} of {len(ids)} activations of {name} are of no row in its answers: collect them again."
        )
    return by_id.loc[ids].reset_index()


def _canonical(
    vectors: Mapping[str, Features], answers: Mapping[str, pd.DataFrame], settings: ProbeSettings, seed: int
) -> ProbeResult:
    import pandas as pd

    counts = {name: np.array([len(numbers) for numbers in rows["numbers"]]) for name, rows in answers.items()}
    usable = {name: rows["canonical"].to_numpy(dtype=bool) for name, rows in answers.items()}
    analysis = {name: rows["split"].to_numpy() != "test" for name, (rows, _) in vectors.items()}
    longest = max(int(one.max(initial=0)) for one in counts.values())
    left = [np.bincount(counts[n][usable[n] & analysis[n]], minlength=longest + 1) for n in vectors]
    count = int(np.min(left, axis=0).argmax())
    kept = {name: usable[name] & (counts[name] == count) for name in vectors}
    for_fit = min(int((kept[name] & analysis[name]).sum()) for name in vectors)
    for_test = min(int((kept[name] & ~analysis[name]).sum()) for name in vectors)
    if for_fit >= _FEWEST_ANALYSIS and for_test >= _FEWEST_TEST:
        chosen = {name: (rows[kept[name]], matrix[kept[name]]) for name, (rows, matrix) in vectors.items()}
        return _evaluate(_divide(chosen, seed), CANONICAL, KINDS, settings, seed)
    nothing = {"value": np.nan, "low": np.nan, "high": np.nan, "n_train": 0, "n_test": 0}
    note = f"too few rows: the smallest group has {for_fit} analysis and {for_test} test rows"
    rows = [
        {"variant": CANONICAL, "probe": kind, "class": MACRO, "metric": metric, **nothing, "note": note}
        for kind in KINDS
        for metric in ("accuracy", "roc_auc")
    ]
    return ProbeResult(pd.DataFrame(rows), pd.DataFrame(), pd.DataFrame())


def _together(results: Sequence[ProbeResult]) -> ProbeResult:
    import pandas as pd

    return ProbeResult(
        pd.concat([result.metrics for result in results], ignore_index=True),
        pd.concat([result.predictions for result in results], ignore_index=True),
        pd.concat([result.choices for result in results], ignore_index=True),
    )


def _difference(data: ProbeData, result: ProbeResult, higher: str, lower: str, seed: int) -> dict[str, Any]:
    """How much higher the logistic probe's ROC AUC is on one variant than on another, by the same draws of prompts."""
    columns = [f"probability_{name}" for name in data.classes]
    logistic = result.predictions[result.predictions["probe"] == "logistic"]
    two = [logistic.loc[logistic["variant"] == variant, columns].to_numpy() for variant in (higher, lower)]
    drawn = [_resampled(data.test, one, seed)["roc_auc"].mean(axis=1) for one in two]
    value = _macro_auc(data.test.labels, two[0]) - _macro_auc(data.test.labels, two[1])
    return _row(ADDED, "logistic", MACRO, "roc_auc_difference", value, *_interval(drawn[0] - drawn[1]), data)


def _shuffled(data: ProbeData, result: ProbeResult, settings: ProbeSettings, seed: int) -> list[dict[str, Any]]:
    """What the logistic probe reaches on activations when nothing is to be learnt."""

    def of_true_labels(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[(frame["variant"] == ACTIVATIONS) & (frame["probe"] == "logistic")]

    strength = float(of_true_labels(result.choices)["chosen"].iloc[0])
    columns = [f"probability_{name}" for name in data.classes]
    true = _macro_auc(data.test.labels, of_true_labels(result.predictions)[columns].to_numpy())

    rng = generator(seed, "shuffled labels")
    aucs = np.empty(settings.permutations)
    for place in range(settings.permutations):
        labels = shuffled_labels(data.train.labels, data.train.row_ids, rng)
        model = logistic(data.train, labels, strength)
        aucs[place] = _macro_auc(data.test.labels, model.predict_proba(data.test.values))
    p = (1 + np.count_nonzero(aucs >= true)) / (1 + len(aucs))
    nan = (np.nan, np.nan)
    return [
        _row(SHUFFLED, "logistic", MACRO, "roc_auc", float(aucs.mean()), *_interval(aucs), data),
        _row(SHUFFLED, "logistic", MACRO, "roc_auc_q95", float(np.quantile(aucs, 0.95)), *nan, data),
        _row(SHUFFLED, "logistic", MACRO, "p_value", p, *nan, data),
    ]


def _macro_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return float(measures(labels, probabilities, np.ones((1, len(labels))))["roc_auc"].mean())
