"""Serves a page about runs that go on, and lets the browser load it again whenever they have written something new."""

import hashlib
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import unquote, urlsplit

from lightning_rlhf.errors import UserError
from lightning_rlhf.loopback import LOOPBACK, names_this_machine
from lightning_rlhf.stages import STAGES

_LOGS = ("result.json", "metrics.csv", "samples.jsonl", "plan.json", "config.yaml")
_TEXT = "text/plain; charset=utf-8"
_TYPES = {".html": "text/html; charset=utf-8"}


class Live:
    """A page that is made again only if something has changed."""

    def __init__(self, make: Callable[[str], str], stamp: Callable[[], str]) -> None:
        """Stores how to make the page.

        Args:
            make: Returns the page, which carries the stamp that it is given.
            stamp: Returns a text that is another one after each change.
        """
        self._make, self.stamp = make, stamp
        self._lock = Lock()
        self._made: tuple[str, str] | None = None

    def page(self) -> str:
        """Returns the page. Several browsers may ask at the same time."""
        with self._lock:
            # What is written while the page is made gives another stamp, so the browser will ask again.
            stamp = self.stamp()
            if self._made is None or self._made[0] != stamp:
                self._made = stamp, self._make(stamp)
            return self._made[1]


def stamp_of(runs: Sequence[Path]) -> str:
    """The times and sizes of the files that a page about runs is made from, as one text.

    Args:
        runs: The folders of the runs.
    """
    folders = [folder for run in runs for folder in (run, *(run / stage for stage in STAGES))]
    found = [path.stat() for folder in folders for name in _LOGS if (path := folder / name).is_file()]
    text = ";".join(f"{status.st_mtime_ns} {status.st_size}" for status in found)
    return hashlib.sha256(f"{len(runs)};{text}".encode()).hexdigest()[:16]


def followed(html: str, stamp: str, every: float) -> str:
    """A page whose script asks for news.

    Args:
        html: The page.
        stamp: The stamp of what it shows.
        every: Seconds between two questions.
    """
    return html.replace("<body>", f'<body data-stamp="{stamp}" data-every="{every:g}">', 1)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of a browser that has closed its connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def make_server(listener: socket.socket, live: Live, files: Callable[[], Mapping[str, Path]]) -> ThreadingHTTPServer:
    """Makes the server, which answers `/` with the page, `/stamp` with its stamp, and other paths with files.

    A server on a loopback address answers only requests that name such an address as their host. Otherwise a web page
    that the user visits could read from it by a name that leads here (DNS rebinding).

    Args:
        listener: A socket that listens. The server closes it.
        live: The page.
        files: Returns the files that may be read, by their path in the address.
    """
    host = listener.getsockname()[0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                self._get()
            except UserError as error:
                # The folder of a run may have been removed.
                self._answer(404, _TEXT, str(error).encode())

        def _get(self) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            if host in LOOPBACK and not names_this_machine(self.headers.get("Host", "")):
                self._answer(403, _TEXT, b"")
            elif path == "":
                self._answer(200, _TYPES[".html"], live.page().encode("utf-8", "replace"))
            elif path == "stamp":
                self._answer(200, _TEXT, live.stamp().encode())
            elif (file := files().get(path)) is not None and file.is_file():
                self._answer(200, _TYPES.get(file.suffix, _TEXT), file.read_bytes())
            else:
                self._answer(404, _TEXT, b"There is no such file.")

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing, because a browser asks every few seconds."""

    server = _Server(listener.getsockname()[:2], Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    return server
