"""Numbers and lists as they are written in a report's sentences.

Belongs here: how at least two sections write something. Does not belong here: what they say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def percent(fraction: float) -> str:
    """A fraction in per cent, three significant digits.

    >>> percent(0.0123456)
    '1.23 %'
    """
    return f"{100 * fraction:.3g} %"


def with_interval(value: float, low: float, high: float, unit: str = "", *, signed: bool = False) -> str:
    """A value with its interval, as many decimals as show two digits of the interval's half width.

    >>> with_interval(0.1388, 0.0239, 0.2537, "nats", signed=True)
    '+0.14 nats [+0.02, +0.25]'
    """
    half_width = (high - low) / 2
    decimals = max(0, 1 - math.floor(math.log10(half_width))) if half_width > 0 else 2
    style = f"{'+' if signed else ''}.{decimals}f"
    # Adding zero makes -0.0, which would be written with its sign, a plain zero.
    written, lower, upper = (format(round(x, decimals) + 0.0, style) for x in (value, low, high))
    return f"{written}{f' {unit}' if unit else ''} [{lower}, {upper}]"


def percent_with_interval(value: float, low: float, high: float) -> str:
    """A fraction with its interval, in per cent.

    >>> percent_with_interval(0.712, 0.618, 0.79)
    '71.2 % [61.8, 79.0]'
    """
    return with_interval(100 * value, 100 * low, 100 * high, "%")


def points_with_interval(value: float, low: float, high: float) -> str:
    """A difference of fractions with its interval, in percentage points.

    >>> points_with_interval(-0.02, -0.0486, 0.0086)
    '-2.0 points [-4.9, +0.9]'
    """
    return with_interval(100 * value, 100 * low, 100 * high, "points", signed=True)


def p_value(p: float) -> str:
    """A p value after the letter.

    >>> p_value(0.0199587), p_value(1e-9)
    ('p = 0.02', 'p < 0.001')
    """
    return f"p = {p:.2g}" if p >= 1e-3 else "p < 0.001"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "child", "children"), counted(2500, "row")
    ('1 child', '2,500 rows')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence.

    >>> listed(["cat", "owl", "wolf"])
    'cat, owl and wolf'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
