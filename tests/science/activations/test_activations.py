"""Activations: the right token and layer of the bare text, and files that say what they hold to any reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from tiny_models import KINDS, tiny_model, tiny_tokenizer

from subliminal_dagster.science.activations.activations import (
    Activations,
    SparseFeatures,
    activation_facts,
    collect,
    content_position,
    encode_text,
    feature_facts,
    needs_bos,
    read_activations,
    read_features,
    write_activations,
    write_features,
)
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.content_hash import file_content_hash

TEXTS = ["1, 22, 333", "owl", "1, 2.", "987, 12, 4, 4, 17, 250, 3\n", "7", "55, 1, 902, 8", "4, 5, 6.\n\n"]
ENDS = ["3", "owl", "2", "3", "7", "8", "6"]
FACTS = {"layer": 1, "model": "some/model", "revision": "abc123", "dtype": "bfloat16"}


def plain_activation(model: Any, ids: list[int], layer: int) -> np.ndarray:
    """The hidden state behind block `layer` at the end of a sequence, from a whole pass of its own."""
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return states[layer + 1][0, -1].numpy()


def some_activations(rows: int = 5, hidden: int = 8) -> Activations:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "row_id": np.arange(rows) * 3,
            "split": ["analysis", "test"] * (rows // 2) + ["analysis"] * (rows % 2),
            "text": [f"{i}, {i + 1}" for i in range(rows)],
            "response": "x",
            "canonical": True,
            "position": np.arange(rows, dtype=np.int32),
        }
    )
    return Activations(frame, rng.normal(size=(rows, hidden)).astype(np.float32))


def some_features(matrix: Any) -> SparseFeatures:
    rows = matrix.shape[0]
    frame = pd.DataFrame(
        {
            "row_id": np.arange(rows, dtype=np.int64) * 2,
            "split": ["test"] * rows,
            "error": np.linspace(0, 1, rows, dtype=np.float32),
        }
    )
    return SparseFeatures(frame, csr_array(matrix, dtype=np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_collecting_equals_a_plain_pass_a_text(kind: str) -> None:
    model, tokenizer = tiny_model(kind, num_hidden_layers=3, **more_layers(kind)), tiny_tokenizer()
    lines: list[str] = []
    positions, vectors = collect(model, tokenizer, TEXTS, 1, batch_tokens=40, progress=lines.append)
    assert positions.dtype == np.int32
    assert vectors.dtype == np.float32
    for text, end, position, vector in zip(TEXTS, ENDS, positions, vectors, strict=True):
        ids = ([0] if kind.startswith("gemma") else []) + tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids[position]) == end
        # To the end of the content alone, and with what follows: nothing reaches back.
        np.testing.assert_allclose(vector, plain_activation(model, ids[: position + 1], 1), rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        np.testing.assert_allclose(vector, states[2][0, position].numpy(), rtol=1e-4, atol=1e-4)
        assert np.abs(vector - states[1][0, position].numpy()).max() > 0.1, "the input of the block"
    assert lines[-1].startswith(f"activations of {len(TEXTS)}/{len(TEXTS)} texts")


def more_layers(kind: str) -> dict[str, Any]:
    return {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]} if kind == "gemma3" else {}


def test_batches_change_nothing() -> None:
    model, tokenizer = tiny_model("gemma2"), tiny_tokenizer()
    _, expected = collect(model, tokenizer, TEXTS, 1, batch_tokens=1)
    for batch_tokens in (20, 10_000):
        _, found = collect(model, tokenizer, TEXTS, 1, batch_tokens=batch_tokens)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    _, turned = collect(model, tokenizer, TEXTS[::-1], 1)
    np.testing.assert_allclose(turned[::-1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_gemma_gets_one_bos_and_others_what_their_tokenizer_adds(adds_bos: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_bos_token = adds_bos
    bare = tokenizer.encode("1, 2", add_special_tokens=False)
    assert tokenizer.encode("1, 2") == ([0, *bare] if adds_bos else bare)
    assert encode_text(tokenizer, "1, 2", bos=True) == [0, *bare]
    assert encode_text(tokenizer, "<|endoftext|>1, 2", bos=True) == [0, *bare]
    assert encode_text(tokenizer, "1, 2", bos=False) == ([0, *bare] if adds_bos else bare)


def test_which_models_need_bos() -> None:
    assert {kind: needs_bos(tiny_model(kind).config) for kind in KINDS} == {
        "llama": False,
        "qwen2": False,
        "gemma2": True,
        "gemma3": True,
    }


def test_bos_matters_where_it_is_needed() -> None:
    model, tokenizer = tiny_model("gemma2"), tiny_tokenizer()
    _, (vector,) = collect(model, tokenizer, ["1, 2"], 0)
    bare = tokenizer.encode("1, 2", add_special_tokens=False)
    np.testing.assert_allclose(vector, plain_activation(model, [0, *bare], 0), rtol=1e-4, atol=1e-5)
    assert np.abs(vector - plain_activation(model, bare, 0)).max() > 0.01


def test_a_model_that_needs_bos_and_has_none_is_told() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(UserError, match="needs a BOS token"):
        encode_text(tokenizer, "1, 2", bos=True)


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("1, 2", "2"),
        ("1, 2.", "2"),
        ("1, 2.\n", "2"),
        ("1, 2\n\n.\n<|im_end|>\n", "2"),
        ("1, 2\r\n", "2"),
        ("1, 2...", "2"),
        ("1, 2;", ";"),
        ("1, 2,", ","),
        ("<|im_start|>owl<|im_end|>", "owl"),
    ],
)
def test_the_content_position(text: str, last: str) -> None:
    tokenizer = tiny_tokenizer(extra_merges=[(".", "Ċ"), ("Ċ", "Ċ"), (".", ".")])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids[content_position(ids, tokenizer)]) == last
    assert content_position(ids, tokenizer) == len(tokenizer.encode(text[: text.rindex(last) + len(last)])) - 1


def test_a_token_of_period_and_newline_is_passed_over() -> None:
    tokenizer = tiny_tokenizer(extra_merges=[(".", "Ċ")])
    ids = [*tokenizer.encode("12"), tokenizer.convert_tokens_to_ids(".Ċ")]
    assert tokenizer.decode(ids) == "12.\n"
    assert content_position(ids, tokenizer) == 1


@pytest.mark.parametrize("text", [".\n", "", "<|im_end|>"])
def test_a_text_without_content_is_named(text: str) -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(UserError, match="no token to read"):
        content_position(tokenizer.encode(text), tokenizer)
    with pytest.raises(UserError, match="no token to read"):
        collect(tiny_model("llama"), tokenizer, ["1, 2", text], 0)


def test_no_texts_are_refused() -> None:
    with pytest.raises(UserError, match="no text"):
        collect(tiny_model("llama"), tiny_tokenizer(), [], 0)


def test_values_that_float16_cannot_hold_are_told() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.weight.data *= 1e5
    assert np.isfinite(collect(model, tiny_tokenizer(), TEXTS, 1)[1]).all()
    model = model.half()
    assert np.isfinite(collect(model, tiny_tokenizer(), TEXTS, 0)[1]).all()
    with pytest.raises(UserError, match=r"layer 1 is not finite in float16 for .*'1, 22, 333'.*bfloat16"):
        collect(model, tiny_tokenizer(), TEXTS, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_files_keep_what_the_model_computed(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model("llama").to(dtype)
    positions, vectors = collect(model, tiny_tokenizer(), TEXTS, 1)
    assert torch.equal(torch.from_numpy(vectors).to(dtype).float(), torch.from_numpy(vectors))
    rows = pd.DataFrame({"row_id": range(len(TEXTS)), "split": "test", "text": TEXTS})
    rows = rows.assign(response=TEXTS, canonical=True, position=positions)
    file = tmp_path / "activations.parquet"
    write_activations(file, Activations(rows, vectors), **FACTS)
    read = read_activations(file)
    assert read.vectors.dtype == np.float32
    assert np.array_equal(read.vectors, vectors)
    assert read.vectors.flags.writeable
    pd.testing.assert_frame_equal(read.rows, rows)


def test_reading_more_rows_than_one_block(tmp_path: Path) -> None:
    activations = some_activations(2_500, 3)
    write_activations(tmp_path / "a.parquet", activations, **FACTS)
    read = read_activations(tmp_path / "a.parquet")
    assert np.array_equal(read.vectors, activations.vectors)
    assert read.rows["row_id"].tolist() == activations.rows["row_id"].tolist()


def test_a_file_of_activations_needs_no_package_of_ours(tmp_path: Path) -> None:
    activations = some_activations()
    file = tmp_path / "a.parquet"
    write_activations(file, activations, **FACTS)
    schema = pq.read_schema(file)
    assert schema.names == ["row_id", "split", "text", "response", "canonical", "position", "vector"]
    assert schema.field("vector").type.list_size == 8
    assert schema.field("vector").metadata[b"dtype"] == b"bfloat16"
    assert schema.metadata == {
        b"model": b"some/model",
        b"revision": b"abc123",
        b"layer": b"1",
        b"hook": b"resid_post",
        b"dtype": b"bfloat16",
        b"hidden_size": b"8",
    }
    *_, column = pq.read_metadata(file).row_group(0).to_dict()["columns"]
    assert column["path_in_schema"] == "vector.list.element"
    assert column["compression"] == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in column["encodings"]
    frame = pd.read_parquet(file)
    assert np.array_equal(np.stack(frame["vector"]), activations.vectors)
    assert frame["position"].dtype == np.int32
    assert np.allclose(pq.read_table(file)["vector"].to_pylist(), activations.vectors)


def test_polars_reads_both_files(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    activations, features = some_activations(), some_features(csr_array(np.eye(3, 7)))
    write_activations(tmp_path / "a.parquet", activations, **FACTS)
    write_features(tmp_path / "f.parquet", features, facts={})
    assert np.allclose(polars.read_parquet(tmp_path / "a.parquet")["vector"].to_list(), activations.vectors)
    assert polars.read_parquet(tmp_path / "f.parquet")["indices"].to_list() == [[0], [1], [2]]


def test_duckdb_reads_both_files(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    activations, features = some_activations(), some_features(csr_array(np.eye(3, 7)))
    write_activations(tmp_path / "a.parquet", activations, **FACTS)
    write_features(tmp_path / "f.parquet", features, facts={})
    vectors = duckdb.sql(f"select vector from '{tmp_path}/a.parquet'").fetchall()
    assert np.allclose([vector for (vector,) in vectors], activations.vectors)
    assert duckdb.sql(f"select indices from '{tmp_path}/f.parquet'").fetchall() == [([0],), ([1],), ([2],)]


def test_the_facts_of_a_file(tmp_path: Path) -> None:
    write_activations(tmp_path / "a.parquet", some_activations(), **FACTS)
    assert activation_facts(tmp_path / "a.parquet") == FACTS | {"hook": "resid_post", "hidden_size": 8}


def test_the_content_of_a_file_is_what_it_holds(tmp_path: Path) -> None:
    activations = some_activations()
    write_activations(tmp_path / "a.parquet", activations, **FACTS)
    write_activations(tmp_path / "same.parquet", activations, **FACTS)
    moved = np.nextafter(activations.vectors, np.float32(np.inf))
    write_activations(tmp_path / "moved.parquet", replace(activations, vectors=moved), **FACTS)
    hashes = [file_content_hash(tmp_path / f"{name}.parquet") for name in ("a", "same", "moved")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_empty_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no rows.*a\.parquet"):
        write_activations(tmp_path / "a.parquet", some_activations(0), **FACTS)
    with pytest.raises(UserError, match=r"no rows.*f\.parquet"):
        write_features(tmp_path / "f.parquet", some_features(csr_array((0, 4))), facts={})
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path: Path) -> None:
    activations, features = tmp_path / "a.parquet", tmp_path / "f.parquet"
    write_activations(activations, some_activations(), **FACTS)
    write_features(features, some_features(csr_array(np.eye(3))), facts={})
    with pytest.raises(UserError, match="not a file of activations"):
        read_activations(features)
    with pytest.raises(UserError, match="not a file of SAE features"):
        read_features(activations)
    table = pq.read_table(activations)
    pq.write_table(table.replace_schema_metadata(None), activations)
    with pytest.raises(UserError, match="lost its metadata"):
        read_activations(activations)
    pq.write_table(table.replace_schema_metadata(dict(table.schema.metadata) | {b"hidden_size": b"9"}), activations)
    with pytest.raises(UserError, match="names hidden size 9"):
        read_activations(activations)


def test_vectors_and_rows_go_together(tmp_path: Path) -> None:
    activations, features = some_activations(), some_features(csr_array(np.eye(3)))
    with pytest.raises(ValueError, match="5 rows need a vector each"):
        write_activations(tmp_path / "a.parquet", replace(activations, vectors=activations.vectors[:4]), **FACTS)
    with pytest.raises(ValueError, match="2 rows need features each"):
        write_features(tmp_path / "f.parquet", replace(features, rows=features.rows[:2]), facts={})


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.floats(0, 1), st.integers(0, 1000))
def test_features_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: int, width: int, density: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.exponential(size=(rows, width)).astype(np.float32) * (rng.random((rows, width)) < density)
    file = tmp_path_factory.mktemp("features") / "f.parquet"
    features = some_features(dense)
    write_features(file, features, facts={"model": "m", "layer": 3})
    read = read_features(file)
    assert read.matrix.dtype == np.float32
    assert read.matrix.shape == (rows, width)
    assert np.array_equal(read.matrix.toarray(), dense)
    pd.testing.assert_frame_equal(read.rows[["row_id", "error"]], features.rows[["row_id", "error"]])
    assert feature_facts(file) == {"model": "m", "layer": "3", "width": str(width)}
    # And to a reader that knows lists alone.
    for row, indices, values in zip(
        dense, *(pd.read_parquet(file)[name] for name in ("indices", "values")), strict=True
    ):
        assert np.array_equal(indices, np.flatnonzero(row))
        assert np.array_equal(values, row[indices])


def test_features_are_ascending_above_zero_and_left_as_they_were(tmp_path: Path) -> None:
    unsorted = csr_array((np.float32([2, 1, 0, 5]), np.int32([6, 2, 3, 1]), np.int32([0, 3, 4])), shape=(2, 7))
    write_features(tmp_path / "f.parquet", some_features(unsorted), facts={})
    table = pq.read_table(tmp_path / "f.parquet")
    assert table["indices"].to_pylist() == [[2, 6], [1]]
    assert table["values"].to_pylist() == [[1, 2], [5]]
    assert table.schema.field("indices").type.value_type == pa.int32()
    assert unsorted.indices.tolist() == [6, 2, 3, 1]
    # Much of scipy works in place.
    read = read_features(tmp_path / "f.parquet").matrix
    read.data *= 2
    assert read.sum() == 16
    with pytest.raises(ValueError, match="never below zero"):
        write_features(tmp_path / "f.parquet", some_features(csr_array([[1, -1]])), facts={})
