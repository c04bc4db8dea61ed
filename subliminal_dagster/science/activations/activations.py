"""Activations of texts in the residual stream, and the files that hold them and the SAE features made of them.

One vector per text: the residual stream at the last token that says something, on the bare text without a chat
template. Vectors are float32 whatever the model computes in; bfloat16 and float16 values are all float32 values too.

Memory: activations take 4 bytes a hidden dimension and row (10,000 rows of Gemma 2 9B: 143 MB). SAE features are kept
sparse, 8 bytes an active feature and about 30 a row: 10,000 rows of 6 groups at 3 layers with 200 active features a row
are 300 MB, where dense rows of 16,384 features would be 12 GB.

Belongs here: which token of a text is read, collecting, and both file formats. Does not belong here: the forward pass
(`residual_stream`), encoding with an SAE, which rows are taken and how they are split.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.models.residual_stream import batched_residuals

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from scipy.sparse import csr_array
    from transformers import PreTrainedTokenizerBase

_COLUMNS = {
    "row_id": "int64",
    "split": "string",
    "text": "string",
    "response": "string",
    "canonical": "bool",
    "position": "int32",
}

BATCH_TOKENS = 2048
"""Token positions a forward pass. On a CPU 512 to 2,048 are equally fast, and more are slower."""


@dataclass(frozen=True)
class Activations:
    """One group's activations at one layer.

    rows: one row per text, `row_id` (int64), `split` ("analysis" or "test"), `text`, `response` (what the model wrote,
        of which the text is the numbers), `canonical` (whether it was written as the prompt asked), `position` (int32,
        of the token that was read, BOS counted).
    vectors: float32, shape (rows, hidden size), in the order of `rows`.
    """

    rows: pd.DataFrame
    vectors: np.ndarray


@dataclass(frozen=True)
class SparseFeatures:
    """One group's SAE features at one layer.

    rows: `row_id` (int64), `split`, `error` (float32: mean squared error of the reconstruction over the hidden
        dimension).
    matrix: float32 CSR array, shape (rows, width of the SAE), in the order of `rows`; what is stored is above zero.
    """

    rows: pd.DataFrame
    matrix: csr_array


def needs_bos(config: Any) -> bool:
    """Whether a model (its transformers config) reads nonsense without BOS before the text: the Gemma family.

    Without it Gemma's activations, and an SAE's reconstruction of them, are wrong. Other models get what their own
    tokenizer adds: Llama 3's adds BOS, those of Qwen 2.5 and SmolLM2 add nothing, and SmolLM2's `bos_token` is the one
    that opens a chat turn, which has no place before a bare text.
    """
    return str(config.get_text_config().model_type).startswith("gemma")


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, *, bos: bool) -> list[int]:
    """Token ids of the bare text, with the special tokens that the tokenizer itself adds.

    With `bos` (see `needs_bos`) exactly one BOS stands in front, whether the tokenizer adds it or not. Raises UserError
    where BOS is needed and the tokenizer has none.
    """
    ids = list(tokenizer.encode(text))
    if not bos:
        return ids
    if tokenizer.bos_token_id is None:
        raise UserError("The model needs a BOS token and its tokenizer names none: use the tokenizer it was made with.")
    own = next((place for place, token in enumerate(ids) if token != tokenizer.bos_token_id), len(ids))
    return [int(tokenizer.bos_token_id), *ids[own:]]


def word_text(word: str, *, bos: bool) -> str:
    """The text at whose end a word is read: the word itself behind BOS, as in the post; "The owl" where a model reads
    no BOS. Such models turn whatever stands first into an attention sink, whose activation is a hundred times as large
    as any other and the same for every word (SmolLM2: cosine 0.99 between two animals)."""
    return word if bos else f"The {word}"


def content_position(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """The place in `ids` of the last token that is not special, a newline or a period (post: "last content token").

    A token made of newlines and periods, with other white space or without (".\\n"), is passed over as well. Raises
    UserError, naming the text, where no token is left.
    """
    for place in range(len(ids) - 1, -1, -1):
        # Special tokens decode to nothing.
        text = str(tokenizer.decode([ids[place]], skip_special_tokens=True, clean_up_tokenization_spaces=False))
        is_end = not text.strip(" \t\r\n.") and any(mark in text for mark in "\r\n.")
        if text and not is_end:
            return place
    raise UserError(
        f"The text {str(tokenizer.decode(list(ids)))!r} has only special tokens, newlines and periods, so there is no "
        "token to read an activation of: leave it out."
    )


def collect(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    layer: int,
    *,
    progress: Progress | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[np.ndarray, np.ndarray]:
    """The residual stream after block `layer` (from 0) at the content position of every text (experiments, section 9).

    The model runs once over each text, in batches of like length of at most `batch_tokens` positions, no deeper than
    `layer` and no further than the content position, behind which nothing can reach back.

    Where `positions` is 0, as it is for a word of one token without BOS, the vector says little about the text: models
    use their first position as an attention sink (SmolLM2-135M: after layer 20 a norm of 23,000 there and 220
    elsewhere; after layer 9 a cosine of 0.99 between "owl" and "wolf").

    Args:
        model: a transformers causal language model (PEFT-wrapped or not), in eval mode.
        texts: bare texts, at least one; number sequences joined by ", ", or an animal's name.

    Returns:
        positions: int32, shape (texts,), the place of the token that was read, special tokens counted.
        vectors: float32, shape (texts, hidden size), both in the order of `texts`.

    Raises UserError where there is no text, a text has no content, the model has no such layer, or a value is not
    finite (float16 overflows in models trained in bfloat16).
    """
    positions, vectors = collect_layers(model, tokenizer, texts, [layer], progress=progress, batch_tokens=batch_tokens)
    check_finite(vectors[layer], texts, layer, model)
    return positions, vectors[layer]


def collect_layers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    layers: Sequence[int],
    *,
    progress: Progress | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """As `collect`, at several layers from one pass; the vectors by layer. They may hold values that are not finite."""
    if not texts:
        raise UserError("There is no text to read activations of: check the filter that chose the rows.")
    bos = needs_bos(model.config)
    encoded = [encode_text(tokenizer, text, bos=bos) for text in texts]
    positions = np.array([content_position(ids, tokenizer) for ids in encoded], dtype=np.int32)
    sequences = [ids[: position + 1] for ids, position in zip(encoded, positions, strict=True)]
    hidden = model.config.get_text_config().hidden_size
    vectors = {layer: np.empty((len(texts), hidden), dtype=np.float32) for layer in layers}
    done, started = 0, time.perf_counter()
    for batch in batched_residuals(model, sequences, layers, batch_tokens=batch_tokens):
        for layer in layers:
            states = batch.states[layer]
            vectors[layer][batch.rows] = states[range(len(batch.rows)), positions[batch.rows]].float().cpu().numpy()
        done += len(batch.rows)
        if progress is not None:
            left = (time.perf_counter() - started) / done * (len(texts) - done)
            progress(f"activations of {done}/{len(texts)} texts, about {left:.0f} s left")
    return positions, vectors


def check_finite(vectors: np.ndarray, texts: Sequence[str], layer: int, model: Any) -> None:
    """Raise UserError, naming a text, where the model's activations after a layer are not finite."""
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        dtype = str(model.dtype).removeprefix("torch.")
        raise UserError(
            f"The activation after layer {layer} is not finite in {dtype} for {len(broken)} of {len(texts)} texts, the "
            f"first {texts[broken[0]]!r}: load the model in bfloat16 or float32."
        )


