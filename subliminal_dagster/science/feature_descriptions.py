"""What makes each feature of a sparse autoencoder active, in words.

For a published SAE these are Neuronpedia's descriptions: its public bucket (https://neuronpedia.org, "Exports") holds
all of a layer's in files of 1,024 rows, which are fetched or read from a copy. For an SAE trained here they are made
from data: the texts in which a feature is most active and the tokens that its direction makes more probable, one line
of the two, which a language model can put in better words.

Cost: 16,384 descriptions are 16 files, most of whose bytes are embeddings that nobody reads here. Making them is one
pass over the texts and the encoder's half of an SAE, and one product of the directions with the vocabulary.

Belongs here: getting descriptions, and making them. Does not belong here: what kind of thing they are about
(`feature_categories`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from subliminal_dagster.science.activations import BATCH_TOKENS, encode_text, needs_bos
from subliminal_dagster.science.engines.protocol import Progress
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.judges import ChatApi, load_judge_prompt
from subliminal_dagster.science.residual_stream import batched_residuals
from subliminal_dagster.science.sae import BATCH
from subliminal_dagster.science.settings import Settings, UserPath
from subliminal_dagster.science.well_formed import well_formed
from subliminal_dagster.science.wheels import file_sha256

if TYPE_CHECKING:
    import pandas as pd
    import requests
    import torch
    from transformers import PreTrainedTokenizerBase

    from subliminal_dagster.science.study import PublishedSae

BUCKET = "https://neuronpedia-datasets.s3.us-east-1.amazonaws.com"

_BATCH_FILE = re.compile(r"batch-(\d+)\.jsonl(\.gz)?")
_MANIFEST = "manifest.json"
_TIMEOUT = 60
_RETRIES = 5
_BACKOFF = 0.5
_PIECE = 1 << 18

_AROUND = 4
"""Tokens on either side of the marked one in a context."""

_SHOWN = 3
"""Contexts, and tokens, in a description that no model worded."""

_DIRECTIONS = 64
"""Directions multiplied with the vocabulary at once: 64 MB of logits where it has 256,000 tokens."""

_LINE_TOKENS = 40


class NeuronpediaDescriptions(Settings):
    """Neuronpedia's export. `id` is model and source, "{layer}" standing for the layer, such as
    "gemma-2-9b-it/{layer}-gemmascope-res-16k"; None takes the one that sae-lens' list names for a published SAE."""

    kind: Literal["neuronpedia"] = "neuronpedia"
    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*/[\w.{}-]+$")


class LocalDescriptions(Settings):
    """A folder with a copy of Neuronpedia's export (batch-*.jsonl.gz), "{layer}" in its path standing for the layer."""

    kind: Literal["local"] = "local"
    path: UserPath


class MadeDescriptions(Settings):
    """Made from data: of each feature the `contexts` in which it is most active and the `tokens` it promotes most, put
    into one line by the model `writer` behind the endpoint that SUBLIMINAL_JUDGE_URL names, where one is given."""

    kind: Literal["made"] = "made"
    contexts: int = Field(default=8, ge=1)
    tokens: int = Field(default=8, ge=1)
    writer: str | None = None


DescriptionSettings = Annotated[
    NeuronpediaDescriptions | LocalDescriptions | MadeDescriptions, Field(discriminator="kind")
]


class _Exported(NamedTuple):
    """A file in the bucket. `etag` is its MD5 where it was uploaded in one part."""

    key: str
    size: int
    etag: str

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


