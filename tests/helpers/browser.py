"""A real browser for tests that look at pages as a person does: Chromium, driven by Playwright.

Playwright's own browsers are not downloaded; the one installed here is used. Belongs here: starting it, noting what
goes wrong on a page, pictures of pages. Does not belong here: what is on any page.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, Response, expect, sync_playwright

SCREENSHOTS = "SUBLIMINAL_SCREENSHOTS"
"""The environment variable that names a folder for pictures of the pages that tests visit; unset: none are taken."""

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    # The sandbox needs rights that containers and root lack; the tests visit no page but the project's own.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
)


@dataclass(frozen=True)
class Visit:
    """A page of a browser, and all that went wrong on it so far: console errors, exceptions, failed requests."""

    page: Page
    problems: list[str] = field(default_factory=list)

    def picture(self, name: str) -> None:
        """Save what the window shows as `<name>.png`, where `SUBLIMINAL_SCREENSHOTS` names a folder."""
        folder = os.environ.get(SCREENSHOTS)
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")


@contextmanager
def visit(width: int = 1400, height: int = 900, seconds: float = 30) -> Iterator[Visit]:
    """A window of `width` x `height` pixels, closed afterwards, in which each wait lasts `seconds` at most.

    Skips the test where no browser is installed.
    """
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(_PROGRAMS)} is on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        page = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
        page.set_default_timeout(1000 * seconds)
        expect.set_options(timeout=1000 * seconds)
        visited = Visit(page)
        _note_problems(visited)
        try:
            yield visited
        finally:
            browser.close()


def _note_problems(visited: Visit) -> None:
    def failed(request: Request) -> None:
        # What was still loading when the page was left is no failure.
        if request.failure != "net::ERR_ABORTED":
            visited.problems.append(f"{request.method} {request.url}: {request.failure}")

    def answered(response: Response) -> None:
        if response.status >= 400:
            visited.problems.append(f"{response.request.method} {response.url}: {response.status}")

    page, problems = visited.page, visited.problems
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", failed)
    page.on("response", answered)
