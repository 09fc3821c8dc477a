"""The server's pages: one file each, with a policy that allows what is in it and nothing else."""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from training.rendering import html
from training.serving.service import Limits


class Page(NamedTuple):
    """A page's text and its Content-Security-Policy."""

    text: str
    policy: str


def _page(template: str, **context: Any) -> Page:
    text = html.render(template, **context)
    parts = {
        f"{kind}-src": " ".join(map(_hash, re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)))
        or "'none'"
        for kind, tag in (("style", "style"), ("script", "script"))
    }
    rules = {
        "default-src": "'none'",
        **parts,
        "img-src": "blob: data:",
        "media-src": "blob:",
        "connect-src": "'self'",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    return Page(text, "; ".join(f"{name} {value}" for name, value in rules.items()))


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def edit_page(limits: Limits, *, token: bool) -> Page:
    """The page of edits. It asks the server what the model offers; `token`: and for a token."""
    settings = {"token": token, "bytes": limits.bytes, "pixels": limits.pixels}
    return _page("serve", settings=settings)


def docs_page(schema: Mapping[str, Any], *, token: bool) -> Page:
    """Every route of an OpenAPI schema, as text."""
    routes = [
        {"method": method.upper(), "path": path, **operation}
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return _page("serve_docs", info=schema["info"], routes=routes, token=token)
