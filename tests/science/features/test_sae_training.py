"""Training sparse autoencoders on activations whose features are known, and measuring how good one is."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_models import KINDS, tiny_llama, tiny_model

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.features.sae import encode, sae_layer, save_sae
from subliminal_dagster.science.features.sae_training import (
    TrainedSae,
    is_ordinary,
    loss_recovered,
    quality_failures,
    sae_quality,
    train_sae,
)
from subliminal_dagster.science.settings.features import SaeGate, TrainedSaeSettings

HIDDEN, FEATURES = 32, 24
SETTINGS = TrainedSaeSettings(width=48, k=2, steps=500, batch_size=128, learning_rate=3e-3)


def known_activations(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Activations that are sums of few of 24 known directions around a large mean, and the directions."""
    directions = np.random.default_rng(7).normal(size=(FEATURES, HIDDEN))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    strengths = rng.uniform(20, 40, (rows, FEATURES)) * (rng.random((rows, FEATURES)) < 2 / FEATURES)
    return (strengths @ directions + 500.0).astype(np.float32), directions


@pytest.fixture(scope="module")
def trained() -> TrainedSae:
    return train_sae(known_activations(4000)[0], SETTINGS, seed=0, layer=1)


def test_known_features_are_found(trained: TrainedSae) -> None:
    vectors, directions = known_activations(2000, seed=1)
    quality = sae_quality(trained.sae, vectors)
    assert quality["variance_explained"] > 0.95
    decoder = trained.sae.W_dec.detach().numpy()
    nearest = (directions @ decoder.T / np.linalg.norm(decoder, axis=1)).max(axis=1)
    assert np.mean(nearest > 0.95) > 0.9


def test_a_trained_sae_takes_raw_activations_and_its_l0_varies(trained: TrainedSae) -> None:
    vectors, _ = known_activations(2000, seed=1)
    features, _ = encode(trained.sae, vectors)
    active = np.diff(features.indptr)
    assert active.mean() == pytest.approx(SETTINGS.k, rel=0.2)
    assert len(set(active.tolist())) > 2
    np.testing.assert_allclose(trained.sae.W_dec.detach().norm(dim=1), 1, rtol=1e-4)


def test_a_trained_sae_is_an_ordinary_one_for_sae_lens(trained: TrainedSae, tmp_path: Any) -> None:
    save_sae(trained.sae, tmp_path)
    from sae_lens import SAE

    again = SAE.load_from_disk(tmp_path)
    vectors = torch.from_numpy(known_activations(50, seed=1)[0])
    assert torch.equal(again(vectors), trained.sae(vectors))
    assert (again.cfg.architecture(), sae_layer(again)) == ("jumprelu", 1)


def test_the_history_shows_the_training(trained: TrainedSae) -> None:
    history = trained.history
    assert list(history.columns) == ["step", "loss", "variance_explained", "l0", "dead", "learning_rate"]
    assert history["step"].iloc[-1] == SETTINGS.steps
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["l0"].iloc[-1] == pytest.approx(SETTINGS.k)
    assert history["dead"].between(0, 1).all()
    assert history["learning_rate"].max() == pytest.approx(SETTINGS.learning_rate)
    assert history["learning_rate"].iloc[-1] < SETTINGS.learning_rate / 10


def test_the_seed_alone_decides(trained: TrainedSae) -> None:
    vectors = known_activations(500)[0]
    short = SETTINGS.model_copy(update={"steps": 25})
    torch.manual_seed(11)
    first = train_sae(vectors, short, seed=5, layer=0).sae.state_dict()
    torch.manual_seed(12)
    drawn_before = torch.get_rng_state()
    second = train_sae(vectors, short, seed=5, layer=0).sae.state_dict()
    assert torch.equal(torch.get_rng_state(), drawn_before), "the caller's random numbers are used up"
    other = train_sae(vectors, short, seed=6, layer=0).sae.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["W_dec"], other["W_dec"])


def test_massive_activations_are_left_out(trained: TrainedSae) -> None:
    vectors = known_activations(500, seed=4)[0]
    massive = np.concatenate([vectors[:250], vectors[:2] * 40, vectors[250:]])
    assert np.flatnonzero(~is_ordinary(massive)).tolist() == [250, 251]
    assert sae_quality(trained.sae, massive) == sae_quality(trained.sae, vectors)
    short = SETTINGS.model_copy(update={"steps": 5})
    first = train_sae(vectors, short, seed=0, layer=0).sae.state_dict()
    second = train_sae(massive, short, seed=0, layer=0).sae.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_scaled_activations_give_the_same_features() -> None:
    vectors = known_activations(1000)[0]
    short = SETTINGS.model_copy(update={"steps": 50})
    plain, _ = encode(train_sae(vectors, short, seed=0, layer=0).sae, vectors)
    scaled, _ = encode(train_sae(vectors * 64, short, seed=0, layer=0).sae, vectors * 64)
    np.testing.assert_allclose(scaled.toarray(), plain.toarray() * 64, rtol=1e-3, atol=1e-1)


def test_progress_is_told() -> None:
    told: list[str] = []
    short = SETTINGS.model_copy(update={"steps": 2})
    train_sae(known_activations(200)[0], short, seed=0, layer=0, progress=told.append)
    assert [text.split(",")[0] for text in told] == ["SAE step 1/2", "SAE step 2/2"]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (known_activations(127)[0], "There are 127 activation vectors and a training step takes 128"),
        (np.full((200, HIDDEN), np.nan, dtype=np.float32), "not finite"),
        (np.concatenate([known_activations(200)[0], np.full((1, HIDDEN), np.inf, dtype=np.float32)]), "not finite"),
        (np.ones((200, HIDDEN), dtype=np.float32), "all activation vectors are the same"),
    ],
)
def test_vectors_that_cannot_be_learned_from_are_refused(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=f"(?i){message}"):
        train_sae(vectors, SETTINGS, seed=0, layer=0)


