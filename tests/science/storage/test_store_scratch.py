"""Scratch stays for as long as somebody may go on with it, and no longer."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

from stored import age, drafts, put

from subliminal_dagster.science.storage.store import ArtifactStore

KILLED_WRITER = """
import sys, time
from subliminal_dagster.science.storage.store import ArtifactStore
with ArtifactStore(sys.argv[1]).write("study", "rows", "owl") as draft:
    (draft.path / "rows.jsonl").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_killed_writer_leaves_the_old_and_its_draft_goes_with_the_next_write(
    local_store: ArtifactStore, tmp_path: Path
) -> None:
    old = put(local_store)
    command = [sys.executable, "-c", KILLED_WRITER, local_store.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        # Another writer's draft is none of ours while it lives.
        assert put(local_store, "one").content_hash == old.content_hash
        assert len(drafts(tmp_path)) == 1
        process.send_signal(signal.SIGKILL)
    assert len(drafts(tmp_path)) == 1
    assert local_store.read("study", "rows", "owl").content_hash == old.content_hash
    put(local_store, "two")
    assert drafts(tmp_path) == []


def test_draft_of_another_host_is_left_alone(local_store: ArtifactStore, tmp_path: Path) -> None:
    put(local_store)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / "root" / ".drafts" / f"elsewhere.{process.pid}.0").mkdir()
    put(local_store)
    assert len(drafts(tmp_path)) == 1


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
from subliminal_dagster.science.storage.store import ArtifactStore
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


def test_workspace_of_another_host_stays_until_it_is_forgotten(local_store: ArtifactStore, tmp_path: Path) -> None:
    theirs = local_store.workspace("study", "rows", "owl", "a" * 64)
    (record,) = (tmp_path / "root" / ".work" / ".owners").rglob("*@*")
    record.write_text(record.read_text().replace(socket.gethostname(), "elsewhere"))
    local_store.workspace("study", "rows", "owl", "b" * 64)
    assert theirs.is_dir()
    age(theirs, 8 * 24 * 60 * 60)
    local_store.workspace("study", "rows", "owl", "b" * 64)
    assert not theirs.exists()
    local_store.clear_workspace("study", "rows", "owl")
    assert not list((tmp_path / "root" / ".work" / ".owners").rglob("*@*"))
