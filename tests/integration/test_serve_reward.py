"""`lightning-rlhf serve-reward` in a separate process, asked by the client that PPO uses."""

import re
import shlex
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from omegaconf import OmegaConf
from support import cold_command, serving

from lightning_rlhf import HTTPReward, ModelSource, Renderer, TextReward, load_causal_lm, load_scalar_model
from lightning_rlhf.data.batches import PromptBatch, pad
from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.rewards.build import as_reward
from lightning_rlhf.rollout.drawing import to_answers

DOC = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()


@pytest.fixture(scope="module")
def source() -> ModelSource:
    config: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[2] / "conf" / "model" / "tiny.yaml"))
    # With large weights, other tokens give a very different score.
    net = {**config["config"], "initializer_range": 0.4}
    return replace(ModelSource(config=net, tokenizer=config["config_tokenizer"]), seed=1)


@pytest.fixture(scope="module")
def net(source: ModelSource) -> ScalarModel:
    torch.manual_seed(1)
    return load_scalar_model(source, "normal").eval()


@pytest.fixture(scope="module")
def folder(source: ModelSource, net: ScalarModel, renderer: Renderer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(net, renderer, tmp_path_factory.mktemp("reward") / "model", {})


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Starts a server as a user would on a free port, yields its address, and checks how it ends."""
    empty = tmp_path_factory.mktemp("empty")
    with serving(empty, "serve-reward", f"model_dir={folder}", "port=0", "batch_size=2") as address:
        yield address
    assert not list(empty.iterdir())


@torch.no_grad()
def test_the_scores_of_the_server_are_those_of_the_net_on_the_ids(
    url: str, net: ScalarModel, renderer: Renderer
) -> None:
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Go away"}]
    rows = [
        ([{"role": "user", "content": "My kettle leaks."}], "I am sorry to hear that. Tighten the seal.", True),
        ([{"role": "user", "content": "My door is stuck."}], "To help the ke", False),
        ([*earlier, {"role": "user", "content": "What now?"}], "Wait.", True),
        ([{"role": "user", "content": "Hello"}], "", True),
        ([{"role": "user", "content": "Hello"}], "Hello", True),
    ]
    stop = renderer.tokenizer.eos_token_id
    prompts, mask = pad([renderer.prompt(messages) for messages, *_ in rows], "left")
    texts = [renderer.tokenizer.encode(text) for _, text, _ in rows]
    ids, response_mask = pad([[*row, *[stop] * end] for row, (*_, end) in zip(texts, rows, strict=True)])
    sequences = Sequences(torch.cat([prompts, ids], 1), torch.cat([mask, response_mask], 1), response_mask)
    columns = [{"messages": messages} for messages, *_ in rows]
    batch = PromptBatch(prompts, mask, [messages[-1]["content"] for messages, *_ in rows], columns, list(range(5)))
    answers = to_answers(sequences, batch, renderer)
    assert answers.responses == [text for _, text, _ in rows]
    by_server = as_reward(TextReward(HTTPReward(url, batch_size=4)), renderer)(answers).total
    by_ids = as_reward(net, renderer)(answers).total
    torch.testing.assert_close(by_server, by_ids, atol=1e-4, rtol=0)
    assert by_ids.unique().diff().min() > 0.01


def test_the_server_tells_what_it_serves(url: str, folder: Path) -> None:
    reply = httpx.get(url.replace("/score", "/health"))
    assert reply.json() == {"name": str(folder), "kind": "reward_model"}


def test_prompts_alone_are_conversations_of_one_turn_and_responses_are_finished(url: str) -> None:
    short = {"prompts": ["Hello"], "responses": ["Go away"]}
    long = {**short, "messages": [[{"role": "user", "content": "Hello"}]], "finished": [True]}
    scores = [httpx.post(url, json=body).json()["scores"] for body in (short, long, {**long, "finished": [False]})]
    assert scores[0] == pytest.approx(scores[1])
    assert scores[0] != pytest.approx(scores[2], abs=1e-2)
    assert httpx.post(url, json={"prompts": [], "responses": []}).json() == {"scores": []}


def test_the_curl_line_of_the_documentation_gets_a_score(url: str) -> None:
    (line,) = re.findall(r"^curl (?:.*\\\n)*.*", DOC, re.MULTILINE)
    words = shlex.split(line.replace("\\\n", " "))
    body, header = words[words.index("-d") + 1], words[words.index("-H") + 1]
    reply = httpx.post(url, content=body, headers=dict([header.split(": ")]))
    assert reply.status_code == 200, reply.text
    assert len(reply.json()["scores"]) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompts": ["a"]}, "Field required"),
        ({"prompts": ["a"], "responses": "b"}, "valid list"),
        ({"prompts": ["a"], "responses": ["b", "c"]}, "1 prompts for 2 responses"),
        ({"prompts": ["a"], "responses": ["b"], "finished": []}, "0 finished for 1 responses"),
        ({"prompts": ["a"], "responses": ["b"], "messages": [[]]}, "at least 1 item"),
        ({"prompts": ["a"], "responses": ["b"], "messages": [[{"role": "bot", "content": "c"}]]}, "'assistant'"),
        ({"prompts": ["kettle " * 600], "responses": ["b"]}, "which reads at most 512"),
    ],
)
def test_a_wrong_request_is_refused_in_words(body: Any, message: str, url: str) -> None:
    reply = httpx.post(url, json=body)
    assert reply.status_code == 422
    assert message in reply.text


def test_many_clients_at_once_get_their_own_scores(url: str) -> None:
    texts = [f"Tighten the seal {'today ' * n}" for n in range(8)]

    def ask(text: str) -> float:
        return HTTPReward(url)(["My kettle leaks."], [text])[0]

    one_by_one = [ask(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, texts * 4)) == pytest.approx(one_by_one * 4, abs=1e-5)


def refused(folder: Path, *overrides: str) -> str:
    """Returns the message of a command that ends with exit code 2."""
    done = cold_command(folder, *overrides, name="serve-reward")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert not list(folder.glob("outputs"))
    return done.stderr


def test_a_folder_that_is_no_trained_reward_model_is_one_message(source: ModelSource, tmp_path: Path) -> None:
    folder = export_model(load_causal_lm(source), Renderer(source.load_tokenizer()), tmp_path / "lm", {})
    assert refused(tmp_path, f"model_dir={folder}", "port=0") == (
        f"error: {folder} is not a trained reward model: it has no weights for score.weight\n"
    )


def test_a_port_in_use_is_one_message(folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(tmp_path, f"model_dir={folder}", f"port={port}")
    assert message.startswith(f"error: port={port}: cannot listen at host=127.0.0.1: ")
    assert message.count("\n") == 1


def test_what_is_missing_or_of_the_wrong_type_is_one_message(tmp_path: Path) -> None:
    assert refused(tmp_path) == "error: model_dir is not set: give it as model_dir=VALUE\n"
    assert refused(tmp_path, "model_dir=m", "port=web") == "error: port=web: expected a whole number\n"
    assert refused(tmp_path, "model_dir=m", "batch_size=0") == "error: batch_size=0: must be positive\n"
    assert "did you mean 'model_dir'?" in refused(tmp_path, "modeldir=m")


def test_a_body_that_is_too_large_is_refused_before_it_is_read(url: str) -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(2000):
            taken += 1
            yield b" " * 2**20

    # The server closes the connection, which a client may notice before it reads the answer.
    with suppress(httpx.TransportError):
        assert httpx.post(url, content=chunks()).status_code == 413
    assert 32 <= taken < 200
    with closing(socket.create_connection(httpx.URL(url).netloc.decode().split(":"), timeout=10)) as connection:
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1500000000\r\n\r\n{")
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert "33,554,432 bytes at most" in answer
    assert httpx.post(url, json={"prompts": ["Hello"], "responses": ["Wait."]}).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"prompts": ["a"], "responses": ["b"], "finished": [NaN]}', "finished.0: Input should be a valid boolean"),
        (b'{"prompts": ["\\ud800"], "responses": ["b"]}', "prompts.0: Input should be a valid string"),
        (b'{"prompts": ["a"], "responses": ["\\udc00"]}', "responses.0: Input should be a valid string"),
        (b'{"prompts": ["' + b"a" * 1_000_001 + b'"], "responses": ["b"]}', "should have at most 1000000 characters"),
    ],
)
def test_what_is_no_text_or_number_and_a_text_without_end_are_mistakes_of_the_client(
    body: bytes, message: str, url: str
) -> None:
    reply = httpx.post(url, content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, message in reply.json()["detail"]) == (422, True), reply.text[:500]


def test_deep_json_is_a_mistake_of_the_client(url: str) -> None:
    reply = httpx.post(url, content=b"[" * 100_000, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422)


def test_a_page_from_elsewhere_cannot_use_the_server(url: str) -> None:
    body = {"prompts": ["Hello"], "responses": ["Wait."]}
    for headers in ({"Host": "rebound.example:80"}, {"Origin": "http://elsewhere.example"}):
        reply = httpx.post(url, json=body, headers=headers)
        assert (reply.status_code, next(iter(headers.values())) in reply.text) == (403, True)