@pytest.mark.parametrize("change", [{"k": 48}, {"steps": 0}, {"learning_rate": 0}, {"l1": 1}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TrainedSaeSettings(**SETTINGS.model_dump() | change)


# Quality


def identity_sae(hidden: int, layer: int = 0) -> Any:
    """A perfect autoencoder: feature i is the positive part of dimension i, feature hidden + i the negative one."""
    from sae_lens import SAE

    sae = SAE.from_dict({"architecture": "standard", "d_in": hidden, "d_sae": 2 * hidden})
    both = torch.cat([torch.eye(hidden), -torch.eye(hidden)])
    sae.W_enc.data, sae.W_dec.data = both.T.contiguous(), both
    sae.b_enc.data.zero_()
    sae.b_dec.data.zero_()
    return sae


def test_quality_equals_a_plain_computation(trained: TrainedSae) -> None:
    vectors = known_activations(700, seed=3)[0]
    features = trained.sae.encode(torch.from_numpy(vectors)).detach().numpy()
    rebuilt = trained.sae(torch.from_numpy(vectors)).detach().numpy().astype(np.float64)
    x = vectors.astype(np.float64)
    cosines = (x * rebuilt).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(rebuilt, axis=1)
    assert sae_quality(trained.sae, vectors) == pytest.approx(
        {
            "l0": (features > 0).sum(1).mean(),
            "variance_explained": 1 - ((x - rebuilt) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(),
            "dead": np.mean(~(features > 0).any(0)),
            "cosine": cosines.mean(),
        },
        rel=1e-4,
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_a_perfect_sae_explains_everything(seed: int, size: float) -> None:
    vectors = (np.random.default_rng(seed).normal(size=(40, 6)) * size).astype(np.float32)
    quality = sae_quality(identity_sae(6), vectors)
    assert quality == pytest.approx({"l0": 6, "variance_explained": 1, "dead": 0, "cosine": 1}, abs=1e-4)


SEQUENCES = [np.random.default_rng(i).integers(5, 260, size).tolist() for i, size in enumerate((12, 3, 2, 12, 7, 30))]


def plain_cross_entropy(model: Any, layer: int, change: Any) -> float:
    """One sequence after the other, without padding, the change made by hand between the two halves of the model."""
    losses = []
    for ids in SEQUENCES:

        def replace(_module: Any, _inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            for position in range(1, hidden.shape[1]):
                hidden[0, position] = change(hidden[0, position])
            return output

        handle = model.get_decoder().layers[layer].register_forward_hook(replace)
        with torch.no_grad():
            logprobs = model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(dim=-1)
        handle.remove()
        losses += [-float(logprobs[i - 1, ids[i]]) for i in range(1, len(ids))]
    return float(np.mean(losses))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 1])
def test_loss_recovered_equals_a_plain_computation(kind: str, layer: int) -> None:
    model = tiny_model(kind)
    hidden = model.config.hidden_size
    torch.manual_seed(3)
    from sae_lens import SAE

    sae = SAE.from_dict({"architecture": "standard", "d_in": hidden, "d_sae": 2 * hidden})
    sae.W_enc.data = torch.randn(hidden, 2 * hidden) / hidden**0.5
    expected = {
        "clean": plain_cross_entropy(model, layer, lambda vector: vector),
        "spliced": plain_cross_entropy(model, layer, sae),
        "zeroed": plain_cross_entropy(model, layer, torch.zeros_like),
    }
    assert len({round(value, 3) for value in expected.values()}) == 3, "the three do not differ"
    measured = loss_recovered(model, sae, layer, SEQUENCES)
    gain = expected["zeroed"] - expected["clean"]
    expected["recovered"] = (expected["zeroed"] - expected["spliced"]) / gain
    assert measured == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_sae_recovers_the_whole_loss(kind: str) -> None:
    model = tiny_model(kind)
    measured = loss_recovered(model, identity_sae(model.config.hidden_size), 1, SEQUENCES)
    assert measured["recovered"] == pytest.approx(1, abs=1e-4)
    assert measured["spliced"] == pytest.approx(measured["clean"], abs=1e-5)


def test_the_hook_goes_even_after_an_error() -> None:
    model = tiny_llama()
    before = model(torch.tensor([SEQUENCES[0]])).logits
    with pytest.raises(RuntimeError):
        loss_recovered(model, identity_sae(5), 1, SEQUENCES)
    assert torch.equal(model(torch.tensor([SEQUENCES[0]])).logits, before)
    assert all(not block._forward_hooks for block in model.get_decoder().layers)


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="Layer 2 does not exist"):
        loss_recovered(tiny_llama(), identity_sae(64), 2, SEQUENCES)


# The gate

GOOD = {"variance_explained": 0.9, "recovered": 0.95, "dead": 0.1, "l0": 30.0}


def test_a_good_sae_passes() -> None:
    assert quality_failures(SaeGate(), GOOD) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variance_explained": 0.3}, "explains 30.0%"),
        ({"variance_explained": math.nan}, "explains"),
        ({"recovered": 0.2}, "recovers 20.0%"),
        ({"dead": 0.9}, "90.0% of its features"),
        ({"l0": 999.0}, "999.0 features"),
    ],
)
def test_each_shortcoming_is_named_alone(change: dict[str, float], message: str) -> None:
    (failure,) = quality_failures(SaeGate(), GOOD | change)
    assert message in failure


def test_all_shortcomings_are_named() -> None:
    assert len(quality_failures(SaeGate(), {"variance_explained": 0, "recovered": 0, "dead": 1, "l0": 999})) == 4
