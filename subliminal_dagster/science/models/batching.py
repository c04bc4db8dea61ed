"""Batches of sequences of like length, so that little of a batch is padding.

Belongs here: that one rule. Does not belong here: padding itself, which each user does on its own side.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_PADDING = 0.1
"""Share of a batch's positions that may be padding."""


def batches_of_like_length(lengths: Sequence[int], most: int, padding: float = MOST_PADDING) -> list[list[int]]:
    """Numbers of the sequences, in batches of at most `most`, longest first, none with a larger share of `padding`."""
    batches: list[list[int]] = []
    filled = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and len(batches[-1]) < most:
            positions = lengths[batches[-1][0]] * (len(batches[-1]) + 1)
            if filled + lengths[i] >= (1 - padding) * positions:
                batches[-1].append(i)
                filled += lengths[i]
                continue
        batches.append([i])
        filled = lengths[i]
    return batches
