"""Archives on a hub of the test's own, which speaks as much of its protocol as a small file takes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from local_server import serving
from stored import assert_one_sentence

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.hub import check_upload, download, upload

COMMIT = "1" * 40


@dataclass
class Hub:
    """One data set, `me/results`, its files, and who asked for what."""

    files: dict[str, bytes] = field(default_factory=dict)
    tokens: list[str | None] = field(default_factory=list)
    status: int = 200


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.tokens.append(self.headers["Authorization"])
            if state.status != 200:
                self.answer(state.status, b"{}")
            elif not self.path.startswith("/api/datasets/me/results/"):
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif self.path.endswith("/preupload/main"):
                asked = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
                self.answer(200, json.dumps({"files": modes}).encode())
            else:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        state.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                url = f"http://{self.headers['Host']}/datasets/me/results/commit/{COMMIT}"
                self.answer(200, json.dumps({"commitUrl": url, "commitOid": COMMIT}).encode())

        def do_GET(self) -> None:
            state.tokens.append(self.headers["Authorization"])
            name = self.path.removeprefix("/datasets/me/results/resolve/main/")
            if state.status != 200:
                self.answer(state.status, b"")
            elif name == self.path:
                self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif name not in state.files:
                self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            else:
                etag = hashlib.sha256(state.files[name]).hexdigest()
                self.answer(200, state.files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        do_HEAD = do_GET  # noqa: N815

        def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    files = "/{repo_id}/resolve/{revision}/{filename}"
    with serving(Handler) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + files)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield state


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.zip"
    file.write_bytes(b"content")
    return file


def test_there_and_back(hub: Hub, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = upload(archive, "me/results")
    assert (address, hub.files) == ("hf://datasets/me/results/tiny.zip", {"tiny.zip": b"content"})
    assert download(address).read_bytes() == b"content"
    assert set(hub.tokens) == {"Bearer hf_secret"}
    # Public ones take no token.
    monkeypatch.delenv("HF_TOKEN")
    hub.tokens.clear()
    hub.files["other.zip"] = b"other content"
    assert download("hf://me/results/other.zip").read_bytes() == b"other content"
    assert set(hub.tokens) == {None}


def test_what_the_hub_has_against_it_is_one_sentence(hub: Hub, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sentence(repo: str = "me/results", file: str | None = None) -> str:
        with pytest.raises(UserError) as error:
            download(f"hf://{repo}/{file}") if file else upload(archive, repo)
        assert_one_sentence(error)
        return str(error.value)

    assert "there is no such data set" in sentence("me/nothing")
    assert "there is no such data set" in sentence("me/nothing", "tiny.zip")
    assert "the data set holds no such file" in sentence(file="none.zip")
    hub.status = 403
    assert "(HTTP 403): set HF_TOKEN to a valid token that may write there" in sentence()
    assert "set HF_TOKEN to a valid token that may read there" in sentence(file="tiny.zip")
    hub.status = 400
    assert "(HTTP 400)" in sentence()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in sentence()
    assert "HF_HUB_OFFLINE is set" in sentence(file="tiny.zip")
    assert hub.files == {}


def test_what_can_be_known_before_is_said_before(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for repo, problem in (("nobody", "write owner/name"), ("me/../x", "write owner/name"), ("me/x", "set HF_TOKEN")):
        with pytest.raises(UserError, match=problem):
            check_upload(repo)
        with pytest.raises(UserError, match=problem):
            upload(archive, repo)
    for address in ("hf://me/results", "hf:///a/b", "hf://me/results/"):
        with pytest.raises(UserError, match="write hf://datasets/owner/name/file"):
            download(address)
