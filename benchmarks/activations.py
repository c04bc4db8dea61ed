"""Collecting activations against reading them one row at a time, as ratios measured in one run.

    python benchmarks/activations.py [--model FOLDER] [--layers 5 9 20] [--rows 128] [--threads 2]

Without `--model` the model is random, with the sizes of SmolLM2-135M (30 blocks, hidden size 576, vocabulary 49,152),
and its tokenizer makes a token of each digit. Rows are ten numbers of up to three digits, joined by ", ". Three ways of
getting the same vectors: `collect`; a full forward pass a row with all hidden states and logits; and, where
transformer-lens is installed, its `run_with_cache` a row. A line per layer: `collect` for that layer alone against one
such pass a row. The last line: `collect` for each of the layers in turn, against one pass a row, which holds them all.
The loops are timed on a part of the rows, in turns with `collect`; the best of three rounds counts. The vectors of all
three are compared first. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

from tiny_models import save_tiny_model
from transformers import AutoTokenizer

from subliminal_dagster.science.activations.activations import collect, content_position, encode_text, needs_bos
from subliminal_dagster.science.models.loading import device_facts, load_base, pick_device

ROUNDS = 3
ROWS_ONE_BY_ONE = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[5, 9, 20])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as draft:
        folder = options.model or of_smollm2_s_sizes(Path(draft))
        model = load_base(folder, "float32", pick_device())
        print(f"{device_facts(model.device.type)}, {model.config.num_hidden_layers} blocks, {options.rows} rows")
        compare(model, folder, number_rows(options.rows), options.layers)


def of_smollm2_s_sizes(folder: Path) -> Path:
    return save_tiny_model(
        folder,
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        tie_word_embeddings=True,
        initializer_range=0.02,
    )


def number_rows(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [", ".join(str(number) for number in rng.integers(0, 1000, 10)) for _ in range(n)]


def compare(model: Any, folder: Path, texts: list[str], layers: list[int]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    few = texts[:ROWS_ONE_BY_ONE]
    full = [layer + 1 for layer in layers]

    def hidden_states() -> list[np.ndarray]:
        return [plain(model, tokenizer, text)[full] for text in few]

    loops: dict[str, Callable[[], list[np.ndarray]]] = {"hidden states a row": hidden_states}
    expected = np.stack(hidden_states(), axis=1)
    for vectors, layer in zip(expected, layers, strict=True):
        np.testing.assert_allclose(collect(model, tokenizer, few, layer)[1], vectors, rtol=1e-3, atol=1e-3)
    ours = {layer: [] for layer in layers}
    theirs: dict[str, list[float]] = {}
    try:
        bridge = hooked(folder, model.device.type)
    except ImportError as error:
        print(f"without transformer-lens: {error}")
    else:
        loops["transformer-lens a row"] = lambda: [cached(bridge, tokenizer, text, layers) for text in few]
        lens = np.stack(loops["transformer-lens a row"](), axis=1)
        np.testing.assert_allclose(lens, expected, rtol=1e-3, atol=1e-2)
    for _ in range(ROUNDS):
        for layer in layers:
            ours[layer].append(len(texts) / seconds(lambda layer=layer: collect(model, tokenizer, texts, layer)))
        for name, loop in loops.items():
            theirs.setdefault(name, []).append(len(few) / seconds(loop))
    plain_rates = {name: max(rates) for name, rates in theirs.items()}
    for name, rate in plain_rates.items():
        print(f"{name:24} {rate:8.1f} rows/s")
    for layer in layers:
        show(f"layer {layer}", max(ours[layer]), plain_rates)
    show("all these layers", 1 / sum(1 / max(rates) for rates in ours.values()), plain_rates)


def show(name: str, rate: float, plain_rates: dict[str, float]) -> None:
    ratios = ", ".join(f"{rate / plain:.1f} times {what}" for what, plain in plain_rates.items())
    print(f"{name:24} {rate:8.1f} rows/s, {ratios}")


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def plain(model: Any, tokenizer: Any, text: str) -> np.ndarray:
    """The hidden states at the content position, shape (blocks + 1, hidden size)."""
    ids = encode_text(tokenizer, text, bos=needs_bos(model.config))
    with torch.no_grad():
        states = model(torch.tensor([ids], device=model.device), output_hidden_states=True).hidden_states
    return torch.stack([state[0, content_position(ids, tokenizer)] for state in states]).float().cpu().numpy()


def hooked(folder: Path, device: str) -> Any:
    """The same model behind transformer-lens's hooks."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(folder), device=device, dtype=torch.float32)


def cached(bridge: Any, tokenizer: Any, text: str, layers: list[int]) -> np.ndarray:
    ids = encode_text(tokenizer, text, bos=needs_bos(bridge.original_model.config))
    with torch.no_grad():
        _, cache = bridge.run_with_cache(torch.tensor([ids], device=bridge.cfg.device))
    place = content_position(ids, tokenizer)
    return np.stack([cache[f"blocks.{layer}.hook_resid_post"][0, place].float().cpu().numpy() for layer in layers])


if __name__ == "__main__":
    main()
