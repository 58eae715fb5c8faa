"""An actor's renderer, a reward model with a tokenizer of its own, answers to score, and a server."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.data.batches import pad
from lightning_rlhf.data.pairs import cut_at_end
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.experience import Answers, Sequences
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.scalar import ScalarModel, load_scalar_model
from lightning_rlhf.models.source import ModelSource

MakeAnswers = Callable[..., Answers]


@pytest.fixture(scope="session")
def source(make_source: Callable[..., ModelSource]) -> ModelSource:
    """A tiny model that reads the demo's tokens."""
    return make_source("llama", vocab_size=814, max_position_embeddings=128)


@pytest.fixture(scope="session")
def net(source: ModelSource) -> ScalarModel:
    """A reward model."""
    torch.manual_seed(1)
    return load_scalar_model(source, "normal").eval()


@pytest.fixture
def renderer(source: ModelSource) -> Renderer:
    """The renderer of the actor."""
    return Renderer(source.load_tokenizer())


@pytest.fixture(scope="session")
def exported(source: ModelSource, net: ScalarModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a reward model with the tokenizer and the template of the actor."""
    renderer = Renderer(source.load_tokenizer())
    return str(export_model(net, renderer, tmp_path_factory.mktemp("reward") / "model", {}))


@pytest.fixture(scope="session")
def foreign(source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a reward model that reads bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: number for number, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    config = {**(source.config or {}), "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(2)
    net = load_scalar_model(replace(source, config={**config, "max_position_embeddings": 512}), "normal")
    return str(export_model(net, Renderer(tokenizer), tmp_path_factory.mktemp("foreign") / "model", {}))


@pytest.fixture
def make_answers(renderer: Renderer) -> MakeAnswers:
    """Answers of the actor in the form in which PPO gives them; those of `cut` reached the length limit."""

    def make(rows: dict[str, str], cut: tuple[int, ...] = (), **columns: list[Any]) -> Answers:
        prompts, responses = [], []
        for row, (prompt, response) in enumerate(rows.items()):
            messages: list[Any] = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            ids, mask = cut_at_end(renderer.conversation(messages, loss_on="last"))
            start = mask.index(True)
            prompts.append(ids[:start])
            responses.append(ids[start : len(ids) - (row in cut)])
        (left, left_mask), (right, response_mask) = pad(prompts, "left"), pad(responses)
        sequences = Sequences(torch.cat([left, right], 1), torch.cat([left_mask, response_mask], 1), response_mask)
        others = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return Answers(
            sequences,
            list(rows),
            list(rows.values()),
            [
                {"messages": [{"role": "user", "content": prompt}], **other}
                for prompt, other in zip(rows, others or [{}] * len(rows), strict=True)
            ],
        )

    return make


class Server:
    """Answers POST requests by a function of their JSON, and records the requests."""

    def __init__(self) -> None:
        self.reply: Callable[[Any], tuple[int, Any]] = lambda body: (200, {})
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(body)
                server.headers.append(dict(self.headers))
                server.paths.append(self.path)
                status, reply = server.reply(body)
                data = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Suppresses the log."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    """Starts a real server on a free port."""
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.fixture
def serving() -> Iterator[Callable[..., str]]:
    """Serves a web application in a thread, and yields its address."""
    with ExitStack() as stack:

        def start(app: Any) -> str:
            web = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
            thread = threading.Thread(target=web.run)
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, web, "should_exit", True)
            while not web.started:
                time.sleep(0.01)
            return f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"

        yield start


@pytest.fixture
def folder_of_a_language_model(source: ModelSource, tmp_path: Path) -> str:
    """A model without a head for scores."""
    from lightning_rlhf.models.causal_lm import load_causal_lm

    return str(export_model(load_causal_lm(source), Renderer(source.load_tokenizer()), tmp_path / "lm", {}))
