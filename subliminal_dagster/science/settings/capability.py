"""Which exam is taken, and how.

Belongs here: settings of exams. Does not belong here: examining.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from subliminal_dagster.science.settings.base import Settings, UserPath, content_by_layer


class OwnExam(Settings):
    """The exam that ships with the project: 160 questions with four options each, 20 in each of eight categories."""

    kind: Literal["own"] = "own"


class HubExam(Settings):
    """A dataset on the Hugging Face hub at one commit, its test split. A gated one needs HF_TOKEN in the environment.
    Without a network it is taken from the hub's cache on this machine.

    As it stands: MMLU-Pro, 12,032 questions with up to ten options each.
    """

    kind: Literal["hub"] = "hub"
    repo: str = Field(default="TIGER-Lab/MMLU-Pro", pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    revision: str = Field(default="b189ec765aa7ed75c8acfea42df31fdae71f97be", pattern=r"^[0-9a-f]{40}$")


class LocalExam(Settings):
    """A parquet file on this machine with the columns of MMLU-Pro."""

    kind: Literal["local"] = "local"
    path: UserPath

    def file_contents(self, study: Any) -> dict[str, Any]:
        return {"path": content_by_layer(self.path, study.layers)}


ExamSource = Annotated[OwnExam | HubExam | LocalExam, Field(discriminator="kind")]


class CapabilitySettings(Settings):
    """Which exam is taken, of it the first `per_category` questions of every category (None: all), and in which `ways`.

    Each way is a measure of its own (see `capability.examine`). The post's is "generated", and nothing else stands
    beside the post's figures. The first is the one that is drawn and judged.
    """

    exam: ExamSource = OwnExam()
    per_category: int | None = Field(default=None, ge=1)
    ways: tuple[Literal["generated", "letter", "option"], ...] = Field(default=("generated", "letter"), min_length=1)
