"""Where artifacts lie.

Part of no version: where an artifact lies does not change it.
"""

import dagster as dg
from pydantic import Field

from subliminal_dagster.science.storage.store import ArtifactStore


class StoreResource(dg.ConfigurableResource):
    """A local folder or an fsspec URL."""

    root: str = Field(description="Local folder or fsspec URL (s3://bucket/folder, memory://folder).")

    def create(self) -> ArtifactStore:
        """The store assets read and write."""
        return ArtifactStore(self.root)
