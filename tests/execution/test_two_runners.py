"""Two runs on one store, each with a history of its own, share the work, whatever is killed or edited meanwhile."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kills import Home, Launch
from study_runs import changed
from tiny_studies import TOY_SETTINGS

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.planner import make_plan
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.settings.toy import ToyStudy
from subliminal_dagster.science.storage.store import ArtifactStore

pytestmark = pytest.mark.slow


def small() -> dict[str, Any]:
    """A toy study of one setting that the compiled engine trains in a moment, with few figures to draw."""
    setting = TOY_SETTINGS["settings"]["small"] | {"densities": [1.0, 0.1], "ablated": [0], "auxiliary": [2]}
    return TOY_SETTINGS | {"settings": {"small": setting}}


def edited(study: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """The study with one of its settings changed, as a user would in its file."""
    path = draw.choice(["settings__small__training__steps", "digits__hidden"])
    return with_value(study, path, draw.randrange(17, 40) if path == "digits__hidden" else draw.randrange(200, 400))


def with_value(study: dict[str, Any], path: str, value: int) -> dict[str, Any]:
    content: dict[str, Any] = changed(ToyStudy.model_validate(study), **{path: value}).model_dump(mode="json")
    return content


def contents(store: ArtifactStore, file: Path) -> dict[str, str]:
    """The content of every artifact, but of the report, which tells how long everything took."""
    names = set(study_frame(load_study(file)).nodes) - {"report"}
    return {name: store.check("tiny-toy", name).content_hash for name in names}


def test_two_runs_make_every_part_once_and_what_a_clean_build_makes(tmp_path: Path) -> None:
    draw = random.Random(11)
    study, shared = small(), tmp_path / "artifacts"
    homes = [Home.make(tmp_path / name, study) for name in ("one", "two")]
    store = ArtifactStore(shared)

    def begun(home: Home) -> Launch:
        return home.start_quickly(SUBLIMINAL_ARTIFACTS=str(shared))

    for turn, killed in enumerate((0, 1)):
        if turn:
            study = edited(study, draw)
        for home in homes:
            home.study_file.write_text(yaml.safe_dump(study))
        frame = study_frame(load_study(homes[0].study_file))
        due, before = {part.asset for part in make_plan(frame, store).due}, datetime.now(UTC)
        assert due
        launches = [begun(home) for home in homes]
        assert launches[killed].kill_after_level(draw.uniform(0, 1.5)) or launches[killed].finish() == 0
        launches[killed] = begun(homes[killed])
        for launch in launches:
            assert launch.finish() == 0, launch.output[-3000:]
        assert make_plan(frame, store).due == []
        assert store.claims("tiny-toy") == {}
        # One version of what was due, and the one from before.
        for name in frame.nodes:
            versions = store.versions("tiny-toy", name)
            new = [version for version in versions if version >= f"{before:%Y%m%dT%H%M%S.%fZ}"]
            assert len(new) <= (name in due), (name, versions)
    clean = Home.make(tmp_path / "clean", study)
    assert clean.start_quickly().finish() == 0
    assert contents(store, homes[0].study_file) == contents(clean.store, clean.study_file)


def test_a_run_waits_for_what_another_makes_and_finds_it(tmp_path: Path) -> None:
    """While somebody holds what is due, a run waits; where the holder gives up, it makes it itself."""
    home = Home.make(tmp_path / "home", small())
    with home.store.claim("tiny-toy", "digits"):
        launch = home.start_quickly()
        deadline = time.monotonic() + 120
        while "waiting for digits: process" not in launch.output:
            assert launch.process.poll() is None and time.monotonic() < deadline, launch.output
            time.sleep(0.1)
    assert launch.finish() == 0, launch.output
    assert make_plan(study_frame(load_study(home.study_file)), home.store).due == []
