"""SIGKILL at random moments: does a study that is run again end as one that nobody killed?

    python benchmarks/kills.py [--kills 30] [--per-run 3] [--seed 0]

Each run of a small study (16 artifacts, a random model) starts in a folder of its own and is killed `--per-run` times,
at moments drawn uniformly from the time that the undisturbed run took, counted from the first line that says something
is made; a run that was killed gets the time to come back to where it was. After every kill all artifacts that can be
read are hashed; then the same command is run again, until the study is complete and its hashes are compared with those
of the undisturbed run. Exit code 1 where anything differs, is corrupt, was made twice, or was kept by a kill and not
taken up again. Needs the tests beside it; about 15 minutes.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

from kills import Home, Launch, found, made_again, study_to_kill, versions
from tiny_models import save_tiny_model

from subliminal_dagster.planning.frame import shown
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.storage.records import DamagedArtifact

STAGES = ("starting", "training", "generation", "scoring", "writing", "other")


@dataclass
class Undisturbed:
    """The run that nobody kills: its hashes, its seconds from the first line that says something is made, and those of
    them until a model was loaded for the first time."""

    home: Home
    contents: dict[Input, str]
    seconds: float
    until_loaded: float

    def generated(self, place: Input) -> int:
        return generated_tokens(self.home, place)


@dataclass
class Tally:
    """What all kills together did."""

    stages: Counter[str] = field(default_factory=Counter)
    complete: int = 0
    compared: int = 0
    read: int = 0
    differing: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left_something: int = 0
    thrown_away: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.stages.total()

    @property
    def faults(self) -> list[str]:
        return [*self.differing, *self.corrupt, *self.again, *self.failed, *self.thrown_away]

    def __str__(self) -> str:
        lines = [
            ("kills", self.kills),
            *((f"  {stage}", self.stages[stage]) for stage in STAGES),
            ("complete runs compared", self.complete),
            ("artifacts compared in them", self.compared),
            ("artifacts read after kills", self.read),
            ("differing hashes", len(self.differing)),
            ("corrupt artifacts readable", len(self.corrupt)),
            ("parts made again", len(self.again)),
            ("runs that failed or hung", len(self.failed)),
            ("kills that left epochs or chunks", self.left_something),
            ("  of them gone on from", self.left_something - len(self.thrown_away)),
        ]
        return "\n".join(f"{what:34}{number:6}" for what, number in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--per-run", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments, tally, started = random.Random(options.seed), Tally(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        study = longer_study(save_tiny_model(Path(folder) / "model"))
        undisturbed = run_undisturbed(Home.make(Path(folder) / "undisturbed", study))
        runs = itertools.count(1)
        while tally.kills < options.kills:
            name = f"run-{next(runs)}"
            home = Home.make(Path(folder) / name, study)
            most = min(options.per_run, options.kills - tally.kills)
            try:
                kill_and_complete(home, name, most, undisturbed, moments, tally)
            except TimeoutError as error:
                tally.failed.append(f"{name}: {error}")
    print(f"\n{tally}\nseed {options.seed}, {(time.perf_counter() - started) / 60:.1f} min")
    for fault in tally.faults:
        print(fault)
    return 1 if tally.faults else 0


def longer_study(base: Path) -> dict[str, Any]:
    """The tests' study with more to do in every part, or most kills would come while something is imported."""
    settings = study_to_kill(base)
    settings["preferences"] |= {"questions": 12, "samples_per_question": 4}
    settings["teacher"]["training"] |= {"learning_rate": 0.001, "epochs": 20}
    settings["numbers"]["prompts"] = 160
    settings["child"]["training"]["epochs"] = 10
    return settings


def run_undisturbed(home: Home) -> Undisturbed:
    """The study in one go."""
    launch = home.start()
    while not launch.makes_something and launch.process.poll() is None:
        time.sleep(0.01)
    begun = time.perf_counter()
    while home.last_opened("base_preferences", None) is None and launch.process.poll() is None:
        time.sleep(0.01)
    until_loaded = time.perf_counter() - begun
    if launch.finish() != 0:
        raise RuntimeError(f"the undisturbed run failed: {launch.output[-3000:]}")
    seconds = time.perf_counter() - begun
    print(f"undisturbed: {seconds:.1f} s, {until_loaded:.1f} s of them until a model was loaded", flush=True)
    return Undisturbed(home, home.contents(), seconds, until_loaded)


