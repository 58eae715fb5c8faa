"""The application of the page, asked over HTTP as the page asks."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from lightning_rlhf.web.label.app import make_app
from lightning_rlhf.web.label.items import Answer, Item
from lightning_rlhf.web.label.supply import Supply


@contextmanager
def serving(app: Any) -> Iterator[httpx.Client]:
    """Serves an application on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(make_desk: Any) -> Iterator[Callable[..., httpx.Client]]:
    open_pages = []

    def start(num_items: int = 3, supply: Supply | None = None, password: str | None = None, **settings: Any) -> Any:
        desk = make_desk(num_items, **settings)
        app = make_app(desk, supply or Supply(), host="127.0.0.1", password=password, default_person="ann")
        context = serving(app)
        open_pages.append(context)
        client = context.__enter__()
        client.desk = desk  # type: ignore[attr-defined]
        return client

    yield start
    for context in open_pages:
        context.__exit__(None, None, None)


def post(client: httpx.Client, path: str, status: int = 200, **body: Any) -> Any:
    reply = client.post(path, json={"person": "ann", **body})
    assert reply.status_code == status, reply.text
    return reply.json()


def asked(state: Any) -> dict[str, Any]:
    return {name: state["question"][name] for name in ("item", "round", "token")}


def test_a_choice_is_on_the_disk_before_the_page_knows(page: Any, out: Path) -> None:
    client = page()
    state = post(client, "/question")
    for number in range(3):
        assert state["state"] == "ask"
        state = post(client, "/answer", **asked(state), verdict="better", pick=0, strength=2, seconds=1.26)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert len(rows) == number + 1
        assert rows[-1]["strength"] == 2
        assert rows[-1]["label"]["seconds"] == 1.3
    assert (state["state"], state["question"], state["progress"]["done"]) == ("done", None, 3)


def test_the_page_is_not_told_who_wrote_an_answer(page: Any) -> None:
    text = json.dumps(post(page(count=4), "/question"))
    assert "answer 3 to 0" in text
    assert "model" not in text


def test_undo_brings_back_what_was_said(page: Any, out: Path) -> None:
    client = page()
    first = post(client, "/question")
    state = post(client, "/answer", **asked(first), verdict="tie", edited=" mine ", comment="hm")
    back = post(client, "/undo", choice=state["last"])
    assert asked(back) == asked(first)
    assert back["before"] == {"strength": None, "edited": "mine", "comment": "hm"}
    assert out.read_text() == out.with_suffix(".edited.jsonl").read_text() == ""
    # The page asks again if it does not know whether it was heard.
    assert asked(post(client, "/undo", choice=state["last"])) == asked(first)


def test_an_answer_that_arrives_twice_is_one_choice(page: Any, out: Path) -> None:
    client = page()
    question = asked(post(client, "/question"))
    states = [post(client, "/answer", **question, verdict="tie") for _ in range(2)]
    assert states[0]["question"] == states[1]["question"]
    assert len(out.read_text().splitlines()) == 1


def test_a_question_that_another_window_has_answered_is_told_so(page: Any, out: Path) -> None:
    client = page()
    question = asked(post(client, "/question"))
    post(client, "/answer", **question, verdict="tie")
    detail = post(client, "/answer", 409, **question, verdict="both_bad")["detail"]
    assert detail.startswith("You have answered this question in another window.")
    assert [json.loads(line)["verdict"] for line in out.read_text().splitlines()] == ["tie"]


def test_a_page_that_shows_something_else_is_told_so(page: Any, out: Path) -> None:
    client = page(8, count=4)
    state = post(client, "/question")
    # Somebody else sees the same answers in another order.
    bobs = client.desk.as_question("bob", state["question"]["item"], 0)
    assert bobs.texts != [answer["text"] for answer in state["question"]["answers"]]
    reply = post(client, "/answer", 409, person="bob", **asked(state), verdict="better", pick=0)
    assert reply["detail"].startswith("The question has changed, so nothing was saved.")
    assert not out.exists()
    assert post(client, "/answer", **asked(state), verdict="better", pick=0)["progress"]["done"] == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"verdict": "best"}, 422),
        ({"verdict": "better"}, 422),
        ({"verdict": "better", "pick": 2}, 422),
        ({"verdict": "better", "pick": -1}, 422),
        ({"verdict": "tie", "strength": 4}, 422),
        ({"verdict": "tie", "round": 2}, 422),
        ({"verdict": "tie", "person": "  "}, 422),
        ({"verdict": "tie", "person": "x" * 41}, 422),
        ({"verdict": "tie", "comment": "x" * 200_000}, 422),
        ({"verdict": "tie", "item": "item9"}, 404),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(page: Any, body: Any, status: int, out: Path) -> None:
    client = page()
    question = asked(post(client, "/question"))
    detail = post(client, "/answer", status, **(question | body))["detail"]
    # The page shows it.
    assert isinstance(detail, str)
    assert detail
    assert not out.exists()


