"""A study in a remote store as it was, fetched in few rounds.

Asking a bucket one question after another takes a round trip each, and a study has hundreds of artifacts. Here one
listing gives all names and sizes, and what has to be read is read many files at a time.

Belongs here: listing and fetching at once, and which files that takes. Does not belong here: what they say, and whether
they are sound (`reading`).

Part of no version: how an artifact is found does not change it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import ChainMap
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from glob import has_magic
from typing import Any, TypeVar

from fsspec import AbstractFileSystem

from subliminal_dagster.science.storage.keys import Key
from subliminal_dagster.science.storage.reading import Reader
from subliminal_dagster.science.storage.records import (
    MANIFEST,
    POINTER,
    REFUSAL,
    DamagedArtifact,
    Manifest,
    Refusal,
    parsed_pointer,
)
from subliminal_dagster.science.storage.root import Root

_AT_ONCE = 16

_Found = TypeVar("_Found")


class StoreSnapshot:
    """A study below a remote root as it was when this was made.

    The methods are those of `ArtifactStore`, for this one study (ValueError for another).
    """

    def __init__(self, study: str, root: Root) -> None:
        self._study = study
        files = FetchedFiles(root.fs, root.path(study))
        records = files.fetch(files.named(POINTER, REFUSAL, depth=2))
        pointers = {path: pointer for path, content in records.items() if (pointer := parsed_pointer(content))}
        files.fetch(f"{path.rpartition('/')[0]}/{pointer.version}/{MANIFEST}" for path, pointer in pointers.items())
        self._as_it_was = Reader(root.looked_at_through(files))
        self._as_it_is = Reader(root)

    def check(self, study: str, asset: str, partition: str | None = None) -> Manifest:
        return self._answer(Reader.check, study, asset, partition)

    def manifest(self, study: str, asset: str, partition: str | None = None) -> Manifest:
        return self._answer(Reader.manifest, study, asset, partition)

    def refusal(self, study: str, asset: str, partition: str | None = None) -> Refusal | None:
        return self._answer(Reader.refusal, study, asset, partition)

    def _answer(self, ask: Callable[[Reader, Key], _Found], study: str, asset: str, partition: str | None) -> _Found:
        if study != self._study:
            raise ValueError(f"a snapshot of {self._study} was asked about {study}")
        key = Key(study, asset, partition)
        try:
            return ask(self._as_it_was, key)
        except DamagedArtifact:
            # What was written between the listing and the fetching looks damaged.
            return ask(self._as_it_is, key)


class FetchedFiles:
    """The files below the path `folder` of the file system `fs`: their names and sizes, and some of their bytes.

    It answers as a file system does, as far as checking artifacts takes.
    """

    def __init__(self, fs: AbstractFileSystem, folder: str) -> None:
        self._fs = fs
        self._folder = folder
        fs.invalidate_cache()
        try:
            self._listed: dict[str, dict[str, Any]] = fs.find(folder, detail=True)
        except FileNotFoundError:
            self._listed = {}
        self._paths = sorted(self._listed)
        self._contents: dict[str, bytes] = {}

    def named(self, *names: str, depth: int) -> list[str]:
        """The files listed with one of these names, `depth` folders down."""
        depth += self._folder.count("/") + 1
        return [path for path in self._paths if path.count("/") == depth and path.rpartition("/")[2] in names]

    def fetch(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Fetch those of `paths` that were listed, many at a time, and return what came: `cat_file` asks again for what
        did not."""
        wanted = [path for path in paths if path in self._listed]
        # `cat` would take a path that looks like a pattern for one.
        if wanted and self._fs.async_impl and not has_magic(self._folder):
            found = self._fs.cat(wanted, on_error="return")
            contents = {path: content for path, content in found.items() if isinstance(content, bytes)}
        elif wanted:
            shares = [wanted[start::_AT_ONCE] for start in range(min(_AT_ONCE, len(wanted)))]
            with ThreadPoolExecutor(len(shares)) as pool:
                contents = dict(ChainMap(*pool.map(self._share, shares)))
        else:
            contents = {}
        self._contents |= contents
        return contents

    def _share(self, paths: list[str]) -> dict[str, bytes]:
        contents = {}
        try:
            # A connection that waits for its answer cannot be used by two threads: each needs its own.
            fs = type(self._fs)(*self._fs.storage_args, **self._fs.storage_options, skip_instance_cache=True)
            for path in paths:
                contents[path] = fs.cat_file(path)
        except Exception:
            # Whatever it was (a limit on connections, a file deleted meanwhile), `cat_file` asks again and tells.
            pass
        return contents

    def cat_file(self, path: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError where it was not listed, or is there no more."""
        if path not in self._listed:
            raise FileNotFoundError(path)
        if path not in self._contents:
            self._contents[path] = self._fs.cat_file(path)
        return self._contents[path]

    def find(self, folder: str, detail: bool = True) -> dict[str, dict[str, Any]]:
        """What was listed below a folder: path to a record with its `size` in bytes."""
        first, after = f"{folder}/", f"{folder}{chr(ord('/') + 1)}"
        inside = self._paths[bisect_left(self._paths, first) : bisect_left(self._paths, after)]
        return {path: self._listed[path] for path in inside}

    def invalidate_cache(self) -> None:
        """Nothing: what was listed stays so."""
