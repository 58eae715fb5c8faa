"""Starts `lightning-rlhf label` as a user does, and a browser that looks at its page."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import address_of, started

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def write_pairs(path: Path, count: int) -> list[dict[str, str]]:
    """Writes a file of pairs whose chosen answers begin with "Good"."""
    pairs = [
        {"prompt": f"My kettle leaks, {n}.", "chosen": f"Good: tighten seal {n}.", "rejected": f"Bad: buy kettle {n}."}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return pairs


def rows(path: Path) -> list[Any]:
    """Reads a file of JSON lines; there may be none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Server:
    """A running command."""

    def __init__(self, folder: Path, *overrides: str, **environment: str) -> None:
        self.process = started(folder, "label", *overrides, **environment)
        self.url, self.said = address_of(self.process)

    def kill(self) -> None:
        """Ends the process as a power failure would."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> str:
        """Stops the server with Ctrl-C, and returns what it prints; there must be no errors."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        assert (self.process.returncode, err) == (0, ""), out + err
        return out


@contextmanager
def server(folder: Path, *overrides: str, **environment: str) -> Iterator[Server]:
    """Runs the command, and kills it at the end if it still runs."""
    started = Server(folder, *overrides, **environment)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


def post(url: str, path: str, **body: Any) -> Any:
    """Asks the server as the page does."""
    reply = httpx.post(url + path, json={"person": "ann", **body}, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


def browser_path(default: str) -> str:
    """Returns the browser of Playwright, or else one of the system; skips the test if there is none."""
    found = default if Path(default).exists() else next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip("there is no browser: apt-get install chromium, or playwright install chromium")
    return found
