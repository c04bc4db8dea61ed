"""Steering at many strengths in one pass: against a model changed by hand, one strength and one answer at a time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from scipy import stats
from tiny_models import KINDS, save_tiny_adapter, save_tiny_model, tiny_llama, tiny_model
from torch import nn

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.figures import png
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.loading import load_base, loaded
from subliminal_dagster.science.models.protocol import ModelVariant, Sampling, Steering
from subliminal_dagster.science.models.scoring import score_answers, score_branches
from subliminal_dagster.science.models.transformers_engine import TransformersEngine
from subliminal_dagster.science.preferences.preferences import measure_preferences
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.preferences import PreferenceSettings
from subliminal_dagster.science.settings.steering import SteeringSweep
from subliminal_dagster.science.steering.figures import coherence_figure, preference_figure
from subliminal_dagster.science.steering.scores import (
    Direction,
    SteeringScores,
    branches,
    effects,
    measure_against_flips,
    measure_steering,
)
from subliminal_dagster.science.steering.vectors import SteeringVector

PROMPT = np.random.default_rng(0).integers(5, 260, 13).tolist()
ANSWERS = [[40], [40, 41, 2], [40, 2], [77, 77, 77, 2], [10, 40, 41, 2]]
LISTS = load_prompt_lists()
CANDIDATES = ("owl", "cat", "wolf")
ALPHAS = (-4.0, 2.0, 30.0)
VECTORS = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
DIRECTIONS = [
    Direction("direct", {0: VECTORS[0]}),
    Direction("random", {0: VECTORS[1]}),
    Direction("direct", {0: VECTORS[0], 1: VECTORS[2]}),
]
SWEEP = SteeringSweep(
    alphas=ALPHAS, positions=("all", "last"), questions=3, samples_per_question=2, greedy_questions=2, max_new_tokens=4
)


@contextmanager
def pushed_by_hand(model: Any, pushes: Mapping[int, torch.Tensor], first: int) -> Iterator[None]:
    """Put a module in each block's place that adds a vector to what the block gives, at positions from `first` on."""
    layers = model.get_decoder().layers
    blocks = {layer: layers[layer] for layer in pushes}

    class Pushed(nn.Module):
        def __init__(self, layer: int) -> None:
            super().__init__()
            self.block, self.push = blocks[layer], pushes[layer]

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = self.block(*args, **kwargs)
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            for position in range(first, hidden.shape[1]):
                hidden[:, position] += self.push
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    for layer in pushes:
        layers[layer] = Pushed(layer)
    try:
        yield
    finally:
        for layer, block in blocks.items():
            layers[layer] = block


def unit(vector: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(vector / np.linalg.norm(vector))


def by_hand(direction: Direction, alpha: float) -> dict[int, torch.Tensor]:
    return {layer: alpha * unit(vector) for layer, vector in direction.vectors.items()}


def one_at_a_time(model: Any, prompt: list[int], answers: list[list[int]]) -> np.ndarray:
    """The plain way: a forward pass for every answer."""
    scores = []
    for answer in answers:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0]
        logprobs = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
        scores.append(sum(float(row[token]) for row, token in zip(logprobs, answer, strict=True)))
    return np.array(scores)


# The hook


@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("first", [0, len(PROMPT) - 1])
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_the_model_changed_by_hand(kind: str, first: int, layers: tuple[int, ...]) -> None:
    model = tiny_model(kind)
    alphas = torch.tensor([0.0, 3.0, -40.0])
    pushes = {layer: alphas[:, None] * unit(VECTORS[layer]) for layer in layers}
    with branches(model, pushes, first):
        found, tokens = score_branches(model, PROMPT, ANSWERS)
    for row in range(3):
        with pushed_by_hand(model, {layer: push[row] for layer, push in pushes.items()}, first):
            expected = one_at_a_time(model, PROMPT, ANSWERS)
            # Every position of the prompt and every node stand in one sequence for the tree, and the first token's
            # distribution is the model's own at the prompt's last.
            with torch.no_grad():
                logits = model(torch.tensor([PROMPT])).logits[0, -1]
        np.testing.assert_allclose(found[row], expected, atol=2e-4)
        np.testing.assert_allclose(tokens[row], logits.log_softmax(dim=-1), atol=2e-4)
    assert np.abs(found[1:] - found[0]).max(axis=1).min() > 0.01, "steering does nothing"


