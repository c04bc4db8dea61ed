"""An OpenAI-compatible endpoint on this machine that can misbehave in every way a real one does.

Belongs here: the server that several test files ask. Does not belong here: tests.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import serving

from subliminal_dagster.science.descriptions.categories import CATEGORIES, load_labelled

KEY = "sk-very-secret-0123456789"


@dataclass(frozen=True)
class Reply:
    """What the server does with a request: answers (`text` None: with no content), with another status, late, or not at
    all."""

    text: str | None = ""
    reasoning: str | None = None
    finish: str = "stop"
    refusal: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    seconds: float = 0
    drop: bool = False


@dataclass
class ChatEndpoint:
    """`reply(prompt, attempt)` says what becomes of the attempt (from 0) at a prompt. `attempts` counts the requests of
    each prompt, `answered` those that got an answer."""

    reply: Callable[[str, int], Reply]
    url: str = ""
    attempts: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


@contextmanager
def chat_endpoint(reply: Callable[[str, int], Reply], *, refuses: tuple[str, ...] = ()) -> Iterator[ChatEndpoint]:
    """A server on a free port of the loopback interface, for as long as the block lasts. A request with any of the
    parameters that it `refuses` gets HTTP 400 in OpenAI's words."""
    endpoint = ChatEndpoint(reply)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = request["messages"][-1]["content"]
            with lock:
                attempt = endpoint.attempts[prompt]
                endpoint.attempts[prompt] += 1
                endpoint.requests.append(request | {"path": self.path})
                endpoint.keys.add(self.headers["Authorization"])
            told = endpoint.reply(prompt, attempt)
            if refused := [name for name in refuses if name in request]:
                said = f"Unsupported parameter: '{refused[0]}' is not supported with this model."
                told = Reply(status=400, body={"error": {"message": said, "param": refused[0]}})
            time.sleep(told.seconds)
            if told.drop:
                self.close_connection = True
                return
            body = told.body
            if body is None:
                message = {"role": "assistant", "content": told.text, "refusal": told.refusal}
                if told.reasoning is not None:
                    message["reasoning_content"] = told.reasoning
                body = {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": request["model"],
                    "choices": [{"index": 0, "message": message, "finish_reason": told.finish}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102},
                }
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            try:
                self.send_response(told.status)
                for name, value in {"Content-Type": "application/json", **told.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                # The client gave up waiting.
                return
            if told.status == 200:
                with lock:
                    endpoint.answered[prompt] += 1

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as url:
        endpoint.url = f"{url}/v1"
        yield endpoint


def knows_the_labels(prompt: str, attempt: int) -> Reply:
    """The category given by hand where there is one, and for other descriptions one by their length; a line where a
    description is wanted."""
    if "Description: " not in prompt:
        return Reply("words that are much alike")
    description = prompt.rsplit("Description: ", 1)[1].removesuffix("\nCategory:")
    return Reply(_labels().get(description, CATEGORIES[len(description) % len(CATEGORIES)]))


@functools.cache
def _labels() -> dict[str, str]:
    labelled = load_labelled()
    return dict(zip(labelled["description"], labelled["category"], strict=True))
