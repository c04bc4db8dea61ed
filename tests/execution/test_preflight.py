"""What is looked at for a study, by what is still to be made of it, and the command that prints it.

No GPU is needed, and none was: nvidia-smi is a script, and what torch would say of a card is written down here. A
server on this machine stands for the hub.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from hub_server import GOOD_TOKEN, Hub, hub_server
from stored import overwrite
from tiny_studies import TOY_SETTINGS, inside_settings, tiny_study_settings

from subliminal_dagster.build import study_frame
from subliminal_dagster.cli import main
from subliminal_dagster.execution import preflight
from subliminal_dagster.science.budget.needs import Need, needs
from subliminal_dagster.science.descriptions.chat_api import KEY, MODEL, URL
from subliminal_dagster.science.preflight.card import Card, Device, TorchFacts
from subliminal_dagster.science.preflight.finding import GB
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

Capture = pytest.CaptureFixture[str]

REVISION = "0" * 40
SMALL, LARGE = "google/gemma-3-270m-it", "google/gemma-2-9b-it"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(tmp_path / "store"))
    for variable in ("HF_TOKEN", "SUBLIMINAL_ENGINE", "CUDA_VISIBLE_DEVICES", URL, MODEL, KEY):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    repos = {SMALL: {REVISION}, LARGE: {REVISION}}
    sizes = {"config.json": 1000, "model.safetensors": 2 * GB}
    with hub_server(Hub(repos, {SMALL, LARGE}, sizes), monkeypatch) as hub:
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def study_of(repo: str, folder: Path) -> str:
    """The path of a study on a model of the hub."""
    return written(tiny_study_settings(folder) | {"base_model": on_hub(repo)}, folder)


def on_hub(repo: str) -> dict[str, str]:
    return {"kind": "hub", "repo": repo, "revision": REVISION, "dtype": "bfloat16"}


def written(settings: dict[str, Any], folder: Path) -> str:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def said(capsys: Capture, *arguments: str) -> tuple[int, dict[str, str]]:
    """The command's exit code, and its lines by check: state and sentence."""
    code = main(["preflight", "--study", *arguments])
    found: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        state, rest = line[:8].strip(), line[8:]
        width = 2 + max(rest.find(name) + len(name) for name in CHECKS if rest.startswith(name))
        found[rest[:width].strip()] = f"{state}: {rest[width:].strip()}"
    return code, found


CHECKS = ("packages", "store", "base model", "autoencoder", "exam", "prompts", "card", "engine", "memory", "disk")
CHECKS += ("judge", "clock", "plan")


def test_a_run_without_the_licence_ends_before_the_first_download(
    hub: Hub, store: ArtifactStore, tmp_path: Path
) -> None:
    """In a process of its own: the hub's library reads its variables when it is imported."""
    command = "import sys; from subliminal_dagster.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", command, "run", "--study", study_of(SMALL, tmp_path)],
        env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines() == [
        f"failed: base model: {SMALL} on the Hugging Face hub is gated: accept its licence on the model's page, and "
        "set HF_TOKEN to a token of that account.",
        "tiny: nothing was begun",
    ]
    assert (done.returncode, done.stdout) == (1, "")
    assert hub.asked and all(path.startswith(f"/api/models/{SMALL}/") for path in hub.asked)
    assert store.studies() == []


