"""The Hugging Face hub: whose token is used, and what a refusal of it means to a user.

Belongs here: what everything that talks to the hub shares. Does not belong here: downloading (`models.base_model`,
`storage.hub`, `capability.exam`), asking before there is anything to download (`preflight`).

Part of no version: messages to users are not results.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Cause:
    """What lies behind an error of the hub's client: the `status` of HTTP (None: there was no answer), whether the
    client is `offline` by HF_HUB_OFFLINE, and a `reason` for people, "HTTP 503" or "ConnectError"."""

    status: int | None
    offline: bool
    reason: str

    @classmethod
    def of(cls, error: Exception) -> Cause:
        """Downloads hide refusals and outages alike behind a missing local file; the error's own cause tells them
        apart."""
        from huggingface_hub import errors

        causes = (error, error.__cause__)
        status = next((c.response.status_code for c in causes if isinstance(c, errors.HfHubHTTPError)), None)
        offline = any(isinstance(c, errors.OfflineModeIsEnabled) for c in causes)
        return cls(status, offline, f"HTTP {status}" if status else type(error.__cause__ or error).__name__)


def hub_refusal(error: Exception, repo: str, revision: str, named_in: str, begun: bool = True) -> UserError:
    """What one of `hub_failures` means for `repo` at `revision`, in one sentence without the token or the server's own
    text. `named_in`: where the study says which repository it is; `begun`: whether it is a download that failed, and
    not a question before it."""
    from huggingface_hub import errors

    token, where, cause = hub_token(), f"{repo} on the Hugging Face hub", Cause.of(error)
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
    if cause.status in (401, 403):
        remedy = "HF_TOKEN may not read it" if token else "it wants a token"
        return UserError(
            f"{where} refused the download ({cause.reason}; {remedy}): set HF_TOKEN to a valid token with read access "
            "to it."
        )
    if cause.offline:
        return UserError(
            f"{where} at {revision} is not in this machine's cache and cannot be downloaded in offline mode: fill the "
            "cache where there is a network (hf download), or unset HF_HUB_OFFLINE."
        )
    if begun:
        return UserError(
            f"{where} could not be downloaded ({cause.reason}): check the network and try again; what has arrived is "
            "kept."
        )
    return UserError(f"{where} could not be reached ({cause.reason}): check the network, and that the hub is up.")
