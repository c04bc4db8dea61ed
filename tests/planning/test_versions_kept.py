"""No asset's version changes unseen: what users have made stays fresh, or the change is meant."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning import code_slice
from subliminal_dagster.planning.code_slice import as_before, reshaped, reshaped_entry, slice_of
from subliminal_dagster.science.settings.study_file import load_study, shipped_studies

VERSIONS: dict[str, str] = json.loads((Path(__file__).with_name("versions.json")).read_text())


@pytest.mark.parametrize("study", shipped_studies())
def test_versions_are_those_that_were_recorded(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBLIMINAL_JUDGE_MODEL", raising=False)
    found = {f"{study}/{name}": node.recipe.version for name, node in study_frame(load_study(study)).nodes.items()}
    recorded = {name: version for name, version in VERSIONS.items() if name.startswith(f"{study}/")}
    changed = sorted(name for name in found.keys() | recorded.keys() if found.get(name) != recorded.get(name))
    assert not changed, "if this is meant, say so in the changelog and run `python scripts/versions.py record`"


def now(function: str) -> dict[str, str]:
    """The slice of a function under the hashes that it has now."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_slice, "reshaped", functools.cache(dict))
        return slice_of(*function.split(":"))


def test_every_entry_counts() -> None:
    for function, entry in reshaped().items():
        before = reshaped_entry(as_before(function, now(function)), now(function))
        assert before == entry, f"{function} was edited since: run `python scripts/versions.py keep`"


SLICES = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["11.1", "22.2", "33.3"]), min_size=1)


@given(before=SLICES, now=SLICES, edited=SLICES)
def test_a_slice_is_that_before_until_somebody_edits_it(
    before: dict[str, str], now: dict[str, str], edited: dict[str, str]
) -> None:
    entry = reshaped_entry(before, now)
    assert (entry is None) == (before == now)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_slice, "reshaped", lambda: {"module:made": entry} if entry else {})
        assert as_before("module:made", now) == before
        assert as_before("module:other", now) == now
        if edited not in (now, before):
            found = as_before("module:made", edited)
            assert found != before
            # What is neither old nor new is shown as it is.
            for name, each in edited.items():
                assert found.get(name) == each or each == now.get(name) or name in before
