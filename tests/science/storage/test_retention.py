"""What nobody needs any more goes, and what anybody needs stays."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import filelock
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stored import POINTER, age, content_of, delete, files, is_there, overwrite, put, stored_bytes

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.records import DamagedArtifact, MissingArtifact
from subliminal_dagster.science.storage.retention import find_garbage, remove
from subliminal_dagster.science.storage.store import ArtifactStore

EXPECTED = {"study": {"rows": ["owl", "cat"], "report": [None]}}
DAY = 24 * 60 * 60


def whats(store: ArtifactStore, expected: Any = EXPECTED) -> list[str]:
    return [item.what for item in find_garbage(store, expected)]


# Older versions


def test_nothing_stored_is_no_garbage(store: ArtifactStore) -> None:
    assert find_garbage(store, EXPECTED) == []
    assert remove(store, []) == 0
    put(store)
    put(store, asset="report", partition=None)
    assert find_garbage(store, EXPECTED) == []


def test_superseded_versions_go(store: ArtifactStore) -> None:
    old, new = put(store, "one"), put(store, "two")
    found = [item for item in find_garbage(store, EXPECTED) if item.what == "superseded version"]
    size = stored_bytes(store, f"study/rows/owl/{old.version}")
    assert [(item.path, item.size) for item in found] == [(f"{store.root}/study/rows/owl/{old.version}", size)]
    assert store.versions("study", "rows", "owl") == [old.version, new.version]
    assert remove(store, found) == size
    assert store.versions("study", "rows", "owl") == [new.version]
    assert store.read("study", "rows", "owl") == new
    assert remove(store, found) == 0
    assert "superseded version" not in whats(store)


FAULTS: dict[str, tuple[str, bytes | None]] = {
    "cut file": ("{version}/rows.jsonl", b"{}"),
    "missing file": ("{version}/rows.jsonl", None),
    "added file": ("{version}/new", b""),
    "changed manifest": ("{version}/manifest.json", b"{}"),
    "missing version": ("{version}", None),
    "unreadable pointer": ("current.json", b"{"),
    "missing pointer": ("current.json", None),
}


def damage(store: ArtifactStore, fault: str, partition: str = "owl") -> None:
    name, content = FAULTS[fault]
    path = f"study/rows/{partition}/{name.format(version=store.current_version('study', 'rows', partition))}"
    if content is None:
        delete(store, path)
    else:
        overwrite(store, path, content)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_version_stays_where_the_current_one_is_not_sound(store: ArtifactStore, fault: str) -> None:
    put(store, "one")
    put(store, "two")
    found = find_garbage(store, EXPECTED)
    damage(store, fault)
    versions = store.versions("study", "rows", "owl")
    assert "superseded version" not in whats(store)
    # Nor does it go where the fault came after it was found.
    remove(store, [item for item in found if item.what == "superseded version"])
    assert store.versions("study", "rows", "owl") == versions
    third = put(store, "three")
    remove(store, find_garbage(store, EXPECTED))
    assert store.versions("study", "rows", "owl") == [third.version]


def test_changed_content_is_noticed_under_a_local_root(local_store: ArtifactStore) -> None:
    put(local_store, "one")
    (put(local_store, "two").path / "rows.jsonl").write_text('{"text": "0ne"}\n')
    assert whats(local_store) == []


def test_version_newer_than_the_current_one_stays(store: ArtifactStore) -> None:
    """It is what an upload by another machine looks like until its pointer is there."""
    put(store)
    overwrite(store, "study/rows/owl/29990101T000000.000000Z-00000000/rows.jsonl", b"{}")
    assert find_garbage(store, EXPECTED) == []


def test_version_that_never_was_current_goes_only_when_it_is_old(store: ArtifactStore) -> None:
    """A machine whose clock is behind, or whose upload takes long, may be about to point to it."""
    put(store)
    now = datetime.now(UTC)
    for days in (6, 8):
        version = (now - timedelta(days=days)).strftime("%Y%m%dT%H%M%S.%fZ-00000000")
        overwrite(store, f"study/rows/owl/{version}/rows.jsonl", b"{}")
    found = find_garbage(store, EXPECTED)
    assert [(item.what, item.path) for item in found] == [
        ("superseded version", f"{store.root}/study/rows/owl/{version}")
    ]


def test_artifact_that_a_process_claims_stays(store: ArtifactStore) -> None:
    put(store, "one", "wolf")
    upload = "study/rows/wolf/29990101T000000.000000Z-00000000/rows.jsonl"
    overwrite(store, upload, b"{}")
    found = find_garbage(store, EXPECTED)
    with store.claim("study", "rows", "wolf"):
        remove(store, found)
        assert is_there(store, upload) and store.exists("study", "rows", "wolf")
    remove(store, found)
    assert store.partitions("study", "rows") == []


def test_version_that_is_current_again_stays(store: ArtifactStore) -> None:
    old = put(store, "one")
    pointer = content_of(store, POINTER)
    put(store, "two")
    found = find_garbage(store, EXPECTED)
    overwrite(store, POINTER, pointer)
    assert remove(store, found) == 0
    assert store.read("study", "rows", "owl") == old


# What is no longer part of a study


def test_partition_no_longer_expected_goes_whole(store: ArtifactStore) -> None:
    kept = put(store)
    put(store, "one", "wolf")
    put(store, "two", "wolf")
    store.refuse("study", "rows", "wolf", "broken", {})
    size = stored_bytes(store, "study/rows/wolf")
    found = find_garbage(store, EXPECTED)
    assert (found[0].what, found[0].path, found[0].size) == (
        "partition 'wolf' is no longer part of the study",
        f"{store.root}/study/rows/wolf",
        size,
    )
    assert remove(store, found[:1]) == size
    assert store.partitions("study", "rows") == ["owl"]
    assert store.read("study", "rows", "owl") == kept
    with pytest.raises(MissingArtifact):
        store.read("study", "rows", "wolf")
    assert remove(store, found[:1]) == 0


def test_asset_no_longer_expected_goes_whole(store: ArtifactStore) -> None:
    put(store, asset="old-rows")
    put(store, asset="old-rows", partition=None)
    store.refuse("study", "older-rows", "owl", "broken", {})
    found = [item for item in find_garbage(store, EXPECTED) if item.path.startswith(store.root + "/study")]
    assert {item.what for item in found} == {"asset no longer exists"}
    remove(store, find_garbage(store, EXPECTED))
    assert files(store) == []
    assert find_garbage(store, EXPECTED) == []


def test_asset_that_has_partitions_now(store: ArtifactStore) -> None:
    put(store, partition=None)
    kept = put(store)
    found = find_garbage(store, EXPECTED)
    assert found[0].what == "asset is divided into partitions now"
    remove(store, found)
    assert store.partitions("study", "rows") == ["owl"]
    assert store.read("study", "rows", "owl") == kept


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_artifact_goes_too_where_it_is_not_expected(store: ArtifactStore, fault: str) -> None:
    put(store, "one")
    put(store, "two")
    damage(store, fault)
    remove(store, find_garbage(store, {"study": {}}))
    assert files(store) == []


def test_studies_not_named_are_never_touched(store: ArtifactStore) -> None:
    other = [put(store, text, study="other") for text in ("one", "two")]
    fresh = store.workspace("other", "rows", "owl", "f" * 64)
    age(fresh.parent, 100 * DAY)
    store.refuse("other", "rows", "wolf", "broken", {})
    before = files(store)
    assert find_garbage(store, EXPECTED) == []
    assert remove(store, find_garbage(store, {})) == 0
    assert files(store) == before
    assert fresh.is_dir()
    assert all(artifact.path.is_dir() for artifact in other)


def test_name_that_is_no_study_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(UserError, match="name"):
        find_garbage(store, {"../x": {}})


def test_half_done_removal_leaves_no_pointer_and_is_taken_up_again(
    local_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(local_store, "one", "wolf")
    put(local_store, "two", "wolf")
    rmtree = shutil.rmtree

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        remove(local_store, find_garbage(local_store, EXPECTED))
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert not local_store.exists("study", "rows", "wolf")
    assert len(local_store.versions("study", "rows", "wolf")) == 2
    remove(local_store, find_garbage(local_store, EXPECTED))
    assert local_store.partitions("study", "rows") == []


def test_artifact_written_since_it_was_found_stays(store: ArtifactStore) -> None:
    put(store, "one", "wolf")
    found = find_garbage(store, EXPECTED)
    written = put(store, "two", "wolf")
    remove(store, [item for item in found if item.path.startswith(store.root + "/study")])
    assert store.read("study", "rows", "wolf") == written


def test_upload_by_another_machine_outlives_the_removal(remote_store: ArtifactStore) -> None:
    put(remote_store, "one", "wolf")
    found = find_garbage(remote_store, EXPECTED)
    upload = "study/rows/wolf/29990101T000000.000000Z-00000000/rows.jsonl"
    overwrite(remote_store, upload, b"{}")
    remove(remote_store, found)
    assert files(remote_store) == [upload]


def test_what_cannot_be_removed_is_named_and_the_rest_goes(local_store: ArtifactStore) -> None:
    old = put(local_store, "one")
    put(local_store, "two")
    put(local_store, "one", "wolf")
    found = find_garbage(local_store, EXPECTED)
    # The lock of one of the two cannot be taken.
    lock = Path(local_store.root, ".locks/study/rows/owl.lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(UserError) as error:
        remove(local_store, found)
    message = str(error.value)
    assert str(old.path) in message and "wolf" not in message
    assert message.endswith(".") and "\n" not in message
    assert local_store.partitions("study", "rows") == ["owl"]
    lock.rmdir()
    assert remove(local_store, found) == found[0].size
    assert not old.path.exists()


# Copies of remote artifacts


def test_copies_of_superseded_versions_go(remote_store: ArtifactStore) -> None:
    old, new = put(remote_store, "one"), put(remote_store, "two")
    found = [item for item in find_garbage(remote_store, EXPECTED) if "copy" in item.what]
    size = sum(path.stat().st_size for path in old.path.rglob("*") if path.is_file())
    assert [(item.what, item.path, item.size) for item in found] == [
        ("cached copy of a superseded version", str(old.path), size)
    ]
    assert remove(remote_store, found) == size
    assert not old.path.exists()
    assert new.path.is_dir()
    assert remove(remote_store, found) == 0


def test_copy_stays_while_nobody_can_tell_whether_it_is_used(remote_store: ArtifactStore) -> None:
    put(remote_store, "one")
    put(remote_store, "two")
    found = find_garbage(remote_store, EXPECTED)
    damage(remote_store, "unreadable pointer")
    assert find_garbage(remote_store, EXPECTED) == []
    assert remove(remote_store, found) == 0


def test_copies_go_with_the_artifact_also_where_another_machine_removed_it(
    remote_store: ArtifactStore, tmp_path: Path
) -> None:
    copy = put(remote_store, "one", "wolf").path
    elsewhere = ArtifactStore(remote_store.root, cache_dir=tmp_path / "elsewhere")
    there = elsewhere.read("study", "rows", "wolf").path
    remove(remote_store, find_garbage(remote_store, EXPECTED))
    assert not copy.exists()
    found = find_garbage(elsewhere, EXPECTED)
    assert [item.what for item in found] == ["cached copy, partition 'wolf' is no longer part of the study"]
    remove(elsewhere, found)
    assert not there.exists()


def test_copies_of_another_root_in_the_same_cache_folder_stay(tmp_path: Path) -> None:
    here, other = (ArtifactStore(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path) for _ in range(2))
    kept = put(other, partition="wolf")
    put(here, partition="wolf")
    remove(here, find_garbage(here, EXPECTED))
    assert kept.path.is_dir()


# Refusals


def test_refusal_that_does_not_count_goes(store: ArtifactStore) -> None:
    kept = put(store)
    store.refuse("study", "rows", "owl", "broken", {})
    store.refuse("study", "rows", "cat", "none yet", {})
    assert find_garbage(store, EXPECTED) == []
    overwrite(store, "study/rows/owl/refused.json", b"{")
    found = find_garbage(store, EXPECTED)
    assert [(item.what, item.path, item.size) for item in found] == [
        ("stale refusal", f"{store.root}/study/rows/owl/refused.json", 1)
    ]
    assert remove(store, found) == 1
    assert remove(store, found) == 0
    assert store.read("study", "rows", "owl") == kept
    assert store.refusal("study", "rows", "cat") is not None


def test_refusal_made_since_stays(store: ArtifactStore) -> None:
    overwrite(store, "study/rows/owl/refused.json", b"{")
    found = find_garbage(store, EXPECTED)
    store.refuse("study", "rows", "owl", "broken", {})
    assert remove(store, found) == 0
    assert store.refusal("study", "rows", "owl") is not None


# Scratch and drafts


def test_scratch_goes_only_when_nobody_can_be_working_on_it(store: ArtifactStore, tmp_path: Path) -> None:
    for partition, days in (("owl", 8), ("cat", 6), ("wolf", 0)):
        folder = store.workspace("study", "rows", partition, "f" * 64)
        (folder / "checkpoint").write_bytes(b"12345")
        age(folder.parent, days * DAY)
    found = find_garbage(store, EXPECTED)
    assert {(item.what, Path(item.path).name, item.size) for item in found} == {
        ("scratch untouched for 7 days", "owl", 5),
        ("scratch, partition 'wolf' is no longer part of the study", "wolf", 5),
    }
    assert remove(store, found) == 10
    assert remove(store, found) == 0
    assert [path.name for path in tmp_path.glob("*/.work/study/rows/*")] == ["cat"]
    assert find_garbage(store, EXPECTED) == []


@pytest.mark.parametrize("touched", ["file", "folder", "resumed"])
def test_old_scratch_that_somebody_works_on_stays(local_store: ArtifactStore, touched: str) -> None:
    folder = local_store.workspace("study", "rows", "owl", "f" * 64)
    (folder / "checkpoint").write_bytes(b"12345")
    age(folder.parent, 8 * DAY)
    found = find_garbage(local_store, EXPECTED)
    assert len(found) == 1
    if touched == "file":
        os.utime(folder / "checkpoint")
    elif touched == "folder":
        os.utime(folder)
    else:
        local_store.workspace("study", "rows", "owl", "f" * 64)
    assert find_garbage(local_store, EXPECTED) == []
    assert remove(local_store, found) == 0
    assert (folder / "checkpoint").is_file()


_LIVE = """
from subliminal_dagster.science.storage.claims import Holder
print(Holder.this_process().content.decode(), flush=True)
input()
"""


@pytest.mark.parametrize("partition", ["owl", "wolf"])
def test_scratch_that_a_living_process_works_in_stays(local_store: ArtifactStore, partition: str) -> None:
    folder = local_store.workspace("study", "rows", partition, "f" * 64)
    age(folder.parent, 8 * DAY)
    (record,) = Path(local_store.root, ".work/.owners").rglob("*@*")
    other = subprocess.Popen([sys.executable, "-c", _LIVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    record.write_bytes(other.stdout.readline())
    found = find_garbage(local_store, EXPECTED)
    assert remove(local_store, found) == 0 and folder.is_dir()
    other.communicate(b"\n")
    remove(local_store, found)
    assert not folder.exists()


def test_links_in_scratch_are_not_followed(local_store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "big").write_bytes(b"x" * 1000)
    folder = local_store.workspace("study", "rows", "wolf", "f" * 64)
    (folder / "model").symlink_to(tmp_path / "model")
    (folder / "loop").symlink_to(folder)
    assert remove(local_store, find_garbage(local_store, EXPECTED)) == 0
    assert not folder.exists()
    assert (tmp_path / "model" / "big").is_file()


def test_drafts_of_dead_processes_go(store: ArtifactStore) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with store.write("study", "rows", "owl") as draft:
        (draft.path / "rows.jsonl").write_text("{}\n")
        host = draft.path.name.split(f".{os.getpid()}.")[0]
        dead, elsewhere = (draft.path.with_name(f"{name}.{process.pid}.0") for name in (host, "elsewhere"))
        for folder in (dead, elsewhere):
            folder.mkdir()
            (folder / "half").write_bytes(b"12345")
        found = find_garbage(store, {})
        assert [(item.what, item.path, item.size) for item in found] == [("abandoned draft", str(dead), 5)]
        assert remove(store, found) == 5
        assert remove(store, found) == 0
        assert elsewhere.is_dir()
    assert store.read("study", "rows", "owl") == draft.artifact


# While others write


def test_removal_waits_for_whoever_is_writing_the_artifact(local_store: ArtifactStore) -> None:
    put(local_store, "one")
    put(local_store, "two")
    put(local_store, "one", "wolf")
    (local_store.workspace("study", "rows", "wolf", "f" * 64) / "checkpoint").write_bytes(b"12345")
    found = find_garbage(local_store, EXPECTED)
    before = files(local_store)
    for item in found:
        partition = "wolf" if "wolf" in item.path else "owl"
        thread = threading.Thread(target=remove, args=(local_store, [item]))
        with filelock.FileLock(Path(local_store.root, f".locks/study/rows/{partition}.lock")):
            thread.start()
            thread.join(0.2)
            assert thread.is_alive()
            assert files(local_store) == before
        thread.join(10)
        assert not thread.is_alive()
        before = files(local_store)
    assert find_garbage(local_store, EXPECTED) == []


def _put_often(root: str) -> None:
    store = ArtifactStore(root)
    for i in range(40):
        put(store, str(i))


def test_artifact_stays_readable_while_one_process_writes_and_another_removes(local_store: ArtifactStore) -> None:
    put(local_store)
    writer = multiprocessing.get_context("spawn").Process(target=_put_often, args=(local_store.root,))
    writer.start()
    freed = 0
    while writer.is_alive():
        freed += remove(local_store, find_garbage(local_store, EXPECTED))
        local_store.read("study", "rows", "owl")
    writer.join()
    assert writer.exitcode == 0
    assert freed > 0
    assert '"39"' in (local_store.read("study", "rows", "owl").path / "rows.jsonl").read_text()


# Whatever happened before

PLACES: list[tuple[str, str | None]] = [("rows", "owl"), ("rows", "cat"), ("report", None)]
STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(PLACES), st.sampled_from(["one", "two", "six"])),
    st.tuples(st.just("damage"), st.sampled_from(PLACES), st.sampled_from([*FAULTS, "changed file"])),
    st.tuples(st.just("refuse"), st.sampled_from(PLACES), st.just("")),
    st.tuples(st.just("expect"), st.sampled_from(PLACES), st.sampled_from(["yes", "no"])),
    st.tuples(st.just("clean"), st.sampled_from(PLACES), st.just("")),
)


def readable_content(store: ArtifactStore, place: tuple[str, str | None]) -> dict[str, bytes] | None:
    """The files of an artifact as someone sees them who has no copy of it yet; None where it cannot be read."""
    with tempfile.TemporaryDirectory() as cache:
        try:
            folder = ArtifactStore(store.root, cache_dir=Path(cache)).read("study", *place).path
        except (MissingArtifact, DamagedArtifact):
            return None
        return {
            path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "mani" not in path.name
        }


def spoil(store: ArtifactStore, place: tuple[str, str | None], fault: str) -> None:
    name, new = FAULTS.get(fault, ("{version}/rows.jsonl", b'{"text": "0ne"}\n'))
    version = store.current_version("study", *place)
    path = f"study/{place[0]}/{place[1] or '_'}/{name.format(version=version)}"
    if version is None or not is_there(store, path.removesuffix("/new")):
        return
    if new is None:
        delete(store, path)
    else:
        overwrite(store, path, new)


@pytest.mark.parametrize("kind", ["local", "memory"])
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=12))
@example(steps=[("put", PLACES[0], "one"), ("put", PLACES[0], "two"), ("damage", PLACES[0], "cut file")])
@example(steps=[("put", PLACES[0], "one"), ("put", PLACES[0], "two"), ("put", PLACES[0], "six")])
def test_cleaning_never_costs_a_result(kind: str, steps: list[tuple[str, tuple[str, str | None], str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = f"{folder}/root" if kind == "local" else f"memory://{uuid.uuid4().hex}"
        store = ArtifactStore(root, cache_dir=Path(folder) / "cache")
        expected = set(PLACES)
        for action, place, detail in [*steps, ("clean", PLACES[0], "")]:
            if action == "put":
                put(store, detail, asset=place[0], partition=place[1])
            elif action == "damage":
                spoil(store, place, detail)
            elif action == "refuse":
                store.refuse("study", *place, "broken", {})
            elif action == "expect":
                expected = expected | {place} if detail == "yes" else expected - {place}
            else:
                clean(store, expected)


def clean(store: ArtifactStore, expected: set[tuple[str, str | None]]) -> None:
    readable = {place: readable_content(store, place) for place in PLACES}
    versions = {place: store.versions("study", *place) for place in PLACES}
    refused = {place: store.refusal("study", *place) for place in PLACES}
    mapping: dict[str, list[str | None]] = {}
    for asset, partition in expected:
        mapping.setdefault(asset, []).append(partition)
    found = find_garbage(store, {"study": mapping})
    assert remove(store, found) == sum(item.size for item in found)
    for place in PLACES:
        if place not in expected:
            assert store.versions("study", *place) == []
            assert not store.exists("study", *place)
            continue
        assert readable_content(store, place) == readable[place]
        assert store.refusal("study", *place) == refused[place]
        try:
            current = store.check("study", *place).version
        except (MissingArtifact, DamagedArtifact):
            assert store.versions("study", *place) == versions[place]
        else:
            assert store.versions("study", *place) == [current]
    assert find_garbage(store, {"study": mapping}) == []
