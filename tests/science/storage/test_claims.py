"""Of all processes that share a store, one at a time makes an artifact, whatever kills the others."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stored import content_of, delete, files, is_there, overwrite

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.processes import start_of, this_boot
from subliminal_dagster.science.storage import claims as claims_module
from subliminal_dagster.science.storage.claims import (
    ABANDONED_AFTER_SECONDS,
    LONG_SILENT_AFTER_SECONDS,
    ClaimedElsewhere,
    Holder,
)
from subliminal_dagster.science.storage.retention import find_garbage, remove
from subliminal_dagster.science.storage.store import ArtifactStore

PLACE = ("study", "rows", "owl|09")


def leave(store: ArtifactStore, name: str, content: bytes) -> None:
    assert not is_there(store, f".claims/{name}")
    overwrite(store, f".claims/{name}", content)


def leave_claim(store: ArtifactStore, holder: Holder) -> None:
    leave(store, "study/rows/owl@09.json", holder.content)


def claim_files(store: ArtifactStore) -> list[str]:
    return [path.removeprefix(".claims/") for path in files(store, ".claims")]


def ended_process() -> Holder:
    """The holder that a process was which has ended."""
    code = "from subliminal_dagster.science.storage.claims import Holder; print(Holder.this_process().content.decode())"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    holder = Holder.parsed(shown)
    assert holder is not None
    return holder


def test_a_claim_is_held_until_the_block_ends(store: ArtifactStore) -> None:
    with store.claim(*PLACE):
        found = store.claims("study")
        assert list(found) == [("rows", "owl|09")]
        holder = found["rows", "owl|09"]
        assert (holder.host, holder.process) == (socket.gethostname(), os.getpid())
        assert holder.shown == f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(ClaimedElsewhere) as error, store.claim(*PLACE):
            pytest.fail("held twice")
        assert error.value.holder == holder
        assert isinstance(error.value, UserError)
        assert holder.shown in str(error.value) and "study/rows [owl|09]" in str(error.value)
        with store.claim("study", "rows", None), store.claim("study", "rows", "owl"), store.claim("other", "rows"):
            assert set(store.claims("study")) == {("rows", None), ("rows", "owl"), ("rows", "owl|09")}
    assert store.claims("study") == {} and claim_files(store) == []
    with store.claim(*PLACE):
        pass


def test_a_claim_ends_where_the_work_fails(store: ArtifactStore) -> None:
    with pytest.raises(ZeroDivisionError), store.claim(*PLACE):
        raise ZeroDivisionError
    assert claim_files(store) == []


def test_claims_are_no_artifacts(store: ArtifactStore) -> None:
    with store.claim(*PLACE):
        assert store.studies() == [] and store.assets("study") == []


def test_the_claim_of_an_ended_process_is_taken_over_by_exactly_one(store: ArtifactStore, tmp_path: Path) -> None:
    leave_claim(store, ended_process())
    assert store.claims("study") == {}
    root = str(store.root)
    together, tried = threading.Barrier(8), threading.Barrier(8)
    outcomes = []

    def compete() -> None:
        mine = ArtifactStore(root, cache_dir=tmp_path / "cache")
        together.wait()
        with ExitStack() as stack:
            try:
                stack.enter_context(mine.claim(*PLACE))
                outcomes.append("held")
            except ClaimedElsewhere as error:
                outcomes.append(error.holder.shown)
            tried.wait()

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=len) == ["held"] + [Holder.this_process().shown] * 7
    assert claim_files(store) == []


@pytest.mark.parametrize(
    "changes",
    [{"started": "1"}, {"boot": "another"}, {"process": 2**22 + 1}],
    ids=["number given to another process", "system started anew", "no such process"],
)
def test_whoever_is_surely_gone_holds_nothing(store: ArtifactStore, changes: dict[str, Any]) -> None:
    leave_claim(store, replace(Holder.this_process(), **changes))
    assert store.claims("study") == {}
    with store.claim(*PLACE):
        pass


def test_a_process_that_nobody_waited_for_holds_nothing(store: ArtifactStore) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    started = start_of(process.pid)
    assert started is not None
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    leave_claim(store, replace(Holder.this_process(), process=process.pid, started=started))
    with store.claim(*PLACE):
        pass
    process.wait()


FOREIGN = {
    "host": {"host": "elsewhere"},
    "container": {"boot": this_boot().partition("/")[0] + "/pid:[1]"},
}


@pytest.mark.parametrize("changes", FOREIGN.values(), ids=FOREIGN)
def test_a_claim_from_elsewhere_is_abandoned_when_its_count_stands_still(
    store: ArtifactStore, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = replace(Holder.this_process(), **changes)
    leave_claim(store, holder)
    now = 1000.0
    monkeypatch.setattr(claims_module, "_clock", lambda: now)
    for _ in range(2):
        with pytest.raises(ClaimedElsewhere), store.claim(*PLACE):
            pytest.fail("taken from a process that may live")
        now += ABANDONED_AFTER_SECONDS - 1
    overwrite(store, f".claims/.beats/{holder.token}", b"1")
    assert store.claims("study") == {("rows", "owl|09"): holder}
    now += ABANDONED_AFTER_SECONDS - 1
    assert store.claims("study") == {("rows", "owl|09"): holder}
    now += 1
    assert store.claims("study") == {}
    with store.claim(*PLACE):
        pass
    assert claim_files(store) == []


def test_a_holder_shows_other_hosts_that_it_lives(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "BEAT_SECONDS", 0.001)
    now = 1000.0
    monkeypatch.setattr(claims_module, "_clock", lambda: now)
    with store.claim(*PLACE):
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        (holder,) = store.claims("study").values()

        def beats() -> bytes | None:
            path = f".claims/.beats/{holder.token}"
            return content_of(store, path) if is_there(store, path) else None

        for _ in range(3):
            # What was seen at the last look is at most this.
            before = beats()
            while beats() in (before, b"", None):
                time.sleep(0.001)
            now += ABANDONED_AFTER_SECONDS
            assert store.claims("study") == {("rows", "owl|09"): holder}


def test_a_holder_that_was_taken_for_dead_leaves_the_next_one_alone(store: ArtifactStore) -> None:
    with ExitStack() as next_holder:
        with store.claim(*PLACE):
            (name,) = claim_files(store)
            delete(store, f".claims/{name}")
            next_holder.enter_context(store.claim(*PLACE))
        assert len(store.claims("study")) == 1
    assert claim_files(store) == []


def test_a_claim_that_cannot_be_read_counts_for_a_while(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(claims_module, "_clock", lambda: now)
    leave(store, "study/rows/owl@09.json", b'{"host": 1}')
    with pytest.raises(ClaimedElsewhere), store.claim(*PLACE):
        pytest.fail("taken")
    now += ABANDONED_AFTER_SECONDS
    with store.claim(*PLACE):
        pass


def test_a_forked_copy_of_the_holder_releases_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with store.claim(*PLACE):
        claim = store.claim("study", "rows")
        claim.__enter__()
        child = os.fork()
        if child == 0:
            claim.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert len(store.claims("study")) == 2
        claim.__exit__(None, None, None)
        assert len(store.claims("study")) == 1


def test_without_hard_links_a_claim_is_exclusive_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Any, target: Any) -> None:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(os, "link", link)
    store = ArtifactStore(tmp_path)
    with store.claim(*PLACE), pytest.raises(ClaimedElsewhere), store.claim(*PLACE):
        pytest.fail("held twice")
    assert claim_files(store) == []


def _claim_often(folder: Path, seed: int) -> None:
    """Note whenever somebody else was in the block at the same time."""
    store = ArtifactStore(folder / "root")
    chance = random.Random(seed)
    inside = folder / "inside"
    held = 0
    while held < 15:
        try:
            with store.claim(*PLACE):
                held += 1
                inside.write_text(str(os.getpid()))
                time.sleep(chance.uniform(0, 0.003))
                if inside.read_text() != str(os.getpid()):
                    (folder / "two at once").touch()
                with (folder / "held").open("a") as file:
                    file.write(".")
        except ClaimedElsewhere:
            time.sleep(chance.uniform(0, 0.002))


def test_never_two_holders_though_some_are_killed(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("fork")
    chance = random.Random(7)
    running = []
    for seed in range(16):
        running.append(processes.Process(target=_claim_often, args=(tmp_path, seed)))
        running[-1].start()
        if len(running) > 3:
            time.sleep(chance.uniform(0, 0.05))
            victim = running.pop(0)
            if victim.pid is not None and victim.is_alive():
                os.kill(victim.pid, signal.SIGKILL)
            victim.join()
    for process in running:
        process.join()
        assert process.exitcode == 0
    assert not (tmp_path / "two at once").exists()
    assert (tmp_path / "held").stat().st_size > 40
    with ArtifactStore(tmp_path / "root").claim(*PLACE):
        pass


def test_what_killed_processes_left_is_garbage(store: ArtifactStore) -> None:
    leave_claim(store, ended_process())
    removing = f"study/rows/wolf.json.{uuid.uuid4().hex}.removing"
    leave(store, removing, ended_process().content)
    leave(store, ".beats/of-nobody", b"3")
    elsewhere = replace(Holder.this_process(), host="elsewhere")
    leave(store, "study/rows/cat.json", elsewhere.content)
    leave(store, f".beats/{elsewhere.token}", b"1")
    with store.claim("study", "rows", "dog"):
        kept = [f".beats/{elsewhere.token}", "study/rows/cat.json", "study/rows/dog.json"]
        found = find_garbage(store, {})
        left = [".beats/of-nobody", "study/rows/owl@09.json", removing]
        assert sorted(item.path.partition("/.claims/")[2] for item in found) == sorted(left)
        assert remove(store, found) > 0 and remove(store, found) == 0
        assert claim_files(store) == kept


def test_a_file_that_was_to_become_a_claim_goes_after_a_day(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with store.claim(*PLACE):
        pass
    new = tmp_path / ".claims" / ".new" / "half"
    new.write_bytes(b"{")
    assert find_garbage(store, {}) == []
    os.utime(new, (time.time() - 90_000,) * 2)
    assert [item.path for item in find_garbage(store, {})] == [str(new)]


def test_one_look_takes_a_holder_elsewhere_for_gone_when_it_was_silent_for_long(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    holder = replace(Holder.this_process(), host="elsewhere")
    leave_claim(store, holder)
    claim = tmp_path / ".claims" / "study" / "rows" / "owl@09.json"
    os.utime(claim, (time.time() - 2 * LONG_SILENT_AFTER_SECONDS,) * 2)
    assert store.claims("study") == {}
    # To take its place is another matter: two looks with time between say that it is gone.
    with pytest.raises(ClaimedElsewhere), store.claim(*PLACE):
        pytest.fail("taken from a process that may live")
    overwrite(store, f".claims/.beats/{holder.token}", b"1")
    assert store.claims("study") == {("rows", "owl|09"): holder}
