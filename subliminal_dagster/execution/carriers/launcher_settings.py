"""Settings of runs that Dagster's own launcher starts.

    at_once: 16
    workspace: workspace.yaml
    tags: {dagster-k8s/config: {pod_spec_config: {node_selector: {pool: cpu}}}}
    gpu_tags: {dagster-k8s/config: {container_config: {resources: {limits: {nvidia.com/gpu: 1}}}}}
    stages: {teacher: {tags: {dagster/priority: "5"}}}

The tags are those of runs that `launcher` sends, and of jobs, steps and sensors' runs besides, so that what is launched
in the UI gets the same.

Belongs here: what the settings say. Does not belong here: sending runs (`launcher`), reading the file (`choice`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from subliminal_dagster.science.settings.base import Settings

_DEFINITIONS = "subliminal_dagster.definitions"


class Stage(Settings):
    """The run tags of the assets of one stage."""

    tags: dict[str, Any] = Field(default_factory=dict)


class LauncherSettings(Settings):
    """How runs are launched.

    Tags are laid over each other: those of all runs, then `gpu_tags` for what needs a GPU, then those of the asset's
    stage in `stages`; mappings are merged, and reach Dagster as JSON. `workspace` is a file as of `dagster dev -w`, or
    a module with the definitions. A part whose run was lost `attempts` times has failed.
    """

    at_once: int = Field(default=32, ge=1)
    attempts: int = Field(default=3, ge=1)
    workspace: str = _DEFINITIONS
    tags: dict[str, Any] = Field(default_factory=dict)
    gpu_tags: dict[str, Any] = Field(default_factory=dict)
    stages: dict[str, Stage] = Field(default_factory=dict)

    def tags_of(self, stage: str, gpu: bool) -> dict[str, str]:
        """The run tags of an asset, as Dagster takes them."""
        found = _merged(self.tags, self.gpu_tags if gpu else {})
        found = _merged(found, self.stages[stage].tags if stage in self.stages else {})
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            value = _merged(under, value)
        merged[name] = value
    return merged