def test_half_a_character_is_refused(page: Any, out: Path) -> None:
    body = '{"person": "ann", "item": "item0", "round": 0, "token": "x", "verdict": "tie", "comment": "\\ud800"}'
    reply = page().post("/answer", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 422
    assert not out.exists()


def test_a_disk_that_is_full_is_told_and_the_question_stays(
    page: Any, monkeypatch: pytest.MonkeyPatch, out: Path
) -> None:
    client = page()
    question = asked(post(client, "/question"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        detail = post(client, "/answer", 507, **question, verdict="tie")["detail"]
    assert detail == f"not saved: {out}: No space left on device"
    assert asked(post(client, "/question")) == question


def test_a_disk_that_is_full_is_told_and_nothing_is_undone(
    page: Any, monkeypatch: pytest.MonkeyPatch, out: Path
) -> None:
    client = page()
    state = post(client, "/answer", **asked(post(client, "/question")), verdict="tie")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = out.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        detail = post(client, "/undo", 507, choice=state["last"])["detail"]
    assert detail == f"not saved: {out}: No space left on device"
    assert out.read_bytes() == before
    assert post(client, "/question")["last"] == state["last"]


def test_whoever_waits_is_told_for_what(page: Any) -> None:
    supply = Supply("The model is writing.")
    client = page(0, supply)
    assert post(client, "/question")["state"] == "done"
    supply._remaining = lambda: 4
    state = post(client, "/question")
    assert (state["state"], state["message"]) == ("wait", "The model is writing.")
    supply.failure = "out of memory"
    state = post(client, "/question")
    assert (state["state"], state["message"]) == ("failed", "out of memory")


def test_html_of_a_sample_is_escaped_wherever_it_is_shown(page: Any) -> None:
    bad = "<img src=x onerror=alert(1)>"
    client = page(0)
    client.desk.add(Item("bad", [{"role": "user", "content": bad}], (Answer(bad, "a"), Answer(bad + "!", "b")), "p"))
    state = post(client, "/question")
    shown = [*state["question"]["prompt"], *state["question"]["answers"]]
    htmls = [one["html"] for one in shown] + post(client, "/differences", **asked(state))
    assert len(htmls) == 5
    assert all("<img" not in html and "&lt;img" in html for html in htmls)
    assert sorted(one["text"] for one in shown) == [bad, bad, bad + "!"]


def test_differences_are_those_of_the_answers_in_the_order_of_the_page(page: Any) -> None:
    client = page(count=3)
    state = post(client, "/question")
    marked = post(client, "/differences", **asked(state))
    texts = [answer["text"] for answer in state["question"]["answers"]]
    assert [html.replace("<mark>", "").replace("</mark>", "") for html in marked] == texts
    assert post(client, "/differences", 404, item="item9", round=0)["detail"].startswith("The server does not have")


def test_people_are_compared(page: Any) -> None:
    client = page(4, shared=1.0)
    for person, picks in (("ann", "0011"), ("bob", "0010")):
        state = post(client, "/question", person=person)
        for pick in picks:
            shown = client.desk.as_question(person, state["question"]["item"], 0).shown
            state = post(
                client,
                "/answer",
                person=person,
                **asked(state),
                verdict="better",
                pick=shown.index(int(pick)),
            )
    known = client.get("/people").json()
    assert [one["person"] for one in known["people"]] == ["ann", "bob"]
    # Observed 3/4; by chance 2/4 · 3/4 + 2/4 · 1/4 = 1/2.
    (agreement,) = known["agreements"]
    assert agreement == {"people": ["ann", "bob"], "shared": 4, "agreed": 3, "kappa": pytest.approx(0.5)}


def test_the_page_loads_nothing_from_elsewhere(page: Any) -> None:
    client = page()
    texts = [
        client.get(path).text
        for path in ("/", "/page.css", "/act.js", "/show.js", "/talk.js", "/common.js", "/common.css", "/code.css")
    ]
    assert all("http" not in text for text in texts)
    assert client.get("/settings").json()["person"] == "ann"
    # FastAPI's own documentation would load scripts of others.
    assert [client.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3


def test_no_path_leads_out_of_the_page(page: Any) -> None:
    client = page()
    for path in ("/?path=/etc/passwd", "/act.js?path=../app.py", "/..%2fapp.py", "/app.py"):
        assert "root:" not in (text := client.get(path).text)
        assert "make_app" not in text


def test_a_team_needs_its_password(page: Any, out: Path) -> None:
    client = page(password="open sesame")
    assert client.get("/").status_code == 200
    post(client, "/answer", 401, item="item0", round=0, token="x", verdict="tie")
    assert client.get("/people").status_code == client.get("/settings").status_code == 401
    assert not out.exists()
    assert client.post("/login", json={"password": "open sesame"}).status_code == 200
    assert post(client, "/question")["state"] == "ask"