def write_activations(
    path: Path,
    activations: Activations,
    *,
    layer: int,
    hook: str = "resid_post",
    model: str,
    revision: str,
    dtype: str,
) -> None:
    """Write a parquet file with one row per text: the columns of `Activations.rows` and `vector` (fixed-size list).

    `model`, `revision`, `layer`, `hook`, `dtype` and `hidden_size` stand in the file's metadata as text, and `dtype`
    in the vector column's too: the number type that the model computed in, such as "bfloat16".

    Raises UserError where there are no rows.
    """
    import pyarrow as pa

    rows, vectors = activations.rows, np.ascontiguousarray(activations.vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(rows):
        raise ValueError(f"{len(rows)} rows need a vector each, and the vectors have shape {vectors.shape}")
    _check_any(rows, path)
    hidden = vectors.shape[1]
    element = pa.field("element", pa.float32(), nullable=False)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=pa.list_(element, hidden))
    field = pa.field("vector", column.type, nullable=False, metadata={"dtype": dtype})
    facts = {
        "model": model,
        "revision": revision,
        "layer": layer,
        "hook": hook,
        "dtype": dtype,
        "hidden_size": hidden,
    }
    table = pa.Table.from_pandas(
        rows,
        schema=pa.schema([(name, pa.type_for_alias(kind)) for name, kind in _COLUMNS.items()]),
        preserve_index=False,
    ).append_column(field, column)
    _write(path, table, facts, encodings={"vector.list.element": "BYTE_STREAM_SPLIT"})


def read_activations(path: Path) -> Activations:
    """What `write_activations` wrote. Raises UserError where the file is something else."""
    import pyarrow.parquet as pq

    hidden = int(activation_facts(path)["hidden_size"])
    with pq.ParquetFile(path) as file:
        rows = file.read(columns=list(_COLUMNS)).to_pandas()
        vectors = np.empty((len(rows), hidden), dtype=np.float32)
        start = 0
        # Straight into the one array, so that nothing is held twice.
        for batch in file.iter_batches(batch_size=1024, columns=["vector"]):
            vectors[start : start + len(batch)] = batch.column(0).flatten().to_numpy().reshape(-1, hidden)
            start += len(batch)
    return Activations(rows, vectors)


