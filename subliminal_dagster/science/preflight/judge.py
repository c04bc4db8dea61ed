"""The model behind an endpoint that judges or writes descriptions: whether it answers.

Belongs here: one question to it. Does not belong here: what is asked of it later (`descriptions`).

Part of no version: messages to users are not results.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from subliminal_dagster.science.descriptions.chat_api import ApiSettings, ChatApi, Endpoint
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preflight.finding import Finding

CHECK = "judge"

_QUESTION = "Reply with the word yes."
_ANSWER_TOKENS = 8
_KEPT = "; the 0 answers that came before are kept"


def check_judge(model: str | None, reasoning_tokens: int = 0, timeout: float = 60) -> Finding:
    """Ask the endpoint of the environment one short question: `model`, or the one that the environment names, which may
    write `reasoning_tokens` before its answer; `timeout` in seconds."""
    settings = ApiSettings(retries=1, timeout=timeout, reasoning_tokens=reasoning_tokens)
    try:
        endpoint = Endpoint.from_environment(model)
        with TemporaryDirectory() as folder:
            ChatApi(endpoint, Path(folder) / "answers.sqlite", settings).answers([_QUESTION], max_tokens=_ANSWER_TOKENS)
    except UserError as error:
        # True and of no use here, where one question was asked.
        return Finding(CHECK, "failed", str(error).replace(_KEPT, ""))
    return Finding(CHECK, "ok", f"{endpoint.model} at {endpoint.shown_url} answers")
