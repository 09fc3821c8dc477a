"""Command lines: help, refusals and exit codes of every program, and former names of commands."""

import importlib
import importlib.util
import os
import subprocess
import sys
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


def run_program(code: str, folder: Path, before: str = "", **variables: str) -> Any:
    """A program whose main is `code`, in a process of its own."""
    whole = (
        f"{before}\nfrom training.core import cli\ndef main(_):\n    {code}\ncli.entry_point(main)"
    )
    return subprocess.run(
        [sys.executable, "-c", whole], cwd=folder, capture_output=True, text=True,
        env={**os.environ, **variables},
    )  # fmt: skip


def test_a_bug_keeps_its_traceback_without_the_passwords(tmp_path: Path) -> None:
    done = run_program(
        "raise KeyError('http://bob:CANARYpw77@host/x?token=CANARY2 and CANARY-key')", tmp_path,
        AWS_SECRET_ACCESS_KEY="CANARY-key",
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "http://***@host/x?token=*** and ***" in done.stderr
    assert "CANARY" not in done.stdout + done.stderr


@pytest.mark.parametrize("count", [1, 100_000])
def test_a_reader_that_leaves_ends_a_program_silently(tmp_path: Path, count: int) -> None:
    code = f"import time; time.sleep(0.3); print('line\\n' * {count})"
    whole = f"from training.core import cli\ndef main(_):\n    {code}\ncli.entry_point(main)"
    process = subprocess.Popen(
        [sys.executable, "-c", whole], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    process.stdout.close()
    assert process.stderr
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()


def test_a_broken_connection_is_not_taken_for_a_reader_that_left(tmp_path: Path) -> None:
    done = run_program("raise BrokenPipeError(32, 'Broken pipe')", tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: [Errno 32] Broken pipe\n")


def test_a_full_disk_is_named_by_the_file_that_was_written(tmp_path: Path) -> None:
    """/dev/full, in the place of the temporary file, refuses every write as a full disk does."""
    code = "import os; from pathlib import Path; from training.core.files import write_bytes; "
    code += "os.symlink('/dev/full', f'.x.{os.getpid()}.tmp'); write_bytes(Path('x'), b'y')"
    done = run_program(code, tmp_path)
    assert (done.returncode, done.stderr) == (
        2, "error: [Errno 28] No space left on device: 'x'; free some space and run this again\n",
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_full_disk_without_a_file_names_the_disks(tmp_path: Path) -> None:
    done = run_program("open('/dev/full', 'wb', buffering=0).write(b'x')", tmp_path)
    assert done.returncode == 2
    assert "(on none of the disks of this folder and of TMPDIR); free some space" in done.stderr


LOCKED = """
import sqlite3
from mlflow import MlflowClient
MlflowClient('sqlite:///m.db').search_experiments()
held = sqlite3.connect('m.db', isolation_level=None)
held.execute('BEGIN EXCLUSIVE')
"""
FAULTS = {
    "locked": (
        "from sqlalchemy import create_engine, text; "
        "create_engine('sqlite:///m.db', connect_args={'timeout': 0}).connect().execute("
        "text('SELECT * FROM runs'))",
        LOCKED,
        "error: MLflow's database m.db is held by another program; end that, or wait, and try "
        "again: (sqlite3.OperationalError) database is locked",
    ),
    "full": (
        "import sqlite3; d = sqlite3.connect('x.db'); d.execute('PRAGMA max_page_count = 2'); "
        "d.executescript('CREATE TABLE a (b); CREATE TABLE c (d); CREATE TABLE e (f)')",
        "",
        "error: no space left for MLflow's database m.db, or its disk fails; free some space: "
        "database or disk is full",
    ),
    "no database": (
        "import sqlite3; open('x.db', 'w').write('text' * 999); "
        "sqlite3.connect('x.db').execute('SELECT * FROM a')",
        "",
        "error: MLflow's database m.db is damaged; restore it from a copy, or move it away: "
        "file is not a database",
    ),
    "mlflow": (
        "from mlflow import MlflowClient; MlflowClient('sqlite:///m.db').get_run('0' * 32)",
        "",
        "error: MLflow (m.db) refused the request; remove the cause and run this again: Run with",
    ),
    "weights": (
        "from safetensors.numpy import load; load(b'xx')",
        "",
        "error: a weight file is damaged or cut short; restore it, or delete it, and run this "
        "again: Error while deserializing: header",
    ),
    "weights on a full disk": (
        "raise SafetensorError('Error while serializing: I/O error: No space left on device')",
        "from safetensors import SafetensorError",
        "error: no space left for a weight file; free some space and run this again: Error",
    ),
    "picture": (
        "Image.MAX_IMAGE_PIXELS = 10; Image.new('L', (9, 9)).save('x.png'); Image.open('x.png')",
        "from PIL import Image",
        "error: the picture is too large to decode safely; make it smaller: Image size (81 pixels)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_librarys_error_is_one_line_with_a_fix(tmp_path: Path, fault: str) -> None:
    code, before, said = FAULTS[fault]
    done = run_program(
        code, tmp_path, f"import warnings; warnings.simplefilter('ignore')\n{before}",
        MLFLOW_TRACKING_URI="sqlite:///m.db", MLFLOW_LOGGING_LEVEL="ERROR",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1


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
