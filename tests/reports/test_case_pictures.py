"""Pictures and folders as people reported them (cases 02, 03, 12, 13, 22, 23 and 25)."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from savedmodel import saved
from training import translate
from training.core.config import DataConfig, to_json
from training.data.labels import LabelSet, LabelSpace
from training.data.preprocess import preprocess
from training.data.pull import pull
from training.data.validate import ValidationError, validate
from training.rendering import fonts
from training.storage.store import open_store

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
# Great Expectations imports modules that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")
SPACE = LabelSpace((LabelSet("faces", "binary", ("Black_Hair", "Male"), ()),))
CONFIG = to_json(DataConfig(size=32))
Draw = Callable[[str], Path]


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Draw:
    """Draw the input of a case, by the start of its name; one drawing for all tests."""
    folders: dict[str, Path] = {}

    def make(number: str) -> Path:
        found = sorted(CASES.glob(f"{number}-*/make.py"))
        if not found:
            pytest.skip("no genuine reports beside this checkout")
        if number not in folders:
            folders[number] = tmp_path_factory.mktemp(f"case{number}") / "f"
            subprocess.run([sys.executable, str(found[0]), str(folders[number])], check=True)
        return folders[number]

    return make


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Counter[Any]]:
    """pull, validate and preprocess; (class, split) -> pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORE_URI", f"file://{tmp_path}/store")

    def run(raw: Path) -> Counter[Any]:
        pull(datasets="s:folders", raw=str(raw), out=Path("raw.json"))
        validate(Path("raw.json"), data_config=CONFIG, report=Path("report.html"), workers=1)
        images = preprocess(
            raw=Path("raw.json"), data_config=CONFIG, out=Path("images.json"), workers=1
        )
        frame = pd.read_parquet(images.local("s.parquet", open_store()))
        assert (frame["reason"] == "").all()
        return Counter(zip(frame["class"], frame["split"], strict=True))

    return run


def by_class(found: Counter[Any]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for (name, _), number in found.items():
        total[name] += number
    return dict(total)


def test_webp_and_bmp_are_read_in_every_class(draw: Draw, steps: Callable) -> None:
    """Case 12: 60 WebP pictures were left out in silence, or a whole class of them."""
    root = draw("12")
    assert by_class(steps(root / "part")) == {"happy": 54, "sad": 54}
    assert by_class(steps(root / "one-class-webp")) == {"happy": 24, "sad": 24, "angry": 24}
    assert by_class(steps(root / "all-webp")) == by_class(steps(root / "bmp")) == {
        "happy": 24, "sad": 24,
    }  # fmt: skip


def test_heic_beside_jpeg_is_counted_on_the_console_and_the_page(
    draw: Draw, steps: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "heic"
    shutil.copytree(draw("12") / "part", root)
    for number in range(5):
        (root / "happy" / f"IMG_{number}.HEIC").write_bytes(b"x")
    (root / "sad" / "clip.mp4").write_bytes(b"x")
    (root / "more.zip").write_bytes(b"x")
    with pytest.raises(ValidationError, match=r"picture_read: .*: 5 of 113: .*IMG_0\.HEIC"):
        steps(root)
    console, page = capsys.readouterr().out, Path("report.html").read_text()
    for text in (".heic 5, such as", ".mp4 1, such as", ".zip 1, such as"):
        assert text in console
        assert text in page


def test_one_level_too_deep_names_the_folder_to_give(draw: Draw, steps: Callable) -> None:
    """Case 03."""
    with pytest.raises(ValidationError, match=r"happy, sad are .* raw=PATH/mydata"):
        steps(draw("03") / "outer")
    assert by_class(steps(draw("03") / "outer" / "mydata")) == {"happy": 24, "sad": 24}
    with pytest.raises(
        ValidationError, match=r"class_folder: .*24 of 24.*or give the folder above"
    ):
        steps(draw("03") / "flat")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dirs", r"2 of its entries cannot be used: happy is a link to a folder; sad is a link"),
        ("files", r"48 of its entries cannot be used: happy/0000\.jpg points outside the folder"),
    ],
)
def test_links_out_of_the_folder_are_counted(
    kind: str, message: str, draw: Draw, steps: Callable
) -> None:
    """Case 13."""
    with pytest.raises(ValueError, match=message):
        steps(draw("13") / kind)


def test_a_linked_root_is_read(draw: Draw, steps: Callable) -> None:
    assert by_class(steps(draw("13") / "root")) == {"happy": 24, "sad": 24}


