"""Errors of requests, as JSON that says what, where, and how to fix it."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from training.core.shown import shown


class Problem(Exception):  # noqa: N818 - "problem" is the term of RFC 9457
    """A request that cannot be served: an HTTP status, what is wrong, where, and the fix."""

    def __init__(
        self, status: int, what: str, where: str, fix: str, *, wait: int = 0, allow: str = ""
    ) -> None:
        """`wait`: seconds after which to try again; `allow`: the methods of the route."""
        super().__init__(what)
        self.status, self.what, self.where, self.fix = status, what, where, fix
        self.headers = {"Retry-After": str(wait)} if wait else {}
        if allow:
            self.headers["Allow"] = allow
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def to_json(self) -> dict[str, str]:
        """`error`, the field of the Open Inference Protocol, is all of it in one line."""
        where = f"{self.where}: " if self.where else ""
        parts = {"error": f"{where}{self.what}; {self.fix}", "what": self.what}
        return {k: shown(v) for k, v in (parts | {"where": self.where, "fix": self.fix}).items()}

    def response(self, more: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse(self.to_json(), self.status, {**self.headers, **(more or {})})


def refused(error: Exception, where: str, fix: str, status: int = 400) -> Problem:
    """A problem from an error's text "what; fix"; `fix` if the text has none."""
    what, _, own = str(error).partition("; ")
    return Problem(status, what, where, own or fix)


def number(text: Any, where: str, kind: type[int] | type[float]) -> Any:
    """A finite number from text, or from a number of JSON as it is. Raises Problem."""
    try:
        value = kind(text)
        rounded = isinstance(text, float) and value != text
        if isinstance(text, bool) or rounded or value - value != 0:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        word = "a whole number" if kind is int else "a number"
        raise Problem(400, f"{str(text)[:40]!r}: not {word}", where, f"give {word}") from None
    return value
