"""The definitions as a whole: what an organisation says of all assets, jobs, and what launchers are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from subliminal_dagster.build import build_defs, study_frame
from subliminal_dagster.execution.carriers.choice import CARRIER, SETTINGS
from subliminal_dagster.execution.shown_runs import LOCATION, job_of
from subliminal_dagster.science.settings.study import Study

PROJECT = Path(__file__).parents[1]


def specs(study: Study) -> dict[str, dg.AssetSpec]:
    return {spec.key.path[-1]: spec for spec in build_defs(studies=[study]).resolve_all_asset_specs()}


def test_owners_and_tags_are_those_of_the_environment_and_make_nothing_stale(
    tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = specs(tiny_study)
    monkeypatch.setenv("SUBLIMINAL_OWNERS", "ann@lab.org team:interp")
    monkeypatch.setenv("SUBLIMINAL_TAGS", "project=subliminal cost-centre=4711")
    after = specs(tiny_study)
    for name, spec in after.items():
        assert list(spec.owners) == ["ann@lab.org", "team:interp"]
        assert {"project": "subliminal", "cost-centre": "4711"}.items() <= spec.tags.items()
        assert before[name].owners == [] and spec.code_version == before[name].code_version


def test_an_asset_names_its_own_source(tiny_study: Study) -> None:
    found = specs(tiny_study)
    for asset, file in {"teacher_lora": "teacher.py", "report": "report.py"}.items():
        (place,) = found[asset].metadata["dagster/code_references"].code_references
        path, line = Path(place.file_path), place.line_number
        assert path == PROJECT / "subliminal_dagster" / "assets" / file
        assert f"def {asset}(" in "".join(path.read_text().splitlines(keepends=True)[line - 1 : line + 15])


def test_everything_but_what_is_made_on_request_belongs_to_the_job_of_its_partitions(tiny_study: Study) -> None:
    definitions, frame = build_defs(studies=[tiny_study]), study_frame(tiny_study)
    for name, node in frame.nodes.items():
        job = job_of(definitions, [frame.key(name)])
        assert (job.name == "__ASSET_JOB") == node.on_request
        if not node.on_request:
            assert job.partitions_def == frame.partitioning.definition(node.by)
    assert job_of(definitions, [frame.key("teacher_lora")]).name == "tiny_groups"
    for file in ("workspace.yaml", "deploy/workspace.yaml"):
        (place,) = yaml.safe_load((PROJECT / file).read_text())["load_from"]
        assert [settings["location_name"] for settings in place.values()] == [LOCATION]


def test_what_is_launched_in_the_ui_asks_for_what_its_stage_is_given(
    tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gpus(tags: Any) -> str:
        config = tags["dagster-k8s/config"]
        found = json.loads(config) if isinstance(config, str) else config
        return str(found["container_config"]["resources"]["limits"]["nvidia.com/gpu"])

    key = dg.AssetKey(["tiny", "teacher_lora"])
    plain = build_defs(studies=[tiny_study])
    assert plain.resolve_job_def("tiny_groups").tags == {}
    monkeypatch.setenv(CARRIER, "dagster")
    monkeypatch.setenv(SETTINGS, str(PROJECT / "deploy" / "kubernetes" / "launcher.yaml"))
    definitions = build_defs(studies=[tiny_study])
    jobs = {name: gpus(definitions.resolve_job_def(f"tiny_{name}").tags) for name in ("groups", "results", "make")}
    # The run that makes a whole study sends others, and computes nothing itself.
    assert jobs == {"groups": "1", "results": "0", "make": "0"}
    assert gpus(definitions.resolve_assets_def(key).op.tags) == "1"
    assert gpus(definitions.resolve_assets_def(dg.AssetKey(["tiny", "report"])).op.tags) == "0"