def described(
    source: NeuronpediaDescriptions | LocalDescriptions,
    published: PublishedSae | None,
    layer: int,
    width: int,
    cache: Path,
    progress: Progress | None = None,
    *,
    bucket: str = BUCKET,
) -> pd.DataFrame:
    """The descriptions of a layer's SAE that others made, as `read_descriptions` returns them.

    published: which SAE it is; None for one that was trained here. cache: a folder that keeps what is fetched.

    Raises UserError where an SAE that was trained here has no id, and as `fetch_descriptions` and `read_descriptions`
    do.
    """
    if source.kind == "local":
        return read_descriptions(Path(source.path.replace("{layer}", str(layer))).expanduser().absolute(), width=width)
    if source.id is not None:
        neuronpedia_id = source.id.replace("{layer}", str(layer))
    elif published is not None:
        neuronpedia_id = listed_id(published.release, published.id.replace("{layer}", str(layer)))
    else:
        raise UserError(
            "Neuronpedia has no descriptions of an SAE that is trained here: have them made (kind: made), or give the "
            "folder of a copy."
        )
    folder = cache / neuronpedia_id.replace("/", "--")
    fetch_descriptions(neuronpedia_id, folder, bucket=bucket, progress=progress)
    return read_descriptions(folder, width=width, neuronpedia_id=neuronpedia_id)


def listed_id(release: str, sae_id: str) -> str:
    """Neuronpedia's name ("gemma-2-9b-it/9-gemmascope-res-16k") of a published SAE, by sae-lens' list.

    Raises UserError where the list names none: not every SAE is on Neuronpedia.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    found = get_pretrained_saes_directory()[release].neuronpedia_id.get(sae_id)
    if not found:
        raise UserError(
            f"sae-lens' list names no descriptions on Neuronpedia for the SAE {sae_id} of {release}: give their id, "
            "or have descriptions made from data."
        )
    return str(found)


def fetch_descriptions(
    neuronpedia_id: str, folder: Path, *, bucket: str = BUCKET, progress: Progress | None = None
) -> None:
    """Bring Neuronpedia's export of an SAE's descriptions into `folder`, which belongs to this SAE alone.

    Every file is checked against the bucket's MD5 and size. A download that broke off goes on where it stopped, in this
    call or a later one. A folder that is complete and whole (`manifest.json` holds the SHA-256 of its files) is left as
    it is, without a look at the network.

    Raises UserError where there is no such export, or it cannot be had whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if _is_complete(folder):
        return
    where = f"Neuronpedia's descriptions of {neuronpedia_id}"
    with _http() as http:
        exported = _listing(http, bucket, f"v1/{neuronpedia_id}/explanations/", where)
        if not exported:
            raise UserError(f"{where} are not in its exports: correct the id, or have descriptions made from data.")
        for number, entry in enumerate(exported, start=1):
            _download(http, bucket, entry, folder / entry.name, where)
            if progress is not None:
                progress(f"{number}/{len(exported)} files of {where}")
    names = {entry.name for entry in exported}
    for file in _batch_files(folder):
        if file.name not in names:
            file.unlink()
    manifest = {"id": neuronpedia_id, "files": {name: file_sha256(folder / name) for name in sorted(names)}}
    aside = folder / f"{_MANIFEST}.{os.getpid()}.new"
    aside.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, folder / _MANIFEST)


def read_descriptions(folder: Path, *, width: int, neuronpedia_id: str | None = None) -> pd.DataFrame:
    """The descriptions in a folder that `fetch_descriptions` filled, or in any copy of the export.

    width: the number of features of the SAE. neuronpedia_id: which SAE's descriptions they should be, where known.

    Returns:
        A row a described feature, ascending: feature (int64), description, explanations (how many there were to choose
        from), method (how the chosen one was made). Chosen is, of several, one by the method that most features of the
        export were described by, the earliest of those.

    Raises UserError where there is no file or no description, a file is damaged or only half there, or the descriptions
    are those of another SAE.
    """
    import pandas as pd

    files = _batch_files(folder)
    if not files:
        raise UserError(f"{folder} holds no descriptions: files batch-*.jsonl.gz are needed, as Neuronpedia has them.")
    table = pd.DataFrame(
        [row for file in files for row in _rows(file, width, neuronpedia_id)],
        columns=["feature", "description", "method", "created"],
    )
    if table.empty:
        raise UserError(f"The files in {folder} hold no description at all: fetch them anew, or choose another source.")
    table = table.astype({"feature": "int64"})
    methods = table.drop_duplicates(["feature", "method"])["method"].value_counts()
    table["explanations"] = table.groupby("feature")["feature"].transform("size")
    table["described"] = table["method"].map(methods)
    chosen = table.sort_values(
        ["feature", "described", "method", "created", "description"], ascending=[True, False, True, True, True]
    ).drop_duplicates("feature", ignore_index=True)
    return chosen[["feature", "description", "explanations", "method"]]


