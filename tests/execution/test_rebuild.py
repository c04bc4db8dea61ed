"""The law of the planner: whatever was done, `run` ends where a clean build does, and makes no part in vain."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from study_runs import StudyRun, changed
from tiny_studies import tiny_study_settings

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning import code_slice
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.storage.store import ArtifactStore

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("SUBLIMINAL_REBUILD_EXAMPLES", "3"))

SETTINGS: dict[str, list[Any]] = {
    "child__training__epochs": [2, 1],
    "teacher__stop__preference": [0.5, 0.05],
    "filter__train_rows": [12, 10],
    "preferences__samples_per_question": [2, 1],
    "comparison__permutations": [200, 300],
    "description": ["A random model.", "Another word for it."],
}

# A line, and what takes its place: the same deed in other code, or the same code with a comment.
CODE = {
    "science.training.children": (
        "    training = study.child.training\n",
        "    training = (lambda: study.child.training)()\n",
    ),
    "science.numbers.draw": ("    if valid.empty:\n", "    if len(valid) == 0:\n"),
    "science.training.teachers": ("    report = None\n", "    report = None  # nothing is trained yet\n"),
    "science.training.datasets": ("    settings = study.filter\n", "    settings = study.filter\n    pass\n"),
}

PARTS: list[Input] = [
    *[(name, None) for name in ("base_model", "base_preferences", "replay_set", "animal_liking", "null_causes")],
    *[
        (name, group)
        for group in ("owl", "control")
        for name in (
            "teacher_lora",
            "teacher_preferences",
            "number_set",
            "teacher_signal",
        )
    ],
    *[
        (name, child)
        for child in ("owl|1", "control|1")
        for name in ("filtered_dataset", "child_lora", "preference_scores")
    ],
]
REPORT: Input = ("report", None)

EDITS = st.one_of(
    st.tuples(st.just("set"), st.sampled_from([(name, v) for name, values in SETTINGS.items() for v in values])),
    st.tuples(st.just("code"), st.sampled_from(sorted(CODE))),
    st.tuples(st.just("delete"), st.sampled_from(PARTS)),
    st.tuples(st.just("corrupt"), st.tuples(st.sampled_from(PARTS), st.integers(0, 10**6))),
    st.tuples(st.just("regenerate"), st.sampled_from(PARTS)),
    st.tuples(st.just("run"), st.sampled_from(PARTS)),
)


@pytest.fixture(scope="module")
def small(tiny_base: Path) -> Study:
    """One animal, the control and one channel: everything there is once, in ten seconds."""
    study = Study.model_validate(tiny_study_settings(tiny_base))
    return changed(study, animals=["owl"], child__channels=["hard"])


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


class CleanBuilds:
    """What every study gives when it is made from nothing, each made once."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder = folder
        self.instance = instance
        self.known: dict[str, StudyRun] = {}

    def of(self, study: Study) -> StudyRun:
        key = study.model_dump_json(exclude={"description"})
        if key not in self.known:
            run = StudyRun(study, ArtifactStore(self.folder / str(len(self.known))), self.instance)
            outcome = run.run()
            assert outcome.complete and sorted(outcome.made, key=str) == sorted([*PARTS, REPORT], key=str)
            self.known[key] = run
        return self.known[key]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, instance: dg.DagsterInstance) -> CleanBuilds:
    return CleanBuilds(tmp_path_factory.mktemp("clean"), instance)


class Workshop:
    """A built study that edits are made to."""

    def __init__(self, run: StudyRun, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = run
        self.monkeypatch = monkeypatch
        self.edited: set[str] = set()

    def apply(self, edit: str, what: Any) -> None:
        if edit == "set":
            self.run.study = changed(self.run.study, **{what[0]: what[1]})
        elif edit == "code":
            self.edited ^= {what}
            self._use_edited_code()
        elif edit == "delete":
            shutil.rmtree(self._folder(what), ignore_errors=True)
        elif edit == "corrupt":
            self._corrupt(*what)
        elif edit == "regenerate":
            self.run.materialize(*what)
        else:
            self.run.run({what})

    def _use_edited_code(self) -> None:
        def edited(module: str) -> str | None:
            source = original(module)
            name = module.removeprefix("subliminal_dagster.")
            if source is not None and name in self.edited:
                old, new = CODE[name]
                assert old in source
                return source.replace(old, new)
            return source

        original = READ_SOURCE
        self.monkeypatch.setattr(code_slice, "read_source", edited)
        code_slice.forget()

    def _folder(self, place: Input) -> Path:
        return Path(self.run.store.root) / self.run.study.name / place[0] / (place[1] or "_").replace("|", "@")

    def _corrupt(self, place: Input, where: int) -> None:
        """Change, cut or remove a file of the artifact: its own files, the manifest and the pointer alike."""
        files = sorted(path for path in self._folder(place).rglob("*") if path.is_file())
        if not files:
            return
        path = files[where % len(files)]
        content = path.read_bytes()
        if where % 3 == 0:
            path.unlink()
        elif where % 3 == 1:
            path.write_bytes(content[: len(content) // 2])
        else:
            at = where % max(len(content), 1)
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] if content else b"x")

    def must_be_made(self, final: dict[Input, str]) -> set[Input]:
        """By brute force: parts whose files are not what was written, whose settings or code are others, or that were
        made from anything but what a clean build holds."""
        frame = study_frame(self.run.study)
        labels = {f"{name}/{group}" if group else name: content for (name, group), content in final.items()}
        found = set()
        for place in PARTS:
            info = self._sound_info(place)
            recipe = frame.nodes[place[0]].recipe
            if (
                info is None
                or (info["settings"], info["code"]) != (recipe.settings, recipe.code)
                or any(labels[name] != content for name, content in info["upstream"].items())
            ):
                found.add(place)
        return found

    def _sound_info(self, place: Input) -> dict[str, Any] | None:
        folder = self._folder(place)
        try:
            pointer = json.loads((folder / "current.json").read_bytes())
            version = folder / pointer["version"]
            raw = (version / "manifest.json").read_bytes()
            assert hashlib.sha256(raw).hexdigest() == pointer["manifest_sha256"]
            manifest = json.loads(raw)
            assert manifest["content_hash"] == pointer["content_hash"]
            for file in manifest["files"]:
                assert hashlib.sha256((version / file["path"]).read_bytes()).hexdigest() == file["sha256"]
        except (OSError, ValueError, KeyError, TypeError, AssertionError):
            return None
        info: dict[str, Any] = manifest["info"]
        return info


READ_SOURCE = code_slice.read_source


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="SUBLIMINAL_REBUILD_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(edits=st.lists(EDITS, min_size=1, max_size=5))
def test_any_history_ends_where_a_clean_build_does(
    edits: list[tuple[str, Any]],
    small: Study,
    clean: CleanBuilds,
    instance: dg.DagsterInstance,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        shop = Workshop(clean.of(small).copy(tmp_path_factory.mktemp("edited"), instance), monkeypatch)
        for edit, what in edits:
            shop.apply(edit, what)
        study = shop.run.study
        final = clean.of(study).contents()
        needed = shop.must_be_made(final)
        outcome = shop.run.run()
        assert outcome.complete, outcome
        assert shop.run.contents() == final
        assert sorted(set(outcome.made) - {REPORT}, key=str) == sorted(needed, key=str)
    code_slice.forget()
