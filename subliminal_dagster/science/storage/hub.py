"""Archives of studies on the Hugging Face hub, in data set repositories.

Belongs here: sending one there, fetching one, and saying what hinders that. Does not belong here: what is in an archive
(`archive`).

Part of no version: where an artifact travels does not change it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.hub import Cause, hub_token

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(r"hf://(?:datasets/)?(?P<repo>[^/]+/[^/]+)/(?P<file>[^/]+(/[^/]+)*)")


def upload(file: Path, repo: str) -> str:
    """Send a file to a data set repository that exists ("owner/name"), with the token in HF_TOKEN.

    Returns the address by which `download` finds it. Raises UserError.
    """
    token = check_upload(repo)
    from huggingface_hub import HfApi

    with _explaining(f"{file} was not uploaded to the data set {repo} on the Hugging Face hub", "write"):
        HfApi().upload_file(
            path_or_fileobj=file,
            path_in_repo=file.name,
            repo_id=repo,
            repo_type="dataset",
            token=token,
            commit_message=f"Add {file.name}",
        )
    return f"hf://datasets/{repo}/{file.name}"


def check_upload(repo: str) -> str:
    """What hinders an upload and can be known before: the name of the repository, the token, which is returned.

    Raises UserError.
    """
    if not _REPO.fullmatch(repo):
        raise UserError(f"{repo!r} is not a data set repository on the Hugging Face hub: write owner/name.")
    token = hub_token()
    if not token:
        raise UserError(f"Nothing can be sent to {repo}: set HF_TOKEN to a token that may write there.")
    return token


def download(address: str) -> Path:
    """Fetch `hf://datasets/<owner>/<name>/<file>` into the hub's own cache; its path there. Raises UserError."""
    match = _FILE.fullmatch(address)
    if match is None or not _REPO.fullmatch(match["repo"]):
        raise UserError(f"{address!r} is not a file on the Hugging Face hub: write hf://datasets/owner/name/file.")
    from huggingface_hub import hf_hub_download

    with _explaining(f"{address} was not downloaded", "read"):
        return Path(hf_hub_download(match["repo"], match["file"], repo_type="dataset", token=hub_token()))


@contextmanager
def _explaining(outcome: str, right: str) -> Iterator[None]:
    """Turn what the hub or the network has against it into a UserError. `right`: what a token must be allowed to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{outcome}: it is gated; accept its terms with the account of HF_TOKEN.") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{outcome}: there is no such data set, or HF_TOKEN may not {right} it; create it on the hub first, or "
            "correct the name or the token."
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(f"{outcome}: the data set holds no such file; correct the name.") from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        cause = Cause.of(error)
        if cause.status in (401, 403):
            raise UserError(
                f"{outcome} ({cause.reason}): set HF_TOKEN to a valid token that may {right} there."
            ) from error
        if cause.offline:
            raise UserError(f"{outcome}: HF_HUB_OFFLINE is set; unset it where there is a network.") from error
        raise UserError(f"{outcome} ({cause.reason}): check the network and try again.") from error
