"""An OpenAI-compatible endpoint that is asked many questions.

Belongs here: asking, waiting, retrying, counting, keeping answers. Does not belong here: what is asked (`judges`).
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from pydantic import Field

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.settings.base import Settings
from subliminal_dagster.science.storage.content_hash import json_hash
from subliminal_dagster.science.well_formed import well_formed

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion


URL, MODEL, KEY = "SUBLIMINAL_JUDGE_URL", "SUBLIMINAL_JUDGE_MODEL", "SUBLIMINAL_JUDGE_KEY"
"""The variables of the environment that say who is asked."""

REASONING_TOKENS = "SUBLIMINAL_JUDGE_REASONING_TOKENS"
"""The variable that `ApiSettings.reasoning_tokens` comes from."""

_CHARACTERS_A_TOKEN = 4
"""About, for a price that is told before anything is asked."""

UNREADABLE_LIMIT = 0.05
"""The share of questions without an answer, or with one that is not a category, that a model is forgiven."""

_ASKED_AGAIN = 2
"""How often a model that answered nothing is asked again."""

_REFUSABLE = ("temperature", "max_tokens")
"""What a request does without where a model refuses it: OpenAI's reasoning models take neither."""

_THOUGHT = re.compile(r"<(think|thinking|reasoning|thought)>.*?</\1>", re.DOTALL | re.IGNORECASE)

# Many chat templates open the block themselves, so that an answer only closes it.
_THOUGHT_END = re.compile(r".*</(think|thinking|reasoning|thought)>", re.DOTALL | re.IGNORECASE)
_THOUGHT_BEGIN = re.compile(r"<(think|thinking|reasoning|thought)>.*", re.DOTALL | re.IGNORECASE)


class ApiSettings(Settings):
    """How an endpoint is used; nothing here changes an answer.

    parallel: requests under way at once. requests_per_minute: at most so many are begun (None: no limit but the
    endpoint's own). timeout: seconds until an answer is given up. retries: of a request that was turned away or lost.
    reasoning_tokens: how many a model may write before its answer begins (0 for one that does not reason).
    prompt_price, answer_price: of a million tokens, in any currency (None: the cost is not shown).
    """

    parallel: int = Field(default=8, ge=1)
    requests_per_minute: float | None = Field(default=None, gt=0)
    timeout: float = Field(default=60, gt=0)
    retries: int = Field(default=6, ge=0)
    reasoning_tokens: int = Field(default=0, ge=0)
    prompt_price: float | None = Field(default=None, ge=0)
    answer_price: float | None = Field(default=None, ge=0)


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint, such as "https://api.openai.com/v1", the model that is asked, and the key to it.

    Raises UserError where the URL is none, or the key cannot stand in a header.
    """

    url: str
    model: str
    key: str = field(repr=False)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise UserError(f"The judge's endpoint is not a URL that begins with https:// or http://: correct {URL}.")
        # Or the HTTP library would refuse the header in a message that shows it.
        if not re.fullmatch(r"[!-~]+", self.key):
            raise UserError(f"The key in {KEY} holds blanks or characters that no key has: copy it again.")

    @classmethod
    def from_environment(cls, model: str | None = None) -> Endpoint:
        """The endpoint that the environment names; `model` goes before the environment's.

        Raises UserError, naming the variables, where one is missing.
        """
        values = {URL: os.environ.get(URL), MODEL: model or os.environ.get(MODEL), KEY: os.environ.get(KEY)}
        missing = [variable for variable, value in values.items() if not (value or "").strip()]
        if missing:
            raise UserError(
                f"The judge is a model behind an OpenAI-compatible endpoint and {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set in the environment: set {URL} to its address "
                f"(https://api.openai.com/v1), {MODEL} to the model and {KEY} to the key (any word where none is "
                "asked for)."
            )
        return cls(*(str(value).strip() for value in values.values()))

    @staticmethod
    def check_environment() -> None:
        """Raise UserError where the address or the key that the environment names can be none."""
        url, key = os.environ.get(URL), os.environ.get(KEY)
        if url:
            Endpoint(url.strip(), "any", (key or "any").strip())

    @property
    def shown_url(self) -> str:
        """The URL without anything secret that may stand in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass
