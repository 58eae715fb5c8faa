"""How requests are dealt over servers, with small HTTP servers that answer as they are told."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from answering import Answering, serving

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines import vllm_fleet
from lightning_rlhf.rollout.engines.vllm_fleet import Fleet, LostServerError


def fleet_of(servers: list[Answering], **settings: Any) -> Fleet:
    defaults: dict[str, Any] = {"max_connections": 2, "timeout": 20.0, "on_lost": "stop", "wait_seconds": 20.0}
    return Fleet([server.url for server in servers], **(defaults | settings))


def echo(path: str, body: Any) -> tuple[int, Any]:
    return 200, body


BODIES = [{"number": number} for number in range(20)]


def test_each_request_is_answered_once_by_one_of_the_servers() -> None:
    with serving(echo, echo) as servers:
        answers = dict(fleet_of(servers).answers(BODIES))
        assert answers == dict(enumerate(BODIES))
        shares = [len(server.seen) for server in servers]
    assert sum(shares) == 20
    assert min(shares) > 0


def test_a_few_requests_are_dealt_to_all_servers() -> None:
    with serving(echo, echo, echo) as servers:
        assert len(list(fleet_of(servers, max_connections=8).answers(BODIES[:3]))) == 3
        assert [len(server.seen) for server in servers] == [1, 1, 1]


def test_a_run_waits_for_a_lost_server_even_if_others_have_answered_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_fleet, "_PAUSE", 0.2)

    def lost_at_work(path: str, body: Any) -> tuple[int, Any]:
        if path != "/health":
            raise ConnectionError
        return 200, body

    given = []

    async def give(client: Any, url: str) -> None:
        given.append(url)

    with serving(echo, lost_at_work) as servers:
        fleet = fleet_of(servers, on_lost="wait")
        fleet.came_back = give
        assert dict(fleet.answers(BODIES[:2])) == dict(enumerate(BODIES[:2]))
        assert given == [servers[1].url]


def test_tasks_without_a_request_sleep_until_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    polling, sleep = set(), asyncio.sleep

    async def noted(seconds: float) -> None:
        polling.add(asyncio.current_task())
        await sleep(seconds)

    def last_is_slow(path: str, body: Any) -> tuple[int, Any]:
        time.sleep(0.3 if body["number"] == 7 else 0.0)
        return 200, body

    monkeypatch.setattr(asyncio, "sleep", noted)
    with serving(last_is_slow) as servers:
        assert len(list(fleet_of(servers, max_connections=8).answers(BODIES[:8]))) == 8
    # The task that looks whether the caller wants more.
    assert len(polling) <= 1


def test_no_request_gives_no_answer() -> None:
    with serving(echo) as servers:
        assert list(fleet_of(servers).answers([])) == []


def test_connections_are_bounded() -> None:
    open_now, most, lock, three = [0], [0], threading.Lock(), threading.Barrier(3, timeout=20.0)

    def slow(path: str, body: Any) -> tuple[int, Any]:
        with lock:
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
        # No request is answered before three are open, and a fourth has time to arrive.
        three.wait()
        time.sleep(0.02)
        with lock:
            open_now[0] -= 1
        return 200, body

    with serving(slow) as servers:
        assert len(list(fleet_of(servers, max_connections=3).answers(BODIES[:18]))) == 18
    assert most[0] == 3


def test_a_lost_server_stops_the_run_with_its_address() -> None:
    def broken(path: str, body: Any) -> tuple[int, Any]:
        raise ConnectionError

    with serving(echo, broken) as servers, pytest.raises(LostServerError, match=f"{servers[1].url} does not answer"):
        list(fleet_of(servers).answers(BODIES))


def test_a_server_that_comes_back_gets_the_weights_once_and_what_it_missed_is_answered() -> None:
    lost = {"now": True}

    def away_for_a_while(path: str, body: Any) -> tuple[int, Any]:
        if path == "/health":
            lost["now"] = False
        if lost["now"]:
            raise ConnectionError
        return 200, body

    given, proven = [], []

    async def give(client: Any, url: str) -> None:
        given.append(url)

    async def prove(client: Any, url: str) -> None:
        assert given
        proven.append(url)

    with serving(away_for_a_while) as servers:
        fleet = fleet_of(servers, on_lost="wait", max_connections=8)
        fleet.came_back, fleet.prove = give, prove
        assert dict(fleet.answers(BODIES)) == dict(enumerate(BODIES))
        assert given == proven == [servers[0].url]


@pytest.mark.parametrize("broken", ["/inference/v1/generate", "/pause"])
def test_a_healthy_server_that_loses_other_requests_is_not_waited_for_longer_than_configured(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_fleet, "_PAUSE", 0.05)
    up = {"now": False}

    def loses(path: str, body: Any) -> tuple[int, Any]:
        if path == "/health":
            up["now"] = True
        if path == broken or not up["now"]:
            raise ConnectionError
        return 200, body

    with serving(loses) as servers:
        fleet = fleet_of(servers, on_lost="wait", wait_seconds=1.0, max_connections=1)

        async def give(client: Any, url: str) -> None:
            await fleet.call(client, url, "POST", "/pause")

        fleet.came_back = give
        for ask in (lambda: fleet.answers(BODIES[:1]), lambda: fleet.everywhere(asked(fleet))):
            up["now"] = False
            with pytest.raises(
                LostServerError, match=f"does not answer {broken} .*\nit has not come back within 1 sec"
            ):
                list(ask())
        # With the pause, a second has room for 20 attempts.
        assert len([path for path, _ in servers[0].seen if path == broken]) <= 2 * 21


def asked(fleet: Fleet) -> Callable[[Any, str], Awaitable[Any]]:
    async def ask(client: Any, url: str) -> Any:
        return await fleet.call(client, url, "POST", "/inference/v1/generate", json={})

    return ask


def test_a_server_that_stays_away_is_not_waited_for_longer_than_configured() -> None:
    with serving(echo) as servers:
        fleet = fleet_of(servers, on_lost="wait", wait_seconds=0.1)
    with pytest.raises(LostServerError, match=r"has not come back within 0\.1 seconds"):
        list(fleet.answers(BODIES))


@pytest.mark.parametrize("on_lost", ["stop", "wait"])
def test_a_request_that_takes_too_long_on_a_healthy_server_is_an_error_about_the_limit(on_lost: str) -> None:
    def slow_at_work(path: str, body: Any) -> tuple[int, Any]:
        if path != "/health":
            time.sleep(2)
        return 200, body

    expected = r"rollout\.engine\.timeout=0\.5: .*/inference/v1/generate"
    with serving(slow_at_work) as servers, pytest.raises(UserError, match=expected) as caught:
        list(fleet_of(servers, timeout=0.5, on_lost=on_lost).answers(BODIES[:1]))
    assert not isinstance(caught.value, LostServerError)
    assert len([path for path, _ in servers[0].seen if path != "/health"]) == 1


def test_a_server_that_is_too_slow_in_everything_is_lost() -> None:
    def slow(path: str, body: Any) -> tuple[int, Any]:
        time.sleep(0.5)
        return 200, body

    with serving(slow) as servers, pytest.raises(LostServerError, match="Timeout"):
        list(fleet_of(servers, timeout=0.05).answers(BODIES))


@pytest.mark.parametrize("status", [403, 500])
def test_an_error_of_a_healthy_server_is_told_and_not_waited_for(status: int) -> None:
    def refuse(path: str, body: Any) -> tuple[int, Any]:
        return (200, None) if path == "/health" else (status, {"error": "not enabled"})

    with serving(refuse) as servers, pytest.raises(UserError, match=f"status {status}: .*not enabled") as caught:
        list(fleet_of(servers, on_lost="wait").answers(BODIES))
    assert not isinstance(caught.value, LostServerError)


def test_a_caller_that_stops_early_leaves_no_request_behind() -> None:
    go_on = threading.Event()

    def second_waits(path: str, body: Any) -> tuple[int, Any]:
        if body["number"]:
            go_on.wait(20)
        return 200, body

    with serving(second_waits) as servers:
        answers = fleet_of(servers).answers(BODIES)
        assert next(answers) == (0, BODIES[0])
        answers.close()
        go_on.set()
        assert not [thread for thread in threading.enumerate() if thread.name == "vllm-requests"]
        assert len(servers[0].seen) < 5


def test_a_cache_that_is_not_forgotten_is_an_error() -> None:
    for success in (True, False):

        def act(path: str, body: Any, success: bool = success) -> tuple[int, Any]:
            assert path == "/reset_prefix_cache"
            return 200, {"success": success}

        with serving(act) as servers:
            fleet = fleet_of(servers)
            if success:
                assert fleet.everywhere(fleet.forget_cache) == [None]
            else:
                with pytest.raises(UserError, match="keeps its cache"):
                    fleet.everywhere(fleet.forget_cache)
