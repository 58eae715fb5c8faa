"""Small HTTP servers that answer as a test tells them."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answering(ThreadingHTTPServer):
    """Answers each request by a function of its path and body, which may raise to cut the connection."""

    def __init__(self, act: Callable[[str, Any], tuple[int, Any]]) -> None:
        self.seen: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(None)

            def do_POST(self) -> None:
                self.answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null"))

            def answer(self, body: Any) -> None:
                outer.seen.append((self.path, body))
                try:
                    status, content = act(self.path, body)
                except ConnectionError:
                    self.close_connection = True
                    return
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Stays quiet."""

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(*acts: Callable[[str, Any], tuple[int, Any]]) -> Iterator[list[Answering]]:
    servers = [Answering(act) for act in acts]
    threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield servers
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


@contextmanager
def dripping(answer: bytes, slow_from: int) -> Iterator[str]:
    """Serves one answer, sixteen bytes a second from some byte on, and yields the address."""

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(answer[:slow_from])
            for byte in answer[slow_from:]:
                time.sleep(0.06)
                connection.sendall(bytes([byte]))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()
