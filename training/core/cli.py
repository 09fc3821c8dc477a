"""How every program ends: a user's mistake is one line on stderr and exit code 2."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

STOPPED = 143  # exit code after SIGTERM: the state is saved, the same command goes on


class StoppedError(Exception):
    """SIGTERM came; the state is saved."""


@contextmanager
def stoppable() -> Iterator[None]:
    """End the process with `STOPPED` where the block was stopped."""
    try:
        yield
    except StoppedError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(STOPPED) from error


def run(main: Callable[[list[str] | None], None]) -> None:
    """Call `main` with the process's arguments; ValueError and OSError become one clear line."""
    try:
        with stoppable():
            main(None)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error


def renamed(argv: list[str] | None, names: Mapping[str, str]) -> list[str]:
    """The arguments with a command's former name replaced, and said so; until version 0.3."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in names:
        sys.stderr.write(f"`{words[0]}` is now `{names[words[0]]}`\n")
        words[0] = names[words[0]]
    return words
