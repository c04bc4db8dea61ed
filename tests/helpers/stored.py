"""What lies in a store, put there, looked at and spoiled behind its back."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.records import Artifact
from subliminal_dagster.science.storage.store import ArtifactStore

OWL = "study/rows/owl"
POINTER = f"{OWL}/current.json"


def put(
    store: ArtifactStore,
    text: str = "one",
    partition: str | None = "owl",
    asset: str = "rows",
    study: str = "study",
    **info: Any,
) -> Artifact:
    with store.write(study, asset, partition, info=info) as draft:
        (draft.path / "rows.jsonl").write_text(f'{{"text": "{text}"}}\n')
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "plot.png").write_bytes(b"png")
    return draft.artifact


def behind(store: ArtifactStore) -> tuple[Any, str]:
    """The file system of a store's root, and the path of the root there."""
    fs, path = fsspec.core.url_to_fs(store.root)
    fs.invalidate_cache()
    return fs, path


def content_of(store: ArtifactStore, path: str) -> bytes:
    fs, root = behind(store)
    found: bytes = fs.cat_file(f"{root}/{path}")
    return found


def overwrite(store: ArtifactStore, path: str, content: bytes) -> None:
    fs, root = behind(store)
    fs.makedirs(f"{root}/{path}".rpartition("/")[0], exist_ok=True)
    fs.pipe_file(f"{root}/{path}", content)


def delete(store: ArtifactStore, path: str) -> None:
    fs, root = behind(store)
    fs.rm(f"{root}/{path}", recursive=True)


def is_there(store: ArtifactStore, path: str) -> bool:
    fs, root = behind(store)
    return bool(fs.exists(f"{root}/{path}"))


def files(store: ArtifactStore, below: str = "") -> list[str]:
    """The files below a root, relative, scratch and claims left out unless they are asked for."""
    fs, root = behind(store)
    found = [str(path)[len(root) + 1 :] for path in fs.find(f"{root}/{below}")]
    return sorted(path for path in found if below.startswith(".") or not path.startswith("."))


def stored_bytes(store: ArtifactStore, path: str) -> int:
    fs, root = behind(store)
    return sum(fs.size(file) for file in fs.find(f"{root}/{path}"))


def beside_pointer(store: ArtifactStore) -> list[str]:
    """What lies in the folder of owl's rows: its versions, if all is as it should be."""
    fs, root = behind(store)
    names = [path.rpartition("/")[2] for path in fs.ls(f"{root}/{OWL}", detail=False)]
    return sorted(name for name in names if name != "current.json")


def drafts(folder: Path) -> list[Path]:
    """The drafts of the stores that a test has in its folder."""
    return list(folder.glob("*/.drafts/*"))


def rewrite(store: ArtifactStore, version: str, new_version: str | None = None, **changes: Any) -> None:
    """Change the manifest of the current version, or the name of that too, with a pointer that says so."""
    fs, root = behind(store)
    if new_version is not None:
        fs.mv(f"{root}/{OWL}/{version}", f"{root}/{OWL}/{new_version}", recursive=True)
        version, changes = new_version, {"version": new_version, **changes}
    path = f"{OWL}/{version}/manifest.json"
    manifest = json.dumps({**json.loads(content_of(store, path)), **changes}).encode()
    overwrite(store, path, manifest)
    point(store, version=version, manifest_sha256=hashlib.sha256(manifest).hexdigest())


def point(store: ArtifactStore, **changes: Any) -> None:
    """Change what the pointer says."""
    overwrite(store, POINTER, json.dumps({**json.loads(content_of(store, POINTER)), **changes}).encode())


def age(path: Path, seconds: float = 100) -> None:
    """Make a file, or a folder and all that is in it, look that much older."""
    for each in [*path.rglob("*"), path]:
        os.utime(each, ns=(0, each.stat().st_mtime_ns - int(seconds * 10**9)))


def assert_one_sentence(error: pytest.ExceptionInfo[UserError]) -> None:
    message = str(error.value)
    assert message.endswith(".") and ". " not in message and "\n" not in message


# Damage to the version in a local folder


def cut(folder: Path) -> None:
    os.truncate(folder / "rows.jsonl", 3)


def change(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"text": "0ne"}\n')


def change_view(folder: Path) -> None:
    (folder / "sub" / "plot.png").write_bytes(b"gnp")


def add(folder: Path) -> None:
    (folder / "sub" / "<b>new.txt").write_text("x")


def remove_file(folder: Path) -> None:
    (folder / "rows.jsonl").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def change_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))


def pointer_saying(content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder.parent / "current.json").write_text(content)

    return damage


def pointer_with(**changes: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder.parent / "current.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, "rows.jsonl"),
    "changed": (change, "rows.jsonl"),
    "changed view": (change_view, "sub/plot.png"),
    "added": (add, "sub/?b?new.txt"),
    "removed": (remove_file, "rows.jsonl"),
    "no manifest": (remove_manifest, "manifest.json"),
    "changed manifest": (change_manifest, "manifest.json"),
    "garbled pointer": (pointer_saying('{"version": '), "current.json"),
    "empty pointer": (pointer_saying(""), "current.json"),
    "list for pointer": (pointer_saying("[1]"), "current.json"),
    "points outside": (pointer_with(version="../../../etc"), "current.json"),
    "points to nothing": (pointer_with(version="20200101T000000.000000Z-00000000"), "manifest.json"),
    "points to other content": (pointer_with(content_hash="0" * 64), "current.json"),
}
"""What can be done to a version, and what the message about it names."""
