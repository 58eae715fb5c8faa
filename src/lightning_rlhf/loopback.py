"""Requests to this machine itself: which addresses it has, and which names lead to them."""

import re

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NAMES = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)


def names_this_machine(host: str) -> bool:
    """Checks whether the `Host` of a request is this machine itself.

    A page elsewhere can make its own name lead here (DNS rebinding), but its requests still carry that name.

    Args:
        host: The header, such as `localhost:8000`.
    """
    return _NAMES.fullmatch(host) is not None
