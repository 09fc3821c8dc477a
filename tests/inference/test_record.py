"""The record of a translation: what is read back, also after a kill."""

import errno
import fcntl
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.layouts import visible
from training.inference.record import LOCK, NAME, Record, Row, alone, plain

ROW = Row("a.png", "1" * 64, "a.png", "2" * 64, "m/1", "Male", "", "0.1", "", "", "3" * 64)
NAMES = st.text(
    st.characters(exclude_categories=(), exclude_characters="/\0"), min_size=1, max_size=12
)


def test_a_record_that_was_cut_anywhere_keeps_its_whole_rows(tmp_path: Path) -> None:
    record = Record(tmp_path)
    for name in ("a.png", 'b",\n.png', "c.png"):
        record.add(replace(ROW, output=plain(name)))
    data = (tmp_path / NAME).read_bytes()
    ends = [n + 1 for n, byte in enumerate(data) if byte == ord("\n")]
    assert len(ends) == 4
    for cut in sorted({*range(ends[0], len(data), 17), *ends, *(end - 1 for end in ends[1:])}):
        (tmp_path / NAME).write_bytes(data[:cut])
        again = Record(tmp_path)
        assert len(again.rows) == sum(end <= cut for end in ends) - 1
        again.add(ROW)
        assert Record(tmp_path).rows == again.rows


@settings(max_examples=30, deadline=None)
@given(NAMES)
def test_a_result_of_any_name_is_found_again(name: str) -> None:
    """Also one that is not UTF-8, or that has quotes and line breaks."""
    with tempfile.TemporaryDirectory() as folder:
        Record(Path(folder)).add(replace(ROW, input=plain(name), output=plain(name)))
        assert Record(Path(folder)).knows(name)
        assert not Record(Path(folder)).knows(f"{name}.")
        assert len((Path(folder) / NAME).read_text().splitlines()) == 2


@pytest.mark.parametrize("text", ["", "name,age\n1,2\n", "\0\xff\n", '"open\n', "a"])
def test_another_file_of_that_name_is_refused_and_kept(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"translate\.csv: .*; move it away, or name another"):
        Record(tmp_path)
    assert (tmp_path / NAME).read_bytes() == text.encode("latin-1")


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with (
        alone(tmp_path / "out"),
        pytest.raises(ValueError, match="another translate writes there"),
        alone(tmp_path / "out"),
    ):
        raise AssertionError
    with alone(tmp_path / "out"):
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
    assert not visible([LOCK])  # no input of another call


def on_nfs(descriptor: int, operation: int) -> None:
    """Linux's NFS client: exclusive locks of what is open to write, as of a byte range."""
    fcntl.lockf(descriptor, operation)  # EBADF without write access, as on NFS


def test_a_folder_on_nfs_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a lock of a folder fails with EBADF."""
    monkeypatch.setattr("training.inference.record.fcntl.flock", on_nfs)
    with alone(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()


def test_a_file_system_without_locks_is_named_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("training.inference.record.fcntl.flock", none)
    with (
        pytest.raises(ValueError, match=r"\.translate\.lock: cannot be locked \(No locks .* local"),
        alone(tmp_path / "out"),
    ):
        raise AssertionError
