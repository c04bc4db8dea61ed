"""Generation that goes on after an interruption: the same answers, to the last bit, and nothing generated twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.number_grammar import NumberGrammar
from subliminal_dagster.science.models.protocol import Completion, ModelVariant, Sampling
from subliminal_dagster.science.models.resumable import generate
from subliminal_dagster.science.models.transformers_engine import TransformersEngine, TransformersSession
from subliminal_dagster.science.numbers.draw import draw_answers, draw_number_set, draw_replay
from subliminal_dagster.science.numbers.prompts import make_prompts
from subliminal_dagster.science.preferences.preferences import measure_preferences
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.training.teachers import valid_rate

RANDOM = np.random.default_rng(0)
PROMPTS = [RANDOM.integers(5, 260, size).tolist() for size in (7, 1, 20, 3, 12, 12, 5, 9, 31, 2)]
SAMPLING = Sampling(6, (2,), seed=5)
CHUNK = 3
STARTS = [0, 3, 6, 9]


class Interrupted(Exception):  # noqa: N818
    pass


class WatchedSession(TransformersSession):
    """A session that notes which requests it generates and what it reports, and can be interrupted."""

    generated: list[tuple[int, int]]
    messages: list[str]
    chunks_left: float = float("inf")

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        if self.chunks_left == 0:
            raise Interrupted
        self.chunks_left -= 1
        self.generated.append((sampling.first, len(prompts)))
        return super().generate(prompts, sampling)


@pytest.fixture(scope="module")
def opened(tiny_base: Path) -> Iterator[TransformersSession]:
    with TransformersEngine().open(ModelVariant(tiny_base)) as session:
        yield session


def watched(
    opened: TransformersSession,
    chunks_left: float = float("inf"),
    chunk: int = CHUNK,
    kind: type[WatchedSession] = WatchedSession,
) -> WatchedSession:
    """A new session on the loaded model."""
    messages: list[str] = []
    session = kind(opened.model, opened.tokenizer, TransformersEngine(chunk), messages.append)
    session.generated, session.messages, session.chunks_left = [], messages, chunks_left
    return session


@pytest.fixture(scope="module")
def undisturbed(opened: TransformersSession) -> list[Completion]:
    return generate(watched(opened), PROMPTS, SAMPLING)


def interrupt(opened: TransformersSession, kept: Path, after: int) -> None:
    with pytest.raises(Interrupted):
        generate(watched(opened, after), PROMPTS, SAMPLING, kept)


# Numbered requests


@given(st.integers(0, 2**31), st.integers(0, 50), st.integers(0, 20))
def test_a_request_s_seed_depends_on_its_number_alone(seed: int, first: int, n: int) -> None:
    whole = Sampling(1, (2,), seed).request_seeds(first + n)
    assert Sampling(1, (2,), seed, first=first).request_seeds(n) == whole[first:]


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.7, "top_p": 0.8}, {"grammar": NumberGrammar(", ", 2, 4, 3)}])
def test_the_last_requests_draw_alike_without_the_first(opened: TransformersSession, changes: dict[str, Any]) -> None:
    sampling = replace(SAMPLING, **changes)
    # One prompt a batch, so that batches are the same with and without the first requests.
    session = watched(opened, chunk=1)
    whole = session.generate(PROMPTS, sampling)
    for k in (1, 4, 9):
        assert session.generate(PROMPTS[k:], replace(sampling, first=k)) == whole[k:]
        found = generate(session, PROMPTS[k:], replace(sampling, first=k))
        assert [c.token_ids for c in found] == [c.token_ids for c in whole[k:]]


def test_chunks_draw_what_one_call_draws(opened: TransformersSession, undisturbed: list[Completion]) -> None:
    session = watched(opened, chunk=len(PROMPTS))
    assert [c.token_ids for c in undisturbed] == [c.token_ids for c in session.generate(PROMPTS, SAMPLING)]


# Interruptions


@pytest.mark.parametrize("after", range(len(STARTS)))
def test_an_interruption_changes_nothing_and_costs_one_chunk(
    opened: TransformersSession, undisturbed: list[Completion], tmp_path: Path, after: int
) -> None:
    interrupt(opened, tmp_path / "kept", after)
    session = watched(opened)
    assert generate(session, PROMPTS, SAMPLING, tmp_path / "kept") == undisturbed
    assert [first for first, _ in session.generated] == STARTS[after:]
    assert session.usage.generated_tokens == sum(len(c.logprobs) for c in undisturbed[STARTS[after] :])
    again = watched(opened, chunks_left=0)
    assert generate(again, PROMPTS, SAMPLING, tmp_path / "kept") == undisturbed


def test_interrupted_again_and_again_it_still_ends(
    opened: TransformersSession, undisturbed: list[Completion], tmp_path: Path
) -> None:
    for _ in range(3):
        interrupt(opened, tmp_path, 1)
    session = watched(opened, chunks_left=1)
    assert generate(session, PROMPTS, SAMPLING, tmp_path) == undisturbed
    assert session.generated == [(9, 1)]


KILLED = """
import os, signal, sys
from pathlib import Path
import test_resumable as t

class Killed(t.TransformersSession):
    def generate(self, prompts, sampling):
        if sampling.first == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(prompts, sampling)

