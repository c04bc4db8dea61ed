"""Descriptions that Neuronpedia publishes.

Belongs here: listing, downloading and reading them. Does not belong here: those made here (`descriptions`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.settings.descriptions import LocalDescriptions, NeuronpediaDescriptions
from subliminal_dagster.science.well_formed import well_formed
from subliminal_dagster.science.wheels import file_sha256

if TYPE_CHECKING:
    import pandas as pd
    import requests

    from subliminal_dagster.science.settings.features import PublishedSae

BUCKET = "https://neuronpedia-datasets.s3.us-east-1.amazonaws.com"
_BATCH_FILE = re.compile(r"batch-(\d+)\.jsonl(\.gz)?")
_MANIFEST = "manifest.json"
_TIMEOUT = 60
_RETRIES = 5
_BACKOFF = 0.5
_PIECE = 1 << 18


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
        raise UserError(
            f"The files in {folder} hold no description at all: download them again, or choose another source."
        )
    table = table.astype({"feature": "int64"})
    methods = table.drop_duplicates(["feature", "method"])["method"].value_counts()
    table["explanations"] = table.groupby("feature")["feature"].transform("size")
    table["described"] = table["method"].map(methods)
    chosen = table.sort_values(
        ["feature", "described", "method", "created", "description"], ascending=[True, False, True, True, True]
    ).drop_duplicates("feature", ignore_index=True)
    return chosen[["feature", "description", "explanations", "method"]]


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
            raise UserError(
                f"{where} cannot be listed ({bucket} did not answer with a list): check the network."
            ) from error
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
                f"{entry.name} of {where} could not be downloaded ({reason}): check the network and run again, which "
                f"goes on from byte {have}."
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
            f"{entry.name} of {where} arrived damaged (its checksum is not the bucket's): run again, which "
            "downloads it again."
        )
    os.replace(part, file)


def _is_whole(file: Path, entry: _Exported) -> bool:
    if _size(file) != entry.size:
        return False
    if re.fullmatch(r"[0-9a-f]{32}", entry.etag):
        with file.open("rb") as content:
            return hashlib.file_digest(content, "md5").hexdigest() == entry.etag
    # Uploaded in several parts, whose tag is not a checksum of the file; gzip brings one of its own.
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
                        f"Line {number} of {file} is not a description with an index ({type(error).__name__}): fetch "
                        "the file again."
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
                f"{file} is damaged or only half there ({type(error).__name__}): delete it and download it again."
            ) from error
