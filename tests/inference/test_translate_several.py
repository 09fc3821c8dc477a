"""Several pictures and folders in one call of translate: one model, a folder of results."""

import csv
import os
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
from training.core.files import sha256_file
from training.data.labels import LabelSet, LabelSpace
from training.inference.record import NAME

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
    monkeypatch.setattr(translate, "pin", lambda reference: "stargan/1")

    def call(*arguments: str) -> str:
        translate.main(["stargan@champion", *arguments])
        return capsys.readouterr().out

    return call


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def results(folder: str) -> list[str]:
    """The files below a folder but the record and what killed processes left."""
    names = (p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())
    return sorted(name for name in names if name != NAME and not name.startswith("."))


def record(folder: str) -> dict[str, dict[str, str]]:
    """The record's rows by input, as another program reads them."""
    with (Path(folder) / NAME).open(newline="") as stream:
        return {row["input"]: row for row in csv.DictReader(stream)}


def test_a_folder_is_edited_as_its_pictures_one_by_one(run: Run, loads: list[str]) -> None:
    names = ["a.jpg", "b/c.webp", "b/d.tif"]
    for number, name in enumerate(names):
        draw(Path("faces") / name, number)
    Path("faces/notes.txt").write_text("x")
    Path("faces/.hidden.png").write_text("x")
    text = run("faces", "edited", "Male")
    assert loads == ["stargan/1"]
    assert "3 synthetic images written to edited; left out: 2 other files (.png 1, .txt 1)" in text
    assert text.endswith("; edited/translate.csv lists them\n")
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
    with pytest.raises(ValueError, match=r"^5 files failed; 1 synthetic images written") as error:
        run("faces", "edited", "Male", "--box", "0,0,16,16")
    head, *lines = str(error.value).split("\n")
    assert head == (
        "5 files failed; 1 synthetic images written to edited; edited/translate.csv lists them"
    )
    assert [line.split(": ")[0].strip() for line in lines] == [
        "faces/phone.heic", "faces/clip.mp4", "faces/cut.png", "faces/empty.jpg", "faces/small.png",
    ]  # fmt: skip
    assert "HEIC is not read; save it as JPEG or PNG" in lines[0]
    assert "cannot be read or written as a video" in lines[1]
    assert "within the picture's 8x8 px" in lines[4]
    assert results("edited") == ["a.png"]
    rows = record("edited")
    assert {name: row["skipped"] for name, row in rows.items() if row["skipped"]} == {
        line.split(": ", 1)[0].strip(): line.split(": ", 1)[1] for line in lines
    }


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
    draw(Path("mine.png"), 3)
    Path("nothing").mkdir()
    Path("phones").mkdir()
    for name in ("phones/a.heic", "clip.MOV", "phone.HEIC"):
        Path(name).write_bytes(b"x")


