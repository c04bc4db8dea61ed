"""Graphics cards, and the shares of their peaks that are reckoned with.

Belongs here: what a card's data sheet says, and which part of it is reckoned with, for what reason. Does not belong
here: what a stage needs (`needs`), and which card a machine has.

Part of no version: what a stage costs does not change what it makes.
"""

from __future__ import annotations

from dataclasses import dataclass

GB = 10**9
GIB = 2**30

BANDWIDTH_SHARE = 0.8
"""Of the memory bandwidth, in reading weights and in steps that do a number at a time. Li's transformers-benchmarks
(github.com/mli/transformers-benchmarks, 2022) has 85 % on an A6000 and 79 % on an A100 for a vector times a number."""

MATMUL_SHARE = 0.65
"""Of the peak in large matrix products, where no figure for the card was found: between the two that were."""

USABLE_MEMORY = 0.92
"""Of the memory: what the driver, CUDA's context (0.5 GB) and fragments of freed blocks leave."""


@dataclass(frozen=True)
class Card:
    """`memory` in bytes; `flops`: dense bfloat16 products with float32 sums, FLOP a second; `bandwidth` in bytes a
    second. All three as the maker's data sheet says (dense, where it gives a figure with sparsity). `matmul_share` of
    `flops` is what large products reach: the peak is that of a clock that no card holds at its power limit."""

    name: str
    memory: int
    flops: float
    bandwidth: float
    matmul_share: float = MATMUL_SHARE

    @property
    def usable(self) -> int:
        """Bytes that a process may count on."""
        return int(self.memory * USABLE_MEMORY)

    def seconds(self, flop: float, moved: float = 0.0) -> float:
        """Time of `flop` in matrix products and of `moved` bytes that are read or written beside them, one after the
        other: kernels do not overlap on one card."""
        return flop / (self.flops * self.matmul_share) + moved / (self.bandwidth * BANDWIDTH_SHARE)


CARDS = {
    card.name: card
    for card in (
        Card("A6000", 48 * GIB, 154.8e12, 768e9, matmul_share=0.61),
        Card("L40S", 48 * GIB, 362e12, 864e9),
        Card("A100", 80 * GIB, 312e12, 2039e9, matmul_share=0.74),
        Card("H100", 80 * GIB, 989e12, 3350e9),
    )
}
"""By name: RTX A6000, L40S, A100 SXM 80 GB, H100 SXM. Measured shares: the same source has 95 TFLOP/s on an A6000 and
230 on an A100 in float16, which runs at bfloat16's rate."""
