"""The Hugging Face hub: whether it will give a study what it is to download, and what time it has there.

In offline mode nothing is asked, and the hub's cache on this machine is looked at.

Belongs here: asking. Does not belong here: downloading (`models.base_model`), the words for a refusal (`science.hub`).

Part of no version: messages to users are not results.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.hub import hub_failures, hub_refusal, hub_token
from subliminal_dagster.science.models.base_model import cached_files
from subliminal_dagster.science.preflight.finding import Finding
from subliminal_dagster.science.settings.base_model import SMALL_FILES, WEIGHTS, HubSource
from subliminal_dagster.science.settings.capability import HubExam
from subliminal_dagster.science.settings.features import PublishedSae
from subliminal_dagster.science.settings.teacher import ExistingTeacher

MODEL = "base model"
"""What the finding on a base model is called."""

GIVES = "the hub gives"
"""What a finding begins with where the hub was asked and agreed."""

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Repository:
    """What a study takes from the hub. `check` is what its finding is called, `named_in` where the study names it;
    `revision` None stands for the newest."""

    check: str
    repo: str
    revision: str | None
    kind: Literal["model", "dataset"]
    named_in: str


def model_repository(source: HubSource) -> Repository:
    """A base model on the hub."""
    return Repository(MODEL, source.repo, source.revision, "model", "`repo` of the base model")


def exam_repository(source: HubExam) -> Repository:
    """An exam on the hub."""
    return Repository("exam", source.repo, source.revision, "dataset", "`repo` of the exam")


def teacher_repository(existing: ExistingTeacher, target: str) -> Repository:
    """The teacher of a target, where it exists already and lies on the hub."""
    revision = existing.revisions[target]
    return Repository(
        f"teacher of {target}", existing.repository(target), revision, "model", "`repo` of `teacher.existing`"
    )


def sae_repository(published: PublishedSae) -> Repository:
    """Where sae-lens' list has a published autoencoder, of which it pins no commit; raises UserError where the list has
    no such release."""
    # Read and not asked for: importing sae-lens takes ten seconds.
    spec = find_spec("sae_lens")
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        text = Path(folder, "pretrained_saes.yaml").read_text(encoding="utf-8")
        release = re.search(rf"^{re.escape(published.release)}:\n((?:[ #].*\n|\n)+)", text, re.MULTILINE)
        repo = re.search(r"^  repo_id: *(\S+)$", release[1], re.MULTILINE) if release else None
        if repo:
            return Repository("autoencoder", repo[1], None, "model", "`release` of the autoencoder")
    raise UserError(f"sae-lens lists no release {published.release!r} of SAEs: correct `release`.")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def check_repository(wanted: Repository) -> tuple[Finding, int]:
    """Ask the hub whether it is there and whether the token that the download will use may read it; also the bytes of
    the files in it that make a model, 0 where the hub does not say."""
    from huggingface_hub import HfApi

    api, token, size = HfApi(), hub_token(), 0
    try:
        info = api.repo_info(
            wanted.repo,
            revision=wanted.revision,
            repo_type=wanted.kind,
            files_metadata=True,
            token=token,
            timeout=TIMEOUT_SECONDS,
        )
        # What a gated repository holds, anyone is told.
        size = _model_size(info)
        api.auth_check(wanted.repo, repo_type=wanted.kind, token=token)
    except hub_failures() as error:
        refusal = hub_refusal(error, wanted.repo, wanted.revision or "main", wanted.named_in, begun=False)
        return Finding(wanted.check, "failed", str(refusal)), size
    whose = "with HF_TOKEN" if token else "without a token"
    at = f" at {wanted.revision[:8]}" if wanted.revision else ""
    return Finding(wanted.check, "ok", f"{GIVES} {wanted.repo}{at} {whose}"), size


def check_cached(wanted: Repository) -> Finding:
    """In offline mode: whether the hub's cache on this machine holds anything of it at that revision."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    kept = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=wanted.repo, repo_type=wanted.kind) / "snapshots"
    if (kept / wanted.revision if wanted.revision else kept).is_dir():
        return Finding(wanted.check, "ok", f"{wanted.repo} is in this machine's cache of the hub")
    options = " --repo-type dataset" if wanted.kind == "dataset" else ""
    options += f" --revision {wanted.revision}" if wanted.revision else ""
    return Finding(
        wanted.check,
        "failed",
        f"HF_HUB_OFFLINE is set and this machine's cache of the hub holds no {wanted.repo}: fill it where there is a "
        f"network (hf download {wanted.repo}{options}), or unset it.",
    )


def check_cached_model(source: HubSource) -> Finding:
    """In offline mode: whether the hub's cache on this machine holds all files of the model."""
    try:
        small, weights = cached_files(source, SMALL_FILES), cached_files(source, WEIGHTS)
    except UserError as error:
        return Finding(MODEL, "failed", str(error))
    if small is None or weights is None:
        return Finding(
            MODEL,
            "failed",
            f"HF_HUB_OFFLINE is set and this machine's cache of the hub holds no {source.repo} at {source.revision}: "
            f"fill it where there is a network (hf download {source.repo} --revision {source.revision}), or unset it.",
        )
    lacking = sorted(_named_in_index(small) - {file.name for file in weights})
    if lacking:
        return Finding(
            MODEL,
            "failed",
            f"HF_HUB_OFFLINE is set and this machine's cache of the hub lacks {', '.join(lacking)} of {source.repo}: "
            f"fetch it where there is a network (hf download {source.repo} --revision {source.revision}), or unset it.",
        )
    return Finding(MODEL, "ok", f"{source.repo} at {source.revision[:8]} is in this machine's cache of the hub")


def ahead_of_hub() -> timedelta | None:
    """How far this machine's clock is ahead of the hub's, to a second; None where the hub does not say."""
    from huggingface_hub import constants, get_session

    try:
        date = get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS).headers.get("Date")
    except hub_failures():
        return None
    # Whatever stands between this machine and the hub may write its own.
    with suppress(ValueError):
        return datetime.now(UTC) - parsedate_to_datetime(date or "")
    return None


def _model_size(info: Any) -> int:
    patterns = (*SMALL_FILES, *WEIGHTS)
    taken = [file for file in info.siblings or [] if any(fnmatch(file.rfilename, pattern) for pattern in patterns)]
    return sum(file.size or 0 for file in taken if "/" not in file.rfilename)


def _named_in_index(files: list[Path]) -> set[str]:
    index = next((file for file in files if file.name == "model.safetensors.index.json"), None)
    return set() if index is None else set(json.loads(index.read_bytes())["weight_map"].values())
