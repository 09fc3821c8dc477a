"""Names and texts that MLflow's grammars accept: keys of metrics, parameters and tags, filters."""

import posixpath
import re

from training.core.names import marked

LIMIT = 250  # MLflow's limit of a key
PICTURE = 100  # of a picture's key, which becomes a file's name with step, time and random digits


def key(name: str) -> str:
    """`name` as the key of a metric, parameter or tag; unchanged if MLflow takes it.

    What MLflow refuses becomes `_`, with a digest that keeps such keys apart.
    """
    return _key(name, LIMIT, 0)


def picture_key(name: str) -> str:
    """The same for a series of pictures, whose keys are ASCII."""
    return _key(name, PICTURE, re.ASCII)


def _key(name: str, limit: int, flags: int) -> str:
    outside = name.startswith(("/", "..")) or name == "." or posixpath.normpath(name) != name
    if not name or (
        len(name) <= limit and re.fullmatch(r"[\w\-. /]+", name, flags) and not outside
    ):
        return name
    return marked(name, re.sub(r"[^\w\-. ]+", "_", name, flags=flags).lstrip("."), limit)


def quoted(text: str) -> str:
    """`text` as a value in a filter string. ValueError if it has both kinds of quotes."""
    for quote in "'\"":
        if quote not in text:
            return f"{quote}{text}{quote}"
    raise ValueError(f"{text!r}: MLflow cannot search for text with both ' and \"; rename it")
