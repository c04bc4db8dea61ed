"""Descriptions: Neuronpedia's export from a server that breaks off, and those made from data against a plain loop."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
import torch
from chat_endpoint import KEY, Reply, chat_endpoint
from local_server import serving
from pydantic import TypeAdapter, ValidationError
from tiny_models import tiny_model, tiny_tokenizer

from subliminal_dagster.science.activations.activations import encode_text, needs_bos
from subliminal_dagster.science.descriptions.chat_api import ChatApi, Endpoint
from subliminal_dagster.science.descriptions.descriptions import describe_features, promoted_tokens
from subliminal_dagster.science.descriptions.neuronpedia import (
    described,
    fetch_descriptions,
    listed_id,
    read_descriptions,
)
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.features.sae import encode
from subliminal_dagster.science.features.sae_texts import token_vectors
from subliminal_dagster.science.settings.descriptions import (
    DescriptionSettings,
    LocalDescriptions,
    NeuronpediaDescriptions,
)
from subliminal_dagster.science.settings.features import PublishedSae

ID = "gemma-2-9b-it/9-gemmascope-res-16k"
PREFIX = f"v1/{ID}/explanations/"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy before this machine's servers, and no waiting between tries."""
    monkeypatch.setattr("subliminal_dagster.science.descriptions.neuronpedia._BACKOFF", 0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def row(index: int, description: str | None, **changes: Any) -> dict[str, Any]:
    """A row as the export has it."""
    return {
        "id": f"x{index}",
        "modelId": ID.partition("/")[0],
        "layer": ID.partition("/")[2],
        "index": str(index),
        "description": description,
        "typeName": "oai_token-act-pair",
        "explanationModelName": "gpt-4o-mini",
        "createdAt": "2024-08-01T00:00:00Z",
        "embedding": [0.5] * 4,
    } | changes


def packed(rows: list[dict[str, Any]]) -> bytes:
    return gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode(), mtime=0)


FILES = {f"batch-{i}.jsonl.gz": packed([row(20 * i + j, f"words {20 * i + j}") for j in range(20)]) for i in range(12)}


@dataclass
class Bucket:
    """A bucket of S3: what lies in it, and what it was asked for (path, Range)."""

    objects: dict[str, bytes]
    url: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def bucket(
    files: dict[str, bytes],
    serve: Callable[[str, int, bytes], tuple[int, bytes]] = lambda _name, _attempt, rest: (200, rest),
    tag: Callable[[bytes], str] = lambda content: hashlib.md5(content).hexdigest(),
    listing: tuple[int, bytes] | None = None,
) -> Iterator[Bucket]:
    """A server of a bucket whose lists have two files a page. `serve` may change status and content of an attempt at a
    file (what is asked for of it), to less than was announced; `listing` stands in for the lists."""
    state = Bucket({PREFIX + name: content for name, content in files.items()} | {PREFIX + "index.html": b"no batch"})
    attempts: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            state.requests.append((self.path, self.headers["Range"]))
            if parts.query:
                self._list(parse_qs(parts.query))
                return
            key = unquote(parts.path[1:])
            if key not in state.objects:
                self.send_error(404)
                return
            whole = state.objects[key]
            start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            attempt = attempts.get(key, 0)
            attempts[key] = attempt + 1
            status, content = serve(key.rpartition("/")[2], attempt, whole[start:])
            self.send_response(206 if status == 200 and start else status)
            self.send_header("Content-Length", str(len(whole) - start))
            self.end_headers()
            self.wfile.write(content)

        def _list(self, query: dict[str, list[str]]) -> None:
            keys = sorted(key for key in state.objects if key.startswith(query["prefix"][0]))
            start = int(query.get("continuation-token", ["0"])[0])
            items = "".join(
                f"<Contents><Key>{key}</Key><ETag>&quot;{tag(state.objects[key])}&quot;</ETag>"
                f"<Size>{len(state.objects[key])}</Size></Contents>"
                for key in keys[start : start + 2]
            )
            more = start + 2 < len(keys)
            token = f"<NextContinuationToken>{start + 2}</NextContinuationToken>" if more else ""
            status, content = listing or (200, self._page(items, token))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _page(self, items: str, token: str) -> bytes:
            return (
                '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<IsTruncated>{str(bool(token)).lower()}</IsTruncated>{token}{items}</ListBucketResult>"
            ).encode()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as state.url:
        yield state


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "batch-0.jsonl.gz").write_bytes(packed(rows))
    return folder


# Fetching