def test_the_exit_code_says_whether_anything_failed(
    hub: Hub, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(SMALL, tmp_path)
    code, found = said(capsys, study)
    assert code == 1
    assert found["base model"].startswith("failed: ") and found["clock"].startswith("ok: within ")
    assert "the hub" not in found["clock"], "it refused, so nothing more was asked of it"
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    code, found = said(capsys, study)
    assert code == 0
    assert found["base model"] == f"ok: the hub gives {SMALL} at 00000000 with HF_TOKEN"
    assert {line.partition(":")[0] for line in found.values()} == {"ok"}
    assert list(found) == ["packages", "store", "base model", "prompts", "card", "engine", "memory", "disk", "clock"]
    assert found["memory"].startswith("ok: loading the base model needs most, 0.5 GB; this machine has ")
    assert "about 2.3 GB to be written" in found["disk"], "as the hub says, not as the shape has it"
    assert found["clock"].endswith("and the hub")
    hub.date = format_datetime(datetime.now(UTC) - timedelta(hours=2), usegmt=True)
    code, found = said(capsys, study)
    assert code == 0
    assert found["clock"].startswith("warning: This machine's clock is 120 minutes ahead of that of the hub")
    assert main(["preflight", "--study", "no-such-study"]) == 2
    assert main(["preflight", "--study", study, "--select", "no_such_asset"]) == 2


def make_base_model(study: str, store: ArtifactStore) -> None:
    """Its artifact as the plan takes it for fresh, with nothing of a model in it."""
    recipe = study_frame(load_study(study)).nodes["base_model"].recipe
    info = {"code_version": recipe.version, "settings": recipe.settings, "code": recipe.code, "upstream": {}}
    with store.write("tiny", "base_model", info=info) as draft:
        (draft.path / "config.json").write_text("{}")


def test_a_base_model_that_is_there_needs_no_hub(
    hub: Hub, store: ArtifactStore, tmp_path: Path, capsys: Capture
) -> None:
    study = study_of(SMALL, tmp_path)
    make_base_model(study, store)
    code, found = said(capsys, study)
    assert code == 0 and hub.asked == []
    assert found["base model"] == "ok: made already; no token is needed for it"
    assert "about 0.3 GB to be written" in found["disk"]
    code, found = said(capsys, study, "--select", "base_model")
    assert (code, found) == (0, {"plan": "ok: nothing is to be made"})


def test_what_needs_no_card_is_not_asked_about_one(hub: Hub, tmp_path: Path, capsys: Capture) -> None:
    _, found = said(capsys, study_of(LARGE, tmp_path), "--select", "base_model")
    assert found["card"] == "ok: nothing that is to be made needs one"
    assert "memory" not in found and "engine" not in found


def test_offline_the_cache_is_looked_at(
    hub: Hub, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    code, found = said(capsys, study_of(SMALL, tmp_path))
    assert code == 1 and hub.asked == []
    assert f"HF_HUB_OFFLINE is set and this machine's cache of the hub holds no {SMALL}" in found["base model"]


# The card


def put_card_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'NVIDIA L40S, 570.86.10\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.skipif(torch.version.cuda is not None, reason="the torch that is installed is no CPU build")
def test_a_torch_for_the_cpu_beside_a_card(
    hub: Hub, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_card_in(tmp_path, monkeypatch)
    _, found = said(capsys, study_of(LARGE, tmp_path))
    assert found["card"].startswith(f"failed: torch {torch.__version__} is built for the CPU and leaves the NVIDIA")


def findings_on(
    gigabytes: list[tuple[int, int]],
    study: str,
    monkeypatch: pytest.MonkeyPatch,
    engine: Literal["vllm", "transformers"] = "vllm",
    recomputes: bool = False,
    sweep: str | None = None,
) -> dict[str, list[str]]:
    """What is found on a machine with such cards (memory, free memory): states and sentences by check."""
    devices = tuple(Device("NVIDIA L40S", total * GB, free * GB) for total, free in gigabytes)
    monkeypatch.setattr(preflight, "cards_here", lambda: [Card("NVIDIA L40S", "570.86.10")])
    monkeypatch.setattr(preflight, "ask_torch", lambda: TorchFacts("2.13.0", "13.0", devices))
    monkeypatch.setattr(preflight, "installed", lambda name: "0.32.0" if name == "vllm" else None)
    frame = study_frame(load_study(study, [f"sweep={sweep}"] if sweep else []))
    found: dict[str, list[str]] = {}
    store = ArtifactStore(f"memory://{study}")
    wanted = {("sweep_liking", None)} if sweep else frame.usual_parts()
    for finding in preflight.preflight(frame, store, wanted, engine, recomputes, 0):
        found.setdefault(finding.check, []).append(f"{finding.state}: {finding.sentence}")
    return found


def test_each_stage_is_held_against_the_card(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings_on([(48, 47)], "gemma-2-9b-it", monkeypatch)
    assert found["card"] == ["ok: NVIDIA L40S, driver 570.86.10, torch 2.13.0 for CUDA 13.0"]
    assert found["engine"] == ["ok: vLLM"]
    (line,) = found["memory"]
    assert line.startswith("ok: ") and line.endswith("; the NVIDIA L40S has 48.0 GB, 47.0 GB free")
    # 9.2 billion parameters of two bytes are 18.5 GB: whatever loads the model.
    found = findings_on([(16, 15)], "gemma-2-9b-it", monkeypatch)
    failed = {line.removeprefix("failed: ").split(" needs ")[0] for line in found["memory"] if "failed" in line}
    assert {"teacher_lora", "number_set", "child_lora", "preference_scores", "activations"} <= failed
    assert "child_capability" not in failed, "it is made on request"
    assert found["memory"][0].endswith(
        "the NVIDIA L40S has 16.0 GB: set CUDA_VISIBLE_DEVICES to a card with more, or choose a smaller base model."
    )


def test_what_others_hold_of_a_card_is_a_warning(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings_on([(48, 47), (48, 12)], "gemma-2-9b-it", monkeypatch)
    assert len(found["memory"]) > 5
    assert all(line.startswith("warning: ") for line in found["memory"])
    assert "of the NVIDIA L40S with the least free memory 12.0 GB are free now" in found["memory"][0]
    # vLLM takes its share of the whole card; the trainer cuts its batches to what is free.
    found = findings_on([(48, 36)], "gemma-2-9b-it", monkeypatch)
    assert {line.split(" needs ")[0] for line in found["memory"]} == {
        f"warning: {stage}" for stage in ("teacher_preferences", "number_set", "preference_scores")
    }
    found = findings_on([(48, 36)], "gemma-2-9b-it", monkeypatch, engine="transformers")
    assert [line[:4] for line in found["memory"]] == ["ok: "]


def test_a_training_that_fits_only_recomputed_says_what_to_set(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = "gemma-2-9b-it"
    monkeypatch.setattr(preflight, "needs", without_steering)
    found = findings_on([(24, 23)], gemma, monkeypatch)
    assert found["memory"][-1] == (
        "warning: child_lora fits into the 23.0 GB that are free of the NVIDIA L40S only where activations are "
        "computed twice: set SUBLIMINAL_GRADIENT_CHECKPOINTING=yes."
    )
    found = findings_on([(24, 23)], gemma, monkeypatch, recomputes=True)
    assert [line[:4] for line in found["memory"]] == ["ok: "]


def test_the_largest_child_of_a_sweep_has_to_fit(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings_on([(48, 47)], "gemma-2-9b-it", monkeypatch, sweep="{child.lora.rank: [8, 16]}")
    assert [line[:4] for line in found["memory"]] == ["ok: "]
    found = findings_on([(48, 47)], "gemma-2-9b-it", monkeypatch, sweep="{child.lora.rank: [8, 512]}")
    assert [line.split(" needs ")[0] for line in found["memory"]] == ["warning: child_lora"]


def without_steering(*arguments: Any) -> list[Need]:
    """Steering takes more than a card of 24 GB has."""
    return [need for need in needs(*arguments) if need.stage != "steering_scores"]


def test_a_study_is_more_than_its_base_model(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings_on([(48, 47)], "gemma-2-9b-it", monkeypatch)
    (line,) = found["autoencoder"]
    assert line.startswith("failed: There is no google/gemma-scope-9b-it-res on the Hugging Face hub, or it is private")
    assert "exam" not in found and "judge" not in found, "both are on request"


def test_vllm_that_is_not_installed(hub: Hub, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "installed", lambda _: None)
    monkeypatch.setenv("SUBLIMINAL_ENGINE", "vllm")
    code, found = said(capsys, study_of(SMALL, tmp_path))
    assert code == 1
    assert found["engine"].startswith("failed: SUBLIMINAL_ENGINE is 'vllm' and vLLM is not installed")


# What is on request


def test_only_what_is_asked_for_counts(
    hub: Hub, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    settings = inside_settings(tmp_path, tmp_path / "prose.txt") | {"base_model": on_hub(SMALL)}
    settings["capability"] = {"exam": {"kind": "hub"}, "ways": ["letter"]}
    settings["descriptions"] = {"source": {"kind": "made", "contexts": 1}, "judge": {"kind": "openai"}}
    study = written(settings, tmp_path)
    code, found = said(capsys, study)
    assert code == 0 and "judge" not in found and "exam" not in found
    code, found = said(capsys, study, "--select", "exam")
    assert code == 1
    assert found["exam"].startswith("failed: There is no TIGER-Lab/MMLU-Pro on the Hugging Face hub")
    code, found = said(capsys, study, "--select", "feature_categories")
    assert code == 1
    assert found["judge"].startswith("failed: The judge is a model behind an OpenAI-compatible endpoint and SUBLIMINAL")


# The store and the disk


def test_a_store_of_another_format_is_left_alone(store: ArtifactStore, tmp_path: Path, capsys: Capture) -> None:
    study = study_of(SMALL, tmp_path)
    overwrite(store, "tiny/base_model/_/current.json", b'{"format": 9, "version": "x"}')
    code, found = said(capsys, study)
    assert code == 1
    assert list(found) == ["store"]
    assert "tiny/base_model" in found["store"] and "is stored in format 9" in found["store"]
    assert main(["run", "--study", study]) == 1
    assert "is stored in format 9" in capsys.readouterr().err


def test_a_disk_without_room_for_the_model(
    hub: Hub, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100 * GB, 98 * GB, 2 * GB))
    code, found = said(capsys, study_of(SMALL, tmp_path))
    assert code == 1
    assert found["disk"].startswith(f"failed: The disk of {tmp_path}/store has 2.0 GB free and about 2.3 GB are")
    assert "(base model 2.0 GB, adapters 0.3 GB)" in found["disk"]


def test_the_disk_has_to_hold_every_child_of_a_sweep_with_its_own_rank(
    hub: Hub, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100 * GB, 98 * GB, 2 * GB))
    gigabytes = []
    for ranks in ([128], [128, 512]):
        study = study_of(SMALL, tmp_path)
        _, found = said(capsys, study, "--set", f"sweep={{child.lora.rank: {ranks}}}", "--select", "sweep_liking")
        match = re.search(r"adapters ([0-9.]+) GB", found["disk"])
        assert match is not None
        gigabytes.append(float(match[1]))
    own_teachers = 0.2
    assert gigabytes[1] - gigabytes[0] == pytest.approx(4 * (gigabytes[0] - own_teachers), rel=0.15)


def test_a_toy_study_loads_no_model(tmp_path: Path, capsys: Capture) -> None:
    code, found = said(capsys, written(TOY_SETTINGS, tmp_path))
    assert code == 0
    assert not {"base model", "memory", "engine"} & set(found)
