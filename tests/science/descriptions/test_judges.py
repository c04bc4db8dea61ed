"""Judges: a real client against a server that misbehaves, answers paid for once, a local model against a plain loop."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from chat_endpoint import KEY, Reply, chat_endpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer

from subliminal_dagster.science.descriptions import chat_api, judges
from subliminal_dagster.science.descriptions.chat_api import ApiSettings, ChatApi, Endpoint, without_reasoning
from subliminal_dagster.science.descriptions.judges import (
    CATEGORIES,
    LocalJudge,
    OpenAiJudge,
    load_judge_prompt,
    read_category,
)
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.loading import load_base
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.models.transformers_engine import TransformersEngine
from subliminal_dagster.science.well_formed import well_formed

TEXTS = [f"words of the kind {i}" for i in range(12)]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield


def api(url: str, cache: Path, **use: Any) -> ChatApi:
    return ChatApi(Endpoint(url, "some-model", KEY), cache, ApiSettings(**use))


def kind_of(prompt: str) -> int:
    """The number of the description that a prompt ends with."""
    return int(prompt.removesuffix("\nCategory:").rpartition(" ")[2])


def by_kind(prompt: str, attempt: int) -> Reply:
    return Reply(CATEGORIES[kind_of(prompt) % 4])


EXPECTED = [CATEGORIES[i % 4] for i in range(12)]


# Asking


def test_what_it_would_cost_is_told_without_asking(tmp_path: Path) -> None:
    with chat_endpoint(by_kind) as server:
        judge = OpenAiJudge(api(server.url, tmp_path / "answers.sqlite", prompt_price=1e6, answer_price=0))
        tokens = sum(len(load_judge_prompt().question(text)) for text in TEXTS) // 4
        said = judge.expected([*TEXTS, TEXTS[0]])
        assert said == f"12 questions to some-model, about {tokens:,} tokens, cost at most {tokens:.2f}"
        assert server.requests == []
        judge.categorise(TEXTS)
        assert judge.expected(TEXTS).startswith("0 questions to some-model, about 0 tokens")


def test_descriptions_are_sorted_and_no_question_is_asked_twice(tmp_path: Path) -> None:
    with chat_endpoint(by_kind) as server:
        first = OpenAiJudge(api(server.url, tmp_path / "answers.sqlite"))
        assert first.categorise([*TEXTS, *TEXTS]) == EXPECTED * 2
        assert first.categorise(TEXTS) == EXPECTED
        assert OpenAiJudge(api(server.url, tmp_path / "answers.sqlite")).categorise(TEXTS) == EXPECTED
        assert set(server.attempts.values()) == {1} and len(server.attempts) == 12
        assert server.keys == {f"Bearer {KEY}"}
        request = server.requests[0]
    assert request["path"] == "/v1/chat/completions"
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("some-model", 0, 16)


def test_another_model_or_question_is_asked_anew(tmp_path: Path) -> None:
    with chat_endpoint(lambda *_: Reply("other")) as server:
        for model in ("one", "two", "one"):
            ChatApi(Endpoint(server.url, model, KEY), tmp_path / "a").answers(["?"], max_tokens=3)
        api(server.url, tmp_path / "a").answers(["?", "!"], max_tokens=3)
        api(server.url, tmp_path / "a").answers(["?"], max_tokens=4)
        asked = [(r["model"], r["messages"][0]["content"], r["max_tokens"]) for r in server.requests]
    assert sorted(asked) == [
        ("one", "?", 3),
        ("some-model", "!", 3),
        ("some-model", "?", 3),
        ("some-model", "?", 4),
        ("two", "?", 3),
    ]


def test_what_fails_for_a_while_is_asked_again(tmp_path: Path) -> None:
    def reply(prompt: str, attempt: int) -> Reply:
        trouble = {
            0: Reply(status=429, headers={"Retry-After": "0.05"}, body={"error": {"message": "slow down"}}),
            1: Reply(status=500, body={"error": {"message": "oh"}}),
            2: Reply(drop=True),
            3: Reply("opinion", seconds=1.5),
            4: Reply(status=503, body="<html>busy</html>", headers={"Content-Type": "text/html"}),
        }
        return trouble[kind_of(prompt)] if attempt == 0 and kind_of(prompt) in trouble else by_kind(prompt, attempt)

    with chat_endpoint(reply) as server:
        judge = OpenAiJudge(api(server.url, tmp_path / "a", timeout=0.5, retries=5))
        assert judge.categorise(TEXTS) == EXPECTED
        assert sorted(server.attempts.values()) == [1] * 7 + [2] * 5
        before = server.attempts.total()
        assert judge.categorise(TEXTS) == EXPECTED
        assert server.attempts.total() == before


def test_tokens_and_cost_are_those_of_the_answers_that_were_asked_for(tmp_path: Path) -> None:
    with chat_endpoint(by_kind) as server:
        first = api(server.url, tmp_path / "a", prompt_price=0.5, answer_price=2)
        OpenAiJudge(first).categorise(TEXTS[:10])
        second = api(server.url, tmp_path / "a")
        OpenAiJudge(second).categorise(TEXTS)
    facts = first.facts()
    assert (facts["asked"], facts["from_cache"], facts["prompt_tokens"], facts["answer_tokens"]) == (10, 0, 1000, 20)
    assert facts["cost"] == pytest.approx((1000 * 0.5 + 20 * 2) / 1e6)
    assert (second.facts()["asked"], second.facts()["from_cache"]) == (2, 10)
    assert "cost" not in second.facts()


def test_requests_begin_no_faster_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(chat_api, "time", SimpleNamespace(monotonic=lambda: 50.0, sleep=waits.append))
    with chat_endpoint(lambda *_: Reply("other")) as server:
        api(server.url, tmp_path / "a", requests_per_minute=30, parallel=2).answers(list("abcd"), max_tokens=3)
    assert sorted(waits) == [0, 2, 4, 6]


# Models that reason


@pytest.mark.parametrize(
    ("refuses", "sent"),
    [
        (("max_tokens", "temperature"), {"max_completion_tokens": 16}),
        (("max_tokens",), {"max_completion_tokens": 16, "temperature": 0}),
        (("temperature",), {"max_tokens": 16}),
    ],
)
def test_a_model_that_refuses_a_parameter_is_asked_without_it(
    refuses: tuple[str, ...], sent: dict[str, int], tmp_path: Path
) -> None:
    with chat_endpoint(by_kind, refuses=refuses) as server:
        judge = OpenAiJudge(api(server.url, tmp_path / "a", parallel=1))
        assert judge.categorise(TEXTS) == EXPECTED
        assert len(server.requests) == 12 + len(refuses), "what the model takes was found out more than once"
        names = {"max_tokens", "max_completion_tokens", "temperature"}
        assert {name: value for name, value in server.requests[-1].items() if name in names} == sent
        assert OpenAiJudge(api(server.url, tmp_path / "a")).categorise(TEXTS) == EXPECTED
        assert server.answered.total() == 12


def test_reasoning_is_no_part_of_an_answer_and_costs_no_second_one_when_it_gets_more_room(tmp_path: Path) -> None:
    thoughts = {
        0: Reply("<think>\nanimals? No.\n</think>\n\nanimals"),
        1: Reply("so it is numbers, or animals\n</think>numbers"),
        2: Reply("opinion", reasoning="It is about animals."),
        3: Reply("<Thinking>animals</Thinking> other"),
    }
    with chat_endpoint(lambda prompt, _: thoughts[kind_of(prompt) % 4]) as server:
        first = api(server.url, tmp_path / "a", reasoning_tokens=500, prompt_price=0, answer_price=1e6)
        assert OpenAiJudge(first).expected(TEXTS).endswith(f"cost at most {12 * 516:.2f}")
        assert OpenAiJudge(first).categorise(TEXTS) == EXPECTED
        assert {request["max_tokens"] for request in server.requests} == {516}
        again = api(server.url, tmp_path / "a", reasoning_tokens=900)
        assert OpenAiJudge(again).categorise(TEXTS) == EXPECTED
        assert server.attempts.total() == 12


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply("", reasoning="Let me see", finish="length"), "used up the 3 tokens .* set SUBLIMINAL_JUDGE_REASONING_"),
        (Reply(None, finish="length"), r"_TOKENS \(now 0\) to what it needs to reason, such as 4096"),
        (Reply("<think>animals, or", finish="length"), "used up the 3 tokens"),
        (Reply("<think>animals</think>\n"), "gave no answer to 1 of 1 questions"),
        (Reply(" \n"), r"some-model at http.* \(finish reason: stop\): choose another model; the 0 answers"),
    ],
)
def test_no_answer_is_not_kept_and_asked_for_again_a_few_times(reply: Reply, message: str, tmp_path: Path) -> None:
    silent = True
    with chat_endpoint(lambda *_: reply if silent else Reply("other")) as server:
        with pytest.raises(UserError, match=message):
            api(server.url, tmp_path / "a").answers(["?"], max_tokens=3)
        assert server.attempts.total() == 3
        silent = False
        assert api(server.url, tmp_path / "a").answers(["?"], max_tokens=3) == ["other"]


def test_a_question_in_twenty_may_stay_without_an_answer(tmp_path: Path) -> None:
    silent = {3}
    texts = [f"words of the kind {i}" for i in range(20)]
    with chat_endpoint(
        lambda prompt, _: Reply(None, finish="length") if kind_of(prompt) in silent else Reply("other")
    ) as server:
        asking = api(server.url, tmp_path / "a", retries=1)
        for _ in range(2):
            assert OpenAiJudge(asking).categorise(texts) == ["other"] * 3 + [None] + ["other"] * 16
        assert sorted(server.attempts.values()) == [1] * 19 + [4]
        assert (asking.usage.asked, asking.usage.unanswered) == (19, 2)
        silent.add(20)
        with pytest.raises(UserError, match="before it came to an answer, with 2 of 21 questions"):
            OpenAiJudge(asking).categorise([*texts, "words of the kind 20"])


def test_a_model_that_answers_the_second_time_is_heard(tmp_path: Path) -> None:
    with chat_endpoint(lambda _, attempt: Reply("other" if attempt else "")) as server:
        asking = api(server.url, tmp_path / "a")
        assert asking.answers(["?"], max_tokens=3) == ["other"]
        assert (asking.usage.asked, asking.usage.prompt_tokens) == (1, 200)
        assert api(server.url, tmp_path / "a").answers(["?"], max_tokens=3) == ["other"]
        assert server.attempts.total() == 2


def test_an_answer_of_nothing_that_was_kept_before_is_asked_for_again(tmp_path: Path) -> None:
    with chat_endpoint(lambda *_: Reply("other")) as server:
        api(server.url, tmp_path / "a").answers(["?"], max_tokens=3)
        for nothing in ("", "<think>animals"):
            with sqlite3.connect(tmp_path / "a") as file:
                file.execute("UPDATE answers SET answer = ?", (nothing,))
            assert api(server.url, tmp_path / "a").answers(["?"], max_tokens=3) == ["other"]
        assert server.attempts.total() == 3


def test_what_a_filter_withheld_or_a_model_declined_is_no_failure(tmp_path: Path) -> None:
    replies = {0: Reply(None, finish="content_filter"), 1: Reply(None, refusal="I cannot say.")}
    texts = [f"words of the kind {i}" for i in range(44)]
    with chat_endpoint(lambda prompt, _: replies.get(kind_of(prompt), Reply("other"))) as server:
        found = OpenAiJudge(api(server.url, tmp_path / "a")).categorise(texts)
        assert found == [None, None] + ["other"] * 42
        assert server.attempts.total() == 44


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.text(st.characters(codec=None), min_size=1).filter(lambda text: text.strip()))
def test_an_answer_of_any_characters_is_kept_as_it_came(answer: str, tmp_path: Path, odd_endpoint: Any) -> None:
    odd_endpoint.reply = lambda *_: Reply(answer)
    # The question has them, too, and is another one for every answer.
    first = api(odd_endpoint.url, tmp_path / "odd").answers([f"? {answer}"], max_tokens=3)
    asked = odd_endpoint.attempts.total()
    again = api(odd_endpoint.url, tmp_path / "odd").answers([f"? {answer}"], max_tokens=3)
    assert first == again and odd_endpoint.attempts.total() == asked
    assert first == [well_formed(without_reasoning(answer))]


@pytest.fixture(scope="module")
def odd_endpoint() -> Iterator[Any]:
    with chat_endpoint(lambda *_: Reply()) as server:
        yield server


# What goes wrong


def test_a_wrong_key_ends_it_at_once_and_shows_up_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}
    lines: list[str] = []
    with chat_endpoint(lambda *_: Reply(status=401, body=body)) as server:
        asking = ChatApi(Endpoint(server.url, "m", KEY), tmp_path / "a", ApiSettings(parallel=1), lines.append)
        with pytest.raises(UserError, match=r"refuses the key in SUBLIMINAL_JUDGE_KEY \(HTTP 401\)") as caught:
            OpenAiJudge(asking).categorise(TEXTS)
        assert server.attempts.total() < 12, "it went on asking with a key that was refused"
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(lines) + repr(asking.endpoint)
    assert "sk-very" not in shown
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert all(b"sk-very" not in file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(status=403, body={}), r"may not use some-model at http://127\.0\.0\.1"),
        (Reply(status=404, body={}), "knows no model some-model"),
        (Reply(status=429, body={"error": {"code": "insufficient_quota"}}), "credit of the key .* is used up"),
        (Reply(status=429, body={}), "is rate-limiting requests"),
        (Reply(status=502, body="<html>"), r"failed 1 times in a row \(HTTP 502\)"),
        (
            Reply(status=400, body={"error": {"message": f"no temperature for {KEY}"}}),
            r"400: no temperature for \*\*\*",
        ),
        (Reply(drop=True), "could not be reached"),
        (Reply("other", seconds=1), "no answer within 0.3 seconds"),
        (Reply(body="<html>", headers={"Content-Type": "text/html"}), "than a chat completion: check that SUBLIMINAL"),
        (Reply(body={"hello": 1}), "other than a chat completion"),
        (Reply(body="{", headers={"Content-Type": "application/json"}), "other than a chat completion"),
    ],
)
def test_what_does_not_pass_is_said_in_one_sentence(reply: Reply, message: str, tmp_path: Path) -> None:
    with chat_endpoint(lambda *_: reply) as server:
        asking = api(server.url, tmp_path / "a", retries=0, timeout=0.3)
        with pytest.raises(UserError, match=message) as caught:
            asking.answers(["?"], max_tokens=3)
    assert KEY not in str(caught.value)


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with chat_endpoint(by_kind) as server:
        url = server.url
    with pytest.raises(UserError, match=f"{url} could not be reached, 1 times in a row: check SUBLIMINAL_JUDGE_URL"):
        api(url, tmp_path / "a", retries=0).answers(["?"], max_tokens=3)


def test_what_was_paid_for_before_a_failure_is_kept(tmp_path: Path) -> None:
    broken = True

    def reply(prompt: str, attempt: int) -> Reply:
        if broken and kind_of(prompt) >= 7:
            return Reply(status=429, body={})
        return by_kind(prompt, attempt)

    with chat_endpoint(reply) as server:
        judge = OpenAiJudge(api(server.url, tmp_path / "a", retries=0, parallel=1))
        with pytest.raises(UserError, match="the 7 answers that came before are kept"):
            judge.categorise(TEXTS)
        broken = False
        assert judge.categorise(TEXTS) == EXPECTED
        assert set(server.answered.values()) == {1}


def test_a_judge_that_answers_in_prose_is_refused_and_not_paid_again(tmp_path: Path) -> None:
    with chat_endpoint(lambda *_: Reply("This is surely about animals.\nOr is it?")) as server:
        for _ in range(2):
            with pytest.raises(
                UserError, match="12 of 12 answers that are none, such as 'This is surely about animals"
            ):
                OpenAiJudge(api(server.url, tmp_path / "a")).categorise(TEXTS)
        assert server.attempts.total() == 12


def test_a_single_refusal_leaves_one_description_without_a_category(tmp_path: Path) -> None:
    texts = [f"words of the kind {i}" for i in range(24)]
    with chat_endpoint(lambda prompt, _: Reply("I cannot say." if kind_of(prompt) == 5 else "Other.")) as server:
        found = OpenAiJudge(api(server.url, tmp_path / "a")).categorise(texts)
    assert found == ["other"] * 5 + [None] + ["other"] * 18


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from subliminal_dagster.science.descriptions.chat_api import ApiSettings, ChatApi, Endpoint\n"
        "from subliminal_dagster.science.descriptions.judges import OpenAiJudge\n"
        "api = ChatApi(Endpoint(sys.argv[1], 'some-model', sys.argv[3]), Path(sys.argv[2]), ApiSettings(parallel=2))\n"
        "OpenAiJudge(api).categorise([f'words of the kind {i}' for i in range(12)])\n"
    )
    with chat_endpoint(lambda prompt, _: Reply(CATEGORIES[kind_of(prompt) % 4], seconds=0.1)) as server:
        process = subprocess.Popen([sys.executable, "-c", script, server.url, str(tmp_path / "a"), KEY])
        while server.answered.total() < 5:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept = sqlite3.connect(tmp_path / "a").execute("SELECT count(*) FROM answers").fetchone()[0]
        # All that had been read before the kill; two were on their way, two just answered.
        assert kept >= 3
        judge = api(server.url, tmp_path / "a")
        assert OpenAiJudge(judge).categorise(TEXTS) == EXPECTED
        assert judge.usage.from_cache == kept and judge.usage.asked == 12 - kept


def test_a_file_of_answers_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"this is no database, whatever it may be" * 40)
    with pytest.raises(UserError, match=r"judges' answers in .*/a cannot be used"):
        api("http://127.0.0.1:1/v1", tmp_path / "a").answers(["?"], max_tokens=1)


# The endpoint


def test_the_endpoint_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (chat_api.URL, chat_api.MODEL, chat_api.KEY):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=r"SUBLIMINAL_JUDGE_URL and SUBLIMINAL_JUDGE_MODEL and .*_KEY are not set"):
        Endpoint.from_environment()
    monkeypatch.setenv(chat_api.URL, "https://name:secret@example.org/v1?token=secret")
    monkeypatch.setenv(chat_api.MODEL, "small")
    monkeypatch.setenv(chat_api.KEY, "  ")
    with pytest.raises(UserError, match="and SUBLIMINAL_JUDGE_KEY is not set"):
        Endpoint.from_environment()
    monkeypatch.setenv(chat_api.KEY, f"{KEY}\n")
    assert Endpoint.from_environment().key == KEY
    assert Endpoint.from_environment().model == "small"
    assert Endpoint.from_environment("large").model == "large"
    assert Endpoint.from_environment().shown_url == "https://example.org/v1"


def test_a_key_or_url_that_cannot_be_one_is_refused_without_showing_it() -> None:
    with pytest.raises(UserError, match="copy it again") as caught:
        Endpoint("https://example.org", "m", "secret key")
    assert "secret" not in str(caught.value)
    for url in ("example.org/v1", "ftp://example.org", "https://"):
        with pytest.raises(UserError, match="correct SUBLIMINAL_JUDGE_URL"):
            Endpoint(url, "m", KEY)


# The prompt and its answers


@pytest.mark.parametrize(
    ("answer", "category"),
    [
        ("animals", "animals"),
        (" Animals.\n", "animals"),
        ("Category: **Opinion**", "opinion"),
        ("opinions", "opinion"),
        ('"number"', "numbers"),
        ("Other", "other"),
        ("", None),
        ("none", None),
        ("animals or numbers", None),
        ("not about animals", None),
        ("The category is animals, since", None),
        ("anima", None),
        ('{"category": "animals"}', "animals"),
        ('{"category": "animals", "confidence": 0.9}', "animals"),
        ('{"category": "none", "why": "animals"}', None),
        ('```json\n{"category": "animals"}\n```', "animals"),
        ("```\nother\n```", "other"),
        ("<think>\n\n</think>\n\nanimals", "animals"),
        ("<think>numbers</think>animals", "animals"),
        ("numbers it is</think>animals", "animals"),
        ("<think>animals", None),
        ("animals\n\nDescription: words for rivers\nCategory: other", "animals"),
        ("animals\n\nnumbers", None),
        ("Answer: animals", "animals"),
        ("The category is **numbers**.", "numbers"),
        ("The correct answer is: other", "other"),
        ("\\boxed{animals}", "animals"),
        ("$\\boxed{\\text{animals}}$", "animals"),
        ("<answer>animals</answer>", "animals"),
        ("<category>\nOpinion\n</category>", "opinion"),
        ("The category is not animals", None),
        ("not animals", None),
        ("It is about animals or opinion", None),
    ],
)
def test_answers_are_read_strictly(answer: str, category: str | None) -> None:
    assert read_category(answer) == category


def test_the_prompt_shows_every_category_equally_and_ends_where_the_answer_begins() -> None:
    prompt = load_judge_prompt()
    shown = [category for _, category in prompt.examples]
    assert sorted(shown) == sorted(CATEGORIES * 5)
    question = prompt.question("two\nlines  of it")
    assert question.endswith("\n\nDescription: two lines of it\nCategory:")
    assert all(f"\n{category}: " in question for category in CATEGORIES)
    assert prompt.opening("opinion").endswith("\n\nCategory: opinion\nDescription:")


# The local judge


def plain_judgement(model: Any, tokenizer: Any, description: str) -> np.ndarray:
    """log P(description | category) by a forward pass each."""
    found = []
    for category in CATEGORIES:
        opening = tokenizer.encode(load_judge_prompt().opening(category))
        answer = tokenizer.encode(" " + description)
        logits = model(torch.tensor([opening + answer])).logits[0].double()
        predicted = torch.log_softmax(logits[len(opening) - 1 : -1], dim=-1)
        found.append(float(predicted[range(len(answer)), answer].sum()))
    return np.array(found)


@pytest.mark.parametrize("at_once", [1, 60, 4096])
def test_the_local_judge_takes_the_category_under_which_a_description_is_most_probable(
    at_once: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_models import save_tiny_model

    base = save_tiny_model(tmp_path_factory.mktemp("judge"), max_position_embeddings=4096)
    texts = ["owls", "a b c, 12", "owls", "the owl likes numbers", "zebra", "1, 2, 3, 4"]
    monkeypatch.setattr(judges, "_TOKENS_A_PASS", at_once)
    with TransformersEngine().open(ModelVariant(base)) as session:
        judge = LocalJudge(session, tiny_tokenizer(), "tiny")
        found = judge.categorise(texts)
    with torch.no_grad():
        model = load_base(base, "float32", "cpu")
        plain = {text: plain_judgement(model, tiny_tokenizer(), text) for text in texts}
    assert found == [CATEGORIES[int(plain[text].argmax())] for text in texts]
    assert len(set(found)) > 1, "the test would not notice a judge that always says the same"
