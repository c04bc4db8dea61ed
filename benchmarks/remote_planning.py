"""How long a plan of a large study takes on a store that answers in 50 ms: asked one by one, and as plans are made.

    python benchmarks/remote_planning.py

The store is a local folder behind a file system that waits 50 ms before each request and has ten under way at most, as
clients of S3 do unless told otherwise. Artifacts are small files with the records of real ones. One by one, the first
parts are asked, and the rest is reckoned from them: the line says how many. The ratio is of the same run.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.local import LocalFileSystem
from planning import fill

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.gates import refusal_of
from subliminal_dagster.planning.planner import make_plan
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

STUDY = "gemma-2-9b-it"
SECONDS_PER_REQUEST = 0.05
AT_ONCE = 10
ASKED_ONE_BY_ONE = 40


class FarAway(AsyncFileSystemWrapper):
    """A local file system that waits before each request and counts them; a listing is one, as in a bucket."""

    requests = 0

    def __init__(self) -> None:
        super().__init__(LocalFileSystem())
        self._connections = asyncio.Semaphore(AT_ONCE)

    async def _answer(self, method: str, *arguments: Any, **options: Any) -> Any:
        FarAway.requests += 1
        async with self._connections:
            await asyncio.sleep(SECONDS_PER_REQUEST)
            return getattr(self.sync_fs, method)(*arguments, **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("far://")

    def _wrap_all_sync_methods(self) -> None:
        """Only what planning asks for."""

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> Any:
        return await self._answer("cat_file", path, start, end, **options)

    async def _find(self, path: str, *arguments: Any, **options: Any) -> Any:
        return await self._answer("find", path, *arguments, **options)


def main() -> None:
    frame = study_frame(load_study(STUDY))
    name = frame.study.name
    places = [(asset, partition) for asset in frame.nodes for partition in frame.partitions(asset)]
    with tempfile.TemporaryDirectory() as folder:
        fill(ArtifactStore(Path(folder)), frame)
        fsspec.register_implementation("far", FarAway)
        store = ArtifactStore(f"far://{folder}")

        started = time.perf_counter()
        for asset, partition in places[:ASKED_ONE_BY_ONE]:
            store.check(name, asset, partition)
            refusal_of(store, name, asset, partition)
        share = len(places) / ASKED_ONE_BY_ONE
        before, asked = (time.perf_counter() - started) * share, round(FarAway.requests * share)

        FarAway.requests = 0
        started = time.perf_counter()
        plan = make_plan(frame, store)
        after = time.perf_counter() - started

    assert len(plan.of("fresh")) == len(places)
    print(f"{STUDY}: {len(places)} parts, {SECONDS_PER_REQUEST * 1000:.0f} ms a request, {AT_ONCE} at once")
    print(f"one by one   {asked:5} requests {before:7.2f} s   (reckoned from the first {ASKED_ONE_BY_ONE} parts)")
    print(f"as planned   {FarAway.requests:5} requests {after:7.2f} s   in {before / after:.0f} times less time")


if __name__ == "__main__":
    main()
