"""How every program ends: a user's mistake is one line on stderr and exit code 2."""

import sys
from collections.abc import Callable

STOPPED = 143  # exit code after SIGTERM: the state is saved, the same command goes on


def run(main: Callable[[list[str] | None], None]) -> None:
    """Call `main` with the process's arguments; ValueError and OSError become one clear line."""
    try:
        main(None)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error
