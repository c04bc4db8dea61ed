"""The content hash sees what a file says and nothing of how it is laid out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from subliminal_dagster.science.storage import content_hash
from subliminal_dagster.science.storage.content_hash import file_content_hash, folder_content_hash, json_hash

SCHEMA = pa.schema(
    [("text", pa.string()), ("count", pa.int64()), ("score", pa.float64()), ("ids", pa.list_(pa.int32()))]
)
ROW = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(max_size=5),
        "count": st.none() | st.integers(-(2**63), 2**63 - 1),
        "score": st.none() | st.floats(allow_nan=False),
        "ids": st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3),
    }
)
# The folder is shared by the examples of one test, which is harmless: every file is written anew.
in_one_folder = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def said(rows: list[dict[str, Any]]) -> str:
    """What the rows say, in the schema's order; as text, because -0.0 == 0.0."""
    return repr([[row[name] for name in SCHEMA.names] for row in rows])


def parquet_hash(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA, **options: Any) -> str:
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
    return file_content_hash(path)


@in_one_folder
@given(
    rows=st.lists(ROW, max_size=12),
    row_group_size=st.integers(1, 13),
    compression=st.sampled_from(["none", "snappy", "zstd"]),
    use_dictionary=st.booleans(),
)
def test_parquet_hash_ignores_layout(
    tmp_path: Path, rows: list[dict[str, Any]], row_group_size: int, compression: str, use_dictionary: bool
) -> None:
    assert parquet_hash(tmp_path, rows) == parquet_hash(
        tmp_path, rows, row_group_size=row_group_size, compression=compression, use_dictionary=use_dictionary
    )


def test_parquet_hash_ignores_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": str(i), "count": i, "score": i / 7, "ids": [i]} for i in range(100)]
    whole = parquet_hash(tmp_path, rows)
    monkeypatch.setattr(content_hash, "_PARQUET_ROWS", 7)
    assert parquet_hash(tmp_path, rows, row_group_size=30) == whole


@in_one_folder
@given(rows=st.lists(ROW, min_size=1, max_size=6), other=ROW, data=st.data())
def test_parquet_hash_sees_every_value(
    tmp_path: Path, rows: list[dict[str, Any]], other: dict[str, Any], data: st.DataObject
) -> None:
    i = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(SCHEMA.names))
    changed = [dict(row) for row in rows]
    changed[i][column] = other[column]
    same = said(changed) == said(rows)
    assert (parquet_hash(tmp_path, rows) == parquet_hash(tmp_path, changed)) is same


@in_one_folder
@given(rows=st.lists(ROW, min_size=2, max_size=6), data=st.data())
def test_parquet_hash_sees_row_order_and_count(tmp_path: Path, rows: list[dict[str, Any]], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    assert (parquet_hash(tmp_path, rows) == parquet_hash(tmp_path, shuffled)) is (said(rows) == said(shuffled))
    assert parquet_hash(tmp_path, rows) != parquet_hash(tmp_path, rows[:-1])


@in_one_folder
@given(
    values=st.lists(st.integers(0, 100), max_size=5),
    types=st.lists(
        st.sampled_from([pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.float64()]),
        min_size=2,
        max_size=2,
        unique_by=str,
    ),
)
def test_parquet_hash_sees_types(tmp_path: Path, values: list[int], types: list[pa.DataType]) -> None:
    rows = [{"x": value} for value in values]
    first, second = (parquet_hash(tmp_path, rows, pa.schema([("x", type_)])) for type_ in types)
    assert first != second


def test_parquet_hash_sees_column_names_and_nulls(tmp_path: Path) -> None:
    cases: list[tuple[list[dict[str, Any]], list[str]]] = [
        ([{"a": "x"}], ["a"]),
        ([{"b": "x"}], ["b"]),
        ([{"a": None}], ["a"]),
        ([{"a": ""}], ["a"]),
        ([{"a": "None"}], ["a"]),
        ([{"a": "x", "b": "y"}], ["a", "b"]),
        ([{"a": "x", "b": "y"}], ["b", "a"]),
        ([], ["a"]),
    ]
    hashes = {parquet_hash(tmp_path, rows, pa.schema([(name, pa.string()) for name in names])) for rows, names in cases}
    assert len(hashes) == len(cases)


def test_parquet_hash_takes_types_without_a_json_form(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            ("bytes", pa.binary()),
            ("time", pa.timestamp("ns", tz="UTC")),
            ("decimal", pa.decimal128(5, 2)),
            ("kind", pa.dictionary(pa.int32(), pa.string())),
            ("nested", pa.struct([("a", pa.float32()), ("b", pa.map_(pa.string(), pa.int8()))])),
        ]
    )
    row = {
        "bytes": b"\x00\xff",
        "time": datetime(2025, 1, 1, tzinfo=UTC),
        "decimal": Decimal("1.50"),
        "kind": "owl",
        "nested": {"a": float("nan"), "b": [("k", 1)]},
    }
    first = parquet_hash(tmp_path, [row], schema)
    assert first == parquet_hash(tmp_path, [row], schema, use_dictionary=False)
    assert first != parquet_hash(tmp_path, [{**row, "bytes": b"\x00\xfe"}], schema)
    assert first != parquet_hash(tmp_path, [{**row, "time": pd.Timestamp("2025-01-01 00:00:00.000000001Z")}], schema)


