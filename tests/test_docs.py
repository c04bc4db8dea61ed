"""The pages for readers: all are in the site's list, every link leads somewhere, examples and citation are true.

Whether the site can be built is asked by `mkdocs build --strict` (.ci/run).
"""

import doctest
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
DOCS, DEPLOY = PROJECT / "docs", PROJECT / "deploy"
IN_SITE = [*DOCS.rglob("*.md"), *DEPLOY.glob("*.md")]
PAGES = [*IN_SITE, PROJECT / "README.md", PROJECT / "CONTRIBUTING.md"]


def prose(page: Path) -> str:
    """A page without its code, where brackets are no links and # is no heading."""
    return re.sub(r"^( *)```.*?^\1```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures but those on the web."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"https?:|mailto:", target)]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)", prose(page), flags=re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def dead(page: Path) -> list[str]:
    """The links of a page that lead to no file, or to no heading in it."""
    found = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def listed(nav: Any) -> Iterator[str]:
    for entry in nav if isinstance(nav, list) else [nav]:
        if isinstance(entry, dict):
            for inner in entry.values():
                yield from listed(inner)
        else:
            yield entry


def test_every_page_is_in_the_sites_list_once() -> None:
    nav = yaml.safe_load((PROJECT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    there = [str(page.relative_to(DOCS if DOCS in page.parents else PROJECT)) for page in IN_SITE]
    assert sorted(listed(nav)) == sorted(there)


def test_every_link_and_picture_leads_to_a_file_and_a_heading() -> None:
    assert {str(page.relative_to(PROJECT)): dead(page) for page in PAGES if dead(page)} == {}
    assert sum(len(links(page)) for page in PAGES) > 50


def test_dead_links_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# What it shows, and what not\n[a](#what-it-shows-and-what-not) [b](#gone) [c](gone.md) `[d](no-link.md)`\n"
        "![e](gone.png) [f](page.md#gone) [g](page.md)\n```\n[h](no-link.md)\n```\n"
    )
    assert dead(page) == ["#gone", "gone.md", "gone.png", "page.md#gone"]


def test_examples_of_the_library_are_true() -> None:
    failed, tried = doctest.testfile(str(DOCS / "reference" / "index.md"), module_relative=False)
    assert failed == 0 and tried >= 5


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").split()) <= 900


@pytest.fixture
def citation() -> dict[str, Any]:
    return yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version(citation: dict[str, Any]) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


def test_the_citation_has_what_its_format_asks_for(citation: dict[str, Any]) -> None:
    """Of a work: title and authors, each a person or something with a name."""
    assert citation["cff-version"] == "1.2.0" and citation["message"]
    for work in [citation, *citation["references"]]:
        assert work["title"] and work["authors"]
        assert all(author.get("family-names") or author.get("name") for author in work["authors"]), work["title"]
