"""A download is checked, packed and versioned, or refused with the name of the fault."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from training.data import __main__ as program
from training.data import adopt as module
from training.data import archive as tree
from training.data.__main__ import push
from training.data.adopt import adopt
from training.data.pull import pull
from training.data.synthetic import faces
from training.data.versions import pin
from training.storage.dvc import tree_md5
from training.storage.meta import RawSet


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    remote = local\n"
        "['remote \"local\"']\n    url = ../runs/dvc-remote\n    verify = true\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_REMOTE_URL", raising=False)
    monkeypatch.delenv("STORE_URI", raising=False)
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few drawn faces in CelebA's layout."""
    out = tmp_path_factory.mktemp("drawn") / "celeba"
    faces.draw_celeba(out, 12, workers=1)
    return out


@pytest.fixture
def download(tmp_path: Path, drawn: Path) -> Path:
    out = tmp_path / "download"
    shutil.copytree(drawn, out)
    return out


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_pull_delivers_an_adopted_set(
    clone: Path, download: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Git tracks one small file; the kind is stored; other files are left out."""
    (download / "img_align_celeba.zip").write_text("the archive itself")
    assert adopt("faces", download, kind="celeba", subset=True) == Path("faces.dvc")
    pinned = pin("faces")
    assert pinned is not None
    assert (pinned.md5, pinned.nfiles) == tree_md5(Path("raw") / "faces")
    assert pinned.kind == "celeba"
    status = subprocess.run(["git", "status", "--short"], capture_output=True, text=True).stdout
    assert "raw" not in status
    assert "non-commercial research" in capsys.readouterr().out
    manifest = pull(datasets="faces", out=Path("runs") / "raw.json")
    assert manifest.meta.datasets == (RawSet(name="faces", kind="celeba"),)
    (download / "img_align_celeba.zip").unlink()
    packed = tree.open_raw(manifest)["faces"]
    assert {name: packed.read(name) for name in packed.names()} == files(download)


def test_a_clone_gets_what_was_pushed(clone: Path, download: Path, tmp_path: Path) -> None:
    """From the remote, without the packed files and without git."""
    adopt("faces", download, kind="celeba", subset=True)
    module.remote.dvc("push", "--quiet", "faces.dvc")
    expected = files(Path("raw") / "faces")
    shutil.rmtree("raw")
    shutil.rmtree(".git")
    manifest = pull(datasets="faces", out=Path("runs") / "raw.json")
    assert {e.name: manifest.local(e.name).read_bytes() for e in manifest.entries} == expected


def test_push_takes_an_adopted_set_to_the_remote_that_runs_read(
    clone: Path, download: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Not to the one of .dvc/config, where DVC_REMOTE_URL names another."""
    monkeypatch.setenv("DVC_REMOTE_URL", str(tmp_path / "remote"))
    adopt("faces", download, kind="celeba", subset=True)
    assert "python -m training.data push faces" in capsys.readouterr().out
    program.main(["push", "faces"])
    assert f"pushed to {tmp_path / 'remote'}" in capsys.readouterr().out
    expected = files(Path("raw") / "faces")
    shutil.rmtree("raw")
    shutil.rmtree(Path(".dvc") / "cache")
    manifest = pull(datasets="faces", out=Path("runs") / "raw.json")
    assert {e.name: manifest.local(e.name).read_bytes() for e in manifest.entries} == expected


def test_only_the_pinned_version_is_pushed(clone: Path, download: Path) -> None:
    with pytest.raises(ValueError, match=r"no faces.dvc in .*; adopt faces first"):
        push("faces")
    adopt("faces", download, kind="celeba", subset=True)
    (Path("raw") / "faces" / "more").write_text("more")
    with pytest.raises(
        ValueError, match=r"faces is not the version in faces.dvc; adopt faces again"
    ):
        push("faces")


def test_a_new_download_is_a_new_version(clone: Path, download: Path) -> None:
    adopt("faces", download, kind="celeba", subset=True)
    first = pin("faces")
    path = download / "openface.csv"
    path.write_text(path.read_text() + "\n")
    adopt("faces", download, kind="celeba", subset=True)
    assert first is not None
    assert pin("faces") != first


def test_a_partial_download_needs_subset(
    clone: Path, download: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"12 images, a complete download has 202,599.*--subset"):
        adopt("celeba", download)
    assert not Path("celeba.dvc").exists()
    assert not Path("raw").exists()
    adopt("celeba", download, subset=True)
    assert "warning: 12 images, a complete download has 202,599" in capsys.readouterr().out


def test_another_label_file_than_the_official_one_is_named(
    clone: Path, download: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the count is right."""
    monkeypatch.setitem(
        module.TERMS, "celeba", module.Terms(
            "CelebA", "", "", "", (12,), (178, 218),
            {"list_attr_celeba.txt": "0" * 32, "identity_CelebA.txt":
             module.remote.file_md5(download / "identity_CelebA.txt"),
             "list_landmarks_align_celeba.txt": "1" * 32},
        )
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"list_attr_celeba\.txt is not the official file"
    ) as error:
        adopt("celeba", download)
    assert "list_landmarks_align_celeba.txt is missing" in str(error.value)
    assert "identity_CelebA.txt" not in str(error.value)


def first_image(folder: Path) -> Path:
    return folder / "img_align_celeba" / "000001.jpg"


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pointer for an image": (
        lambda d: first_image(d).write_text("version https://git-lfs.github.com/spec/v1\n"),
        "1 files are not 178x218 px pictures (JPEG, PNG",
    ),
    "a bedroom": (
        lambda d: Image.new("RGB", (680, 512)).save(first_image(d)),
        "img_align_celeba/000001.jpg: 680x512 px",
    ),
    "a page for the labels": (
        lambda d: (d / "list_attr_celeba.txt").write_text("<html>Quota exceeded</html>"),
        "a web page file",
    ),
    "a truncated label file": (
        lambda d: (d / "list_attr_celeba.txt").write_bytes(
            (d / "list_attr_celeba.txt").read_bytes()[:-200]
        ),
        "list_attr_celeba.txt",
    ),
    "a missing image": (lambda d: first_image(d).unlink(), "1 rows without an image"),
    "no labels": (lambda d: (d / "list_attr_celeba.txt").unlink(), "no list_attr_celeba.txt"),
    "an archive": (
        lambda d: (
            shutil.rmtree(d / "img_align_celeba"),
            (d / "img_align_celeba.zip").write_text("zip"),
        ),
        "no images; unpack img_align_celeba.zip there",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_nothing_is_written(clone: Path, download: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    damage(download)
    with pytest.raises(ValueError, match=re.escape(message)):
        adopt("celeba", download, subset=True)
    assert not Path("celeba.dvc").exists()
    assert not Path("raw").exists()


def test_own_folders_are_adopted(clone: Path, tmp_path: Path) -> None:
    for kind, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        Image.new("RGB", (20, 30), colour).save(tmp_path / "pets" / kind / "1.png")
    with pytest.raises(ValueError, match="pets: pass --kind"):
        adopt("pets", tmp_path / "pets")
    adopt("pets", tmp_path / "pets", kind="folders")
    manifest = pull(datasets="pets", out=Path("runs") / "raw.json")
    assert manifest.meta.datasets == (RawSet(name="pets", kind="folders"),)
    assert tree.open_raw(manifest)["pets"].names() == ["cat/1.png", "dog/1.png"]


def test_a_failing_dvc_leaves_the_old_version(
    clone: Path, download: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: str) -> None:
        raise ValueError("dvc commit: no space")

    Path("celeba.dvc").write_text("old")
    monkeypatch.setattr(module.remote, "dvc", fail)
    with pytest.raises(ValueError, match="no space"):
        adopt("celeba", download, subset=True)
    assert Path("celeba.dvc").read_text() == "old"


def test_a_folder_without_dvc_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="not a DVC repository"):
        adopt("celeba", tmp_path)


@pytest.mark.parametrize("command", ["info", "fetch"])
@pytest.mark.parametrize("name", ["celeba", "rafd"])
def test_info_prints_source_and_licence_also_by_its_old_name_fetch(
    command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program.main([command, name])
    text = capsys.readouterr().out
    assert "where: " in text
    assert "may not be redistributed" in text
    assert f"python -m training.data adopt {name} PATH" in text


def test_info_on_an_unknown_set_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="one of celeba, rafd"):
        program.main(["info", "imagenet"])


def test_the_genuine_celeba_is_adopted_and_pulled(clone: Path, shared_data: Path) -> None:
    """1,500 official images: a few large files for DVC, the same bytes for the next step."""
    source = shared_data / "celeba"
    program.main(["adopt", "celeba", str(source), "--subset"])
    pinned = pin("celeba")
    assert pinned is not None
    assert pinned.nfiles == 1
    manifest = pull(datasets="celeba", out=Path("runs") / "raw.json")
    packed = tree.open_raw(manifest)["celeba"]
    image = "img_align_celeba/000019.jpg"
    assert len([n for n in packed.names() if n.endswith(".jpg")]) == 1500
    assert packed.read(image) == (source / image).read_bytes()
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt"):
        assert packed.read(name) == (source / name).read_bytes()


def test_other_formats_are_packed_and_what_is_left_out_is_said(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    for number in range(8):
        suffix = (".webp", ".bmp", ".tif", ".jpg")[number // 2]
        path = own / ("cat", "dog")[number % 2] / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (9 * number, 0, 0)).save(path)
    (own / "more.zip").write_bytes(b"x")
    (own / "cat" / "clip.mp4").write_bytes(b"x")
    adopt("own", own, kind="folders")
    text = capsys.readouterr().out
    assert "left out: archives (unpack them there if they hold pictures): .zip 1" in text
    assert "left out: videos" in text
    packed = tree.open_raw(pull(datasets="own", out=Path("runs") / "raw.json"))["own"]
    assert len(packed.names()) == 8
    (own / "cat" / "phone.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match="1 of 9 pictures are in formats that are not read"):
        adopt("more", own, kind="folders")
    assert not Path("more.dvc").exists()
