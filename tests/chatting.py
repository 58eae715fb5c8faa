"""Starts `lightning-rlhf chat` with its page as a user does, and drives the page as a person would."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import environ


@contextmanager
def serving(folder: Path, *overrides: str) -> Iterator[str]:
    """Starts the command, yields the address of the page, and stops the command by Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_rlhf.cli", "chat", "chat.web=true", "chat.port=0", *overrides],
        cwd=folder,
        env=environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(r"chat at (http://127\.0\.0\.1:\d+);", line):
            break
    else:
        pytest.fail(process.communicate()[1])
    yield found[1]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "stopped\n", "")


@contextmanager
def opened(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page, and checks in the end that nothing failed in it."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page, problems = context.new_page(), []
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: problems.append(str(error)))
    # Tests provoke two such messages: a setting that the server refuses, and a request that does not arrive.
    expected = re.compile("status of 422|ERR_CONNECTION_REFUSED")
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
