"""Scores from a real server on a free port."""

import math
import socket
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from answering import dripping

from lightning_rlhf import HTTPReward, TextReward
from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards import http


def lengths(body: Any) -> tuple[int, Any]:
    return 200, {"scores": [len(response) for response in body["responses"]]}


def ask(reward: HTTPReward, count: int = 5) -> list[float]:
    """Asks for scores of responses of 0, 1, 2… letters, as PPO does."""
    columns = [{"messages": [{"role": "user", "content": str(n)}], "finished": n > 0, "level": n} for n in range(count)]
    return TextReward(reward)([str(n) for n in range(count)], ["x" * n for n in range(count)], columns)


def test_responses_go_out_in_batches_and_scores_come_back_in_order(server: Any) -> None:
    server.reply = lengths
    assert ask(HTTPReward(f"{server.url}/score", batch_size=2)) == [0, 1, 2, 3, 4]
    assert server.paths == ["/score"] * 3
    assert server.requests[1] == {
        "prompts": ["2", "3"],
        "responses": ["xx", "xxx"],
        "messages": [[{"role": "user", "content": "2"}], [{"role": "user", "content": "3"}]],
        "finished": [True, True],
    }
    assert server.headers[0]["Content-Type"] == "application/json"
    assert "Authorization" not in server.headers[0]


def test_columns_and_a_token_are_sent_when_asked_for(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.reply = lengths
    monkeypatch.setenv("SCORE_TOKEN", "secret")
    ask(HTTPReward(server.url, columns=["level"], token_env="SCORE_TOKEN"), count=2)
    assert server.requests[0]["columns"] == {"level": [0, 1]}
    assert server.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_fails_for_a_while_is_asked_again(status: int, server: Any) -> None:
    server.reply = lambda body: lengths(body) if len(server.requests) > 2 else (status, "busy")
    assert ask(HTTPReward(server.url, retries=2, backoff=0.01)) == [0, 1, 2, 3, 4]
    assert len(server.requests) == 3


def test_a_server_that_goes_on_failing_is_an_error_with_what_it_said(server: Any) -> None:
    server.reply = lambda body: (500, "out of memory")
    with pytest.raises(UserError, match=rf"^url={server.url}: asked 2 times: status 500 .*: out of memory; look at"):
        ask(HTTPReward(server.url, retries=1, backoff=0.01))
    assert len(server.requests) == 2


def test_no_server_is_an_error_that_asks_whether_it_runs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/score"
    with pytest.raises(UserError, match=rf"^url={url}: asked 3 times: no answer .*; is the server running"):
        ask(HTTPReward(url, retries=2, backoff=0.01))


def test_a_server_that_is_too_slow_is_no_answer(server: Any) -> None:
    def late(body: Any) -> tuple[int, Any]:
        time.sleep(0.5)
        return lengths(body)

    server.reply = late
    with pytest.raises(UserError, match=r"asked 1 times: no answer \(timed out after 0.1 s\)"):
        ask(HTTPReward(server.url, retries=0, timeout=0.1))


WHOLE = b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"scores": [1.0]}'


@pytest.mark.parametrize("slow_from", [0, WHOLE.index(b"{")], ids=["head", "body"])
def test_a_server_that_sends_a_byte_now_and_then_does_not_hold_the_run(slow_from: int) -> None:
    """Each byte comes well within the time-out, and the whole answer, which would be right, comes after it."""
    error = pytest.raises(UserError, match=r"no answer \(timed out after 0.3 s\)")
    with dripping(WHOLE, slow_from) as url, error:
        ask(HTTPReward(url, retries=0, timeout=0.3), count=1)


def test_a_deadline_ends_the_repetitions(server: Any) -> None:
    server.reply = lambda body: (503, "busy")
    with pytest.raises(UserError, match=r"asked [12] times: .*\(deadline=0.3 s leaves no time for another attempt\)$"):
        ask(HTTPReward(server.url, retries=1000, backoff=0.1, deadline=0.3))
    # Pauses of 0.1 and 0.2 seconds come to the deadline.
    assert len(server.requests) <= 2


