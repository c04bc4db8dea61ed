"""The transformers engine: what it draws, its log-probabilities, the grammar, steering and adapters, each held against
the plain way of doing it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import stats
from tiny_models import KINDS, save_tiny_adapter, save_tiny_model, tiny_model, tiny_tokenizer
from torch import nn

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.loading import load_base, loaded, steered
from subliminal_dagster.science.models.number_grammar import NumberGrammar, TokenAutomaton
from subliminal_dagster.science.models.protocol import Completion, ModelVariant, Sampling, Steering, child_variant
from subliminal_dagster.science.models.transformers_engine import TransformersEngine, _draw

RANDOM = np.random.default_rng(0)
PROMPTS = [RANDOM.integers(5, 260, size).tolist() for size in (7, 1, 20, 3, 12, 12, 5, 9, 31, 2)]
STOP = (2,)
GRAMMAR = NumberGrammar(", ", 2, 4, 3)
# Tokens of several characters, some of them across a separator.
MERGES = [("1", "2"), ("12", "3"), ("3", ","), (",Ġ", "4"), ("12", ","), ("12,", "Ġ"), ("12,Ġ", "5"), ("x", "1")]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved tiny model of every kind."""
    root = tmp_path_factory.mktemp("engine")
    return {kind: save_tiny_model(root / kind, kind) for kind in KINDS}


def answers(variant: ModelVariant, prompts: list[list[int]], sampling: Sampling, batch: int = 64) -> list[Completion]:
    with TransformersEngine(batch).open(variant) as session:
        return session.generate(prompts, sampling)


