"""What `run` shows while it goes on: the board on a clock, and the block on a terminal of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml
from study_runs import StudyRun

from subliminal_dagster.build import study_frame
from subliminal_dagster.cli import main
from subliminal_dagster.cli.live import Board, Step
from subliminal_dagster.execution.live_runs import last_words
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.planner import Part
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.settings.study_file import load_study

CPU = "cpu (2 cores)"


def due(asset: str, partition: str | None, seconds: float | None = None, waits_for: tuple[Input, ...] = ()) -> Part:
    device = None if seconds is None else CPU
    return Part("toy", asset, partition, "missing", ("new",), waits_for, seconds=seconds, device=device)


class Clock:
    """One that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def frame() -> Frame:
    return study_frame(load_study("smollm2-135m-instruct"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(frame: Frame, clock: Clock) -> Board:
    return Board(frame, None, slots=2, now=clock)


def test_a_board_counts_what_is_done_and_what_is_left(board: Board, clock: Clock) -> None:
    owl, fox = due("teacher_lora", "owl"), due("teacher_lora", "fox")
    score = due("teacher_preferences", "owl", waits_for=(owl.place,))
    board.planned([owl, fox, score])
    assert board.headline() == "0 of 3 parts, 0:00 so far, time left unknown"
    board.begun(owl)
    board.begun(fox)
    clock.seconds = 75
    board.heard({owl.place: "training step 3/9, 812 tokens/s", score.place: "not begun, so nobody asked"})
    assert board.steps() == [
        Step("teacher_lora", "owl", "1:15", "training step 3/9, 812 tokens/s"),
        Step("teacher_lora", "fox", "1:15", ""),
    ]
    assert board.ended(owl, 74.6, found=False) == "1/3 teacher_lora [owl] 75 s"
    assert board.fail(fox, "the disk is full.") == "1/3 teacher_lora [fox] FAILED: the disk is full."
    assert board.steps() == []
    # What failed is still due by the next plan; what the other needed took a minute, and so will its like.
    board.planned([fox, due("teacher_preferences", "owl", 60)])
    assert board.headline() == "1 of 3 parts, 1 failed, 1:15 so far, about 60 s left"
    board.planned([fox])
    assert board.headline().startswith("2 of 3 parts, 1 failed"), "it turned out to be as it should"


def test_time_left_is_the_longest_chain_or_all_of_it_shared_out(board: Board, clock: Clock) -> None:
    first = due("teacher_lora", "owl", 100)
    chain = [first, due("teacher_preferences", "owl", 50, (first.place,))]
    beside = [due("teacher_lora", animal, 100) for animal in ("fox", "dog", "lion")]
    board.planned([*chain, *beside])
    assert "about 4 min left" in board.headline(), "450 s of work for two at a time"
    board.begun(first)
    clock.seconds = 90
    assert board.steps()[0].time == "1:30 of about 1:40"
    assert "about 3 min left" in board.headline(), "360 s of work"
    for part in beside:
        board.ended(part, 100, found=True)
    assert "about 60 s left" in board.headline(), "10 s of the first, then 50 of what needs it"
    clock.seconds = 500
    assert "at least 50 s left" in board.headline(), "it takes longer than ever"
    board.ended(first, 500, found=False)
    board.begun(chain[1])
    clock.seconds = 600
    assert "time left unknown" in board.headline()


def test_where_some_was_never_timed_the_time_left_is_a_least_one(board: Board) -> None:
    board.planned([due("teacher_lora", "owl", 30), due("activations", "owl|09"), due("child_lora", "owl|1")])
    assert board.headline().endswith("at least 30 s left (2 parts never timed)")
    board.begun(due("activations", "owl|09"))
    board.begun(due("child_lora", "owl|1"))
    assert [step.where for step in board.steps()] == ["owl, layer 09", "owl, replicate 1"]


def test_a_lost_step_is_shown_no_more_and_stays_to_be_made(board: Board) -> None:
    part = due("teacher_lora", "owl")
    board.planned([part])
    board.begun(part)
    board.lost(part)
    assert board.steps() == [] and board.headline().startswith("0 of 1 parts")


def test_what_a_step_has_last_logged_is_heard() -> None:
    heard: list[dict[Input, str]] = []

    @dg.asset(key=["toy", "digits"], partitions_def=dg.StaticPartitionsDefinition(["owl"]))
    def digits(context):  # Dagster reads no annotation that is a text
        heard.append(last_words(context.instance, "toy", ["digits"]))
        context.log.info("read 3/9 files")
        heard.append(last_words(context.instance, "toy", ["digits"]))
        heard.append(last_words(context.instance, "another-study", ["digits"]))

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([digits], partition_key="owl", instance=instance)
        heard.append(last_words(instance, "toy", ["digits"]))
    assert heard == [{}, {("digits", "owl"): "read 3/9 files"}, {}, {}]


@pytest.fixture
def study(done: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of the tiny study's file; all of it is made but one part."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SUBLIMINAL_ARTIFACTS", str(tmp_path / "store"))
    with dg.DagsterInstance.ephemeral() as instance:
        done.copy(tmp_path / "store", instance)
    shutil.rmtree(tmp_path / "store" / "tiny" / "filtered_dataset" / "owl@1")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(done.study.model_dump(mode="json")))
    return str(path)


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What is written to a terminal that this process's stdout is for the block. No fixture: pytest puts its own stdout
    in the place of one that is set before the test itself."""
    ours, theirs = os.openpty()
    written: list[bytes] = []

    def read() -> None:
        # Linux says so once the other end is closed.
        try:
            while block := os.read(ours, 65536):
                written.append(block)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setenv("TERM", "xterm-256color")
    with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patched:
        patched.setattr("sys.stdout", stream)
        yield written
    reader.join()
    os.close(ours)


def test_a_terminal_shows_one_block_and_the_log_is_a_file(
    study: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch) as written:
        assert main(["run", "--study", study]) == 0
    shown = b"".join(written).decode()
    assert "\x1b[?25l" in shown and shown.count("\x1b[?25h") == 1, "the cursor is hidden, and there again in the end"
    assert "0 of 9 parts, 0:0" in shown and "time left" not in shown.rpartition("\x1b[?25h")[2]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "1/9 filtered_dataset [owl|1] " in text and "tiny: 1 made in 1 runs" in text
    (log,) = (tmp_path / "home" / "logs").glob("run-*.log")
    assert text.count(str(log)) == 1
    assert "filtered_dataset [owl|1]: begun: never made, or deleted" in log.read_text()
    assert capfd.readouterr() == ("", "")


def test_a_pipe_gets_plain_lines_and_a_program_one_document(study: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--study", study, "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert (found["complete"], found["made"], found["fresh"]) == (True, ["filtered_dataset/owl|1"], 33)
    assert Path(found["log"]).is_file() and Path(found["result"]["report"]).is_file()
    assert {"hard", "soft"} == set(found["result"]["channels"])
    assert "\x1b" not in err and "dagster - " not in err
    assert re.search(r"^1/9 filtered_dataset \[owl\|1\] \d+ s$", err, re.MULTILINE)