REFUSED: list[tuple[list[str], str]] = [
    (["faces/a.png", "new", "--more", "b/A.png"], "1 results would be written more than once"),
    (["b", "new", "--more", "x/b"], "1 results would be written more than once"),
    (["b/c.png", "old"], r"old: 1 results exist: old/c\.png; name another folder"),
    (["b", "b"], "b: inside the input folder b; name a folder outside it"),
    (["b", "b/out"], "b/out: inside the input folder b"),
    (["b", "out.png"], r"out\.png: the results of several pictures need a folder"),
    (["b", "b/c.png"], r"b/c\.png: the results of several pictures need a folder"),
    (["nothing", "new"], "nothing: no pictures that are read; name the folder"),
    (
        ["phones", "new"],
        r"phones: no pictures .*1 are in other formats: phones/a\.heic: HEIC is not",
    ),
    (
        ["clip.MOV", "new.png"],
        r"^clip\.MOV: a video, and so is its result; name new\.mp4 \(or \.m4v",
    ),
    (["b/c.png", "new.mp4"], r"^new\.mp4: unknown image format; use a suffix such as \.png"),
    (["b", "new.mp4"], r"^new\.mp4: the results of several pictures need a folder"),
    (["b/*.tiff", "new"], r"^b/\*\.tiff: no picture or video among the 0 files it names"),
    (["b/c.png", "b/c.png"], r"^b/c\.png: the input itself; name another file"),
    (["b/c.png", "mine.png"], r"^mine\.png: exists and is no result of translate; name another"),
    (["b/c.png", "new.bmp"], r"^new\.bmp: a BMP file cannot hold the mark .*; use \.png, \.jpg"),
    (["b/c.png", "new.gif"], r"^new\.gif: a GIF file cannot hold the mark"),
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


def test_a_pattern_keeps_the_names_below_its_fixed_part(run: Run) -> None:
    for name in ("faces/a/front.jpg", "faces/b/front.jpg", "faces/b/side.jpg", "faces/c.jpg"):
        draw(Path(name), 1)
    run("faces/*/front*.jpg", "edited", "Male")
    assert results("edited") == ["a/front.png", "b/front.png"]
    run("faces/**/*.jpg", "all", "Male")
    assert results("all") == ["a/front.png", "b/front.png", "b/side.png", "c.png"]


def test_folders_in_a_folder_are_left_out_on_request(run: Run) -> None:
    draw(Path("faces/a.png"), 1)
    draw(Path("faces/b/c.png"), 1)
    run("faces", "edited", "Male", "--no-recursive")
    assert results("edited") == ["a.png"]


def test_results_of_one_name_keep_the_suffix_of_their_input(run: Run) -> None:
    draw(Path("faces/a.jpg"), 1)
    draw(Path("faces/a.png"), 2)
    draw(Path("faces/b.png"), 2)
    text = run("faces", "edited", "Male")
    assert "2 keep their input's suffix in their names" in text
    assert results("edited") == ["a.jpg.png", "a.png.png", "b.png"]


def test_the_record_says_what_was_done(run: Run) -> None:
    digest = sha256_file(draw(Path("faces/a.png"), 1))
    run("faces", "edited", "Male", "--has", "Black_Hair", "--box", "0,2,12,14")
    [row] = record("edited").values()
    assert (row["input"], row["sha256"]) == ("faces/a.png", digest)
    assert (row["output"], row["output_sha256"]) == ("a.png", sha256_file(Path("edited/a.png")))
    assert (row["version"], row["edit"]) == ("stargan/1", "Male; has Black_Hair")
    assert (row["box"], row["note"], row["skipped"]) == ("0,2,12,14", "", "")
    assert float(row["seconds"]) > 0


def test_the_same_command_again_makes_only_what_is_not_done(run: Run) -> None:
    """Not a new, changed, damaged or missing one's neighbours; their files are not touched."""
    for number, name in enumerate(("same", "changed", "damaged", "missing", "failed")):
        draw(Path(f"faces/{name}.png"), number)
    Path("faces/failed.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="1 files failed; 4 synthetic images written"):
        run("faces", "edited", "Male")
    before = Path("edited/same.png").stat().st_mtime_ns
    draw(Path("faces/changed.png"), 9)
    draw(Path("faces/failed.png"), 9)
    draw(Path("faces/new.png"), 9)
    whole = Path("edited/damaged.png").read_bytes()
    Path("edited/damaged.png").write_bytes(whole[:-9])
    Path("edited/missing.png").unlink()
    text = run("faces", "edited", "Male")
    assert "5 synthetic images written to edited; 1 were done before" in text
    assert Path("edited/damaged.png").read_bytes() == whole
    assert Path("edited/same.png").stat().st_mtime_ns == before
    assert "0 synthetic images written to edited; 6 were done before" in run(
        "faces", "edited", "Male"
    )
    assert not any(row["skipped"] for row in record("edited").values())


def test_another_edit_or_version_makes_all_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(Path("faces/a.png"), 1)
    for arguments in (["Male"], ["Black_Hair"], ["Male", "--box", "0,0,16,16"], ["Male"]):
        assert "1 synthetic images written" in run("faces", "edited", *arguments)
    monkeypatch.setattr(translate, "pin", lambda reference: "stargan/2")
    assert "1 synthetic images written to edited; e" in run("faces", "edited", "Male")
    assert record("edited")["faces/a.png"]["version"] == "stargan/2"


def test_files_that_are_no_results_are_never_overwritten(run: Run) -> None:
    """Not beside a record, either."""
    draw(Path("faces/a.png"), 1)
    run("faces", "edited", "Male")
    draw(Path("faces/b.png"), 1)
    mine = draw(Path("edited/b.png"), 5).read_bytes()
    with pytest.raises(ValueError, match=r"edited: 1 results exist: edited/b\.png"):
        run("faces", "edited", "Male")
    assert Path("edited/b.png").read_bytes() == mine


def test_an_input_is_never_replaced_by_its_result(run: Run) -> None:
    """Not where an earlier call has failed to make a result of that name, either."""
    Path("p").mkdir()
    Path("p/a.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="1 files failed"):
        run("p/a.jpg", "p", "Male")
    mine = draw(Path("p/a.png"), 5).read_bytes()
    with pytest.raises(ValueError, match=r"^p: 1 results would replace inputs: p/a\.png; name an"):
        run("p/a.png", "p", "Male")
    Path("links").mkdir()
    Path("links/a.png").symlink_to("../p/a.png")
    with pytest.raises(ValueError, match=r"^p: 1 results would replace inputs: p/a\.png"):
        run("links/a.png", "p", "Male")
    draw(Path("p/a.jpg"), 6)
    with pytest.raises(ValueError, match=r"^p: 1 results exist: p/a\.png"):
        run("p/a.jpg", "p", "Male")
    assert Path("p/a.png").read_bytes() == mine


def test_a_pattern_that_names_results_is_refused(run: Run) -> None:
    draw(Path("faces/a.png"), 1)
    run("**/*.png", "out", "Male")
    made = Path("out/faces/a.png").read_bytes()
    for pattern in ("out/faces/*.png", "**/*.png"):
        with pytest.raises(ValueError, match=r"^out: .* names 1 files in it, such as out/faces/a"):
            run(pattern, "out", "Black_Hair")
    assert results("out") == ["faces/a.png"]
    assert Path("out/faces/a.png").read_bytes() == made


def test_a_result_stays_known_when_its_input_cannot_be_read_for_a_while(run: Run) -> None:
    whole = draw(Path("faces/a.png"), 1).read_bytes()
    run("faces", "edited", "Male")
    Path("faces/a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="1 files failed"):
        run("faces", "edited", "Male")
    Path("faces/a.png").write_bytes(whole)
    assert "1 synthetic images written" in run("faces", "edited", "Male")


def test_a_killed_call_is_finished_by_the_next(run: Run) -> None:
    """At every write: the record is readable, each result is whole and has its row."""
    for number in range(3):
        draw(Path(f"faces/{number}.png"), number)
    run("faces", "whole", "Male")
    expected = {name: Path("whole", name).read_bytes() for name in results("whole")}
    for stop in range(1, 14):
        if (child := os.fork()) == 0:
            calls = iter(range(1, 100))
            write = os.fsync
            os.fsync = lambda file: os._exit(9) if next(calls) == stop else write(file)  # noqa: B023
            run("faces", f"edited{stop}", "Male")
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended == (9 if stop <= 12 else 0)
        made = results(f"edited{stop}")
        if made:
            assert {row["output"] for row in record(f"edited{stop}").values()} >= set(made)
        text = run("faces", f"edited{stop}", "Male")
        assert f"; {len(made)} were done before" in text or not made
        assert {n: Path(f"edited{stop}", n).read_bytes() for n in results(f"edited{stop}")} == (
            expected
        )
