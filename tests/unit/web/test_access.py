"""Who may use a page."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lightning_rlhf.errors import UserError
from lightning_rlhf.web.access import check_access, protect


def client(host: str = "127.0.0.1", password: str | None = None, base: str = "http://127.0.0.1:8000") -> TestClient:
    app = FastAPI()
    protect(app, "cookie", host, password, public=("/",))

    @app.get("/")
    def page() -> str:
        return "page"

    @app.post("/secret")
    def secret() -> str:
        return "secret"

    return TestClient(app, base_url=base)


def test_on_this_machine_alone_no_password_is_needed() -> None:
    assert client().post("/secret").json() == "secret"


def test_other_machines_get_in_with_a_password_only() -> None:
    for host in ("0.0.0.0", "192.168.1.5", "::"):
        with pytest.raises(UserError, match=f"host={host}: other machines could use the page without a password"):
            check_access(host, None)
        check_access(host, "open sesame")
    check_access("localhost", None)
    with pytest.raises(UserError, match="password is empty"):
        check_access("127.0.0.1", "")


def test_a_password_keeps_everything_but_the_page_itself() -> None:
    team = client("0.0.0.0", "open sesame", "http://team:8000")
    assert team.get("/").status_code == 200
    reply = team.post("/secret")
    assert (reply.status_code, reply.json()) == (401, {"detail": "the page needs its password"})
    assert team.post("/login", json={"password": "open sesam"}).status_code == 401
    assert team.post("/secret").status_code == 401
    assert team.post("/login", json={"password": "open sesame"}).status_code == 200
    assert team.post("/secret").json() == "secret"


def test_passwords_are_tried_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    app, sleep, waiting, most = client("0.0.0.0", "open sesame").app, asyncio.sleep, 0, 0

    async def shorter(_: float) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await sleep(0.01)
        waiting -= 1

    async def attack(tries: int) -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://team") as attacker:
            replies = [attacker.post("/login", json={"password": str(number)}) for number in range(tries)]
            return [reply.status_code for reply in await asyncio.gather(*replies)]

    monkeypatch.setattr("lightning_rlhf.web.access.asyncio.sleep", shorter)
    assert asyncio.run(attack(5)) == [401] * 5
    assert most == 1


def test_a_cookie_outlives_the_server_but_not_its_password() -> None:
    first = client("0.0.0.0", "one", "http://team:8000")
    first.post("/login", json={"password": "one"})
    for password, status in (("one", 200), ("two", 401)):
        again = client("0.0.0.0", password, "http://team:8000")
        again.cookies = first.cookies
        assert again.post("/secret").status_code == status
    forged = client("0.0.0.0", "one", "http://team:8000")
    for value in (b"cookie=", b"cookie=" + "é".encode() * 32, b"cookie=" + b"0" * 64):
        assert forged.post("/secret", headers={b"Cookie": value}).status_code == 401


def test_a_script_cannot_read_the_cookie_and_no_other_page_sends_it() -> None:
    cookie = client("0.0.0.0", "one", "http://team:8000").post("/login", json={"password": "one"}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "one" not in cookie.partition("=")[2].partition(";")[0]


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Origin": "https://elsewhere.example"}, "Origin: https://elsewhere.example"),
        ({"Origin": "null"}, "Origin: null"),
        ({"Host": "elsewhere.example"}, "Host: elsewhere.example"),
        ({"Host": "[::1"}, "Host: [::1"),
    ],
)
def test_a_page_of_somebody_else_may_not_use_this_one(headers: Any, words: str) -> None:
    reply = client().post("/secret", headers=headers)
    assert reply.status_code == 403
    assert words in reply.json()["detail"]
    assert client().post("/secret", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200


@pytest.mark.parametrize("host", ["localhost:8000", "LOCALHOST", "[::1]:8000", "127.0.0.1"])
def test_this_machine_has_several_names(host: str) -> None:
    assert client().post("/secret", headers={"Host": host}).status_code == 200


def test_every_answer_forbids_scripts_and_connections_of_others() -> None:
    team = client("0.0.0.0", "one", "http://team:8000")
    for reply in (team.get("/"), team.post("/secret"), team.get("/nothing")):
        policy = reply.headers["Content-Security-Policy"].split("; ")
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert not any("unsafe" in part or "http" in part or "*" in part for part in policy)