@dataclass(frozen=True)
class Kept:
    """What a kill left of the part that was being made."""

    place: Input
    epochs: int
    chunks: int
    kill: int


def kill_and_complete(
    home: Home, name: str, most: int, undisturbed: Undisturbed, moments: random.Random, tally: Tally
) -> None:
    """One study from nothing to its end, with `most` kills on the way, less where one comes too late."""
    made: dict[Input, str] = {}
    kept: list[Kept] = []
    before = 0.0
    for number, moment in enumerate(sorted(moments.uniform(0, undisturbed.seconds) for _ in range(most)), start=1):
        launch = home.start()
        seconds = moment - before + (undisturbed.until_loaded if number > 1 else 0)
        before = moment
        if not launch.kill_after_level(seconds):
            break
        place = home.step_in_progress()
        stage = stage_of(home, launch, place)
        tally.stages[stage] += 1
        what = shown(*place) if place else "between two parts"
        line = f"{name}, kill {number} after {seconds:4.1f} s: {stage} ({what})"
        tally.read += look(home, line, made, undisturbed, tally)
        made = versions(home)
        epochs, chunks = (len(home.checkpoints(*place)), home.chunks(*place)) if place else (0, 0)
        if place and place not in made and epochs + chunks:
            kept.append(Kept(place, epochs, chunks, number))
        print(f"{line}; kept: {len(made)} parts, {epochs} epochs, {chunks} chunks", flush=True)
    launch = home.start()
    if launch.finish() != 0:
        tally.failed.append(f"{name}: {launch.output[-2000:]}")
        return
    tally.complete += 1
    tally.compared += look(home, name, made, undisturbed, tally)
    tally.differing += [f"{name}: {shown(*p)} is missing" for p in undisturbed.contents if not home.made(*p)]
    reused = [what for what in kept if taken_up(home, what, undisturbed)]
    tally.left_something += len(kept)
    tally.thrown_away += [f"{name}: {what} was not gone on from" for what in kept if what not in reused]
    print(f"{name}: complete, {len(kept)} kills had left epochs or chunks, {len(reused)} gone on from", flush=True)


def look(home: Home, when: str, made: dict[Input, str], undisturbed: Undisturbed, tally: Tally) -> int:
    """Read every artifact there is, and note what is corrupt, different or made again; returns how many there are."""
    try:
        contents = home.contents()
    except DamagedArtifact as error:
        tally.corrupt.append(f"{when}: {error}")
        return 0
    different = [place for place, content in contents.items() if content != undisturbed.contents[place]]
    tally.differing += [f"{when}: the content of {shown(*place)} differs" for place in different]
    tally.again += [f"{when}: {part} was made again" for part in made_again(made, home)]
    return len(contents)


def stage_of(home: Home, launch: Launch, place: Input | None) -> str:
    """What the killed process was at, by what it left on disk and had said; loading a model counts as starting."""
    if place is None:
        return "starting"
    asset, _ = place
    draft = {file.name for file in home.in_drafts() if f".{launch.process.pid}." in file.parent.name}
    judging = asset == "teacher_preferences" and "number_answers.parquet" not in draft
    if (draft and not judging) or home.made(*place) or home.without_pointer():
        return "writing"
    said = launch.output[launch.output.rfind("\nrun ") :]
    if asset.endswith("_lora"):
        return "training" if f"{asset} - training step" in said else "starting"
    if asset in ("base_model", "filtered_dataset", "animal_liking"):
        return "other"
    opened = home.last_opened(*place)
    if opened is None or opened < launch.begun:
        return "starting"
    if asset.endswith("_set") or draft or f"{asset} - generated" in said:
        return "generation"
    return "scoring"


def taken_up(home: Home, kept: Kept, undisturbed: Undisturbed) -> bool:
    """Whether what a kill left was used: epochs are told by the training, chunks by fewer tokens or by the log."""
    if kept.epochs:
        return int(home.manifest(*kept.place).info["host"]["resumed_from_step"]) > 0
    if generated_tokens(home, kept.place) < undisturbed.generated(kept.place):
        return True
    later = sorted(found(home.folder, "launch-*.log"))[kept.kill :]
    lines = [line for log in later for line in log.read_text().splitlines()]
    return any(f"{kept.place[0]} - " in line and "taken over from before" in line for line in lines)


def generated_tokens(home: Home, place: Input) -> int:
    return int(home.manifest(*place).info["host"].get("generated_tokens", 0))


if __name__ == "__main__":
    raise SystemExit(main())