def test_an_export_is_fetched_whole_and_then_needs_no_network(tmp_path: Path) -> None:
    lines: list[str] = []
    with bucket(FILES) as s3:
        fetch_descriptions(ID, tmp_path / "f", bucket=s3.url, progress=lines.append)
    assert {f.name: f.read_bytes() for f in (tmp_path / "f").glob("batch-*")} == FILES
    assert lines[-1].startswith("12/12 files")
    fetch_descriptions(ID, tmp_path / "f", bucket=s3.url)
    table = read_descriptions(tmp_path / "f", width=240, neuronpedia_id=ID)
    assert list(table["feature"]) == list(range(240))
    assert list(table["description"]) == [f"words {i}" for i in range(240)]


@pytest.mark.parametrize("tag", ["md5", "of several parts"])
def test_a_download_that_breaks_off_goes_on_where_it_stopped(tag: str, tmp_path: Path) -> None:
    def serve(name: str, attempt: int, rest: bytes) -> tuple[int, bytes]:
        return 200, rest[:60] if name in ("batch-3.jsonl.gz", "batch-10.jsonl.gz") and attempt < 3 else rest

    tags = {} if tag == "md5" else {"tag": lambda content: hashlib.md5(content).hexdigest() + "-2"}
    with bucket(FILES, serve, **tags) as s3:
        fetch_descriptions(ID, tmp_path, bucket=s3.url)
        ranges = [asked for path, asked in s3.requests if path.endswith("batch-3.jsonl.gz")]
    assert ranges == [None, "bytes=60-", "bytes=120-", "bytes=180-"]
    assert {f.name: f.read_bytes() for f in tmp_path.glob("batch-*")} == FILES


def test_a_broken_download_is_said_so_and_a_later_run_fetches_the_rest_alone(tmp_path: Path) -> None:
    def serve(name: str, attempt: int, rest: bytes) -> tuple[int, bytes]:
        return 200, rest[: 60 if attempt == 0 else 0] if name == "batch-5.jsonl.gz" else rest

    with bucket(FILES, serve) as s3, pytest.raises(UserError, match=r"batch-5\.jsonl\.gz .* goes on from byte 60"):
        fetch_descriptions(ID, tmp_path, bucket=s3.url)
    with bucket(FILES) as s3:
        fetch_descriptions(ID, tmp_path, bucket=s3.url)
        asked = [(path.rpartition("/")[2], start) for path, start in s3.requests if "?" not in path]
    assert asked[0] == ("batch-5.jsonl.gz", "bytes=60-")
    assert len(asked) == 7, "files that were there already were fetched again"
    assert {f.name: f.read_bytes() for f in tmp_path.glob("batch-*")} == FILES


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    with bucket(FILES, lambda _name, attempt, rest: (503 if attempt == 0 else 200, rest)) as s3:
        fetch_descriptions(ID, tmp_path, bucket=s3.url)
    assert {f.name: f.read_bytes() for f in tmp_path.glob("batch-*")} == FILES


def test_what_arrives_otherwise_than_it_lies_there_is_refused(tmp_path: Path) -> None:
    def serve(name: str, attempt: int, rest: bytes) -> tuple[int, bytes]:
        return 200, rest[:-1] + b"?" if name == "batch-0.jsonl.gz" and attempt == 0 else rest

    with bucket(FILES, serve) as s3:
        with pytest.raises(UserError, match=r"batch-0.*arrived damaged"):
            fetch_descriptions(ID, tmp_path, bucket=s3.url)
        fetch_descriptions(ID, tmp_path, bucket=s3.url)
    assert (tmp_path / "batch-0.jsonl.gz").read_bytes() == FILES["batch-0.jsonl.gz"]


def test_a_file_that_was_damaged_since_is_fetched_again(tmp_path: Path) -> None:
    with bucket(FILES) as s3:
        fetch_descriptions(ID, tmp_path, bucket=s3.url)
        (tmp_path / "batch-7.jsonl.gz").write_bytes(FILES["batch-7.jsonl.gz"][:50])
        s3.requests.clear()
        fetch_descriptions(ID, tmp_path, bucket=s3.url)
        assert [path.rpartition("/")[2] for path, _ in s3.requests if "?" not in path] == ["batch-7.jsonl.gz"]
    assert (tmp_path / "batch-7.jsonl.gz").read_bytes() == FILES["batch-7.jsonl.gz"]


