"""FIFOs, devices, sockets and links in a raw folder are refused by name before a file is opened."""

import io
import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training import resolve, translate
from training.core.entries import entry_fault, plain_files
from training.data.adopt import adopt
from training.data.archive import Folder
from training.data.pull import pull
from training.storage.dvc import tree_md5

pytestmark = pytest.mark.timeout(60)  # an opened FIFO waits for ever


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def loop(path: Path) -> None:
    path.symlink_to("other.png")
    path.with_name("other.png").symlink_to(path.name)


def zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def out(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def up(path: Path) -> None:
    path.symlink_to("..")


ENTRIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (fifo, r"1 of its entries .*: a/x\.png is a FIFO;"),
    "socket": (bind, r"1 of its entries .*: a/x\.png is a socket;"),
    "loop": (loop, r"2 of its entries .*: a/other\.png is a link to nothing \(Too many levels"),
    "zero": (zero, r"1 of its entries .*: a/x\.png is a device;"),
    "out": (out, r"1 of its entries .*: a/x\.png points outside the folder;"),
    "folder": (up, r"1 of its entries .*: a/x\.png is a link to a folder;"),
}


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes in tmp_path/raw; the working folder is a DVC project beside it."""
    for number in range(6):
        path = tmp_path / "raw" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(path)
    (tmp_path / "clone" / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "raw"


PROGRAMS: dict[str, Callable[[Path], object]] = {
    "resolve": lambda folder: resolve.resolve(datasets="x:folders", raw=str(folder)),
    "pull": lambda folder: pull(datasets="x:folders", raw=str(folder), out=Path("raw.json")),
    "adopt": lambda folder: adopt("x", folder, kind="folders"),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_that_is_no_file_is_refused_at_once(entry: str, program: str, raw: Path) -> None:
    make, message = ENTRIES[entry]
    make(raw / "a" / "x.png")
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as error:
        PROGRAMS[program](raw)
    assert time.perf_counter() - start < 5
    assert "\n" not in str(error.value)
    assert not [path for path in Path().rglob("*") if path.is_file()]


def test_devices_are_named_and_counted() -> None:
    with pytest.raises(
        ValueError, match=r"/dev: \d+ of its entries .*; and \d+ more; put the files"
    ):
        plain_files(Path("/dev"))
    [null] = [entry for entry in os.scandir("/dev") if entry.name == "null"]
    assert entry_fault(null, Path("/dev"), outside=False) == "is a device"


def test_how_many_entries_are_no_files_is_said(raw: Path) -> None:
    for number in range(5):
        os.mkfifo(raw / f"{number}\n.png")
    with pytest.raises(
        ValueError, match=r"5 of its entries .*: '0\\n\.png' is a FIFO;.* and 2 more"
    ):
        tree_md5(raw)


@pytest.mark.parametrize("make", [fifo, bind, loop, zero])
def test_translate_refuses_what_is_no_file(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the model is loaded."""
    monkeypatch.setattr(translate, "registered_files", None)
    make(tmp_path / "x.png")
    start = time.perf_counter()
    with pytest.raises((ValueError, OSError), match=r"x\.png"):
        translate.main(["stargan@champion", str(tmp_path / "x.png"), "out.png", "Male"])
    assert time.perf_counter() - start < 5


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(NAMES, st.sampled_from(["file", "folder", *ENTRIES])), max_size=6))
def test_any_tree_is_read_whole_or_refused(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str]]
) -> None:
    """Both readers of a folder agree on its files; otherwise the error names it."""
    root = tmp_path_factory.mktemp("tree")
    image = io.BytesIO()
    Image.new("RGB", (9, 9)).save(image, "PNG")
    expected = set()
    for name, kind in entries:
        path = root / name
        with suppress(OSError):  # names that repeat, `.`, or are too long for a socket
            if kind == "folder":
                path.mkdir()
                (path / "x").write_bytes(image.getvalue())
                expected.add(f"{name}/x")
            elif kind == "file":
                with path.open("xb") as stream:
                    stream.write(image.getvalue())
                expected.add(name)
            else:
                ENTRIES[kind][0](path)
    try:
        names = Folder(root).names()
    except ValueError as error:
        assert str(root) in str(error) or "relative name" in str(error)  # noqa: PT017
    else:
        assert set(names) == expected
        if names:
            assert tree_md5(root)[1] == len(names)
    shutil.rmtree(root)
