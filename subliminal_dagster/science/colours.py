"""The colours of all figures and charts, by what they mean.

Belongs here: the palette. Does not belong here: drawing.
"""

from __future__ import annotations

from collections.abc import Sequence

# One colour, one meaning, in every figure of the project. Bright colours (Okabe and Ito's, which the colour-blind can
# tell apart) are models and animals; greys and brown are what these are compared with.
OWN, OTHERS = "#D55E00", "#0072B2"
"""The child's own animal, or its numbers, and other animals or their numbers."""
CONTROL, NEUTRAL, BASE = "#8C8C8C", "#7F6A52", "#BDBDBD"
TEACHER, CHILD = "#B03A7A", "#17808F"
"""The two models, in figures that set them side by side."""
CHANCE = "#64748B"
"""What happens by chance: guessing, shuffled labels, random vectors."""
GUIDE, GRID, CLEAR = "#808080", "rgba(128,128,128,0.25)", "rgba(0,0,0,0)"
"""Lines that are no data: zero, a gate, equality; the grid; nothing at all. Readable on white and on black."""
INK, MUTED, PAPER = "#1A1A1A", "#4D4D4D", "#FFFFFF"
"""Letters and edges of figures on white."""
KINDS = ("#5B7FA6", "#B5892E", "#6B8E4E", "#9A6FB0", "#A85B4B")
"""Muted: measures, methods or settings, told apart within one figure."""
MEASURED = KINDS[0]
"""Where there is one alone."""
VERDICTS = {
    "detected": "#00694E",
    "not detected": "#00558A",
    "inconclusive": "#8A5A00",
    "opposite": "#A34700",
    "not tested": "#6A6A6A",
}
"""As the verdicts at the head of a report (`report/page.css`)."""
_ANIMALS = ("#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#7A6FD0", "#8A8A00")
_REFERENCES = {"control": CONTROL, "neutral": NEUTRAL, "base": BASE}

SCALE = "RdBu_r"
"""Matplotlib's name of the scale from -1 (blue) to 1 (red), which has a bar beside it."""

# For `toy` alone, whose lines are settings of an experiment.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """A colour for every group: control, neutral and base have theirs, animals take the palette in order."""
    animals = [group for group in groups if group not in _REFERENCES]
    palette = {animal: _ANIMALS[index % len(_ANIMALS)] for index, animal in enumerate(animals)}
    return {group: _REFERENCES.get(group) or palette[group] for group in groups}
