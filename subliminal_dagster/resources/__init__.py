"""What is injected into assets: where artifacts lie, what generates, what trains, which GPU they see.

Belongs here: thin `ConfigurableResource`s that hand assets plain library objects. None of their settings is part of an
artifact's version. Does not belong here: model loading (that happens inside an asset, in a context that frees it).
https://docs.dagster.io/guides/build/external-resources
"""

from subliminal_dagster.resources.engine import EngineResource
from subliminal_dagster.resources.gpu import GpuResource
from subliminal_dagster.resources.judge import JudgeResource
from subliminal_dagster.resources.store import StoreResource
from subliminal_dagster.resources.trainer import TrainerResource

__all__ = ["EngineResource", "GpuResource", "JudgeResource", "StoreResource", "TrainerResource"]
