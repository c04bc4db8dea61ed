"""The files of deploy/kubernetes fit what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.workspace.load_target import WorkspaceFileTarget

from subliminal_dagster.execution.carriers.choice import SETTINGS, settings_of
from subliminal_dagster.execution.carriers.launcher_settings import LauncherSettings

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"


def test_tags_ask_for_a_gpu_where_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTINGS, str(FOLDER / "launcher.yaml"))
    settings = settings_of(LauncherSettings)

    def limits(group: str, gpu: bool) -> Any:
        return json.loads(settings.tags_of(group, gpu)["dagster-k8s/config"])["container_config"]["resources"]["limits"]

    assert limits("child", True)["nvidia.com/gpu"] == "1"
    # The launcher's own setting is one GPU, and lies below these.
    assert limits("report", False)["nvidia.com/gpu"] == "0"


def test_values_and_settings_name_the_same_server_and_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    values = yaml.safe_load((FOLDER / "values.yaml").read_text())
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    (origin,) = WorkspaceFileTarget([str(FOLDER / "workspace.yaml")]).create_origins()
    assert (origin.host, origin.port) == (deployment["name"], deployment["port"])
    claim = yaml.safe_load((FOLDER / "storage.yaml").read_text())["metadata"]["name"]
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in deployment["volumes"]] == [claim]
    variables = {each["name"]: each["value"] for each in deployment["env"]}
    assert variables["SUBLIMINAL_ARTIFACTS"] == deployment["volumeMounts"][0]["mountPath"]
    inside = Path("/opt/subliminal-dagster/deploy/kubernetes")
    assert Path(variables["SUBLIMINAL_CARRIER_SETTINGS"]) == inside / "launcher.yaml"
    monkeypatch.setenv(SETTINGS, str(FOLDER / "launcher.yaml"))
    assert Path(settings_of(LauncherSettings).workspace) == inside / "workspace.yaml"
