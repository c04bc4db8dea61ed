"""Whatever stops a writer, what was there before stays, and a disk that is to blame is named."""

from __future__ import annotations

import errno
import os
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.numpy import save_file
from stored import assert_one_sentence, beside_pointer, drafts, put, rewrite

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.retention import find_garbage
from subliminal_dagster.science.storage.root import OutOfReach
from subliminal_dagster.science.storage.store import ArtifactStore


def test_failure_while_writing_leaves_the_old(store: ArtifactStore, tmp_path: Path) -> None:
    old = put(store)
    with pytest.raises(ZeroDivisionError), store.write("study", "rows", "owl") as draft:
        (draft.path / "rows.jsonl").write_text("half")
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), store.write("study", "rows", "owl") as draft:
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError):
        _ = draft.artifact
    assert store.read("study", "rows", "owl") == old
    assert drafts(tmp_path) == []


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
    assert drafts(tmp_path) == []


def test_failed_upload_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path / "cache")
    old = put(store)
    put_file = MemoryFileSystem.put_file

    def break_off(self: Any, local: str, remote: str, **options: Any) -> None:
        if remote.endswith("plot.png"):
            raise ConnectionError("gone")
        put_file(self, local, remote, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", break_off)
    with pytest.raises(OutOfReach, match="gone"):
        put(store, "two")
    assert store.read("study", "rows", "owl") == old
    assert beside_pointer(store) == [old.version]
    assert drafts(tmp_path) == []


def test_version_nothing_points_to_is_never_read_and_goes_in_time(local_store: ArtifactStore) -> None:
    old = put(local_store)
    orphan = old.path.with_name("20250101T000000.000000Z-00000000")
    orphan.mkdir()
    (orphan / "rows.jsonl").write_text("half")
    assert local_store.read("study", "rows", "owl") == old
    put(local_store, "two")
    put(local_store, "three")
    assert len(beside_pointer(local_store)) == 2
    assert not orphan.exists()


@pytest.mark.parametrize("last", ["rows.jsonl", "manifest.json"], ids=["begun", "whole"])
def test_version_that_another_machine_is_about_to_point_to_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    root = f"memory://{uuid.uuid4().hex}/root"
    one, two = (ArtifactStore(root, cache_dir=tmp_path / name) for name in ("one", "two"))
    put(one, "old")
    upload = MemoryFileSystem.put_file

    def overtaken(self: Any, local: str, remote: str, **options: Any) -> None:
        upload(self, local, remote, **options)
        if remote.endswith(last):
            monkeypatch.undo()
            for text in ("two", "three", "four"):
                put(two, text)
            assert len(beside_pointer(two)) == 3

    monkeypatch.setattr(MemoryFileSystem, "put_file", overtaken)
    written = put(one, "slow")
    assert ArtifactStore(root, cache_dir=tmp_path / "three").read("study", "rows", "owl").version == written.version
    for text in ("five", "six"):
        put(one, text)
    assert written.version not in beside_pointer(one)


def test_version_is_later_than_the_one_before_though_the_clock_was_set_back(
    store: ArtifactStore,
) -> None:
    first = "29991231T235959.999999Z-00000000"
    rewrite(store, put(store, "one").version, new_version=first)
    assert store.check("study", "rows", "owl").version == first
    second, third = (put(store, text) for text in ("two", "three"))
    assert first < second.version < third.version
    assert beside_pointer(store) == [second.version, third.version]
    assert store.read("study", "rows", "owl") == third
    found = find_garbage(store, {"study": {"rows": ["owl"]}})
    assert [item.path.rpartition("/")[2] for item in found if item.what == "superseded version"] == [second.version]


def test_error_of_the_block_stays_what_it_is(local_store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), local_store.write("study", "rows", "owl") as draft:
        draft.path.mkdir()
    with pytest.raises(NotADirectoryError), local_store.write("study", "rows", "owl"):
        (tmp_path / "elsewhere").write_text("x")
        (tmp_path / "elsewhere" / "x").read_text()


@pytest.mark.parametrize(
    ("function", "name"),
    [("replace", ".new"), ("rename", ""), ("fsync", ""), ("mkdir", "")],
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_at_any_step_leaves_the_old(
    local_store: ArtifactStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    name: str,
    code: int,
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
    assert beside_pointer(local_store) == [old.version]
    assert drafts(tmp_path) == []


def write_plainly(folder: Path) -> None:
    (folder / "big.bin").write_bytes(os.urandom(2_000_000))


def write_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"x": np.random.default_rng(0).random(250_000)}), folder / "big.parquet")


def write_safetensors(folder: Path) -> None:
    save_file({"x": np.random.default_rng(0).random(250_000)}, folder / "big.safetensors")


@pytest.mark.parametrize("write", [write_plainly, write_parquet, write_safetensors])
def test_disk_that_is_really_full(tiny_disk: Path, tmp_path: Path, write: Any) -> None:
    store = ArtifactStore(str(tiny_disk))
    old = put(store)
    with pytest.raises(UserError, match="full") as error, store.write("study", "rows", "owl") as draft:
        write(draft.path)
    assert str(tiny_disk) in str(error.value)
    assert_one_sentence(error)
    assert store.read("study", "rows", "owl") == old
    assert drafts(tmp_path) == []
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

    monkeypatch.setattr(MemoryFileSystem, "put_file", forbidden)
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", forbidden)
    for action in ("write", "claim", "refuse"):
        with pytest.raises(UserError, match=r"Access Denied.*SUBLIMINAL_ARTIFACTS") as error:
            WRITING[action](store)
        assert store.root in str(error.value)
        assert_one_sentence(error)
