"""A server that speaks OpenAI's protocol on this machine, and fails as a test tells it."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lightning_rlhf.chat_models.budget import Budget
from lightning_rlhf.chat_models.client import ChatClient, remote_client

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Fault:
    """What a server does instead of answering a request.

    Attributes:
        status: Status of the reply.
        body: Body of the reply.
        headers: Further headers.
        seconds: Seconds that pass before the reply begins.
        cut: Whether the connection is closed in the middle of the reply.
        content_type: Type of the body.
    """

    status: int = 200
    body: str = "{}"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cut: bool = False
    content_type: str = "application/json"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing about clients that were killed, or that have waited long enough."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class OpenAIServer:
    """Answers chats by a function of their messages.

    Attributes:
        say: Makes the text of a reply from the messages.
        finish_reason: Why replies end.
        faults: What happens to the next requests, one after the other; None answers a request.
        requests: The bodies of all requests.
        times: When each request came, in seconds.
        usage: Whether replies say how many tokens were used: one for each word.
    """

    def __init__(self, say: Callable[[Messages], str] = lambda messages: "Good.") -> None:
        self.say, self.finish_reason, self.usage = say, "stop", True
        self.faults: list[Fault | None] = []
        self.requests: list[Any] = []
        self.times: list[float] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append(body)
                    outer.times.append(time.monotonic())
                    fault = outer.faults.pop(0) if outer.faults else None
                if fault is not None:
                    time.sleep(fault.seconds)
                    self.send(fault)
                elif body.get("stream"):
                    self.stream(body)
                else:
                    self.send(Fault(body=json.dumps(outer.completion(body))))

            def send(self, what: Fault) -> None:
                data = what.body.encode()
                self.send_response(what.status)
                for name, value in what.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", what.content_type)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if what.cut else data)
                self.close_connection = self.close_connection or what.cut

            def stream(self, body: Any) -> None:
                text = "".join(outer.events(body))
                self.send(Fault(body=text, content_type="text/event-stream"))

            def log_message(self, *_: Any) -> None:
                """Suppresses the log."""

        self.http = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def completion(self, body: Any) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        text = self.say(body["messages"])
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": self.finish_reason}]
        return {**self._head(body, "chat.completion"), "choices": choices, **self._used(body, text)}

    def events(self, body: Any) -> Iterator[str]:
        """The events of a reply that streams, one for each word."""
        text = self.say(body["messages"])
        head = self._head(body, "chat.completion.chunk")
        for word in text.split(" "):
            yield _event({**head, "choices": [_delta({"role": "assistant", "content": f"{word} "}, None)]})
        yield _event({**head, "choices": [_delta({}, self.finish_reason)]})
        if body.get("stream_options", {}).get("include_usage"):
            yield _event({**head, "choices": [], **self._used(body, text)})
        yield "data: [DONE]\n\n"

    def _head(self, body: Any, kind: str) -> dict[str, Any]:
        return {"id": "1", "object": kind, "created": 0, "model": body["model"]}

    def _used(self, body: Any, text: str) -> dict[str, Any]:
        read = sum(len(message["content"].split()) for message in body["messages"])
        wrote = len(text.split())
        counts = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
        return {"usage": counts} if self.usage else {}


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _delta(delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


@contextmanager
def serving(say: Callable[[Messages], str] = lambda messages: "Good.") -> Iterator[OpenAIServer]:
    """Runs a server on a free port."""
    server = OpenAIServer(say)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """Starts a server on a free port."""
    with serving() as server:
        yield server


@pytest.fixture
def make_client(server: OpenAIServer) -> Callable[..., ChatClient]:
    """Makes clients of the server that hardly wait before they ask again."""

    def make(budget: Budget | None = None, backoff: float = 0.01, **settings: Any) -> ChatClient:
        own = {"api_key": "none", **settings.pop("settings", {})}
        made = remote_client("openai:some-model", base_url=server.url, settings=own, **settings)
        return replace(made, backoff=backoff, budget=budget or made.budget)

    return make