def test_an_answer_that_is_too_large_is_not_read_to_its_end(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_LARGEST_ANSWER", 2**20)
    server.reply = lambda body: (200, {"scores": [0.0] * 5, "more": "x" * 2**21})
    with pytest.raises(UserError, match=rf"^url={server.url}: the answer is larger than 1 MiB"):
        ask(HTTPReward(server.url))


@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_token_that_the_server_repeats_is_not_shown(
    status: int, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORE_TOKEN", "open-sesame")
    server.reply = lambda body: (status, f"you sent {server.headers[-1]['Authorization']}")
    with pytest.raises(UserError, match=r"you sent Bearer \*\*\*") as error:
        ask(HTTPReward(server.url, token_env="SCORE_TOKEN", retries=0))
    assert "sesame" not in str(error.value)


@pytest.mark.parametrize("token", ["öffne", "two\nlines", "\x1b[31m"])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORE_TOKEN", token)
    with pytest.raises(UserError, match="^token_env=SCORE_TOKEN: the token has characters that no header can carry$"):
        HTTPReward("http://host", token_env="SCORE_TOKEN")


def test_a_password_in_the_address_is_not_shown() -> None:
    reward = HTTPReward("http://me:hidden@127.0.0.1:1/score", retries=0)
    with pytest.raises(UserError, match=r"^url=http://\*\*\*@127.0.0.1:1/score: asked 1 times") as error:
        ask(reward)
    assert "hidden" not in f"{error.value} {reward!r} {TextReward(reward).name}"


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "set token_env"), (404, "right path, such as /score"), (422, "docs/rewards.md says what is sent")],
)
def test_a_refusal_is_not_repeated_and_tells_what_to_do(status: int, remedy: str, server: Any) -> None:
    server.reply = lambda body: (status, "no such thing")
    with pytest.raises(UserError, match=rf"status {status} .*: no such thing; .*{remedy}"):
        ask(HTTPReward(server.url, backoff=0.01))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("not json", "answered 'not json'; expected"),
        ({"score": [1.0]}, ".*; expected {.scores"),
        ({"scores": 1.0}, ".*; expected {.scores"),
        ({"scores": "11111"}, ".*; expected {.scores"),
        ({"scores": dict.fromkeys("12345", 0.5)}, ".*; expected {.scores"),
        ({"scores": ["good"]}, ".*; expected {.scores"),
        ({"scores": ["1", "2", "3", "4", "5"]}, ".*; expected {.scores"),
        ({"scores": [True, False, True, True, False]}, ".*; expected {.scores"),
        ({"scores": [1.0, 2.0, None, 4.0, 5.0]}, ".*; expected {.scores"),
        ({"scores": [[1.0], [2.0], [3.0], [4.0], [5.0]]}, ".*; expected {.scores"),
        ({"scores": [1.0, 2.0, 3.0, 4.0, math.nan]}, ".*; expected {.scores"),
        ({"scores": [1.0, 2.0, 3.0, 4.0, 1e39]}, ".*; expected {.scores"),
        ({"scores": [1, 2, 3, 4, 10**400]}, ".*; expected {.scores"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], ".*; expected {.scores"),
        ({"scores": [1.0, 2.0]}, "gave 2 scores for 5 responses"),
    ],
)
def test_an_answer_that_is_not_one_score_for_each_response_is_shown(reply: Any, message: str, server: Any) -> None:
    server.reply = lambda body: (200, reply)
    with pytest.raises(UserError, match=rf"^url={server.url}: {message}"):
        ask(HTTPReward(server.url))


@pytest.mark.parametrize("reply", ["[" * 100_000, f'{{"scores": [1, 2, 3, 4, {"9" * 5000}]}}'], ids=["deep", "long"])
def test_json_that_python_cannot_read_is_shown_in_part(reply: str, server: Any) -> None:
    server.reply = lambda body: (200, reply)
    with pytest.raises(UserError, match=rf"^url={server.url}: answered .*; expected") as error:
        ask(HTTPReward(server.url))
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HTTPReward("127.0.0.1:8000"), "url=127.0.0.1:8000: "),
        (lambda: HTTPReward("http://"), "url=http://: expected an address"),
        (lambda: HTTPReward("ftp://host/score"), "url=ftp://host/score: expected an address"),
        (lambda: HTTPReward("http://host", batch_size=0), "batch_size=0: must be positive"),
        (lambda: HTTPReward("http://host", retries=-1), "retries=-1: must be from 0 to 1000"),
        (lambda: HTTPReward("http://host", timeout=-1), "timeout=-1: must be from 0.001 to 604800"),
        (lambda: HTTPReward("http://host", timeout=math.nan), "timeout=nan: must be from"),
        (lambda: HTTPReward("http://host", timeout=10**400), "timeout=10000000.*: must be from"),
        (lambda: HTTPReward("http://host", backoff=-0.5), "backoff=-0.5: must be from 0"),
        (lambda: HTTPReward("http://host", deadline=0), "deadline=0: must be from"),
        (lambda: HTTPReward("http://host", token_env="NO_TOKEN_HERE"), "token_env=NO_TOKEN_HERE: there is no such"),
    ],
)
def test_wrong_settings_are_found_before_the_first_request(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        make()


def test_columns_that_are_not_there_or_not_json_are_named(server: Any) -> None:
    server.reply = lengths
    with pytest.raises(UserError, match="^columns: the data have no when; they have finished, level, messages$"):
        ask(HTTPReward(server.url, columns=["when"]))
    with pytest.raises(UserError, match="^columns=.'when'.: cannot be sent as JSON"):
        TextReward(HTTPReward(server.url, columns=["when"]))(["a"], ["b"], [{"when": date(2020, 1, 1)}])
    assert not server.requests
