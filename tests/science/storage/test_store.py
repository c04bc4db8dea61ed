"""An artifact is there whole or not at all, and what is not what was written is noticed."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage import store as store_module
from subliminal_dagster.science.storage.content_hash import folder_content_hash
from subliminal_dagster.science.storage.store import (
    Artifact,
    ArtifactStore,
    DamagedArtifact,
    Manifest,
    MissingArtifact,
    OtherFormat,
    _Key,
)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return ArtifactStore(str(tmp_path / "root"))
    return ArtifactStore(f"memory://{uuid.uuid4().hex}/root", cache_dir=tmp_path / "cache")


@pytest.fixture
def local_store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "root"))


def put(store: ArtifactStore, text: str = "one", partition: str | None = "owl", **info: Any) -> Artifact:
    with store.write("study", "rows", partition, info=info) as draft:
        (draft.path / "rows.jsonl").write_text(f'{{"text": "{text}"}}\n')
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "plot.png").write_bytes(b"png")
    return draft.artifact


def versions(store: ArtifactStore) -> list[str]:
    names = [path.rpartition("/")[2] for path in store._fs.ls(f"{store._root_path}/study/rows/owl", detail=False)]
    return sorted(name for name in names if name != "current.json")


def drafts(store: ArtifactStore) -> list[Path]:
    return list((store._scratch / ".drafts").iterdir())


def assert_one_sentence(error: pytest.ExceptionInfo[UserError]) -> None:
    message = str(error.value)
    assert message.endswith(".") and ". " not in message and "\n" not in message


# Round trip


def test_what_was_written_is_read(store: ArtifactStore) -> None:
    assert not store.exists("study", "rows", "owl")
    written = put(store, seed=7)
    read = store.read("study", "rows", "owl")
    assert read == written
    assert (read.path / "rows.jsonl").read_text() == '{"text": "one"}\n'
    assert (read.path / "sub" / "plot.png").read_bytes() == b"png"
    assert read.info == {"seed": 7}
    assert [file.path for file in read.files] == ["rows.jsonl", "sub/plot.png"]
    assert read.files[1].content is None
    assert read.content_hash == folder_content_hash(read.path, ignore=["manifest.json"])
    assert store.exists("study", "rows", "owl")
    assert store.manifest("study", "rows", "owl").info == {"seed": 7}
    assert drafts(store) == []


def test_facts_can_be_added_while_writing(store: ArtifactStore) -> None:
    with store.write("study", "rows", info={"a": 1}) as draft:
        (draft.path / "x.txt").write_text("x")
        draft.info["b"] = 2
        with pytest.raises(RuntimeError):
            _ = draft.artifact
    assert store.read("study", "rows").info == {"a": 1, "b": 2}


def test_same_content_has_the_same_hash_in_another_version(store: ArtifactStore) -> None:
    first, second = put(store, "one", seed=1), put(store, "one", seed=2)
    assert first.content_hash == second.content_hash
    assert first.version != second.version
    assert put(store, "two").content_hash != first.content_hash


def test_the_version_before_the_current_is_kept(store: ArtifactStore) -> None:
    written = [put(store, text).version for text in ("one", "two", "three", "four")]
    assert versions(store) == written[-2:]
    assert store.read("study", "rows", "owl").version == written[-1]


def test_remote_artifact_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    put(ArtifactStore(root, cache_dir=tmp_path / "here"))
    there = ArtifactStore(root, cache_dir=tmp_path / "there")
    first = there.read("study", "rows", "owl")
    assert first.path.is_relative_to(tmp_path / "there")
    monkeypatch.setattr(type(there._fs), "get_file", None)
    assert there.read("study", "rows", "owl") == first


def test_damaged_copy_of_a_remote_artifact_is_downloaded_again(tmp_path: Path) -> None:
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path)
    (put(store).path / "rows.jsonl").write_text("x")
    assert (store.read("study", "rows", "owl").path / "rows.jsonl").read_text() == '{"text": "one"}\n'


def test_default_cache_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ArtifactStore(tmp_path / "root")._cache == tmp_path / "root" / ".cache"
    assert ArtifactStore("memory://x")._cache == tmp_path / ".cache" / "subliminal-dagster"


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
    assert store.studies() == ["study"] and versions(store) == [written.version]


@pytest.mark.parametrize("root", ["", "  ", "\n", "a\0b"])
def test_blank_root_is_refused(root: str) -> None:
    with pytest.raises(UserError, match="SUBLIMINAL_ARTIFACTS") as error:
        ArtifactStore(root)
    assert_one_sentence(error)


def test_root_of_unknown_kind_is_refused_without_its_password() -> None:
    with pytest.raises(UserError, match="gopher://host") as error:
        ArtifactStore("gopher://me:secret@host/x")
    assert "secret" not in str(error.value)


# Names


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a..b", "../x", "a/b", "/etc", "A", "_", ".drafts", "a\n", "a b", "<script>", "\x1b[31m"]
)
def test_names_that_are_no_folder_names_are_refused(local_store: ArtifactStore, name: str) -> None:
    for key in [(name, "rows", "owl"), ("study", name, "owl"), ("study", "rows", name)]:
        for act in (
            local_store.read,
            local_store.check,
            local_store.exists,
            local_store.manifest,
            local_store.refusal,
            local_store.withdraw_refusal,
            local_store.versions,
            local_store.clear_workspace,
        ):
            with pytest.raises(UserError, match="name") as error:
                act(*key)
            assert not set(str(error.value)) & set("<>\n\x1b")
        with pytest.raises(UserError), local_store.write(*key):
            pass
        with pytest.raises(UserError):
            local_store.refuse(*key, "broken", {})
    with pytest.raises(UserError):
        local_store.workspace("study", "rows", "owl", name)
    assert not Path(local_store._root_path).exists()


# Missing and damaged


def test_missing_artifact_says_how_to_make_it(store: ArtifactStore) -> None:
    with pytest.raises(MissingArtifact) as error:
        store.read("study", "rows", "owl")
    assert str(error.value) == (
        f"No artifact study/rows [owl] in {store.root}: materialize rows for partition owl first."
    )
    with pytest.raises(MissingArtifact) as error:
        store.manifest("study", "rows")
    assert str(error.value) == f"No artifact study/rows in {store.root}: materialize rows first."


def cut(folder: Path) -> None:
    os.truncate(folder / "rows.jsonl", 3)


def change(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"text": "0ne"}\n')


def change_view(folder: Path) -> None:
    (folder / "sub" / "plot.png").write_bytes(b"gnp")


def add(folder: Path) -> None:
    (folder / "sub" / "<b>new.txt").write_text("x")


def remove(folder: Path) -> None:
    (folder / "rows.jsonl").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def change_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))


def garble_pointer(folder: Path) -> None:
    (folder.parent / "current.json").write_text('{"version": ')


def empty_pointer(folder: Path) -> None:
    (folder.parent / "current.json").write_text("")


def list_pointer(folder: Path) -> None:
    (folder.parent / "current.json").write_text("[1]")


def point(folder: Path, **changes: str) -> None:
    path = folder.parent / "current.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def point_outside(folder: Path) -> None:
    point(folder, version="../../../etc")


def point_to_nothing(folder: Path) -> None:
    point(folder, version="20200101T000000.000000Z-00000000")


def point_to_other_content(folder: Path) -> None:
    point(folder, content_hash="0" * 64)


DAMAGES = pytest.mark.parametrize(
    ("damage", "named"),
    [
        (cut, "rows.jsonl"),
        (change, "rows.jsonl"),
        (change_view, "sub/plot.png"),
        (add, "sub/?b?new.txt"),
        (remove, "rows.jsonl"),
        (remove_manifest, "manifest.json"),
        (change_manifest, "manifest.json"),
        (garble_pointer, "current.json"),
        (empty_pointer, "current.json"),
        (list_pointer, "current.json"),
        (point_outside, "current.json"),
        (point_to_nothing, "manifest.json"),
        (point_to_other_content, "current.json"),
    ],
)


@DAMAGES
def test_damage_is_noticed_and_mended_by_writing_again(local_store: ArtifactStore, damage: Any, named: str) -> None:
    damage(put(local_store, seed=7).path)
    with pytest.raises(DamagedArtifact) as error:
        local_store.read("study", "rows", "owl")
    assert named in str(error.value)
    assert str(error.value).endswith("materialize rows for partition owl again.")
    assert_one_sentence(error)
    assert local_store.exists("study", "rows", "owl")
    again = put(local_store, "again")
    assert local_store.read("study", "rows", "owl") == again


@pytest.mark.parametrize("damage", ["cut", "change", "add", "remove"])
def test_damage_of_a_remote_artifact_is_noticed(tmp_path: Path, damage: str) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    version = put(ArtifactStore(root, cache_dir=tmp_path / "here")).version
    fs, path = fsspec.core.url_to_fs(f"{root}/study/rows/owl/{version}")
    if damage == "remove":
        fs.rm(f"{path}/rows.jsonl")
    else:
        name, content = {
            "cut": ("rows.jsonl", b"{}"),
            "change": ("rows.jsonl", b'{"text": "0ne"}\n'),
            "add": ("new", b""),
        }[damage]
        fs.pipe_file(f"{path}/{name}", content)
    for _ in range(2):
        with pytest.raises(DamagedArtifact, match="new" if damage == "add" else r"rows\.jsonl") as error:
            ArtifactStore(root, cache_dir=tmp_path / "there").read("study", "rows", "owl")
        assert_one_sentence(error)


def test_manifest_cannot_make_a_download_leave_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        store_module._parsed_manifest(
            json.dumps({"format": 1, "files": [{"path": "../x", "size": 0, "sha256": "", "content": None}]}).encode()
        )


@pytest.mark.parametrize("known", [0, 2])
def test_artifact_of_another_format_is_neither_read_nor_replaced(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, known: int
) -> None:
    written = put(store)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "FORMAT", known)
        looking: list[Callable[[], Any]] = [
            lambda: store.read("study", "rows", "owl"),
            lambda: store.check("study", "rows", "owl"),
            lambda: store.manifest("study", "rows", "owl"),
            lambda: store.refuse("study", "rows", "owl", "broken", {}),
            lambda: store.remove_artifact("study", "rows", "owl", {written.version}),
            lambda: put(store, "two"),
        ]
        for look in looking:
            with pytest.raises(OtherFormat, match=rf"format 1 .*format {known} .*SUBLIMINAL_ARTIFACTS") as error:
                look()
            assert_one_sentence(error)
    assert versions(store) == [written.version]
    assert store.read("study", "rows", "owl") == written


def test_pointer_that_names_no_format_is_of_the_first(store: ArtifactStore) -> None:
    written = put(store)
    path = store._remote(_Key("study", "rows", "owl"), "current.json")
    pointer = json.loads(store._fs.cat_file(path))
    first = {name: pointer[name] for name in ("version", "content_hash", "manifest_sha256")}
    store._fs.pipe_file(path, json.dumps(first).encode())
    assert store.read("study", "rows", "owl") == written
    assert put(store, "two").version == store.check("study", "rows", "owl").version


def test_version_pruned_during_a_read_is_read_anew(local_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(local_store)
    verify = local_store._verify

    def overtaken(*arguments: Any) -> None:
        monkeypatch.setattr(local_store, "_verify", verify)
        put(local_store, "two")
        put(local_store, "three")
        verify(*arguments)

    monkeypatch.setattr(local_store, "_verify", overtaken)
    assert (local_store.read("study", "rows", "owl").path / "rows.jsonl").read_text() == '{"text": "three"}\n'


# Checking without fetching


def test_check_gives_what_the_manifest_says(store: ArtifactStore) -> None:
    with pytest.raises(MissingArtifact, match="materialize rows for partition owl first"):
        store.check("study", "rows", "owl")
    put(store, seed=7)
    checked = store.check("study", "rows", "owl")
    assert type(checked) is Manifest
    assert checked == store.manifest("study", "rows", "owl")


@DAMAGES
def test_check_of_a_local_artifact_finds_all_that_reading_does(
    local_store: ArtifactStore, damage: Any, named: str
) -> None:
    damage(put(local_store, seed=7).path)
    with pytest.raises(DamagedArtifact) as read:
        local_store.read("study", "rows", "owl")
    with pytest.raises(DamagedArtifact) as checked:
        local_store.check("study", "rows", "owl")
    assert str(checked.value) == str(read.value)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("rows.jsonl", b"{}", "has 2 bytes instead of 16"),
        ("rows.jsonl", None, "rows.jsonl is missing"),
        ("new", b"", "new was added"),
        ("manifest.json", b"{}", "manifest.json"),
        ("../current.json", b"{", "current.json"),
    ],
)
def test_check_of_a_remote_artifact_finds_faults_without_fetching_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, named: str
) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    folder = f"study/rows/owl/{put(ArtifactStore(root, cache_dir=tmp_path / 'here')).version}"
    there = ArtifactStore(root, cache_dir=tmp_path / "there")
    monkeypatch.setattr(type(there._fs), "get_file", None)
    there.check("study", "rows", "owl")
    assert not (tmp_path / "there").exists()
    path = f"{there._root_path}/{'study/rows/owl/current.json' if '..' in name else f'{folder}/{name}'}"
    if content is None:
        there._fs.rm(path)
    else:
        there._fs.pipe_file(path, content)
    with pytest.raises(DamagedArtifact, match=named) as error:
        there.check("study", "rows", "owl")
    assert_one_sentence(error)


# Refusals


def test_refusal_holds_until_withdrawn(store: ArtifactStore) -> None:
    assert store.refusal("study", "rows", "owl") is None
    store.withdraw_refusal("study", "rows", "owl")
    before = datetime.now(UTC)
    store.refuse("study", "rows", "owl", "too few rows", {"seed": 7, "upstream": {"a": "b"}})
    refusal = store.refusal("study", "rows", "owl")
    assert refusal is not None
    assert (refusal.reason, refusal.made_from) == ("too few rows", {"seed": 7, "upstream": {"a": "b"}})
    assert before <= refusal.created <= datetime.now(UTC)
    assert store.refusal("study", "rows", "cat") is None
    assert store.refusal("study", "rows") is None
    assert not store.exists("study", "rows", "owl")
    with pytest.raises(MissingArtifact):
        store.check("study", "rows", "owl")
    store.refuse("study", "rows", "owl", "still too few", {})
    refusal = store.refusal("study", "rows", "owl")
    assert refusal is not None and refusal.reason == "still too few"
    store.withdraw_refusal("study", "rows", "owl")
    assert store.refusal("study", "rows", "owl") is None


def test_new_version_ends_a_refusal_and_can_be_refused(store: ArtifactStore) -> None:
    store.refuse("study", "rows", "owl", "none yet", {})
    first = put(store)
    assert store.refusal("study", "rows", "owl") is None
    store.refuse("study", "rows", "owl", "broken", {})
    assert store.read("study", "rows", "owl") == first
    assert store.check("study", "rows", "owl").version == first.version
    with pytest.raises(ZeroDivisionError), store.write("study", "rows", "owl"):
        raise ZeroDivisionError
    assert store.refusal("study", "rows", "owl") is not None
    for text in ("two", "three"):
        put(store, text)
        assert store.refusal("study", "rows", "owl") is None
    assert f"{store._root_path}/study/rows/owl/refused.json" not in store._fs.find(store._root_path)


def test_refusal_of_a_version_replaced_since_does_not_count(local_store: ArtifactStore) -> None:
    """As after a writer that was killed between the new pointer and the end of the refusal."""
    path = put(local_store).path.parent / "refused.json"
    local_store.refuse("study", "rows", "owl", "broken", {})
    left = path.read_bytes()
    put(local_store, "two")
    path.write_bytes(left)
    assert local_store.refusal("study", "rows", "owl") is None


@pytest.mark.parametrize("damage", [garble_pointer, remove_manifest, cut])
def test_refusal_of_a_damaged_artifact_holds(local_store: ArtifactStore, damage: Any) -> None:
    folder = put(local_store).path
    local_store.refuse("study", "rows", "owl", "broken", {})
    damage(folder)
    assert local_store.refusal("study", "rows", "owl") is not None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "5", "{}", '{"reason": "x", "made_from": 3, "created": "y"}', "\xff"]
)
def test_unreadable_refusal_counts_as_none(store: ArtifactStore, content: str) -> None:
    store.refuse("study", "rows", None, "broken", {})
    store._fs.pipe_file(f"{store._root_path}/study/rows/_/refused.json", content.encode("latin-1"))
    assert store.refusal("study", "rows") is None
    store.refuse("study", "rows", None, "broken", {})
    assert store.refusal("study", "rows") is not None


def test_refusal_needs_facts_that_json_can_hold(store: ArtifactStore) -> None:
    store.refuse("study", "rows", "owl", "broken", {})
    with pytest.raises(TypeError):
        store.refuse("study", "rows", "owl", "still broken", {"x": object()})
    refusal = store.refusal("study", "rows", "owl")
    assert refusal is not None and refusal.reason == "broken"


def test_refusal_on_a_full_disk_leaves_the_old(local_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    local_store.refuse("study", "rows", "owl", "broken", {})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match="full") as error:
            local_store.refuse("study", "rows", "owl", "still broken", {})
    assert_one_sentence(error)
    refusal = local_store.refusal("study", "rows", "owl")
    assert refusal is not None and refusal.reason == "broken"
    assert [path.name for path in Path(local_store._root_path, "study/rows/owl").iterdir()] == ["refused.json"]


# Listing


def test_what_is_stored_is_listed(store: ArtifactStore) -> None:
    assert store.studies() == []
    assert store.assets("study") == []
    assert store.partitions("study", "rows") == []
    assert store.versions("study", "rows", "owl") == []
    assert store.current_version("study", "rows", "owl") is None
    written = [put(store, text).version for text in ("one", "two")]
    put(store, partition=None)
    store.refuse("study", "rows", "cat", "none yet", {})
    store.refuse("study", "about", None, "none yet", {})
    store.refuse("other-study", "rows", "a.b", "none yet", {})
    store.workspace("third", "rows", "owl", "f" * 64)
    store._fs.pipe_file(f"{store._root_path}/study/notes.txt", b"")
    store._fs.makedirs(f"{store._root_path}/study/rows/owl/Old stuff")
    assert store.studies() == ["other-study", "study"]
    assert store.assets("study") == ["about", "rows"]
    assert store.partitions("study", "rows") == [None, "cat", "owl"]
    assert store.partitions("study", "about") == [None]
    assert store.partitions("other-study", "rows") == ["a.b"]
    assert store.versions("study", "rows", "owl") == written
    assert store.versions("study", "rows", "cat") == []
    assert len(store.versions("study", "rows")) == 1
    assert store.current_version("study", "rows", "owl") == written[-1]
    for act in (store.assets, lambda name: store.partitions(name, "rows"), lambda name: store.versions("study", name)):
        with pytest.raises(UserError, match="name"):
            act("../x")


# Failures while writing


def test_failure_while_writing_leaves_the_old(store: ArtifactStore) -> None:
    old = put(store)
    with pytest.raises(ZeroDivisionError), store.write("study", "rows", "owl") as draft:
        (draft.path / "rows.jsonl").write_text("half")
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), store.write("study", "rows", "owl") as draft:
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError):
        _ = draft.artifact
    assert store.read("study", "rows", "owl") == old
    assert drafts(store) == []


def test_drafts_that_cannot_be_artifacts_are_refused(local_store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing"), local_store.write("study", "rows"):
        pass
    with pytest.raises(ValueError, match=r"manifest\.json"), local_store.write("study", "rows") as draft:
        (draft.path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="link"), local_store.write("study", "rows") as draft:
        (draft.path / "x").symlink_to(tmp_path)
    with pytest.raises(TypeError), local_store.write("study", "rows", info={"x": object()}) as draft:
        (draft.path / "x.txt").write_text("x")
    assert not local_store.exists("study", "rows")
    assert drafts(local_store) == []


def test_failed_upload_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path)
    old = put(store)
    put_file = type(store._fs).put_file

    def break_off(self: Any, local: str, remote: str, **options: Any) -> None:
        if remote.endswith("plot.png"):
            raise ConnectionError("gone")
        put_file(self, local, remote, **options)

    monkeypatch.setattr(type(store._fs), "put_file", break_off)
    with pytest.raises(ConnectionError):
        put(store, "two")
    assert store.read("study", "rows", "owl") == old
    assert versions(store) == [old.version]
    assert drafts(store) == []


KILLED_WRITER = """
import sys, time
from subliminal_dagster.science.store import ArtifactStore
with ArtifactStore(sys.argv[1]).write("study", "rows", "owl") as draft:
    (draft.path / "rows.jsonl").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_killed_writer_leaves_the_old_and_its_draft_goes_with_the_next_write(local_store: ArtifactStore) -> None:
    old = put(local_store)
    command = [sys.executable, "-c", KILLED_WRITER, local_store._root_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        # Another writer's draft is none of ours while it lives.
        assert put(local_store, "one").content_hash == old.content_hash
        assert len(drafts(local_store)) == 1
        process.send_signal(signal.SIGKILL)
    assert len(drafts(local_store)) == 1
    assert local_store.read("study", "rows", "owl").content_hash == old.content_hash
    put(local_store, "two")
    assert drafts(local_store) == []


def test_version_nothing_points_to_is_never_read_and_goes_in_time(local_store: ArtifactStore) -> None:
    old = put(local_store)
    orphan = old.path.with_name("20250101T000000.000000Z-00000000")
    orphan.mkdir()
    (orphan / "rows.jsonl").write_text("half")
    assert local_store.read("study", "rows", "owl") == old
    put(local_store, "two")
    put(local_store, "three")
    assert len(versions(local_store)) == 2
    assert not orphan.exists()


@pytest.mark.parametrize("whole", [True, False])
def test_version_that_another_machine_is_about_to_point_to_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    root = f"memory://{uuid.uuid4().hex}/root"
    one, two = (ArtifactStore(root, cache_dir=tmp_path / name) for name in ("one", "two"))
    put(one, "old")
    upload = one._upload

    def interrupted(key: Any, draft: Path, files: Any, version: str, pointer: bytes) -> None:
        if not whole:
            one._fs.pipe_file(one._remote(key, version, "half"), b"x")
            one._fs.rm_file(one._remote(key, version, "half"))
            one._fs.put_file(str(draft / "rows.jsonl"), one._remote(key, version, "rows.jsonl"))
        else:
            for name in [*(file.path for file in files), "manifest.json"]:
                one._fs.put_file(str(draft / name), one._remote(key, version, name))
        for text in ("two", "three", "four"):
            put(two, text)
        assert len(versions(two)) == 3
        upload(key, draft, files, version, pointer)

    monkeypatch.setattr(one, "_upload", interrupted)
    written = put(one, "slow")
    assert ArtifactStore(root, cache_dir=tmp_path / "three").read("study", "rows", "owl").version == written.version
    monkeypatch.undo()
    for text in ("five", "six"):
        put(one, text)
    assert written.version not in versions(one)


def test_version_is_later_than_the_one_before_though_the_clock_was_set_back(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2020, 1, 1, tzinfo=tz)

    written = [put(store, "one")]
    monkeypatch.setattr(store_module, "datetime", Clock)
    written += [put(store, text) for text in ("two", "three")]
    assert written[0].version < written[1].version < written[2].version
    assert versions(store) == [artifact.version for artifact in written[1:]]
    assert store.read("study", "rows", "owl") == written[2]
    assert store.superseded("study", "rows", "owl") == [written[1].version]


def test_draft_of_another_host_is_left_alone(local_store: ArtifactStore) -> None:
    put(local_store)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (local_store._scratch / ".drafts" / f"elsewhere.{process.pid}.0").mkdir()
    put(local_store)
    assert len(drafts(local_store)) == 1


@pytest.mark.parametrize(
    ("function", "name"),
    [("replace", "current.json.new"), ("rename", ""), ("fsync", ""), ("mkdir", "")],
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_at_any_step_leaves_the_old(
    local_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, function: str, name: str, code: int
) -> None:
    old = put(local_store)
    original = getattr(os, function)

    def full(target: Any, *arguments: Any, **options: Any) -> Any:
        if str(target).endswith(name):
            raise OSError(code, os.strerror(code))
        return original(target, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(UserError, match=r"full.*the artifact that was there before, if any, is intact") as error:
            put(local_store, "two")
    assert_one_sentence(error)
    assert local_store.read("study", "rows", "owl") == old
    assert versions(local_store) == [old.version]
    assert drafts(local_store) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def write_plainly(folder: Path) -> None:
    (folder / "big.bin").write_bytes(os.urandom(2_000_000))


def write_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"x": np.random.default_rng(0).random(250_000)}), folder / "big.parquet")


