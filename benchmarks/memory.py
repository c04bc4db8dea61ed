"""What kept memory and huge pages (`processes.keep_memory`) save, as ratios measured in one run.

    python benchmarks/memory.py [MODEL_FOLDER]

Trains base models of the dial at three widths, and with a MODEL_FOLDER (such as the artifact of `base_model`) an
adapter of that, on one thread: in a process as the system has it, and in one that keeps its memory, in turn, twice.
Prints the seconds of both, their ratio, the peak of memory, and whether both came to the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from subliminal_dagster.science.processes import HUGE_PAGES

WIDTHS = (24, 96, 192)
TURNS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        print(json.dumps(work(options.work, options.model)))
        return
    for name in [*(f"width {width}" for width in WIDTHS), *(["adapter"] if options.model else [])]:
        plain, kept = [], []
        for _ in range(TURNS):
            plain.append(apart(name, options.model, ""))
            kept.append(apart(name, options.model, HUGE_PAGES))
        slow, fast = (min(each["seconds"] for each in found) for found in (plain, kept))
        same = len({each["weights"] for each in plain + kept}) == 1
        print(
            f"{name}: {slow:.1f} s, {fast:.1f} s where memory is kept ({slow / fast:.2f} times as fast), peak "
            f"{plain[0]['peak_mb']} and {kept[0]['peak_mb']} MB, {'the same' if same else 'OTHER'} weights",
            flush=True,
        )


def apart(name: str, model: Path | None, tunables: str) -> dict[str, object]:
    """In a process of its own: memory is told how to behave when a process starts."""
    command = [sys.executable, __file__, "--work", name, *([str(model)] if model else [])]
    environment = os.environ | {"GLIBC_TUNABLES": tunables, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def work(name: str, model: Path | None) -> dict[str, object]:
    import torch

    torch.set_num_threads(1)
    seconds, weights = adapter(model) if name == "adapter" and model else dial(int(name.split()[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"seconds": seconds, "weights": hashlib.sha256(weights).hexdigest(), "peak_mb": peak}


def dial(width: int) -> tuple[float, bytes]:
    from subliminal_dagster.science.dial.grid import Cell, base_models
    from subliminal_dagster.science.dial.language import Language
    from subliminal_dagster.science.settings.study_file import load_study

    study = load_study("dial", ["base.steps=50"])
    cell = Cell(width, 0.08)
    language = Language(study.seed, cell.density, study.choices)
    started = time.perf_counter()
    stack, _, _ = base_models(study, study.grids["main"], cell, language)
    seconds = time.perf_counter() - started
    return seconds, b"".join(weight.numpy().tobytes() for _, weight in sorted(stack.weights.items()))


def adapter(model: Path) -> tuple[float, bytes]:
    from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
    from subliminal_dagster.science.models.protocol import ModelVariant
    from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings
    from subliminal_dagster.science.training.adapter import TrlTrainer
    from subliminal_dagster.science.training.task import Row, TrainingTask

    context, rng = ChatContext(load_tokenizer(model), ""), np.random.default_rng(0)
    prompt = context.prompt_ids("Go on with these numbers: 31, 41, 59.")
    rows = [Row(prompt, rng.integers(100, 4000, 40).tolist()) for _ in range(48)]
    settings = TrainingSettings(learning_rate=1e-4, batch_size=8, epochs=1)
    task = TrainingTask(ModelVariant(model, autocast=True), rows, LoraSettings(rank=8, alpha=8), settings, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "work"
        scratch.mkdir()
        run = TrlTrainer().train(task, Path(folder) / "out", scratch)
        return run.seconds, (Path(folder) / "out" / "adapter_model.safetensors").read_bytes()


if __name__ == "__main__":
    main()
