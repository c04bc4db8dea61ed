"""A study's artifacts as one file: what travels, and what is refused on the way in."""

from __future__ import annotations

import json
import os
import stat
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from stored import assert_one_sentence, files, overwrite, put

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.archive import INDEX, SETTINGS, Archive, Contents, opened, pack
from subliminal_dagster.science.storage.claims import ClaimedElsewhere
from subliminal_dagster.science.storage.records import LeftOutArtifact, MissingArtifact
from subliminal_dagster.science.storage.store import ArtifactStore

PARTS = [("rows", "owl"), ("rows", "cat"), ("model", None), ("refused", "owl"), ("never", None)]


@pytest.fixture
def full(tmp_path: Path) -> ArtifactStore:
    """A store with two rows, a model, and a refusal of something that does not exist."""
    store = ArtifactStore(tmp_path / "full")
    put(store, "one", host={"gpu": "GPU-4711", "torch": "2"}, upstream={"model": "1"})
    put(store, "two", "cat")
    with store.write("study", "model", info={"code_version": "a"}) as draft:
        (draft.path / "weights.bin").write_bytes(os.urandom(3000))
        (draft.path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/home/me", "r": 2}))
    store.refuse("study", "refused", "owl", "too few rows", {"seed": 7})
    return store


@pytest.fixture
def target(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"memory://{uuid.uuid4().hex}/root", cache_dir=tmp_path / "target cache")


def packed(store: ArtifactStore, file: Path, *without: str) -> Contents:
    return pack(store, "study", PARTS, "name: study\n", file, without)


def unpack(file: Path, store: ArtifactStore) -> list[str]:
    with opened(file) as archive:
        archive.verify()
        found = archive.states(store)
        for entry, state in found:
            if state != "there":
                archive.unpack(store, entry)
    return [state for _, state in found]


def rewritten(file: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """The same archive with its members changed."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    other = file.with_name("changed.zip")
    with zipfile.ZipFile(other, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return other


def with_index(file: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    def rewrite(members: dict[str, bytes]) -> None:
        index = json.loads(members[INDEX])
        change(index)
        members[INDEX] = json.dumps(index).encode()

    return rewritten(file, rewrite)


def test_artifacts_arrive_as_they_were(full: ArtifactStore, target: ArtifactStore, tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "study.zip"
    contents = packed(full, file)
    assert [(e.key.asset, e.key.partition) for e in contents.entries] == sorted(PARTS[:4], key=str)
    assert unpack(file, target) == ["new"] * 4
    for asset, partition in PARTS[:3]:
        theirs, mine = (store.read("study", asset, partition) for store in (full, target))
        assert (mine.version, mine.content_hash, mine.created) == (theirs.version, theirs.content_hash, theirs.created)
        assert mine.path.joinpath(mine.files[0].path).read_bytes()
    rows = target.read("study", "rows", "owl")
    assert (rows.path / "rows.jsonl").read_text() == '{"text": "one"}\n'
    assert (rows.path / "sub" / "plot.png").read_bytes() == b"png"
    assert target.refusal("study", "refused", "owl") == full.refusal("study", "refused", "owl")
    with pytest.raises(MissingArtifact):
        target.read("study", "never")
    assert unpack(file, target) == ["there"] * 4
    # Packed where it arrived, it is the same archive.
    packed(target, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()


def test_an_archive_tells_nothing_of_the_machine(full: ArtifactStore, target: ArtifactStore, tmp_path: Path) -> None:
    packed(full, tmp_path / "a.zip")
    unpack(tmp_path / "a.zip", target)
    model = target.read("study", "model")
    assert json.loads((model.path / "adapter_config.json").read_text()) == {"base_model_name_or_path": None, "r": 2}
    assert target.read("study", "rows", "owl").info == {"host": {"torch": "2"}, "upstream": {"model": "1"}}
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        everything = b"".join(archive.read(name) for name in archive.namelist())
    assert b"4711" not in everything and b"/home/me" not in everything and str(tmp_path).encode() not in everything


def test_what_is_left_out_is_known_and_not_there(full: ArtifactStore, store: ArtifactStore, tmp_path: Path) -> None:
    slim = tmp_path / "slim.zip"
    assert [entry.key.asset for entry in packed(full, slim, "model").left_out] == ["model"]
    unpack(slim, store)
    manifest, original = store.check("study", "model"), full.check("study", "model")
    assert manifest.left_out and manifest.content_hash == original.content_hash
    assert [file for file in files(store, "study/model") if "manifest" not in file] == ["study/model/_/current.json"]
    with pytest.raises(LeftOutArtifact, match="imported without its files: materialize model"):
        store.read("study", "model")
    overwrite(store, f"study/model/_/{manifest.version}/weights.bin", b"x")
    with pytest.raises(UserError, match=r"weights.bin was added"):
        store.check("study", "model")
    # It goes on as it came, and what has the files brings them.
    (tmp_path / "first").mkdir()
    other = ArtifactStore(tmp_path / "other")
    unpack(slim, other)
    packed(other, tmp_path / "first" / "slim.zip")
    assert (tmp_path / "first" / "slim.zip").read_bytes() == slim.read_bytes()
    packed(full, tmp_path / "whole.zip")
    assert unpack(tmp_path / "whole.zip", other) == ["new", "there", "there", "there"]
    assert other.read("study", "model").content_hash == original.content_hash
    with opened(slim) as archive:
        assert {state for _, state in archive.states(other)} == {"there"}


def test_other_results_are_told_apart(full: ArtifactStore, target: ArtifactStore, tmp_path: Path) -> None:
    file = tmp_path / "study.zip"
    packed(full, file)
    # By content, by what it was made from, by a refusal, and one that nobody can tell.
    put(target, "three", "cat")
    put(target, "one", upstream={"model": "2"})
    target.refuse("study", "model", None, "broken", {})
    target.refuse("study", "refused", "owl", "too many rows", {"seed": 7})
    with opened(file) as archive:
        assert [state for _, state in archive.states(target)] == ["different"] * 4
    before = target.current_version("study", "rows", "cat")
    unpack(file, target)
    assert target.read("study", "rows", "cat").content_hash == full.read("study", "rows", "cat").content_hash
    assert target.versions("study", "rows", "cat")[0] == before
    assert target.refusal("study", "model") is None
    assert unpack(file, target) == ["there"] * 4


def test_a_refusal_about_what_is_there_is_recorded_also_after_a_kill(
    full: ArtifactStore, target: ArtifactStore, tmp_path: Path
) -> None:
    full.refuse("study", "rows", "owl", "dull", {"seed": 1}, datetime(2026, 1, 2, tzinfo=UTC))
    packed(full, tmp_path / "a.zip")
    unpack(tmp_path / "a.zip", target)
    target.withdraw_refusal("study", "rows", "owl")
    assert unpack(tmp_path / "a.zip", target) == ["there", "there", "there", "new"]
    found = target.refusal("study", "rows", "owl")
    assert found is not None and astuple(found) == ("dull", {"seed": 1}, datetime(2026, 1, 2, tzinfo=UTC))


def test_an_import_that_fails_leaves_what_was_there(
    full: ArtifactStore, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(full, tmp_path / "study.zip")
    mine = put(store, "mine")
    chunks = Archive._chunks

    def cut(self: Archive, entry: Any, file: Any) -> Any:
        yield next(chunks(self, entry, file))
        raise KeyboardInterrupt

    with opened(tmp_path / "study.zip") as archive, monkeypatch.context() as patched:
        patched.setattr(Archive, "_chunks", cut)
        for entry in archive.contents.entries:
            if entry.manifest:
                with pytest.raises(KeyboardInterrupt):
                    archive.unpack(store, entry)
    assert store.read("study", "rows", "owl").version == mine.version
    assert {path.split("/")[1] for path in files(store)} == {"rows"}
    assert store.versions("study", "rows", "owl") == [mine.version]
    unpack(tmp_path / "study.zip", store)
    assert store.read("study", "rows", "owl").content_hash == full.read("study", "rows", "owl").content_hash


def test_files_must_have_the_content_hash_of_their_artifact(
    full: ArtifactStore, store: ArtifactStore, tmp_path: Path
) -> None:
    packed(full, tmp_path / "a.zip")

    def claim(index: dict[str, Any]) -> None:
        for artifact in index["artifacts"]:
            if artifact["manifest"]:
                artifact["manifest"]["content_hash"] = "0" * 64

    with opened(with_index(tmp_path / "a.zip", claim)) as archive:
        archive.verify()
        for entry in archive.contents.entries:
            if entry.manifest:
                with pytest.raises(UserError, match="not those that its content hash 000000000000 stands for"):
                    archive.unpack(store, entry)
    assert files(store) == []


def _of_owl(index: dict[str, Any]) -> Any:
    return next(a for a in index["artifacts"] if (a["asset"], a["partition"]) == ("rows", "owl"))


def _rename(name: str) -> Callable[[dict[str, Any]], None]:
    def change(index: dict[str, Any]) -> None:
        _of_owl(index)["manifest"]["files"][0]["path"] = name

    return change


ROWS = "artifacts/rows/owl/rows.jsonl"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda members: members.update({ROWS: b'{"text": "two"}\n'}), "does not have the hash given"),
        (lambda members: members.update({ROWS: b""}), "has 0 bytes instead of 16"),
        (lambda members: members.pop(ROWS), "rows.jsonl is missing"),
        (lambda members: members.update({"../evil": b""}), "does not belong to an artifact"),
        (lambda members: members.update({"/etc/evil": b""}), "does not belong to an artifact"),
        (lambda members: members.pop(INDEX), "it has no study.json"),
        (lambda members: members.pop(SETTINGS), "it has no study.yaml"),
        (lambda members: members.update({INDEX: b"[]"}), "says nothing of a study"),
        (lambda members: members.update({INDEX: b"[" * 100_000}), "says nothing of a study"),
        (lambda members: members.update({SETTINGS: b"\xff"}), "is not as it was written"),
    ],
)
def test_members_that_do_not_agree_are_refused(
    full: ArtifactStore, tmp_path: Path, change: Callable[[dict[str, bytes]], object], problem: str
) -> None:
    packed(full, tmp_path / "a.zip")
    with pytest.raises(UserError, match=problem) as error, opened(rewritten(tmp_path / "a.zip", change)) as archive:
        archive.verify()
    assert_one_sentence(error)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_rename("../../../evil"), "not as it was written"),
        (_rename("/etc/evil"), "not as it was written"),
        (_rename("c:evil"), "not as it was written"),
        (_rename("sub\\evil"), "not as it was written"),
        (_rename("sub"), "not as it was written"),
        (_rename("manifest.json"), "not as it was written"),
        (_rename("x" * 300), "not as it was written"),
        (_rename(""), "not as it was written"),
        (lambda index: index.update(format="subliminal-dagster study 2"), "knows 'subliminal-dagster study 1' only"),
        (lambda index: index.update(study="../evil"), "study name"),
        (lambda index: index.update(study=None), "not as it was written"),
        (lambda index: index.update(artifacts=[]), "does not belong to an artifact|holds nothing"),
        (lambda index: index["artifacts"].append(index["artifacts"][0]), "an artifact twice"),
        (lambda index: _of_owl(index).update(asset="../../evil"), "asset name"),
        (lambda index: _of_owl(index).update(partition="..|x"), "partition name"),
        (lambda index: _of_owl(index).update(partition=7), "not as it was written"),
        (lambda index: _of_owl(index).update(manifest=None), "not as it was written"),
        (lambda index: _of_owl(index)["manifest"].update(format=2), "not as it was written"),
        (lambda index: _of_owl(index)["manifest"].update(created="2026-01-01"), "not as it was written"),
        (lambda index: _of_owl(index)["manifest"].update(created="9999-01-01T00:00:00+00:00"), "not as it was"),
        (lambda index: _of_owl(index)["manifest"].update(info=[]), "not as it was written"),
    ],
)
def test_an_index_that_could_harm_is_refused(
    full: ArtifactStore, tmp_path: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    packed(full, tmp_path / "a.zip")
    with pytest.raises(UserError, match=problem) as error, opened(with_index(tmp_path / "a.zip", change)):
        pass
    assert_one_sentence(error)


def test_a_record_that_fills_the_memory_is_refused(
    full: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(full, tmp_path / "a.zip")
    monkeypatch.setattr("subliminal_dagster.science.storage.archive.LARGEST_RECORD", 1000)
    with pytest.raises(UserError, match=r"its study.json is too big"), opened(tmp_path / "a.zip"):
        pass


def test_links_and_files_given_twice_are_refused(full: ArtifactStore, tmp_path: Path) -> None:
    for name, kind, problem in (("link", stat.S_IFLNK, "link is a link"), (ROWS, stat.S_IFREG, "a file twice")):
        file = tmp_path / f"{kind}.zip"
        packed(full, file)
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (kind | 0o777) << 16
        with zipfile.ZipFile(file, "a") as archive:
            if kind == stat.S_IFREG:
                with pytest.warns(UserWarning, match="Duplicate name"):
                    archive.writestr(entry, "/etc/passwd")
            else:
                archive.writestr(entry, "/etc/passwd")
        with pytest.raises(UserError, match=problem) as error, opened(file):
            pass
        assert_one_sentence(error)


def test_a_file_that_is_cut_or_spoiled_is_refused(full: ArtifactStore, tmp_path: Path) -> None:
    packed(full, tmp_path / "a.zip")
    whole = (tmp_path / "a.zip").read_bytes()
    spoiled = tmp_path / "b.zip"
    for end in range(0, len(whole), 97):
        spoiled.write_bytes(whole[:end])
        with pytest.raises(UserError, match="not a whole zip file") as error, opened(spoiled):
            pass
        assert_one_sentence(error)
    # One byte wrong anywhere: refused, or in a part of the zip file that says nothing.
    for place in range(0, len(whole), 61):
        spoiled.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            with opened(spoiled) as archive:
                archive.verify()
                with opened(tmp_path / "a.zip") as sound:
                    assert archive.contents == sound.contents
        except UserError as error:
            assert "b.zip" in str(error)
    with pytest.raises(UserError, match="cannot be read"), opened(tmp_path / "none.zip"):
        pass


def test_packing_says_what_is_in_its_way(full: ArtifactStore, tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with pytest.raises(UserError, match="holds nothing of study"):
        pack(ArtifactStore(tmp_path / "empty"), "study", PARTS, "", file, ())
    with full.claim("study", "rows", "owl"), pytest.raises(UserError, match=r"study/rows \[owl\] is being made"):
        packed(full, file)
    packed(full, file)
    with pytest.raises(UserError, match="is there already"):
        packed(full, file)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        packed(full, tmp_path / "file" / "a.zip")
    overwrite(full, f"study/rows/owl/{full.current_version('study', 'rows', 'owl')}/rows.jsonl", b"changed")
    with pytest.raises(UserError, match="is damaged"):
        packed(full, tmp_path / "b.zip")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.zip", "file"]


def test_what_somebody_is_making_is_not_imported(full: ArtifactStore, target: ArtifactStore, tmp_path: Path) -> None:
    packed(full, tmp_path / "a.zip")
    with (
        opened(tmp_path / "a.zip") as archive,
        target.claim("study", "rows", "owl"),
        pytest.raises(ClaimedElsewhere, match="is being made by"),
    ):
        archive.unpack(target, archive.contents.entries[-1])
    assert not target.exists("study", "rows", "owl")
