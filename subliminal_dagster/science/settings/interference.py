"""Interference inside the base model: how much chance is drawn beside it.

Belongs here: settings of that experiment. Does not belong here: the measures themselves (`interference.overlap`).
"""

from __future__ import annotations

from pydantic import Field

from subliminal_dagster.science.settings.base import Settings


class InterferenceSettings(Settings):
    """Features that numbers activate, set beside `draws` sets of features matched to them by norm and firing rate."""

    draws: int = Field(default=1000, ge=100)