class ApiUsage:
    """What a `ChatApi` has done so far: answers asked for and taken from the file, questions that got none, tokens."""

    asked: int = 0
    from_cache: int = 0
    unanswered: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


class ChatApi:
    """A model behind an endpoint, asked at temperature 0 where it takes one, every question once and for all.

    cache: the file (SQLite) that keeps every answer as soon as it is there; processes and studies can share it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        cache: Path,
        settings: ApiSettings | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.usage = ApiUsage()
        self._file = cache
        self._settings = settings or ApiSettings()
        self._progress = progress or (lambda _: None)
        self._lock = threading.Lock()
        self._next_start = 0.0
        self._refused: frozenset[str] = frozenset()

    def answers(self, prompts: Sequence[str], *, max_tokens: int) -> list[str]:
        """One answer per prompt, in their order, as the model wrote it after any reasoning, cut off at `max_tokens`.

        Requests that fail for a while (rate limits with their Retry-After, server errors, lost connections, answers
        that take too long, none at all) are made again. A question that gets no answer all the same has an empty one,
        which is not kept. Raises UserError where that are more than one in twenty, another failure does not pass, the
        key or the model is refused, or the endpoint does not speak the protocol; answers that came before are kept and
        not asked for again.
        """
        requests = [self._request(prompt, max_tokens) for prompt in prompts]
        with _AnswerFile(self._file) as kept:
            found = {key: answer for key in dict(requests) if (answer := kept.find(key)) is not None}
            missing = {key: request for key, request in requests if key not in found}
            self.usage.from_cache += len(found)
            if found and missing:
                self._progress(f"{len(found)} of {len(found) + len(missing)} answers are there from before")
            if missing:
                found |= self._ask_all(missing, kept, len(dict(requests)))
        return [found[key] for key, _ in requests]

    def expected(self, prompts: Sequence[str], *, max_tokens: int) -> str:
        """What asking these would take, in words: the questions that are not answered yet, their tokens (about four
        characters each) and, where prices are set, the cost."""
        with _AnswerFile(self._file) as kept:
            requests = dict(self._request(prompt, max_tokens) for prompt in prompts)
            new = [request for key, request in requests.items() if kept.find(key) is None]
        asked = sum(len(request["messages"][0]["content"]) for request in new) // _CHARACTERS_A_TOKEN
        prices = (self._settings.prompt_price, self._settings.answer_price)
        cost = ""
        if None not in prices:
            answered = len(new) * (max_tokens + self._settings.reasoning_tokens)
            spent = sum(n * (price or 0) for n, price in zip((asked, answered), prices, strict=True)) / 1e6
            cost = f", cost at most {spent:.2f}"
        return f"{len(new):,} questions to {self.endpoint.model}, about {asked:,} tokens{cost}"

    def facts(self) -> dict[str, Any]:
        """What was asked so far, and what it cost where prices are set (in their currency), for the metadata of an
        asset. Repeated requests count once."""
        facts: dict[str, Any] = {"model": self.endpoint.model, "endpoint": self.endpoint.shown_url, **vars(self.usage)}
        prices = (self._settings.prompt_price, self._settings.answer_price)
        if None not in prices:
            tokens = (self.usage.prompt_tokens, self.usage.answer_tokens)
            facts["cost"] = sum(n * (price or 0) for n, price in zip(tokens, prices, strict=True)) / 1e6
        return facts

    def _request(self, prompt: str, max_tokens: int) -> tuple[str, dict[str, Any]]:
        """All that an answer depends on, with its hash in front. Tokens to reason with are added when it is sent: an
        answer that was given is the same with more of them."""
        request = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": well_formed(prompt)}],
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        return json_hash(request), request

    def _ask_all(self, requests: Mapping[str, dict[str, Any]], kept: _AnswerFile, questions: int) -> dict[str, str]:
        """The answers to those of `questions` questions that have none yet."""
        from openai import OpenAI

        answers: dict[str, str] = {}
        unanswered = 0
        settings = self._settings
        with (
            OpenAI(
                base_url=self.endpoint.url,
                api_key=self.endpoint.key,
                timeout=settings.timeout,
                max_retries=settings.retries,
            ) as client,
            ThreadPoolExecutor(settings.parallel) as pool,
        ):
            asked = {pool.submit(self._ask, client, key, request, kept): key for key, request in requests.items()}
            try:
                for done, future in enumerate(as_completed(asked), start=1):
                    answer, reason = future.result()
                    answers[asked[future]] = answer
                    unanswered += not answer
                    if not answer and unanswered > UNREADABLE_LIMIT * questions:
                        max_tokens = requests[asked[future]]["max_tokens"]
                        raise UserError(self._no_answers(f"{unanswered} of {questions}", reason, max_tokens))
                    if done % max(1, len(asked) // 20) == 0:
                        self._progress(f"{done}/{len(asked)} answers, {self._spent()}")
            except BaseException:
                # What is on its way is paid for, so it is waited for and kept; nothing more is asked.
                pool.shutdown(cancel_futures=True)
                raise
        return answers

    def _ask(
        self, client: openai.OpenAI, key: str, request: dict[str, Any], kept: _AnswerFile
    ) -> tuple[str, str | None]:
        """An answer, and why it ended there; empty where there is none after a few tries."""
        reason: str | None = None
        for _ in range(1 + min(_ASKED_AGAIN, self._settings.retries)):
            completion = self._complete(client, request)
            choice = completion.choices[0]
            answer = well_formed(without_reasoning(choice.message.content or "") or choice.message.refusal or "")
            reason = choice.finish_reason
            with self._lock:
                if completion.usage is not None:
                    self.usage.prompt_tokens += completion.usage.prompt_tokens
                    self.usage.answer_tokens += completion.usage.completion_tokens
                if answer:
                    kept.keep(key, self.endpoint.model, answer)
                    self.usage.asked += 1
                    return answer, reason
            if reason == "content_filter":
                break
        with self._lock:
            self.usage.unanswered += 1
        return "", reason

    def _complete(self, client: openai.OpenAI, request: dict[str, Any]) -> ChatCompletion:
        from openai import OpenAIError
        from openai.types.chat import ChatCompletion

        self._wait_for_turn()
        failure = ""
        try:
            completion = self._send(client, request)
        except OpenAIError as error:
            failure = self._failure(error)
        except ValueError:
            # Said to be JSON, and is none; the client lets it through.
            completion = None
        if failure:
            # Not where the error is caught: it holds the request with the key in it, and would be shown as the cause.
            raise UserError(failure)
        # The client hands on whatever came with status 200, be it a web page.
        if (
            not isinstance(completion, ChatCompletion)
            or not completion.choices
            or getattr(completion.choices[0], "message", None) is None
        ):
            raise UserError(
                f"{self.endpoint.shown_url} answers with something other than a chat completion: check that {URL} is "
                "the address of an OpenAI-compatible endpoint (it often ends in /v1)."
            )
        return completion

    def _send(self, client: openai.OpenAI, request: dict[str, Any]) -> object:
        """The reply to a request in the form that the model takes, which is found out once."""
        from openai import APIStatusError

        while True:
            refused = self._refused
            try:
                return client.chat.completions.create(**self._sent(request, refused))
            except APIStatusError as error:
                said = str(error.body)
                new = {name for name in _REFUSABLE if name in said} - refused
                if error.status_code not in (400, 422) or not new:
                    raise
            with self._lock:
                self._refused |= new

    def _sent(self, request: dict[str, Any], refused: frozenset[str]) -> dict[str, Any]:
        sent = request | {"max_tokens": request["max_tokens"] + self._settings.reasoning_tokens}
        if "max_tokens" in refused:
            sent["max_completion_tokens"] = sent.pop("max_tokens")
        if "temperature" in refused:
            del sent["temperature"]
        return sent

    def _no_answers(self, how_many: str, reason: str | None, max_tokens: int) -> str:
        where, model = self.endpoint.shown_url, self.endpoint.model
        kept = f"the {self.usage.asked} answers that came before are kept"
        if reason == "length":
            budget = self._settings.reasoning_tokens
            return (
                f"{model} at {where} used up the {max_tokens + budget} tokens it may write before it came to an "
                f"answer, with {how_many} questions: set {REASONING_TOKENS} (now {budget}) to what it needs to reason, "
                f"such as {max(4096, 4 * budget)}, or choose a model that does not reason; {kept}."
            )
        return (
            f"{model} at {where} gave no answer to {how_many} questions (finish reason: {reason}): choose another "
            f"model; {kept}."
        )

    def _wait_for_turn(self) -> None:
        if self._settings.requests_per_minute is None:
            return
        with self._lock:
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + 60 / self._settings.requests_per_minute
        time.sleep(max(0.0, start - time.monotonic()))

    def _failure(self, error: openai.OpenAIError) -> str:
        """What went wrong and what to do about it. What the server says is shown where nothing else tells the reason,
        and without the key, which some servers repeat."""
        import openai

        where, model = self.endpoint.shown_url, self.endpoint.model
        kept = f"the {self.usage.asked} answers that came before are kept"
        tries = self._settings.retries + 1
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            if status == 401:
                return f"{where} refuses the key in {KEY} (HTTP 401): set it to a valid key; {kept}."
            if status == 403:
                return f"The key in {KEY} may not use {model} at {where} (HTTP 403): choose another model; {kept}."
            if status == 404:
                return f"{where} knows no model {model} (HTTP 404): correct the model's name or {URL}; {kept}."
            if status == 429 and error.code == "insufficient_quota":
                return f"The credit of the key in {KEY} is used up: top it up and run again; {kept}."
            if status == 429:
                return (
                    f"{where} is rate-limiting requests (HTTP 429), {tries} times in a row or for more than "
                    f"two minutes: lower parallel or requests_per_minute and run again; {kept}."
                )
            if status >= 500:
                return f"{where} failed {tries} times in a row (HTTP {status}): run again later; {kept}."
            said = str(error.body.get("message") if isinstance(error.body, dict) else error.body)
            said = one_line(said).replace(self.endpoint.key, "***")[:200]
            return f"{where} refuses the request to {model} (HTTP {status}: {said}): choose another model; {kept}."
        if isinstance(error, openai.APITimeoutError):
            return (
                f"{where} gave no answer within {self._settings.timeout:g} seconds, {tries} times in a row: raise "
                f"timeout, or run again later; {kept}."
            )
        if isinstance(error, openai.APIConnectionError):
            return f"{where} could not be reached, {tries} times in a row: check {URL} and the network; {kept}."
        return f"{where} gave an answer that the client cannot read ({type(error).__name__}): check {URL}; {kept}."

    def _spent(self) -> str:
        facts = self.facts()
        cost = f", cost {facts['cost']:.2f}" if "cost" in facts else ""
        return f"{self.usage.prompt_tokens + self.usage.answer_tokens} tokens{cost}"


class _AnswerFile:
    """Answers by the hash of their request. An answer is kept whole or not at all, whenever the process ends."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(file, timeout=60, check_same_thread=False)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, model TEXT NOT NULL, "
                "answer TEXT NOT NULL) WITHOUT ROWID"
            )
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"The judges' answers in {file} cannot be used ({error}): mend the file, or move it away and have the "
                "questions asked again."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def find(self, request: str) -> str | None:
        row = self._connection.execute("SELECT answer FROM answers WHERE request = ?", (request,)).fetchone()
        # One of nothing but reasoning was kept before such were told apart.
        return None if row is None or not without_reasoning(row[0]) else str(row[0])

    def keep(self, request: str, model: str, answer: str) -> None:
        with self._connection:
            self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (request, model, answer))


def without_reasoning(text: str) -> str:
    """What an answer says after the reasoning in it, without white space around it; nothing where the reasoning does
    not end."""
    return _THOUGHT_BEGIN.sub("", _THOUGHT_END.sub("", _THOUGHT.sub("", text))).strip()


def one_line(text: str) -> str:
    return " ".join(text.split())