def write_safetensors(folder: Path) -> None:
    save_file({"x": np.random.default_rng(0).random(250_000)}, folder / "big.safetensors")


@pytest.mark.parametrize("write", [write_plainly, write_parquet, write_safetensors])
def test_disk_that_is_really_full(tiny_disk: Path, write: Any) -> None:
    store = ArtifactStore(str(tiny_disk))
    old = put(store)
    with pytest.raises(UserError, match="full") as error, store.write("study", "rows", "owl") as draft:
        write(draft.path)
    assert str(tiny_disk) in str(error.value)
    assert_one_sentence(error)
    assert store.read("study", "rows", "owl") == old
    assert drafts(store) == []
    put(store, "two")


def test_disk_too_full_for_a_download(tiny_disk: Path, tmp_path: Path) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    with ArtifactStore(root, cache_dir=tmp_path / "cache").write("study", "rows") as draft:
        write_plainly(draft.path)
    with pytest.raises(UserError, match="not downloaded") as error:
        ArtifactStore(root, cache_dir=tiny_disk).read("study", "rows")
    assert_one_sentence(error)


def _write(store: ArtifactStore) -> None:
    put(store, "two")


def _claim(store: ArtifactStore) -> None:
    with store.claim("study", "rows", "owl"):
        pytest.fail("claimed")


