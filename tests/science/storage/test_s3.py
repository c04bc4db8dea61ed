"""The store on an object store that speaks S3, over HTTP: claims, pointers, halves, and what a user can mend."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import BUCKET, s3_server
from safetensors.numpy import load_file, save_file

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage import claims
from subliminal_dagster.science.storage.claims import ClaimedElsewhere
from subliminal_dagster.science.storage.records import MissingArtifact
from subliminal_dagster.science.storage.retention import find_garbage, remove
from subliminal_dagster.science.storage.root import OutOfReach
from subliminal_dagster.science.storage.store import ArtifactStore


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def root(server: str, tmp_path: Path) -> str:
    return f"s3://{BUCKET}/{tmp_path.name}"


def store(root: str, cache: Path) -> ArtifactStore:
    return ArtifactStore(root, cache_dir=cache)


def write(to: ArtifactStore, asset: str, partition: str | None, value: float) -> str:
    with to.write("study", asset, partition) as draft:
        save_file({"x": np.full((1_500_000,), value, dtype=np.float32)}, draft.path / "x.safetensors")
    assert draft.artifact is not None
    return draft.artifact.content_hash


def test_what_one_machine_writes_another_reads_and_plans_by(root: str, tmp_path: Path) -> None:
    here, there = store(root, tmp_path / "here"), store(root, tmp_path / "there")
    first = write(here, "child_lora", "owl|1", 1.0)
    second = write(here, "child_lora", "owl|1", 2.0)
    found = there.read("study", "child_lora", "owl|1")
    assert found.content_hash == second != first
    assert (load_file(found.path / "x.safetensors")["x"] == 2.0).all()
    local = ArtifactStore(tmp_path / "local")
    assert write(local, "child_lora", "owl|1", 2.0) == second
    assert there.snapshot("study").check("study", "child_lora", "owl|1").content_hash == second
    expected = {"study": {"child_lora": ["owl|1"]}}
    with there.write("study", "child_lora", "owl|1") as draft:
        (draft.path / "x.json").write_text("{}")
    assert remove(there, find_garbage(there, expected)) > 0
    assert here.read("study", "child_lora", "owl|1").path.joinpath("x.json").exists()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims give no sign of life, and one of another host is taken for abandoned at the first look."""
    monkeypatch.setattr(claims, "ABANDONED_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(claims, "BEAT_SECONDS", 3600.0)


@contextmanager
def on_another_host() -> Iterator[None]:
    """What is claimed in the block is claimed by a host whose processes cannot be asked from here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "another-node")
        yield


@pytest.mark.usefixtures("silent")
def test_a_part_is_claimed_once_across_hosts_and_taken_over_from_a_dead_one(root: str, tmp_path: Path) -> None:
    host = socket.gethostname()
    here, there = store(root, tmp_path / "here"), store(root, tmp_path / "there")
    with here.claim("study", "number_set", "owl"):
        with pytest.raises(ClaimedElsewhere, match=host), there.claim("study", "number_set", "owl"):
            pass
        assert set(there.claims("study")) == {("number_set", "owl")}
    assert there.claims("study") == {}
    # Its claim counts until it has been silent for a while.
    with on_another_host():
        dead = here.claim("study", "number_set", "fox")
        dead.__enter__()
    with there.claim("study", "number_set", "fox"):
        assert set(there.claims("study")) == {("number_set", "fox")}


@pytest.mark.usefixtures("silent")
def test_what_a_process_made_that_stood_still_meanwhile_is_dropped(root: str, tmp_path: Path) -> None:
    suspended, there = store(root, tmp_path / "suspended"), store(root, tmp_path / "there")
    with ExitStack() as held:
        with on_another_host():
            held.enter_context(suspended.claim("study", "sae", "09"))
        with there.claim("study", "sae", "09"):
            second = write(there, "sae", "09", 2.0)
        with pytest.raises(UserError, match="was taken over by another process"):
            write(suspended, "sae", "09", 1.0)
    assert there.read("study", "sae", "09").content_hash == second


def test_half_an_artifact_is_none(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = store(root, tmp_path / "here")

    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        # The files are up; the pointer, which is last, is not.
        broken.setattr(type(here.opened), "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            write(here, "sae", "09", 1.0)
    there = store(root, tmp_path / "there")
    assert not there.exists("study", "sae", "09")
    with pytest.raises(MissingArtifact):
        there.snapshot("study").check("study", "sae", "09")


def test_work_that_another_machine_goes_on_with_lies_where_it_is_said(root: str, tmp_path: Path) -> None:
    one = ArtifactStore(root, cache_dir=tmp_path / "here", work_dir=tmp_path / "shared")
    other = ArtifactStore(root, cache_dir=tmp_path / "there", work_dir=tmp_path / "shared")
    (one.workspace("study", "child_lora", "owl|1", "fingerprint") / "checkpoint").write_text("12")
    assert (other.workspace("study", "child_lora", "owl|1", "fingerprint") / "checkpoint").read_text() == "12"


def test_what_a_user_can_mend_is_one_sentence(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = store("s3://no-such-bucket/x", tmp_path / "cache")
    with pytest.raises(UserError, match=r"s3://no-such-bucket/x cannot be used .*: check its name"):
        write(nowhere, "sae", "09", 1.0)
    with pytest.raises(UserError, match="cannot be used"), nowhere.claim("study", "sae", "09"):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    silent = store(root, tmp_path / "cache")
    with pytest.raises(UserError, match=r"cannot be used .*endpoint"):
        silent.snapshot("study")
    with pytest.raises(UserError, match=r"cannot be used .*endpoint"):
        silent.claims("study")
    with pytest.raises(OutOfReach, match=r"cannot be used .*endpoint"):
        silent.read("study", "sae", "09")
    with pytest.raises(OutOfReach, match=r"cannot be used .*endpoint"), silent.claim("study", "sae", "09"):
        pass
    with pytest.raises(OutOfReach, match=r"cannot be used .*endpoint"):
        write(silent, "sae", "09", 1.0)
    monkeypatch.undo()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_refusal_that_does_not_name_its_condition_is_one(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s3fs knows a refused creation by an element of the answer that not all servers send: else it is an OSError."""
    exceptions = pytest.importorskip("botocore.exceptions")
    kind = fsspec.get_filesystem_class("s3")
    creating = kind.pipe_file

    def unnamed(self: Any, path: str, value: bytes, **more: Any) -> None:
        try:
            creating(self, path, value, **more)
        except FileExistsError:
            answer: Any = {"Error": {}, "ResponseMetadata": {"HTTPStatusCode": 412}}
            raise OSError(22, "Precondition Failed") from exceptions.ClientError(answer, "PutObject")

    monkeypatch.setattr(kind, "pipe_file", unnamed)
    here, there = store(root, tmp_path / "here"), store(root, tmp_path / "there")
    with here.claim("study", "sae", "09"), pytest.raises(ClaimedElsewhere), there.claim("study", "sae", "09"):
        pass
    with there.claim("study", "sae", "09"):
        assert set(here.claims("study")) == {("sae", "09")}


class Forgetful(MemoryFileSystem):
    """A file system that takes the wish to create for one to write."""

    protocol = "forgetful"
    store: dict[str, Any] = {}  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        super().pipe_file(path, value, mode="overwrite", **more)


def test_a_store_in_which_nothing_can_be_claimed_is_refused_for_writing_alone(tmp_path: Path) -> None:
    fsspec.register_implementation("forgetful", Forgetful, clobber=True)
    found = ArtifactStore("forgetful://x/root", cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match="creates a file although there is one"), found.claim("study", "sae", "09"):
        pass
    assert found.claims("study") == {} and not found.exists("study", "sae", "09")
