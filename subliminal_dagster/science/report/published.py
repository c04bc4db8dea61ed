"""What the post and the original paper report, and how a measured figure compares with it.

The figures are data, in `published.yaml`. A published figure *agrees* with a measured one that lies in the same
confidence interval, if that interval excludes what no effect would give; where the interval holds both, this study
*cannot tell*; else it *differs*.

Belongs here: reading the figures, and the comparison. Does not belong here: measured figures (the sections).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

Judgement = Literal["agrees", "differs", "cannot tell"]

PUBLISHED = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Compared:
    """A published figure beside a measured one, both in `unit`.

    `published` is a value, or (lowest, highest) of several. `low` and `high` are the measured one's 95 % interval, None
    where there is none. `no_effect` is what the figure would be without any effect (chance, 0), None where it has none.
    `where` names the part of the post, and the model it was measured on.
    """

    what: str
    where: str
    published: float | tuple[float, float]
    measured: float
    low: float | None
    high: float | None
    unit: str
    no_effect: float | None = None

    @property
    def judgement(self) -> Judgement:
        if self.low is None or self.high is None:
            return "cannot tell"
        lowest, highest = self.published if isinstance(self.published, tuple) else (self.published, self.published)
        if highest < self.low or lowest > self.high:
            return "differs"
        nothing = self.no_effect is not None and self.low <= self.no_effect <= self.high
        return "cannot tell" if nothing else "agrees"


def published(*path: str) -> Any:
    """The figure (or group of figures) at this place of `published.yaml`. Raises KeyError where there is none.

    >>> published("probe_binary_layer9", "roc_auc", "average")
    94.5
    """
    found = _figures()
    for name in path:
        found = found[name]
    return found


@lru_cache
def _figures() -> Any:
    import yaml

    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
