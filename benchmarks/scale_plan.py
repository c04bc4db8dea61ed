"""How a sweep of a thousand cells is read, planned and shown: the bundled study with 1,000 cells of 7 groups.

    python benchmarks/scale_plan.py [CELLS]

Prints seconds of reading the study, of its plan before anything is made, once all is fresh, with one value more and
with another value of a setting that all cells share, of loading Dagster's definitions, and of the query of the UI that
lists an asset's partitions. Artifacts are small files with the records of real ones.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
from planning import fill

from subliminal_dagster.build import build_defs, study_frame
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.planner import Plan, make_plan
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

LIKING = ("sweep_liking", None)
RANKS = 10

PARTITIONS = """
query Partitions($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode {
      partitionKeysByDimension { name partitionKeys }
      assetPartitionStatuses {
        ... on MultiPartitionStatuses { primaryDimensionName ranges { primaryDimStartKey primaryDimEndKey } }
      }
    }
  }
}
"""


def study_of(cells: int, **more: Any) -> Study:
    """The bundled study with this many cells: ten ranks, and as many learning rates as that takes."""
    rates = [round(0.0001 * (1 + number), 4) for number in range(cells // RANKS)]
    sweep = {"child.lora.rank": list(range(1, RANKS + 1)), "child.training.learning_rate": rates}
    content = load_study("smollm2-135m-instruct").model_dump(mode="json") | {"sweep": sweep} | more
    return Study.model_validate(content)


def timed(what: str, make: Callable[[], Any]) -> Any:
    """What `make` gives, with a line that says how long it took."""
    started = time.perf_counter()
    found = make()
    print(f"{what:60}{time.perf_counter() - started:8.2f} s", flush=True)
    return found


def planned(what: str, frame: Frame, store: ArtifactStore) -> Plan:
    """The plan of the sweep."""
    plan: Plan = timed(f"plan: {what}", lambda: make_plan(frame, store).limited_to({LIKING}, frame))
    print(f"{'':6}{len(plan.parts)} parts, {len(plan.due)} to make", flush=True)
    return plan


def main(cells: int) -> None:
    study: Study = timed(f"reading a study with {cells} cells", lambda: study_of(cells))
    frame: Frame = timed("declaring its assets", lambda: study_frame(study))
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(Path(folder))
        planned("nothing is made", frame, store)
        timed("writing an artifact for every part", lambda: fill(store, frame))
        planned("all is fresh, first look", frame, store)
        planned("all is fresh, later", study_frame(study), store)
        assert study.sweep is not None
        planned("a learning rate more", study_frame(study_of(cells + RANKS)), store)
        child = study.model_dump(mode="json")["child"]
        child["training"]["epochs"] += 1
        planned("other epochs", study_frame(study_of(cells, child=child)), store)
    definitions: dg.Definitions = timed("definitions", lambda: build_defs(studies=[study]))
    repository = timed("the repository that Dagster loads", definitions.get_repository_def)
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.local_temp(home) as instance:
        _ask(repository, instance, study)


def _ask(repository: Any, instance: dg.DagsterInstance, study: Study) -> None:
    """The UI's query for an asset's partitions, in this process."""
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import PythonFileTarget
    from dagster_graphql.schema import create_schema

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.json").write_text(study.model_dump_json())
        file = Path(folder) / "code.py"
        file.write_text(
            "import json\nfrom pathlib import Path\nfrom subliminal_dagster.build import build_defs\n"
            "from subliminal_dagster.science.settings.study import Study\n"
            f"text = Path({str(Path(folder) / 'study.json')!r}).read_text()\n"
            "defs = build_defs(studies=[Study.model_validate(json.loads(text))])\n"
        )
        target = PythonFileTarget(str(file), None, None, None)
        context = timed("the code location, in a process of its own", lambda: WorkspaceProcessContext(instance, target))
        with context as process:
            schema = create_schema()
            for asset in ("variant_child_lora", "variant_filtered_dataset"):
                variables = {"key": {"path": [study.name, asset]}}
                answer = timed(
                    f"the partitions of {asset}, as the UI asks for them",
                    lambda variables=variables: asyncio.run(
                        schema.execute_async(
                            PARTITIONS, context_value=process.create_request_context(), variable_values=variables
                        )
                    ),
                )
                assert not answer.errors, answer.errors
                print(f"{'':6}{len(json.dumps(answer.data)) / 1e3:.0f} kB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
