"""Names and texts that MLflow's grammars accept: keys of metrics, parameters and tags, filters."""

import posixpath
import re

from training.core.names import marked

LIMIT = 250  # MLflow's limit of a key
PART = 80  # of a part between slashes
PICTURE = 100  # of a picture's key, which becomes a file's name with step, time and random digits


def key(name: str) -> str:
    """`name` as the key of a metric, parameter or tag; unchanged if MLflow takes it.

    What MLflow refuses becomes `_`, with a digest that keeps such keys apart; `/` still separates.
    """
    return _key(name, LIMIT, 0)


def picture_key(name: str) -> str:
    """The same for a series of pictures, whose keys are ASCII."""
    return _key(name, PICTURE, re.ASCII)


def _key(name: str, limit: int, flags: int) -> str:
    if not name or _accepted(name, limit, flags):
        return name
    key = "/".join(
        part if _accepted(part, PART, flags) else marked(part, _folded(part, flags), PART)
        for part in name.split("/")
    )
    return key if len(key) <= limit else marked(name, _folded(name, flags), limit)


def _accepted(name: str, limit: int, flags: int) -> bool:
    """Whether MLflow takes the key; the part of a path that leads out of it is refused, too."""
    outside = name.startswith(("/", "..")) or name == "." or posixpath.normpath(name) != name
    return len(name) <= limit and bool(re.fullmatch(r"[\w\-. /]+", name, flags)) and not outside


def _folded(name: str, flags: int) -> str:
    return re.sub(r"[^\w\-. ]+", "_", name, flags=flags).lstrip(".")


def quoted(text: str) -> str:
    """`text` as a value in a filter string. ValueError if it has both kinds of quotes."""
    for quote in "'\"":
        if quote not in text:
            return f"{quote}{text}{quote}"
    raise ValueError(f"{text!r}: MLflow cannot search for text with both ' and \"; rename it")