def test_the_layout_of_cyclegan_is_two_domains(
    draw: Draw, steps: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 22: four classes before, the test pictures trained on."""
    found = steps(draw("22"))
    assert by_class(found) == {"A": 38, "B": 38}
    assert (found["A", "test"], found["B", "test"]) == (8, 8)
    assert found["A", "train"] + found["A", "val"] == 30
    assert "testA: class A, part test" in capsys.readouterr().out
    assert "testA: class A, part test" in Path("report.html").read_text()


@pytest.mark.parametrize("kind", ["capital", "ing"])
def test_parts_are_never_classes(kind: str, draw: Draw, steps: Callable) -> None:
    """Case 23: `Train` and `Test`, or `training` and `testing`, became the classes."""
    found = steps(draw("23") / kind)
    assert by_class(found) == {"happy": 26, "sad": 26}
    assert (found["happy", "test"], found["sad", "test"]) == (6, 6)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("samples-beside", r"beside them are samples/ \(3 pictures\); move these out"),
        ("uneven-parts", r"1 classes are not in the train part: angry \(6 pictures"),
    ],
)
def test_strays_beside_parts_are_refused(
    kind: str, message: str, draw: Draw, steps: Callable
) -> None:
    with pytest.raises(ValidationError, match=message):
        steps(draw("23") / kind)
    assert "folder_layout" in Path("report.html").read_text()


def test_titles_in_another_script_are_readable_on_the_page(
    draw: Draw, steps: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 02: they were boxes. Without a font they are numbers, and the page has the names."""
    raw = draw("02").with_name("fcjk")
    classes = {"开心", "悲伤", "愤怒"}
    assert set(by_class(steps(raw))) == classes
    monkeypatch.setattr(fonts, "_installed", lambda letters: "")
    steps(raw)
    captions = re.findall(r"\[(\d)\] (\w+)", Path("report.html").read_text())
    assert {name for _, name in captions} == classes


@pytest.fixture
def edit(small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Translate a picture by an untrained model; gives the result's pixels."""
    files = saved(tmp_path / "model", "stargan", small["stargan"], SPACE)
    monkeypatch.setattr(translate, "registered_files", lambda version: files)
    monkeypatch.setattr(translate, "pin", lambda reference: "stargan/1")

    def run(path: Path) -> np.ndarray:
        out = tmp_path / "out.png"
        translate.main(["stargan@champion", str(path), str(out), "Male"])
        with Image.open(out) as picture:
            return np.asarray(picture)

    return run


def test_pictures_of_16_bits_are_edited_as_those_of_8(draw: Draw, edit: Callable) -> None:
    """Case 25: 16-bit grey was taken for white."""
    folder = draw("25")
    expected = edit(folder / "grey8.png")
    for name in ("grey16.png", "grey16.tif"):
        assert np.array_equal(edit(folder / name), expected), name
    white = folder / "white.png"
    Image.new("RGB", (256, 256), "white").save(white)
    assert not np.array_equal(edit(white), expected)


def test_other_kinds_are_edited_as_plain_pictures(draw: Draw, edit: Callable) -> None:
    folder = draw("25")
    with Image.open(folder / "cutout.png") as cutout:
        background = Image.new("RGBA", cutout.size, "white")
        Image.alpha_composite(background, cutout).convert("RGB").save(folder / "on-white.png")
    assert np.array_equal(edit(folder / "cutout.png"), edit(folder / "on-white.png"))
    for name in ("anim.gif", "palette.gif", "cmyk.jpg"):
        with Image.open(folder / name) as picture:
            picture.convert("RGB").save(folder / "same.png")
        assert np.array_equal(edit(folder / name), edit(folder / "same.png")), name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("huge.jpg", "too large: the limit is 40,000,000 pixels; scale it down"),
        ("large.jpg", "too large: the limit is 40,000,000 pixels; scale it down"),
        ("cut.png", "does not decode: image file is truncated; fetch it again"),
        ("empty.jpg", "an empty file; fetch it again"),
        ("phone.heic", "HEIC is not read; save it as JPEG or PNG"),
        ("video.mp4", "a video, and so is its result; name "),
        ("float.tif", "mode F: 8 or 16 bits a channel are needed; save it as JPEG or PNG"),
    ],
)
def test_an_unusable_picture_is_named_in_one_line(
    name: str, reason: str, draw: Draw, edit: Callable
) -> None:
    with pytest.raises(ValueError, match=name) as error:
        edit(draw("25") / name)
    assert f"{name}: {reason}" in str(error.value)
    assert "\n" not in str(error.value)
    assert os.path.basename(str(error.value).split(": ")[0]) == name  # noqa: PTH119


def test_a_folder_is_edited_whole(draw: Draw, edit: Callable, tmp_path: Path) -> None:
    out = tmp_path / "edited"
    translate.main(["stargan@champion", str(draw("25") / "folder"), str(out), "Male"])
    with Image.open(out / "a.png") as picture:
        assert np.array_equal(np.asarray(picture), edit(draw("25") / "folder" / "a.png"))
