"""This machine's clock, against those that others keep.

Belongs here: the comparison. Does not belong here: asking for the time (`hub`, `place`).

Part of no version: messages to users are not results.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from subliminal_dagster.science.preflight.finding import Finding

CHECK = "clock"

TOLERATED = timedelta(minutes=3)
"""Claims of processes elsewhere, certificates and tokens forgive less than a quarter of an hour."""


def check_clock(ahead: Mapping[str, timedelta]) -> Finding:
    """`ahead`: how far this machine's clock is before another one, by whose that is (negative: behind)."""
    if not ahead:
        return Finding(CHECK, "ok", "not checked: neither the hub nor the store tells the time")
    worst = max(ahead, key=lambda name: abs(ahead[name]))
    off = abs(ahead[worst])
    if off <= TOLERATED:
        return Finding(CHECK, "ok", f"within {max(1, round(off.total_seconds()))} s of that of {' and '.join(ahead)}")
    way = "ahead of" if ahead[worst] > timedelta(0) else "behind"
    return Finding(
        CHECK,
        "warning",
        f"This machine's clock is {off.total_seconds() / 60:.0f} minutes {way} that of {worst}: set it (timedatectl "
        "set-ntp true), or a living process elsewhere may be taken for dead and a valid token for expired.",
    )