WRITING: dict[str, Callable[[ArtifactStore], Any]] = {
    "write": _write,
    "claim": _claim,
    "refuse": lambda store: store.refuse("study", "rows", "owl", "broken", {}),
    "withdraw": lambda store: store.withdraw_refusal("study", "rows", "cat"),
    "workspace": lambda store: store.workspace("study", "rows", "owl", "f" * 64),
}


@pytest.mark.parametrize("action", WRITING.values(), ids=WRITING)
def test_read_only_store_is_read_and_what_writes_to_it_says_why_not(tiny_disk: Path, action: Any) -> None:
    written = put(ArtifactStore(tiny_disk / "store"))
    ArtifactStore(tiny_disk / "store").refuse("study", "rows", "cat", "broken", {})
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    store = ArtifactStore(tiny_disk / "store")
    assert store.read("study", "rows", "owl") == written
    assert store.claims("study") == {} and store.refusal("study", "rows", "cat") is not None
    with pytest.raises(UserError, match=r"may not write to .*Read-only.*SUBLIMINAL_ARTIFACTS") as error:
        action(store)
    assert str(tiny_disk) in str(error.value)
    assert_one_sentence(error)


@pytest.mark.parametrize("action", [name for name in WRITING if name != "withdraw"])
@pytest.mark.parametrize("below", ["", "folder"])
def test_store_where_a_file_lies_says_so(tmp_path: Path, action: str, below: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="may not write to") as error:
        WRITING[action](ArtifactStore(tmp_path / "file" / below))
    assert str(tmp_path / "file") in str(error.value)
    assert_one_sentence(error)


