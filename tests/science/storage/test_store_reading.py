"""What is not what was written is noticed, and what was verified once is not hashed again."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from stored import (
    DAMAGES,
    OWL,
    POINTER,
    age,
    assert_one_sentence,
    beside_pointer,
    change,
    content_of,
    delete,
    files,
    overwrite,
    point,
    put,
    rewrite,
)

from subliminal_dagster.science.storage.records import DamagedArtifact, Manifest, MissingArtifact, OtherFormat
from subliminal_dagster.science.storage.retention import find_garbage, remove
from subliminal_dagster.science.storage.store import ArtifactStore


@pytest.mark.parametrize(("damage", "named"), DAMAGES.values(), ids=DAMAGES)
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
    here = ArtifactStore(root, cache_dir=tmp_path / "here")
    path = f"{OWL}/{put(here).version}"
    if damage == "remove":
        delete(here, f"{path}/rows.jsonl")
    else:
        name, content = {
            "cut": ("rows.jsonl", b"{}"),
            "change": ("rows.jsonl", b'{"text": "0ne"}\n'),
            "add": ("new", b""),
        }[damage]
        overwrite(here, f"{path}/{name}", content)
    for _ in range(2):
        with pytest.raises(DamagedArtifact, match="new" if damage == "add" else r"rows\.jsonl") as error:
            ArtifactStore(root, cache_dir=tmp_path / "there").read("study", "rows", "owl")
        assert_one_sentence(error)


@pytest.mark.parametrize("path", ["../x", "sub/../../x", "{tmp}/x"])
def test_manifest_cannot_make_a_download_leave_its_folder(tmp_path: Path, path: str) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    here = ArtifactStore(root, cache_dir=tmp_path / "here")
    version = put(here).version
    content = b"from elsewhere"
    file = {"path": path.format(tmp=tmp_path), "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    overwrite(here, f"{OWL}/x", content)
    rewrite(here, version, files=[file | {"content": None}])
    with pytest.raises(DamagedArtifact, match=r"manifest\.json is not one that this version"):
        ArtifactStore(root, cache_dir=tmp_path / "there").read("study", "rows", "owl")
    assert not [found for found in tmp_path.rglob("x") if found.is_file()]


@pytest.mark.parametrize("other", [0, 2])
def test_artifact_of_another_format_is_neither_read_nor_replaced(store: ArtifactStore, other: int) -> None:
    written = put(store)
    pointer, before, garbage = content_of(store, POINTER), files(store), find_garbage(store, {"study": {}})
    point(store, format=other)
    looking: list[Callable[[], Any]] = [
        lambda: store.read("study", "rows", "owl"),
        lambda: store.check("study", "rows", "owl"),
        lambda: store.manifest("study", "rows", "owl"),
        lambda: store.refuse("study", "rows", "owl", "broken", {}),
        lambda: remove(store, garbage),
        lambda: put(store, "two"),
    ]
    for look in looking:
        with pytest.raises(OtherFormat, match=rf"format {other} .*format 1 .*SUBLIMINAL_ARTIFACTS") as error:
            look()
        assert_one_sentence(error)
    assert files(store) == before
    overwrite(store, POINTER, pointer)
    assert beside_pointer(store) == [written.version]
    assert store.read("study", "rows", "owl") == written


def test_pointer_that_names_no_format_is_of_the_first(store: ArtifactStore) -> None:
    written = put(store)
    pointer = json.loads(content_of(store, POINTER))
    first = {name: pointer[name] for name in ("version", "content_hash", "manifest_sha256")}
    overwrite(store, POINTER, json.dumps(first).encode())
    assert store.read("study", "rows", "owl") == written
    assert put(store, "two").version == store.check("study", "rows", "owl").version


@pytest.mark.parametrize(("place", "step"), [(os, "walk"), (hashlib, "file_digest")], ids=["listing", "hashing"])
def test_version_pruned_during_a_read_is_read_anew(
    local_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, place: Any, step: str
) -> None:
    put(local_store)
    real = getattr(place, step)

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(place, step, real)
        put(local_store, "two")
        put(local_store, "three")
        return real(*arguments)

    monkeypatch.setattr(place, step, overtaken)
    assert (local_store.read("study", "rows", "owl").path / "rows.jsonl").read_text() == '{"text": "three"}\n'


def test_check_gives_what_the_manifest_says(store: ArtifactStore) -> None:
    with pytest.raises(MissingArtifact, match="materialize rows for partition owl first"):
        store.check("study", "rows", "owl")
    put(store, seed=7)
    checked = store.check("study", "rows", "owl")
    assert type(checked) is Manifest
    assert checked == store.manifest("study", "rows", "owl")


@pytest.mark.parametrize(("damage", "named"), DAMAGES.values(), ids=DAMAGES)
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
        ("{version}/rows.jsonl", b"{}", "has 2 bytes instead of 16"),
        ("{version}/rows.jsonl", None, "rows.jsonl is missing"),
        ("{version}/new", b"", "new was added"),
        ("{version}/manifest.json", b"{}", "manifest.json"),
        ("current.json", b"{", "current.json"),
    ],
)
def test_check_of_a_remote_artifact_finds_faults_without_fetching_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, named: str
) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    version = put(ArtifactStore(root, cache_dir=tmp_path / "here")).version
    there = ArtifactStore(root, cache_dir=tmp_path / "there")
    monkeypatch.setattr(MemoryFileSystem, "get_file", None)
    there.check("study", "rows", "owl")
    assert not (tmp_path / "there").exists()
    if content is None:
        delete(there, f"{OWL}/{name.format(version=version)}")
    else:
        overwrite(there, f"{OWL}/{name.format(version=version)}", content)
    with pytest.raises(DamagedArtifact, match=named) as error:
        there.check("study", "rows", "owl")
    assert_one_sentence(error)


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
    return Path(store.root) / ".cache" / "verified" / "study" / "rows" / f"{partition}.json"


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
