"""A backfill as the UI launches it: through GraphQL of a real `dagster dev`, across partition families."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_studies
import yaml
from dagster_dev import dagster_dev, write_quick_settings
from study_runs import StudyRun, gate_between
from tiny_studies import tiny_study_settings

from subliminal_dagster.science.storage.store import ArtifactStore

pytestmark = pytest.mark.slow

ONE_PROCESS = "one_process"
HELPERS = str(Path(tiny_studies.__file__).parent)

LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
STATUS = """
query Status($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status error { message } } }
}
"""
NODES = """
query {
  assetNodes { assetKey { path } groupName kinds description }
}
"""


def ask(address: str, query: str, **variables: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}/graphql",
        data=json.dumps({"query": query, "variables": variables}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    assert "errors" not in answer, answer
    data: dict[str, Any] = answer["data"]
    return data


@pytest.fixture(scope="module")
def animals(done: StudyRun) -> tuple[str, str, float]:
    """The animal whose teacher passes the gate, the one whose teacher does not, and the gate."""
    return gate_between(done)


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, animals: tuple[str, str, float]
) -> dict[str, str]:
    """The environment of a user with a study file of their own, and a DAGSTER_HOME with the project's dagster.yaml."""
    home = tmp_path_factory.mktemp("home")
    write_quick_settings(home)
    study = home / "tiny.yaml"
    study.write_text(yaml.safe_dump(tiny_study_settings(tiny_base)))
    return os.environ | {
        "SUBLIMINAL_SET": f"teacher.gate.preference={animals[2]}",
        "DAGSTER_HOME": str(home),
        "SUBLIMINAL_STUDIES": str(study),
        "SUBLIMINAL_ARTIFACTS": str(home / "artifacts"),
        "OMP_NUM_THREADS": "1",
        # For `ONE_PROCESS`, a module of the tests.
        "PYTHONPATH": os.pathsep.join(filter(None, [HELPERS, os.environ.get("PYTHONPATH")])),
    }


@pytest.fixture(scope="module")
def address(environment: dict[str, str]) -> Iterator[str]:
    with dagster_dev(environment, ONE_PROCESS) as started:
        deadline = time.monotonic() + 180
        # It answers before the code location has loaded.
        while not ask(started, NODES)["assetNodes"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield started


def test_the_ui_shows_a_readable_graph(address: str) -> None:
    nodes = {node["assetKey"]["path"][-1]: node for node in ask(address, NODES)["assetNodes"]}
    assert set(nodes) >= {
        "base_model",
        "teacher_lora",
        "number_set",
        "child_lora",
        "preference_scores",
        "animal_liking",
    }
    for node in nodes.values():
        assert node["description"] and node["kinds"] and node["groupName"] != "default"


def test_a_backfill_crosses_partition_families_and_stops_at_the_gate(
    address: str, environment: dict[str, str], animals: tuple[str, str, float]
) -> None:
    good, bad, _ = animals
    chain = ["base_model", "base_preferences", "replay_set", "teacher_lora", "teacher_preferences", "number_set"]
    partitioned = {"teacher_lora", "teacher_preferences", "number_set"}
    params = {
        "partitionsByAssets": [
            {
                "assetKey": {"path": ["tiny", name]},
                "partitions": {"ranges": [{"start": key, "end": key} for key in (good, bad)]}
                if name in partitioned
                else None,
            }
            for name in chain
        ],
        "title": "two animals",
    }
    launched = ask(address, LAUNCH, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    deadline = time.monotonic() + 600
    while True:
        backfill = ask(address, STATUS, id=launched["backfillId"])["partitionBackfillOrError"]
        if backfill["status"] not in ("REQUESTED", "IN_PROGRESS", "FAILING"):
            break
        assert time.monotonic() < deadline, backfill
        time.sleep(0.2)
    assert backfill["status"] in ("COMPLETED_FAILED", "FAILED"), backfill
    store = ArtifactStore(environment["SUBLIMINAL_ARTIFACTS"])
    assert store.read("tiny", "number_set", good).info["upstream"]
    assert store.exists("tiny", "teacher_lora", bad)
    assert not store.exists("tiny", "number_set", bad)
    assert not store.exists("tiny", "number_set", "control")


def materialize(environment: dict[str, str], select: str, partition: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", ONE_PROCESS]
    arguments = ["--select", select, "--partition", partition]
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)


def test_the_command_line_materializes_what_follows(
    address: str, environment: dict[str, str], animals: tuple[str, str, float]
) -> None:
    good, bad, _ = animals
    names = ["filtered_dataset", "child_lora", "preference_scores", "soft_child_lora", "soft_preference_scores"]
    done = materialize(environment, ",".join(f"tiny/{name}" for name in names), f"{good}|1")
    assert done.returncode == 0, done.stderr[-3000:]
    store = ArtifactStore(environment["SUBLIMINAL_ARTIFACTS"])
    assert all(store.exists("tiny", name, f"{good}|1") for name in names)
    refused = materialize(environment, "tiny/number_set", bad)
    assert refused.returncode == 1 and "was refused" in refused.stderr, refused.stderr[-3000:]
    assert "STEP_UP_FOR_RETRY" not in refused.stderr


def test_the_command_line_refuses_an_unknown_partition(environment: dict[str, str]) -> None:
    wrong = materialize(environment, "tiny/filtered_dataset", "gnu|1")
    assert wrong.returncode != 0 and "gnu" in wrong.stderr
