"""Command lines: help, refusals and exit codes of every program, and former names of commands."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest

from training.core import cli
from training.core.cli import means

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("benchmarks", "pipelines", "training")
    for path in (ROOT / folder).rglob("*.py")
    if "= cli.program(" in path.read_text()
)
every_program = pytest.mark.parametrize("path", PROGRAMS)


def load(path: str) -> ModuleType:
    if path.startswith("benchmarks/"):
        spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return importlib.import_module(path.removesuffix(".py").replace("/", "."))


def commands(module: ModuleType) -> Iterator[tuple[list[str], Any]]:
    """The words of every command of a program, and what cyclopts knows of it."""
    app = vars(module).get("app") or module.main
    if app.default_command:
        yield [], app
    for name in app:
        if not name.startswith("-"):
            yield [name], app[name]


def required(app: Any) -> dict[str, list[str]]:
    """The words of each required argument and option of a command."""
    words = {}
    for argument in app.assemble_argument_collection():
        if argument.required:
            values = [(argument.get_choices() or ("1",))[0]] * argument.token_count()[0]
            words[argument.name] = (
                values if argument.index is not None else [argument.name, *values]
            )
    return words


def refused(main: Callable[[list[str]], object], words: list[str], capsys: Any) -> str:
    """What a program says on stderr; it exits with 2 and says it in a few plain lines."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 2
    assert "--help" in said.err
    assert "\x1b" not in said.err
    return str(said.err)


def test_the_programs_are_there() -> None:
    assert len(PROGRAMS) > 20


@every_program
def test_help_is_plain_text_with_the_modules_own_and_every_option(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(path)
    module.main(["--help"])
    said = capsys.readouterr().out
    assert module.__doc__
    assert module.__doc__.strip() in said
    for words, app in commands(module):
        module.main([*words, "--help"])
        said = capsys.readouterr().out
        assert "\x1b" not in said
        assert max(map(len, said.splitlines())) <= 100
        for argument in app.assemble_argument_collection():
            if argument.show:
                assert argument.parameter.help, argument.name
                assert argument.name in said


@every_program
def test_an_unknown_option_is_refused_by_its_name(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(path)
    for words, app in commands(module):
        given = [word for part in required(app).values() for word in part]
        assert "--no-such" in refused(module.main, [*words, *given, "--no-such"], capsys)


@every_program
def test_what_is_missing_is_named(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = load(path)
    for words, app in commands(module):
        parts = required(app)
        for name, missing in parts.items():
            last = missing[0].startswith("-") or name == [n for n in parts if n[0] != "-"][-1]
            if last:  # without an earlier argument, the next one would take its place
                given = [word for part in parts if part != name for word in parts[part]]
                assert name in refused(module.main, [*words, *given], capsys)
        if words:
            assert words[0] in refused(module.main, [], capsys)


@pytest.fixture
def given() -> tuple[Any, dict[str, Any]]:
    """A program, and what its command was called with."""
    program, seen = cli.program("program", "A program."), {}

    @program.default
    def command(
        *pairs: str,
        title: str = "",
        number: int = 0,
        several: Annotated[list[int], means("numbers", consume_multiple=(1, None))] = [],  # noqa: B006
        run: list[tuple[str, Path]] | None = None,
        flag: bool = False,
    ) -> str:
        seen.update(locals())
        return "done"

    return program, seen


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--title", ""], {"title": ""}),
        (["--title", "-1"], {"title": "-1"}),
        (["--title", "-"], {"title": "-"}),
        (["--title", "- as before"], {"title": "- as before"}),
        (["--title=--flag"], {"title": "--flag"}),
        (["--title", "none"], {"title": "none"}),
        (["--title", "a", "--title", "b"], {"title": "b"}),
        (["--title", "[bold]:smile:"], {"title": "[bold]:smile:"}),
        (["--number", "-3"], {"number": -3}),
        (["--several", "1", "2", "--flag"], {"several": [1, 2], "flag": True}),
        (["--run", "a", "x", "--run", "[b]", "y"],
         {"run": [("a", Path("x")), ("[b]", Path("y"))]}),
        (["a=b", "--flag", "c=d=e"], {"pairs": ("a=b", "c=d=e"), "flag": True}),
        (["--", "--title", "-x"], {"pairs": ("--title", "-x"), "title": ""}),
    ],
)  # fmt: skip
def test_values_are_taken_as_they_are(
    given: tuple[Any, dict[str, Any]], words: list[str], expected: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    program, seen = given
    program(words)
    assert {name: seen[name] for name in expected} == expected
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--number", "2.5"], ["--number", "none"], ["--number", "0x10"], ["--number"],
        ["--title", "--flag"], ["--tit", "x"], ["--no-flag"], ["--version"], ["--run", "a"],
        ["--several"], ["--flag=perhaps"],
    ],
)  # fmt: skip
def test_what_no_option_takes_is_refused(
    given: tuple[Any, dict[str, Any]], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert words[0].partition("=")[0] in refused(given[0], words, capsys)
    assert given[1] == {}


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("no such key"), 2, "error: no such key\n"),
        (FileNotFoundError("gone"), 2, "error: gone\n"),
        (cli.StoppedError("stopped after 8 images"), 143, "stopped after 8 images\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: list[str] | None) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.entry_point(main)
    assert ended.value.code == code
    assert capsys.readouterr().err == said


def test_a_bug_is_not_reported_as_a_user_error() -> None:
    def main(_: list[str] | None) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        cli.entry_point(main)


def renamed() -> list[tuple[Callable[[list[str]], None], str, str]]:
    from pipelines import __main__ as pipelines
    from training import trainjob
    from training.data import __main__ as data

    return [
        (trainjob.main, "ask", "render"),
        (trainjob.main, "start", "submit"),
        (trainjob.main, "work", "run"),
        (pipelines.main, "release", "pin-images"),
        (data.main, "fetch", "info"),
    ]


@pytest.mark.parametrize(("main", "old", "new"), renamed())
def test_a_former_name_still_works_and_prints_the_new_one(
    main: Callable[[list[str]], None], old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([old, "--help"])
    said = capsys.readouterr()
    assert said.err == f"`{old}` is now `{new}`\n"
    assert f" {new} " in said.out