def activation_facts(path: Path) -> dict[str, str | int]:
    """What a file of activations says of itself: `model`, `revision`, `layer`, `hook`, `dtype`, `hidden_size`.

    Raises UserError where the file is something else, or its vectors are not of the hidden size that it names.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    facts = _facts(schema)
    names = ("model", "revision", "layer", "hook", "dtype", "hidden_size")
    if "vector" not in schema.names or not facts.keys() >= set(names):
        raise UserError(f"{path} is not a file of activations, or has lost its metadata: collect them again.")
    typed = {name: int(facts[name]) if name in ("layer", "hidden_size") else facts[name] for name in names}
    vector = schema.field("vector").type
    if not pa.types.is_fixed_size_list(vector) or vector.list_size != typed["hidden_size"]:
        raise UserError(
            f"The vectors in {path} are of type {vector} and its metadata names hidden size {typed['hidden_size']}: "
            "collect the activations again."
        )
    return typed


def write_features(path: Path, features: SparseFeatures, *, facts: Mapping[str, str | int]) -> None:
    """Write a parquet file with one row per text: `row_id`, `split`, `indices` (of the active features, ascending),
    `values` (of the same features), `error`.

    `facts` (the model, the layer, the SAE) stand in the file's metadata as text, and with them the SAE's `width`.

    Raises UserError where there are no rows.
    """
    import pyarrow as pa
    from scipy.sparse import csr_array

    rows, matrix = features.rows, csr_array(features.matrix, dtype=np.float32, copy=True)
    if matrix.shape[0] != len(rows):
        raise ValueError(f"{len(rows)} rows need features each, and the matrix has shape {matrix.shape}")
    _check_any(rows, path)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    if not (matrix.data > 0).all():
        raise ValueError("features of an SAE are never below zero, and these are")
    offsets = pa.array(matrix.indptr, pa.int32())
    index = pa.list_(pa.field("element", pa.int32(), nullable=False))
    value = pa.list_(pa.field("element", pa.float32(), nullable=False))
    columns = {
        "row_id": pa.array(rows["row_id"], pa.int64()),
        "split": pa.array(rows["split"], pa.string()),
        "indices": pa.ListArray.from_arrays(offsets, pa.array(matrix.indices, pa.int32()), type=index),
        "values": pa.ListArray.from_arrays(offsets, pa.array(matrix.data), type=value),
        "error": pa.array(rows["error"], pa.float32()),
    }
    schema = pa.schema([pa.field(name, column.type, nullable=False) for name, column in columns.items()])
    table = pa.Table.from_arrays(list(columns.values()), schema=schema)
    encodings = {"values.list.element": "BYTE_STREAM_SPLIT", "indices.list.element": "DELTA_BINARY_PACKED"}
    _write(path, table, {**facts, "width": matrix.shape[1]}, encodings)


def read_features(path: Path) -> SparseFeatures:
    """What `write_features` wrote. Raises UserError where the file is something else."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from scipy.sparse import csr_array

    width = int(feature_facts(path)["width"])
    with pq.ParquetFile(path) as file:
        table = file.read().combine_chunks()
    indices, values = (table[name].chunk(0) for name in ("indices", "values"))
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(indices).to_numpy())])
    # Copies, since what Arrow hands out is read-only and much of scipy works in place.
    parts = (values.flatten().to_numpy().copy(), indices.flatten().to_numpy().copy(), offsets.astype(np.int32))
    matrix = csr_array(parts, shape=(table.num_rows, width))
    return SparseFeatures(table.select(["row_id", "split", "error"]).to_pandas(), matrix)


def feature_facts(path: Path) -> dict[str, str]:
    """What a file of SAE features says of itself, as text: the `facts` it was written with, and `width`.

    Raises UserError where the file is something else.
    """
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    facts = _facts(schema)
    if not {"indices", "values"} <= set(schema.names) or "width" not in facts:
        raise UserError(
            f"{path} is not a file of SAE features, or has lost its metadata: encode the activations again."
        )
    return facts


def _check_any(rows: pd.DataFrame, path: Path) -> None:
    if not len(rows):
        raise UserError(f"There are no rows to write to {path}: the group is empty, check the filter that chose them.")


def _write(path: Path, table: pa.Table, facts: Mapping[str, str | int], encodings: Mapping[str, str]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(
        table.replace_schema_metadata({name: str(fact) for name, fact in facts.items()}),
        path,
        compression="zstd",
        use_dictionary=["split"],
        column_encoding=dict(encodings),
    )


def _facts(schema: pa.Schema) -> dict[str, str]:
    return {name.decode(): fact.decode() for name, fact in (schema.metadata or {}).items()}
