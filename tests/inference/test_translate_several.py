"""Several pictures and folders in one call of translate: one model, a folder of results."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from savedmodel import saved
from training import translate
from training.data.labels import LabelSet, LabelSpace

SPACE = LabelSpace((LabelSet("celeba", "binary", ("Black_Hair", "Male"), ()),))
Run = Callable[..., str]


def draw(path: Path, seed: int, size: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def loads() -> list[str]:
    return []


@pytest.fixture
def run(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[str],
    capsys: pytest.CaptureFixture[str],
) -> Run:  # fmt: skip
    """Translate in tmp_path/work by a saved model; gives what it printed."""
    files = saved(tmp_path / "model", "stargan", small["stargan"], SPACE)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def load(version: str) -> dict[str, Path]:
        loads.append(version)
        return files

    monkeypatch.setattr(translate, "registered_files", load)

    def call(*arguments: str) -> str:
        translate.main(["stargan@champion", *arguments])
        return capsys.readouterr().out

    return call


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def results(folder: str) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


def test_a_folder_is_edited_as_its_pictures_one_by_one(run: Run, loads: list[str]) -> None:
    names = ["a.jpg", "b/c.webp", "b/d.tif"]
    for number, name in enumerate(names):
        draw(Path("faces") / name, number)
    Path("faces/notes.txt").write_text("x")
    Path("faces/.hidden.png").write_text("x")
    text = run("faces", "edited", "Male")
    assert loads == ["stargan@champion"]
    assert "3 synthetic images written to edited; left out: 2 other files (.png 1, .txt 1)" in text
    assert results("edited") == ["a.png", "b/c.png", "b/d.png"]
    for name in names:
        run(f"faces/{name}", "one.png", "Male")
        assert np.array_equal(pixels("one.png"), pixels(f"edited/{Path(name).with_suffix('.png')}"))


def test_several_pictures_and_folders_have_results_in_one_folder(run: Run) -> None:
    draw(Path("a.png"), 1)
    draw(Path("b.bmp"), 2)
    draw(Path("one/a.png"), 3)
    draw(Path("two/a.png"), 4)
    run("a.png", "edited", "Male", "--more", "b.bmp", "one", "two", "--has", "Black_Hair")
    assert results("edited") == ["a.png", "b.png", "one/a.png", "two/a.png"]


def test_one_picture_goes_into_a_folder_that_exists(run: Run) -> None:
    draw(Path("a.jpg"), 1)
    Path("edited").mkdir()
    run("a.jpg", "edited", "Male")
    assert results("edited") == ["a.png"]


def test_each_failed_picture_is_named_and_the_others_are_written(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(Path("faces/a.png"), 1)
    draw(Path("faces/small.png"), 1, size=8)
    Path("faces/cut.png").write_bytes(draw(Path("faces/a.png"), 1).read_bytes()[:200])
    Path("faces/empty.jpg").write_bytes(b"")
    Path("faces/phone.heic").write_bytes(b"x")
    Path("faces/clip.mp4").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"^5 pictures failed; 1 synthetic images written"
    ) as error:
        run("faces", "edited", "Male", "--box", "0,0,16,16")
    head, *lines = str(error.value).split("\n")
    assert head == "5 pictures failed; 1 synthetic images written to edited"
    assert [line.split(": ")[0].strip() for line in lines] == [
        "faces/clip.mp4", "faces/phone.heic", "faces/cut.png", "faces/empty.jpg", "faces/small.png",
    ]  # fmt: skip
    assert "HEIC is not read; save it as JPEG or PNG" in lines[1]
    assert "within the picture's 8x8 px" in lines[4]
    assert results("edited") == ["a.png"]


def test_a_failed_picture_gives_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["translate", "m@champion", str(tmp_path / "no.png"), "o.png"])
    monkeypatch.delitem(sys.modules, "training.translate")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("training.translate", run_name="__main__")
    assert stopped.value.code == 2


def make_inputs() -> None:
    draw(Path("faces/a.png"), 1)
    draw(Path("faces/a.jpg"), 2)
    draw(Path("b/A.png"), 2)
    draw(Path("b/c.png"), 2)
    draw(Path("old/c.png"), 2)
    draw(Path("x/b/c.png"), 2)
    Path("nothing").mkdir()
    Path("videos").mkdir()
    for name in ("videos/clip.mp4", "clip.MOV", "phone.HEIC"):
        Path(name).write_bytes(b"x")


REFUSED: list[tuple[list[str], str]] = [
    (["faces", "new"], r"1 results would be written more than once: .*a\.jpg and .*a\.png"),
    (["faces/a.png", "new", "--more", "b/A.png"], "1 results would be written more than once"),
    (["b", "new", "--more", "x/b"], "1 results would be written more than once"),
    (["b/c.png", "old"], r"old: 1 results exist: old/c\.png; name another folder"),
    (["b", "b"], "b: inside the input folder b; name a folder outside it"),
    (["b", "b/out"], "b/out: inside the input folder b"),
    (["b", "out.png"], r"out\.png: the results of several pictures need a folder"),
    (["b", "b/c.png"], r"b/c\.png: the results of several pictures need a folder"),
    (["nothing", "new"], "nothing: no pictures that are read; name the folder"),
    (["videos", "new"], r"videos: no pictures .*1 are in other formats: videos/clip\.mp4: a video"),
    (["clip.MOV", "new.png"], r"^clip\.MOV: a video; take its pictures first, `ffmpeg -i VIDEO"),
    (["phone.HEIC", "new.png"], r"^phone\.HEIC: HEIC is not read; save it as JPEG or PNG$"),
    (["b/c.png", "new", "--more", "phone.HEIC"], r"^phone\.HEIC: HEIC is not read"),
    (
        ["b/c.png", "new", "--more", "missing.png"],
        r"^missing\.png: no such picture .* before --more",
    ),
    (["b/c.png", "new", "--more", "a.png", "Male"], r"^a\.png: no such picture"),
    (
        ["b/c.png", "new.psd"],
        r"^new\.psd: a PSD file cannot be written; use a suffix such as \.png",
    ),
    (["b/c.png", "new.mpg"], r"^new\.mpg: a MPEG file cannot be written"),
    (["b/c.png", "new.fits"], r"^new\.fits: a FITS file cannot be written"),
    (["b/c.png", "new.xbm"], r"^new\.xbm: a XBM file cannot be written"),
    (["b/c.png", "new.hdf"], r"^new\.hdf: a HDF5 file cannot be written"),
    (["b/c.png", "new.txt"], r"^new\.txt: unknown image format"),
    (["b/c.png", "new.png", "--reference", "phone.HEIC"], r"^phone\.HEIC: HEIC is not read"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_what_cannot_be_done_is_refused_before_the_model_loads(
    arguments: list[str], message: str, run: Run, loads: list[str]
) -> None:
    make_inputs()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    with pytest.raises((ValueError, OSError), match=message) as error:
        run(*arguments[:2], "Male", *arguments[2:])
    assert not loads
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_an_unsupported_option_is_said_once_and_nothing_is_written(run: Run) -> None:
    make_inputs()
    with pytest.raises(ValueError, match=r"^stargan takes no seed"):
        run("b", "new", "Male", "--seed", "1")
    assert not Path("new").exists()
