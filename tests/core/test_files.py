"""Names that become paths, JSON that cannot be read, and disks that are full."""

import errno
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from training.core.entries import check_name, inside, unusual
from training.core.files import read_json, write_bytes
from training.core.temporary import whole_folder

PARTS = st.sampled_from(
    [
        "..",
        ".",
        "",
        "a",
        "nets",
        "G.safetensors",
        "C:",
        "\0",
        "\n",
        "a\\b",
        "\\",
        "ä",
        "\ud800",
        "~",
    ]
)
NAMES = st.lists(PARTS, min_size=1, max_size=5).map("/".join) | st.text(max_size=12)


@settings(max_examples=2000)
@given(NAMES)
@example("/etc/passwd")
@example("a/../../b")
@example("C:evil")
@example("..\\evil")
def test_an_accepted_name_stays_below_its_folder_on_every_system(name: str) -> None:
    """Refused with the name, or one plain relative path without special parts."""
    try:
        check_name(name)
    except ValueError as error:
        assert repr(name) in str(error)  # noqa: PT017
        return
    path = PurePosixPath(name)
    assert not path.is_absolute()
    assert path.as_posix() == name
    assert ".." not in path.parts
    windows = PureWindowsPath(name)
    assert not windows.drive
    assert not windows.root
    assert windows.as_posix() == name
    assert name.isprintable() or all(ord(sign) >= 32 for sign in name)


@pytest.mark.parametrize("name", [None, 3, ["a"], b"a", {}])
def test_a_name_that_is_not_text_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="not the relative name of a file"):
        check_name(name)


def test_a_link_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/out").symlink_to(tmp_path)
    (tmp_path / "in/here").mkdir()
    with pytest.raises(ValueError, match=r"in/out/x: a link leads out of .*/in"):
        inside(tmp_path / "in", "out/x")
    assert inside(tmp_path / "in", "here/x") == tmp_path / "in/here/x"


def test_everything_but_files_and_full_folders_is_unusual(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("x")
    (tmp_path / "full/empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "full")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert unusual(tmp_path) == {
        "full/empty": "an empty folder", "link": "a link", "dangling": "a link",
        "pipe": "a special file",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "", "\xff", "9" * 5000])
def test_json_that_cannot_be_read_names_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"x\.json: .*; delete it and run again"):
        read_json(tmp_path / "x.json")


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that was written is in the message, and nothing is left behind."""

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/verdict\.json'") as caught:
        write_bytes(tmp_path / "verdict.json", b"x")
    assert caught.value.errno == errno.ENOSPC
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*/000000000016'"),
        whole_folder(tmp_path / "000000000016") as folder,
    ):
        (folder / "x").write_bytes(b"x")
    assert not [*tmp_path.iterdir()]


def test_another_error_in_a_folder_is_not_called_the_disks(tmp_path: Path) -> None:
    with pytest.raises(ConnectionRefusedError) as caught, whole_folder(tmp_path / "x"):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    assert caught.value.filename is None