def test_an_export_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with bucket({}) as s3, pytest.raises(UserError, match=f"descriptions of {ID} are not in its exports"):
        fetch_descriptions(ID, tmp_path, bucket=s3.url)
    with bucket(FILES, lambda *_: (404, b"")) as s3, pytest.raises(UserError, match=r"could not .* \(HTTP 404\)"):
        fetch_descriptions(ID, tmp_path, bucket=s3.url)
    with bucket(FILES, listing=(403, b"")) as s3, pytest.raises(UserError, match=r"cannot be listed \(HTTP 403\)"):
        fetch_descriptions(ID, tmp_path, bucket=s3.url)
    with bucket(FILES, listing=(200, b"<p>log in")) as s3, pytest.raises(UserError, match="did not answer with a list"):
        fetch_descriptions(ID, tmp_path, bucket=s3.url)
    with pytest.raises(UserError, match=r"cannot be listed .*: check the network"):
        fetch_descriptions(ID, tmp_path, bucket="http://127.0.0.1:9")


def test_the_list_of_sae_lens_names_the_export_of_a_published_sae() -> None:
    assert listed_id("gemma-scope-9b-it-res-canonical", "layer_9/width_16k/canonical") == ID
    with pytest.raises(UserError, match="names no descriptions on Neuronpedia"):
        listed_id("gemma-scope-2-12b-it-res", "layer_12_width_16k_l0_medium")


def test_a_layer_s_descriptions_come_from_where_the_study_says(tmp_path: Path) -> None:
    published = PublishedSae(release="gemma-scope-9b-it-res-canonical", id="layer_{layer}/width_16k/canonical")
    by_id = NeuronpediaDescriptions(id="gemma-2-9b-it/{layer}-gemmascope-res-16k")
    with bucket(FILES) as s3:
        for source, sae in ((NeuronpediaDescriptions(), published), (by_id, None)):
            cache = tmp_path / str(sae is None)
            assert len(described(source, sae, 9, 16384, cache, bucket=s3.url)) == 240
        assert len(described(by_id, None, 9, 240, cache, bucket="http://127.0.0.1:9")) == 240
        with pytest.raises(UserError, match="an SAE that is trained here: have them made"):
            described(NeuronpediaDescriptions(), None, 9, 240, cache, bucket=s3.url)
    written(tmp_path / "copy-9", [row(3, "words")])
    local = LocalDescriptions(path=str(tmp_path / "copy-{layer}"))
    assert list(described(local, None, 9, 10, cache)["feature"]) == [3]


# Reading


def test_of_several_descriptions_one_is_chosen_by_the_most_common_method_and_the_earliest(tmp_path: Path) -> None:
    rows = [
        *[row(i, f"common {i}") for i in range(5)],
        row(2, "rare", explanationModelName="other", createdAt="2023-01-01T00:00:00Z"),
        row(3, "later", createdAt="2025-01-01T00:00:00Z"),
        row(4, "  earlier\n one ", createdAt="2024-01-01T00:00:00Z"),
        row(6, "rare alone", explanationModelName="other"),
        row(7, "  "),
        row(8, None),
    ]
    for order in (rows, rows[::-1]):
        table = read_descriptions(written(tmp_path, order), width=10)
        assert list(table["feature"]) == [0, 1, 2, 3, 4, 6]
        assert list(table["description"][2:]) == ["common 2", "common 3", "earlier one", "rare alone"]
        assert list(table["explanations"]) == [1, 1, 2, 2, 2, 1]
        assert table["method"].iloc[5] == "oai_token-act-pair other"


def test_files_of_a_copy_may_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "batch-1.jsonl").write_text(json.dumps(row(3, "naïve words")) + "\n\n", encoding="utf-8")
    assert list(read_descriptions(tmp_path, width=4, neuronpedia_id=ID)["description"]) == ["naïve words"]


def test_descriptions_of_another_sae_are_refused(tmp_path: Path) -> None:
    written(tmp_path, [row(3, "words")])
    with pytest.raises(UserError, match="describes feature 3 and the SAE has 3 features"):
        read_descriptions(tmp_path, width=3)
    with pytest.raises(UserError, match=f"holds descriptions of {ID} and those of gemma-2-9b-it/20-g are wanted"):
        read_descriptions(tmp_path, width=4, neuronpedia_id="gemma-2-9b-it/20-g")