def test_bucket_without_the_right_to_write_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}/root", cache_dir=tmp_path / "cache")

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(store._fs, "put_file", forbidden)
    monkeypatch.setattr(store._fs, "pipe_file", forbidden)
    for action in ("write", "claim", "refuse"):
        with pytest.raises(UserError, match=r"Access Denied.*SUBLIMINAL_ARTIFACTS") as error:
            WRITING[action](store)
        assert store.root in str(error.value)
        assert_one_sentence(error)


def test_error_of_the_block_stays_what_it_is(local_store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), local_store.write("study", "rows", "owl") as draft:
        draft.path.mkdir()
    with pytest.raises(NotADirectoryError), local_store.write("study", "rows", "owl"):
        (tmp_path / "elsewhere").write_text("x")
        (tmp_path / "elsewhere" / "x").read_text()


# Several writers


def test_threads_writing_the_same_artifact_all_succeed(store: ArtifactStore) -> None:
    written: list[Artifact] = []
    threads = [threading.Thread(target=lambda i=i: written.append(put(store, str(i % 2)))) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({artifact.version for artifact in written}) == 6
    assert store.read("study", "rows", "owl") in written
    assert drafts(store) == []


def _put_often(root: str) -> None:
    for i in range(5):
        put(ArtifactStore(root), str(i))


def test_processes_writing_the_same_artifact_all_succeed(local_store: ArtifactStore) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_put_often, args=(local_store._root_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        if local_store.exists("study", "rows", "owl"):
            local_store.read("study", "rows", "owl")
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert local_store.read("study", "rows", "owl").version == versions(local_store)[-1]
    assert len(versions(local_store)) == 2


# The record of verified files


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that verification hashes."""
    names: list[str] = []
    digest: Any = hashlib.file_digest

    def note(file: Any, kind: str) -> Any:
        names.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", note)
    return names


def age(path: Path, seconds: int = 100) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns - seconds * 10**9))


def test_unchanged_files_are_hashed_once_across_processes(local_store: ArtifactStore, hashed: list[str]) -> None:
    folder = put(local_store).path
    age(folder / "rows.jsonl")
    age(folder / "sub" / "plot.png")
    hashed.clear()
    local_store.read("study", "rows", "owl")
    assert sorted(hashed) == ["plot.png", "rows.jsonl"]
    local_store.read("study", "rows", "owl")
    ArtifactStore(local_store.root).read("study", "rows", "owl")
    assert len(hashed) == 2


def test_a_changed_file_is_hashed_again(local_store: ArtifactStore, hashed: list[str]) -> None:
    path = put(local_store).path / "rows.jsonl"
    age(path)
    local_store.read("study", "rows", "owl")
    hashed.clear()
    age(path)
    local_store.read("study", "rows", "owl")
    assert "rows.jsonl" in hashed
    change(path.parent)
    for store in (local_store, ArtifactStore(local_store.root)):
        with pytest.raises(DamagedArtifact, match="changed"):
            store.read("study", "rows", "owl")


def test_a_replaced_file_of_the_same_size_and_time_is_hashed_again(local_store: ArtifactStore) -> None:
    path = put(local_store).path / "rows.jsonl"
    age(path)
    local_store.read("study", "rows", "owl")
    time_ns = path.stat().st_mtime_ns
    path.rename(path.parent.parent / "elsewhere")
    change(path.parent)
    os.utime(path, ns=(time_ns, time_ns))
    with pytest.raises(DamagedArtifact, match="changed"):
        local_store.read("study", "rows", "owl")


def test_a_file_just_written_is_not_taken_as_settled(local_store: ArtifactStore, hashed: list[str]) -> None:
    put(local_store)
    hashed.clear()
    local_store.read("study", "rows", "owl")
    local_store.read("study", "rows", "owl")
    assert len(hashed) == 4


def record_of(store: ArtifactStore, partition: str) -> Path:
    return Path(store._root_path) / ".cache" / "verified" / "study" / "rows" / f"{partition}.json"


def test_each_artifact_has_its_own_record_of_the_current_version(local_store: ArtifactStore) -> None:
    for partition in ("owl", "cat"):
        age(put(local_store, partition=partition).path / "rows.jsonl")
        local_store.read("study", "rows", partition)
    cat = record_of(local_store, "cat").stat()
    folder = put(local_store, "two").path
    age(folder / "rows.jsonl")
    age(folder / "sub" / "plot.png")
    local_store.read("study", "rows", "owl")
    stamps = json.loads(record_of(local_store, "owl").read_text())
    assert sorted(stamp.partition(str(folder))[2] for stamp in stamps) == ["/rows.jsonl", "/sub/plot.png"]
    assert record_of(local_store, "cat").stat() == cat
    assert sorted(path.name for path in record_of(local_store, "cat").parent.iterdir()) == ["cat.json", "owl.json"]


def test_roots_that_share_a_cache_folder_keep_their_own_records(tmp_path: Path, hashed: list[str]) -> None:
    stores = [ArtifactStore(tmp_path / root, cache_dir=tmp_path / "cache") for root in ("one", "two")]
    for store in stores:
        age(put(store).path / "rows.jsonl")
        store.read("study", "rows", "owl")
    hashed.clear()
    for root in ("one", "two"):
        ArtifactStore(tmp_path / root, cache_dir=tmp_path / "cache").read("study", "rows", "owl")
    assert set(hashed) == {"plot.png"}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"1:2:3:/x": "y"}', "5", "[1]"])
def test_damaged_record_is_only_a_record_lost(local_store: ArtifactStore, hashed: list[str], content: str) -> None:
    folder = put(local_store).path
    age(folder / "rows.jsonl")
    record = record_of(local_store, "owl")
    record.parent.mkdir(parents=True)
    record.write_text(content)
    local_store.read("study", "rows", "owl")
    assert [key.rpartition("/")[2] for key in json.loads(record.read_text())] == ["rows.jsonl"]


def test_record_that_cannot_be_written_does_not_hinder_reading(
    local_store: ArtifactStore, tmp_path: Path, hashed: list[str]
) -> None:
    age(put(local_store).path / "rows.jsonl")
    (tmp_path / "file").write_text("in the way")
    store = ArtifactStore(local_store.root, cache_dir=tmp_path / "file" / "cache")
    store.read("study", "rows", "owl")
    hashed.clear()
    store.read("study", "rows", "owl")
    assert hashed == ["plot.png"]


# Workspaces


def test_workspace_outlives_the_process_until_its_fingerprint_changes(store: ArtifactStore) -> None:
    one, two = "a" * 64, "b" * 64
    folder = store.workspace("study", "rows", "owl", one)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "x").write_text("half")
    other = store.workspace("study", "rows", "cat", two)
    assert (store.workspace("study", "rows", "owl", one) / "checkpoint" / "x").read_text() == "half"
    put(store)
    assert folder.is_dir()
    assert folder.parts[-5:] == (".work", "study", "rows", "owl", "a" * 16)
    store.workspace("study", "rows", "owl", two)
    assert not folder.exists()
    store.clear_workspace("study", "rows", "owl")
    assert not folder.parent.exists()
    assert other.is_dir()
    store.clear_workspace("study", "rows", "owl")


def test_workspace_follows_an_explicit_cache_folder(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "root", cache_dir=tmp_path / "cache")
    assert store.workspace("study", "rows", None, "f" * 64) == tmp_path / "cache/.work/study/rows/_" / ("f" * 16)


_WORK_THERE = """
import sys, time
from subliminal_dagster.science.store import ArtifactStore
folder = ArtifactStore(sys.argv[1]).workspace("study", "rows", "owl", "a" * 64)
(folder / "checkpoint").write_text("half")
print("working", flush=True)
time.sleep(1000)
"""


def test_workspace_that_another_process_works_in_stays_until_that_has_ended(local_store: ArtifactStore) -> None:
    other = subprocess.Popen([sys.executable, "-c", _WORK_THERE, local_store.root], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"working\n"
    mine = local_store.workspace("study", "rows", "owl", "b" * 64)
    theirs = mine.with_name("a" * 16)
    local_store.clear_workspace("study", "rows", "owl")
    assert (theirs / "checkpoint").is_file() and not mine.exists()
    other.kill()
    other.communicate()
    assert local_store.workspace("study", "rows", "owl", "a" * 64) == theirs and (theirs / "checkpoint").is_file()
    local_store.workspace("study", "rows", "owl", "b" * 64)
    assert not theirs.exists()


def test_workspace_of_another_host_stays_until_it_is_forgotten(local_store: ArtifactStore) -> None:
    theirs = local_store.workspace("study", "rows", "owl", "a" * 64)
    (record,) = (local_store._work / ".owners").rglob("*@*")
    record.write_text(record.read_text().replace(socket.gethostname(), "elsewhere"))
    local_store.workspace("study", "rows", "owl", "b" * 64)
    assert theirs.is_dir()
    age(theirs, 8 * 24 * 60 * 60)
    local_store.workspace("study", "rows", "owl", "b" * 64)
    assert not theirs.exists()
    local_store.clear_workspace("study", "rows", "owl")
    assert not list((local_store._work / ".owners").rglob("*@*"))


@pytest.mark.parametrize("layer", ["simplecache", "filecache", "blockcache"])
def test_a_root_behind_a_cache_is_refused(layer: str) -> None:
    """It would answer with an old pointer, and grant one claim to two."""
    with pytest.raises(UserError, match=rf"goes through {layer}: leave that out"):
        ArtifactStore(f"{layer}::memory://root")
