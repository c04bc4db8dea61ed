"""What a process may use."""

from __future__ import annotations

import pytest
import torch

from subliminal_dagster.science.processes import SHARED_CORES, cores_here


def test_beside_others_a_process_may_use_what_they_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SHARED_CORES, raising=False)
    assert cores_here() == torch.get_num_threads()
    monkeypatch.setenv(SHARED_CORES, "7")
    assert cores_here() == 7