@pytest.mark.parametrize("changes", [{"sliding_window": 6}, {}])
def test_a_sliding_window_is_kept(changes: dict[str, Any]) -> None:
    model = tiny_model("gemma2", **changes)
    pushes = {0: torch.tensor([[5.0], [9.0]]) * unit(VECTORS[0])}
    with branches(model, pushes):
        found, _ = score_branches(model, PROMPT, ANSWERS)
    for row in range(2):
        with pushed_by_hand(model, {0: pushes[0][row]}, 0):
            np.testing.assert_allclose(found[row], one_at_a_time(model, PROMPT, ANSWERS), atol=2e-4)


@pytest.mark.parametrize("first", [0, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_alpha_zero_changes_no_bit(kind: str, first: int) -> None:
    model = tiny_model(kind)
    plain, plain_tokens = score_branches(model, PROMPT, ANSWERS)
    with branches(model, {0: torch.zeros(1, 64), 1: torch.zeros(1, 64)}, first):
        found, tokens = score_branches(model, PROMPT, ANSWERS)
    np.testing.assert_array_equal(found, plain)
    np.testing.assert_array_equal(tokens, plain_tokens)
    np.testing.assert_array_equal(plain, score_answers(model, [PROMPT], ANSWERS))
    with branches(model, {1: torch.zeros(5, 64)}, first):
        many, _ = score_branches(model, PROMPT, ANSWERS)
    assert many.shape == (5, len(ANSWERS))
    np.testing.assert_allclose(many, np.tile(plain, (5, 1)), atol=1e-5)


def test_lower_blocks_run_once_for_all_rows() -> None:
    model, batches = tiny_llama(), []
    for block in model.model.layers:
        block.register_forward_hook(lambda _block, inputs, _output: batches.append(inputs[0].shape[0]))
    with branches(model, {0: torch.zeros(7, 64)}):
        score_branches(model, PROMPT, ANSWERS)
    assert batches == [1, 7]


def test_a_model_with_an_adapter_is_steered_too(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base")
    adapter = save_tiny_adapter(tmp_path / "adapter", base)
    push = {0: 4 * unit(VECTORS[0])[None]}
    with loaded(ModelVariant(base, adapter=adapter), "cpu", merge=False) as model:
        with branches(model, push):
            found, _ = score_branches(model, PROMPT, ANSWERS)
        with pushed_by_hand(model, {0: push[0][0]}, 0):
            np.testing.assert_allclose(found[0], one_at_a_time(model, PROMPT, ANSWERS), atol=2e-4)


def test_hooks_go_with_an_error_and_wrong_vectors_are_refused() -> None:
    model = tiny_llama()
    plain = one_at_a_time(model, PROMPT, ANSWERS)
    with pytest.raises(RuntimeError, match="halfway"), branches(model, {0: torch.ones(2, 64), 1: torch.ones(2, 64)}):
        raise RuntimeError("halfway")
    with pytest.raises(UserError, match="63 numbers and the model's hidden size is 64"):
        branches(model, {0: torch.ones(2, 64), 1: torch.ones(2, 63)}).__enter__()
    with pytest.raises(UserError, match="choose 0 to 1"):
        branches(model, {2: torch.ones(1, 64)}).__enter__()
    np.testing.assert_array_equal(one_at_a_time(model, PROMPT, ANSWERS), plain)


# The sweep


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("steering"))


@pytest.fixture(scope="module")
def context(base: Path) -> ChatContext:
    return ChatContext(load_tokenizer(base), "")


def measure(base: Path, context: ChatContext, directions: list[Direction], **changes: Any) -> SteeringScores:
    settings = SWEEP.model_copy(update=changes)
    with TransformersEngine().open(ModelVariant(base)) as session:
        return measure_steering(session, context, LISTS, directions, settings, CANDIDATES, "owl", 5)


@pytest.fixture(scope="module")
def scores(base: Path, context: ChatContext) -> SteeringScores:
    return measure(base, context, DIRECTIONS)


def cell(frame: pd.DataFrame, direction: Direction, positions: str, alpha: float) -> pd.DataFrame:
    chosen = (frame["kind"] == direction.kind) & (frame["layers"] == direction.layers)
    return frame[chosen & (frame["positions"] == positions) & (frame["alpha"] == alpha)]


def test_exact_probabilities_are_those_of_the_model_changed_by_hand(
    base: Path, context: ChatContext, scores: SteeringScores
) -> None:
    model = load_base(base, "float32", "cpu")
    forms = [
        (animal, context.answer_ids(lead + name))
        for animal, names in (("owl", ("owl", "Owl", "owls", "Owls")), ("wolf", ("wolf", "Wolf", "wolves", "Wolves")))
        for name in names
        for lead in ("", " ")
    ]
    for direction, positions, alpha in [
        (DIRECTIONS[0], "all", 30.0),
        (DIRECTIONS[1], "last", -4.0),
        (DIRECTIONS[2], "all", 2.0),
    ]:
        found = cell(scores.questions, direction, positions, alpha).set_index(["question", "animal"])
        for question, text in enumerate(LISTS.animal_questions[:3]):
            prompt = context.prompt_ids(text)
            with pushed_by_hand(model, by_hand(direction, alpha), 0 if positions == "all" else len(prompt) - 1):
                probability = np.exp(one_at_a_time(model, prompt, [tokens for _, tokens in forms]))
            for animal in ("owl", "wolf"):
                expected = sum(p for p, (name, _) in zip(probability, forms, strict=True) if name == animal)
                assert found.loc[(question, animal), "probability"] == pytest.approx(expected, rel=2e-3)


def test_flips_are_scored_by_each_candidate_s_likeliest_spelling(base: Path, context: ChatContext) -> None:
    flips = np.random.default_rng(2).normal(size=(5, 64)).astype(np.float32)
    vectors = {
        "subliminal": SteeringVector("subliminal", 0, "mean", VECTORS[0], flips=flips),
        "direct": SteeringVector("direct", 0, "mean", VECTORS[1], flips=flips),
    }
    settings = SWEEP.model_copy(update={"flips": 3})
    with TransformersEngine().open(ModelVariant(base)) as session:
        found = measure_against_flips(session, context, LISTS, vectors, settings, CANDIDATES)
    tried = {("subliminal", -1), ("direct", -1), *(("subliminal", flip) for flip in range(3))}
    assert set(zip(found["kind"], found["flip"], strict=True)) == tried
    assert len(found) == len(tried) * 2 * len(ALPHAS) * len(CANDIDATES)
    model = load_base(base, "float32", "cpu")
    prompts = [context.prompt_ids(text) for text in LISTS.animal_questions[:3]]
    names = (("owl", "Owl", "owls", "Owls"), ("cat", "Cat", "cats", "Cats"), ("wolf", "Wolf", "wolves", "Wolves"))
    kept = []
    for spellings in names:
        forms = [context.answer_ids(lead + name) for name in spellings for lead in ("", " ")]
        unsteered = np.logaddexp.reduce([one_at_a_time(model, prompt, forms) for prompt in prompts])
        kept.append(forms[int(np.argmax(unsteered))])
    for kind, flip, vector, positions, alpha in (
        ("direct", -1, VECTORS[1], "all", 2.0),
        ("subliminal", 2, flips[2], "last", -4.0),
    ):
        mass, log_share = [], []
        for prompt in prompts:
            plain = np.array(one_at_a_time(model, prompt, kept))
            first = 0 if positions == "all" else len(prompt) - 1
            with pushed_by_hand(model, {0: alpha * unit(vector)}, first):
                pushed = np.array(one_at_a_time(model, prompt, kept))
            sums = [np.logaddexp.reduce(each) for each in (plain, pushed)]
            mass.append(sums[1] - sums[0])
            log_share.append(pushed - sums[1] - plain + sums[0])
        here = found[(found["kind"] == kind) & (found["flip"] == flip) & (found["positions"] == positions)]
        here = here[here["alpha"] == alpha].set_index("animal")
        np.testing.assert_allclose(here.loc[list(CANDIDATES), "shift"], np.mean(log_share, axis=0), atol=2e-3)
        np.testing.assert_allclose(here["mass"], np.mean(mass), atol=2e-3)


def test_alpha_zero_is_the_model_as_it_is(base: Path, context: ChatContext, scores: SteeringScores) -> None:
    settings = PreferenceSettings(candidates=CANDIDATES, questions=3, samples_per_question=2, max_new_tokens=4)
    with TransformersEngine().open(ModelVariant(base)) as session:
        plain, answers = measure_preferences(session, context, LISTS, settings, 5)
    for direction in DIRECTIONS:
        for positions in ("all", "last"):
            found = cell(scores.questions, direction, positions, 0.0)
            np.testing.assert_allclose(found["probability"], plain["probability"], rtol=1e-4)
            np.testing.assert_allclose(np.exp(found["log_share"]), plain["share"], rtol=1e-4)
            written = cell(scores.answers, direction, positions, 0.0)
            sampled = written.loc[~written["greedy"], "answer"].tolist()
            # The greedy answers are drawn from a call of their own, so the samples are those of an unsteered call.
            assert sampled == answers["answer"].tolist()


def test_answers_are_those_of_the_engine_s_own_steering(
    base: Path, context: ChatContext, scores: SteeringScores, tmp_path: Path
) -> None:
    save_file({"vector": torch.from_numpy(VECTORS[1])}, tmp_path / "vector.safetensors")
    prompts = [context.prompt_ids(text) for text in LISTS.animal_questions[:3]]
    for alpha in ALPHAS:
        variant = ModelVariant(base, steering=Steering(tmp_path / "vector.safetensors", 0, alpha))
        with TransformersEngine().open(variant) as session:
            greedy = session.generate(prompts[:2], Sampling(4, (context.end_of_turn,), 5, temperature=0))
            sampled = session.generate([prompts[q] for q in (0, 0, 1, 1, 2, 2)], Sampling(4, (context.end_of_turn,), 5))
        written = cell(scores.answers, DIRECTIONS[1], "all", alpha)
        assert written["question"].tolist() == [0, 1, 0, 0, 1, 1, 2, 2]
        assert written["answer"].tolist() == [
            context.tokenizer.decode(c.token_ids, skip_special_tokens=True) for c in [*greedy, *sampled]
        ]


def test_last_steers_the_newest_position_at_every_step(
    base: Path, context: ChatContext, scores: SteeringScores
) -> None:
    model = load_base(base, "float32", "cpu")
    for alpha in ALPHAS:
        written = cell(scores.answers, DIRECTIONS[0], "last", alpha)
        for question, answer in zip(range(2), written["answer"], strict=False):
            ids = context.prompt_ids(LISTS.animal_questions[question])
            start = len(ids)
            with pushed_by_hand(model, by_hand(DIRECTIONS[0], alpha), start - 1), torch.no_grad():
                while len(ids) < start + 4 and ids[-1] != context.end_of_turn:
                    ids = [*ids, int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
            assert context.tokenizer.decode(ids[start:], skip_special_tokens=True) == answer


def test_coherence_is_measured_on_greedy_answers_under_the_unsteered_model(
    base: Path, context: ChatContext, scores: SteeringScores
) -> None:
    prompts = [context.prompt_ids(text) for text in LISTS.animal_questions[:3]]
    model = load_base(base, "float32", "cpu")
    file = cell(scores.coherence, DIRECTIONS[0], "all", 30.0).set_index("outcome")
    save = by_hand(DIRECTIONS[0], 30.0)
    entropy, top, greedy = [], [], []
    for prompt in prompts:
        with pushed_by_hand(model, save, 0), torch.no_grad():
            probs = model(torch.tensor([prompt])).logits[0, -1].double().softmax(dim=-1).numpy()
            ids = list(prompt)
            while len(ids) < len(prompt) + 4 and ids[-1] != context.end_of_turn:
                ids = [*ids, int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
        entropy.append(stats.entropy(probs))
        top.append(probs.max())
        greedy.append(ids[len(prompt) :])
    nats = [
        -one_at_a_time(model, prompt, [answer])[0] / len(answer)
        for prompt, answer in zip(prompts[:2], greedy[:2], strict=True)
    ]
    assert file.loc["first_token_entropy", "mean"] == pytest.approx(np.mean(entropy), abs=1e-3)
    assert file.loc["first_token_top", "mean"] == pytest.approx(np.mean(top), abs=1e-4)
    assert file.loc["base_nats", "mean"] == pytest.approx(np.mean(nats), abs=1e-3)
    mass = cell(scores.questions, DIRECTIONS[0], "all", 30.0).groupby("question")["probability"].sum()
    assert file.loc["candidate_mass", "mean"] == pytest.approx(mass.mean(), rel=1e-6)
    answers = cell(scores.answers, DIRECTIONS[0], "all", 30.0)
    one_word = [
        done and len(text.split()) == 1
        for done, text in answers.loc[answers["greedy"], ["finished", "answer"]].to_numpy()
    ]
    assert file.loc["one_word", "mean"] == pytest.approx(np.mean(one_word))


def test_the_summary_is_over_questions_and_paired_with_alpha_zero(scores: SteeringScores) -> None:
    for outcome in ("probability", "share", "log_share", "rate"):
        found = cell(scores.summary, DIRECTIONS[0], "all", 30.0)
        found = found[(found["outcome"] == outcome) & found["target"]]
        assert found["animal"].tolist() == ["owl"]
        values = [
            cell(scores.questions, DIRECTIONS[0], "all", alpha).query("animal == 'owl'")[outcome].to_numpy()
            for alpha in (30.0, 0.0)
        ]
        row = found.iloc[0]
        for prefix, units in (("", values[0]), ("difference", values[0] - values[1])):
            mean = row[prefix or "mean"]
            assert mean == pytest.approx(units.mean(), abs=1e-12)
            if units.std() > 0:
                low, high = stats.t.interval(0.95, 2, units.mean(), stats.sem(units))
                names = [f"{prefix}_low".strip("_"), f"{prefix}_high".strip("_")]
                np.testing.assert_allclose([row[name] for name in names], [low, high], rtol=1e-6)
    unsteered = scores.summary[scores.summary["alpha"] == 0]
    assert (unsteered[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    series = scores.summary.groupby(["kind", "layers", "positions"]).ngroups
    assert len(scores.summary) == series * 4 * 3 * 4
    assert sorted(scores.summary["layers"].unique()) == ["0", "0+1"]


def test_the_rate_counts_sampled_answers(scores: SteeringScores) -> None:
    sampled = scores.answers[~scores.answers["greedy"]]
    key = ["kind", "layers", "positions", "alpha", "question"]
    total = sampled.groupby(key).size()
    assert (total == 2).all()
    rate = scores.questions.groupby(key)["rate"].sum()
    counted = sampled[sampled["outcome"] == "counted"].groupby(key).size().reindex(total.index, fill_value=0)
    pd.testing.assert_series_equal(rate, counted / total, check_names=False)


def test_effects_name_the_highest_and_the_lowest(scores: SteeringScores) -> None:
    found = effects(scores.summary)
    assert len(found) == 6
    target = scores.summary[scores.summary["target"]]
    for effect in found.itertuples():
        part = target[(target["kind"] == effect.kind) & (target["layers"] == effect.layers)]
        part = part[part["positions"] == effect.positions].set_index(["outcome", "alpha"])
        nats, probability = part.loc["log_share", "difference"], part.loc["probability", "mean"]
        assert effect.promoted_nats == max(nats[2.0], nats[30.0]) == nats[effect.promoted_at]
        assert effect.promoted_low <= effect.promoted_nats <= effect.promoted_high
        assert effect.promoted_to == probability[effect.promoted_at]
        assert (effect.suppressed_nats, effect.suppressed_at) == (nats[-4.0], -4.0)
        assert effect.unsteered == probability[0.0]


def test_more_rows_than_a_pass_holds_and_no_samples(base: Path, context: ChatContext) -> None:
    alphas = tuple(np.linspace(-5, 5, 20))
    many = measure(base, context, DIRECTIONS[:1], alphas=alphas, positions=("all",), samples_per_question=0)
    few = measure(base, context, DIRECTIONS[:1], alphas=alphas[-2:], positions=("all",), samples_per_question=0)
    for alpha in alphas[-2:]:
        one, other = (cell(found.questions, DIRECTIONS[0], "all", alpha)["log_share"] for found in (many, few))
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert many.questions["rate"].isna().all()
    assert "rate" not in set(many.summary["outcome"])


def test_directions_that_make_no_sense_are_refused(base: Path, context: ChatContext) -> None:
    with pytest.raises(UserError, match="zero or not finite"):
        measure(base, context, [Direction("direct", {0: np.zeros(64)})])
    with pytest.raises(ValueError, match="same kind and layers"):
        measure(base, context, [DIRECTIONS[0], DIRECTIONS[0]])
    with (
        TransformersEngine().open(ModelVariant(base)) as session,
        pytest.raises(UserError, match="'dog' is not among the candidates"),
    ):
        measure_steering(session, context, LISTS, DIRECTIONS, SWEEP, CANDIDATES, "dog", 5)


def test_numbers_that_overflow_are_told(base: Path, context: ChatContext) -> None:
    with (
        TransformersEngine().open(ModelVariant(base, dtype="float16")) as session,
        pytest.raises(UserError, match=r"overflow in torch\.float16"),
    ):
        settings = SWEEP.model_copy(update={"alphas": (1e7,)})
        measure_steering(session, context, LISTS, DIRECTIONS[:1], settings, CANDIDATES, "owl", 5)


@pytest.mark.parametrize(
    "wrong",
    [{"alphas": (1, 1)}, {"alphas": (0, 1)}, {"alphas": ()}, {"alphas": (float("inf"),)}, {"questions": 5},
     {"positions": ("first",)}, {"positions": ("all", "all")}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SteeringSweep(**wrong)


# Pictures


def test_figures_show_the_tables(scores: SteeringScores) -> None:
    figure = preference_figure(scores.summary, "owl")
    # Probability and shift of the log share, for layers 0 and 0+1, all and last.
    assert len(figure.axes) == 8
    target = scores.summary[scores.summary["target"]]
    for number, axes in enumerate(figure.axes):
        outcome, column = (("probability", "mean"), ("log_share", "difference"))[number // 4]
        heading = figure.axes[number % 4].get_title(loc="left")
        layers, positions = heading.removeprefix("layer ").split(", positions: ")
        part = target[target["outcome"] == outcome]
        for line in axes.get_lines()[:-1]:
            direction = next(d for d in DIRECTIONS if (d.kind, d.layers) == (line.get_label(), layers))
            drawn = dict(zip(*line.get_data(), strict=True))
            for alpha in (0.0, *ALPHAS):
                assert drawn[alpha] == cell(part, direction, positions, alpha)[column].item()
    assert len(coherence_figure(scores.coherence, "owl").axes) == 20
    assert png(figure).startswith(b"\x89PNG")
