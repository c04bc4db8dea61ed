"""A remote store is looked at in few rounds of requests, and says of each artifact what it says when asked alone."""

from __future__ import annotations

import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.memory import MemoryFileSystem

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.frame import Frame, label
from subliminal_dagster.planning.planner import make_plan
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.snapshot import StoreSnapshot
from subliminal_dagster.science.storage.store import ArtifactStore


class CountedMemory(MemoryFileSystem):
    """Says what it is asked; many files fetched at once are one request."""

    cachable = False

    def cat(self, path: list[str], recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> dict[str, Any]:
        REQUESTS.append("cat")
        found: dict[str, Any] = {}
        for each in path:
            try:
                found[each] = super().cat_file(each)
            except FileNotFoundError as error:
                found[each] = error
        return found

    def cat_file(self, path: str, *arguments: Any, **options: Any) -> bytes:
        REQUESTS.append("cat_file")
        content: bytes = super().cat_file(path, *arguments, **options)
        return content

    def find(self, path: str, *arguments: Any, **options: Any) -> Any:
        REQUESTS.append("find")
        return super().find(path, *arguments, **options)

    def ls(self, path: str, *arguments: Any, **options: Any) -> Any:
        REQUESTS.append("ls")
        return super().ls(path, *arguments, **options)


REQUESTS: list[str] = []


class FarMemory(AsyncFileSystemWrapper):
    """The files of `memory://` behind a file system that fetches many at once."""

    def __init__(self) -> None:
        super().__init__(CountedMemory())

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        found: str = MemoryFileSystem._strip_protocol(path.replace("far://", "memory://"))
        return found


fsspec.register_implementation("far", FarMemory, clobber=True)


def remote_store(folder: Path, name: str = "root") -> ArtifactStore:
    return ArtifactStore(f"memory://{uuid.uuid4().hex}/{name}", cache_dir=folder)


def far(store: ArtifactStore, folder: Path) -> ArtifactStore:
    """A store in memory as one that fetches many files at once; `REQUESTS` are those from now on."""
    REQUESTS.clear()
    return ArtifactStore(store.root.replace("memory://", "far://"), cache_dir=folder)


def behind(store: ArtifactStore) -> tuple[Any, str]:
    """The file system of a store's root, and the path of the root there."""
    fs, path = fsspec.core.url_to_fs(store.root)
    return fs, path


def put(store: ArtifactStore, partition: str | None, **info: Any) -> str:
    with store.write("study", "rows", partition, info=info) as draft:
        (draft.path / "rows.jsonl").write_text(f'{{"text": "{partition}"}}\n')
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "plot.png").write_bytes(b"png")
    return draft.artifact.version


def answers(store: ArtifactStore | StoreSnapshot, partition: str | None) -> list[Any]:
    """What a store says of an artifact: what it gives, or the error and its sentence."""
    found: list[Any] = []
    for ask in (store.check, store.manifest, store.refusal):
        try:
            found.append(ask("study", "rows", partition))
        except UserError as error:
            found.append((type(error), str(error)))
    return found


def made(frame: Frame[Any], store: ArtifactStore) -> None:
    """An artifact for every part of the study, as if each had been made."""
    contents: dict[str, str] = {}
    for name, node in frame.nodes.items():
        for partition in frame.partitions(name):
            upstream = {label(*place): contents[label(*place)] for place in frame.inputs(name, partition)}
            recipe = node.recipe
            info = {
                "code_version": recipe.version,
                "settings": recipe.settings,
                "code": recipe.code,
                "upstream": upstream,
            }
            with store.write(frame.study.name, name, partition, info) as draft:
                (draft.path / "rows.json").write_text(f'["{label(name, partition)}"]')
            contents[label(name, partition)] = draft.artifact.content_hash


def study_with(animals: list[str]) -> Study:
    content = load_study("smollm2-135m-instruct").model_dump(mode="json")
    return Study.model_validate(content | {"animals": animals})