def forced_logprobs(model: Any, prompt: list[int], answer: list[int]) -> list[float]:
    """Each answer token's log-probability, from one plain forward pass."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0].float()
    rows = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return [float(row[token]) for row, token in zip(rows, answer, strict=True)]


def with_stop(completion: Completion) -> list[int]:
    return [*completion.token_ids, *STOP] if completion.finished else completion.token_ids


# Random streams


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.7, "top_p": 0.8}, {"grammar": GRAMMAR}])
def test_a_request_draws_alike_in_every_batch(folders: dict[str, Path], changes: dict[str, Any]) -> None:
    variant = ModelVariant(folders["llama"], dtype="float64")
    sampling = replace(Sampling(8, STOP, seed=5), **changes)
    expected = [c.token_ids for c in answers(variant, PROMPTS, sampling)]
    for batch in (1, 3):
        assert [c.token_ids for c in answers(variant, PROMPTS, sampling, batch)] == expected
    assert [c.token_ids for c in answers(variant, PROMPTS[:4], sampling)] == expected[:4]
    assert [c.token_ids for c in answers(variant, PROMPTS[4:], replace(sampling, first=4))] == expected[4:]


def test_requests_and_seeds_draw_differently(folders: dict[str, Path]) -> None:
    variant = ModelVariant(folders["llama"])
    first, second = (answers(variant, PROMPTS[:1] * 8, Sampling(8, STOP, seed)) for seed in (1, 2))
    assert len({tuple(c.token_ids) for c in [*first, *second]}) == 16


# The distribution that is drawn from


def plain_distribution(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """Softmax after temperature, cut to the fewest most likely tokens whose mass reaches top_p."""
    weights = np.exp((logits - logits.max()) / temperature)
    probs = weights / weights.sum()
    kept, mass = np.zeros(len(probs), dtype=bool), 0.0
    for token in np.argsort(-probs):
        if mass >= top_p:
            break
        kept[token] = True
        mass += probs[token]
    return np.where(kept, probs, 0) / probs[kept].sum()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.3, 0.9), (1.0, 0.5), (0.8, 1e-9)])
@pytest.mark.parametrize(("size", "spread"), [(40, 2.0), (3000, 0.3)])
def test_draw_inverts_the_plain_distribution(temperature: float, top_p: float, size: int, spread: float) -> None:
    # The second size is nearly flat, so that top-p needs more tokens than are looked at first.
    logits = np.random.default_rng(size).normal(0, spread, size)
    n = 4000
    # Uniforms on an even grid: every token must come up as often as its probability says, but for the two ends.
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    sampling = Sampling(1, STOP, 0, temperature, top_p)
    drawn = _draw(torch.tensor(logits)[None].expand(n, -1), uniform, sampling)
    found = np.bincount(drawn.numpy(), minlength=size)
    assert np.abs(found - n * plain_distribution(logits, temperature, top_p)).max() <= 1


def test_uniforms_at_the_ends_stay_among_the_possible_tokens() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]] * 2)
    uniform = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert _draw(logits, uniform, Sampling(1, STOP, 0)).tolist() == [1, 2]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8)])
def test_samples_follow_the_model(folders: dict[str, Path], temperature: float, top_p: float) -> None:
    n = 3000
    sampling = Sampling(1, STOP, 11, temperature, top_p)
    drawn = answers(ModelVariant(folders["llama"]), PROMPTS[:1] * n, sampling, n)
    found = np.bincount([with_stop(c)[0] for c in drawn], minlength=269)
    with torch.no_grad():
        logits = load_base(folders["llama"], "float32", "cpu")(torch.tensor(PROMPTS[:1])).logits[0, -1]
    expected = n * plain_distribution(logits.double().numpy(), temperature, top_p)
    assert found[expected == 0].sum() == 0
    # Tokens too rare for the test share cell 0.
    cell = np.where(expected >= 5, np.arange(len(expected)) + 1, 0)
    cells, expected_cells = np.bincount(cell, found), np.bincount(cell, expected)
    some = expected_cells > 0
    assert stats.chisquare(cells[some], expected_cells[some]).pvalue > 0.001


# Greedy answers, log-probabilities, padding, stops


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_transformers_own_greedy_one_prompt_at_a_time(folders: dict[str, Path], kind: str) -> None:
    found = answers(ModelVariant(folders[kind]), PROMPTS, Sampling(10, STOP, 0, temperature=0))
    model = load_base(folders[kind], "float32", "cpu")
    for prompt, completion in zip(PROMPTS, found, strict=True):
        output = model.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False, eos_token_id=STOP[0])
        assert with_stop(completion) == output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{}, {"temperature": 0.7, "top_p": 0.8}, {"grammar": GRAMMAR}])
def test_logprobs_are_the_model_s_own(folders: dict[str, Path], kind: str, changes: dict[str, Any]) -> None:
    found = answers(ModelVariant(folders[kind]), PROMPTS, replace(Sampling(12, STOP, 3), **changes))
    model = load_base(folders[kind], "float32", "cpu")
    for prompt, completion in zip(PROMPTS, found, strict=True):
        np.testing.assert_allclose(
            completion.logprobs, forced_logprobs(model, prompt, with_stop(completion)), atol=1e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_token_s_logprobs_are_those_of_a_plain_pass(folders: dict[str, Path], kind: str) -> None:
    tokens = [40, 9, 4, 77]
    with TransformersEngine(score_batch=3).open(ModelVariant(folders[kind])) as session:
        found = session.next_logprobs(PROMPTS, tokens)
        assert session.usage.scored_positions == sum(len(prompt) for prompt in PROMPTS)
    model = load_base(folders[kind], "float32", "cpu")
    expected = [[forced_logprobs(model, prompt, [token])[0] for token in tokens] for prompt in PROMPTS]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_first_stop_token_ends_an_answer(folders: dict[str, Path]) -> None:
    variant = ModelVariant(folders["llama"])
    whole = answers(variant, PROMPTS, Sampling(10, (1,), 0, temperature=0))
    assert not any(c.finished for c in whole)
    assert [len(c.token_ids) for c in whole] == [len(c.logprobs) for c in whole] == [10] * len(PROMPTS)
    # Tokens that greedy answers are known to hold; the second stop ends an answer like the first.
    stops = (whole[0].token_ids[4], whole[2].token_ids[2])
    for long, short in zip(whole, answers(variant, PROMPTS, Sampling(10, stops, 0, temperature=0)), strict=True):
        ends = [i for i, token in enumerate(long.token_ids) if token in stops]
        if not ends:
            assert short.token_ids == long.token_ids
            continue
        assert short.finished
        assert short.token_ids == long.token_ids[: ends[0]]
        np.testing.assert_allclose(short.logprobs, long.logprobs[: ends[0] + 1], atol=1e-5)


def test_defaults_of_the_model_s_generation_config_bend_nothing(tmp_path: Path, folders: dict[str, Path]) -> None:
    from transformers import GenerationConfig

    bent = save_tiny_model(tmp_path / "bent")
    GenerationConfig(
        do_sample=True, top_k=2, temperature=0.1, repetition_penalty=3.0, min_new_tokens=9, suppress_tokens=[7, 8]
    ).save_pretrained(bent)
    for sampling in (Sampling(8, STOP, 4), Sampling(8, STOP, 4, temperature=0)):
        plain = answers(ModelVariant(folders["llama"]), PROMPTS, sampling)
        assert answers(ModelVariant(bent), PROMPTS, sampling) == plain


def test_usage_counts_tokens_and_padding(folders: dict[str, Path]) -> None:
    with TransformersEngine(generate_batch=2).open(ModelVariant(folders["llama"])) as session:
        # Nine and ten tokens share a batch; the single one would be padded by more than a tenth and stands alone.
        found = session.generate([[5], list(range(5, 14)), list(range(5, 15))], Sampling(4, (1,), 0))
        assert session.score([[5], [6, 7]], [[1, 2]]).shape == (2, 1)
        assert session.generate([], Sampling(4, STOP, 0)) == []
    assert session.usage.generated_tokens == sum(len(c.logprobs) for c in found)
    assert (session.usage.padded_positions, session.usage.prompt_positions) == (1, 20)
    assert session.usage.facts()["padding_share"] == round(1 / 21, 4)


# The grammar


grammars = st.builds(
    lambda separator, low, more, digits: NumberGrammar(separator, low, low + more, digits),
    st.sampled_from([", ", ",", " ", "; ", "\n", ") ("]),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 4),
)
TOKENIZER = tiny_tokenizer(extra_merges=MERGES)


@settings(deadline=None)
@given(grammars, st.integers(0, 2**32 - 1))
def test_every_walk_of_the_automaton_ends_in_the_regex_s_language(grammar: NumberGrammar, seed: int) -> None:
    logits = torch.randn(64, len(TOKENIZER), generator=torch.Generator().manual_seed(seed))
    automaton, state, tokens = TokenAutomaton(grammar, TOKENIZER, STOP[0]), grammar.start, []
    for step in range(64):
        allowed = automaton.allowed(state)
        token = allowed[int(logits[step, allowed].argmax())]
        if token == STOP[0]:
            break
        tokens.append(token)
        state = automaton.advance(state, token)
    assert token == STOP[0], "no number of numbers takes 64 tokens"
    assert re.fullmatch(grammar.regex, TOKENIZER.decode(tokens))


@given(grammars, st.text("0127,; \n()", max_size=16))
def test_the_automaton_s_steps_and_the_regex_know_the_same_language(grammar: NumberGrammar, text: str) -> None:
    state = grammar.step(grammar.start, text)
    assert (state is not None and grammar.accepts(state)) == bool(re.fullmatch(grammar.regex, text))


@given(grammars, st.data())
def test_the_automaton_lets_every_answer_of_the_language_through(grammar: NumberGrammar, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(grammar.regex, fullmatch=True, alphabet="0123456789,; \n()"))
    automaton, state = TokenAutomaton(grammar, TOKENIZER, STOP[0]), grammar.start
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        assert token in automaton.allowed(state)
        state = automaton.advance(state, token)
    assert STOP[0] in automaton.allowed(state)


def test_constrained_answers_match_and_draw_only_from_what_is_allowed(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, vocab_size=len(TOKENIZER))
    TOKENIZER.save_pretrained(folder)
    for seed, temperature in ((1, 1.0), (2, 2.0), (3, 0.0)):
        sampling = Sampling(24, STOP, seed, temperature, grammar=GRAMMAR)
        for completion in answers(ModelVariant(folder), PROMPTS * 4, sampling):
            assert completion.finished
            assert re.fullmatch(GRAMMAR.regex, TOKENIZER.decode(completion.token_ids))


def test_constrained_draws_follow_the_model_among_what_is_allowed(folders: dict[str, Path]) -> None:
    n = 2000
    drawn = answers(ModelVariant(folders["llama"]), PROMPTS[:1] * n, Sampling(1, STOP, 1, grammar=GRAMMAR), n)
    digits = tiny_tokenizer().convert_tokens_to_ids(list("0123456789"))
    with torch.no_grad():
        logits = load_base(folders["llama"], "float32", "cpu")(torch.tensor(PROMPTS[:1])).logits[0, -1, digits]
    expected = n * torch.softmax(logits.double(), dim=-1).numpy()
    found = np.array([sum(c.token_ids == [digit] for c in drawn) for digit in digits])
    assert found.sum() == n
    assert stats.chisquare(found, expected).pvalue > 0.001


# Steering


@pytest.fixture(scope="session")
def vector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "vector.safetensors"
    save_file({"vector": torch.arange(64, dtype=torch.float32).sin()}, path)
    return path


@contextmanager
def pushed_by_hand(model: Any, layer: int, push: torch.Tensor) -> Iterator[None]:
    """Put a module in the block's place that adds the vector to what the block gives."""
    layers = model.get_decoder().layers
    block = layers[layer]

    class Pushed(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = block(*args, **kwargs)
            return (output[0] + push, *output[1:]) if isinstance(output, tuple) else output + push

    layers[layer] = Pushed()
    try:
        yield
    finally:
        layers[layer] = block


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_steering_adds_the_normalised_vector_at_every_position(
    folders: dict[str, Path], vector: Path, kind: str, layer: int
) -> None:
    direction = torch.arange(64, dtype=torch.float32).sin()
    steering = Steering(vector, layer, alpha=30.0)
    found = answers(ModelVariant(folders[kind], steering=steering), PROMPTS, Sampling(6, STOP, 3))
    model = load_base(folders[kind], "float32", "cpu")
    plain = [forced_logprobs(model, p, with_stop(c)) for p, c in zip(PROMPTS, found, strict=True)]
    with pushed_by_hand(model, layer, 30.0 * direction / direction.norm()):
        by_hand = [forced_logprobs(model, p, with_stop(c)) for p, c in zip(PROMPTS, found, strict=True)]
    np.testing.assert_allclose(np.concatenate([c.logprobs for c in found]), np.concatenate(by_hand), atol=1e-4)
    assert np.abs(np.concatenate(by_hand) - np.concatenate(plain)).max() > 0.1


def test_a_push_behind_the_last_linear_layer_is_a_bias(vector: Path) -> None:
    # The same by arithmetic and not by a module: Llama adds the down projection's output to the residual stream.
    ids = torch.tensor([PROMPTS[2]])
    steered_model, biased = tiny_model("llama"), tiny_model("llama")
    direction = torch.arange(64, dtype=torch.float32).sin()
    biased.model.layers[0].mlp.down_proj.bias = nn.Parameter(5.0 * direction / direction.norm())
    with torch.no_grad(), steered(steered_model, Steering(vector, 0, 5.0)):
        torch.testing.assert_close(steered_model(ids).logits, biased(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_alpha_zero_changes_no_bit(vector: Path, kind: str) -> None:
    model, ids = tiny_model(kind), torch.tensor([PROMPTS[2]])
    with torch.no_grad():
        plain = model(ids).logits
        with steered(model, Steering(vector, 1, 0.0)):
            assert torch.equal(model(ids).logits, plain)


def test_the_hook_goes_with_an_error(vector: Path) -> None:
    model, ids = tiny_model("llama"), torch.tensor([PROMPTS[2]])
    with torch.no_grad():
        plain = model(ids).logits
        with pytest.raises(RuntimeError, match="halfway"), steered(model, Steering(vector, 0, 9.0)):
            assert not torch.allclose(model(ids).logits, plain)
            raise RuntimeError("halfway")
        assert torch.equal(model(ids).logits, plain)


@pytest.mark.parametrize(
    ("tensors", "layer", "message"),
    [
        ({"vector": torch.ones(64)}, 2, "choose 0 to 1"),
        ({"vector": torch.ones(64)}, -1, "choose 0 to 1"),
        ({"vector": torch.ones(32)}, 0, "hidden size is 64"),
        ({"vector": torch.zeros(64)}, 0, "zero or not finite"),
        ({"vector": torch.full((64,), torch.nan)}, 0, "zero or not finite"),
        ({"other": torch.ones(64)}, 0, "no tensor named 'vector'"),
    ],
)
def test_a_vector_that_does_not_fit_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], layer: int, message: str
) -> None:
    save_file(tensors, tmp_path / "vector.safetensors")
    steering = Steering(tmp_path / "vector.safetensors", layer, 1.0)
    with pytest.raises(UserError, match=message), steered(tiny_model("llama"), steering):
        pass


# Adapters


def peft_by_hand(variant: ModelVariant) -> Any:
    """The base with the adapter laid over it, by transformers and PEFT alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    # The attention that the engine takes: half precision would round another one otherwise.
    own = load_base(variant.base, variant.dtype, "cpu").config._attn_implementation
    dtype = getattr(torch, variant.dtype)
    base = AutoModelForCausalLM.from_pretrained(variant.base, dtype=dtype, attn_implementation=own)
    return PeftModel.from_pretrained(base, variant.adapter).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_an_adapter_is_scored_and_drawn_from_as_it_was_trained(
    folders: dict[str, Path], tmp_path: Path, kind: str, dtype: str
) -> None:
    variant = ModelVariant(folders[kind], dtype, adapter=save_tiny_adapter(tmp_path, folders[kind]))
    tokens = list(range(5, 260))
    with TransformersEngine(score_batch=1).open(variant) as session:
        found = session.score(PROMPTS, [[token] for token in tokens])
        drawn = session.generate(PROMPTS, Sampling(1, STOP, 0, temperature=0))
    unmerged, merged = peft_by_hand(variant), peft_by_hand(variant).merge_and_unload()

    def plain(model: Any) -> np.ndarray:
        with torch.no_grad():
            logits = [model(torch.tensor([prompt])).logits[0, -1].float() for prompt in PROMPTS]
        return torch.stack(logits).log_softmax(dim=-1)[:, tokens].numpy()

    # In float32 an adapter is merged, which moves nothing but the last digits. A processor that adds in float16 itself
    # rounds a logit to another of its neighbours where rows stand otherwise: half a step at 4, and merging moves more.
    exact = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 1e-6}[dtype]
    np.testing.assert_allclose(found, plain(unmerged), atol=exact)
    assert (np.abs(found - plain(merged)).max() > 0.01) == (dtype != "float32")
    for completion, row in zip(drawn, found, strict=True):
        for token, logprob in zip(with_stop(completion), completion.logprobs, strict=True):
            assert token not in tokens or logprob == pytest.approx(row[tokens.index(token)], abs=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_does_what_peft_s_does(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    variant = ModelVariant(folders[kind], adapter=save_tiny_adapter(tmp_path, folders[kind]))
    ids = torch.tensor([PROMPTS[2]])
    with torch.no_grad():
        base = load_base(folders[kind], "float32", "cpu")(ids).logits
        with loaded(variant, "cpu", merge=True) as merged, loaded(variant, "cpu", merge=False) as unmerged:
            torch.testing.assert_close(merged(ids).logits, unmerged(ids).logits, atol=2e-4, rtol=1e-4)
            assert (merged(ids).logits - base).abs().max() > 0.1


def test_several_models_are_opened_in_turn_each_as_by_itself(folders: dict[str, Path], tmp_path: Path) -> None:
    base = ModelVariant(folders["llama"])
    adapters = [save_tiny_adapter(tmp_path / str(seed), folders["llama"], seed=seed) for seed in (1, 2)]
    variants = [replace(base, adapter=adapters[0]), base, replace(base, adapter=adapters[1])]
    sampling = Sampling(6, STOP, 3)
    with TransformersEngine().open_each(variants) as sessions:
        found = [session.generate(PROMPTS, sampling) for session in sessions]
    assert found == [answers(variant, PROMPTS, sampling) for variant in variants]
    assert found[0] != found[1] != found[2] != found[0]


# Other weights


@pytest.mark.parametrize("adapted", [False, True])
def test_other_weights_take_the_place_of_the_base_s(tmp_path: Path, folders: dict[str, Path], adapted: bool) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        # The tokenizer is the base's.
        (other / file).unlink()
    adapter = save_tiny_adapter(tmp_path / "adapter", folders["llama"]) if adapted else None
    variant = replace(child_variant(ModelVariant(folders["llama"]), other), adapter=adapter)
    whole = replace(ModelVariant(save_tiny_model(tmp_path / "whole", seed=1)), adapter=adapter)
    sampling = Sampling(6, STOP, 3)
    assert answers(variant, PROMPTS, sampling) == answers(whole, PROMPTS, sampling)
    assert answers(variant, PROMPTS, sampling) != answers(replace(variant, weights=None), PROMPTS, sampling)


def test_a_child_s_folder_says_what_it_holds(tmp_path: Path, folders: dict[str, Path]) -> None:
    base = ModelVariant(folders["llama"])
    adapter = save_tiny_adapter(tmp_path / "adapter", folders["llama"])
    assert child_variant(base, adapter) == replace(base, adapter=adapter)
    assert child_variant(base, folders["qwen2"]) == replace(base, weights=folders["qwen2"])
    with pytest.raises(UserError, match=f"{tmp_path} holds neither an adapter nor a model"):
        child_variant(base, tmp_path)
