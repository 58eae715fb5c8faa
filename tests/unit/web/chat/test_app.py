"""The interface of the chat page, through a real server, with a model that answers from a script."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from lightning_rlhf.assembly.serving import listen
from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.speaker import Reply
from lightning_rlhf.web.chat.app import make_app
from lightning_rlhf.web.chat.feedback import Feedback

HELLO = [{"role": "user", "content": "hello"}]


class Scripted:
    """A model that says its words one after the other, and waits before each word until it may go on."""

    def __init__(self, name: str, words: str) -> None:
        self.name, self.words = name, words.split(" ")
        self.heard: list[Any] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.closed = threading.Event()
        self.drawn = 0

    def stream(self, messages: Sequence[Any], sampling: Sampling, key: Any) -> Iterator[Reply]:
        self.heard.append((list(messages), sampling, key))
        if messages[-1]["content"] == "no":
            raise UserError("the template refuses")
        try:
            for count in range(1, len(self.words) + 1):
                assert self.may_go_on.wait(10)
                self.drawn = count
                yield Reply(" ".join(self.words[:count]), count, "stop" if count == len(self.words) else None)
        finally:
            self.closed.set()


@pytest.fixture
def speakers() -> list[Scripted]:
    return [Scripted("first", "one two **three**"), Scripted("second", "<script>alert(1)</script> x")]


@pytest.fixture
def serve(speakers: list[Scripted], tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Serves the page on a free port."""
    ended: list[Callable[[], None]] = []

    def start(**settings: Any) -> str:
        feedback, listener = Feedback(tmp_path), listen("127.0.0.1", 0)
        app = make_app(speakers, Sampling(max_new_tokens=9), feedback, **settings)  # type: ignore[arg-type]
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()

        def end() -> None:
            for speaker in speakers:
                speaker.may_go_on.set()
            server.should_exit = True
            thread.join()
            feedback.close()

        ended.append(end)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for end in ended:
        end()


def question(model: int = 0, messages: Any = None, **settings: Any) -> dict[str, Any]:
    return {"model": model, "messages": messages or HELLO, "temperature": 1, "top_p": 1, "max_new_tokens": 9} | settings


def lines(reply: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in reply.text.splitlines()]


def test_an_answer_arrives_in_pieces_that_make_up_its_text(serve: Callable[..., str], speakers: list[Scripted]) -> None:
    url = serve(seed=3)
    found = lines(httpx.post(f"{url}/answer", json=question(temperature=0.5, top_p=0.9, max_new_tokens=4)))
    assert "".join(line["add"] for line in found) == "one two **three**"
    assert [line["tokens"] for line in found] == [1, 2, 3]
    assert [line["end"] for line in found] == [None, None, "stop"]
    messages, sampling, _ = speakers[0].heard[0]
    assert messages == HELLO
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.5, 0.9, 4)
    httpx.post(f"{url}/answer", json=question())
    keys = [key for *_, key in speakers[0].heard]
    assert len(set(keys)) == 2
    assert {key.seed for key in keys} == {3}


def test_the_first_piece_arrives_before_the_last_is_drawn(serve: Callable[..., str], speakers: list[Scripted]) -> None:
    url, speaker = serve(), speakers[0]
    speaker.words = ["word"] * 2000
    with httpx.stream("POST", f"{url}/answer", json=question()) as reply:
        pieces = reply.iter_lines()
        assert json.loads(next(pieces))["add"] == "word"
        assert speaker.drawn < 2000


def test_a_page_that_stops_reading_stops_the_model(serve: Callable[..., str], speakers: list[Scripted]) -> None:
    url, speaker = serve(), speakers[0]
    speaker.words = ["word"] * 100_000
    with httpx.stream("POST", f"{url}/answer", json=question()) as reply:
        next(reply.iter_lines())
    assert speaker.closed.wait(10)
    assert speaker.drawn < 100_000
    # The model is free for the next answer.
    speaker.words = ["short"]
    assert lines(httpx.post(f"{url}/answer", json=question()))[-1]["end"] == "stop"


