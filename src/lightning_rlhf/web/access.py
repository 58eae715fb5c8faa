"""Who may use a page: this machine alone, or a team that knows a password.

Every answer of a page carries a Content-Security-Policy under which a browser loads nothing from elsewhere and runs no
script but those of the page.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Collection, Mapping

from fastapi import Body, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from lightning_rlhf.errors import UserError
from lightning_rlhf.loopback import LOOPBACK, names_this_machine

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_THIRTY_DAYS = 30 * 24 * 3600


def check_access(host: str, password: str | None) -> None:
    """Checks that a page that other machines can reach has a password.

    Raises:
        UserError: If it has none, or an empty one.
    """
    if password is not None and not password:
        raise UserError("password is empty: give one, or null for none")
    if password is None and host not in LOOPBACK:
        raise UserError(
            f"host={host}: other machines could use the page without a password: set password=${{oc.env:NAME}} and the "
            "environment variable NAME, or host=127.0.0.1"
        )


def refuse_foreign(app: FastAPI, host: str) -> None:
    """Refuses requests that a page of somebody else makes a browser send.

    Args:
        app: The application, which other programs may use without a password.
        host: The address at which it listens.
    """

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        refusal = _refusal(request.headers, local=host in LOOPBACK)
        return JSONResponse({"detail": refusal}, 403) if refusal else await call_next(request)


def protect(app: FastAPI, name: str, host: str, password: str | None, *, public: Collection[str]) -> None:
    """Lets only those in who may use the page, and adds `POST /login`.

    The cookie is a keyed digest, whose key is derived from the password: it outlives a server that is killed, and says
    nothing to a server with another password. Neither the cookie nor the password is encrypted on the way, so a team
    that does not trust its network puts a proxy with TLS or an SSH tunnel in front.

    Args:
        app: The application.
        name: Name of the cookie, since a browser gives the cookies of one server to those at its other ports.
        host: The address at which the application listens.
        password: The password, or None if everybody on this machine may use it.
        public: Paths that are served before somebody has logged in: those of the page itself, which hold no data.
    """
    token = None if password is None else _token(password)
    one_at_a_time = asyncio.Lock()

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        refusal = _refusal(request.headers, local=password is None and host in LOOPBACK)
        known = token is None or hmac.compare_digest(request.cookies.get(name, "").encode(), token.encode())
        if refusal:
            response: Response = JSONResponse({"detail": refusal}, 403)
        elif not known and request.url.path not in (*public, "/login"):
            response = JSONResponse({"detail": "the page needs its password"}, 401)
        else:
            response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    @app.post("/login")
    async def login(request: Request, given: str = Body(embed=True, alias="password")) -> Response:
        # Whoever tries many passwords at the same time waits as long as whoever tries one after the other.
        async with one_at_a_time:
            # The digests are compared, because the time that this takes does not depend on where texts differ.
            if token is not None and not hmac.compare_digest(_digest(given), _digest(password or "")):
                await asyncio.sleep(1)
                return JSONResponse({"detail": "this is not the password"}, 401)
        response = JSONResponse({"ok": True})
        if token is not None:
            secure = request.url.scheme == "https"
            response.set_cookie(
                name, token, max_age=_THIRTY_DAYS, httponly=True, samesite="strict", secure=secure, path="/"
            )
        return response


def _refusal(headers: Mapping[str, str], local: bool) -> str:
    """Says why a request is refused whose sender is a page of somebody else; an empty text if it is not refused."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if local and not names_this_machine(host):
        return f"Host: {host}: this server is for this machine alone; use http://127.0.0.1"
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return f"Origin: {origin}: a page from elsewhere may not use this server"
    return ""


def _token(password: str) -> str:
    key = hashlib.scrypt(password.encode(), salt=b"lightning-rlhf", n=2**14, r=8, p=1)
    return hmac.new(key, b"logged in", hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
