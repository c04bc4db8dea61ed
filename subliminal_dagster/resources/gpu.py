"""What a step computes on."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import dagster as dg
from pydantic import Field

from subliminal_dagster.execution.gpu_lease import leased_gpu


class GpuResource(dg.ConfigurableResource):
    """One of this machine's GPUs for a step alone; nothing on a machine without."""

    share: int = Field(default=1, ge=1, description="Steps that may compute on one GPU at the same time.")

    def lease(self, say: Callable[[str], None]) -> AbstractContextManager[str | None]:
        """A GPU for the block, the only one this process sees; waits until one is free, and says so."""
        return leased_gpu(self.share, say)
