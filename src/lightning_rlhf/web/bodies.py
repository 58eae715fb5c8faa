"""Bounds what a request may send, before anything of it is read into memory."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 32 * 2**20
"""Bytes of a request: hundreds of conversations as long as a model can read."""
# Otherwise the server would read the rest of the body, to keep the connection.
_CLOSE = {"Connection": "close"}


def bounded(app: App, most: int = MOST_BYTES) -> App:
    """Wraps an ASGI application so that it refuses requests whose body is too large, with status 413.

    A body that says its length is refused before it is read, and one that is sent in chunks when they are too many.

    Args:
        app: The application.
        most: The largest body, in bytes.
    """
    detail = f"the body of a request may have {most:,} bytes at most: send fewer or shorter texts at a time"

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        refused = JSONResponse({"detail": detail}, 413, _CLOSE)
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > most:
            await refused(scope, receive, send)
            return
        received = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            # The application ends as if the client had left, and what it answers to that is not sent.
            return message if received <= most else {"type": "http.disconnect"}

        async def sent(message: MutableMapping[str, Any]) -> None:
            if received <= most:
                await send(message)

        await app(scope, counted, sent)
        if received > most:
            await refused(scope, receive, send)

    return within
