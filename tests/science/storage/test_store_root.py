"""Where a root lies that somebody named, and what this machine keeps beside it."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from stored import age, assert_one_sentence, put

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.store import ArtifactStore


def test_default_cache_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    local = ArtifactStore(tmp_path / "root")
    age(put(local).path)
    local.read("study", "rows", "owl")
    assert (tmp_path / "root" / ".cache" / "verified" / "study/rows/owl.json").is_file()
    remote = put(ArtifactStore(f"memory://{uuid.uuid4().hex}"))
    assert remote.path.is_relative_to(tmp_path / "home" / ".cache" / "subliminal-dagster")


@pytest.mark.parametrize(
    ("root", "folder"),
    [
        ("here", "work/here"),
        ("../there", "there"),
        ("a::b", "work/a::b"),
        ("memory::x", "work/memory::x"),
        ("{tmp}/file::zip", "file::zip"),
        ("file:x", "work/file:x"),
        ("{tmp}/s3://bucket", "s3:/bucket"),
        ("~/store", "home/store"),
        ("~", "home"),
        ("with blanks/ and [x]*?#", "work/with blanks/ and [x]*?#"),
        ("trailing/", "work/trailing"),
        ("file://{tmp}/by-url", "by-url"),
        (" file://{tmp}/by-url\n", "by-url"),
    ],
)
def test_root_that_is_no_url_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, folder: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    store = ArtifactStore(root.format(tmp=tmp_path))
    # Wherever the process goes afterwards.
    monkeypatch.chdir("/")
    with store.claim("study", "rows", "owl"):
        written = put(store)
        assert list(store.claims("study")) == [("rows", "owl")]
    assert written.path.is_relative_to(tmp_path / folder / "study")
    assert store.read("study", "rows", "owl") == written
    assert store.studies() == ["study"] and store.versions("study", "rows", "owl") == [written.version]


@pytest.mark.parametrize("root", ["", "  ", "\n", "a\0b"])
def test_blank_root_is_refused(root: str) -> None:
    with pytest.raises(UserError, match="SUBLIMINAL_ARTIFACTS") as error:
        ArtifactStore(root)
    assert_one_sentence(error)


def test_root_of_unknown_kind_is_refused_without_its_password() -> None:
    with pytest.raises(UserError, match="gopher://host") as error:
        ArtifactStore("gopher://me:secret@host/x")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("layer", ["simplecache", "filecache", "blockcache"])
def test_a_root_behind_a_cache_is_refused(layer: str) -> None:
    """It would answer with an old pointer, and grant one claim to two."""
    with pytest.raises(UserError, match=rf"goes through {layer}: leave that out"):
        ArtifactStore(f"{layer}::memory://root")