def test_plan_takes_as_few_requests_for_many_parts_as_for_few(tmp_path: Path) -> None:
    sizes, requests = [], []
    for animals in (["owl"], ["owl", "cat", "dog", "wolf", "eagle"]):
        frame, store = study_frame(study_with(animals)), remote_store(tmp_path)
        made(frame, store)
        plan = make_plan(frame, far(store, tmp_path))
        requests.append(REQUESTS.copy())
        assert len(plan.of("fresh")) == len(plan.parts)
        sizes.append(len(plan.parts))
    assert sizes[1] > 2 * sizes[0]
    # The study, its pointers and its manifests, and who is making what.
    assert requests == [["find", "cat", "cat", "find"]] * 2


def test_plan_of_a_remote_store_is_that_of_the_same_artifacts_here(tmp_path: Path) -> None:
    frame = study_frame(study_with(["owl", "cat"]))
    here, there = ArtifactStore(tmp_path / "here"), remote_store(tmp_path / "cache")
    made(frame, here)
    name = frame.study.name
    here.refuse(name, "teacher_lora", "owl", "too weak", here.manifest(name, "teacher_lora", "owl").info)
    shutil.rmtree(tmp_path / "here" / name / "number_set" / "cat")
    folder = here.read(name, "filtered_dataset", "control|1").path
    (folder / "rows.json").write_text("cut")
    fs, root = behind(there)
    fs.put(f"{tmp_path}/here/{name}", f"{root}/", recursive=True)
    plans = [make_plan(frame, store) for store in (here, there)]
    assert {part.status for part in plans[1].parts} == {"fresh", "stale", "missing", "blocked"}
    assert json.dumps([part.as_json() for part in plans[1].parts]) == json.dumps(
        [part.as_json() for part in plans[0].parts]
    ).replace(here.root, there.root)


MEMORY = MemoryFileSystem()


def rewritten(name: str, content: bytes | None) -> Callable[[ArtifactStore, str, str], None]:
    def damage(store: ArtifactStore, folder: str, version: str) -> None:
        path = f"{folder}/{name.format(version=version)}"
        if content is None:
            MEMORY.rm_file(path)
        else:
            MEMORY.pipe_file(path, content)

    return damage


def edited_pointer(**fields: str) -> Callable[[ArtifactStore, str, str], None]:
    def damage(store: ArtifactStore, folder: str, version: str) -> None:
        pointer = json.loads(MEMORY.cat_file(f"{folder}/current.json"))
        MEMORY.pipe_file(f"{folder}/current.json", json.dumps(pointer | fields).encode())

    return damage


def refused(of_now: bool) -> Callable[[ArtifactStore, str, str], None]:
    def refuse(store: ArtifactStore, folder: str, version: str) -> None:
        fields = {
            "reason": "too few",
            "made_from": {"seed": 1},
            "created": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
            "version": version if of_now else "20200101T000000.000000Z-00000000",
        }
        MEMORY.pipe_file(f"{folder}/refused.json", json.dumps(fields).encode())

    return refuse


STATES: dict[str, Callable[[ArtifactStore, str, str], None]] = {
    "fresh": lambda store, folder, version: None,
    "written-again": lambda store, folder, version: [put(store, folder.rpartition("/")[2]) for _ in range(3)] and None,
    "no-pointer": rewritten("current.json", None),
    "unreadable-pointer": rewritten("current.json", b"{"),
    "list-for-pointer": rewritten("current.json", b"[]"),
    "pointer-elsewhere": edited_pointer(version="20200101T000000.000000Z-00000000"),
    "pointer-up": edited_pointer(version="../../other"),
    "pointer-changed": edited_pointer(content_hash="0" * 64),
    "no-manifest": rewritten("{version}/manifest.json", None),
    "manifest-changed": rewritten("{version}/manifest.json", b"{}"),
    "file-missing": rewritten("{version}/rows.jsonl", None),
    "file-cut": rewritten("{version}/sub/plot.png", b"p"),
    "file-added": rewritten("{version}/sub/new", b""),
    "pointer-as-a-file": rewritten("{version}/current.json", b"{}"),
    "refused": refused(of_now=True),
    "refused-before": refused(of_now=False),
    "refused-unreadable": rewritten("refused.json", b"?"),
}


