"""Command lines: what every program does with its arguments, errors and exit codes.

A program is `main = program(...)`, called with its arguments. A function registered with it is a
command, and its signature the command line: positional-only parameters are arguments, keyword-only
ones options, with their meaning in `Annotated[type, means("...")]`. A text it returns is printed.
"""

import os
import select
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import cyclopts
from cyclopts import App, CycloptsError, Parameter, ValidationError

from training.core import environment
from training.core.faults import explained
from training.core.files import write_bytes
from training.core.retry import may_pass
from training.core.shown import shown

EXIT_MISTAKE = 2  # exit code of a usage error or another mistake of the user
EXIT_STOPPED = 143  # exit code after SIGTERM: the state is saved, the same command resumes
EXIT_READER_LEFT = 141  # as a shell reports a program that SIGPIPE ended
FIELDS = Parameter(name="*")  # a dataclass, each field of which is an option
INTERNAL = Parameter(parse=False)  # a parameter of the function that is no option
LINE = "\u2028"  # a line's end; cyclopts joins lines at others


class StoppedError(Exception):
    """SIGTERM was received; the state is saved."""


class Program(App):
    """A command line; see `program`."""

    def __call__(self, tokens: Any = None, **settings: Any) -> Any:
        """Run a command with the list of words `tokens`; None: those of the process."""
        words = _attached(sys.argv[1:] if tokens is None else tokens)
        if not words and not self.default_command:
            known = ", ".join(name for name in self if not name.startswith("-"))
            _refuse(f"a command is needed, one of {known}", self.name[0])
        return super().__call__(words, **settings)


def program(command: str, doc: str | None) -> Program:
    """The program that `command` starts ("python -m training.train"), with its module's `doc`.

    A command line that it does not accept is one line on stderr, a hint and exit code 2.
    """

    def refuse(error: CycloptsError) -> NoReturn:
        bounds = getattr(error.__cause__, "errors", None)  # pydantic's
        if isinstance(error, ValidationError) and bounds:
            error.exception_message = f"{bounds()[0]['msg']}."
        _refuse(str(error), " ".join([command, *(error.command_chain or ())]))

    return Program(
        command,
        help=(doc or "").strip().replace("\n", LINE),
        help_format="plaintext",
        help_formatter=_Help(),
        version_flags=(),
        group_parameters="Options",
        error_formatter=refuse,
        result_action=_print,
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(
            negative=(), allow_repeating=True, json_list=False, json_dict=False, converter=_convert
        ),
    )


def _refuse(why: str, command: str) -> NoReturn:
    sys.stderr.write(f"error: {shown(why)}\n`{command} --help` lists the options\n")
    raise SystemExit(EXIT_MISTAKE)


def _print(result: object) -> None:
    if isinstance(result, str):
        sys.stdout.write(f"{result}\n")


def _convert(kind: Any, tokens: Sequence[Any]) -> Any:
    """Read a text as its type does; cyclopts would round 2.5 to a whole number."""
    return cyclopts.convert(kind, tokens, converter=lambda leaf, text: leaf(text))


def _attached(words: Iterable[str]) -> list[str]:
    """The words with `--x=VALUE` for a VALUE such as "-" or "- as before", which is no option."""
    found: list[str] = []
    for word in words:
        value = word == "-" or (word.startswith("-") and " " in word)
        if value and found and found[-1].startswith("-") and "--" not in found:
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


class _Help:
    """Help as plain text, wrapped to the terminal or to 80 columns in a pipe."""

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        width = min(console.width, 100)
        sys.stdout.write(textwrap.fill(f"Usage: {usage}", width, subsequent_indent="  ") + "\n")

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        text = str(getattr(description, "primary_renderable", ""))  # without any: no such attribute
        sys.stdout.write(f"\n{text}\n".replace(LINE, "\n") if text else "")

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        entries = [entry for entry in panel.entries if "--help" not in entry.names]
        rows = [_row(entry, min(console.width, 100)) for entry in entries]
        if rows:
            sys.stdout.write("\n".join(["", f"{panel.title}:", *rows, ""]))


def _row(entry: Any, width: int) -> str:
    """An argument, an option or a command with its meaning, choices and default."""
    facts = ["required"] if entry.required else []
    if entry.choices:
        facts.append(f"one of {', '.join(filter(None, entry.choices))}")
    if entry.default and entry.type is not bool:
        facts.append(f"default: {entry.default}")
    meaning = str(entry.description.primary_renderable).split()
    text = " ".join([*meaning, f"({'; '.join(facts)})" if facts else ""])
    return textwrap.fill(
        f"{', '.join(entry.display_labels_with_metavar):<22}  {text}", width,
        initial_indent="  ", subsequent_indent=" " * 26, break_on_hyphens=False,
    )  # fmt: skip


def means(text: str, *names: str, **settings: Any) -> Parameter:
    """The meaning of an argument or option, and its names if they are not the parameter's."""
    return Parameter(names, help=text, **settings)


@contextmanager
def stoppable() -> Iterator[None]:
    """Exit with `EXIT_STOPPED` if the block raises StoppedError."""
    try:
        yield
    except StoppedError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(EXIT_STOPPED) from error


def entry_point(main: Callable[[list[str] | None], None]) -> None:
    """Call `main(None)`; an expected error becomes one line on stderr and exit code 2.

    Expected are ValueError, OSError and those of `training.core.faults`; any other keeps its
    traceback, without passwords. A mistake of the user is also written to the file REFUSAL_FILE,
    for the program that started this one through torchrun, which has an exit code of its own. A
    reader that has left, as in `| head`, ends the program silently.
    """
    try:
        try:
            with stoppable():
                main(None)
        finally:
            sys.stdout.flush()
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the flush when Python ends
            raise SystemExit(EXIT_READER_LEFT) from None
        if line := explained(error):
            sys.stderr.write(f"error: {line}\n")
            if (file := environment.REFUSAL_FILE.get()) and not may_pass(error):
                write_bytes(Path(file), line.encode())
            raise SystemExit(EXIT_MISTAKE) from error
        sys.excepthook = _hidden
        raise


def _reader_left() -> bool:
    """Whether standard output is a pipe that nobody reads."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(state & select.POLLERR for _, state in poll.poll(0))


def _hidden(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(shown("".join(traceback.format_exception(kind, error, trace))))


def renamed(argv: list[str] | None, names: Mapping[str, str]) -> list[str]:
    """Replace a command's former name in the arguments, with a notice; until version 0.3."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in names:
        sys.stderr.write(f"`{arguments[0]}` is now `{names[arguments[0]]}`\n")
        arguments[0] = names[arguments[0]]
    return arguments
