"""Applying sparse autoencoders: equal to a plain loop for every architecture, kept without loss, wrong ones refused.

No network: sae-lens' list of published autoencoders is read from the package, downloads are stand-ins.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.features.sae import encode, load_published, load_sae, sae_layer, save_sae

HIDDEN, WIDTH = 12, 40
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(2.0, 3.0, (23, HIDDEN)).astype(np.float32)


def make_sae(architecture: str, **changes: Any) -> Any:
    """A random autoencoder with no zero among its parameters."""
    # Here and below not for the whole file: it takes five seconds, in every process that collects tests.
    config = {
        "architecture": architecture,
        "d_in": HIDDEN,
        "d_sae": WIDTH,
        "metadata": {"hook_name": "blocks.1.hook_resid_post"},
    }
    from sae_lens import SAE

    sae = SAE.from_dict(config | ({"k": 5} if architecture == "topk" else {}) | changes)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sae.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * 0.5
        parameter.data.copy_(drawn.abs() + 0.5 if name == "threshold" else drawn)
    return sae


def batchtopk_sae(folder: Path) -> Any:
    """A BatchTopK autoencoder as it is after training: a JumpReLU one."""
    from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    torch.manual_seed(0)
    training = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=HIDDEN, d_sae=WIDTH, k=4, decoder_init_norm=1.0))
    training.topk_threshold += 0.3
    training.b_dec.data.normal_()
    training.save_inference_model(folder)
    return SAE.load_from_disk(folder)


def plain(sae: Any, vector: np.ndarray) -> tuple[np.ndarray, float]:
    """One vector in float64, written out from the definition of each architecture."""
    weights = {name: value.detach().double().numpy() for name, value in sae.named_parameters()}
    x = vector.astype(np.float64)
    mean, spread = 0.0, 1.0
    if sae.cfg.normalize_activations == "layer_norm":
        mean = x.mean()
        spread = (x - mean).std(ddof=1) + 1e-5
    inner = (x - mean) / spread - weights["b_dec"] * sae.cfg.apply_b_dec_to_input
    before = inner @ weights["W_enc"] + weights["b_enc"]
    features = np.maximum(before, 0)
    if sae.cfg.architecture() == "jumprelu":
        features[before <= weights["threshold"]] = 0
    if sae.cfg.architecture() == "topk":
        features[np.argsort(-before)[sae.cfg.k :]] = 0
    rebuilt = (features @ weights["W_dec"] + weights["b_dec"]) * spread + mean
    return features, float(np.mean((rebuilt - x) ** 2))


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk", "layer_norm", "input_as_it_is", "batchtopk"])
@pytest.mark.parametrize("batch", [1, 7, 256])
def test_encoding_equals_the_plain_loop(kind: str, batch: int, tmp_path: Path) -> None:
    sae = {
        "standard": lambda: make_sae("standard"),
        "jumprelu": lambda: make_sae("jumprelu"),
        "topk": lambda: make_sae("topk", rescale_acts_by_decoder_norm=False),
        "layer_norm": lambda: make_sae("standard", normalize_activations="layer_norm"),
        "input_as_it_is": lambda: make_sae("jumprelu", apply_b_dec_to_input=False),
        "batchtopk": lambda: batchtopk_sae(tmp_path),
    }[kind]()
    features, error = encode(sae, VECTORS, batch)
    expected = [plain(sae, vector) for vector in VECTORS]
    np.testing.assert_allclose(features.toarray(), np.stack([row for row, _ in expected]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(error, [value for _, value in expected], rtol=1e-4)
    assert 0 < features.nnz < features.shape[0] * features.shape[1], "all features or none are active"


def test_features_are_sparse_rows_in_order() -> None:
    features, error = encode(make_sae("jumprelu"), VECTORS, 10)
    assert features.shape == (len(VECTORS), WIDTH)
    assert features.has_canonical_format
    assert (features.data > 0).all()
    assert (features.dtype, features.indices.dtype, error.dtype) == (np.float32, np.int32, np.float32)


def test_no_vectors_give_no_rows() -> None:
    features, error = encode(make_sae("standard"), VECTORS[:0])
    assert (features.shape, error.shape) == ((0, WIDTH), (0,))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(len(VECTORS))))
def test_a_row_does_not_depend_on_the_others(order: list[int]) -> None:
    sae = make_sae("jumprelu")
    features, error = encode(sae, VECTORS)
    shuffled, shuffled_error = encode(sae, VECTORS[order], 5)
    np.testing.assert_allclose(shuffled.toarray(), features.toarray()[order], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shuffled_error, error[order], rtol=1e-5)


def test_gradients_are_as_before_while_batches_are_read() -> None:
    from subliminal_dagster.science.features.sae import reconstructions

    for _ in reconstructions(make_sae("standard"), VECTORS, 10):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("shape", [(3, HIDDEN + 1), (HIDDEN,), (2, 3, HIDDEN)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="takes activations of 12 dimensions"):
        encode(make_sae("standard"), np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(bad: float) -> None:
    vectors = VECTORS.copy()
    vectors[4, 2] = bad
    with pytest.raises(UserError, match="1 of 23 activation vectors are not finite, the first in row 4"):
        encode(make_sae("standard"), vectors)


def test_an_overflow_inside_is_refused() -> None:
    with pytest.raises(UserError, match="rebuilds 23 of 23"):
        encode(make_sae("standard"), VECTORS * np.float32(1e37))


# Keeping


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk", "batchtopk"])
def test_a_saved_sae_is_the_same_for_this_project_and_for_sae_lens(kind: str, tmp_path: Path) -> None:
    sae = batchtopk_sae(tmp_path / "trained") if kind == "batchtopk" else make_sae(kind)
    save_sae(sae, tmp_path / "kept")
    from sae_lens import SAE

    for again in (load_sae(tmp_path / "kept"), SAE.load_from_disk(tmp_path / "kept")):
        assert torch.equal(again.encode(torch.from_numpy(VECTORS)), sae.encode(torch.from_numpy(VECTORS)))
        assert again.cfg.metadata.hook_name == sae.cfg.metadata.hook_name
    assert {file.name for file in (tmp_path / "kept").iterdir()} == {"cfg.json", "sae_weights.safetensors"}


def test_what_is_saved_depends_on_the_sae_alone(tmp_path: Path) -> None:
    sae = make_sae("jumprelu")
    save_sae(sae, tmp_path / "first")
    sae.cfg.device = "cuda:1"
    save_sae(sae, tmp_path / "second")
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("declared", ["stored", "float32"])
@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_an_sae_of_another_number_type_is_read_as_float32(
    stored: torch.dtype, declared: str, kind: str, tmp_path: Path
) -> None:
    """Whether or not its configuration says which type its weights are of."""
    sae = make_sae(kind).to(stored)
    sae.save_model(tmp_path)
    if declared != "stored":
        config = json.loads((tmp_path / "cfg.json").read_text())
        (tmp_path / "cfg.json").write_text(json.dumps(config | {"dtype": declared}))
    again = load_sae(tmp_path)
    assert {again.dtype, *(p.dtype for p in again.parameters())} == {torch.float32}
    features, error = encode(again, VECTORS)
    expected = [plain(sae, vector) for vector in VECTORS]
    np.testing.assert_allclose(features.toarray(), [row for row, _ in expected], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(error, [loss for _, loss in expected], rtol=1e-4)


def test_a_folder_without_an_sae_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no SAE"):
        load_sae(tmp_path)


# Published ones

GEMMA_2 = ("gemma-scope-9b-it-res-canonical", "layer_9/width_16k/canonical")
GEMMA_3 = ("gemma-scope-2-270m-it-res", "layer_12_width_16k_l0_medium")


WEIGHTS = {
    "w_enc": torch.from_numpy(RANDOM.normal(size=(640, 16))).float(),
    "w_dec": torch.from_numpy(RANDOM.normal(size=(16, 640))).float(),
    "b_enc": torch.from_numpy(RANDOM.normal(size=16)).float(),
    "b_dec": torch.from_numpy(RANDOM.normal(size=640)).float(),
    "threshold": torch.from_numpy(RANDOM.uniform(size=16)).float(),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the hub's files of a Gemma 3 autoencoder, which sae-lens' own loader reads."""
    from safetensors.torch import save_file

    def hf_hub_download(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        file = tmp_path / repo_id / subfolder / filename
        file.parent.mkdir(parents=True, exist_ok=True)
        if filename == "params.safetensors":
            save_file(WEIGHTS, file)
        else:
            file.write_text('{"architecture": "jump_relu", "model_name": "gemma-v3-270m-it"}')
        return str(file)

    loaders = "sae_lens.loading.pretrained_sae_loaders."
    monkeypatch.setattr(loaders + "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(
        loaders + "get_safetensors_tensor_shapes",
        lambda *_args, **_kwargs: {name: list(value.shape) for name, value in WEIGHTS.items()},
    )


@pytest.mark.usefixtures("hub")
def test_a_published_sae_is_loaded_and_knows_its_layer() -> None:
    sae = load_published(*GEMMA_3, layer=12, hidden_size=640)
    assert sae_layer(sae) == 12
    weights = {name: value.double().numpy() for name, value in WEIGHTS.items()}
    x = np.full(640, 0.5)
    before = x @ weights["w_enc"] + weights["b_enc"]
    expected = before * (before > weights["threshold"])
    assert 0 < np.count_nonzero(expected) < 16
    features, error = encode(sae, x[None].astype(np.float32))
    np.testing.assert_allclose(features.toarray()[0], expected, rtol=1e-4)
    rebuilt = expected @ weights["w_dec"] + weights["b_dec"]
    np.testing.assert_allclose(error, [np.mean((rebuilt - x) ** 2)], rtol=1e-4)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.usefixtures("hub")
def test_a_published_sae_of_another_number_type_is_read_as_float32(
    stored: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in WEIGHTS.items():
        monkeypatch.setitem(WEIGHTS, name, value.to(stored))
    sae = load_published(*GEMMA_3, layer=12, hidden_size=640)
    assert {sae.dtype, *(p.dtype for p in sae.parameters())} == {torch.float32}
    features, _ = encode(sae, np.full((1, 640), 0.5, np.float32))
    assert features.dtype == np.float32 and features.nnz


@pytest.mark.usefixtures("hub")
def test_a_published_sae_of_another_layer_or_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"trained at blocks\.12\.hook_resid_post and blocks\.9\.hook_resid_post"):
        load_published(*GEMMA_3, layer=9, hidden_size=640)
    with pytest.raises(UserError, match=r"takes activations of 640 dimensions .* have 576.*gemma-3-270m-it"):
        load_published(*GEMMA_3, layer=12, hidden_size=576)


def test_an_unknown_release_or_id_names_near_ones() -> None:
    with pytest.raises(UserError, match=r"near ones: .*gemma-scope-9b-it-res-canonical"):
        load_published("gemma-scope-9b-it-canonical", GEMMA_2[1], layer=9, hidden_size=3584)
    with pytest.raises(UserError, match=r"near ones: .*layer_9/width_16k/canonical"):
        load_published(GEMMA_2[0], "layer_9/width_16k", layer=9, hidden_size=3584)


@pytest.mark.parametrize("published", [GEMMA_2, GEMMA_3])
def test_without_a_network_the_message_says_so(published: tuple[str, str]) -> None:
    # The hub client is offline in all tests; the Gemma 3 loader asks the hub by another way, which is cut here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        with pytest.raises(UserError, match=r"could not be downloaded from google/gemma-scope.*check the network"):
            load_published(*published, layer=9, hidden_size=3584)


def test_the_listed_saes_of_the_gemma_models_are_of_the_residual_stream() -> None:
    from sae_lens.loading.pretrained_sae_loaders import get_gemma_2_config_from_hf
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    for size, layers in {"270m": (5, 9, 12, 15), "1b": (7, 13, 17, 22), "4b": (9, 17, 22, 29)}.items():
        ids = directory[f"gemma-scope-2-{size}-it-res"].saes_map
        for layer in layers:
            assert ids[f"layer_{layer}_width_16k_l0_medium"].startswith(f"resid_post/layer_{layer}_")
    listed = directory[GEMMA_2[0]]
    for layer in (9, 20, 31):
        folder = listed.saes_map[f"layer_{layer}/width_16k/canonical"]
        facts = get_gemma_2_config_from_hf(listed.repo_id, folder, "cpu")
        assert (facts["hook_name"], facts["d_in"]) == (f"blocks.{layer}.hook_resid_post", 3584)
