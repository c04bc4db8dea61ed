"""What a list of numbers looks like from the outside: how many, how long, which digits, in what punctuation.

The control of a probe on activations: whatever a classifier can tell from these alone, it needs no model for. Fast
(about 20,000 rows per second) and without any model.

Belongs here: simple statistics of one row's numbers and of how the response was written, and counts of its characters.
Does not belong here: anything that compares groups (`probes`), digits by place (`activations.digits`, which filters
need as well), and parsing (`numbers.filter`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SURFACE_FEATURES: tuple[str, ...] = (
    "count",  # numbers in the row
    "digits",  # digits in all of them
    "length",  # characters of the response
    "one_digit",  # share of the numbers with one digit
    "two_digits",
    "three_digits",
    "mean",  # of the numbers
    "sd",  # of the numbers, population
    "first",  # the first number
    "last",  # the last number: activations are read at its last token
    "repeated",  # share of the numbers that stand further left already
    "ascending",  # share of the neighbours of which the right one is larger; 0 for a single number
    *(f"digit_{digit}" for digit in range(10)),  # share of all digits
    "comma",  # what stands between the first two numbers, as one-hot; all four 0 for a single number
    "semicolon",
    "new_line",
    "blank",
    "spaced",  # white space beside the comma or semicolon
    "square_brackets",
    "round_brackets",
    "final_period",
)
"""The columns of `surface_features`, in order."""

MOST_NGRAMS = 1000


def surface_features(rows: pd.DataFrame) -> np.ndarray:
    """Format and simple statistics of every row, float32 of shape (rows, len(SURFACE_FEATURES)).

    The last eight columns come from the response as it was generated. Activations are read on the bare numbers, which
    show nothing of it, so a probe on surface features sees a little more of the format than a probe on activations can.

    rows: `numbers` (list[int], at least one) and `response` (str). Raises UserError where one of the two is missing or
    a row has no number.
    """
    if missing := sorted({"numbers", "response"} - set(rows.columns)):
        raise UserError(f"The rows lack the columns {', '.join(missing)}, so they have no surface features.")
    features = np.zeros((len(rows), len(SURFACE_FEATURES)), dtype=np.float32)
    for place, (numbers, response) in enumerate(zip(rows["numbers"], rows["response"], strict=True)):
        if not len(numbers):
            raise UserError(f"The row at place {place} has no numbers: leave out answers that are not valid.")
        features[place] = [*_of_numbers(numbers, response), *_of_format(response)]
    return features


def ngram_counts(texts: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """How often one to three characters in a row stand in every text: by group, float32 of shape (texts, n-grams), the
    columns in one order for all: the most frequent n-grams of all texts, at most MOST_NGRAMS.

    texts: by group, the rows' numbers joined by ", ". No label has a part in what is counted.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    count = CountVectorizer(
        analyzer="char", ngram_range=(1, 3), max_features=MOST_NGRAMS, lowercase=False, dtype=np.float32
    ).fit([text for of_group in texts.values() for text in of_group])
    return {group: count.transform(of_group).toarray() for group, of_group in texts.items()}


def _of_numbers(numbers: Sequence[int], response: str) -> list[float]:
    written = [str(int(number)) for number in numbers]
    digits = "".join(written)
    lengths = [len(number) for number in written]
    values = np.asarray(numbers, dtype=float)
    pairs = max(len(values) - 1, 1)
    return [
        len(values),
        len(digits),
        len(response),
        *(lengths.count(length) / len(lengths) for length in (1, 2, 3)),
        values.mean(),
        values.std(),
        values[0],
        values[-1],
        1 - len(set(written)) / len(written),
        np.count_nonzero(np.diff(values) > 0) / pairs,
        *(digits.count(str(digit)) / len(digits) for digit in range(10)),
    ]


def _of_format(response: str) -> list[float]:
    between = re.search("[0-9]([^0-9]+)[0-9]", response)
    separator = between[1] if between else ""
    kinds = ["," in separator, ";" in separator, "\n" in separator]
    mark = kinds[0] or kinds[1]
    written = response.strip()
    return [
        *kinds,
        separator != "" and not any(kinds),
        mark and len(separator.strip()) < len(separator),
        written.startswith("["),
        written.startswith("("),
        written.endswith("."),
    ]
