"""The house: the library never imports Dagster, and the code location loads without torch."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import subliminal_dagster
from subliminal_dagster.build import resources_from_environment, study_assets
from subliminal_dagster.execution.jobs import study_jobs
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.planner import make_plan
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study_file import load_study, shipped_studies
from subliminal_dagster.science.storage.store import ArtifactStore

PACKAGE = Path(subliminal_dagster.__file__).parent


def test_science_never_imports_dagster() -> None:
    for path in (PACKAGE / "science").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                inside = name.startswith("subliminal_dagster.") and not name.startswith("subliminal_dagster.science")
                assert name.split(".")[0] != "dagster" and not inside, f"{path.name} imports {name}"


def test_no_pickle_and_no_remote_code() -> None:
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not {a.name for a in node.names} & {"pickle", "joblib", "dill"}, path
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path


def test_code_location_loads_without_heavy_packages() -> None:
    script = (
        "import sys, json, subliminal_dagster.definitions as d;"
        "n = len(list(d.defs.resolve_all_asset_specs()));"
        "print(json.dumps([n, [m for m in ('torch', 'transformers', 'vllm', 'pandas', 'trl') if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assets, heavy = json.loads(done.stdout)
    assert assets >= 40
    assert heavy == []


def test_every_shipped_study_is_planned_as_it_is_defined(tmp_path: Path) -> None:
    for name in shipped_studies():
        frame = Frame(load_study(name))
        keys = {key.path[-1] for asset in study_assets(frame) for key in asset.keys}
        assert keys == set(frame.nodes)
        plan = make_plan(frame, ArtifactStore(tmp_path))
        assert {part.status for part in plan.parts} == {"missing"} and {part.asset for part in plan.parts} == keys
        first, *_ = plan.next_runs()
        assert first.partition is None and not frame.nodes[first.parts[0].asset].deps


def test_jobs_can_run_one_after_the_other_on_a_fresh_study() -> None:
    """Whatever an asset is made from is in an earlier job, or in its own with the same partitions."""
    for name in shipped_studies():
        frame = Frame(load_study(name))
        assets = study_assets(frame)
        job_of = {
            key.path[-1]: place for place, job in enumerate(study_jobs(frame)) for key in job.selection.resolve(assets)
        }
        assert set(job_of) == {asset for asset, node in frame.nodes.items() if not node.on_request}
        for asset, place in job_of.items():
            for dep, _ in frame.awaited(asset, frame.partitions(asset)[0]):
                same_family = frame.nodes[dep].by == frame.nodes[asset].by
                assert job_of[dep] < place or (job_of[dep] == place and same_family), (name, asset, dep)


def test_every_module_says_what_belongs_there() -> None:
    for path in PACKAGE.rglob("*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, f"{path} has no docstring"


def test_workspace_and_dg_load_the_same_definitions() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]
    (location,) = yaml.safe_load((PACKAGE.parent / "workspace.yaml").read_text())["load_from"]
    assert location["python_module"]["module_name"] == project["dg"]["project"]["code_location_target_module"]
    assert "dagster" not in project, "[tool.dagster] would beat workspace.yaml"


def test_telemetry_is_off() -> None:
    assert yaml.safe_load((PACKAGE.parent / "dagster.yaml").read_text())["telemetry"] == {"enabled": False}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SUBLIMINAL_ENGINE", "tgi"),
        ("SUBLIMINAL_BATCH", "many"),
        ("SUBLIMINAL_GRADIENT_CHECKPOINTING", "perhaps"),
        ("SUBLIMINAL_MICRO_BATCH", "0"),
    ],
)
def test_a_wrong_environment_is_explained(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable} is '{value}': set it to"):
        resources_from_environment()


def test_assets_are_thin() -> None:
    """A factory per asset, and no function that fills one above 40 lines."""
    found = []
    for path in (PACKAGE / "assets").glob("*.py"):
        for factory in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(factory, ast.FunctionDef):
                inner = [node for node in factory.body if isinstance(node, ast.FunctionDef)]
                made = [node for node in inner if any("asset(" in ast.unparse(d) for d in node.decorator_list)]
                assert len(made) <= 1, f"{path.name}: {factory.name} makes several assets"
                found += made
    assert len(found) > 40
    for function in found:
        assert function.end_lineno is not None and function.end_lineno - function.lineno < 40, function.name


def test_examples_in_docstrings_are_true() -> None:
    tried = 0
    for path in (PACKAGE / "science").rglob("*.py"):
        if ">>>" in path.read_text(encoding="utf-8"):
            module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            failed, examples = doctest.testmod(importlib.import_module(module))
            assert failed == 0, module
            tried += examples
    assert tried > 5
