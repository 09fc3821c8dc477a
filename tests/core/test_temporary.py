"""Folders written under a temporary name: what a killed process leaves, the next one removes."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from training.core.temporary import check_free, kept_folder, temporary_folder, whole_folder

HOLD = """
import sys, time
from pathlib import Path
from training.core.temporary import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    time.sleep(60)
"""


def holder(parent: Path) -> tuple["subprocess.Popen[str]", Path]:
    """A process that uses a temporary folder in `parent`, and that folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(parent)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_a_killed_process_leaves_a_folder_that_the_next_one_deletes(tmp_path: Path) -> None:
    process, left = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert left.is_dir()
    with temporary_folder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_by_another_process_stays(tmp_path: Path) -> None:
    process, used = holder(tmp_path)
    try:
        with temporary_folder(tmp_path):
            assert used.is_dir()
    finally:
        process.kill()
        process.communicate()


def test_links_files_and_other_names_stay(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (tmp_path / "stargan-link.tmp").symlink_to(target)
    (tmp_path / "stargan-file.tmp").touch()
    (tmp_path / "stargan-results").mkdir()
    with temporary_folder(tmp_path):
        pass
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"mine", "stargan-link.tmp", "stargan-file.tmp", "stargan-results"}


def test_a_folder_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "stargan-other.tmp"
    other.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: other.stat().st_uid + 1)
    with temporary_folder(tmp_path):
        pass
    assert other.is_dir()


def test_a_failed_block_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with suppress(KeyError), whole_folder(tmp_path / "out") as new:
        (new / "half").touch()
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_a_kept_folder_goes_on_after_a_failure_with_the_same_key_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with suppress(KeyError), kept_folder(out, "a") as (new, notes):
        (new / "first").touch()
        (notes / "note").touch()
        raise KeyError
    with suppress(KeyError), kept_folder(out, "b") as (new, notes):
        assert [*new.iterdir(), *notes.iterdir()] == []
        raise KeyError
    with kept_folder(out, "a") as (new, notes):
        assert (new / "first").is_file()
        assert (notes / "note").is_file()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "out", "out/first",
    ]  # fmt: skip


def test_a_second_process_gets_an_empty_kept_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with kept_folder(out, "a") as (first, _):
        (first / "one").touch()
        with kept_folder(out, "a") as (second, _):
            assert list(second.iterdir()) == []
            (second / "two").touch()
        assert [path.name for path in out.iterdir()] == ["two"]
    assert [path.name for path in out.iterdir()] == ["one"]


KILLED = """
import os, signal, sys
from pathlib import Path
from training.core import temporary
step, real = sys.argv[2], temporary.rename
def rename(source, target):
    if step == "rename" and source.name.endswith(".tmp"):
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
temporary.rename = rename
if step == "rmtree":
    temporary.shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with temporary.whole_folder(Path(sys.argv[1])) as new:
    (new / "new").touch()
"""


@pytest.mark.parametrize(("step", "left"), [("rename", "old"), ("rmtree", "new")])
def test_a_kill_while_a_folder_is_replaced_leaves_the_old_or_the_new_one_whole(
    tmp_path: Path, step: str, left: str
) -> None:
    """The next call puts back what the killed one had set aside, or deletes it."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out), step])
    assert killed.returncode == -signal.SIGKILL
    with suppress(KeyError), whole_folder(out):
        raise KeyError
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "out", f"out/{left}",
    ]  # fmt: skip


def test_a_folder_that_another_process_has_set_aside_stays_there(tmp_path: Path) -> None:
    """It holds the lock of the old folder until the new one is in its place."""
    old = tmp_path / f".out.{'0' * 32}.old"
    old.mkdir()
    descriptor = os.open(old, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with whole_folder(tmp_path / "out"):
        assert [path.name for path in tmp_path.glob("*.old")] == [old.name]
        assert not (tmp_path / "out").exists()
    os.close(descriptor)


def test_a_folder_whose_replacement_cannot_be_renamed_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    real = Path.replace

    def full(source: Path, target: Path) -> Path:
        if source.suffix == ".tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"), whole_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


@pytest.mark.parametrize("name", ["file", "full", "link", "."])
def test_a_folder_to_be_written_must_be_new_or_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Neither a file, a link nor the working folder: each would be lost or taken away."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").touch()
    (tmp_path / "link").symlink_to("empty")
    monkeypatch.chdir(tmp_path / "empty")
    path = Path(name) if name == "." else tmp_path / name
    with pytest.raises(ValueError, match="name a new folder"):
        check_free(path)
    monkeypatch.chdir(tmp_path)
    check_free(tmp_path / "empty")
    check_free(tmp_path / "absent")
