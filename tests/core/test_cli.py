"""Exit codes of programs, and former names of commands."""

from collections.abc import Callable

import pytest

from training.core import cli


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


def programs() -> list[tuple[Callable[[list[str]], None], str, str]]:
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


@pytest.mark.parametrize(("main", "old", "new"), programs())
def test_a_former_name_still_works_and_prints_the_new_one(
    main: Callable[[list[str]], None], old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([old, "--help"])
    said = capsys.readouterr()
    assert ended.value.code == 0
    assert said.err == f"`{old}` is now `{new}`\n"
    assert f" {new} " in said.out
