"""The wording that a study asks with: whether it is on this machine.

Belongs here: looking. Does not belong here: importing and reading the lists (`preferences`).

Part of no version: messages to users are not results.
"""

from __future__ import annotations

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.preferences.published_prompts import wording
from subliminal_dagster.science.preflight.finding import Finding
from subliminal_dagster.science.settings.study import Study

CHECK = "prompts"


def check_prompts(study: Study) -> Finding:
    """Whose wording it is, or why it cannot be read."""
    try:
        load_prompt_lists(study.prompts, study.category)
    except UserError as error:
        return Finding(CHECK, "failed", str(error))
    return Finding(CHECK, "ok", wording(study))