def test_parquet_hash_ignores_pandas_metadata(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1, 2, 3, 4]})
    frame.to_parquet(tmp_path / "plain.parquet")
    pd.DataFrame({"x": [0, 1, 2, 3, 4]}).iloc[1:].to_parquet(tmp_path / "sliced.parquet")
    pq.write_table(pa.table({"x": [1, 2, 3, 4]}), tmp_path / "arrow.parquet")
    assert len({file_content_hash(path) for path in tmp_path.iterdir()}) == 1


def test_safetensors_hash_ignores_order_and_metadata(tmp_path: Path) -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(4, dtype=np.int64)
    save_file({"a": a, "b": b}, tmp_path / "1.safetensors")
    save_file({"b": b, "a": a}, tmp_path / "2.safetensors", metadata={"format": "pt"})
    write_safetensors(tmp_path / "3.safetensors", {"b": b, "a": a})
    write_safetensors(tmp_path / "4.safetensors", {"a": a, "b": b})
    assert len({file_content_hash(path) for path in tmp_path.iterdir()}) == 1
    assert (tmp_path / "3.safetensors").read_bytes() != (tmp_path / "4.safetensors").read_bytes()


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """In the order given; the library's own writer chooses its order."""
    header, buffer = {}, b""
    for name, tensor in tensors.items():
        offsets = [len(buffer), len(buffer) + tensor.nbytes]
        dtype = {"float32": "F32", "int64": "I64", "int32": "I32"}[str(tensor.dtype)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        buffer += tensor.tobytes()
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + buffer)


def test_safetensors_hash_sees_names_types_shapes_and_values(tmp_path: Path) -> None:
    a, b = np.zeros((2, 3), dtype=np.float32), np.ones((2, 3), dtype=np.float32)
    one = b.copy()
    one[1, 2] = 2
    variants: list[dict[str, np.ndarray]] = [
        {"a": a, "b": b},
        {"a": b, "b": a},
        {"a": a, "c": b},
        {"a": a, "b": b.reshape(3, 2)},
        {"a": a.view(np.int32), "b": b},
        {"a": a, "b": one},
        {"a": a},
    ]
    for i, tensors in enumerate(variants):
        write_safetensors(tmp_path / f"{i}.safetensors", tensors)
    assert len({file_content_hash(path) for path in tmp_path.iterdir()}) == len(variants)


def test_safetensors_hash_reads_bf16_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch_file

    path = tmp_path / "x.safetensors"
    save_torch_file({"w": torch.arange(1000, dtype=torch.bfloat16)}, str(path))
    whole = file_content_hash(path)
    monkeypatch.setattr(content_hash, "_CHUNK_BYTES", 7)
    assert file_content_hash(path) == whole


