"""How files and models are named: PATH@DIGEST, NAME/VERSION and NAME@ALIAS."""

import re
from typing import NamedTuple

_DIGEST = re.compile(r"(.+)@(?:sha256:)?([0-9a-fA-F]{64})", re.DOTALL)


class VersionName(NamedTuple):
    """A registered version: by its number or, where that is empty, by an alias that moves."""

    name: str
    number: str
    alias: str


def split_digest(text: str) -> tuple[str, str]:
    """PATH@DIGEST or PATH@sha256:DIGEST as (path, 64 hex digits in lower case).

    The digest is empty where `text` ends in none.
    """
    found = _DIGEST.fullmatch(text)
    return (found[1], found[2].lower()) if found else (text, "")


def with_digest(path: str, digest: str) -> str:
    """The spelling that `split_digest` reads."""
    return f"{path}@sha256:{digest}"


def split_version(text: str) -> VersionName | None:
    """NAME@ALIAS or NAME/VERSION; None for anything else."""
    name, at, alias = text.partition("@")
    if at:
        return VersionName(name, "", alias) if name and alias else None
    name, _, number = text.rpartition("/")
    return VersionName(name, number, "") if name and number.isdecimal() else None
