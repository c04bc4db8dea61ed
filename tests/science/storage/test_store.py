"""An artifact is there whole or not at all, and what is stored is listed."""

from __future__ import annotations

import multiprocessing
import threading
import uuid
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from stored import behind, beside_pointer, drafts, overwrite, put

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.content_hash import folder_content_hash
from subliminal_dagster.science.storage.records import Artifact, MissingArtifact
from subliminal_dagster.science.storage.store import ArtifactStore


def test_what_was_written_is_read(store: ArtifactStore, tmp_path: Path) -> None:
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
    assert drafts(tmp_path) == []


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
    assert beside_pointer(store) == written[-2:]
    assert store.read("study", "rows", "owl").version == written[-1]


def test_remote_artifact_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    put(ArtifactStore(root, cache_dir=tmp_path / "here"))
    there = ArtifactStore(root, cache_dir=tmp_path / "there")
    first = there.read("study", "rows", "owl")
    assert first.path.is_relative_to(tmp_path / "there")
    monkeypatch.setattr(MemoryFileSystem, "get_file", None)
    assert there.read("study", "rows", "owl") == first


def test_damaged_copy_of_a_remote_artifact_is_downloaded_again(tmp_path: Path) -> None:
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path)
    (put(store).path / "rows.jsonl").write_text("x")
    assert (store.read("study", "rows", "owl").path / "rows.jsonl").read_text() == '{"text": "one"}\n'


def test_missing_artifact_says_how_to_make_it(store: ArtifactStore) -> None:
    with pytest.raises(MissingArtifact) as error:
        store.read("study", "rows", "owl")
    assert str(error.value) == (
        f"No artifact study/rows [owl] in {store.root}: materialize rows for partition owl first."
    )
    with pytest.raises(MissingArtifact) as error:
        store.manifest("study", "rows")
    assert str(error.value) == f"No artifact study/rows in {store.root}: materialize rows first."


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
    overwrite(store, "study/notes.txt", b"")
    fs, root = behind(store)
    fs.makedirs(f"{root}/study/rows/owl/Old stuff")
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


def test_threads_writing_the_same_artifact_all_succeed(store: ArtifactStore, tmp_path: Path) -> None:
    written: list[Artifact] = []
    threads = [threading.Thread(target=lambda i=i: written.append(put(store, str(i % 2)))) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({artifact.version for artifact in written}) == 6
    assert store.read("study", "rows", "owl") in written
    assert drafts(tmp_path) == []


def _put_often(root: str) -> None:
    for i in range(5):
        put(ArtifactStore(root), str(i))


def test_processes_writing_the_same_artifact_all_succeed(local_store: ArtifactStore) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_put_often, args=(local_store.root,)) for _ in range(2)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        if local_store.exists("study", "rows", "owl"):
            local_store.read("study", "rows", "owl")
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert local_store.read("study", "rows", "owl").version == beside_pointer(local_store)[-1]
    assert len(beside_pointer(local_store)) == 2
