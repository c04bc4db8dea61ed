"""Reports for a browser: the current version, whatever was made since the link was followed last."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError

import pytest

from subliminal_dagster.execution.pages import page_server, page_url
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.store import ArtifactStore


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    with page_server(ArtifactStore(tmp_path), 0) as serving:
        thread = Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def write(folder: Path, text: str) -> None:
    with ArtifactStore(folder).write("tiny", "report", None) as draft:
        (draft.path / "report.html").write_text(text, encoding="utf-8")


def test_the_link_leads_to_the_report_as_it_is_now(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBLIMINAL_PAGES", f"http://127.0.0.1:{server.server_port}/")
    link = page_url("tiny", "report")
    for text in ("<p>für Eulen", "<p>made again"):
        write(tmp_path, text)
        with urllib.request.urlopen(link) as answer:
            assert answer.read().decode() == text
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    with urllib.request.urlopen(page_url("", "")) as answer:
        assert 'href="/tiny/report"' in answer.read().decode()
    for study, asset in (("another", "report"), ("tiny", "manifest"), ("..", "report")):
        with pytest.raises(HTTPError, match="404"):
            urllib.request.urlopen(page_url(study, asset))


def test_what_is_in_the_way_is_one_sentence(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=f"Port {server.server_port} .* name another --port"):
        page_server(ArtifactStore(tmp_path), server.server_port)
    with pytest.raises(UserError, match=r"Port 99999 .* .ports are 0 to 65535.: name another"):
        page_server(ArtifactStore(tmp_path), 99999)
    monkeypatch.setenv("SUBLIMINAL_PAGES", "lab.org")
    with pytest.raises(UserError, match=r"SUBLIMINAL_PAGES is 'lab\.org': set it to an address"):
        page_url("tiny", "report")
