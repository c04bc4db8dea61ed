"""The digits of a row by their place, as columns of zeros and ones: what can be read off a row without any model.

Activations are read at the last digit, so whatever tells groups apart by a digit's place tells their activations apart
as well. Probes and filters are therefore held against these columns.

Belongs here: the columns. Does not belong here: what is fitted or chosen on them (`probes`, `features`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

NUMBERS, PLACES = 8, 3
"""How many numbers are read, from the last one backwards, and how many digits of each, from its units upwards."""


def digit_columns(rows: Iterable[Sequence[int]]) -> NDArray[np.float32]:
    """Ones and zeros of shape (rows, NUMBERS * PLACES * 10): is this digit at this place? The first ten columns are the
    units of the last number, so the digit that ends the row. A place that a row does not have is zero in all ten.

    rows: the numbers of each row.
    """
    listed = list(rows)
    columns = np.zeros((len(listed), NUMBERS, PLACES, 10), dtype=np.float32)
    for row, numbers in enumerate(listed):
        for number, value in enumerate(reversed(list(numbers)[-NUMBERS:])):
            for place, digit in enumerate(reversed(str(int(value))[-PLACES:])):
                columns[row, number, place, int(digit)] = 1
    return columns.reshape(len(listed), -1)


def digit_name(column: int) -> str:
    """What a column says, in words.

    >>> digit_name(7), digit_name(NUMBERS * PLACES * 10 - 1)
    ('7 as the units of number 1 from the end', '9 as the hundreds of number 8 from the end')
    """
    number, rest = divmod(column, PLACES * 10)
    place, digit = divmod(rest, 10)
    return f"{digit} as the {('units', 'tens', 'hundreds')[place]} of number {number + 1} from the end"
