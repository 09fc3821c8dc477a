"""Raw data is read by safe relative names from folders and deterministic tar shards."""

import io
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.core.files import sha256_file
from training.data.archive import Folder, StoredTars, Tars, check_name, open_raw, pack
from training.storage.meta import RawMeta, RawSet
from training.storage.store import Entry, FolderStore, Manifest, StoreError, open_store

FILES = {
    "labels.csv": b"file,a\n",
    "img/b.jpg": b"b" * 1000,
    "img/a.jpg": b"a" * 513,
    "ünïcode/x y.png": b"",
    f"{'long' * 40}/{'n' * 120}.jpg": b"l",
}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    for name, data in FILES.items():
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Folder(tmp_path / "raw")


def test_a_folder_lists_sorted_relative_names(folder: Folder) -> None:
    assert folder.names() == sorted(FILES)
    assert {name: folder.read(name) for name in folder.names()} == FILES
    assert {name: folder.size(name) for name in FILES} == {k: len(v) for k, v in FILES.items()}


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "img/../../secret", "..\\secret", "", "a\0b", "."]
)
def test_no_name_leaves_the_root(folder: Folder, name: str) -> None:
    (folder.root.parent / "secret").write_text("s")
    with pytest.raises(ValueError, match=r"stays inside|points outside"):
        folder.read(name)


def test_a_name_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        check_name("\udcff.jpg")


def test_links_that_leave_the_root_are_refused(folder: Folder) -> None:
    outside = folder.root.parent / "secret"
    outside.write_text("s")
    (folder.root / "link.jpg").symlink_to(outside)
    with pytest.raises(ValueError, match=r"link\.jpg points outside the folder"):
        Folder(folder.root).names()
    with pytest.raises(ValueError, match=r"link\.jpg points outside the folder"):
        Folder(folder.root).read("link.jpg")


@pytest.mark.parametrize("target", ["img", "nowhere"])
def test_links_to_folders_and_to_nothing_are_refused(folder: Folder, target: str) -> None:
    (folder.root / "link").symlink_to(target)
    with pytest.raises(
        ValueError, match=r"1 of its entries .*: link is a link to (a folder|nothing)"
    ):
        Folder(folder.root).names()


def test_a_link_inside_the_root_is_a_file(folder: Folder) -> None:
    (folder.root / "link.jpg").symlink_to("img/a.jpg")
    assert Folder(folder.root).size("link.jpg") == 513


def test_tars_hold_the_files_of_the_folder(folder: Folder, tmp_path: Path) -> None:
    paths = pack(folder, tmp_path / "out", "own", shard_bytes=2048)
    tars = Tars(paths)
    assert [p.name for p in paths] == [f"own-{i:05d}.tar" for i in range(len(paths))]
    assert len(paths) > 1
    assert tars.names() == folder.names()
    assert {name: tars.read(name) for name in tars.names()} == FILES
    assert {name: tars.size(name) for name in FILES} == {k: len(v) for k, v in FILES.items()}
    with pytest.raises(ValueError, match=r"no file other\.jpg"):
        tars.read("other.jpg")


def test_shards_depend_only_on_names_and_bytes(folder: Folder, tmp_path: Path) -> None:
    first = [sha256_file(p) for p in pack(folder, tmp_path / "one", "own", 2048)]
    (folder.root / "img" / "a.jpg").chmod(0o600)
    (folder.root / "img" / "a.jpg").touch()
    again = pack(Tars(pack(folder, tmp_path / "two", "x")), tmp_path / "three", "own", 2048)
    assert [sha256_file(p) for p in again] == first
    with tarfile.open(again[0]) as tar:
        member = tar.next()
    assert member is not None
    assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)


def test_packing_again_leaves_only_its_own_shards(folder: Folder, tmp_path: Path) -> None:
    pack(folder, tmp_path / "out", "own", shard_bytes=1024)
    paths = pack(folder, tmp_path / "out", "own")
    assert sorted((tmp_path / "out").iterdir()) == paths


def test_a_failed_pack_leaves_the_earlier_shards(folder: Folder, tmp_path: Path) -> None:
    paths = pack(folder, tmp_path / "out", "own")
    before = sha256_file(paths[0])
    broken = Folder(folder.root)
    broken.names()
    (folder.root / "labels.csv").unlink()
    with pytest.raises(ValueError, match=r"no file labels\.csv"):
        pack(broken, tmp_path / "out", "own")
    assert sorted((tmp_path / "out").iterdir()) == paths
    assert sha256_file(paths[0]) == before


def test_tars_work_in_threads(folder: Folder, tmp_path: Path) -> None:
    tars = Tars(pack(folder, tmp_path / "out", "own"))
    wrong: list[str] = []

    def work() -> None:
        wrong.extend(n for _ in range(50) for n in FILES if tars.read(n) != FILES[n])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_tar_with_an_unsafe_member_is_refused(tmp_path: Path) -> None:
    def archive(name: str, kind: bytes) -> Path:
        with tarfile.open(tmp_path / "x-00000.tar", "w") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        return tmp_path / "x-00000.tar"

    with pytest.raises(ValueError, match="stays inside"):
        Tars([archive("../evil", tarfile.REGTYPE)])
    with pytest.raises(ValueError, match="not a plain file"):
        Tars([archive("link", tarfile.SYMTYPE)])
    path = archive("fine", tarfile.REGTYPE)
    with pytest.raises(ValueError, match="stored twice"):
        Tars([path, path])


