"""Fixtures that several test files share: a tiny study on a random model, and a place for its artifacts."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml
from filelock import FileLock
from hypothesis import settings
from study_runs import StudyRun
from tiny_models import save_tiny_model
from tiny_studies import inside_settings, tiny_study_settings

from subliminal_dagster.science.settings.study import AnyStudy, Study
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


SLOW_FILES = [
    "gpu_node",
    "kills",
    "versions_complete",
    "backfill",
    "activation_and_probe_assets",
    "ui",
    "two_runners",
    "rebuild",
    "toy_assets",
    "workers",
    "steering_assets",
    "description_assets",
    "requested_assets",
    "training",
    "planner",
    "cli",
    "pipeline",
    "toy_sweep",
    "study_page",
    "odd_characters",
]
"""Those that take longest, which start first: one that starts last keeps a single process at work in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}.py": place for place, name in enumerate(SLOW_FILES)}
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
    with made_once("done", tiny_study, tmp_path_factory) as study:
        yield study


@pytest.fixture(scope="session")
def inside(done: StudyRun, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    """The study of `inside_settings`, likewise; what the tiny study has of it is taken from there."""
    folder = tmp_path_factory.mktemp("studies")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(inside_settings(tiny_base, folder / "prose.txt")))
    with made_once("inside", load_study(path), tmp_path_factory, begun=done.store) as study:
        yield study


@contextmanager
def made_once(
    name: str, study: AnyStudy, tmp_path_factory: pytest.TempPathFactory, begun: ArtifactStore | None = None
) -> Iterator[StudyRun]:
    """A study that is made by the first of the processes that run tests, from what there is in `begun`; each takes a
    copy."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    finished, unfinished = session / name, session / f"{name}, being made"
    with FileLock(session / f"{name}.lock"):
        if not finished.exists():
            if begun is not None:
                shutil.copytree(begun.root, unfinished / "artifacts")
            with made(study, unfinished) as run:
                outcome = run.run()
                assert outcome.complete, outcome
            unfinished.rename(finished)
    with made(study, shutil.copytree(finished, tmp_path_factory.mktemp(name) / "copy")) as run:
        assert not run.plan().due
        yield run


@contextmanager
def made(study: AnyStudy, folder: Path) -> Iterator[StudyRun]:
    """What there is of a study in a folder, with Dagster's history of it."""
    (folder / "history").mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(folder / "history")) as instance:
        yield StudyRun(study, ArtifactStore(folder / "artifacts"), instance)
