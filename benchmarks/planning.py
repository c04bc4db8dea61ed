"""How planning grows: studies of 10, 100 and 1,000 animals, all made, planned as they are and with one setting changed.

    python benchmarks/planning.py

Prints seconds, microseconds a part and their ratio to the smallest study's; linear growth keeps it near 1. Artifacts
here are small files with the records of real ones: this measures planning and not the hashing of models.
"""

from __future__ import annotations

import itertools
import string
import tempfile
import time
from pathlib import Path

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.frame import Frame, label
from subliminal_dagster.planning.planner import Plan, make_plan
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.store import ArtifactStore

SIZES = (10, 100, 1_000)


def study_of(animals: int) -> Study:
    """The bundled study with this many animals."""
    names = ["".join(letters) for letters in itertools.product(string.ascii_lowercase, repeat=3)][:animals]
    content = load_study("smollm2-135m-instruct").model_dump(mode="json")
    content["animals"] = names
    content["preferences"]["candidates"] = names
    return Study.model_validate(content)


def fill(store: ArtifactStore, frame: Frame) -> None:
    """An artifact for every part of the study, as if each had been made."""
    contents: dict[str, str] = {}
    for name in frame.nodes:
        for partition in frame.partitions(name):
            upstream = {label(*place): contents[label(*place)] for place in frame.inputs(name, partition)}
            recipe = frame.recipe(name, partition)
            info = {
                "code_version": recipe.version,
                "settings": recipe.settings,
                "code": recipe.code,
                "upstream": upstream,
                "wall_seconds": 1.0,
                "device": "none",
            }
            with store.write(frame.study.name, name, partition, info) as draft:
                (draft.path / "rows.json").write_text(f'["{label(name, partition)}"]')
            contents[label(name, partition)] = draft.artifact.content_hash


def timed(frame: Frame, store: ArtifactStore) -> tuple[Plan, float]:
    """The plan and the best of three times, in seconds."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        plan = make_plan(frame, store)
        times.append(time.perf_counter() - started)
    return plan, min(times)


def main() -> None:
    print(f"{'animals':>8} {'parts':>7} {'plan':>16} {'due':>5} {'seconds':>8} {'us a part':>10} {'ratio':>6}")
    first: dict[str, float] = {}
    for animals in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            study = study_of(animals)
            store = ArtifactStore(Path(folder))
            fill(store, study_frame(study))
            content = study.model_dump(mode="json")
            content["child"]["training"]["epochs"] = 7
            for what, frame in (
                ("as it is", study_frame(study)),
                ("epochs changed", study_frame(Study.model_validate(content))),
            ):
                plan, seconds = timed(frame, store)
                each = seconds / len(plan.parts) * 1e6
                ratio = each / first.setdefault(what, each)
                figures = f"{len(plan.due):5} {seconds:8.3f} {each:10.0f} {ratio:6.2f}"
                print(f"{animals:8} {len(plan.parts):7} {what:>16} {figures}")


if __name__ == "__main__":
    main()
