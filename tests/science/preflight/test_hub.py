"""What the hub is asked before a download, and what each of its answers is told as.

A server on this machine stands for the hub; it sends the statuses and headers that the real one does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hub_server import GOOD_TOKEN, STRANGERS_TOKEN, Hub, hub_server

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preflight.finding import Finding
from subliminal_dagster.science.preflight.hub import (
    Repository,
    ahead_of_hub,
    check_cached,
    check_cached_model,
    check_repository,
    exam_repository,
    model_repository,
    sae_repository,
)
from subliminal_dagster.science.settings.base_model import HubSource
from subliminal_dagster.science.settings.capability import HubExam
from subliminal_dagster.science.settings.features import PublishedSae

REVISION, OTHER = "0" * 40, "f" * 40


def model(repo: str = "maker/gated", revision: str = REVISION) -> HubSource:
    return HubSource(repo=repo, revision=revision, dtype="bfloat16")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    sizes = {
        "config.json": 700,
        "model-00001-of-00002.safetensors": 5000,
        "model-00002-of-00002.safetensors": 3000,
        "pytorch_model.bin": 10**6,
        "original/model.safetensors": 10**6,
    }
    repos = {name: {REVISION} for name in ("maker/gated", "maker/open", "TIGER-Lab/MMLU-Pro")}
    with hub_server(Hub(repos, {"maker/gated"}, sizes), monkeypatch) as hub:
        yield hub


@pytest.mark.parametrize(
    ("repo", "revision", "token", "state", "sentence"),
    [
        ("maker/open", REVISION, None, "ok", "the hub gives maker/open at 00000000 without a token"),
        ("maker/gated", REVISION, GOOD_TOKEN, "ok", "the hub gives maker/gated at 00000000 with HF_TOKEN"),
        (
            "maker/gated",
            REVISION,
            None,
            "failed",
            "maker/gated on the Hugging Face hub is gated: accept its licence on the model's page, and set HF_TOKEN to "
            "a token of that account.",
        ),
        (
            "maker/gated",
            REVISION,
            STRANGERS_TOKEN,
            "failed",
            "maker/gated on the Hugging Face hub is gated: accept its licence on the model's page, with the account of "
            "HF_TOKEN.",
        ),
        (
            "maker/open",
            REVISION,
            "hf_expired",
            "failed",
            "maker/open on the Hugging Face hub refused the download (HTTP 401; HF_TOKEN may not read it): set "
            "HF_TOKEN to a valid token with read access to it.",
        ),
        (
            "maker/none",
            REVISION,
            None,
            "failed",
            "There is no maker/none on the Hugging Face hub, or it is private: check `repo` of the base model, and for "
            "a private one set HF_TOKEN to a token that may read it.",
        ),
        (
            "maker/open",
            OTHER,
            None,
            "failed",
            f"maker/open on the Hugging Face hub has no revision {OTHER}: take the commit from the history of its "
            "files.",
        ),
    ],
)
def test_every_answer_of_the_hub_is_one_sentence(
    hub: Hub,
    repo: str,
    revision: str,
    token: str | None,
    state: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    found, size = check_repository(model_repository(model(repo, revision)))
    assert (found.check, found.state, found.sentence) == ("base model", state, sentence)
    # What is downloaded: neither pickled weights nor those of a folder.
    assert size == (8700 if repo == "maker/gated" or state == "ok" else 0)


def test_a_hub_that_is_down_or_out_of_reach(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 503
    found, _ = check_repository(model_repository(model("maker/open")))
    assert found.state == "failed"
    assert "maker/open on the Hugging Face hub could not be reached (HTTP 503): check the network" in found.sentence
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    found, _ = check_repository(model_repository(model("maker/open")))
    assert found.state == "failed"
    assert "could not be reached (ConnectError): check the network" in found.sentence
    assert ahead_of_hub() is None


def test_a_dataset_is_asked_for_as_one(hub: Hub) -> None:
    exam = exam_repository(HubExam(revision=REVISION))
    found, _ = check_repository(exam)
    assert (found.check, found.state) == ("exam", "ok")
    assert all(path.startswith("/api/datasets/TIGER-Lab/MMLU-Pro/") for path in hub.asked)
    found, _ = check_repository(exam_repository(HubExam(repo="maker/none", revision=REVISION)))
    assert found.state == "failed" and "check `repo` of the exam" in found.sentence


def test_where_a_published_autoencoder_lies() -> None:
    found = sae_repository(PublishedSae(release="gemma-scope-9b-it-res-canonical", id="layer_9/width_16k/canonical"))
    assert (found.repo, found.revision) == ("google/gemma-scope-9b-it-res", None)
    with pytest.raises(UserError, match="lists no release 'gemma-scope-9b' of SAEs: correct `release`"):
        sae_repository(PublishedSae(release="gemma-scope-9b", id="x"))


@pytest.mark.parametrize("minutes", [-90, 0, 90])
def test_the_hub_says_what_time_it_has(hub: Hub, minutes: int) -> None:
    hub.date = format_datetime(datetime.now(UTC) - timedelta(minutes=minutes), usegmt=True)
    ahead = ahead_of_hub()
    assert ahead is not None
    assert round(ahead / timedelta(minutes=1)) == minutes


def test_a_date_that_is_none_is_no_time(hub: Hub) -> None:
    hub.date = "yesterday"
    assert ahead_of_hub() is None


# Offline


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, in offline mode."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def keep(cache: Path, folder: str, *names: str) -> None:
    snapshot = cache / folder / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    for name in names:
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (snapshot / name).write_text(json.dumps(index) if name.endswith("index.json") else "{}")


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("files", "state", "sentence"),
    [
        (["config.json", "model.safetensors"], "ok", "is in this machine's cache of the hub"),
        (["config.json", INDEX, "model-1.safetensors", "model-2.safetensors"], "ok", "is in this machine's cache"),
        (
            [],
            "failed",
            f"holds no maker/gated at {REVISION}: fill it where there is a network (hf download maker/gated",
        ),
        (["config.json"], "failed", f"holds maker/gated at {REVISION} in part (no model*.safetensors)"),
        (["config.json", INDEX, "model-2.safetensors"], "failed", "lacks model-1.safetensors of maker/gated: fetch it"),
    ],
)
def test_offline_the_cache_has_to_hold_the_model(cache: Path, files: list[str], state: str, sentence: str) -> None:
    keep(cache, "models--maker--gated", *files)
    found = check_cached_model(model())
    assert found.state == state
    assert sentence in found.sentence


@pytest.mark.parametrize("revision", [REVISION, None])
def test_offline_the_cache_has_to_hold_what_else_is_wanted(cache: Path, revision: str | None) -> None:
    wanted = Repository("exam", "maker/exam", revision, "dataset", "`repo` of the exam")
    found = check_cached(wanted)
    assert found.state == "failed"
    options = f" --revision {REVISION}" if revision else ""
    assert f"(hf download maker/exam --repo-type dataset{options}), or unset it" in found.sentence
    keep(cache, "datasets--maker--exam", "README.md")
    assert check_cached(wanted) == Finding("exam", "ok", "maker/exam is in this machine's cache of the hub")
