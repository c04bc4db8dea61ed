"""A refusal holds until there is something new to judge."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from stored import OWL, assert_one_sentence, cut, files, overwrite, pointer_saying, put, remove_manifest

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.records import MissingArtifact
from subliminal_dagster.science.storage.store import ArtifactStore


def test_refusal_holds_until_withdrawn(store: ArtifactStore) -> None:
    assert store.refusal("study", "rows", "owl") is None
    store.withdraw_refusal("study", "rows", "owl")
    before = datetime.now(UTC)
    store.refuse("study", "rows", "owl", "too few rows", {"seed": 7, "upstream": {"a": "b"}})
    refusal = store.refusal("study", "rows", "owl")
    assert refusal is not None
    assert (refusal.reason, refusal.made_from) == ("too few rows", {"seed": 7, "upstream": {"a": "b"}})
    assert before <= refusal.created <= datetime.now(UTC)
    assert store.refusal("study", "rows", "cat") is None
    assert store.refusal("study", "rows") is None
    assert not store.exists("study", "rows", "owl")
    with pytest.raises(MissingArtifact):
        store.check("study", "rows", "owl")
    store.refuse("study", "rows", "owl", "still too few", {})
    refusal = store.refusal("study", "rows", "owl")
    assert refusal is not None and refusal.reason == "still too few"
    store.withdraw_refusal("study", "rows", "owl")
    assert store.refusal("study", "rows", "owl") is None


def test_new_version_ends_a_refusal_and_can_be_refused(store: ArtifactStore) -> None:
    store.refuse("study", "rows", "owl", "none yet", {})
    first = put(store)
    assert store.refusal("study", "rows", "owl") is None
    store.refuse("study", "rows", "owl", "broken", {})
    assert store.read("study", "rows", "owl") == first
    assert store.check("study", "rows", "owl").version == first.version
    with pytest.raises(ZeroDivisionError), store.write("study", "rows", "owl"):
        raise ZeroDivisionError
    assert store.refusal("study", "rows", "owl") is not None
    for text in ("two", "three"):
        put(store, text)
        assert store.refusal("study", "rows", "owl") is None
    assert f"{OWL}/refused.json" not in files(store)


def test_refusal_of_a_version_replaced_since_does_not_count(local_store: ArtifactStore) -> None:
    """As after a writer that was killed between the new pointer and the end of the refusal."""
    path = put(local_store).path.parent / "refused.json"
    local_store.refuse("study", "rows", "owl", "broken", {})
    left = path.read_bytes()
    put(local_store, "two")
    path.write_bytes(left)
    assert local_store.refusal("study", "rows", "owl") is None


@pytest.mark.parametrize("damage", [pointer_saying("{"), remove_manifest, cut])
def test_refusal_of_a_damaged_artifact_holds(local_store: ArtifactStore, damage: Any) -> None:
    folder = put(local_store).path
    local_store.refuse("study", "rows", "owl", "broken", {})
    damage(folder)
    assert local_store.refusal("study", "rows", "owl") is not None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "5", "{}", '{"reason": "x", "made_from": 3, "created": "y"}', "\xff"]
)
def test_unreadable_refusal_counts_as_none(store: ArtifactStore, content: str) -> None:
    store.refuse("study", "rows", None, "broken", {})
    overwrite(store, "study/rows/_/refused.json", content.encode("latin-1"))
    assert store.refusal("study", "rows") is None
    store.refuse("study", "rows", None, "broken", {})
    assert store.refusal("study", "rows") is not None


def test_refusal_needs_facts_that_json_can_hold(store: ArtifactStore) -> None:
    store.refuse("study", "rows", "owl", "broken", {})
    with pytest.raises(TypeError):
        store.refuse("study", "rows", "owl", "still broken", {"x": object()})
    refusal = store.refusal("study", "rows", "owl")
    assert refusal is not None and refusal.reason == "broken"


def test_refusal_on_a_full_disk_leaves_the_old(local_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    local_store.refuse("study", "rows", "owl", "broken", {})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match="full") as error:
            local_store.refuse("study", "rows", "owl", "still broken", {})
    assert_one_sentence(error)
    refusal = local_store.refusal("study", "rows", "owl")
    assert refusal is not None and refusal.reason == "broken"
    assert [path.name for path in Path(local_store.root, OWL).iterdir()] == ["refused.json"]
