"""Generation that goes on where it was interrupted: in chunks, each kept in a file as soon as it is finished.

Belongs here: cutting, keeping and taking over chunks, and telling how far it is. Does not belong here: how a chunk is
generated (`engines`), or when kept chunks are out of date (the store's workspaces).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from subliminal_dagster.science.models.protocol import Completion, Sampling, Session

_SCHEMA = pa.schema({"token_ids": pa.list_(pa.int64()), "logprobs": pa.list_(pa.float64()), "finished": pa.bool_()})


def generate(
    session: Session, prompts: Sequence[list[int]], sampling: Sampling, kept: Path | None = None
) -> list[Completion]:
    """One answer per prompt, in the order of the prompts; progress goes to the session's.

    `kept`: a folder for the finished chunks of this one call, made where it is missing. A call that finds chunks there
    takes them over, and its result is that of a call that was never interrupted. Nothing in the files says what they
    answer, so the folder's path has to depend on the model, the prompts and the sampling.
    """
    total = len(prompts)
    starts = range(0, total, session.chunk)
    chunks: dict[int, list[Completion]] = {}
    files: dict[int, Path] = {}
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        for start in starts:
            count = min(session.chunk, total - start)
            files[start] = kept / f"{session.engine_name}-{sampling.first + start:08}-{count}.parquet"
            found = _read(files[start])
            if found is not None:
                chunks[start] = found
    taken_over = done = sum(len(chunk) for chunk in chunks.values())
    if taken_over:
        session.progress(f"{taken_over}/{total} answers taken over from before the interruption")
    started = time.perf_counter()
    for start in starts:
        if start in chunks:
            continue
        requests = replace(sampling, first=sampling.first + start)
        chunk = session.generate(prompts[start : start + session.chunk], requests)
        if kept is not None:
            _write(files[start], chunk)
        chunks[start] = chunk
        done += len(chunk)
        left = (time.perf_counter() - started) / (done - taken_over) * (total - done)
        speed = session.usage.facts()["generated_tokens_per_second"]
        session.progress(f"generated {done}/{total} answers, {speed:.0f} tokens/s, about {left:.0f} s left")
    return [completion for start in starts for completion in chunks[start]]


def _read(file: Path) -> list[Completion] | None:
    """A kept chunk; None where there is none or it is damaged."""
    try:
        # Not read_table, which would take a folder called "a=b" on the way to the file for a column.
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            return [Completion(**row) for row in parquet.read().to_pylist()]
    except (OSError, pa.ArrowException):
        return None


def _write(file: Path, chunk: list[Completion]) -> None:
    # The process in the name, or a second run of the same work could rename a file that is still being written.
    aside = file.with_name(f"{file.name}.{os.getpid()}.new")
    pq.write_table(pa.Table.from_pylist([vars(c) for c in chunk], _SCHEMA), aside, write_page_checksum=True)
    os.replace(aside, file)
