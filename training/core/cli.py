"""Exit codes of every program: a user error is one line on stderr and exit code 2."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

EXIT_STOPPED = 143  # exit code after SIGTERM: the state is saved, the same command resumes


class StoppedError(Exception):
    """SIGTERM was received; the state is saved."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Exit with `EXIT_STOPPED` if the block raises StoppedError."""
    try:
        yield
    except StoppedError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(EXIT_STOPPED) from error


def entry_point(main: Callable[[list[str] | None], None]) -> None:
    """Call `main(None)`; ValueError and OSError become one line on stderr and exit code 2."""
    try:
        with stoppable():
            main(None)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error


def renamed(argv: list[str] | None, names: Mapping[str, str]) -> list[str]:
    """Replace a command's former name in the arguments, with a notice; until version 0.3."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in names:
        sys.stderr.write(f"`{arguments[0]}` is now `{names[arguments[0]]}`\n")
        arguments[0] = names[arguments[0]]
    return arguments
