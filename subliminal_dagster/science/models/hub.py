"""The Hugging Face hub: whose token is used, and what a refusal of it means to a user.

Belongs here: what every download from the hub shares. Does not belong here: downloading (`base_model`), asking the hub
before there is anything to download (`preflight`).

Part of no version: what a user is told is no result.
"""

from __future__ import annotations

import os
from typing import Literal

from subliminal_dagster.science.errors import UserError


def hub_token() -> str | Literal[False]:
    """HF_TOKEN; False, not None, where it is not set: a login stored on the machine must not decide what a study can
    read."""
    return os.environ.get("HF_TOKEN") or False


def hub_failures() -> tuple[type[Exception], ...]:
    """What the hub's client raises where the hub refuses, or cannot be reached."""
    from huggingface_hub import errors

    return (
        errors.HTTPError,  # the base of the hub's refusals and of the transport errors, whichever library sends
        errors.LocalEntryNotFoundError,
        errors.XetDownloadError,
        ConnectionError,  # offline mode among them
    )


def hub_refusal(
    error: Exception, repo: str, revision: str, named_in: str = "`repo` of the base model", begun: bool = True
) -> UserError:
    """What one of `hub_failures` means for `repo` at `revision`, in one sentence without the token or the server's own
    text. `named_in`: where the study says which repository it is; `begun`: whether it is a download that failed, and
    not a question before it."""
    from huggingface_hub import errors

    token, where = hub_token(), f"{repo} on the Hugging Face hub"
    # snapshot_download hides refusals and outages alike behind a missing local file; the cause tells them apart.
    causes = (error, error.__cause__)
    status = next((c.response.status_code for c in causes if isinstance(c, errors.HfHubHTTPError)), None)
    if isinstance(error, errors.GatedRepoError):
        account = "with the account of HF_TOKEN" if token else "and set HF_TOKEN to a token of that account"
        return UserError(f"{where} is gated: accept its licence on the model's page, {account}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"There is no {where}, or it is private: check {named_in}, and for a private one set HF_TOKEN to a token "
            "that may read it."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{where} has no revision {revision}: take the commit from the history of its files.")
    if status in (401, 403):
        remedy = "HF_TOKEN may not read it" if token else "it wants a token"
        return UserError(
            f"{where} refused the download (HTTP {status}; {remedy}): set HF_TOKEN to a valid token with read access "
            "to it."
        )
    if any(isinstance(c, errors.OfflineModeIsEnabled) for c in causes):
        return UserError(
            f"{where} at {revision} is not in this machine's cache and cannot be downloaded in offline mode: fill the "
            "cache where there is a network (hf download), or unset HF_HUB_OFFLINE."
        )
    reason = f"HTTP {status}" if status else type(error.__cause__ or error).__name__
    if begun:
        return UserError(
            f"{where} could not be downloaded ({reason}): check the network and try again; what has arrived is kept."
        )
    return UserError(f"{where} could not be reached ({reason}): check the network, and that the hub is up.")
