"""A checkout in a folder of any name works, and no part of its path reaches a shell."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from project import clean_environment

ROOT = Path(__file__).parents[2]

ODD = [
    "my project",
    "it's mine",
    "a$(touch PWNED)b",
    "größe 開心",
    'say "no" `touch PWNED`',
    "a;b&c|d",
]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree's files, committed in a repository of their own."""
    folder = tmp_path_factory.mktemp("sources") / "repo"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if not (ROOT / name).is_file() or name.startswith(("docs/", "tests/")):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
        (folder / name).chmod((ROOT / name).stat().st_mode)
    run = ["git", "-c", "user.email=a@b", "-c", "user.name=t"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*run, *words], cwd=folder, check=True)
    return folder


@pytest.fixture
def checkout(sources: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A clone in a folder of an odd name, with a link to this environment."""
    folder = tmp_path / str(request.param) / "p"
    folder.parent.mkdir()
    subprocess.run(["git", "clone", "-q", str(sources), str(folder)], check=True)
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    return folder


def pwned(tmp_path: Path) -> list[Path]:
    return [path for path in tmp_path.rglob("*PWNED*") if path.name == "PWNED"]


@pytest.mark.parametrize("checkout", ODD, indirect=True)
def test_a_step_runs_in_a_checkout_of_any_name(checkout: Path, tmp_path: Path) -> None:
    """It starts, reads the arguments and ends with its own refusal."""
    done = subprocess.run(
        [str(checkout / ".venv/bin/python"), "-m", "pipelines", "run", "preset=smoke",
         "datasets=mine:folders", "raw=no where"],
        cwd=checkout, capture_output=True, text=True, env=clean_environment({}),
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: step resolve failed: raw=no where: no folder no where\n" in done.stderr
    assert not pwned(tmp_path)


@pytest.mark.parametrize("checkout", ["a 'b'$(touch PWNED)é"], indirect=True)
def test_data_pass_through_the_first_steps_in_an_odd_folder(checkout: Path, tmp_path: Path) -> None:
    """To the validation, which refuses the label file; with the data below the odd path, too."""
    raw = checkout / "raw data"
    (raw / "p").mkdir(parents=True)
    for i in range(20):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(raw / "p" / f"{i}.png")
    rows = [f"p/{i}.png,{i % 3}" for i in range(20)]
    (raw / "labels.csv").write_text("\n".join(["file,Hat", *rows]) + "\n")
    done = subprocess.run(
        [str(checkout / ".venv/bin/python"), "-m", "pipelines", "run", "preset=smoke",
         "datasets=mine:csv", f"raw={raw}", "data.attributes=Hat"],
        cwd=checkout, capture_output=True, text=True, env=clean_environment({}),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "[2/11] pull: done" in done.stdout
    assert "error: step validate failed: " in done.stderr
    assert "attempt 1" not in done.stdout  # a mistake of the user is not tried again
    assert not pwned(tmp_path)


@pytest.mark.parametrize("checkout", ["my $(touch PWNED) project"], indirect=True)
def test_make_starts_no_shell_with_the_path(checkout: Path, tmp_path: Path) -> None:
    """The commands of `make lint` and `make ui`, as far as they start."""
    (checkout / ".venv").unlink()
    (checkout / ".venv").mkdir()
    (checkout / ".venv/ready").touch()
    program = checkout / ".venv/bin/python"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor word in "$@"; do printf "<%s>" "$word"; done\necho\n')
    program.chmod(0o755)
    for target in ("lint", "ui", "compile", "sbom"):
        done = subprocess.run(
            ["make", "--no-print-directory", target], cwd=checkout, capture_output=True, text=True,
            env=clean_environment({}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if target == "ui":
            assert done.stdout == "<-m><training.tracking><ui>\n"
    assert not pwned(tmp_path)


@pytest.mark.parametrize("checkout", ["two\nlines"], indirect=True)
def test_a_line_break_in_the_path_is_refused_by_setup(checkout: Path) -> None:
    done = subprocess.run(["make", "setup"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 2
    line, *rest = done.stderr.splitlines()
    assert line.startswith("error: the folder's path has a line break")
    assert len(rest) == 1  # make's own
    assert "pip" not in done.stdout
