"""Needs of the shipped studies, and that docs/gpu-budget.md and benchmarks/gpu.py say and measure those."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from subliminal_dagster.science.budget.card import CARDS
from subliminal_dagster.science.budget.needs import Need, cached_sequences, needs
from subliminal_dagster.science.budget.shape import shape_of
from subliminal_dagster.science.budget.work import served_adapter_seconds
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
A6000 = CARDS["A6000"]


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def study_of(name: str, *overrides: str) -> Study:
    study = load_study(name, overrides)
    assert isinstance(study, Study)
    return study


def needs_of(name: str, *overrides: str, card: str = "A6000") -> dict[str, Need]:
    study = study_of(name, *overrides)
    return {need.stage: need for need in needs(study, shape_of(study), CARDS[card])}


def test_the_document_is_printed_from_the_module() -> None:
    budget = benchmark("budget")
    written = budget.DOCUMENT.read_text(encoding="utf-8")
    assert written == budget.document(), "run python benchmarks/budget.py"


def test_the_post_s_study_fits_a_card_of_48_gb_with_nothing_recomputed() -> None:
    found = needs_of("gemma-2-9b-it")
    assert all(need.memory_bytes < A6000.usable for need in found.values() if need.stage != "base_model")
    assert "nothing recomputed" in found["child_lora"].formula
    assert found["base_model"].memory_bytes == 2 * 9_241_705_984


def test_a_group_takes_the_post_s_45_minutes_with_the_kernels_that_there_are() -> None:
    study = study_of("gemma-2-9b-it")

    def minutes(of: Study, *, fused: bool) -> float:
        return sum(need.seconds for need in needs(of, shape_of(of), A6000, fused=fused) if need.post) / 60

    assert minutes(study, fused=True) <= 45 < minutes(study, fused=False)
    # Each way of saving is counted: all prompts answered, and a start of vLLM for every group.
    all_answered = study_of("gemma-2-9b-it", "numbers.enough_valid=null")
    alone = study_of("gemma-2-9b-it", "animals=[otter]", "neutral=null")
    assert minutes(all_answered, fused=True) > minutes(study, fused=True) + 2
    assert minutes(alone, fused=True) > minutes(study, fused=True) + 2


def test_an_adapter_costs_what_it_moves_and_its_kernels_at_every_step() -> None:
    shape = shape_of(study_of("gemma-2-9b-it"))
    tokens, block = 1000, 42
    # Read: hidden for q, k and v; 4,096 for o; hidden for gate and up; 14,336 for down. Written, and read before that:
    # q 4,096, k and v 2,048 each, o and down 3,584 each, gate and up 14,336 each.
    moved = 2 * block * (2 * 3584 + 4096 + 14_336 + 2 * (4096 + 2 * 2048 + 2 * 3584 + 2 * 14_336))
    few, many = (served_adapter_seconds(shape, A6000, 16, tokens, batch) for batch in (10, 1000))
    assert few - many == pytest.approx((100 - 1) * 14 * block * 5e-6)
    assert many == pytest.approx(
        tokens * moved / (0.8 * 768e9) + tokens * 2 * shape.lora_parameters(16) / (0.61 * 154.8e12) + 14 * block * 5e-6
    )


def test_27b_does_not_fit_48_gb_and_fits_80() -> None:
    assert needs_of("gemma-3-27b-it")["child_lora"].memory_bytes > A6000.memory
    on_80 = needs_of("gemma-3-27b-it", card="H100")
    assert all(need.memory_bytes < CARDS["H100"].memory for need in on_80.values() if need.post)
    assert cached_sequences(shape_of(study_of("gemma-3-27b-it")), A6000, 134) == 0


def test_time_follows_the_work() -> None:
    whole, twice = needs_of("gemma-2-9b-it"), needs_of("gemma-2-9b-it", "child.training.epochs=6")
    assert twice["child_lora"].seconds == pytest.approx(2 * whole["child_lora"].seconds, rel=0.01)
    assert twice["number_set"] == whole["number_set"]
    fewer = needs_of("gemma-2-9b-it", "layers=[9]", "steering=null", "capability=null")
    assert fewer["activations"].seconds < 0.5 * whole["activations"].seconds
    assert not {"steering_scores", "child_capability"} & set(fewer)
    assert needs_of("gemma-2-9b-it", card="H100")["child_lora"].seconds < 0.3 * whole["child_lora"].seconds


def test_the_child_takes_what_four_operations_a_weight_and_token_take_and_half_more_at_most() -> None:
    # 10,000 rows x 3 epochs x 134 tokens, 198.2e6 weights in the matrices of each of 42 blocks.
    products = 4 * 10_000 * 3 * 134 * 42 * 198_180_864 / (0.61 * 154.8e12)
    assert products < needs_of("gemma-2-9b-it")["child_lora"].seconds < 1.5 * products


def test_a_base_model_that_is_not_on_the_hub_has_no_shape() -> None:
    with pytest.raises(UserError, match="not on the hub"):
        shape_of(study_of("smollm2-135m-instruct"))


def test_every_stage_is_measured_on_random_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = benchmark("gpu")
    small = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "head_dim": 16, "vocab_size": 400}
    monkeypatch.setattr(gpu, "SCALED", small)
    monkeypatch.setattr(gpu, "served_generation", lambda bench: None)
    results = gpu.run("gemma-2-9b-it", seconds=0.01, minutes=5, device="cpu")
    assert [result.stage for result in results] == [
        "teacher step",
        "child step",
        "generation, transformers",
        "scoring",
        "activations",
        "activations, 3 layers",
        "SAE encoding",
        "steering",
    ]
    assert all(result.reckoned > 0 and result.measured > 0 and result.reckoned_memory > 0 for result in results)
    printed = capsys.readouterr().out
    assert "scaled down for a CPU" in printed
    assert all(result.line() in printed for result in results)


def test_no_stage_begins_after_the_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = benchmark("gpu")
    bench = gpu.Bench(Path(), shape_of(study_of("gemma-2-9b-it")), A6000, "cpu", 1.0, deadline=0.0)
    bench.measure("scoring", "", 1.0, 1.0, lambda: pytest.fail("it ran"))
    assert "not run: out of time" in capsys.readouterr().out
    assert not bench.results
