"""The graphics card: whether there is one, its driver, and whether torch can use it.

Belongs here: asking nvidia-smi and torch, and judging what they say. Does not belong here: which process gets which
card (`execution.gpu_lease`), how much memory a stage needs (`memory`).

Part of no version: messages to users are not results.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from subliminal_dagster.science.preflight.finding import Finding, in_billions

CHECK = "card"

LARGE = 10**9
"""Parameters from which on a study is not for a CPU: a token of it is a second's work there."""

_ASKED_WITHIN_SECONDS = 120

# In a process of its own: one that has started CUDA keeps memory on the card until it ends, and a run goes on for days.
_ASK_TORCH = """
import json, torch, warnings
found = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": [], "problem": ""}
try:
    if torch.version.cuda is not None:
        with warnings.catch_warnings(record=True):
            torch.cuda.init()
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            found["devices"].append([torch.cuda.get_device_name(number), total, free])
except (RuntimeError, AssertionError) as error:
    found["problem"] = str(error)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Card:
    """A card as nvidia-smi names it, with the version of its driver."""

    name: str
    driver: str


@dataclass(frozen=True)
class Device:
    """A card that torch can use; memory in bytes, `free` what no process holds now."""

    name: str
    memory: int
    free: int


@dataclass(frozen=True)
class TorchFacts:
    """The installed torch: the CUDA version that it was built for (None: for the CPU), the cards it can use, in the
    order of CUDA_VISIBLE_DEVICES where that is set, and what it says where it can use none."""

    version: str
    cuda: str | None
    devices: tuple[Device, ...] = ()
    problem: str = ""


def cards_here() -> list[Card]:
    """This machine's cards, whether or not this process may use them; none where nvidia-smi is not there."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run(
        [program, "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    # A line that is not a card is an error message ("No devices were found").
    found = re.findall(r"^\s*(\S.*?)\s*,\s*(\d[\d.]+)\s*$", listed, re.MULTILINE)
    return [Card(name, driver) for name, driver in found]


def ask_torch() -> TorchFacts:
    """What the installed torch makes of this machine's cards; takes seconds."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, check=False, timeout=_ASKED_WITHIN_SECONDS
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        return TorchFacts("", None, problem=lines[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    devices = tuple(Device(*each) for each in found["devices"])
    return TorchFacts(found["version"], found["cuda"], devices, found["problem"])


def check_card(cards: Sequence[Card], torch: TorchFacts | None, parameters: int | None) -> Finding:
    """What a model of so many `parameters` (None: not known) will be computed on. `torch` is None where there are no
    cards to ask it about."""
    large = parameters is not None and parameters >= LARGE
    if not cards or torch is None:
        if not large or parameters is None:
            return Finding(CHECK, "ok", "no NVIDIA card here; everything is computed on the CPU")
        return Finding(
            CHECK,
            "warning",
            f"This machine has no NVIDIA card (nvidia-smi names none), and a model of {in_billions(parameters)} takes "
            "weeks on a CPU where a card takes hours: run the study on a machine with a card.",
        )
    if torch.devices:
        names = ", ".join(dict.fromkeys(device.name for device in torch.devices))
        count = f"{len(torch.devices)} x " if len(torch.devices) > 1 else ""
        return Finding(
            CHECK, "ok", f"{count}{names}, driver {cards[0].driver}, torch {torch.version} for CUDA {torch.cuda}"
        )
    return Finding(CHECK, "failed" if large else "warning", _why_unused(cards[0], torch))


def _why_unused(card: Card, torch: TorchFacts) -> str:
    here = f"{card.name} (driver {card.driver})"
    if not torch.version:
        said = _short(torch.problem)
        return f"torch cannot be imported ({said}): install it anew (pip install --force-reinstall torch)."
    if torch.cuda is None:
        version = torch.version.partition("+")[0]
        return (
            f"torch {torch.version} is built for the CPU and leaves the {here} unused: install its CUDA build (pip "
            f"install --force-reinstall torch=={version}, without the index of CPU builds)."
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return (
            f"CUDA_VISIBLE_DEVICES is {visible!r}, by which torch sees none of this machine's cards ({here}): set it "
            "to the numbers of those to use, or unset it."
        )
    said = f" ({_short(torch.problem)})" if torch.problem else ""
    return (
        f"torch {torch.version} for CUDA {torch.cuda} cannot use the {here}{said}: install a newer driver, or a torch "
        "that is built for an older CUDA."
    )


def _short(said: str) -> str:
    return " ".join(said.split())[:200].rstrip(".")
