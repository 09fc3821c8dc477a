"""What every request passes first: host, token, origin, size; and every answer's headers."""

import hmac
import ipaddress
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from training.core import environment
from training.serving.asked import too_large
from training.serving.figures import Figures
from training.serving.problems import Problem

SHORTEST = 16  # characters of a token
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
OPEN = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")  # without a token
MAKE = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}


@dataclass(frozen=True)
class Access:
    """Who may ask: `names` of this server in the Host header (empty: any), and the token."""

    names: tuple[str, ...] = LOOPBACK
    token: str = field(default="", repr=False)


def access(host: str, more: tuple[str, ...] = ()) -> Access:
    """Who may ask a server that listens on `host`, under the names `more` as well.

    Raises ValueError outside of loopback without a token, and for a token that is too short.
    """
    variable = environment.SERVE_TOKEN
    token = variable.get()
    outside = [name for name in (host, *more) if not is_loopback(name)]
    if outside and not token:
        raise ValueError(
            f"{outside[0]}: others can reach this server, and {variable.name} is not set; set it, "
            f"export {variable.name}=$({MAKE}), or listen on 127.0.0.1"
        )
    if token and (len(token) < SHORTEST or not token.isascii() or not token.isprintable()):
        raise ValueError(
            f"{variable.name}: {len(token)} characters; {SHORTEST} or more visible ASCII "
            f"characters are needed, such as those of {MAKE}"
        )
    names = tuple(name.lower() for name in more)
    if is_loopback(host):
        names = tuple(dict.fromkeys((_in_header(host), *LOOPBACK, *names)))
    return Access(names, token)


def _in_header(host: str) -> str:
    """A loopback host as clients name it."""
    if host == "localhost":
        return host
    number = ipaddress.ip_address(host.strip("[]"))
    return f"[{number}]" if number.version == 6 else str(number)


def is_loopback(name: str) -> bool:
    """Whether only this machine can reach a host of this name."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Middleware around the whole application."""

    def __init__(self, app: ASGIApp, who: Access, most: int, figures: Figures) -> None:
        """`most`: bytes of a body."""
        self.app, self.who, self.most, self.figures = app, who, most, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._answer(scope, receive, send_on)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.figures.requests.labels(route, str(status)).inc()
            self.figures.seconds.labels(route).observe(time.monotonic() - start)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.check(scope["method"], scope["path"], Headers(scope=scope))
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Raise Problem for a request that may not be answered, before its body is read."""
        host = headers.get("host", "")
        if self.who.names and _name(host) not in self.who.names:
            raise Problem(
                421, f"{host[:80]!r}: not a name of this server", "header Host",
                f"use {self.who.names[0]}, or start the server with --name {_name(host)[:80]}",
            )  # fmt: skip
        if self.who.token:
            if path not in OPEN:
                self._check_token(headers.get("authorization", ""))
        elif method not in ("GET", "HEAD"):
            _check_origin(host, headers)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most:
            raise too_large(self.most)

    def _check_token(self, given: str) -> None:
        kind, _, token = given.partition(" ")
        right = hmac.compare_digest(token.strip().encode(), self.who.token.encode())
        if kind.lower() != "bearer" or not right:
            raise Problem(
                401, "no token, or a wrong one", "header Authorization",
                "send Authorization: Bearer and the server's token",
            )  # fmt: skip


def _name(host: str) -> str:
    """A Host header without its port, in lower case."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


def _check_origin(host: str, headers: Mapping[str, str]) -> None:
    """Refuse what another site's page sends; programs other than browsers send no Origin."""
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "none")
    if (origin is not None and urlsplit(origin).netloc.lower() != host.lower()) or site not in (
        "same-origin", "none",
    ):  # fmt: skip
        raise Problem(
            403, "sent by another site's page", "header Origin", "use the server's own page"
        )
