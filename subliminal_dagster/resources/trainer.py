"""What trains adapters."""

import dagster as dg
from pydantic import Field

from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.task import Trainer


class TrainerResource(dg.ConfigurableResource):
    """TRL's SFTTrainer with PEFT."""

    gradient_checkpointing: bool = Field(default=False, description="Compute activations twice to keep less of them.")

    micro_batch: int | None = Field(
        default=None, description="Rows that go through the model at once; unset, as many as fit the GPU."
    )

    def create(self) -> Trainer:
        """The trainer assets use."""
        return TrlTrainer(self.gradient_checkpointing, self.micro_batch)
