"""What a process may use."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch

from subliminal_dagster.science.processes import SHARED_CORES, cores_here, side_by_side


def test_beside_others_a_process_may_use_what_they_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SHARED_CORES, raising=False)
    assert cores_here() == torch.get_num_threads()
    monkeypatch.setenv(SHARED_CORES, "7")
    assert cores_here() == 7


def process_and_threads(item: int) -> tuple[int, int, int]:
    return item, os.getpid(), torch.get_num_threads()


@pytest.mark.parametrize("items", [[], [5], [5, 6, 7]])
def test_each_item_is_made_in_a_process_of_one_thread_however_few_are_left(items: list[int]) -> None:
    found = dict(side_by_side({item: partial(process_and_threads, item) for item in items}, 2))
    assert sorted(found) == items
    assert all(made[0] == item and made[1] != os.getpid() and made[2] == 1 for item, made in found.items())
    assert len({made[1] for made in found.values()}) <= 2


def test_one_process_is_this_one() -> None:
    found = list(side_by_side({item: partial(process_and_threads, item) for item in (5, 6)}, 1))
    assert found == [(item, (item, os.getpid(), torch.get_num_threads())) for item in (5, 6)]