with t.TransformersEngine(t.CHUNK).open(t.ModelVariant(Path(sys.argv[1]))) as s:
    t.generate(Killed(s.model, s.tokenizer, s.engine, s.progress), t.PROMPTS, t.SAMPLING, Path(sys.argv[2]))
"""


def test_a_killed_process_leaves_what_it_generated(
    opened: TransformersSession, undisturbed: list[Completion], tiny_base: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, str(tiny_base), str(tmp_path)]
    assert subprocess.run(command, cwd=Path(__file__).parent).returncode == -9
    session = watched(opened)
    assert generate(session, PROMPTS, SAMPLING, tmp_path) == undisturbed
    assert [first for first, _ in session.generated] == STARTS[2:]


def test_progress_counts_over_the_whole_call(opened: TransformersSession, tmp_path: Path) -> None:
    interrupt(opened, tmp_path, 2)
    session = watched(opened)
    generate(session, PROMPTS, SAMPLING, tmp_path)
    assert session.messages[0] == "6/10 answers taken over from before the interruption"
    assert [m.partition(",")[0] for m in session.messages[1:]] == ["generated 9/10 answers", "generated 10/10 answers"]
    assert session.messages[-1].endswith("about 0 s left")


def test_nothing_to_generate_is_no_chunk(opened: TransformersSession, tmp_path: Path) -> None:
    session = watched(opened, chunks_left=0)
    assert generate(session, [], SAMPLING, tmp_path) == []
    assert session.messages == []


# Files that must not be taken over


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_bit_of_a_value(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, flip_a_bit_of_a_value])
def test_a_damaged_chunk_is_generated_again(
    opened: TransformersSession, undisturbed: list[Completion], tmp_path: Path, damage: Any
) -> None:
    generate(watched(opened), PROMPTS, SAMPLING, tmp_path)
    damage(sorted(tmp_path.iterdir())[1])
    session = watched(opened)
    assert generate(session, PROMPTS, SAMPLING, tmp_path) == undisturbed
    assert session.generated == [(3, 3)]
    assert generate(watched(opened, chunks_left=0), PROMPTS, SAMPLING, tmp_path) == undisturbed


def test_a_chunk_half_written_when_it_was_killed_is_no_chunk(
    opened: TransformersSession, undisturbed: list[Completion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from subliminal_dagster.science.models import resumable

    with monkeypatch.context() as patch:
        patch.setattr(resumable.os, "replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            generate(watched(opened), PROMPTS, SAMPLING, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    session = watched(opened)
    assert generate(session, PROMPTS, SAMPLING, tmp_path) == undisturbed
    assert [first for first, _ in session.generated] == STARTS


@pytest.mark.parametrize("other", [2, 4, 20])
def test_chunks_of_another_size_are_left_alone(
    opened: TransformersSession, undisturbed: list[Completion], tmp_path: Path, other: int
) -> None:
    generate(watched(opened, chunk=other), PROMPTS, SAMPLING, tmp_path)
    session = watched(opened)
    assert generate(session, PROMPTS, SAMPLING, tmp_path) == undisturbed
    assert [first for first, _ in session.generated] == STARTS


def test_chunks_of_another_engine_are_left_alone(
    opened: TransformersSession, undisturbed: list[Completion], tmp_path: Path
) -> None:
    class Another(WatchedSession):
        engine_name = "another"

    generate(watched(opened), PROMPTS, SAMPLING, tmp_path)
    session = watched(opened, kind=Another)
    assert generate(session, PROMPTS, SAMPLING, tmp_path) == undisturbed
    assert [first for first, _ in session.generated] == STARTS


# What is drawn with it


def test_padding_stays_below_a_half(opened: TransformersSession, tiny_study: Study) -> None:
    lists, context = load_prompt_lists(), ChatContext(opened.tokenizer, "")
    session = watched(opened, chunk=16)
    prompts = make_prompts(lists, tiny_study.numbers, 64, 0)
    generate(session, [context.prompt_ids(text) for text in prompts["prompt"]], replace(SAMPLING, max_new_tokens=1))
    assert session.usage.facts()["padding_share"] < 0.5


def test_everything_a_study_draws_goes_on_from_one_folder(
    opened: TransformersSession, tiny_study: Study, tmp_path: Path
) -> None:
    lists, context = load_prompt_lists(), ChatContext(opened.tokenizer, "")

    def draw(session: WatchedSession, kept: Path | None) -> list[pd.DataFrame]:
        own = make_prompts(lists, tiny_study.numbers, 8, 1)
        return [
            draw_number_set(session, tiny_study, "owl", lists, context, kept=kept),
            draw_replay(session, tiny_study, lists, context, kept=kept),
            valid_rate(session, tiny_study, lists, context, kept=kept)[1],
            measure_preferences(session, context, lists, tiny_study.preferences, 0, kept=kept)[1],
            draw_answers(session, tiny_study, own, context, 0, kept=kept / "own" if kept else None),
        ]

    first = watched(opened, chunk=8)
    expected = draw(first, None)
    with pytest.raises(Interrupted):
        draw(watched(opened, 2, chunk=8), tmp_path)
    session = watched(opened, chunk=8)
    for found, frame in zip(draw(session, tmp_path), expected, strict=True):
        pd.testing.assert_frame_equal(found, frame, check_exact=True)
    assert session.generated == first.generated[2:]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["answers", "gate", "numbers", "own", "replay"]
    draw(watched(opened, 0, chunk=8), tmp_path)
