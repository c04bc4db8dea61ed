"""What the settings of all kinds of studies have in common.

Belongs here: the strict base of every settings class, and what every study file begins with. Does not belong here: the
settings of one kind (`study`, `toy.settings`).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Settings that cannot be changed and know no other fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StudyHeader(Settings):
    """What every study has."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}[a-z0-9]$")
    description: str
    seed: int = Field(ge=0, lt=2**31)

    @property
    def groups(self) -> list[str]:
        """The partitions of its assets; none where a kind of study has none."""
        return []

    @property
    def subjects(self) -> tuple[str, ...]:
        """What it is about, in words for a list of studies."""
        raise NotImplementedError