@pytest.mark.parametrize("kept", [4, 30, -1])
def test_cut_safetensors_is_an_error_that_names_the_file(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones(4)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"x\.safetensors is not a readable"):
        file_content_hash(path)


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.parquet", "x.safetensors"])
@pytest.mark.parametrize("content", [b"{", b"\x02\0\0\0\0\0\0\0[]", b'\x0d\0\0\0\0\0\0\0{"a":{"b":1}}'])
def test_unreadable_file_is_an_error_that_names_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        file_content_hash(tmp_path / name)


def test_json_hashes_ignore_key_order_and_spaces(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text('{"a": 1, "b": {"c": "\u00e4", "d": [1, 2]}}', encoding="utf-8")
    (tmp_path / "2.json").write_text('{"b":{"d":[1,2],"c":"\\u00e4"},\n"a":1}')
    (tmp_path / "1.jsonl").write_text('{"a": 1, "b": 2}\n{"a": 3}\n')
    (tmp_path / "2.jsonl").write_text('{"b":2,"a":1}\n\n{"a":3}')
    (tmp_path / "3.jsonl").write_text('{"a": 3}\n{"a": 1, "b": 2}\n')
    assert file_content_hash(tmp_path / "1.json") == file_content_hash(tmp_path / "2.json")
    assert file_content_hash(tmp_path / "1.jsonl") == file_content_hash(tmp_path / "2.jsonl")
    assert file_content_hash(tmp_path / "1.jsonl") != file_content_hash(tmp_path / "3.jsonl")
    assert json_hash({"a": 1, "b": [2]}) == json_hash({"b": (2,), "a": 1}) != json_hash({"a": 1.5, "b": [2]})


def test_adapter_config_is_the_same_wherever_the_base_model_lies(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    hashes = []
    for base, modules, rank in [("/a", ["q", "v"], 8), ("/b", ["v", "q"], 8), ("/a", ["q", "v"], 16)]:
        path.write_text(json.dumps({"base_model_name_or_path": base, "target_modules": modules, "r": rank}))
        hashes.append(file_content_hash(path))
    assert hashes[0] == hashes[1] != hashes[2]
    (tmp_path / "other.json").write_text('{"base_model_name_or_path": "/a"}')
    assert file_content_hash(tmp_path / "other.json") == json_hash({"base_model_name_or_path": "/a"})


def test_folder_hash_is_over_paths_and_content_without_views(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a")
    (tmp_path / "b.json").write_text('{"x": 1}')
    first = folder_content_hash(tmp_path)
    for view in ["README.md", "plot.png", "sub/plot.svg", "page.html"]:
        (tmp_path / view).write_text("a view")
    assert folder_content_hash(tmp_path) == first
    (tmp_path / "log.txt").write_text("x")
    assert folder_content_hash(tmp_path) != first
    assert folder_content_hash(tmp_path, ignore=["log.txt"]) == first
    (tmp_path / "log.txt").unlink()
    (tmp_path / "sub" / "a.txt").rename(tmp_path / "a.txt")
    assert folder_content_hash(tmp_path) != first


def test_vectors_count_by_their_numbers_and_not_by_how_they_are_laid_out(tmp_path: Path) -> None:
    def write(name: str, vectors: np.ndarray, **layout: Any) -> str:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        pq.write_table(pa.table({"row": pa.array(range(len(vectors))), "vector": column}), tmp_path / name, **layout)
        return file_content_hash(tmp_path / name)

    vectors = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    plain = write("a.parquet", vectors)
    assert write("b.parquet", vectors, row_group_size=2, compression="zstd", use_dictionary=False) == plain
    other = vectors.copy()
    other[4, 2] = np.nextafter(other[4, 2], np.float32(9))
    assert write("c.parquet", other) != plain
    assert write("d.parquet", vectors[:4]) != plain
    assert write("e.parquet", vectors.astype(np.float64)) != plain
