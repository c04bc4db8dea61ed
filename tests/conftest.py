"""Fixtures that several test files share: a tiny study on a random model, and a place for its artifacts."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml
from filelock import FileLock
from hypothesis import settings
from kills import Home, study_to_kill
from study_runs import StudyRun
from tiny_models import save_tiny_model
from tiny_studies import STEERING, inside_settings, tiny_study_settings

from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

# One thread a process: tests run beside each other in CI, and busy waiting of two pools is far slower than one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# Runs in this process, where a test can replace what they use; those that test several say so.
os.environ["SUBLIMINAL_WORKERS"] = "1"

# A background job of a shell ignores interrupts, its children with it, and Dagster's servers end by nothing else.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The same examples in every run; `--hypothesis-profile=random` draws others.
settings.register_profile("random")
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


SLOW_FILES = {
    "gpu_node": ["versions_complete", "steering_assets", "audit_assets", "dial_lessons", "mechanism_assets"],
    "kills": [
        "planner",
        "transformers_engine",
        "micro_batches",
        "code_slice",
        "toy_assets",
        "local",
        "training",
        "arm_assets",
    ],
    "launcher": [
        "cli",
        "probes",
        "toy_sweep",
        "arm_comparison",
        "audit_authorship",
        "calibration",
        "audit_detectors",
        "report_steering",
        "dial_curve",
    ],
    "ray": ["toy_autoencoder", "dial_assets", "signal", "report_tuning", "sweep_assets"],
    "slurm": [
        "entanglement",
        "report_capability",
        "toy_statements",
        "runner",
        "description_assets",
        "apart",
        "tuning",
        "rebuild",
        "requested_assets",
    ],
    "two_runners": ["replicates", "examples", "activation_and_probe_assets"],
    "ui": ["pipeline", "study_page"],
    "backfill": ["odd_characters"],
}
"""Those that take longest, which start first: one that starts last keeps a single process at work in the end. Each that
waits, for a clock, a cluster or a browser, with those that compute meanwhile. Of files that share a study of several
minutes (`inside`), one comes long before the others, which would wait for it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = [name for waits, computing in SLOW_FILES.items() for name in (waits, *computing)]
    order = {f"test_{name}.py": place for place, name in enumerate(names)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama and its tokenizer."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def tiny_study(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study of `tiny_study_settings`, read from a file outside the package."""
    path = tmp_path_factory.mktemp("studies") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_study_settings(tiny_base)))
    return load_study(path)


@pytest.fixture(scope="session")
def done(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    """The tiny study, made from start to end once for all tests; a test that changes it takes a `copy`."""

    def make(folder: Path) -> None:
        with made(tiny_study, folder) as study:
            outcome = study.run()
            assert outcome.complete, outcome

    with made(tiny_study, made_once("done", make, tmp_path_factory)) as study:
        assert not study.plan().due
        yield study


@pytest.fixture(scope="session")
def inside(done: StudyRun, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    """The tiny study looked into (`inside_settings`) and steered, made once for all tests on top of `done`; Dagster's
    history, in memory, knows what there is and not how it was made."""
    # In one place for all processes: the report shows where it lies.
    prose = shared_folder(tmp_path_factory) / "prose.txt"
    with FileLock(f"{prose}.lock"):
        study = Study.model_validate(inside_settings(tiny_base, prose) | {"steering": STEERING})

    def make(folder: Path) -> None:
        with dg.DagsterInstance.ephemeral() as instance:
            outcome = done.copy(folder, instance, study).run()
            assert outcome.complete, outcome

    store = ArtifactStore(made_once("inside", make, tmp_path_factory))
    with dg.DagsterInstance.ephemeral() as instance:
        found = StudyRun(study, store, instance)
        assert found.run().made == []
        yield found


@pytest.fixture(scope="session")
def undisturbed(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The study to kill in one go, by the command in a process of its own; made once for all tests."""

    def make(folder: Path) -> None:
        launch = Home.make(folder, study_to_kill(tiny_base)).start_quickly()
        assert launch.finish() == 0, launch.output[-3000:]

    home = Home(made_once("undisturbed", make, tmp_path_factory))
    assert len(home.contents()) == 19
    return home


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes of this run of the tests see."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def made_once(name: str, make: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder that `make` fills, which the first of the processes that run tests does for all."""
    session = shared_folder(tmp_path_factory)
    with FileLock(session / f"{name}.lock"):
        if not (session / name).exists():
            make(session / f"{name} in the making")
            (session / f"{name} in the making").rename(session / name)
    return Path(shutil.copytree(session / name, tmp_path_factory.mktemp(name) / "copy"))


@contextmanager
def made(study: Study, folder: Path) -> Iterator[StudyRun]:
    """What there is of a study in a folder, with Dagster's history of it."""
    (folder / "history").mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(folder / "history")) as instance:
        yield StudyRun(study, ArtifactStore(folder / "artifacts"), instance)
