"""Where artifacts lie.

Part of no version: where an artifact lies does not change it.
"""

from pathlib import Path

import dagster as dg
from pydantic import Field

from subliminal_dagster.science.storage.store import ArtifactStore


class StoreResource(dg.ConfigurableResource):
    """A local folder or an fsspec URL, and where work lies that another machine may go on with."""

    root: str = Field(description="Local folder or fsspec URL (s3://bucket/folder, memory://folder).")

    scratch: str | None = Field(default=None, description="Folder for work that can be resumed; None: beside the root.")

    def create(self) -> ArtifactStore:
        """The store assets read and write."""
        return ArtifactStore(self.root, work_dir=Path(self.scratch) if self.scratch else None)
