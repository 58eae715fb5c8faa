"""Drives the page of `lightning-rlhf chat` as a person would."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def opened(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page, and checks in the end that nothing failed in it."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page, problems = context.new_page(), []
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: problems.append(str(error)))
    # Tests provoke such messages: the server refuses a setting, or demands a password, or a request does not arrive.
    expected = re.compile("status of 422|status of 401|ERR_CONNECTION_REFUSED")
    page.on("console", lambda log: log.type == "error" and not expected.search(log.text) and problems.append(log.text))
    # Nothing may be loaded from elsewhere.
    page.on("request", lambda request: request.url.startswith(address) or problems.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert not problems


def say(page: Any, text: str) -> None:
    """Types a message and waits for the scores under both answers."""
    count = page.locator(".turn").count()
    page.fill("#text", text)
    page.press("#text", "Enter")
    page.locator(".turn").nth(count).locator(".score").nth(1).wait_for()


def bodies(page: Any, turn: int) -> list[str]:
    """The answers of a turn."""
    return page.locator(".turn").nth(turn).locator(".body").all_inner_texts()
