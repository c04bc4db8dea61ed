"""Which wording a study's prompts and questions have: this project's own, the published one, or a user's.

Belongs here: what a study may say of it, where each lies, and what of it counts in versions. Does not belong here:
reading the lists (`preferences.prompt_lists`) and importing the published ones (`preferences.published_prompts`).
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.base import IS_PATH, beside_study
from subliminal_dagster.science.settings.preferences import OWN_LISTS
from subliminal_dagster.science.settings.yaml_text import load_yaml
from subliminal_dagster.science.storage.content_hash import file_content_hash

PUBLISHED = "published"
"""What a study says to be written with the published lists, once they are imported."""

PUBLISHED_RECORD = OWN_LISTS.with_name("published_prompts.yaml")
"""How many texts each published list has, and their hashes; the texts are not this project's to give away."""


def _published_or_path(prompts: str, info: ValidationInfo) -> str:
    return prompts if prompts == PUBLISHED else beside_study(prompts, info)


Prompts = Annotated[str, AfterValidator(_published_or_path), IS_PATH]
"""`published`, or the path of a file with a user's own lists."""


def imported_file() -> Path:
    """Where the published lists lie once they are imported: in DAGSTER_HOME, which commands, daemons and the processes
    of steps share; where it is not set, in the working folder."""
    return Path(os.environ.get("DAGSTER_HOME") or Path.cwd()) / "published_prompts.json"


@cache
def published_record() -> dict[str, Any]:
    """`all`: the content hash of a file that holds the published lists and nothing else. `lists`: of each by its name
    `texts`, their number, and `sha256`, of the list as JSON (see `content_hash.json_hash`)."""
    record: dict[str, Any] = load_yaml(PUBLISHED_RECORD.read_text(encoding="utf-8"))
    return record


def prompts_content(prompts: str | None) -> dict[str, str]:
    """What counts in the place of a study's `prompts`: the content of the files. Of the files a user gives also that of
    this project's own, from which what they lack is taken.

    The published lists count as themselves whether or not they are on this machine, so that what was made with them is
    fresh on any. Raises UserError where a file cannot be read.
    """
    found = {"own": file_content_hash(OWN_LISTS)}
    if prompts is None:
        return found
    file = imported_file() if prompts == PUBLISHED else Path(prompts)
    if prompts == PUBLISHED and not file.exists():
        return found | {"given": published_record()["all"]}
    try:
        return found | {"given": file_content_hash(file)}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = "import them anew" if prompts == PUBLISHED else "correct `prompts` of the study"
        raise UserError(f"The prompt lists {file} cannot be read ({reason}): {remedy}.") from None
