"""Names that cannot be folders are refused before anything is touched, and keys and paths are two ways to say one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.keys import Key, key_at
from subliminal_dagster.science.storage.store import ArtifactStore


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a..b", "../x", "a/b", "/etc", "A", "_", ".drafts", "a\n", "a b", "<script>", "\x1b[31m"]
)
def test_names_that_are_no_folder_names_are_refused(local_store: ArtifactStore, name: str) -> None:
    for key in [(name, "rows", "owl"), ("study", name, "owl"), ("study", "rows", name)]:
        for act in (
            local_store.read,
            local_store.check,
            local_store.exists,
            local_store.manifest,
            local_store.refusal,
            local_store.withdraw_refusal,
            local_store.versions,
            local_store.clear_workspace,
        ):
            with pytest.raises(UserError, match="name") as error:
                act(*key)
            assert not set(str(error.value)) & set("<>\n\x1b")
        with pytest.raises(UserError), local_store.write(*key):
            pass
        with pytest.raises(UserError):
            local_store.refuse(*key, "broken", {})
    with pytest.raises(UserError):
        local_store.workspace("study", "rows", "owl", name)
    assert not Path(local_store.root).exists()


NAMES = st.from_regex(r"[a-z0-9]([._-]?[a-z0-9]){0,5}", fullmatch=True)


@given(study=NAMES, asset=NAMES, partition=st.one_of(st.none(), st.lists(NAMES, min_size=1, max_size=3).map("|".join)))
def test_a_key_is_found_from_its_path(study: str, asset: str, partition: str | None) -> None:
    key = Key(study, asset, partition)
    assert key_at(key.relative) == key


@pytest.mark.parametrize(
    "path",
    ["", "study", "study/rows", "study/rows/", "study/rows/owl/deeper", "study/Rows/owl", "../rows/owl", "s/a/@"],
)
def test_other_paths_are_of_no_key(path: str) -> None:
    assert key_at(path) is None