def test_two_models_answer_at_the_same_time(serve: Callable[..., str], speakers: list[Scripted]) -> None:
    url = serve()
    speakers[0].may_go_on.clear()
    first: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: first.append(httpx.post(f"{url}/answer", json=question(0), timeout=20)))
    thread.start()
    while not speakers[0].heard:
        time.sleep(0.01)
    # The second answers although the first is in the middle of an answer.
    assert lines(httpx.post(f"{url}/answer", json=question(1)))[-1]["end"] == "stop"
    speakers[0].may_go_on.set()
    thread.join()
    assert lines(first[0])[-1]["end"] == "stop"


def test_what_a_model_refuses_is_said_in_words(serve: Callable[..., str]) -> None:
    url = serve()
    refused = lines(httpx.post(f"{url}/answer", json=question(messages=[{"role": "user", "content": "no"}])))
    assert refused == [{"error": "the template refuses"}]
    for wrong, message in (
        ({"top_p": 0}, "top_p=0.0: must lie in (0, 1]"),
        ({"temperature": -1}, "temperature=-1.0: must not be negative"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: must be at least 1"),
        ({"model": 2}, "model=2: there are 2"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "Input should be"),
    ):
        reply = httpx.post(f"{url}/answer", json=question(**wrong))
        assert reply.status_code == 422
        assert message in reply.text


def test_answers_are_formatted_without_anything_that_acts(serve: Callable[..., str]) -> None:
    url = serve()

    def html(text: str) -> str:
        messages = [*HELLO, {"role": "assistant", "content": text}]
        return httpx.post(f"{url}/shown", json={"messages": messages, "finished": True}).json()["html"]

    assert "<strong>three</strong>" in html("one **three**")
    assert "<script" not in html("<script>alert(1)</script>")
    assert "&lt;script&gt;" in html("<script>alert(1)</script>")
    assert "<img" not in html("![x](http://example.com/x.png)")
    assert 'href="javascript' not in html("[x](javascript:alert(1))")


def test_the_score_is_that_of_the_answer_and_of_how_it_ended(serve: Callable[..., str]) -> None:
    url = serve(score=lambda messages, finished: len(messages) + 10 * finished)
    body = {"messages": [*HELLO, {"role": "assistant", "content": "hi"}], "finished": True}
    assert httpx.post(f"{url}/shown", json=body).json()["score"] == 12
    assert httpx.post(f"{url}/shown", json=body | {"finished": False}).json()["score"] == 2
    assert httpx.get(f"{url}/settings").json()["scored"] is True


def test_a_thumb_is_on_the_disk_when_the_page_hears_of_it(serve: Callable[..., str], tmp_path: Path) -> None:
    url = serve()
    for answer, up in (("good", True), ("bad", False)):
        reply = httpx.post(f"{url}/thumb", json={"messages": HELLO, "answer": answer, "up": up})
    assert reply.json() == {"preferences": 1, "ratings": 2}
    (row,) = (tmp_path / "preferences.jsonl").read_text().splitlines()
    assert json.loads(row)["chosen"][0]["content"] == "good"


def test_the_page_loads_nothing_from_elsewhere(serve: Callable[..., str]) -> None:
    url = serve()
    for path in ("/", "/page.js", "/chat.js", "/show.js", "/common.js", "/common.css", "/page.css", "/code.css"):
        reply = httpx.get(url + path)
        assert reply.status_code == 200
        # The name of SVG is no address that is loaded.
        assert "http://" not in reply.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in reply.text
        assert "default-src 'none'" in reply.headers["content-security-policy"]
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert httpx.get(url + path).status_code == 404


def test_pages_of_others_and_people_without_the_password_are_kept_out(serve: Callable[..., str]) -> None:
    url = serve(password="open sesame")
    assert httpx.get(f"{url}/settings").status_code == 401
    assert httpx.post(f"{url}/answer", json=question()).status_code == 401
    assert httpx.get(f"{url}/").status_code == 200
    with httpx.Client(base_url=url) as client:
        assert client.post("/login", json={"password": "wrong"}).status_code == 401
        assert client.post("/login", json={"password": "open sesame"}).status_code == 200
        assert client.get("/settings").json()["models"] == ["first", "second"]
        assert client.get("/settings", headers={"Origin": "http://evil.example"}).status_code == 403


def test_another_name_of_this_machine_is_refused(serve: Callable[..., str]) -> None:
    assert httpx.get(f"{serve()}/settings", headers={"Host": "evil.example"}).status_code == 403
