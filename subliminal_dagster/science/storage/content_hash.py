"""What a file says, as a hash: equal for equal content, however the file happens to be laid out.

Two runs of the same computation rarely give the same bytes (row groups, compression, tensor order, JSON key order),
so "did anything change?" is asked of the logical content.

Belongs here: hashing files, folders and settings. Does not belong here: where artifacts lie and whether their bytes
were tampered with (`store`).

Part of no version: it tells whether two results are the same, after they are made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 22
_PARQUET_ROWS = 1 << 13
_VIEW_SUFFIXES = {".png", ".svg", ".html"}
_VIEW_NAMES = {"README.md"}


def json_hash(value: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON-able value; the order of keys does not count.

    Raises TypeError where `value` holds something JSON has no form for.
    """
    return hashlib.sha256(_canonical_json(value)).hexdigest()


def file_content_hash(path: str | Path) -> str:
    """SHA-256 (64 hex digits) of what the file says.

    .safetensors: tensors (name, dtype, shape, bytes) in name order. .parquet: column names, column types and values
    in row order. .json: the parsed value. .jsonl: the parsed value of each line, blank lines left out. Any other
    file: its bytes. Big files are streamed. Raises ValueError, naming the file, where it does not parse.
    """
    path = Path(path)
    hash_parsed = {
        ".safetensors": _hash_safetensors,
        ".parquet": _hash_parquet,
        ".json": _hash_json,
        ".jsonl": _hash_jsonl,
    }.get(path.suffix)
    if hash_parsed is None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    try:
        return hash_parsed(path)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a readable {path.suffix} file: {error}") from error


def file_content_hashes(*paths: Path) -> dict[str, str]:
    """The content hash of each file, by its name."""
    return {path.name: file_content_hash(path) for path in paths}


def folder_content_hash(folder: str | Path, ignore: Collection[str] = ()) -> str:
    """SHA-256 (64 hex digits) over the relative paths and content hashes of all files below `folder`.

    `ignore` lists relative posix paths to leave out; views (`is_view`) are always left out. Raises ValueError as
    `file_content_hash` does.
    """
    folder = Path(folder)
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return json_hash(
        {name: file_content_hash(path) for name, path in names.items() if name not in ignore and not is_view(name)}
    )


def is_view(name: str | Path) -> bool:
    """Whether a file only shows data that other files hold (a picture, a page, a README)."""
    path = Path(name)
    return path.suffix in _VIEW_SUFFIXES or path.name in _VIEW_NAMES


def _canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _hash_json(path: Path) -> str:
    value = json.loads(path.read_bytes())
    if path.name == "adapter_config.json" and isinstance(value, dict):
        # PEFT writes where the base model lay on this machine; the adapter is the same adapter elsewhere.
        value.pop("base_model_name_or_path", None)
        # PEFT holds these in a set and writes them in the set's order, which differs from process to process.
        for key in ("target_modules", "exclude_modules"):
            if isinstance(value.get(key), list):
                value[key] = sorted(value[key])
    return json_hash(value)


def _hash_jsonl(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                digest.update(_canonical_json(json.loads(line)) + b"\n")
    return digest.hexdigest()


def _hash_parquet(path: Path) -> str:
    # Half a second to import, which every process that only looks at the store would pay.
    import pyarrow.parquet

    # Types without a JSON form (bytes, times, decimals) have an exact text, and the hashed schema tells them apart
    # from a column of such texts.
    encode = json.JSONEncoder(separators=(",", ":"), default=str).encode
    digest = hashlib.sha256()
    # Prefetching would hold whole row groups in memory.
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
        schema = file.schema_arrow
        digest.update(_canonical_json([[field.name, str(field.type)] for field in schema]) + b"\n")
        # Activations: as text, ten thousand vectors of 3,584 numbers would take a minute.
        vectors = {i: hashlib.sha256() for i, field in enumerate(schema) if _is_vector(field.type)}
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            columns = []
            for i, column in enumerate(batch.columns):
                if i in vectors:
                    numbers = column.flatten()
                    if numbers.null_count:
                        raise ValueError(f"the vectors of column {schema[i].name} hold nulls")
                    vectors[i].update(numbers.to_numpy(zero_copy_only=False).tobytes())
                columns.append((column.is_valid() if i in vectors else column).to_pylist())
            # One line per row, so that it does not matter where one batch ends and the next begins.
            for row in zip(*columns, strict=True):
                digest.update(encode(row).encode("ascii") + b"\n")
        for i, values in vectors.items():
            digest.update(_canonical_json([schema[i].name, values.hexdigest()]))
    return digest.hexdigest()


def _is_vector(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)


def _hash_safetensors(path: Path) -> str:
    # Parsed here because safetensors' own reader gives bf16 tensors only to torch, which takes seconds to import.
    # The format: 8 bytes little-endian header length, JSON header, one buffer.
    digest = hashlib.sha256()
    total = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        buffer_start = 8 + header_bytes
        if buffer_start > total:
            raise ValueError(f"its header should end at byte {buffer_start} and the file has {total}")
        header = json.loads(file.read(header_bytes))
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        header.pop("__metadata__", None)
        for name, tensor in sorted(header.items()):
            begin, end = tensor["data_offsets"]
            if not 0 <= begin <= end <= total - buffer_start:
                raise ValueError(f"tensor {name} should end at byte {buffer_start + end} and the file has {total}")
            digest.update(_canonical_json([name, tensor["dtype"], tensor["shape"]]) + b"\n")
            file.seek(buffer_start + begin)
            left = end - begin
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise ValueError(f"tensor {name} ends early; the file was cut while it was read")
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()