def describe_features(
    sae: Any,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    layer: int,
    *,
    contexts: int = 8,
    tokens: int = 8,
    features: Collection[int] | None = None,
    writer: ChatApi | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Descriptions from data: what a feature is active at, and what it makes more probable.

    The first token of a text is left out, as it is in what the SAE was trained on (see `sae_texts.token_vectors`).
    Contexts of a feature are of different texts, and no two have the same tokens up to the marked one. Held at a time
    is one batch of the residual stream, `sae.BATCH` rows of features, and `contexts` numbers a feature.

    Args:
        sae: of sae-lens, of the residual stream after block `layer` of `model`.
        texts: bare texts, such as those the SAE was trained on.
        features: those to describe, by their tokens alone where they never fire; None for all that fire on the texts.
        writer: a language model that words the descriptions; None for contexts and tokens as they are.

    Returns:
        A row a feature, ascending: feature (int64), description (one line), contexts (list of texts with the token of
        the peak between « and », most active first), tokens (list, see `promoted_tokens`), max_activation (over all
        tokens of the texts), firing_rate (share of those tokens it fires at).

    Raises UserError where no text has two tokens, a feature is not one of the SAE's, activations are not finite, no
    feature of the SAE fires, or the writer fails (see `ChatApi.answers`).
    """
    import pandas as pd

    wanted = np.arange(sae.cfg.d_sae) if features is None else np.array(sorted(set(features)), dtype=np.int64)
    if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < sae.cfg.d_sae:
        raise UserError(
            f"The SAE has the features 0 to {sae.cfg.d_sae - 1} and {wanted[0]} to {wanted[-1]} are asked for: use the "
            "SAE that they were found with."
        )
    bos = needs_bos(model.config)
    sequences = [ids for text in texts if len(ids := encode_text(tokenizer, text, bos=bos)) > 1]
    if not sequences:
        raise UserError("Descriptions are made from texts of two tokens or more, and there is none: give longer texts.")
    peaks = _find_peaks(sae, model, sequences, layer, wanted, contexts, progress)
    if features is None:
        if not peaks.fires.any():
            raise UserError("No feature fires on any of the texts: check that the SAE is of this model and layer.")
        peaks = peaks.only(np.flatnonzero(peaks.fires))
    table = pd.DataFrame(
        {
            "feature": peaks.features,
            "contexts": [
                [_context(tokenizer, sequences[text], place, first=int(bos)) for text, place in peaks.places(column)]
                for column in range(len(peaks.features))
            ],
            "tokens": promoted_tokens(sae, model, tokenizer, peaks.features, tokens),
            "max_activation": peaks.highest,
            "firing_rate": peaks.fires / sum(len(ids) - 1 for ids in sequences),
        }
    )
    made = [_description(*row) for row in zip(table["contexts"], table["tokens"], strict=True)]
    table.insert(1, "description", made if writer is None else _worded(writer, table, made))
    return table


def promoted_tokens(
    sae: Any, model: Any, tokenizer: PreTrainedTokenizerBase, features: NDArray[np.int64], n: int
) -> list[list[str]]:
    """The tokens that each feature's direction raises most, without white space around them, each once.

    The direction (its row of the decoder) is taken through the model's own final norm to the vocabulary. A norm's scale
    changes no order, but its weights do: they are what makes some dimensions of the residual stream count for more.
    What later blocks would make of the direction is left out. Special tokens are, too.
    """
    import torch

    norm, head = model.get_decoder().norm, model.get_output_embeddings()
    known = len(tokenizer)
    special = [token for token in tokenizer.all_special_ids if token < known]
    found: list[list[str]] = []
    for start in range(0, len(features), _DIRECTIONS):
        with torch.inference_mode():
            rows = torch.from_numpy(features[start : start + _DIRECTIONS]).to(sae.W_dec.device)
            directions = torch.nn.functional.normalize(sae.W_dec[rows].float()) * sae.cfg.d_in**0.5
            logits = head(norm(directions.to(model.device, model.dtype)))[:, :known].float()
            logits[:, special] = -torch.inf
            # More than asked for, since " owl" and "owl" are the same word here.
            best = logits.topk(min(3 * n, known - len(special))).indices.tolist()
        for row in best:
            texts = (str(tokenizer.decode([token])) for token in row)
            found.append(list(dict.fromkeys(text.strip() or text for text in texts))[:n])
    return found


# Fetching and reading


def _is_complete(folder: Path) -> bool:
    try:
        files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        return all(file_sha256(folder / name) == checksum for name, checksum in files.items())
    except (FileNotFoundError, ValueError):
        return False


def _http() -> requests.Session:
    """A session that tries again, ever more slowly, where a server cannot be reached or is busy."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    session = requests.Session()
    again = Retry(
        total=_RETRIES, backoff_factor=_BACKOFF, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
    )
    session.mount("http://", HTTPAdapter(max_retries=again))
    session.mount("https://", HTTPAdapter(max_retries=again))
    # The files are compressed already, and a range counts bytes as they lie in the bucket.
    session.headers["Accept-Encoding"] = "identity"
    return session


def _listing(http: requests.Session, bucket: str, prefix: str, where: str) -> list[_Exported]:
    """The batch files under the prefix, in their order, by S3's ListObjectsV2."""
    import requests

    found: list[_Exported] = []
    query = {"list-type": "2", "prefix": prefix}
    while True:
        try:
            response = http.get(f"{bucket}/", params=query, timeout=_TIMEOUT)
        except requests.RequestException as error:
            raise UserError(
                f"{where} cannot be listed ({type(error).__name__}): check the network, or give the folder of a copy "
                "(kind: local)."
            ) from error
        if not response.ok:
            raise UserError(f"{where} cannot be listed (HTTP {response.status_code}): try again later.")
        try:
            page = ElementTree.fromstring(response.content)
        except ElementTree.ParseError as error:
            raise UserError(f"{where} cannot be listed, {bucket} answers with no list: check the network.") from error
        for item in page.iterfind("{*}Contents"):
            entry = _Exported(
                str(item.findtext("{*}Key")),
                int(str(item.findtext("{*}Size"))),
                str(item.findtext("{*}ETag")).strip('"'),
            )
            if _BATCH_FILE.fullmatch(entry.name):
                found.append(entry)
        token = page.findtext("{*}NextContinuationToken")
        if page.findtext("{*}IsTruncated") != "true" or not token:
            return sorted(found, key=lambda entry: _batch_number(entry.name))
        query["continuation-token"] = token


def _download(http: requests.Session, bucket: str, entry: _Exported, file: Path, where: str) -> None:
    """Fetch one file unless it is there, going on from what a download that broke off left."""
    import requests
    from urllib3.exceptions import HTTPError

    if file.is_file() and _is_whole(file, entry):
        return
    # With the version in its name, so that no file is put together from two versions.
    part = file.with_name(f"{file.name}.{re.sub(r'[^0-9a-zA-Z-]', '', entry.etag)}.part")
    have = -1
    reason = ""
    while _size(part) < entry.size:
        # A server that breaks off is asked again for as long as it hands out something every time.
        if _size(part) <= have:
            raise UserError(
                f"{entry.name} of {where} could not be downloaded ({reason}): check the network and run again, it goes "
                f"on from byte {have}."
            )
        have = _size(part)
        try:
            with http.get(
                f"{bucket}/{quote(entry.key)}",
                headers={"Range": f"bytes={have}-"} if have else {},
                stream=True,
                timeout=_TIMEOUT,
            ) as response:
                if not response.ok:
                    reason = f"HTTP {response.status_code}"
                    continue
                # 200 where a range was asked for is the whole file again.
                with part.open("ab" if response.status_code == 206 else "wb") as out:
                    while piece := response.raw.read(_PIECE, decode_content=False):
                        out.write(piece)
        except (requests.RequestException, HTTPError) as error:
            reason = type(error).__name__
    if not _is_whole(part, entry):
        part.unlink()
        raise UserError(
            f"{entry.name} of {where} did not arrive as it lies in the bucket (another checksum): run again, it is "
            "fetched anew."
        )
    os.replace(part, file)


def _is_whole(file: Path, entry: _Exported) -> bool:
    if _size(file) != entry.size:
        return False
    if re.fullmatch(r"[0-9a-f]{32}", entry.etag):
        with file.open("rb") as content:
            return hashlib.file_digest(content, "md5").hexdigest() == entry.etag
    # Uploaded in several parts, whose tag is no checksum of the file; gzip brings one of its own.
    try:
        with gzip.open(file) as content:
            while content.read(_PIECE):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _batch_files(folder: Path) -> list[Path]:
    """In the order of their numbers; a folder that is not there has none."""
    found = folder.iterdir() if folder.is_dir() else []
    return sorted((file for file in found if _BATCH_FILE.fullmatch(file.name)), key=lambda f: _batch_number(f.name))


def _batch_number(name: str) -> int:
    matched = _BATCH_FILE.fullmatch(name)
    assert matched is not None
    return int(matched[1])


def _rows(file: Path, width: int, neuronpedia_id: str | None) -> Iterator[tuple[int, str, str, str]]:
    """Feature, description, method and date of every description in a file."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    feature, text = int(row["index"]), row["description"]
                except (ValueError, KeyError, TypeError, OverflowError) as error:
                    raise UserError(
                        f"Line {number} of {file} is no description with an index ({type(error).__name__}): fetch the "
                        "file anew."
                    ) from error
                found = f"{row.get('modelId')}/{row.get('layer')}"
                if neuronpedia_id is not None and found not in (neuronpedia_id, "None/None"):
                    raise UserError(
                        f"{file} holds descriptions of {found} and those of {neuronpedia_id} are wanted: correct the "
                        "folder or the id."
                    )
                if not 0 <= feature < width:
                    raise UserError(
                        f"{file} describes feature {feature} and the SAE has {width} features: these are descriptions "
                        "of another SAE, correct the folder or the id."
                    )
                if isinstance(text, str) and text.strip():
                    method = f"{row.get('typeName') or 'unknown'} {row.get('explanationModelName') or ''}".strip()
                    yield (
                        feature,
                        well_formed(" ".join(text.split())),
                        well_formed(method),
                        str(row.get("createdAt") or ""),
                    )
        except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
            raise UserError(
                f"{file} is damaged or only half there ({type(error).__name__}): delete it and fetch it anew."
            ) from error


# Making


class _Peaks:
    """The places where each of some features is most active so far, at most `count` a feature."""

    def __init__(self, features: NDArray[np.int64], count: int) -> None:
        shape = (count, len(features))
        self.features = features
        self.fires = np.zeros(len(features), dtype=np.int64)
        self.highest = np.zeros(len(features), dtype=np.float32)
        self._value = np.zeros(shape, dtype=np.float32)
        self._text = np.zeros(shape, dtype=np.int64)
        self._place = np.zeros(shape, dtype=np.int64)
        self._before = np.zeros(shape, dtype=np.int64)

    def offer(self, text: int, value: NDArray[np.float32], place: NDArray[np.int64], before: NDArray[np.int64]) -> None:
        """value, place: the highest activation of every feature in a text, and at which of its tokens. before: at each
        token of the text, a checksum of the few up to it."""
        self.highest = np.maximum(self.highest, value)
        before = before[place]
        known = ((self._before == before) & (self._value > 0)).any(axis=0)
        lowest = self._value.argmin(axis=0)
        columns = np.flatnonzero((value > self._value.min(axis=0)) & ~known)
        slots = lowest[columns]
        self._value[slots, columns] = value[columns]
        self._text[slots, columns] = text
        self._place[slots, columns] = place[columns]
        self._before[slots, columns] = before[columns]

    def places(self, column: int) -> list[tuple[int, int]]:
        """Text and place of the peaks of the feature in a column, the highest first."""
        value, text, place = self._value[:, column], self._text[:, column], self._place[:, column]
        order = [slot for slot in np.lexsort((place, text, -value)) if value[slot] > 0]
        return [(int(text[slot]), int(place[slot])) for slot in order]

    def only(self, columns: NDArray[np.int64]) -> _Peaks:
        """The peaks of the features in some columns."""
        kept = _Peaks(self.features[columns], 0)
        kept.fires, kept.highest = self.fires[columns], self.highest[columns]
        kept._value, kept._text = self._value[:, columns], self._text[:, columns]
        kept._place, kept._before = self._place[:, columns], self._before[:, columns]
        return kept


def _find_peaks(
    sae: Any,
    model: Any,
    sequences: Sequence[list[int]],
    layer: int,
    features: NDArray[np.int64],
    count: int,
    progress: Progress | None,
) -> _Peaks:
    import torch

    peaks = _Peaks(features, count)
    columns = torch.from_numpy(features).to(sae.device)
    done = 0
    for batch in batched_residuals(model, sequences, [layer], batch_tokens=BATCH_TOKENS):
        for row, states in zip(batch.rows, batch.states[layer], strict=True):
            ids = sequences[row]
            highest = torch.zeros(len(features), device=sae.device)
            places = torch.zeros(len(features), device=sae.device, dtype=torch.long)
            for start in range(1, len(ids), BATCH):
                active = _active(sae, states[start : min(start + BATCH, len(ids))])[:, columns]
                peaks.fires += (active > 0).sum(dim=0).cpu().numpy()
                value, place = active.max(dim=0)
                places = torch.where(value > highest, start + place, places)
                highest = torch.maximum(highest, value)
            before = np.array([zlib.crc32(repr(ids[max(0, i - _AROUND) : i + 1]).encode()) for i in range(len(ids))])
            peaks.offer(row, highest.cpu().numpy(), places.cpu().numpy(), before)
            done += 1
        if progress is not None:
            progress(f"features of {done}/{len(sequences)} texts after layer {layer}")
    return peaks


def _active(sae: Any, states: torch.Tensor) -> torch.Tensor:
    """The features at each position, shape (positions, width)."""
    import torch

    if not bool(torch.isfinite(states).all()):
        raise UserError(
            "The activations of a text are not finite, so features cannot be read off them: load the model in bfloat16 "
            "or float32."
        )
    with torch.inference_mode():
        return sae.encode(states.float().to(sae.device)).float()


def _context(tokenizer: PreTrainedTokenizerBase, ids: list[int], place: int, first: int) -> str:
    """The tokens around a place, that place's between « and »; `first` leaves BOS out."""
    start = max(first, place - _AROUND)

    def text(end: int) -> str:
        # From the start each time: by itself, a token can lose its leading blank or be half a letter.
        return str(tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False))

    before, to_peak, whole = text(place), text(place + 1), text(place + 1 + _AROUND)
    return f"{before}«{to_peak[len(before) :]}»{whole[len(to_peak) :]}"


def _description(contexts: list[str], tokens: list[str]) -> str:
    promotes = f"promotes {_quoted(tokens)}"
    return f"fires at the marked token of {_quoted(contexts)}; {promotes}" if contexts else promotes


def _quoted(texts: list[str]) -> str:
    """The first few in quotation marks, line breaks written as "\\n"."""
    return ", ".join(json.dumps(text.strip(" "), ensure_ascii=False) for text in texts[:_SHOWN])


def _worded(writer: ChatApi, table: pd.DataFrame, made: list[str]) -> list[str]:
    """Descriptions in the writer's words; where it has none, those that were made without it."""
    prompt = load_judge_prompt().describe
    questions = [
        prompt.format(contexts=json.dumps(contexts, ensure_ascii=False), tokens=json.dumps(tokens, ensure_ascii=False))
        for contexts, tokens in zip(table["contexts"], table["tokens"], strict=True)
    ]
    lines = (" ".join(answer.split()) for answer in writer.answers(questions, max_tokens=_LINE_TOKENS))
    return [line or own for line, own in zip(lines, made, strict=True)]
