"""Names from free text for foreign grammars: readable, unique, unchanged if they are plain."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

LIMIT = 80  # characters of a plain name


def marked(text: str, folded: str, limit: int) -> str:
    """`folded`, cut to `limit` characters with a digest of `text`, which keeps it unique."""
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return "-".join(filter(None, (folded[: limit - len(digest) - 1], digest)))


def plain_name(text: str) -> str:
    """Letters, digits, `_`, `-` and `.` of ASCII, 80 at most, as a part of a metric's key.

    Text of these alone stays as it is, but for runs of `_`, which become one, as does `+`, the sign
    of combined edits. Accents are dropped, all else becomes `_`, and a digest keeps what folds to
    one name apart.
    """
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    if len(text) <= LIMIT and re.fullmatch(r"[\w.+-]*", text, re.ASCII):
        return re.sub(r"[_+]+", "_", text)
    return marked(text, re.sub(r"[^A-Za-z0-9.-]+", "_", letters).strip("_"), LIMIT)


def named(rows: Iterable[tuple[tuple[str, ...], float]]) -> dict[str, float]:
    """The numbers by name, each under its own: the second of two equal names gets a digest."""
    out: dict[str, float] = {}
    for parts, value in rows:
        name = "_".join(plain_name(part) for part in parts if part)
        out[marked("/".join(parts), name, 250) if name in out else name] = value
    return out


def markdown(text: str) -> str:
    """`text` as one line of Markdown in which its signs mean nothing."""
    for sign in "\\`*_{}[]<>#|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
