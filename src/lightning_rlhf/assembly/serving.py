"""Opens a port, and serves an application there until Ctrl-C."""

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

# A browser may keep a request open, and is not waited for longer.
_LAST_SECONDS = 5
# Further connections are answered with status 503. A run asks with one connection of each process.
_CONNECTIONS = 512


def listen(host: str, port: int) -> socket.socket:
    """Opens a port. A client that connects before the server runs waits for its answer.

    Raises:
        UserError: If the port is in use or not available.
    """
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port={port}: cannot listen at host={host}: {error}; choose another port or host") from error


def serve_app(app: "FastAPI", listener: socket.socket, about: str) -> None:
    """Serves an application until Ctrl-C. Requests that are being answered then have a few seconds to end.

    Args:
        app: The application.
        listener: A socket that listens.
        about: What is served, and where, for the terminal.
    """
    import uvicorn

    from lightning_rlhf.web.bodies import bounded

    settings = uvicorn.Config(
        bounded(app),
        log_config=None,
        log_level="warning",
        access_log=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    print(f"{about}; Ctrl-C stops the server", flush=True)
    # The server shuts down by itself, and then raises the KeyboardInterrupt again.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run([listener])