def test_empty_half_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no descriptions: files batch-"):
        read_descriptions(tmp_path, width=5)
    with pytest.raises(UserError, match="holds no descriptions: files batch-"):
        read_descriptions(tmp_path / "missing", width=5)
    with pytest.raises(UserError, match="hold no description at all"):
        read_descriptions(written(tmp_path, []), width=5)
    whole = packed([row(i, f"words {i}") for i in range(5)])
    for content in (whole[: len(whole) // 2], b"<html>", whole[:20] + b"????" + whole[24:]):
        (tmp_path / "batch-0.jsonl.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"batch-0\.jsonl\.gz is damaged or only half there"):
            read_descriptions(tmp_path, width=5)
    for line in ("{", "[1]", '{"index": "one", "description": "x"}', '{"description": "x"}'):
        (tmp_path / "batch-0.jsonl.gz").write_bytes(gzip.compress(line.encode()))
        with pytest.raises(UserError, match=r"Line 1 of .*batch-0\.jsonl\.gz is not a description"):
            read_descriptions(tmp_path, width=5)


def test_the_settings_know_three_sources() -> None:
    source: TypeAdapter[Any] = TypeAdapter(DescriptionSettings)
    assert source.validate_python({"kind": "neuronpedia", "id": "gemma-2-9b-it/{layer}-gemmascope-res-16k"}).id
    assert source.validate_python({"kind": "local", "path": "/data/{layer}"}).path
    assert source.validate_python({"kind": "made"}).contexts >= 1
    with pytest.raises(ValidationError):
        source.validate_python({"kind": "neuronpedia", "id": "../../etc"})


# Making

WIDTH = 48
TEXTS = [
    "the owl sat there, 12, 47 and 305 owls",
    "12, 47, 305, 9, 88",
    "12, 47, 305, 9, 88, 16",
    "seven bears\nand the owl",
    "x",
    "a long one about nothing: " + "la la the " * 60,
]


def made_for(kind: str) -> tuple[Any, Any, Any]:
    """A random SAE, every third feature of which never fires, the model it reads and the tokenizer."""
    from sae_lens import SAE

    config = {
        "architecture": "standard",
        "d_in": 64,
        "d_sae": WIDTH,
        "metadata": {"hook_name": "blocks.0.hook_resid_post"},
    }
    sae = SAE.from_dict(config)
    generator = torch.Generator().manual_seed(1)
    for parameter in sae.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    sae.b_enc.data[::3] = -1e4
    return sae, tiny_model(kind), tiny_tokenizer()


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("batch", [5, 256])
def test_peaks_are_those_of_a_plain_loop(kind: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, model, tokenizer = made_for(kind)
    monkeypatch.setattr("subliminal_dagster.science.descriptions.descriptions.BATCH", batch)
    table = describe_features(sae, model, tokenizer, TEXTS, 0, contexts=3, tokens=4).set_index("feature")

    bos = needs_bos(model.config)
    sequences = [ids for text in TEXTS if len(ids := encode_text(tokenizer, text, bos=bos)) > 1]
    active = encode(sae, token_vectors(model, tokenizer, TEXTS, 0))[0].toarray()
    owner = np.concatenate([[i] * (len(ids) - 1) for i, ids in enumerate(sequences)])
    place = np.concatenate([np.arange(1, len(ids)) for ids in sequences])
    assert list(table.index) == list(np.flatnonzero(active.max(axis=0) > 0))
    assert 5 < len(table) < WIDTH, "all features fire or none does"
    np.testing.assert_allclose(table["max_activation"], active[:, table.index].max(axis=0), rtol=1e-4)
    np.testing.assert_allclose(table["firing_rate"], (active[:, table.index] > 0).mean(axis=0))
    for feature, found in table["contexts"].items():
        best: dict[str, float] = {}
        for text, ids in enumerate(sequences):
            of_text = np.where(owner == text, active[:, feature], -1)
            top = int(of_text.argmax())
            if of_text[top] > 0:
                at = int(place[top])
                before = tokenizer.decode(ids[max(0, at - 4) : at + 1])
                # The first text of equal contexts wins, and they are equal up to rounding.
                best[before] = max(best.get(before, 0), of_text[top])
        expected = sorted(best.values(), reverse=True)[:3]
        assert len(found) == len(expected)
        marked = [context.partition("«")[0] + context.partition("«")[2].partition("»")[0] for context in found]
        assert len(set(marked)) == len(marked)
        tops = [max(v for b, v in best.items() if b.removeprefix("<|endoftext|>") == m) for m in marked]
        np.testing.assert_allclose(tops, expected, rtol=1e-4)


def test_only_the_features_asked_for_are_described_and_silent_ones_by_their_tokens() -> None:
    sae, model, tokenizer = made_for("llama")
    every = describe_features(sae, model, tokenizer, TEXTS, 0)
    silent = min(set(range(WIDTH)) - set(every["feature"]))
    some = describe_features(sae, model, tokenizer, TEXTS, 0, features=[silent, int(every["feature"][3])])
    again = some[some["feature"] != silent].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, every[every["feature"] == every["feature"][3]].reset_index(drop=True))
    of_silent = some.set_index("feature").loc[silent]
    assert of_silent["description"].startswith('promotes "')
    assert (of_silent["contexts"], of_silent["max_activation"], of_silent["firing_rate"]) == ([], 0, 0)


def test_a_description_shows_the_peak_in_its_context_on_one_line() -> None:
    sae, model, tokenizer = made_for("llama")
    # One feature that fires where the activation is near that of " owl" in the first text.
    texts = ["see the owl now", "a\nb c"]
    vectors = token_vectors(model, tokenizer, texts[:1], 0)
    (owl,) = [i for i, token in enumerate(tokenizer.encode(texts[0])[1:]) if tokenizer.decode([token]) == " owl"]
    direction = torch.from_numpy(vectors[owl] - vectors.mean(axis=0))
    sae.b_dec.data.zero_()
    sae.W_enc.data[:, 0] = direction
    others = [i for i in range(len(vectors)) if i != owl]
    sae.b_enc.data[0] = -float((torch.from_numpy(vectors[others]) @ direction).max())
    table = describe_features(sae, model, tokenizer, texts, 0, features=[0])
    assert "see the« owl» now" in table["contexts"][0]
    assert table["description"][0].startswith('fires at the marked token of "')
    assert '; promotes "' in table["description"][0]
    assert "\n" not in table["description"][0]


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_promoted_tokens_are_those_with_the_largest_logits_behind_the_norm(kind: str) -> None:
    sae, model, tokenizer = made_for(kind)
    with torch.no_grad():
        weight = model.get_decoder().norm.weight
        weight.copy_(torch.linspace(-0.9, 3, len(weight)))
        gain = (1 + weight if kind == "gemma3" else weight).double().numpy()
        head = model.get_output_embeddings().weight.double().numpy()
    features = np.array([3, 0, 17])
    found = promoted_tokens(sae, model, tokenizer, features, 5)
    for feature, tokens in zip(features, found, strict=True):
        logits = head @ (gain * sae.W_dec[feature].detach().double().numpy())
        order = [int(token) for token in np.argsort(-logits) if token not in tokenizer.all_special_ids]
        texts = [tokenizer.decode([token]) for token in order]
        assert tokens == list(dict.fromkeys(text.strip() or text for text in texts))[:5]


def test_a_language_model_can_word_the_descriptions(tmp_path: Path) -> None:
    sae, model, tokenizer = made_for("llama")
    plain = describe_features(sae, model, tokenizer, TEXTS, 0)
    silent = json.dumps(plain["contexts"][0], ensure_ascii=False)
    with chat_endpoint(lambda prompt, _: Reply("" if silent in prompt else " references to\nowls ")) as server:
        writer = ChatApi(Endpoint(server.url, "m", KEY), tmp_path / "a")
        for _ in range(2):
            table = describe_features(sae, model, tokenizer, TEXTS, 0, writer=writer)
        attempts = sorted(server.attempts.values())
        assert attempts[-1] == 6 and set(attempts[:-1]) == {1}, "only the question without an answer is asked again"
        prompt = server.requests[0]["messages"][0]["content"]
    assert table["description"][0] == plain["description"][0]
    assert set(table["description"][1:]) == {"references to owls"}
    pd.testing.assert_frame_equal(table.drop(columns="description"), plain.drop(columns="description"))
    assert "«" in prompt and "{contexts}" not in prompt and "{tokens}" not in prompt


def test_what_cannot_be_described_is_said_so() -> None:
    sae, model, tokenizer = made_for("llama")
    with pytest.raises(UserError, match="texts of two tokens or more"):
        describe_features(sae, model, tokenizer, ["x"], 0)
    with pytest.raises(UserError, match="features 0 to 47 and 3 to 48 are asked for"):
        describe_features(sae, model, tokenizer, TEXTS, 0, features=[48, 3])
    sae.b_enc.data.fill_(-1e6)
    with pytest.raises(UserError, match="No feature fires on any of the texts"):
        describe_features(sae, model, tokenizer, TEXTS, 0)
    sae, model, tokenizer = made_for("llama")
    model.get_input_embeddings().weight.data.fill_(torch.inf)
    with pytest.raises(UserError, match="not finite"):
        describe_features(sae, model, tokenizer, TEXTS, 0)
