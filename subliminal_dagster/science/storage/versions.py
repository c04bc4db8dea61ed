"""Which versions of an artifact are stored, and which of them counts.

Belongs here: finding versions, following the pointer, and telling which versions nobody is about to point to. Does not
belong here: whether a version is sound (`reading`), and replacing it (`writing`).

Part of no version: how an artifact is kept does not change it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from subliminal_dagster.science.storage.keys import Key
from subliminal_dagster.science.storage.records import (
    FORGOTTEN_AFTER,
    FORMAT,
    MANIFEST,
    POINTER,
    DamagedArtifact,
    MissingArtifact,
    OtherFormat,
    Pointer,
    before_versions_of,
    damaged,
    format_in,
    is_version,
    parsed_pointer,
    superseded_in,
)
from subliminal_dagster.science.storage.root import Root


class Versions:
    """The versions below a root. What reads a pointer raises OtherFormat where that names another format."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def stored(self, key: Key) -> list[str]:
        """Oldest first, whole or not."""
        return [name for name in self._root.folders(key.relative) if is_version(name)]

    def pointer(self, key: Key) -> Pointer:
        """Raises MissingArtifact where there is none, DamagedArtifact where it cannot be read."""
        content = self._pointer_bytes(key)
        if content is None:
            raise MissingArtifact(f"No artifact {key.label} in {self._root.name}: {key.materialize} first.")
        pointer = parsed_pointer(content)
        if pointer is None:
            raise damaged(key, self._root.name, f"its pointer {POINTER} is not readable")
        return pointer

    def has_pointer(self, key: Key) -> bool:
        """Whether there is a pointer, readable or not."""
        return self._pointer_bytes(key) is not None

    def current(self, key: Key) -> str | None:
        """The version that the pointer names; None where there is no pointer, or none that can be read."""
        try:
            return self.pointer(key).version
        except (MissingArtifact, DamagedArtifact):
            return None

    def once_current(self, key: Key) -> list[str]:
        """The versions that the pointer says were current before; [] where there is no pointer that can be read."""
        return superseded_in(self._pointer_bytes(key) or b"")

    def whole(self, key: Key) -> list[str]:
        """The stored versions whose last file, the manifest, is there."""
        return [version for version in self.stored(key) if self._root.exists(key.relative, version, MANIFEST)]

    def deletable(self, key: Key, once_current: Collection[str]) -> list[str]:
        """The stored versions that nobody is about to point to: the pointer named them once, or they are so old that
        whoever wrote them has ended. Oldest first; the current one may be among them.

        Another machine may be uploading a version that is older than the current one, and not hold this one's lock.
        """
        long_ago = before_versions_of(datetime.now(UTC) - FORGOTTEN_AFTER)
        return [version for version in self.stored(key) if version in once_current or version < long_ago]

    def _pointer_bytes(self, key: Key) -> bytes | None:
        try:
            content = self._root.read(key.relative, POINTER)
        except FileNotFoundError:
            return None
        found = format_in(content)
        if found != FORMAT:
            raise OtherFormat(
                f"Artifact {key.label} in {self._root.name} is stored in format {found} and this version of the "
                f"software knows format {FORMAT} only: use the version that wrote it, or set SUBLIMINAL_ARTIFACTS to "
                "another folder."
            )
        return content
