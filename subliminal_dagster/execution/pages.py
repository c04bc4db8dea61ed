"""The pages of studies for a browser on this machine: what links on Dagster's asset pages lead to.

Dagster's own webserver shows no files of a store. This one shows the current version of each page, under an address
that stays the same when the page is rebuilt: http://127.0.0.1:3001/STUDY/report.

Belongs here: serving pages that are made. Does not belong here: making them (`assets.report`, `assets.comparison`).
"""

from __future__ import annotations

import os
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.records import DamagedArtifact, MissingArtifact
from subliminal_dagster.science.storage.store import ArtifactStore

PAGES = {"report": "report.html", "comparison": "comparison.html"}
"""The assets that hold a page, and its file."""

PORT = 3001


def page_url(study: str, asset: str) -> str:
    """Where a browser finds the page of an asset: below SUBLIMINAL_PAGES, for whoever serves pages elsewhere.

    Raises UserError where that is not an address.
    """
    base = os.environ.get("SUBLIMINAL_PAGES") or f"http://127.0.0.1:{PORT}"
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).netloc:
        raise UserError(f"SUBLIMINAL_PAGES is {base!r}: set it to an address such as http://127.0.0.1:{PORT}.")
    return f"{base.rstrip('/')}/{study}/{asset}"


def page_server(store: ArtifactStore, port: int = PORT) -> ThreadingHTTPServer:
    """A server of a store's pages on loopback; port 0 takes a free one.

    Raises UserError where the port is taken, or is none.
    """

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            study, _, asset = urlsplit(self.path).path.strip("/").partition("/")
            try:
                status, page = (200, _page(store, study, asset)) if study else (200, _list(store))
            except (UserError, MissingArtifact, DamagedArtifact) as error:
                status, page = 404, f"<!doctype html><p>{escape(str(error))}</p>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *_: object) -> None:
            """Nothing: whoever looks at a page sees it."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Pages)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else "ports are 0 to 65535"
        raise UserError(f"Port {port} of this machine cannot be used ({why}): name another --port.") from None


def _page(store: ArtifactStore, study: str, asset: str) -> bytes:
    if asset not in PAGES:
        raise UserError(f"There is no page {asset!r} of {study}: ask for /{study}/report.")
    return (store.read(study, asset).path / PAGES[asset]).read_bytes()


def _list(store: ArtifactStore) -> bytes:
    there = [(study, asset) for study in store.studies() for asset in PAGES if store.exists(study, asset)]
    links = (f'<li><a href="/{study}/{asset}">{study}: {asset}</a>' for study, asset in there)
    return f"<!doctype html><title>subliminal-dagster</title><ul>{''.join(links)}</ul>".encode()
