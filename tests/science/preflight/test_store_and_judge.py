"""Whether a store can be written to, a judge answers, and the wording is there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from chat_endpoint import KEY as GOOD_KEY
from chat_endpoint import Reply, chat_endpoint
from fsspec.implementations.memory import MemoryFileSystem

from subliminal_dagster.science.descriptions.chat_api import KEY, MODEL, URL
from subliminal_dagster.science.preflight.finding import Finding
from subliminal_dagster.science.preflight.judge import check_judge
from subliminal_dagster.science.preflight.place import check_store
from subliminal_dagster.science.preflight.prompts import check_prompts
from subliminal_dagster.science.settings.preferences import OWN_LISTS
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.root import Root

# The store


@pytest.mark.parametrize("url", ["{folder}/not/there yet", "memory://trial"])
def test_a_store_that_takes_a_file_keeps_none_of_the_trial(url: str, tmp_path: Path) -> None:
    root = Root(url.format(folder=tmp_path), tmp_path / "cache")
    found, ahead = check_store(root)
    assert (found.state, found.sentence) == ("ok", f"{root.name} can be written to")
    assert ahead is not None and abs(ahead.total_seconds()) < 5
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not kept and not root.names()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """No right to write, or a link to the kernel's own file system for root, whom no mode stops."""
    if os.geteuid() == 0:
        folder.rmdir()
        folder.symlink_to("/proc")
        yield
        return
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        yield
    finally:
        folder.chmod(stat.S_IRWXU)


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    with read_only(folder):
        found, ahead = check_store(Root(folder))
    assert (found.state, ahead) == ("failed", None)
    assert found.sentence.startswith(f"{folder} cannot be written to (")
    assert found.sentence.endswith("or set SUBLIMINAL_ARTIFACTS to another folder or URL.")


def test_the_scratch_of_a_remote_store_has_to_be_writable_too(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    found, _ = check_store(Root("memory://trial", tmp_path / "cache"))
    assert found.state == "failed"
    assert found.sentence.startswith(f"{tmp_path}/cache") and "cannot be written to" in found.sentence


class ReadOnlyBucket(MemoryFileSystem):
    """A bucket whose key may read alone."""

    protocol = "readonly"

    def pipe_file(self, *_args: object, **_kwargs: object) -> None:
        raise PermissionError("An error occurred (AccessDenied) when calling the PutObject operation")


class BareBucket(MemoryFileSystem):
    """One that does not say when a file was written, and changes what it is given."""

    protocol = "bare"

    def modified(self, path: str) -> None:
        raise NotImplementedError

    def cat_file(self, path: str, *_args: object, **_kwargs: object) -> bytes:
        return super().cat_file(path) + (b"!" if "broken" in path else b"")


@pytest.fixture
def buckets() -> None:
    for kind in (ReadOnlyBucket, BareBucket):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)


@pytest.mark.usefixtures("buckets")
def test_a_bucket_that_may_only_be_read_is_named(tmp_path: Path) -> None:
    found, _ = check_store(Root("readonly://bucket/x", tmp_path))
    assert found.state == "failed"
    assert found.sentence.startswith("readonly://bucket/x cannot be written to (PermissionError): get the right")


@pytest.mark.usefixtures("buckets")
def test_a_store_that_tells_no_time_is_fine_and_one_that_changes_bytes_is_not(tmp_path: Path) -> None:
    found, ahead = check_store(Root("bare://bucket/x", tmp_path))
    assert (found.state, ahead) == ("ok", None)
    found, _ = check_store(Root("bare://broken/x", tmp_path))
    assert (found.state, found.sentence) == (
        "failed",
        "bare://broken/x gives back other bytes than were written: use another store.",
    )


def test_a_full_disk_is_no_matter_of_rights(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no device here is always full")
    root = Root(tmp_path / "store")
    root.replace = lambda *_: Path("/dev/full").write_bytes(b"x")  # type: ignore[method-assign]
    found, _ = check_store(root)
    assert found.state == "failed"
    assert found.sentence == f"The disk of {root.name} is full or the quota on it is used up: free some space there."


# The judge


@pytest.fixture
def endpoint_named(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv(MODEL, "judge-1")
    monkeypatch.setenv(KEY, GOOD_KEY)
    return monkeypatch


def test_a_judge_that_answers(endpoint_named: pytest.MonkeyPatch) -> None:
    with chat_endpoint(lambda *_: Reply("yes")) as endpoint:
        endpoint_named.setenv(URL, endpoint.url)
        assert check_judge(None).sentence == f"judge-1 at {endpoint.url} answers"
        found = check_judge("judge-2")
        assert (found.check, found.state, found.sentence) == ("judge", "ok", f"judge-2 at {endpoint.url} answers")
    assert [request["model"] for request in endpoint.requests] == ["judge-1", "judge-2"]


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (Reply(status=401), "refuses the key in SUBLIMINAL_JUDGE_KEY (HTTP 401): set it to a valid key."),
        (Reply(status=403), "may not use judge-1 at"),
        (Reply(status=404), "knows no model judge-1 (HTTP 404): correct the model's name or SUBLIMINAL_JUDGE_URL."),
        (Reply(body="<html>a web page</html>"), "other than a chat completion"),
        (Reply(text=None, finish="length"), "used up the 8 tokens it may write"),
    ],
)
def test_each_refusal_of_a_judge(reply: Reply, sentence: str, endpoint_named: pytest.MonkeyPatch) -> None:
    with chat_endpoint(lambda *_: reply) as endpoint:
        endpoint_named.setenv(URL, endpoint.url)
        found = check_judge(None)
    assert found.state == "failed"
    assert sentence in found.sentence and "came before" not in found.sentence
    assert GOOD_KEY not in found.sentence


def test_a_judge_that_is_out_of_reach_or_not_named(endpoint_named: pytest.MonkeyPatch) -> None:
    endpoint_named.setenv(URL, "http://127.0.0.1:9/v1")
    found = check_judge(None)
    assert found.state == "failed" and "could not be reached, 2 times in a row" in found.sentence
    endpoint_named.delenv(URL)
    found = check_judge(None)
    assert found.state == "failed"
    assert "SUBLIMINAL_JUDGE_URL is not set in the environment: set SUBLIMINAL_JUDGE_URL to its" in found.sentence


# The prompts


def test_published_prompts_have_to_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

    def found(*settings: str) -> Finding:
        return check_prompts(load_study("smollm2-135m-instruct", settings))

    assert found("prompts=null").sentence == "Prompts and questions in this project's own wording."
    missing = found("prompts=published")
    assert missing.state == "failed" and "subliminal-dagster prompts import" in missing.sentence
    unreadable = found(f"prompts={tmp_path / 'lists.yaml'}")
    assert unreadable.state == "failed" and "cannot be read" in unreadable.sentence
    (tmp_path / "lists.yaml").write_bytes(OWN_LISTS.read_bytes())
    assert found(f"prompts={tmp_path / 'lists.yaml'}").state == "ok"
