"""References to files and models: PATH@DIGEST, NAME/VERSION and NAME@ALIAS."""

import re
from typing import NamedTuple

BY_NAME = "by-name:"
_DIGEST = re.compile(r"(.+)@(?:sha256:)?([0-9a-fA-F]{64})", re.DOTALL)


class VersionName(NamedTuple):
    """A registered version, by its number or, if that is empty, by an alias."""

    name: str
    number: str
    alias: str


def split_digest(text: str) -> tuple[str, str]:
    """PATH@DIGEST or PATH@sha256:DIGEST as (path, 64 hex digits in lower case).

    The digest is empty if `text` has none.
    """
    match = _DIGEST.fullmatch(text)
    return (match[1], match[2].lower()) if match else (text, "")


def with_digest(path: str, digest: str) -> str:
    """PATH@sha256:DIGEST, as `split_digest` reads it."""
    return f"{path}@sha256:{digest}"


def split_version(text: str) -> VersionName | None:
    """NAME@ALIAS or NAME/VERSION; None for anything else."""
    name, at, alias = text.partition("@")
    if at:
        return VersionName(name, "", alias) if name and alias else None
    name, _, number = text.rpartition("/")
    return VersionName(name, number, "") if name and number.isdecimal() else None


class Start(NamedTuple):
    """A value of `init`: the model to start from, and whether labels are matched by name."""

    reference: str
    by_name: bool

    def __str__(self) -> str:
        return f"{BY_NAME if self.by_name else ''}{self.reference}"


def split_start(text: str) -> Start:
    """REFERENCE or by-name:REFERENCE."""
    return Start(text.removeprefix(BY_NAME), text.startswith(BY_NAME))
