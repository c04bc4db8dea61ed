"""The settings of a toy study.

Belongs here: the schema of a study file of kind `toy`, and its validation, so that nothing trains on a setting that
makes no sense. Does not belong here: how a toy model is trained (`sweep`, `digits`).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from subliminal_dagster.science.settings.base import Settings, StudyHeader
from subliminal_dagster.science.settings.category import ANIMALS, Category

FUSED_UP_TO = 20_000
"""Numbers in W up to which a CPU trains faster in the compiled engine than by matrix products (benchmarks/toy.py)."""

Density = Annotated[float, Field(gt=0, le=1)]
Index = Annotated[int, Field(ge=0)]
BatchLoss = Literal["sum", "mean"]


class ToyTraining(Settings):
    """AdamW on fresh rows: `steps` of `batch_size` rows each."""

    steps: int = Field(default=10_000, ge=1)
    batch_size: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)


class AutoencoderSettings(Settings):
    """x' = ReLU(W^T W x + b) on sparse features, at several densities, and what a child recovers of its teacher.

    `features` n and `hidden` m give W the shape (m, n). A feature is active with probability `densities` = 1 - S. The
    loss weighs feature i with `importance` ** (20 i / n), the post's weights at n = 20, and is the mean over features,
    summed over a batch or averaged (`batch_loss`). `ablated` features are each left out of the loss of a child of its
    own; with `auxiliary` = k the teacher gets k features more, left out of its loss, and the child learns those alone,
    weighed with the importances of features n to n + k - 1 or alike (`auxiliary_weights`). `init_norm` is the norm of a
    feature's column of W before training, root mean square; Xavier's is sqrt(2 m / (n + m)).
    `interference_penalty` adds that multiple of the sum over i != j of (W_i . W_j)^2 to each row's loss of the teacher,
    and of the child where `penalise_child`. `child_init` says whether the child starts from the teacher's W or from
    another; `child_inputs` whether its input has all features, or only those whose outputs it is trained on.
    `equal_activations`: the batch size is the densest density's and grows as features are less often active, so that
    each is active as often in training at every density. `predicts` is what is expected of the children at some
    density: by the post's account, that superposition causes subliminal learning, or because nothing could teach them.
    """

    features: int = Field(default=20, ge=2)
    hidden: int = Field(default=5, ge=1)
    importance: float = Field(default=0.7, gt=0, le=1)
    densities: tuple[Density, ...] = Field(min_length=1)
    seeds: int = Field(default=5, ge=2)
    ablated: tuple[Index, ...] = ()
    auxiliary: tuple[Annotated[int, Field(ge=1)], ...] = ()
    auxiliary_weights: Literal["importance", "equal"] = "importance"
    batch_loss: BatchLoss = "sum"
    relu: bool = True
    interference_penalty: float = Field(default=0.0, ge=0)
    penalise_child: bool = False
    init_norm: Literal["xavier"] | Annotated[float, Field(gt=0)] = "xavier"
    child_init: Literal["same", "other"] = "same"
    child_inputs: Literal["all", "trained"] = "all"
    equal_activations: bool = False
    predicts: Literal["recovery", "nothing"] = "recovery"
    training: ToyTraining = ToyTraining()

    @property
    def is_small(self) -> bool:
        """Whether the models train in the compiled engine, on a CPU even where there is a GPU.

        Small ones do: before a GPU has their rows, a core has used them.
        """
        return self.features * self.hidden < FUSED_UP_TO

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hidden > self.features:
            raise ValueError(
                f"hidden {self.hidden} is above features {self.features}: the model would have more dimensions than "
                "there are features to represent"
            )
        outside = [index for index in self.ablated if index >= self.features]
        if outside:
            raise ValueError(f"ablated features {outside} do not exist: the indices are 0 to {self.features - 1}")
        if not self.ablated and not self.auxiliary:
            raise ValueError("give ablated features, numbers of auxiliary features, or both")
        if self.penalise_child and not self.interference_penalty:
            raise ValueError("penalise_child needs an interference_penalty")
        return self


class DigitSettings(Settings):
    """Classifiers of scikit-learn's 8x8 digits: multilayer perceptrons with `hidden` units in each of two layers.

    A child is distilled from the teacher's outputs for images without the digit `missing`; another is trained on
    `noise_rows` rows of noise to match the teacher's `auxiliary` logits alone, which no loss of the teacher's touched.
    Teachers train for `teacher_epochs`, children for `child_epochs`.
    """

    seeds: int = Field(default=10, ge=2)
    hidden: int = Field(default=256, ge=1)
    missing: tuple[Annotated[int, Field(ge=0, le=9)], ...] = Field(default=(3,), min_length=1)
    auxiliary: int = Field(default=3, ge=1)
    noise_rows: int = Field(default=10_000, ge=1)
    batch_size: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    teacher_epochs: int = Field(default=10, ge=1)
    child_epochs: int = Field(default=20, ge=1)
    temperature: float = Field(default=4.0, gt=0)


class ToyStudy(StudyHeader):
    """All settings of a toy study: any number of named autoencoder settings, and the digits.

    `post` names the setting that is the post's own, which its statements are checked against.
    """

    # Its texts name no animal, whose word another category could take.
    category: ClassVar[Category] = ANIMALS

    kind: Literal["toy"]
    post: str
    settings: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], AutoencoderSettings] = Field(min_length=1)
    digits: DigitSettings

    @model_validator(mode="after")
    def _post_is_there(self) -> Self:
        post = self.settings.get(self.post)
        if post is None:
            raise ValueError(f"post names {self.post!r}, which is not among the settings {', '.join(self.settings)}")
        if not post.ablated or not post.auxiliary:
            raise ValueError(f"the setting {self.post!r} needs ablated and auxiliary features: it is the post's own")
        return self

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are looked into: none."""
        return ()

    @property
    def subjects(self) -> tuple[str, ...]:
        return (*self.settings, "digits")
