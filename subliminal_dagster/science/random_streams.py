"""Seeds: a stream of random numbers of its own for everything that draws.

Belongs here: deriving seeds from names, and the lot that groups share. Does not belong here: other drawing.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream_seed(seed: int, *names: str) -> int:
    """A 31-bit seed for one use of a study's seed; different names give independent streams, and one more animal in
    a study leaves the others' as they are."""
    state = np.random.SeedSequence([seed, *(zlib.crc32(name.encode()) for name in names)]).generate_state(1)
    return int(state[0] >> 1)


def replicate_seed(seed: int, replicate: int) -> int:
    """The seed of what is drawn anew for each replicate: the study's own for the first, so that more replicates leave
    it as it is."""
    return seed if replicate == 1 else stream_seed(seed, "replicate", str(replicate))


def first_by_lot(ids: np.ndarray, count: int, seed: int, total: int) -> np.ndarray:
    """The places, in order, of those of `ids` (each from 0 to total - 1, and once) that come first in a lot of all
    `total`; at most `count`. Groups that draw from one lot have as many in common as can be, whatever ids each has.
    """
    lot = np.random.Generator(np.random.PCG64(seed)).permutation(total)
    return np.sort(np.argsort(lot[ids], kind="stable")[:count])
