"""Where features' descriptions come from, and who judges them.

Belongs here: settings of descriptions and judges. Does not belong here: fetching and judging.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from subliminal_dagster.science.settings.base import Settings, UserPath, content_by_layer


class _JudgeSettings(Settings):
    """`kappa`: the least agreement with the hand-labelled descriptions (Cohen's kappa) that a judge is believed at.
    0.6 is where Landis and Koch (1977) let "substantial" agreement begin."""

    kappa: float = Field(default=0.6, gt=0, le=1)


class OpenAiJudgeSettings(_JudgeSettings):
    """A model behind an OpenAI-compatible endpoint. `model` None takes the one that the environment names."""

    kind: Literal["openai"] = "openai"
    model: str | None = None


class LocalJudgeSettings(_JudgeSettings):
    """The study's base model itself."""

    kind: Literal["local"] = "local"


JudgeSettings = Annotated[OpenAiJudgeSettings | LocalJudgeSettings, Field(discriminator="kind")]


class NeuronpediaDescriptions(Settings):
    """Neuronpedia's export. `id` is model and source, "{layer}" standing for the layer, such as
    "gemma-2-9b-it/{layer}-gemmascope-res-16k"; None takes the one that sae-lens' list names for a published SAE."""

    kind: Literal["neuronpedia"] = "neuronpedia"
    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*/[\w.{}-]+$")


class LocalDescriptions(Settings):
    """A folder with a copy of Neuronpedia's export (batch-*.jsonl.gz), "{layer}" in its path standing for the layer."""

    kind: Literal["local"] = "local"
    path: UserPath

    def file_contents(self, study: Any) -> dict[str, Any]:
        return {"path": content_by_layer(self.path, study.layers)}


class MadeDescriptions(Settings):
    """Made from data: of each feature the `contexts` in which it is most active and the `tokens` it promotes most, put
    into one line by the model `writer` behind the endpoint that SUBLIMINAL_JUDGE_URL names, where one is given."""

    kind: Literal["made"] = "made"
    contexts: int = Field(default=8, ge=1)
    tokens: int = Field(default=8, ge=1)
    writer: str | None = None


DescriptionSettings = Annotated[
    NeuronpediaDescriptions | LocalDescriptions | MadeDescriptions, Field(discriminator="kind")
]


class DescriptionsSettings(Settings):
    """Where features' descriptions come from, and who sorts them into categories."""

    source: DescriptionSettings = MadeDescriptions()
    judge: JudgeSettings = LocalJudgeSettings()
