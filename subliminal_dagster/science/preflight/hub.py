"""The Hugging Face hub: whether it will give a study what it is to download, and what time it has there.

Every question is the one that the download begins with, so a licence that was not accepted is found before anything
else is. In offline mode nothing is asked and the hub's cache on this machine is looked at.

Belongs here: asking. Does not belong here: downloading (`models.base_model`), the words for a refusal (`models.hub`).

Part of no version: what a user is told is no result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.base_model import cached_files
from subliminal_dagster.science.models.hub import hub_failures, hub_refusal, hub_token
from subliminal_dagster.science.preflight.finding import Finding, in_gb
from subliminal_dagster.science.settings.base_model import SMALL_FILES, WEIGHTS, HubSource

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Repository:
    """What a study takes from the hub: a `file` of `repo` at `revision`, and others. `check` is what its finding is
    called; `named_in` says where the study names it."""

    check: str
    repo: str
    revision: str
    file: str
    kind: Literal["model", "dataset"]
    named_in: str


def model_repository(source: HubSource) -> Repository:
    """A base model on the hub."""
    return Repository("base model", source.repo, source.revision, "config.json", "model", "`repo` of the base model")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def check_repository(wanted: Repository) -> Finding:
    """Ask the hub for the head of the file, with the token that the download will use."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(wanted.repo, wanted.file, repo_type=wanted.kind, revision=wanted.revision)
    try:
        get_hf_file_metadata(url, token=hub_token(), timeout=TIMEOUT_SECONDS)
    except hub_failures() as error:
        return Finding(wanted.check, "failed", _asked(hub_refusal(error, wanted.repo, wanted.revision, wanted.named_in)))
    whose = "with HF_TOKEN" if hub_token() else "without a token"
    return Finding(wanted.check, "ok", f"{wanted.repo} at {wanted.revision[:8]} can be downloaded {whose}")


def check_cached_model(source: HubSource) -> Finding:
    """In offline mode: whether the hub's cache on this machine holds all files of the model."""
    check = model_repository(source).check
    try:
        small, weights = cached_files(source, SMALL_FILES), cached_files(source, WEIGHTS)
    except UserError as error:
        return Finding(check, "failed", str(error))
    if small is None or weights is None:
        return Finding(
            check,
            "failed",
            f"HF_HUB_OFFLINE is set and this machine's cache of the hub holds no {source.repo} at {source.revision}: "
            f"fill it where there is a network (hf download {source.repo} --revision {source.revision}), or unset it.",
        )
    lacking = sorted(_named_in_index(small) - {file.name for file in weights})
    if lacking:
        return Finding(
            check,
            "failed",
            f"HF_HUB_OFFLINE is set and this machine's cache of the hub lacks {', '.join(lacking)} of {source.repo}: "
            f"fetch it where there is a network (hf download {source.repo} --revision {source.revision}), or unset it.",
        )
    return Finding(check, "ok", f"{source.repo} at {source.revision[:8]} is in this machine's cache of the hub")


def download_size(source: HubSource) -> int | None:
    """The bytes of the files that make the model, as the hub tells them; None where it cannot be asked."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(
            source.repo,
            revision=source.revision,
            files_metadata=True,
            token=hub_token(),
            timeout=TIMEOUT_SECONDS,
        )
    except hub_failures():
        return None
    files = [
        file for file in info.siblings or [] if any(fnmatch(file.rfilename, p) for p in (*SMALL_FILES, *WEIGHTS))
    ]
    return sum(file.size or 0 for file in files if "/" not in file.rfilename) or None


def ahead_of_hub() -> timedelta | None:
    """How far this machine's clock is ahead of the hub's, to a second; None where the hub does not say."""
    from huggingface_hub import constants, get_session

    try:
        answer = get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
        return datetime.now(UTC) - parsedate_to_datetime(answer.headers["Date"])
    except (*hub_failures(), KeyError, ValueError):
        return None


def _asked(error: UserError) -> str:
    """The sentence of a download that failed, for one that was not begun."""
    return str(error).replace("; what has arrived is kept", "")


def _named_in_index(files: list[Path]) -> set[str]:
    index = next((file for file in files if file.name == "model.safetensors.index.json"), None)
    return set() if index is None else set(json.loads(index.read_bytes())["weight_map"].values())
