"""A stand-in for the Hugging Face hub on this machine, which refuses in the hub's own words.

Belongs here: the server that several test files ask. Does not belong here: tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

import pytest
from local_server import serving

HEAD = 40 * "c"
"""The newest commit of every repository."""

GOOD_TOKEN, STRANGERS_TOKEN = "hf_good", "hf_stranger"
"""The first belongs to an account that accepted the licence, the second to one that did not."""


@dataclass
class Hub:
    """`gated` repositories want GOOD_TOKEN. `status`: what the hub answers instead of anything else (0: as it should).
    `date`: what its answers say the time is (None: as it is). `asked`: the paths that were asked for."""

    repos: dict[str, set[str]]
    gated: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    status: int = 0
    date: str | None = None
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def refusal(self, path: str, authorization: str | None) -> tuple[int, dict[str, str]] | None:
        """The status and the headers that say why, as https://huggingface.co sends them; None where it answers."""
        if self.status:
            return self.status, {}
        token = (authorization or "").removeprefix("Bearer ")
        if token not in ("", GOOD_TOKEN, STRANGERS_TOKEN):
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}
        if not path.startswith("/api/"):
            return None
        _, _, _, owner, name, *rest = path.split("?")[0].split("/")
        repo = f"{owner}/{name}"
        if repo not in self.repos:
            return 404 if token else 401, {"X-Error-Code": "RepoNotFound"}
        if rest[0] == "revision" and rest[1] not in self.repos[repo]:
            return 404, {"X-Error-Code": "RevisionNotFound"}
        if rest == ["auth-check"] and repo in self.gated and token != GOOD_TOKEN:
            return 403 if token else 401, {"X-Error-Code": "GatedRepo"}
        return None


@contextmanager
def hub_server(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """`hub` on a free port of the loopback interface, which this process takes for the hub while the block lasts: the
    hub's library has read HF_ENDPOINT and HF_HUB_OFFLINE already, when it was imported."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            hub.asked.append(self.path)
            refused = hub.refusal(self.path, self.headers["Authorization"])
            status, headers = refused or (200, {})
            files = [{"rfilename": name, "size": size} for name, size in hub.sizes.items()]
            body = json.dumps({} if refused else {"id": "a/b", "sha": HEAD, "siblings": files}).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = answer  # noqa: N815

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(timestamp) if hub.date is None else hub.date

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as hub.url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield hub