@pytest.mark.parametrize("at_once", [True, False], ids=["async", "threads"])
@pytest.mark.parametrize("root", ["root", "a[b]"])
def test_snapshot_says_what_the_store_says_of_each_artifact(tmp_path: Path, at_once: bool, root: str) -> None:
    store = remote_store(tmp_path, root)
    _, root_path = behind(store)
    for state, bring_about in STATES.items():
        version = put(store, state, seed=7)
        # A neighbour whose name goes on from this one's.
        put(store, f"{state}0")
        bring_about(store, f"{root_path}/study/rows/{state}", version)
    put(store, None, refused="no good")
    store.refuse("study", "rows", "refused-unmade", "none yet", {"seed": 2})
    if at_once:
        store = far(store, tmp_path)
    snapshot = store.snapshot("study")
    partitions = [*STATES, *(f"{state}0" for state in STATES), None, "refused-unmade", "never-made"]
    found = {partition: answers(snapshot, partition) for partition in partitions}
    assert found == {partition: answers(store, partition) for partition in partitions}
    sentences = {str(answer) for each in found.values() for answer in each}
    assert len(sentences) > len(STATES)


def test_snapshot_of_a_study_that_has_nothing(tmp_path: Path) -> None:
    store = remote_store(tmp_path)
    assert answers(store.snapshot("study"), "owl") == answers(store, "owl")
    with pytest.raises(UserError):
        store.snapshot("../up")
    with pytest.raises(ValueError, match="other"):
        store.snapshot("study").check("other", "rows", "owl")


@pytest.mark.parametrize("listed", [1, 0])
def test_version_written_while_looking_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    """Another machine writes twice, which prunes the version listed, right after the listing or the first fetch."""
    other = remote_store(tmp_path / "other")
    put(other, "owl")
    real, calls = CountedMemory.cat, 0

    def overtaken(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1 + listed:
            for _ in range(2):
                put(other, "owl")
        return real(*arguments, **options)

    monkeypatch.setattr(CountedMemory, "cat", overtaken)
    store = far(other, tmp_path)
    snapshot = store.snapshot("study")
    assert calls == 1 + listed
    assert answers(snapshot, "owl") == answers(store, "owl")
    assert snapshot.check("study", "rows", "owl").version == other.current_version("study", "rows", "owl")


def test_what_could_not_be_fetched_with_the_others_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = remote_store(tmp_path)
    put(store, "owl", seed=7)
    expected = answers(store, "owl")
    real, failed = MemoryFileSystem.cat_file, []

    def busy(self: MemoryFileSystem, path: str, *arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            failed.append(path)
            raise OSError("too many connections")
        return real(self, path, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", busy)
    assert answers(store.snapshot("study"), "owl") == expected
    assert failed


def test_local_store_is_looked_at_when_it_is_asked(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    snapshot = store.snapshot("study")
    put(store, "owl")
    assert answers(snapshot, "owl") == answers(store, "owl")
    path = Path(fsspec.core.url_to_fs(store.root)[1]) / "study/rows/owl" / store.versions("study", "rows", "owl")[0]
    (path / "rows.jsonl").write_text("cut")
    assert answers(snapshot, "owl") == answers(store, "owl") != []


@pytest.mark.parametrize("remote", [False, True])
def test_plan_says_who_is_making_a_part(tmp_path: Path, remote: bool) -> None:
    frame = study_frame(study_with(["owl"]))
    store = remote_store(tmp_path) if remote else ArtifactStore(tmp_path)
    with store.claim(frame.study.name, "teacher_lora", "owl"):
        plan = make_plan(frame, store)
    claimed = {part.place: part.as_json()["claimed"] for part in plan.parts if part.claimed}
    assert list(claimed) == [("teacher_lora", "owl")]
    assert f"process {os.getpid()} on " in claimed["teacher_lora", "owl"]
    assert not any(part.claimed for part in make_plan(frame, store).parts)