def test_a_truncated_tar_is_detected(folder: Folder, tmp_path: Path) -> None:
    (path,) = pack(folder, tmp_path / "out", "own")
    tars = Tars([path])
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match="truncated inside"):
        tars.read("img/a.jpg")
    path.write_text("<html>")
    with pytest.raises(ValueError, match="not an uncompressed tar"):
        Tars([path])


def test_a_raw_manifest_opens_by_data_set(folder: Folder, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path / 'store'}")
    shards = pack(folder, tmp_path / "out", "own", 1024) + pack(folder, tmp_path / "out", "own-2")
    datasets = [RawSet(name=name, kind="csv") for name in ("own", "own-2")]
    meta = RawMeta(datasets=tuple(datasets), md5="", nfiles=0, source="folder", note="")
    files = {path.name: path for path in shards}
    manifest = Manifest.build("raw", files, meta, store=store)
    trees = open_raw(manifest, store)
    assert list(trees) == ["own", "own-2"]
    assert trees["own"].read("img/a.jpg") == trees["own-2"].read("img/a.jpg")
    rafd = replace(meta, datasets=(RawSet(name="rafd", kind="rafd"),))
    other = Manifest("raw", manifest.entries, rafd)
    with pytest.raises(ValueError, match="no shard of data set 'rafd'"):
        open_raw(other, store)


def test_a_stored_tar_is_fetched_when_it_is_first_read(folder: Folder, tmp_path: Path) -> None:
    """Once any process has indexed it; a read of one file fetches one tar."""
    store = FolderStore(tmp_path / "store")
    shards = pack(folder, tmp_path / "out", "own", 1024)
    entries = [store.put(path, path.name) for path in shards]
    assert len(entries) > 2
    names = StoredTars(entries, store).names()
    fetched: list[str] = []

    class Watched(FolderStore):
        def local(self, entry: Entry) -> Path:
            fetched.append(entry.name)
            return super().local(entry)

    tars = StoredTars(entries, Watched(store.root))
    assert tars.names() == names == folder.names()
    fetched.clear()
    for _ in range(2):
        assert tars.read(names[-1]) == folder.read(names[-1])
        assert tars.size(names[0]) == folder.size(names[0])
    assert fetched == [entries[-1].name]
    tars.fetch(names)
    assert fetched == [entries[-1].name, *(entry.name for entry in entries[:-1])]


def test_a_damaged_stored_tar_is_refused_when_it_is_fetched(folder: Folder, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    (entry,) = [store.put(path, path.name) for path in pack(folder, tmp_path / "out", "own")]
    StoredTars([entry], store)
    victim = store.path(entry.sha256)
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    tars = StoredTars([entry], store)
    for use in (lambda: tars.fetch(tars.names()), lambda: tars.read(tars.names()[0])):
        with pytest.raises(StoreError, match=r"own-00000\.tar is not the"):
            use()


def test_an_empty_tree_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(ValueError, match="no files to pack"):
        pack(Folder(tmp_path / "raw"), tmp_path / "out", "own")


def test_an_atomically_written_folder_has_the_usual_permissions(tmp_path: Path) -> None:
    """For example, a container's user must be able to read data that another user drew."""
    from training.core.temporary import whole_folder

    (tmp_path / "usual").mkdir()
    with whole_folder(tmp_path / "new"):
        pass
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def archive_of(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name in ("a/1.jpg", f"{'b' * 90}/{'c' * 90}.jpg", "名/2.png"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(b"z" * 700))
    return buffer.getvalue()


ARCHIVES = [archive_of(f) for f in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]
BYTES = st.sampled_from([*b"\0 0145xKLVSg/.\\\x80\xff"])


@settings(deadline=None, max_examples=500)
@given(
    st.sampled_from(ARCHIVES),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 511), BYTES), max_size=4),
    st.integers(0, 9000),
)
def test_damaged_members_are_read_whole_or_refused_with_the_tar(
    tmp_path_factory: pytest.TempPathFactory,
    source: bytes,
    changes: list[tuple[int, int, int]],
    cut: int,
) -> None:
    """Headers changed at any byte, with a right checksum: no other error, no unsafe name."""
    data = bytearray(source)
    for block, offset, value in changes:
        start = block * 512
        if start + 512 <= len(data):
            data[start + offset] = value
            head = data[start : start + 512]
            head[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(head)
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    path.write_bytes(data[: len(data) - cut] if cut < 3000 else data)
    try:
        tars = Tars([path])
    except ValueError as error:
        assert "damaged.tar" in str(error)  # noqa: PT017
        return
    for name in tars.names():
        assert len(tars.read(name)) == tars.size(name)
        assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "fault"),
    [("a\\b.jpg", "has a backslash in its name"), ("\udcff.jpg", "name that is not UTF-8")],
)
def test_names_that_cannot_be_packed_are_refused_with_the_folder(
    name: str, fault: str, folder: Folder
) -> None:
    (folder.root / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=f"{folder.root}: 1 of its entries .*{fault}"):
        Folder(folder.root).names()
